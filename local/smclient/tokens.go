package smclient

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/latchkey-fn/latchkey/local/apiclient"
	"github.com/latchkey-fn/latchkey/shared/accesstoken"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Token is what is known of an access token, its name decrypted.
type Token struct {
	ID       string     `json:"id"`
	Machine  string     `json:"serviceAccountId"`
	Name     string     `json:"name"`
	Created  time.Time  `json:"creationDate"`
	By       string     `json:"createdBy,omitempty"`
	Expires  *time.Time `json:"expireAt"` // nil: never
	ReadOnly bool       `json:"readOnly"`
	Projects []string   `json:"projectIds"` // none: all that its machine reaches
	Revoked  *time.Time `json:"revokedDate"`
	Revoker  string     `json:"revokedBy,omitempty"`
	LastUsed *time.Time `json:"lastUsedDate"`
	Address  string     `json:"lastUsedAddress,omitempty"`
}

type tokenObject struct {
	ID       string     `json:"id"`
	Name     string     `json:"name"`
	Created  time.Time  `json:"creationDate"`
	By       *string    `json:"createdBy"`
	Expires  *time.Time `json:"expireAt"`
	ReadOnly bool       `json:"readOnly"`
	Projects []string   `json:"projectIds"`
	Revoked  *time.Time `json:"revokedDate"`
	Revoker  *string    `json:"revokedBy"`
	LastUsed *time.Time `json:"lastUsedDate"`
	Address  *string    `json:"lastUsedAddress"`
}

func (tokenObject) required() []string { return []string{"id", "name", "creationDate", "revisionDate"} }

func (o tokenObject) identifier() string { return o.ID }

func (o tokenObject) open(v vault) (t Token, err error) {
	t = o.unnamed()
	t.Name, err = v.key.Decrypt(o.Name)
	return t, err
}

func (o tokenObject) unnamed() Token {
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return apiclient.Printable(*s)
	}
	t := Token{
		ID: o.ID, Created: o.Created, By: text(o.By), Expires: o.Expires, ReadOnly: o.ReadOnly, Projects: o.Projects,
		Revoked: o.Revoked, Revoker: text(o.Revoker), LastUsed: o.LastUsed, Address: text(o.Address),
	}
	if t.Projects == nil {
		t.Projects = []string{}
	}
	return t
}

func (c *Client) tokens(ctx context.Context, machine string, revokedToo bool) ([]tokenObject, error) {
	r := apiclient.Request{
		Doing: "list the access tokens of machine account " + machine,
		Path:  []string{"service-accounts", machine, "access-tokens"},
	}
	if revokedToo {
		r.Query = map[string][]string{"includeRevoked": {"true"}}
	}
	return getList[tokenObject](ctx, c, r)
}

// Tokens lists the access tokens of a machine account, without the revoked ones
// unless they are asked for. Those that cannot be decrypted are left out, and
// are what the error is about.
func (c *Client) Tokens(ctx context.Context, machine string, revokedToo bool) ([]Token, error) {
	v, err := c.unlock(ctx)
	if err != nil {
		return nil, err
	}
	objects, err := c.tokens(ctx, machine, revokedToo)
	if err != nil {
		return nil, err
	}
	tokens, err := openAll("access token", objects, v)
	for i := range tokens {
		tokens[i].Machine = machine
	}
	return tokens, err
}

// UnnamedTokens lists the access tokens of a machine account, the revoked ones
// too, without their names, for which no key is needed.
func (c *Client) UnnamedTokens(ctx context.Context, machine string) ([]Token, error) {
	objects, err := c.tokens(ctx, machine, true)
	tokens := make([]Token, len(objects))
	for i, o := range objects {
		tokens[i] = o.unnamed()
		tokens[i].Machine = machine
	}
	return tokens, err
}

// NewToken is what an access token is to be.
type NewToken struct {
	Machine  string
	Name     string
	Expires  time.Time // zero: never
	ReadOnly bool
	Projects []string // none: all that its machine reaches
}

type newTokenBody struct {
	Name             string     `json:"name"`
	EncryptedPayload string     `json:"encryptedPayload"`
	Key              string     `json:"key"`
	ExpireAt         *time.Time `json:"expireAt"`
	ReadOnly         bool       `json:"readOnly,omitempty"`
	ProjectIDs       []string   `json:"projectIds,omitempty"`
}

// createdToken is the answer to a creation or rotation; nothing else has the
// client secret.
type createdToken struct {
	ID           string     `json:"id"`
	ClientSecret string     `json:"clientSecret"`
	ExpireAt     *time.Time `json:"expireAt"`
}

func (createdToken) required() []string { return []string{"id", "clientSecret"} }

// Created is an access token that was just made or rotated.
type Created struct {
	Token   accesstoken.Token
	Expires *time.Time // nil: never
}

// CreateToken makes an access token. Its 16 bytes are made here and stay here.
func (c *Client) CreateToken(ctx context.Context, n NewToken) (Created, error) {
	name, err := trimmed("the access token's name", n.Name, maxTokenName)
	if err != nil {
		return Created{}, err
	}
	v, err := c.unlock(ctx)
	if err != nil {
		return Created{}, err
	}
	token := accesstoken.New("", "") // the server gives both
	payload, err := token.Seal(v.key)
	if err != nil {
		return Created{}, err
	}
	derived, err := token.Key()
	if err != nil {
		return Created{}, err
	}
	body := newTokenBody{
		Name: v.key.Encrypt(name), EncryptedPayload: payload, Key: v.key.Encrypt(derived.Reveal()),
		ReadOnly: n.ReadOnly, ProjectIDs: n.Projects,
	}
	if !n.Expires.IsZero() {
		expires := n.Expires.UTC()
		body.ExpireAt = &expires
	}
	return c.newSecret(ctx, token, apiclient.Request{
		Doing: "create an access token", Method: http.MethodPost, Path: []string{"service-accounts", n.Machine, "access-tokens"}, Body: body,
	})
}

// Rotate replaces the client secret of the machine's own access token; the old
// one stays good for the grace. It may be called again after a lost answer.
func (c *Client) Rotate(ctx context.Context, grace time.Duration) (Created, error) {
	if c.token == nil {
		return Created{}, fmt.Errorf("%w: only its holder can rotate an access token: set LATCHKEY_ACCESS_TOKEN", fault.Invalid)
	}
	created, err := c.newSecret(ctx, *c.token, apiclient.Request{
		Doing: "rotate the access token", Method: http.MethodPost, Path: []string{"access-tokens", "rotate"}, Again: true,
		Body: struct {
			ClientSecret string `json:"clientSecret"`
			GraceSeconds int64  `json:"graceSeconds"`
		}{c.token.ClientSecret, int64(grace / time.Second)},
	})
	if err == nil && created.Token.ID != c.token.ID {
		return Created{}, fmt.Errorf("rotate the access token: %w: it is of another token", apiclient.ErrAnswer)
	}
	return created, err
}

// newSecret does a call that answers with a client secret, which becomes part
// of the token.
func (c *Client) newSecret(ctx context.Context, token accesstoken.Token, r apiclient.Request) (Created, error) {
	answer, err := get[createdToken](ctx, c, r)
	if err != nil {
		return Created{}, err
	}
	token.ID, token.ClientSecret = answer.ID, answer.ClientSecret
	// Whoever gets the token has to be able to read it.
	if back, err := accesstoken.Parse(token.Reveal()); err != nil || back != token {
		return Created{}, fmt.Errorf("%s: %w: of the id and the client secret no access token can be made; revoke %s", r.Doing, apiclient.ErrAnswer, answer.ID)
	}
	return Created{Token: token, Expires: answer.ExpireAt}, nil
}

// Revoke revokes access tokens of one machine account. Ids that are not its
// tokens' are ignored by the server.
func (c *Client) Revoke(ctx context.Context, machine string, ids ...string) error {
	_, err := c.do(ctx, apiclient.Request{
		Doing: "revoke access tokens", Method: http.MethodPost, Again: true,
		Path: []string{"service-accounts", machine, "access-tokens", "revoke"}, Body: idList{ids},
	})
	return err
}
