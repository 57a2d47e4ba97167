package smclient

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/apiclient"
	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// renewBefore the end of a session it is renewed.
const renewBefore = 300 * time.Second

const (
	scope         = "api.secrets"
	doingExchange = "exchange the access token"
)

// session is what a machine's token was exchanged for.
type session struct {
	jwt     string
	renewAt time.Time
}

// authorization gives the bearer token of the next request.
func (c *Client) authorization(ctx context.Context) (string, error) {
	if c.token == nil {
		return c.operator.Bearer.Reveal(), nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil && c.now().Before(c.session.renewAt) {
		return c.session.jwt, nil
	}
	answer, err := c.exchange(ctx)
	if err != nil {
		return "", err
	}
	organization, err := organizationOf(answer.AccessToken)
	if err != nil {
		return "", err
	}
	key, err := c.token.Open(answer.EncryptedPayload)
	if err != nil {
		return "", fmt.Errorf("%s: %w: the part after the colon is not the one that this access token was made with, or the server sent something else: %w", doingExchange, fault.Invalid, err)
	}
	opened := vault{organization, key}
	if c.vault != nil && *c.vault != opened {
		return "", fmt.Errorf("%s: %w: the organization or its key is another than a while ago", doingExchange, fault.Lost)
	}
	c.vault = &opened
	c.session = &session{answer.AccessToken, c.now().Add(time.Duration(answer.ExpiresIn)*time.Second - renewBefore)}
	return c.session.jwt, nil
}

// exchanged is the answer to a token; all of it is needed.
type exchanged struct {
	AccessToken      string `json:"access_token"`
	ExpiresIn        int64  `json:"expires_in"`
	TokenType        string `json:"token_type"`
	Scope            string `json:"scope"`
	EncryptedPayload string `json:"encrypted_payload"`
}

func (exchanged) required() []string {
	return []string{"access_token", "expires_in", "token_type", "scope", "encrypted_payload"}
}

func (c *Client) exchange(ctx context.Context) (exchanged, error) {
	// The members stand in the order in which the released clients send them.
	form := "scope=" + formEscape(scope) + "&client_id=" + formEscape(c.token.ID) +
		"&client_secret=" + formEscape(c.token.ClientSecret) + "&grant_type=client_credentials"
	content, err := c.server.Do(ctx, apiclient.Request{
		Doing: doingExchange, Method: http.MethodPost, Path: []string{"identity", "connect", "token"}, Again: true,
		Absent: "Is " + c.server.Server() + " the base URL of a Secrets Manager, without /api?",
		Header: map[string]string{"Accept": "application/json", "Device-Type": deviceType},
		Form:   &apiclient.Form{Type: "application/x-www-form-urlencoded; charset=utf-8", Content: []byte(form)},
	})
	if err != nil {
		return exchanged{}, err
	}
	answer, err := decode[exchanged](content, "")
	if err == nil && (answer.TokenType != "Bearer" || answer.AccessToken == "" || answer.ExpiresIn <= 0) {
		err = apiclient.ErrAnswer
	}
	if err == nil && encstring.Check(answer.EncryptedPayload) != nil {
		err = fmt.Errorf("%w: encrypted_payload is not an encrypted text", apiclient.ErrAnswer)
	}
	if err != nil {
		return exchanged{}, fmt.Errorf("%s: %w", doingExchange, err)
	}
	return answer, nil
}

// formEscape escapes as the URL standard does for forms. Go's own differs in
// two characters.
var formEscaper = strings.NewReplacer("~", "%7E", "%2A", "*")

func formEscape(text string) string { return formEscaper.Replace(url.QueryEscape(text)) }

// claims are those of the session's token that released clients insist on.
type claims struct {
	Organization string   `json:"organization"`
	Subject      string   `json:"sub"`
	Scope        []string `json:"scope"`
	Expires      int64    `json:"exp"`
}

func (claims) required() []string { return []string{"organization", "sub", "scope", "exp"} }

// organizationOf reads the session's token, whose signature is the server's
// business.
func organizationOf(jwt string) (string, error) {
	claims, err := readClaims[claims](jwt)
	if err != nil {
		return "", fmt.Errorf("%s: the session's token: %w", doingExchange, err)
	}
	id, err := uuid.Parse(claims.Organization)
	if err != nil || !slices.Contains(claims.Scope, scope) {
		return "", fmt.Errorf("%s: %w: the session is not one of a machine", doingExchange, apiclient.ErrAnswer)
	}
	return id.String(), nil
}

func readClaims[T object](jwt string) (T, error) {
	var none T
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return none, fmt.Errorf("%w: it is no JWT", apiclient.ErrAnswer)
	}
	content, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return none, fmt.Errorf("%w: it is no JWT", apiclient.ErrAnswer)
	}
	return decode[T](content, "")
}

// administered are the claims by which Bitwarden tells which organisations a
// person administers: an id, or several.
type administered struct {
	Owner texts `json:"orgowner"`
	Admin texts `json:"orgadmin"`
}

func (administered) required() []string { return nil }

// texts is a claim of one text or several.
type texts []string

func (t *texts) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*t = texts{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(t))
}

// Administered gives the ids of the organisations that an operator's token
// names as theirs. Whether they are, only the server can tell.
func Administered(bearer string) ([]string, error) {
	a, err := readClaims[administered](bearer)
	if err != nil {
		return nil, fmt.Errorf("%w: the operator's token is no JWT: set the organization's id", fault.Invalid)
	}
	var ids []string
	for _, text := range append(a.Owner, a.Admin...) {
		if id, err := uuid.Parse(text); err == nil {
			ids = append(ids, id.String())
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}
