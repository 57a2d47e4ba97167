package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/shared/auth"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

const (
	user  = "0b1c2d3e-4f50-4617-8899-aabbccddeeff"
	org   = "11111111-2222-4333-8444-555555555555"
	other = "99999999-2222-4333-8444-555555555555"
)

// keyConnector is the policy of the function that all this was made for.
var keyConnector = auth.Policy{Scopes: []string{"api"}, Methods: []string{"Application", "external"}}

// clock is a clock that stands still until it is moved.
type clock struct{ moved atomic.Int64 }

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func (c *clock) now() time.Time          { return epoch.Add(time.Duration(c.moved.Load())) }
func (c *clock) advance(d time.Duration) { c.moved.Add(int64(d)) }

// identity is a development identity server behind something that can go
// wrong, and that counts what it is asked.
type identity struct {
	*devidentity.Server
	clock *clock
	http  *httptest.Server

	asked  atomic.Int64
	broken atomic.Pointer[http.HandlerFunc]
}

func newIdentity(t testing.TB, c devidentity.Config) *identity {
	t.Helper()
	moved := &clock{}
	if c.Issuer == "" {
		c.Issuer = "http://127.0.0.1"
	}
	c.Now = moved.now
	server, err := devidentity.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return listen(t, server, moved)
}

func listen(t testing.TB, server *devidentity.Server, c *clock) *identity {
	t.Helper()
	i := &identity{Server: server, clock: c}
	i.http = httptest.NewServer(http.StripPrefix("/identity", i))
	t.Cleanup(i.http.Close)
	return i
}

func (i *identity) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.asked.Add(1)
	if broken := i.broken.Load(); broken != nil {
		(*broken)(w, r)
		return
	}
	genuine(i.Server)(w, r)
}

// genuine answers as the server does, with the prefix that was stripped put
// back into the discovery document.
func genuine(server *devidentity.Server) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		recorder := httptest.NewRecorder()
		server.ServeHTTP(recorder, r)
		body := strings.ReplaceAll(recorder.Body.String(), "/.well-known", "/identity/.well-known")
		w.WriteHeader(recorder.Code)
		_, _ = w.Write([]byte(body))
	}
}

func (i *identity) breakWith(h http.HandlerFunc) { i.broken.Store(&h) }
func (i *identity) mend()                        { i.broken.Store(nil) }

func (i *identity) config() auth.Config {
	return auth.Config{IdentityURL: i.http.URL + "/identity/", Now: i.clock.now}
}

func (i *identity) verifier(t testing.TB) *auth.Verifier {
	t.Helper()
	return newVerifier(t, i.config())
}

func newVerifier(t testing.TB, c auth.Config) *auth.Verifier {
	t.Helper()
	v, err := auth.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (i *identity) mint(t testing.TB, c devidentity.Claims) string {
	t.Helper()
	if c.User == "" {
		c.User = user
	}
	token, err := i.Mint(c)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// expect checks the class of an outcome, and that what is said of a failure
// tells nothing of the token.
func expect(t *testing.T, err error, class fault.Class, raw string) {
	t.Helper()
	if got := fault.Of(err); got != class || (err == nil) != (class == "") {
		t.Fatalf("class is %q, not %q: %v", got, class, err)
	}
	if err == nil {
		return
	}
	said := err.Error() + auth.Message(err)
	for part := range strings.SplitSeq(raw, ".") {
		if len(part) > 8 && strings.Contains(said, part) {
			t.Errorf("the error repeats a part of the token: %s", said)
		}
	}
	if strings.Contains(said, "@") || strings.Contains(said, user) {
		t.Errorf("the error tells who it is: %s", said)
	}
	if auth.Message(err) == "" {
		t.Error("there is nothing to tell the client")
	}
}

func TestVerify(t *testing.T) {
	bitwarden := newIdentity(t, devidentity.Config{})
	vaultwarden := newIdentity(t, devidentity.Config{Issuer: "https://vault.example.com", Vaultwarden: true})
	set := func(pairs ...any) devidentity.Claims {
		claims := map[string]any{}
		for i := 0; i < len(pairs); i += 2 {
			claims[pairs[i].(string)] = pairs[i+1]
		}
		return devidentity.Claims{Set: claims}
	}
	now := epoch.Unix()
	const ok, unauthenticated, forbidden = fault.Class(""), fault.Unauthenticated, fault.Forbidden
	member := keyConnector
	member.Organizations = []string{strings.ToUpper(org)}

	for _, test := range []struct {
		name   string
		claims devidentity.Claims
		policy *auth.Policy
		want   fault.Class
	}{
		{name: "a member who logged in by SSO", want: ok},
		{name: "a personal API key", claims: devidentity.Claims{ClientID: "user." + user}, want: ok},
		{name: "a client type that nobody has heard of", claims: set("client_id", "toaster"), want: ok},
		{name: "claims that are not known", claims: set("x", map[string]any{"y": []int{1}}), want: ok},

		{name: "expired within the skew", claims: set("exp", now-299), want: ok},
		{name: "expired at the end of the skew", claims: set("exp", now-300), want: unauthenticated},
		{name: "expired long ago", claims: devidentity.Claims{Lifetime: -time.Hour}, want: unauthenticated},
		{name: "an expiry with a fraction, within the skew", claims: set("exp", float64(now)-299.5), want: ok},
		{name: "no expiry", claims: set("exp", nil), want: unauthenticated},
		{name: "an expiry in text", claims: set("exp", "4102444800"), want: unauthenticated},
		{name: "an expiry beyond all dates", claims: set("exp", 1e300), want: unauthenticated},
		{name: "an expiry after the year 9999", claims: set("exp", int64(1e12)), want: unauthenticated},
		{name: "a negative expiry", claims: set("exp", -1), want: unauthenticated},
		{name: "valid from the end of the skew", claims: set("nbf", now+300), want: ok},
		{name: "valid from after the skew", claims: set("nbf", now+301), want: unauthenticated},
		{name: "no beginning", claims: set("nbf", nil), want: ok},
		{name: "a beginning in text", claims: set("nbf", "0"), want: unauthenticated},

		{name: "the issuer with its port", claims: set("iss", "http://127.0.0.1:18480"), want: unauthenticated},
		{name: "the issuer with a slash", claims: set("iss", "http://127.0.0.1/"), want: unauthenticated},
		{name: "another kind of token of Vaultwarden", claims: set("iss", "https://vault.example.com|invite"), want: unauthenticated},
		{name: "no issuer", claims: set("iss", nil), want: unauthenticated},
		{name: "an issuer that is a list", claims: set("iss", []string{"http://127.0.0.1", "https://vault.example.com|login"}), want: unauthenticated},

		{name: "scope as text", claims: set("scope", "offline_access api"), want: ok},
		{name: "scope as text of one", claims: set("scope", "api"), want: ok},
		{name: "scope of an organisation's API key", claims: set("scope", []string{"api.organization"}), want: forbidden},
		{name: "scope that begins alike", claims: set("scope", "api.installation apis"), want: forbidden},
		{name: "scope with both in one element", claims: set("scope", []string{"api offline_access"}), want: forbidden},
		{name: "scope in capitals", claims: set("scope", []string{"API"}), want: forbidden},
		{name: "no scope", claims: set("scope", nil), want: forbidden},
		{name: "an empty scope", claims: set("scope", ""), want: forbidden},
		{name: "scope as a number", claims: set("scope", 1), want: forbidden},
		{name: "scope with a number in it", claims: set("scope", []any{"api", 1}), want: forbidden},
		{name: "scope as an object", claims: set("scope", map[string]any{"api": true}), want: forbidden},

		{name: "amr as text", claims: set("amr", "external"), want: ok},
		{name: "amr Application", claims: set("amr", []string{"Application"}), want: ok},
		{name: "amr among others", claims: set("amr", []string{"pwd", "external"}), want: ok},
		{name: "amr in lower case", claims: set("amr", "application"), want: forbidden},
		{name: "amr as a list in text", claims: set("amr", "pwd external"), want: forbidden},
		{name: "another amr", claims: set("amr", []string{"pwd"}), want: forbidden},
		{name: "no amr", claims: set("amr", nil), want: forbidden},
		{name: "amr as a number", claims: set("amr", 7), want: forbidden},

		{name: "sub in capitals", claims: set("sub", strings.ToUpper(user)), want: ok},
		{name: "sub in braces", claims: set("sub", "{"+user+"}"), want: forbidden},
		{name: "sub as a URN", claims: set("sub", "urn:uuid:"+user), want: forbidden},
		{name: "sub without dashes", claims: set("sub", strings.ReplaceAll(user, "-", "")), want: forbidden},
		{name: "sub with a space", claims: set("sub", user+" "), want: forbidden},
		{name: "sub of zeroes", claims: set("sub", "00000000-0000-0000-0000-000000000000"), want: forbidden},
		{name: "sub that is no GUID", claims: set("sub", "Password"), want: forbidden},
		{name: "sub as a number", claims: set("sub", 42), want: forbidden},
		{name: "no sub", claims: set("sub", nil), want: forbidden},

		{name: "a policy that asks for no amr", claims: set("amr", nil), policy: &auth.Policy{Scopes: []string{"api"}}, want: ok},
		{name: "the zero policy", policy: &auth.Policy{}, want: forbidden},
		{name: "no organisation where one is asked for", policy: &member, want: forbidden},
		{name: "the organisation as text", claims: set("orguser", org), policy: &member, want: ok},
		{name: "the organisation in a list", claims: set("orgcustom", []string{other, org}), policy: &member, want: ok},
		{name: "the organisation in capitals", claims: set("orgadmin", strings.ToUpper(org)), policy: &member, want: ok},
		{name: "the owner of the organisation", claims: set("orgowner", org), policy: &member, want: ok},
		{name: "another organisation", claims: set("orgowner", other), policy: &member, want: forbidden},
		{name: "the organisation in another claim", claims: set("accesssecretsmanager", org), policy: &member, want: forbidden},
		{name: "the organisation within a text", claims: set("orguser", org+" "+other), policy: &member, want: forbidden},
		{name: "organisations as a number", claims: set("orguser", 5), policy: &member, want: forbidden},

		{name: "another kid, but no kid", claims: devidentity.Claims{Header: map[string]any{"kid": nil}}, want: ok},
		{name: "kid as a number", claims: devidentity.Claims{Header: map[string]any{"kid": 5}}, want: unauthenticated},
		{name: "no typ", claims: devidentity.Claims{Header: map[string]any{"typ": nil}}, want: ok},
		{name: "a critical extension", claims: devidentity.Claims{Header: map[string]any{"crit": []string{"exp"}}}, want: unauthenticated},
		{name: "an unencoded payload", claims: devidentity.Claims{Header: map[string]any{"b64": false, "crit": []string{"b64"}}}, want: unauthenticated},
		{name: "an unencoded payload that is not critical", claims: devidentity.Claims{Header: map[string]any{"b64": false}}, want: unauthenticated},
		{name: "alg under another name", claims: devidentity.Claims{Header: map[string]any{"alg": nil, "ALG": "RS256"}}, want: unauthenticated},
		{name: "no alg", claims: devidentity.Claims{Header: map[string]any{"alg": nil}}, want: unauthenticated},
		{name: "alg that is not accepted", claims: devidentity.Claims{Header: map[string]any{"alg": "RS512"}}, want: unauthenticated},
		{name: "alg in lower case", claims: devidentity.Claims{Header: map[string]any{"alg": "rs256"}}, want: unauthenticated},
	} {
		for name, server := range map[string]*identity{"Bitwarden": bitwarden, "Vaultwarden": vaultwarden} {
			t.Run(name+"/"+test.name, func(t *testing.T) {
				policy := keyConnector
				if test.policy != nil {
					policy = *test.policy
				}
				raw := server.mint(t, test.claims)
				token, err := server.verifier(t).Verify(t.Context(), raw, policy)
				expect(t, err, test.want, raw)
				if err == nil && (token.Subject != user || token.Issuer != server.Issuer() || token.ClientID == "") {
					t.Errorf("token is %+v", token)
				}
			})
		}
	}
}

func TestVerifyTellsWhatTheTokenSays(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	raw := server.mint(t, devidentity.Claims{ClientID: "cli", Owner: []string{org}, Member: []string{org, other}})
	token, err := server.verifier(t).Verify(t.Context(), raw, keyConnector)
	if err != nil {
		t.Fatal(err)
	}
	if token.Subject != user || token.ClientID != "cli" || token.Issuer != "http://127.0.0.1" ||
		!token.Expiry.Equal(epoch.Add(time.Hour)) || !slices.Equal(token.Methods, []string{"external"}) ||
		!slices.Equal(token.Scopes, []string{"api", "offline_access"}) ||
		!slices.Equal(token.Organizations.Owner, []string{org}) ||
		!slices.Equal(token.Organizations.User, []string{org, other}) || token.Organizations.Admin != nil {
		t.Errorf("token is %+v", token)
	}
}

func TestForgedSignatures(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	v := server.verifier(t)
	public, err := x509.MarshalPKIXPublicKey(server.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	byStranger := func(input []byte) ([]byte, error) {
		digest := sha256.Sum256(input)
		return rsa.SignPKCS1v15(rand.Reader, stranger, crypto.SHA256, digest[:])
	}
	withMAC := func(secret []byte) func([]byte) ([]byte, error) {
		return func(input []byte) ([]byte, error) {
			mac := hmac.New(sha256.New, secret)
			mac.Write(input)
			return mac.Sum(nil), nil
		}
	}
	byCurve := func(input []byte) ([]byte, error) {
		digest := sha256.Sum256(input)
		r, s, err := ecdsa.Sign(rand.Reader, curve, digest[:])
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), err
	}
	none := func([]byte) ([]byte, error) { return nil, nil }
	embedded := map[string]any{"jwk": jose.JSONWebKey{Key: &stranger.PublicKey}, "kid": nil}

	for name, claims := range map[string]devidentity.Claims{
		"alg none":                              {Header: map[string]any{"alg": "none"}, Sign: none},
		"alg None without kid":                  {Header: map[string]any{"alg": "None", "kid": nil}, Sign: none},
		"RS256 with no signature":               {Sign: none},
		"RS256 with a signature of zeroes":      {Sign: func([]byte) ([]byte, error) { return make([]byte, 256), nil }},
		"a stranger's key under the known kid":  {Sign: byStranger},
		"a stranger's key without kid":          {Header: map[string]any{"kid": nil}, Sign: byStranger},
		"a stranger's key under an unknown kid": {Header: map[string]any{"kid": "x"}, Sign: byStranger},
		"a stranger's key in the header":        {Header: embedded, Sign: byStranger},
		"HS256 with the public key as PEM":      {Header: map[string]any{"alg": "HS256"}, Sign: withMAC(asPEM)},
		"HS256 with the public key as DER":      {Header: map[string]any{"alg": "HS256"}, Sign: withMAC(public)},
		"RS256 with a MAC":                      {Sign: withMAC(asPEM)},
		"an elliptic curve under RS256":         {Sign: byCurve},
		"an elliptic curve under ES256":         {Header: map[string]any{"alg": "ES256"}, Sign: byCurve},
	} {
		t.Run(name, func(t *testing.T) {
			raw := server.mint(t, claims)
			_, err := v.Verify(t.Context(), raw, keyConnector)
			expect(t, err, fault.Unauthenticated, raw)
		})
	}

	good := strings.Split(server.mint(t, devidentity.Claims{}), ".")
	another := strings.Split(server.mint(t, devidentity.Claims{User: other}), ".")
	for name, raw := range map[string]string{
		"nothing":                       "",
		"only dots":                     "..",
		"one part":                      good[0],
		"two parts":                     good[0] + "." + good[1],
		"four parts":                    strings.Join(good, ".") + ".x",
		"five parts, as if encrypted":   strings.Join(good, ".") + ".x.x",
		"the payload of another":        good[0] + "." + another[1] + "." + good[2],
		"padding":                       good[0] + "." + good[1] + "." + good[2] + "==",
		"the other base64":              good[0] + "." + good[1] + ".+/" + good[2][2:],
		"a header that is not JSON":     base64.RawURLEncoding.EncodeToString([]byte("alg")) + "." + good[1] + "." + good[2],
		"JSON serialization":            `{"protected":"` + good[0] + `","payload":"` + good[1] + `","signature":"` + good[2] + `"}`,
		"a signature written otherwise": good[0] + "." + good[1] + "." + good[2][:len(good[2])-1] + string(good[2][len(good[2])-1]+1),
		"a signature that is cut":       good[0] + "." + good[1] + "." + good[2][:100],
		"a signature that is extended":  good[0] + "." + good[1] + "." + good[2] + "AAAA",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := v.Verify(t.Context(), raw, keyConnector)
			expect(t, err, fault.Unauthenticated, raw)
		})
	}
}

func TestTokenThatIsTooLong(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	raw := server.mint(t, devidentity.Claims{Set: map[string]any{"x": strings.Repeat("x", 16*1024)}})
	_, err := server.verifier(t).Verify(t.Context(), raw, keyConnector)
	expect(t, err, fault.Unauthenticated, raw)
	raw = server.mint(t, devidentity.Claims{Set: map[string]any{"x": strings.Repeat("x", 8*1024)}})
	_, err = server.verifier(t).Verify(t.Context(), raw, keyConnector)
	expect(t, err, "", raw)
}

func TestHeaderThatSaysTwoThings(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	claims := `{"iss":"http://127.0.0.1","exp":4102444800,"sub":"` + user + `","scope":"api","amr":"external"}`
	v := server.verifier(t)
	raw := signRaw(t, server.Server, `{"alg":"RS256"}`, claims)
	_, err := v.Verify(t.Context(), raw, keyConnector)
	expect(t, err, "", raw)
	raw = signRaw(t, server.Server, `{"alg":"none","alg":"RS256"}`, claims)
	_, err = v.Verify(t.Context(), raw, keyConnector)
	expect(t, err, fault.Unauthenticated, raw)
}

func TestPayloadsThatAreNoClaims(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	v := server.verifier(t)
	for _, payload := range []string{"", "null", "1", `"x"`, "[]", "{}", "{", `{"iss":"http://127.0.0.1"} x`, strings.Repeat("[", 10_000), "\xff\xfe"} {
		raw := signRaw(t, server.Server, `{"alg":"RS256"}`, payload)
		_, err := v.Verify(t.Context(), raw, keyConnector)
		expect(t, err, fault.Unauthenticated, raw)
	}
}

// signRaw signs a header and a payload that need not be JSON.
func signRaw(t testing.TB, server *devidentity.Server, header, payload string) string {
	t.Helper()
	input := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	signature, err := server.Sign([]byte(input))
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// Every algorithm is signed by go-jose and verified here.
func TestAlgorithms(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signers := map[string]crypto.Signer{
		"RS256": rsaKey, "RS384": rsaKey, "RS512": rsaKey, "PS256": rsaKey, "PS384": rsaKey, "PS512": rsaKey,
		"ES256": p256, "ES384": p384,
	}
	all := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384"}
	file := keysFile(t, &rsaKey.PublicKey, &p256.PublicKey, &p384.PublicKey)
	every := newVerifier(t, auth.Config{KeysFile: file, Issuer: "i", Algorithms: all})
	for _, name := range all {
		t.Run(name, func(t *testing.T) {
			signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(name), Key: signers[name]}, nil)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := jwt.Signed(signer).Claims(map[string]any{
				"iss": "i", "exp": time.Now().Add(time.Hour).Unix(), "sub": user, "scope": "api", "amr": "external",
			}).Serialize()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := every.Verify(t.Context(), raw, keyConnector); err != nil {
				t.Error(err)
			}
			for _, accepted := range all {
				if accepted == name {
					continue
				}
				v := newVerifier(t, auth.Config{KeysFile: file, Issuer: "i", Algorithms: []string{accepted}})
				_, err := v.Verify(t.Context(), raw, keyConnector)
				expect(t, err, fault.Unauthenticated, raw)
			}
		})
	}
	t.Run("an ES256 key does not make ES384", func(t *testing.T) {
		server := newIdentity(t, devidentity.Config{})
		raw := server.mint(t, devidentity.Claims{
			Header: map[string]any{"alg": "ES384", "kid": nil}, Set: map[string]any{"iss": "i", "nbf": 0, "exp": 4102444800},
			Sign: func(input []byte) ([]byte, error) {
				digest := sha512.Sum384(input)
				r, s, err := ecdsa.Sign(rand.Reader, p256, digest[:])
				return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), err
			},
		})
		_, err := every.Verify(t.Context(), raw, keyConnector)
		expect(t, err, fault.Unauthenticated, raw)
	})
}

func TestConcurrentUse(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	v := server.verifier(t)
	good, bad := server.mint(t, devidentity.Claims{}), server.mint(t, devidentity.Claims{Lifetime: -time.Hour})
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			for range 20 {
				if _, err := v.Verify(t.Context(), good, keyConnector); err != nil {
					t.Error(err)
				}
				if _, err := v.Verify(t.Context(), bad, keyConnector); !errors.Is(err, fault.Unauthenticated) {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if asked := server.asked.Load(); asked != 2 {
		t.Errorf("the identity server was asked %d times, not for one discovery document and one key set", asked)
	}
}

func TestConfigurationsThatAreWrong(t *testing.T) {
	for name, c := range map[string]auth.Config{
		"nothing":                     {},
		"a URL without scheme":        {IdentityURL: "identity:5000"},
		"a URL without host":          {IdentityURL: "https://"},
		"a URL of another scheme":     {IdentityURL: "file:///etc/passwd"},
		"a URL with a password":       {IdentityURL: "https://a:hunter2@identity"},
		"a URL with a query":          {IdentityURL: "https://identity/?x=hunter2"},
		"a URL that is none":          {IdentityURL: "http://hunter2\x7f"},
		"an algorithm with a secret":  {IdentityURL: "https://identity", Algorithms: []string{"RS256", "HS256"}},
		"no signature as algorithm":   {IdentityURL: "https://identity", Algorithms: []string{"none"}},
		"a negative skew":             {IdentityURL: "https://identity", ClockSkew: -1},
		"a skew of a day":             {IdentityURL: "https://identity", ClockSkew: 24 * time.Hour},
		"keys that are never fetched": {IdentityURL: "https://identity", RefreshAfter: 1000 * time.Hour},
		"a file that is not there":    {KeysFile: t.TempDir() + "/none.pem", Issuer: "i"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := auth.New(c)
			expect(t, err, fault.Invalid, "")
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error repeats a secret: %v", err)
			}
		})
	}
	_, err := auth.New(auth.Config{Algorithms: []string{"HS256"}, ClockSkew: -1})
	for _, fault := range []string{"identity server", "HS256", "clock skew"} {
		if !strings.Contains(err.Error(), fault) {
			t.Errorf("%q is not among the faults: %v", fault, err)
		}
	}
}
