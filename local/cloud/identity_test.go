package cloud_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/latchkey-fn/latchkey/local/cloud"
)

func TestAToken(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	answer := w.askToken(nil)
	var body map[string]any
	if err := json.Unmarshal([]byte(answer.body), &body); err != nil {
		t.Fatal(err)
	}
	if answer.status != 200 || body["expires_in"] != 86400.0 || body["token_type"] != "Bearer" || body["scope"] != "api.installation" || len(body) != 4 {
		t.Errorf("answer is %+v", answer)
	}
	var keys jose.JSONWebKeySet
	var discovery map[string]any
	if err := json.Unmarshal([]byte(w.send("GET", w.IdentityURL()+"/.well-known/openid-configuration", "", "", "").body), &discovery); err != nil {
		t.Fatal(err)
	}
	keySet, _ := discovery["jwks_uri"].(string)
	if !strings.HasPrefix(keySet, w.IdentityURL()) {
		t.Fatalf("discovery is %v", discovery)
	}
	if err := json.Unmarshal([]byte(w.send("GET", keySet, "", "", "").body), &keys); err != nil {
		t.Fatal(err)
	}
	token, err := jwt.ParseSigned(body["access_token"].(string), []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := token.Claims(keys, &claims); err != nil {
		t.Fatal(err)
	}
	if token.Headers[0].ExtraHeaders["typ"] != "at+jwt" {
		t.Errorf("header is %+v", token.Headers[0])
	}
	now := float64(epoch.Unix())
	for name, want := range map[string]any{
		"iss": "https://identity.bitwarden.com", "nbf": now, "iat": now, "exp": now + 86400,
		"client_id": "installation." + w.installation.ID, "client_sub": w.installation.ID,
	} {
		if claims[name] != want {
			t.Errorf("%s is %v", name, claims[name])
		}
	}
	if scope := claims["scope"].([]any); len(scope) != 1 || scope[0] != "api.installation" || claims["jti"] == "" || claims["aud"] != nil {
		t.Errorf("claims are %v", claims)
	}
	if i, err := w.Installation(w.installation.ID); err != nil || i.LastActivity == nil || !i.LastActivity.Equal(epoch) {
		t.Errorf("installation is %+v (%v)", i, err)
	}
}

func TestWhatTheTokenEndpointRefuses(t *testing.T) {
	set := func(name, value string) func(*world, url.Values) {
		return func(_ *world, f url.Values) { f.Set(name, value) }
	}
	for name, test := range map[string]struct {
		change func(*world, url.Values)
		want   string
	}{
		"an unknown installation": {set("client_id", "installation."+key(9)), "invalid_client"},
		"a malformed GUID":        {set("client_id", "installation.1"), "invalid_client"},
		"another kind of client":  {set("client_id", "user."+key(9)), "invalid_client"},
		"no client":               {func(_ *world, f url.Values) { f.Del("client_id") }, "invalid_client"},
		"a wrong key":             {set("client_secret", "x"), "invalid_client"},
		"a disabled installation": {func(w *world, _ url.Values) {
			if err := w.DisableInstallation(w.installation.ID); err != nil {
				w.Fatal(err)
			}
		}, "invalid_client"},
		"a wrong key and a wrong grant": {func(_ *world, f url.Values) { f.Set("client_secret", "x"); f.Set("grant_type", "x") }, "invalid_client"},
		"a scope that is unknown":       {set("scope", "api.installation api.root"), "invalid_scope"},
		"a scope of people":             {set("scope", "api"), "invalid_scope"},
		"no such grant":                 {set("grant_type", "magic"), "unsupported_grant_type"},
		"a grant of others":             {set("grant_type", "password"), "unauthorized_client"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, cloud.Config{})
			answer := w.askToken(func(f url.Values) { test.change(w, f) })
			if answer.status != 400 || answer.body != `{"error":"`+test.want+`"}` {
				t.Errorf("answer is %+v", answer)
			}
			if i, err := w.Installation(w.installation.ID); err != nil || i.LastActivity != nil {
				t.Errorf("installation is %+v (%v)", i, err)
			}
		})
	}
	w := newWorld(t, cloud.Config{})
	if answer := w.send("POST", w.IdentityURL()+"/connect/token", "application/json", "", "{}"); answer.body != `{"error":"invalid_request"}` {
		t.Errorf("answer is %+v", answer)
	}
	if answer := w.askToken(func(f url.Values) { f.Del("scope") }); !strings.Contains(answer.body, `"scope":"api.installation api.licensing api.push"`) {
		t.Errorf("answer is %+v", answer)
	}
}

func TestTheRegionsKnowNothingOfEachOther(t *testing.T) {
	us := newWorld(t, cloud.Config{Region: cloud.US})
	eu := newWorld(t, cloud.Config{Region: cloud.EU})
	both := &http.Client{Transport: cloud.NewTransport(us.Cloud, eu.Cloud)}
	us.http, eu.http = both, both
	us.token, eu.token = us.newToken("api.installation"), eu.newToken("api.installation")
	us.sync(offer(1))
	eu.sync(offer(1))
	us.expect(1, 1)
	eu.expect(1, 1)
	if !strings.HasPrefix(eu.Mails()[0].Link, "https://vault.bitwarden.eu/") {
		t.Errorf("link is %s", eu.Mails()[0].Link)
	}
	eu.installation = us.installation
	if answer := eu.askToken(nil); answer.body != `{"error":"invalid_client"}` {
		t.Errorf("an installation of the other region: %+v", answer)
	}
	ofEU := eu.token
	eu.token = us.token
	if answer := eu.post(eu.syncBody()); answer.status != 401 {
		t.Errorf("a token of the other region: %+v", answer)
	}
	eu.token = ofEU
	eu.organization.ID = us.organization.ID
	if answer := eu.post(eu.syncBody()); messageOf(t, answer) != "Invalid organization" {
		t.Errorf("an organization of the other region: %+v", answer)
	}
}

func TestADisabledInstallationIsCachedOnRequest(t *testing.T) {
	for name, test := range map[string]struct {
		cache time.Duration
		after time.Duration
		works bool
	}{
		"without a cache":           {0, 0, false},
		"within five minutes":       {5 * time.Minute, 5*time.Minute - time.Second, true},
		"when five minutes are up":  {5 * time.Minute, 5 * time.Minute, false},
		"within five minutes again": {5 * time.Minute, time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, cloud.Config{ClientCache: test.cache})
			w.token = w.newToken("api.installation")
			if err := w.DisableInstallation(w.installation.ID); err != nil {
				t.Fatal(err)
			}
			w.Advance(test.after)
			if answer := w.askToken(nil); (answer.status == 200) != test.works {
				t.Errorf("answer is %+v", answer)
			}
			w.sync(offer(1)) // the token lives
			if err := w.EnableInstallation(w.installation.ID); err != nil {
				t.Fatal(err)
			}
			w.SetClientCache(0)
			w.newToken("api.installation")
		})
	}
}
