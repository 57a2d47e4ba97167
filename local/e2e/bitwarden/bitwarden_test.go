package bitwarden

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"net/http"
	"net/url"
	"testing"
)

func TestDecryptRefusesWhatEncryptDidNotMake(t *testing.T) {
	key := NewKey()
	for _, plain := range []string{"", "Router", "exactly 16 bytes"} {
		if got, err := key.Decrypt(key.Encrypt([]byte(plain))); err != nil || string(got) != plain {
			t.Errorf("%q came back as %q, %v", plain, got, err)
		}
	}
	whole := key.Encrypt([]byte("Router"))
	for name, bad := range map[string]string{
		"another type":  "1" + whole[1:],
		"a part less":   whole[:bytes.LastIndexByte([]byte(whole), '|')],
		"no base64":     "2.%" + whole[3:],
		"another key's": NewKey().Encrypt([]byte("Router")),
		"nothing":       "",
	} {
		if got, err := key.Decrypt(bad); err == nil {
			t.Errorf("%s was decrypted to %q", name, got)
		}
	}
}

func TestTokensAreGrantedToThoseWhoProveThemselves(t *testing.T) {
	s := Start(t)
	user := s.AddUser("anna@acme.test")
	s.SignIn(user)
	client := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.Authority.Pool}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	const verifier, callback = "a verifier of the client's own", "http://localhost:8065"
	code := func() string {
		sum := sha256.Sum256([]byte(verifier))
		q := url.Values{
			"client_id": {"cli"}, "redirect_uri": {callback}, "state": {"s"}, "domain_hint": {OrgIdentifier},
			"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
		}
		resp, err := client.Get(s.URL + "/identity/connect/authorize?" + q.Encode())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		to, err := resp.Location()
		if err != nil {
			t.Fatalf("no redirect: %s", resp.Status)
		}
		return to.Query().Get("code")
	}
	redeem := func(code, verifier string) url.Values {
		return url.Values{
			"grant_type": {"authorization_code"}, "client_id": {"cli"}, "redirect_uri": {callback}, "code": {code}, "code_verifier": {verifier},
		}
	}
	apiKey := func(id, secret string) url.Values {
		return url.Values{"grant_type": {"client_credentials"}, "scope": {"api"}, "client_id": {id}, "client_secret": {secret}}
	}
	used := code()
	for _, test := range []struct {
		name string
		form url.Values
		want int
	}{
		{"the personal API key", apiKey(user.ClientID(), user.APISecret), http.StatusOK},
		{"another secret", apiKey(user.ClientID(), "guess"), http.StatusBadRequest},
		{"somebody unknown", apiKey("user.nobody", ""), http.StatusBadRequest},
		{"a code with its verifier", redeem(used, verifier), http.StatusOK},
		{"a code for the second time", redeem(used, verifier), http.StatusBadRequest},
		{"a code with another verifier", redeem(code(), "guess"), http.StatusBadRequest},
		{"no code", redeem("", verifier), http.StatusBadRequest},
		{"a refresh token never given", url.Values{"grant_type": {"refresh_token"}, "client_id": {"cli"}, "refresh_token": {"guess"}}, http.StatusBadRequest},
	} {
		t.Run(test.name, func(t *testing.T) {
			resp, err := client.PostForm(s.URL+"/identity/connect/token", test.form)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != test.want {
				t.Errorf("%s, want %d", resp.Status, test.want)
			}
		})
	}
}

// recorded is a test that keeps the failures its server reports.
type recorded struct {
	testing.TB
	failures int
	cleanups []func()
}

func (r *recorded) Errorf(string, ...any) { r.failures++ }
func (r *recorded) Cleanup(f func())      { r.cleanups = append(r.cleanups, f) }

func TestARequestNobodyKnowsFailsTheTest(t *testing.T) {
	r := &recorded{TB: t}
	s := Start(r)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.Authority.Pool}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(s.URL + "/api/devices")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for _, f := range r.cleanups {
		f()
	}
	if resp.StatusCode != http.StatusNotFound || r.failures != 1 {
		t.Errorf("%s, %d failures reported; want 404 and one", resp.Status, r.failures)
	}
}
