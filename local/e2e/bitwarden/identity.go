package bitwarden

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
)

const tokenLifetime = time.Hour

// authorization is what stands behind a code of /connect/authorize until the
// client redeems it.
type authorization struct {
	user, clientID, redirectURI, challenge string
}

func (s *Server) discovery(w http.ResponseWriter, _ *http.Request) {
	identity := s.URL + "/identity"
	answer(w, object{
		"issuer":                                s.issuer,
		"jwks_uri":                              identity + "/.well-known/openid-configuration/jwks",
		"authorization_endpoint":                identity + "/connect/authorize",
		"token_endpoint":                        identity + "/connect/token",
		"id_token_signing_alg_values_supported": []string{"RS256"},
	})
}

func (s *Server) jwks(w http.ResponseWriter, _ *http.Request) { answer(w, s.keys) }

// published holds what only other servers ask for, while the identity server
// can be reached by them.
func (s *Server) published(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		hidden := s.hidden
		s.mu.Unlock()
		if hidden {
			refuse(w, http.StatusBadGateway, "the identity server is starting")
			return
		}
		h(w, r)
	}
}

// webVaultSSO does what the web vault's page /#/sso does in a browser: it sends
// the user on to the identity server. A fragment never reaches a server, so
// the browser of the tests asks for /sso.
func (s *Server) webVaultSSO(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	to := url.Values{
		"client_id":             {q.Get("clientId")},
		"redirect_uri":          {q.Get("redirectUri")},
		"response_type":         {"code"},
		"response_mode":         {"query"},
		"scope":                 {"api offline_access"},
		"state":                 {q.Get("state") + "_identifier=" + q.Get("identifier")},
		"code_challenge":        {q.Get("codeChallenge")},
		"code_challenge_method": {"S256"},
		"domain_hint":           {q.Get("identifier")},
	}
	http.Redirect(w, r, s.URL+"/identity/connect/authorize?"+to.Encode(), http.StatusFound)
}

// authorize is the end of single sign-on: the identity provider has vouched for
// the user whom SignIn named.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	back, err := url.Parse(q.Get("redirect_uri"))
	if err != nil || back.Hostname() != "localhost" {
		refuse(w, http.StatusBadRequest, "redirect_uri is not the client's")
		return
	}
	if q.Get("domain_hint") != OrgIdentifier || q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" {
		refuse(w, http.StatusBadRequest, "unknown organisation or no PKCE challenge")
		return
	}
	code := rand.Text()
	s.mu.Lock()
	s.codes[code] = authorization{
		user: s.ssoUser, clientID: q.Get("client_id"), redirectURI: q.Get("redirect_uri"), challenge: q.Get("code_challenge"),
	}
	s.mu.Unlock()
	back.RawQuery = url.Values{"code": {code}, "state": {q.Get("state")}}.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		refuseToken(w, "invalid_request")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch grant := r.PostForm.Get("grant_type"); grant {
	case "client_credentials":
		a := s.users[strings.TrimPrefix(r.PostForm.Get("client_id"), "user.")]
		if a == nil || r.PostForm.Get("client_secret") != a.APISecret || r.PostForm.Get("scope") != "api" {
			refuseToken(w, "invalid_client")
			return
		}
		s.grant(w, a, signIn{user: a.ID, clientID: a.ClientID(), method: "Application", provider: "bitwarden", scope: []string{"api"}})
	case "authorization_code":
		code := s.codes[r.PostForm.Get("code")]
		delete(s.codes, r.PostForm.Get("code"))
		sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
		a := s.users[code.user]
		if a == nil || code.challenge != base64.RawURLEncoding.EncodeToString(sum[:]) ||
			code.redirectURI != r.PostForm.Get("redirect_uri") || code.clientID != r.PostForm.Get("client_id") {
			refuseToken(w, "invalid_grant")
			return
		}
		s.grant(w, a, signIn{user: a.ID, clientID: code.clientID, method: "external", provider: "sso", scope: []string{"api", "offline_access"}})
	case "refresh_token":
		how, ok := s.refresh[r.PostForm.Get("refresh_token")]
		if !ok || how.clientID != r.PostForm.Get("client_id") {
			refuseToken(w, "invalid_grant")
			return
		}
		s.grant(w, s.users[how.user], how)
	default:
		s.unknown[fmt.Sprintf("grant type %q", grant)]++
		refuseToken(w, "unsupported_grant_type")
	}
}

// signIn is how somebody proved who he is.
type signIn struct {
	user     string // id
	clientID string
	method   string // amr
	provider string // idp
	scope    []string
}

// grant answers with a token and with what the client needs to open the vault.
func (s *Server) grant(w http.ResponseWriter, a *account, how signIn) {
	token, err := s.sign(a, how)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	body := object{
		"access_token": token, "expires_in": int(tokenLifetime.Seconds()), "token_type": "Bearer",
		"scope": strings.Join(how.scope, " "),
		"Key":   orNil(a.wrappedKey), "PrivateKey": orNil(a.wrappedRSA), "AccountKeys": a.accountKeys,
		"Kdf": 0, "KdfIterations": 600000, "KdfMemory": nil, "KdfParallelism": nil,
		"ForcePasswordReset": false, "ResetMasterPassword": false, "MasterPasswordPolicy": nil,
	}
	options := object{"Object": "userDecryptionOptions", "HasMasterPassword": false}
	if how.provider == "sso" {
		refresh := rand.Text()
		s.refresh[refresh] = how
		body["refresh_token"] = refresh
		options["KeyConnectorOption"] = object{"KeyConnectorUrl": s.keyConnectorURL}
	} else {
		body["ApiUseKeyConnector"] = true // the client's configuration knows the URL
	}
	body["UserDecryptionOptions"] = options
	answer(w, body)
}

// claims are those of Bitwarden's access tokens.
type claims struct {
	jwt.Claims
	ClientID      string   `json:"client_id"`
	Method        []string `json:"amr"`
	Provider      string   `json:"idp"`
	Scope         []string `json:"scope"`
	AuthTime      int64    `json:"auth_time"`
	Stamp         string   `json:"sstamp"`
	Email         string   `json:"email"`
	EmailVerified bool     `json:"email_verified"`
	Name          string   `json:"name"`
	Premium       bool     `json:"premium"`
	OrgUser       []string `json:"orguser"`
	Device        string   `json:"device"`
}

func (s *Server) sign(a *account, how signIn) (string, error) {
	now := time.Now()
	return jwt.Signed(s.signer).Claims(claims{
		Claims: jwt.Claims{
			Issuer: s.issuer, Subject: a.ID, ID: rand.Text(),
			NotBefore: jwt.NewNumericDate(now), IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(tokenLifetime)),
		},
		ClientID: how.clientID, Method: []string{how.method}, Provider: how.provider, Scope: how.scope, AuthTime: now.Unix(),
		Stamp: a.stamp, Email: a.Email, EmailVerified: true, Name: a.Email, OrgUser: []string{orgID}, Device: uuid.NewString(),
	}).Serialize()
}

// AccessToken signs u in by his personal API key.
func (s *Server) AccessToken(u User) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sign(s.users[u.ID], signIn{user: u.ID, clientID: u.ClientID(), method: "Application", provider: "bitwarden", scope: []string{"api"}})
}

// as finds the account a bearer token speaks for; h runs under the lock.
func (s *Server) as(h func(http.ResponseWriter, *http.Request, *account)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		raw, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		token, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.RS256})
		if err != nil {
			refuse(w, http.StatusUnauthorized, "no access token")
			return
		}
		var c jwt.Claims
		if err := token.Claims(s.keys, &c); err != nil || c.Validate(jwt.Expected{Issuer: s.issuer, Time: time.Now()}) != nil {
			refuse(w, http.StatusUnauthorized, "not a valid access token")
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		a := s.users[c.Subject]
		if a == nil {
			refuse(w, http.StatusUnauthorized, "no such user")
			return
		}
		h(w, r, a)
	}
}

func refuseToken(w http.ResponseWriter, code string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(http.StatusBadRequest)
	answer(w, object{"error": code, "ErrorModel": object{"Message": code, "Object": "error"}})
}

// orNil is the JSON of a value that may not be there yet.
func orNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}
