package devidentity_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/shared/auth"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

const user = "0b1c2d3e-4f50-4617-8899-aabbccddeeff"

func newServer(t *testing.T, c devidentity.Config) *devidentity.Server {
	t.Helper()
	if c.Issuer == "" {
		c.Issuer = "http://127.0.0.1"
	}
	s, err := devidentity.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func claimsOf(t *testing.T, s *devidentity.Server, raw string) (jose.Header, map[string]any) {
	t.Helper()
	token, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := token.Claims(s.PublicKey(), &claims); err != nil {
		t.Fatal(err)
	}
	return token.Headers[0], claims
}

func TestTokenShapes(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	now := func() time.Time { return at }
	t.Run("Bitwarden", func(t *testing.T) {
		s := newServer(t, devidentity.Config{Now: now})
		raw, err := s.Mint(devidentity.Claims{User: user, Member: []string{"a"}, Owner: []string{"b", "c"}})
		if err != nil {
			t.Fatal(err)
		}
		header, claims := claimsOf(t, s, raw)
		if header.ExtraHeaders["typ"] != "at+jwt" || !strings.HasSuffix(header.KeyID, "RS256") {
			t.Errorf("header is %+v", header)
		}
		want := map[string]any{
			"iss": "http://127.0.0.1", "sub": user, "iat": 1.8e9, "nbf": 1.8e9, "auth_time": 1.8e9, "exp": 1.8e9 + 3600,
			"client_id": "web", "idp": "sso", "orguser": "a",
		}
		for name, value := range want {
			if claims[name] != value {
				t.Errorf("%s is %v", name, claims[name])
			}
		}
		for name, value := range map[string][]any{"amr": {"external"}, "scope": {"api", "offline_access"}, "orgowner": {"b", "c"}} {
			if got, ok := claims[name].([]any); !ok || !slices.Equal(got, value) {
				t.Errorf("%s is %v", name, claims[name])
			}
		}
		if jti, ok := claims["jti"].(string); !ok || len(jti) != 32 || strings.ToUpper(jti) != jti {
			t.Errorf("jti is %v", claims["jti"])
		}
	})
	t.Run("Vaultwarden", func(t *testing.T) {
		s := newServer(t, devidentity.Config{Issuer: "https://vault.example.com", Vaultwarden: true, Now: now})
		raw, err := s.Mint(devidentity.Claims{User: user, Member: []string{"a"}})
		if err != nil {
			t.Fatal(err)
		}
		header, claims := claimsOf(t, s, raw)
		if header.ExtraHeaders["typ"] != "JWT" || header.KeyID != "" {
			t.Errorf("header is %+v", header)
		}
		if claims["iss"] != "https://vault.example.com|login" || claims["iss"] != s.Issuer() || claims["orguser"] != nil || claims["jti"] != nil {
			t.Errorf("claims are %v", claims)
		}
	})
	t.Run("everything can be replaced", func(t *testing.T) {
		s := newServer(t, devidentity.Config{Now: now, Lifetime: time.Minute})
		raw, err := s.Mint(devidentity.Claims{
			User: user, Methods: []string{}, Set: map[string]any{"sub": nil, "x": 1}, Header: map[string]any{"kid": "k", "typ": nil},
		})
		if err != nil {
			t.Fatal(err)
		}
		header, claims := claimsOf(t, s, raw)
		_, sub := claims["sub"]
		if header.KeyID != "k" || header.ExtraHeaders["typ"] != nil || sub || claims["x"] != 1.0 ||
			claims["exp"] != 1.8e9+60 || len(claims["amr"].([]any)) != 0 {
			t.Errorf("header %+v, claims %v", header, claims)
		}
		failure := errors.New("no")
		if _, err := s.Mint(devidentity.Claims{Sign: func([]byte) ([]byte, error) { return nil, failure }}); !errors.Is(err, failure) {
			t.Errorf("error is %v", err)
		}
		if _, err := s.Mint(devidentity.Claims{Set: map[string]any{"x": func() {}}}); err == nil {
			t.Error("a claim that is not JSON was minted")
		}
	})
}

func ask(t *testing.T, base string, form url.Values) (int, map[string]any) {
	t.Helper()
	response, err := http.PostForm(base+"/connect/token", form)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var body map[string]any
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	if response.Header.Get("Cache-Control") != "no-store" {
		t.Error("the answer may be cached")
	}
	return response.StatusCode, body
}

func TestTokenEndpoint(t *testing.T) {
	s := newServer(t, devidentity.Config{})
	server := httptest.NewServer(s)
	defer server.Close()
	v, err := auth.New(auth.Config{IdentityURL: server.URL, Claims: []string{"orgadmin", "accesssecretsmanager", "groups", "aud", "role", "sub"}})
	if err != nil {
		t.Fatal(err)
	}
	const org = "11111111-2222-4333-8444-555555555555"
	member := auth.Policy{Scopes: []string{"api"}, Methods: []string{"Application", "external"}}
	inOrg := member
	inOrg.Organizations = []string{org}
	for name, test := range map[string]struct {
		form   url.Values
		policy auth.Policy
		want   fault.Class
	}{
		"a user":                 {url.Values{"user": {user}}, member, ""},
		"a personal API key":     {url.Values{"grant_type": {"client_credentials"}, "client_id": {"user." + user}, "client_secret": {"any"}, "scope": {"api"}}, member, ""},
		"an organisation":        {url.Values{"user": {user}, "orgs": {"x," + org}}, inOrg, ""},
		"the owner of one":       {url.Values{"user": {user}, "orgowner": {org}}, inOrg, ""},
		"no organisation":        {url.Values{"user": {user}}, inOrg, fault.Forbidden},
		"another scope":          {url.Values{"user": {user}, "scope": {"api.installation"}}, member, fault.Forbidden},
		"no scope at all":        {url.Values{"user": {user}, "scope": {""}}, member, fault.Forbidden},
		"another amr":            {url.Values{"user": {user}, "amr": {"pwd"}}, member, fault.Forbidden},
		"one that is over":       {url.Values{"user": {user}, "expires_in": {"-3600"}}, member, fault.Unauthenticated},
		"one that is over later": {url.Values{"user": {user}, "expires_in": {"60"}}, member, ""},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := ask(t, server.URL, test.form)
			raw, _ := body["access_token"].(string)
			if status != http.StatusOK || body["token_type"] != "Bearer" {
				t.Fatalf("answer is %d %v", status, body)
			}
			token, err := v.Verify(t.Context(), raw, test.policy)
			if fault.Of(err) != test.want || (err == nil) != (test.want == "") || err == nil && token.Subject != user {
				t.Errorf("token is %+v, error %v", token, err)
			}
		})
	}
	t.Run("every claim that an operator can have", func(t *testing.T) {
		_, body := ask(t, server.URL, url.Values{
			"user": {user}, "orgadmin": {org}, "accesssecretsmanager": {"x, " + org}, "groups": {"a,b"}, "aud": {"latchkey"},
			"set": {"role=viewer", "sub=alice", "role=a=b"},
		})
		raw, _ := body["access_token"].(string)
		token, err := v.Verify(t.Context(), raw, auth.Policy{Audiences: []string{"latchkey"}, AnySubject: true})
		if err != nil || token.Subject != "alice" {
			t.Fatalf("token is %+v, error %v", token, err)
		}
		for name, want := range map[string][]string{
			"orgadmin": {org}, "accesssecretsmanager": {"x", org}, "groups": {"a", "b"}, "aud": {"latchkey"}, "role": {"viewer", "a=b"},
		} {
			if !slices.Equal(token.Claims[name], want) {
				t.Errorf("%s is %q, not %q", name, token.Claims[name], want)
			}
		}
	})
	for name, form := range map[string]url.Values{
		"a claim of none":  {"user": {user}, "set": {"=x"}},
		"a claim alone":    {"user": {user}, "set": {"x"}},
		"nobody":           {},
		"no GUID":          {"user": {"bob"}},
		"another client":   {"client_id": {"organization." + user}},
		"another grant":    {"user": {user}, "grant_type": {"password"}},
		"a lifetime of 0":  {"user": {user}, "expires_in": {"0"}},
		"an endless one":   {"user": {user}, "expires_in": {"99999999999"}},
		"one in words":     {"user": {user}, "expires_in": {"hour"}},
		"more than a form": {"user": {user}, "x": {strings.Repeat("x", 100_000)}},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			if status, body := ask(t, server.URL, form); status != http.StatusBadRequest || body["error"] == nil || body["access_token"] != nil {
				t.Errorf("answer is %d %v", status, body)
			}
		})
	}
	t.Run("refused: GET", func(t *testing.T) {
		response, err := http.Get(server.URL + "/connect/token?user=" + user)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("status is %d", response.StatusCode)
		}
	})
}

func TestDiscoveryUnderAPrefix(t *testing.T) {
	for _, given := range []string{"", "https://vault.example.com/identity/"} {
		s := newServer(t, devidentity.Config{URL: given})
		r := httptest.NewRequest("GET", "https://127.0.0.1:18480/.well-known/openid-configuration", nil)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		body, err := io.ReadAll(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		want := "https://127.0.0.1:18480/.well-known/openid-configuration/jwks"
		if given != "" {
			want = "https://vault.example.com/identity/.well-known/openid-configuration/jwks"
		}
		if !strings.Contains(string(body), `"`+want+`"`) || !strings.Contains(string(body), `"issuer":"http://127.0.0.1"`) {
			t.Errorf("document is %s", body)
		}
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.pem")
	first := newServer(t, devidentity.Config{KeyFile: path})
	raw, err := first.Mint(devidentity.Claims{User: user})
	if err != nil {
		t.Fatal(err)
	}
	claimsOf(t, newServer(t, devidentity.Config{KeyFile: path}), raw)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file is %v, %v", info, err)
	}

	if err := first.Rotate(); err != nil {
		t.Fatal(err)
	}
	second := newServer(t, devidentity.Config{KeyFile: path})
	if !second.PublicKey().Equal(first.PublicKey()) {
		t.Error("the key after a rotation is not that of the file")
	}
	token, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	if err := token.Claims(second.PublicKey(), &map[string]any{}); err == nil {
		t.Error("the rotation kept the key")
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("there are other files left: %v, %v", entries, err)
	}
}

func TestTwoServersMakeOneKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.pem")
	servers := make([]*devidentity.Server, 4)
	var group sync.WaitGroup
	for i := range servers {
		group.Go(func() {
			s, err := devidentity.New(devidentity.Config{Issuer: "i", KeyFile: path})
			if err != nil {
				t.Error(err)
				return
			}
			servers[i] = s
		})
	}
	group.Wait()
	for _, s := range servers {
		if s == nil || !s.PublicKey().Equal(servers[0].PublicKey()) {
			t.Fatal("two servers have two keys")
		}
	}
}

func TestConfigurationsThatAreWrong(t *testing.T) {
	damaged := filepath.Join(t.TempDir(), "damaged.pem")
	if err := os.WriteFile(damaged, []byte("-----BEGIN PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]devidentity.Config{
		"no issuer":      {},
		"a damaged key":  {Issuer: "i", KeyFile: damaged},
		"a URL of none":  {Issuer: "i", URL: "identity"},
		"a URL that has": {Issuer: "i", URL: "http://a b"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := devidentity.New(c); !errors.Is(err, fault.Invalid) {
				t.Errorf("error is %v", err)
			}
		})
	}
	if _, err := devidentity.New(devidentity.Config{Issuer: "i", KeyFile: t.TempDir() + "/no/such/folder"}); err == nil {
		t.Error("a key was kept nowhere")
	}
}
