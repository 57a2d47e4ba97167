package auth_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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

// own signs as we do ourselves, and publishes what it is told to.
type own struct {
	clock clock
	asked atomic.Int64

	mu        sync.Mutex
	published []auth.PublicKey
	failure   error
}

func (o *own) keys(context.Context) ([]auth.PublicKey, error) {
	o.asked.Add(1)
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.published, o.failure
}

func (o *own) publish(failure error, keys ...auth.PublicKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.published, o.failure = keys, failure
}

func (o *own) verifier(t testing.TB) *auth.Verifier {
	t.Helper()
	return newVerifier(t, auth.Config{
		Keys: o.keys, Issuer: "https://sm.example.org", Algorithms: []string{"RS256", "ES256"}, ClockSkew: 10 * time.Second, Now: o.clock.now,
	})
}

func rsaKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func curveKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func public(id, algorithm string, private crypto.Signer) auth.PublicKey {
	return auth.PublicKey{ID: id, Algorithm: algorithm, Key: private.Public()}
}

// session signs a session; what is set is laid over its claims.
func session(t testing.TB, kid, algorithm string, private crypto.Signer, set map[string]any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", kid)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(algorithm), Key: private}, options)
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{
		"iss": "https://sm.example.org", "exp": epoch.Add(time.Hour).Unix(), "sub": user, "client_id": other,
		"scope": []string{"api.secrets"}, "type": "ServiceAccount", "organization": org,
	}
	for name, value := range set {
		claims[name] = value
	}
	raw, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

var sessions = auth.Policy{Scopes: []string{"api.secrets"}, Types: []string{"at+jwt"}}

func TestOurOwnKeys(t *testing.T) {
	first, second := rsaKey(t), curveKey(t, elliptic.P256())
	o := &own{}
	o.publish(nil, public("ES256/2", "ES256", second), public("RS256/1", "RS256", first))
	v := o.verifier(t)
	for name, test := range map[string]struct {
		raw  string
		want fault.Class
	}{
		"RS256":                               {session(t, "RS256/1", "RS256", first, nil), ""},
		"ES256":                               {session(t, "ES256/2", "ES256", second, nil), ""},
		"one key under the name of the other": {session(t, "RS256/1", "ES256", second, nil), fault.Unauthenticated},
		"a stranger under a known name":       {session(t, "RS256/1", "RS256", rsaKey(t), nil), fault.Unauthenticated},
		"a key with another algorithm":        {session(t, "RS256/1", "RS512", first, nil), fault.Unauthenticated},
		"another issuer":                      {session(t, "RS256/1", "RS256", first, map[string]any{"iss": "https://other"}), fault.Unauthenticated},
		"over for as long as the clocks differ": {
			session(t, "RS256/1", "RS256", first, map[string]any{"exp": epoch.Unix() - 9}), ""},
		"over for longer": {session(t, "RS256/1", "RS256", first, map[string]any{"exp": epoch.Unix() - 10}), fault.Unauthenticated},
		"another scope":   {session(t, "RS256/1", "RS256", first, map[string]any{"scope": "api"}), fault.Forbidden},
	} {
		t.Run(name, func(t *testing.T) {
			token, err := v.Verify(t.Context(), test.raw, sessions)
			expect(t, err, test.want, test.raw)
			if err == nil && (token.Subject != user || token.ClientID != other || token.Type != "at+jwt") {
				t.Errorf("token is %+v", token)
			}
		})
	}
	if asked := o.asked.Load(); asked != 1 {
		t.Errorf("the keys were asked for %d times", asked)
	}
}

func TestAKeySourceThatFailsAndLaterWorks(t *testing.T) {
	key := rsaKey(t)
	raw := session(t, "RS256/1", "RS256", key, nil)
	for name, broken := range map[string]struct {
		failure error
		keys    []auth.PublicKey
	}{
		"it fails":                  {failure: errors.New("no store")},
		"it says so by class":       {failure: fault.Lost},
		"a key without a name":      {keys: []auth.PublicKey{{Algorithm: "RS256", Key: key.Public()}}},
		"a key for any algorithm":   {keys: []auth.PublicKey{{ID: "RS256/1", Key: key.Public()}}},
		"a key that is none":        {keys: []auth.PublicKey{{ID: "RS256/1", Algorithm: "RS256"}}},
		"a private key":             {keys: []auth.PublicKey{{ID: "RS256/1", Algorithm: "RS256", Key: key}}},
		"more keys than can be had": {keys: slices.Repeat([]auth.PublicKey{public("RS256/1", "RS256", key)}, 17)},
	} {
		t.Run(name, func(t *testing.T) {
			o := &own{}
			o.publish(broken.failure, broken.keys...)
			v := o.verifier(t)
			_, err := v.Verify(t.Context(), raw, sessions)
			expect(t, err, fault.Transient, raw)
			// The failure answers for a moment; then it is tried again.
			o.publish(nil, public("RS256/1", "RS256", key))
			_, err = v.Verify(t.Context(), raw, sessions)
			expect(t, err, fault.Transient, raw)
			o.clock.advance(time.Second)
			_, err = v.Verify(t.Context(), raw, sessions)
			expect(t, err, "", raw)
			// With keys at hand a failure stops nobody.
			o.publish(errors.New("no store"))
			o.clock.advance(16 * time.Minute)
			_, err = v.Verify(t.Context(), raw, sessions)
			expect(t, err, "", raw)
		})
	}
}

func TestBeforeTheFirstKeyNoTokenIsValidAndTheFirstKeyIsFoundAtOnce(t *testing.T) {
	key := rsaKey(t)
	o := &own{}
	o.publish(nil)
	v := o.verifier(t)
	raw := session(t, "RS256/1", "RS256", key, nil)
	for range 3 {
		_, err := v.Verify(t.Context(), raw, sessions)
		expect(t, err, fault.Unauthenticated, raw)
		if auth.Genuine(err) {
			t.Error("a made-up token counts as one of ours")
		}
	}
	o.publish(errors.New("no store"))
	_, err := v.Verify(t.Context(), raw, sessions)
	expect(t, err, fault.Transient, raw)
	o.publish(nil, public("RS256/1", "RS256", key))
	_, err = v.Verify(t.Context(), raw, sessions)
	expect(t, err, "", raw)
}

func TestAKeyThatIsNotKnownIsLookedForButNotAtEachRequest(t *testing.T) {
	key, next := rsaKey(t), rsaKey(t)
	o := &own{}
	o.publish(nil, public("RS256/1", "RS256", key))
	v := o.verifier(t)
	raw, unknown := session(t, "RS256/1", "RS256", key, nil), session(t, "RS256/2", "RS256", next, nil)
	refused := func(want fault.Class) {
		t.Helper()
		_, err := v.Verify(t.Context(), unknown, sessions)
		expect(t, err, want, unknown)
	}
	refused(fault.Unauthenticated)
	before := o.asked.Load()
	for range 50 {
		o.clock.advance(100 * time.Millisecond)
		refused(fault.Unauthenticated)
	}
	if o.asked.Load() != before {
		t.Error("tokens of unknown keys made us ask")
	}

	// That it cannot be looked for is no fault of the token's; that it was looked
	// for a while ago is an answer for as long as the keys are not old.
	o.publish(errors.New("no store"))
	o.clock.advance(10 * time.Second)
	refused(fault.Transient)
	refused(fault.Unauthenticated)
	o.clock.advance(15 * time.Minute)
	refused(fault.Transient)
	refused(fault.Transient)

	// The next one is found at once, and the former still holds.
	o.publish(nil, public("RS256/2", "RS256", next), public("RS256/1", "RS256", key))
	o.clock.advance(10 * time.Second)
	for _, raw := range []string{session(t, "RS256/2", "RS256", next, nil), raw} {
		_, err := v.Verify(t.Context(), raw, sessions)
		expect(t, err, "", raw)
	}
	// It holds no longer once it is published no more.
	o.publish(nil, public("RS256/2", "RS256", next))
	o.clock.advance(16 * time.Minute)
	_, err := v.Verify(t.Context(), raw, sessions)
	deadline := time.Now().Add(5 * time.Second)
	for fault.Of(err) != fault.Unauthenticated && time.Now().Before(deadline) {
		_, err = v.Verify(t.Context(), raw, sessions)
	}
	expect(t, err, fault.Unauthenticated, raw)
}

func TestOwnKeysNeedAnIssuer(t *testing.T) {
	_, err := auth.New(auth.Config{Keys: (&own{}).keys})
	expect(t, err, fault.Invalid, "")
}

func TestFurtherClaims(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	c := server.config()
	c.Claims = []string{"groups", "https://example.org/roles", "accesssecretsmanager", "number", "mixed", "object", "Groups", "absent", "sub", "empty"}
	raw := server.mint(t, devidentity.Claims{Set: map[string]any{
		"groups": []string{"a", "b"}, "https://example.org/roles": "admin", "accesssecretsmanager": org, "number": 1,
		"mixed": []any{"a", 1}, "object": map[string]any{"a": "b"}, "else": "not asked for", "empty": []string{},
	}})
	token, err := newVerifier(t, c).Verify(t.Context(), raw, keyConnector)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"groups": {"a", "b"}, "https://example.org/roles": {"admin"}, "accesssecretsmanager": {org}, "sub": {user}, "empty": {},
	}
	if len(token.Claims) != len(want) {
		t.Errorf("claims are %q", token.Claims)
	}
	for name, values := range want {
		if !slices.Equal(token.Claims[name], values) {
			t.Errorf("%s is %q", name, token.Claims[name])
		}
	}
	token, err = server.verifier(t).Verify(t.Context(), raw, keyConnector)
	if err != nil || token.Claims != nil {
		t.Errorf("claims that nobody asked for: %v, %v", token.Claims, err)
	}
}

func TestPoliciesForOtherProviders(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	v := server.verifier(t)
	set := func(name string, value any) devidentity.Claims {
		return devidentity.Claims{Set: map[string]any{name: value}}
	}
	forUs := auth.Policy{Audiences: []string{"latchkey", "api://latchkey"}}
	both := auth.Policy{Audiences: []string{"latchkey"}, Scopes: []string{"api"}}
	anybody := auth.Policy{Scopes: []string{"api"}, AnySubject: true}
	typed := auth.Policy{Scopes: []string{"api"}, Types: []string{"AT+JWT"}}
	for _, test := range []struct {
		name    string
		policy  auth.Policy
		claims  devidentity.Claims
		want    fault.Class
		subject string
	}{
		{"the audience", forUs, set("aud", "latchkey"), "", user},
		{"one of the audiences", forUs, set("aud", []string{"x", "api://latchkey"}), "", user},
		{"another audience", forUs, set("aud", "other"), fault.Forbidden, ""},
		{"an audience that begins alike", forUs, set("aud", "latchkey-dev"), fault.Forbidden, ""},
		{"no audience", forUs, devidentity.Claims{}, fault.Forbidden, ""},
		{"an audience as a number", forUs, set("aud", 1), fault.Forbidden, ""},
		{"the audience without a scope", forUs, devidentity.Claims{Scopes: []string{}, Audience: []string{"latchkey"}}, "", user},
		{"the audience without the scope that is asked for", both, devidentity.Claims{Scopes: []string{}, Audience: []string{"latchkey"}}, fault.Forbidden, ""},
		{"the scope without the audience", both, devidentity.Claims{}, fault.Forbidden, ""},
		{"scope and audience", both, devidentity.Claims{Audience: []string{"latchkey"}}, "", user},

		{"a subject in text", anybody, set("sub", "auth0|Alice"), "", "auth0|Alice"},
		{"a GUID in capitals", anybody, set("sub", strings.ToUpper(user)), "", user},
		{"a subject of 255 bytes", anybody, set("sub", strings.Repeat("x", 255)), "", strings.Repeat("x", 255)},
		{"a subject of 256 bytes", anybody, set("sub", strings.Repeat("x", 256)), fault.Forbidden, ""},
		{"a subject with a line break", anybody, set("sub", "a\nb"), fault.Forbidden, ""},
		{"an empty subject", anybody, set("sub", ""), fault.Forbidden, ""},
		{"a subject as a number", anybody, set("sub", 5), fault.Forbidden, ""},
		{"no subject", anybody, set("sub", nil), fault.Forbidden, ""},
		{"a subject in text where a GUID is asked for", forUs, devidentity.Claims{Audience: []string{"latchkey"}, Set: map[string]any{"sub": "alice"}}, fault.Forbidden, ""},

		{"the type", typed, devidentity.Claims{}, "", user},
		{"another type", typed, devidentity.Claims{Header: map[string]any{"typ": "JWT"}}, fault.Forbidden, ""},
		{"no type", typed, devidentity.Claims{Header: map[string]any{"typ": nil}}, fault.Forbidden, ""},
		{"a type that is no text", typed, devidentity.Claims{Header: map[string]any{"typ": []string{"at+jwt"}}}, fault.Forbidden, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			raw := server.mint(t, test.claims)
			token, err := v.Verify(t.Context(), raw, test.policy)
			expect(t, err, test.want, raw)
			if token.Subject != test.subject {
				t.Errorf("subject is %q", token.Subject)
			}
		})
	}
}

func TestWhatATokenClaimsBeforeAnybodyVerifiedIt(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	mint := func(value any) string { return server.mint(t, devidentity.Claims{Set: map[string]any{"type": value}}) }
	good := mint("ServiceAccount")
	for raw, want := range map[string]string{
		good: "ServiceAccount", mint(nil): "", mint(1): "", mint([]string{"a", "b"}): "", mint(map[string]any{}): "",
		good[:len(good)-300] + "x": "ServiceAccount", // its signature is another matter
		"":                         "", "..": "", "a.b": "", good + ".x": "", "a.bnVsbA.c": "", "a.!!.c": "",
		mint(strings.Repeat("x", 16*1024)): "",
	} {
		if got := auth.UnverifiedClaim(raw, "type"); got != want {
			t.Errorf("%.40q claims %q, not %q", raw, got, want)
		}
	}
}

func TestAPrivateCertificateAuthority(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	secure := httptest.NewTLSServer(http.StripPrefix("/identity", server))
	t.Cleanup(secure.Close)
	path := filepath.Join(t.TempDir(), "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(path, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	raw := server.mint(t, devidentity.Claims{})
	c := auth.Config{IdentityURL: secure.URL + "/identity", CAFile: path, Now: server.clock.now}
	_, err := newVerifier(t, c).Verify(t.Context(), raw, keyConnector)
	expect(t, err, "", raw)

	c.CAFile = ""
	_, err = newVerifier(t, c).Verify(t.Context(), raw, keyConnector)
	expect(t, err, fault.Transient, raw)

	if err := os.WriteFile(path, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{path, path + ".none"} {
		c.CAFile = wrong
		_, err := auth.New(c)
		expect(t, err, fault.Invalid, "")
	}
}
