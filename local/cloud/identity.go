package cloud

import (
	"crypto"
	"crypto/rsa"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Scopes of tokens.
const (
	installationScope = "api.installation"
	licensingScope    = "api.licensing"
	pushScope         = "api.push"
	userScope         = "api"
)

var installationScopes = []string{installationScope, licensingScope, pushScope}

const (
	tokenLifetime = 24 * time.Hour
	// tokenSkew is how far the API's clock may be from the token's.
	tokenSkew = 5 * time.Minute
	// expiredFor and validIn put a token of a fault beyond the skew.
	expiredFor = 10 * time.Minute
	validIn    = 10 * time.Minute

	installationPrefix = "installation."
)

// tokens makes and checks the identity host's tokens.
type tokens struct {
	issuer string
	key    *rsa.PrivateKey
	id     string
	signer jose.Signer
}

func newTokens(issuer string, key *rsa.PrivateKey) (*tokens, error) {
	jwk := jose.JSONWebKey{Key: &key.PublicKey}
	thumbprint, err := jwk.Thumbprint(crypto.SHA1)
	if err != nil {
		return nil, fmt.Errorf("%w: name of the identity server's key: %w", fault.Invalid, err)
	}
	id := strings.ToUpper(hex.EncodeToString(thumbprint)) + "RS256"
	signing, err := signer(key, id, accessTokenType)
	if err != nil {
		return nil, fmt.Errorf("%w: key of the identity server: %w", fault.Invalid, err)
	}
	return &tokens{issuer, key, id, signing}, nil
}

const accessTokenType = "at+jwt"

// claims are those of an access token.
type claims struct {
	Issuer    string   `json:"iss"`
	NotBefore int64    `json:"nbf"`
	IssuedAt  int64    `json:"iat"`
	Expires   int64    `json:"exp"`
	Scope     []string `json:"scope"`
	ClientID  string   `json:"client_id"`
	// ClientSubject is the installation's id.
	ClientSubject string `json:"client_sub,omitempty"`
	// Subject is a user's address.
	Subject string `json:"sub,omitempty"`
	ID      string `json:"jti"`
}

func (t *tokens) mint(c claims) (string, error) {
	c.Issuer = t.issuer
	return jwt.Signed(t.signer).Claims(c).Serialize()
}

// check gives the claims of a token that the API accepts at that time.
func (t *tokens) check(raw string, now time.Time) (claims, bool) {
	token, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return claims{}, false
	}
	var c claims
	if err := token.Claims(&t.key.PublicKey, &c); err != nil {
		return claims{}, false
	}
	typ, _ := token.Headers[0].ExtraHeaders[jose.HeaderType].(string)
	valid := typ == accessTokenType && c.Issuer == t.issuer &&
		!now.Add(tokenSkew).Before(time.Unix(c.NotBefore, 0)) && !now.Add(-tokenSkew).After(time.Unix(c.Expires, 0))
	return c, valid
}

// newClaims are those of a token that is issued now.
func (c *Cloud) newClaims() claims {
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return claims{
		NotBefore: now.Unix(), IssuedAt: now.Unix(), Expires: now.Add(tokenLifetime).Unix(),
		ID: strings.ToUpper(strings.ReplaceAll(c.newID(), "-", "")),
	}
}

// UserToken gives a token as of the web vault for a user, by e-mail address, for
// the routes that people call. NotFound where there is no such user.
func (c *Cloud) UserToken(email string) (string, error) {
	c.mu.Lock()
	_, known := c.data.users[strings.ToLower(email)]
	c.mu.Unlock()
	if !known {
		return "", fmt.Errorf("%w: no such user", fault.NotFound)
	}
	issued := c.newClaims()
	issued.Subject, issued.ClientID, issued.Scope = strings.ToLower(email), "web", []string{userScope}
	return c.tokens.mint(issued)
}

func (j *job) discovery() answer {
	base := baseURL(j.http)
	return jsonAnswer(http.StatusOK, map[string]any{
		"issuer":                                j.cloud.tokens.issuer,
		"jwks_uri":                              base + "/.well-known/openid-configuration/jwks",
		"token_endpoint":                        base + "/connect/token",
		"scopes_supported":                      append([]string{userScope}, installationScopes...),
		"grant_types_supported":                 []string{"client_credentials"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_post"},
		"response_types_supported":              []string{"token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
	})
}

func baseURL(r *http.Request) string {
	if r.TLS != nil || r.URL.Scheme == "https" {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

func (j *job) keySet() answer {
	t := j.cloud.tokens
	jwk := jose.JSONWebKey{Key: &t.key.PublicKey, KeyID: t.id, Use: "sig", Algorithm: "RS256"}
	return jsonAnswer(http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{jwk}})
}

// cachedInstallation is what the token endpoint may go on with.
type cachedInstallation struct {
	Installation
	until time.Time
}

// token is the token endpoint (§1).
func (j *job) token() answer {
	c := j.cloud
	form := j.form
	if form == nil {
		return oauthError("invalid_request")
	}
	installation, ok := c.authenticate(form)
	j.noteCredentials(form, ok)
	if !ok {
		return oauthError("invalid_client")
	}
	switch form.Get("grant_type") {
	case "client_credentials":
	case "authorization_code", "password", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code":
		return oauthError("unauthorized_client")
	default:
		return oauthError("unsupported_grant_type")
	}
	scopes := strings.Fields(form.Get("scope"))
	if len(scopes) == 0 {
		scopes = installationScopes
	}
	for _, scope := range scopes {
		if !slices.Contains(installationScopes, scope) {
			return oauthError("invalid_scope")
		}
	}
	issued := c.newClaims()
	issued.Scope, issued.ClientID, issued.ClientSubject = scopes, form.Get("client_id"), installation
	j.applyToToken(&issued)
	raw, err := c.tokens.mint(issued)
	if err != nil {
		return serverError()
	}
	c.stampActivity(installation)
	j.note(func(r *Request) { r.TokenID = issued.ID })
	a := jsonAnswer(http.StatusOK, struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
		TokenType   string `json:"token_type"`
		Scope       string `json:"scope"`
	}{raw, int(tokenLifetime / time.Second), "Bearer", strings.Join(scopes, " ")})
	a.header.Set("Cache-Control", "no-store, no-cache, max-age=0")
	return a
}

// applyToToken makes the token that a fault wants.
func (j *job) applyToToken(issued *claims) {
	if j.fault == nil {
		return
	}
	switch j.fault.Action {
	case TokenExpired:
		expires := j.cloud.Now().Add(-orElse(j.fault.For(), expiredFor))
		issued.Expires = expires.Unix()
		issued.NotBefore = expires.Add(-tokenLifetime).Unix()
		issued.IssuedAt = issued.NotBefore
	case NotYetValid:
		issued.NotBefore = j.cloud.Now().Add(orElse(j.fault.For(), validIn)).Unix()
	}
}

func orElse(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// authenticate gives the id of the enabled installation whose credentials the
// form has.
func (c *Cloud) authenticate(form url.Values) (string, bool) {
	text, ok := strings.CutPrefix(form.Get("client_id"), installationPrefix)
	if !ok {
		return "", false
	}
	id, ok := parseGUID(text)
	if !ok {
		return "", false
	}
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	found, ok := c.cached[id]
	if !ok || !now.Before(found.until) {
		stored := c.data.installations[id]
		if stored == nil {
			return "", false
		}
		found = cachedInstallation{*stored, now.Add(c.caching)}
		c.cached[id] = found
	}
	return id, !found.Disabled && found.Key == form.Get("client_secret")
}

func (c *Cloud) stampActivity(installation string) {
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := c.data.installations[installation]; i != nil {
		i.LastActivity = &now
	}
}

func oauthError(code string) answer {
	return jsonAnswer(http.StatusBadRequest, map[string]string{"error": code})
}
