// Package devidentity is an identity server for development, tests and
// benchmarks. It gives anybody a token for any user, so it must never be what
// a real server trusts: whoever reaches it can read every key. It listens
// nowhere by itself, and its subjects exist nowhere else.
//
// Its tokens have the shape of Bitwarden's or Vaultwarden's, and Mint makes
// wrong ones too.
package devidentity

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Config describes a development identity server.
type Config struct {
	// Issuer is the claim iss. Bitwarden's is scheme and host without the port;
	// with Vaultwarden set, "|login" is added to it. Required.
	Issuer string
	// Vaultwarden makes tokens of Vaultwarden's shape.
	Vaultwarden bool
	// URL is the base URL of the handler as its callers see it, for the
	// discovery document. Empty: made of each request's own Host.
	URL string
	// KeyFile keeps the key, so that tokens survive a restart. It is made where
	// there is none. Empty: a new key in memory.
	KeyFile string
	// Lifetime of a token that does not ask for another. Zero: an hour.
	Lifetime time.Duration
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Server is the identity server: an http.Handler with discovery, key set and
// token endpoint. It is safe for concurrent use.
type Server struct {
	config Config
	mux    *http.ServeMux
	key    atomic.Pointer[signingKey]
}

var _ http.Handler = (*Server)(nil)

type signingKey struct {
	private *rsa.PrivateKey
	id      string
}

// New makes a development identity server. Never use it in production: it
// authenticates nobody.
func New(c Config) (*Server, error) {
	if c.Issuer == "" {
		return nil, fmt.Errorf("%w: the development identity server has no issuer", fault.Invalid)
	}
	if base, err := url.Parse(c.URL); err != nil || c.URL != "" && base.Host == "" {
		return nil, fmt.Errorf("%w: %q is not the URL of a development identity server", fault.Invalid, c.URL)
	}
	c.URL = strings.TrimRight(c.URL, "/")
	if c.Vaultwarden {
		c.Issuer += "|login"
	}
	if c.Lifetime == 0 {
		c.Lifetime = time.Hour
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Server{config: c, mux: http.NewServeMux()}
	private, err := openKey(c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("key of the development identity server: %w", err)
	}
	if err := s.use(private); err != nil {
		return nil, err
	}
	s.mux.HandleFunc("GET /.well-known/openid-configuration", s.discovery)
	s.mux.HandleFunc("GET /.well-known/openid-configuration/jwks", s.keySet)
	s.mux.HandleFunc("POST /connect/token", s.token)
	return s, nil
}

// ServeHTTP answers below the base URL; a prefix has to be stripped before.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Issuer is the claim iss of the tokens.
func (s *Server) Issuer() string { return s.config.Issuer }

// PublicKey is the key that tokens are verified with now.
func (s *Server) PublicKey() *rsa.PublicKey { return &s.key.Load().private.PublicKey }

// Rotate replaces the key, in the file too. The old one is published no more.
func (s *Server) Rotate() error {
	private, err := newKey()
	if err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	if s.config.KeyFile != "" {
		if err := replaceKey(s.config.KeyFile, private); err != nil {
			return fmt.Errorf("rotate: %w", err)
		}
	}
	return s.use(private)
}

func (s *Server) use(private *rsa.PrivateKey) error {
	jwk := jose.JSONWebKey{Key: &private.PublicKey}
	thumbprint, err := jwk.Thumbprint(crypto.SHA1)
	if err != nil {
		return fmt.Errorf("name of the key: %w", err)
	}
	// Bitwarden names its key after the certificate's thumbprint.
	s.key.Store(&signingKey{private, strings.ToUpper(hex.EncodeToString(thumbprint)) + "RS256"})
	return nil
}

// Claims says whose token to mint. What is left out is as the server would
// fill it in for a member who logged in by SSO.
type Claims struct {
	// User is the claim sub. Required unless Set has another.
	User string
	// ClientID: "web" if empty.
	ClientID string
	// Methods is the claim amr: "external" if nil ("Application" for a
	// ClientID that begins with "user.").
	Methods []string
	// Scopes: "api" and "offline_access" if nil.
	Scopes []string
	// Owner, Admin, Member and Custom are ids of organisations, by role, and
	// SecretsManager of those whose Secrets Manager the user may enter. The
	// tokens of Vaultwarden have none.
	Owner, Admin, Member, Custom, SecretsManager []string
	// Groups and Audience are the claims groups and aud, which Bitwarden's
	// tokens do not have, and other providers' do.
	Groups, Audience []string
	// Lifetime: that of the server if zero; negative gives an expired token.
	Lifetime time.Duration
	// Set is laid over the claims, and Header over the header; nil removes.
	Set, Header map[string]any
	// Sign makes the signature over header and payload. Nil: Server.Sign.
	Sign func(signingInput []byte) ([]byte, error)
}

// Mint makes a token.
func (s *Server) Mint(c Claims) (string, error) {
	key := s.key.Load()
	header := map[string]any{"alg": "RS256", "kid": key.id, "typ": "at+jwt", "x5t": key.id[:27]}
	if s.config.Vaultwarden {
		header = map[string]any{"alg": "RS256", "typ": "JWT"}
	}
	input, err := signingInput(overlay(header, c.Header), overlay(s.claims(c), c.Set))
	if err != nil {
		return "", fmt.Errorf("mint: %w", err)
	}
	sign := c.Sign
	if sign == nil {
		sign = key.sign
	}
	signature, err := sign([]byte(input))
	if err != nil {
		return "", fmt.Errorf("mint: sign: %w", err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// Sign makes the RS256 signature of anything.
func (s *Server) Sign(input []byte) ([]byte, error) { return s.key.Load().sign(input) }

func (k *signingKey) sign(input []byte) ([]byte, error) {
	digest := sha256.Sum256(input)
	return rsa.SignPKCS1v15(rand.Reader, k.private, crypto.SHA256, digest[:])
}

func (s *Server) claims(c Claims) map[string]any {
	now := s.config.Now().Unix()
	lifetime := s.config.Lifetime
	if c.Lifetime != 0 {
		lifetime = c.Lifetime
	}
	if c.ClientID == "" {
		c.ClientID = "web"
	}
	personalKey := strings.HasPrefix(c.ClientID, personalKeyPrefix)
	if c.Methods == nil {
		c.Methods = []string{"external"}
		if personalKey {
			c.Methods = []string{"Application"}
		}
	}
	if c.Scopes == nil {
		c.Scopes = []string{"api", "offline_access"}
		if personalKey {
			c.Scopes = []string{"api"}
		}
	}
	claims := map[string]any{
		"iss": s.config.Issuer, "nbf": now, "exp": now + int64(lifetime/time.Second),
		"sub": c.User, "client_id": c.ClientID, "scope": c.Scopes, "amr": c.Methods,
		"email": c.User + "@example.test", "email_verified": true, "name": "Development user", "premium": false,
		"sstamp": uuid.NewString(), "device": uuid.NewString(), "devicetype": "9",
	}
	addLists(claims, map[string][]string{"groups": c.Groups, "aud": c.Audience})
	if s.config.Vaultwarden {
		return claims
	}
	maps.Copy(claims, map[string]any{
		"iat": now, "auth_time": now, "idp": "sso", "jti": strings.ToUpper(strings.ReplaceAll(uuid.NewString(), "-", "")),
	})
	if personalKey {
		claims["idp"] = "bitwarden"
	}
	addLists(claims, map[string][]string{
		"orgowner": c.Owner, "orgadmin": c.Admin, "orguser": c.Member, "orgcustom": c.Custom, "accesssecretsmanager": c.SecretsManager,
	})
	return claims
}

// addLists leaves out what is empty, and writes an array of one as Bitwarden
// does.
func addLists(claims map[string]any, lists map[string][]string) {
	for name, values := range lists {
		switch len(values) {
		case 0:
		case 1:
			claims[name] = values[0]
		default:
			claims[name] = values
		}
	}
}

func overlay(values, over map[string]any) map[string]any {
	maps.Copy(values, over)
	maps.DeleteFunc(values, func(_ string, value any) bool { return value == nil })
	return values
}

func signingInput(header, claims map[string]any) (string, error) {
	first, headerErr := json.Marshal(header)
	second, claimsErr := json.Marshal(claims)
	if err := errors.Join(headerErr, claimsErr); err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(first) + "." + base64.RawURLEncoding.EncodeToString(second), nil
}
