package auth_test

import (
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/shared/auth"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

func fuzzed(f *testing.F) (*devidentity.Server, *auth.Verifier) {
	c := &clock{}
	server, err := devidentity.New(devidentity.Config{Issuer: "http://identity", Now: c.now})
	if err != nil {
		f.Fatal(err)
	}
	return server, newVerifier(f, auth.Config{KeysFile: keysFile(f, server.PublicKey()), Issuer: server.Issuer(), Now: c.now})
}

// check holds what was accepted against another implementation, and what was
// refused against the rules for errors.
func check(t *testing.T, public *rsa.PublicKey, raw string, token auth.Token, err error) {
	t.Helper()
	if err != nil {
		if !errors.Is(err, fault.Unauthenticated) && !errors.Is(err, fault.Forbidden) {
			t.Fatalf("neither 401 nor 403: %v", err)
		}
		return
	}
	parsed, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		// It reads members of the header that matter to nobody here.
		for _, member := range []string{"jwk", "x5c", "nonce"} {
			if strings.Contains(err.Error(), member) || strings.Contains(err.Error(), strings.ToUpper(member)) {
				return
			}
		}
		t.Fatalf("accepted, but go-jose cannot read it: %v", err)
	}
	payload, err := parsed.Verify(public)
	if err != nil {
		t.Fatalf("accepted, but go-jose says: %v", err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	if id, err := uuid.Parse(token.Subject); err != nil || id == uuid.Nil || id.String() != token.Subject {
		t.Errorf("subject is %q", token.Subject)
	}
	if token.Issuer != "http://identity" || !token.Expiry.After(epoch.Add(-5*time.Minute)) || !slices.Contains(token.Scopes, "api") {
		t.Errorf("accepted: %+v", token)
	}
}

func FuzzAuthorizationHeader(f *testing.F) {
	server, v := fuzzed(f)
	good, err := server.Mint(devidentity.Claims{User: user})
	if err != nil {
		f.Fatal(err)
	}
	parts := strings.Split(good, ".")
	for _, seed := range []string{
		"Bearer " + good, "bearer " + good + " ", good, "Bearer " + parts[0] + "." + parts[1] + ".", "Bearer ..", "Basic x", "",
		"Bearer eyJhbGciOiJub25lIn0." + parts[1] + ".", "Bearer " + strings.Repeat(".", 1000),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Authorization"] = []string{header}
		token, err := v.Authenticate(r, keyConnector)
		check(t, server.PublicKey(), strings.Trim(header[min(len(header), len("Bearer ")):], " "), token, err)
		// Past the header's rules, too.
		token, err = v.Verify(t.Context(), header, keyConnector)
		check(t, server.PublicKey(), header, token, err)
	})
}

// FuzzSignedToken signs whatever it is given, so that what is behind the
// signature is reached.
func FuzzSignedToken(f *testing.F) {
	server, v := fuzzed(f)
	claims := `{"iss":"http://identity","exp":4102444800,"nbf":0,"sub":"` + user + `","scope":["api"],"amr":["external"]}`
	for _, header := range []string{`{"alg":"RS256"}`, `{"alg":"RS256","kid":"x","typ":"at+jwt"}`, `{"alg":"none"}`, `{"alg":"RS256","crit":["b64"],"b64":false}`, `null`} {
		f.Add(header, claims)
	}
	for _, payload := range []string{`{}`, `null`, strings.Replace(claims, "4102444800", "1e400", 1), strings.Replace(claims, `["api"]`, `"api x"`, 1),
		strings.Replace(claims, `"sub"`, `"SUB":1,"sub"`, 1), strings.Replace(claims, user, "{"+user+"}", 1)} {
		f.Add(`{"alg":"RS256"}`, payload)
	}
	f.Fuzz(func(t *testing.T, header, payload string) {
		raw := signRaw(t, server, header, payload)
		token, err := v.Verify(t.Context(), raw, keyConnector)
		check(t, server.PublicKey(), raw, token, err)
	})
}
