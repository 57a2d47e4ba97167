package tokenexchange_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/functions/tokenexchange"
	"github.com/latchkey-fn/latchkey/shared/accesstoken"
	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/logtest"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/signing"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

const (
	organization = "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"
	address      = "192.0.2.1"
	formType     = "application/x-www-form-urlencoded; charset=utf-8"
)

// house is the exchange over a store and a key that fail on demand, with a clock
// that is set, and one access token.
type house struct {
	*tokenexchange.Function
	driver  *storetest.Faults
	key     *kmstest.Key
	clock   *clock
	logs    *logtest.Log
	account string
	token   accesstoken.Token
	payload string
	// organizationKey is what the payload opens to.
	organizationKey encstring.Key
}

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) wait(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

var settings = map[string]string{
	"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": "unused",
	"LATCHKEY_PUBLIC_URL": "https://sm.example.org:8443/secrets", "LATCHKEY_SIGNING_ALGORITHM": "ES256",
}

func with(name, value string) map[string]string {
	changed := maps.Clone(settings)
	changed[name] = value
	return changed
}

// open starts an instance and makes an access token.
func open(t testing.TB, settings map[string]string) *house {
	t.Helper()
	h := &house{
		// A store forgets what has expired by its own clock, so the clock is near.
		driver: storetest.NewFaults(store.NewTable()), key: kmstest.NewKey(t), clock: &clock{at: time.Now().UTC().Truncate(time.Second)},
		logs: &logtest.Log{},
	}
	h.Function = h.instance(t, settings)
	h.token, h.account = h.newToken(t, nil)
	h.driver.Reset()
	return h
}

// instance starts another instance over the same store.
func (h *house) instance(t testing.TB, settings map[string]string) *tokenexchange.Function {
	t.Helper()
	config, warnings, err := tokenexchange.LoadConfig(settings)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	function, err := tokenexchange.New(config, tokenexchange.Parts{
		Store: h.driver, Key: h.key, Logger: h.logs.Logger(), Now: h.clock.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return function
}

func (h *house) newToken(t testing.TB, expires *time.Time) (token accesstoken.Token, account string) {
	t.Helper()
	admin := machine.OfPerson(machine.Person{Subject: "alice", Role: func(string) machine.Role { return machine.Admin }})
	access, err := admin.In(organization)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	made, err := h.Machines.CreateAccount(ctx, access, machine.AccountSettings{Name: "2.name"})
	if err != nil {
		t.Fatal(err)
	}
	// The payload is sealed for the 16 bytes, whatever the id.
	h.organizationKey = encstring.NewKey()
	seed := accesstoken.New("", "")
	if h.payload, err = seed.Seal(h.organizationKey); err != nil {
		t.Fatal(err)
	}
	record, secret, err := h.Machines.CreateToken(ctx, admin, made.ID, machine.NewToken{
		Name: "2.name", Payload: h.payload, Key: "2.key", Expires: expires,
	})
	if err != nil {
		t.Fatal(err)
	}
	return accesstoken.Token{ID: record.ID, ClientSecret: secret, Seed: seed.Seed}, made.ID
}

// change alters the token's record.
func (h *house) change(t testing.TB, id string, change func(*machine.Token)) {
	t.Helper()
	_, err := store.NewCollection[machine.Token](store.New(h.driver), "access-tokens").Update(t.Context(), id, func(r *store.Record[machine.Token]) error {
		change(&r.Value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func formOf(token accesstoken.Token) url.Values {
	return url.Values{
		"scope": {"api.secrets"}, "client_id": {token.ID}, "client_secret": {token.ClientSecret}, "grant_type": {"client_credentials"},
	}
}

func request(method, path, body string) *http.Request {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.RemoteAddr = address + ":4711"
	r.Header.Set("Content-Type", formType)
	return r
}

func serve(on http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	on.ServeHTTP(w, r)
	return w
}

func post(on http.Handler, form url.Values) *httptest.ResponseRecorder {
	return serve(on, request(http.MethodPost, "/identity/connect/token", form.Encode()))
}

// answer is the success, strictly: these members and no other.
type answer struct {
	AccessToken      *string `json:"access_token"`
	ExpiresIn        *int    `json:"expires_in"`
	TokenType        *string `json:"token_type"`
	Scope            *string `json:"scope"`
	EncryptedPayload *string `json:"encrypted_payload"`
}

func decode(t testing.TB, content []byte, into any) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%s: %v", content, err)
	}
}

func wantGranted(t testing.TB, w *httptest.ResponseRecorder) answer {
	t.Helper()
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	var a answer
	decode(t, w.Body.Bytes(), &a)
	if a.AccessToken == nil || a.ExpiresIn == nil || a.TokenType == nil || a.Scope == nil || a.EncryptedPayload == nil {
		t.Fatalf("a member is missing: %s", w.Body)
	}
	return a
}

func wantBody(t testing.TB, w *httptest.ResponseRecorder, status int, body string) {
	t.Helper()
	if w.Code != status || w.Body.String() != body {
		t.Errorf("%d %s, want %d %s", w.Code, w.Body, status, body)
	}
	if got := w.Header().Get("Content-Type"); !strings.HasPrefix(got, "application/json") {
		t.Errorf("the content type is %q", got)
	}
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control is %q", got)
	}
}

const bareInvalidClient = `{"error":"invalid_client"}`

type claims struct {
	Issuer       string   `json:"iss"`
	NotBefore    int64    `json:"nbf"`
	IssuedAt     int64    `json:"iat"`
	Expires      int64    `json:"exp"`
	ClientID     string   `json:"client_id"`
	Subject      string   `json:"sub"`
	Type         string   `json:"type"`
	Organization string   `json:"organization"`
	Scope        []string `json:"scope"`
	ID           string   `json:"jti"`
	Generation   string   `json:"secret_generation"`
}

// claimsOf reads a session's claims with a key that is published somewhere.
func claimsOf(t testing.TB, token string, published http.Handler) claims {
	t.Helper()
	var set jose.JSONWebKeySet
	w := serve(published, request(http.MethodGet, "/identity/.well-known/openid-configuration/jwks", ""))
	if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := parsed.Verify(set)
	if err != nil {
		t.Fatalf("no published key verifies the session: %v", err)
	}
	var c claims
	decode(t, payload, &c)
	return c
}

func TestARequestAsClientsSendItIsAnsweredAsTheyWantIt(t *testing.T) {
	for _, algorithm := range []string{"RS256", "ES256"} {
		h := open(t, with("LATCHKEY_SIGNING_ALGORITHM", algorithm))
		server := httptest.NewServer(h)
		defer server.Close()
		body := "scope=api.secrets&client_id=" + h.token.ID + "&client_secret=" + h.token.ClientSecret + "&grant_type=client_credentials"
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/identity/connect/token", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{
			"Accept": {"application/json"}, "Content-Type": {formType}, "Device-Type": {"21"}, "User-Agent": {"Bitwarden GOLANG-SDK"},
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(response.Body)
		if err != nil || response.Body.Close() != nil {
			t.Fatal(err)
		}
		if response.StatusCode != http.StatusOK || response.Header.Get("Cache-Control") != "no-store" ||
			!strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") {
			t.Errorf("%s %v", response.Status, response.Header)
		}
		var a answer
		decode(t, content, &a)
		want := fmt.Sprintf(`{"access_token":%q,"expires_in":3600,"token_type":"Bearer","scope":"api.secrets","encrypted_payload":%q}`, *a.AccessToken, h.payload)
		if string(content) != want {
			t.Errorf("the answer is\n%s\nwant\n%s", content, want)
		}
		key, err := h.token.Open(*a.EncryptedPayload)
		if err != nil || key.Reveal() != h.organizationKey.Reveal() {
			t.Errorf("the payload does not open to the organisation's key: %v", err)
		}

		now := h.clock.now().Unix()
		got := claimsOf(t, *a.AccessToken, h)
		if !regexp.MustCompile(`^[0-9A-F]{32}$`).MatchString(got.ID) {
			t.Errorf("jti is %q", got.ID)
		}
		expected := claims{
			Issuer: "https://sm.example.org", NotBefore: now, IssuedAt: now, Expires: now + 3600, ClientID: h.token.ID, Subject: h.account,
			Type: "ServiceAccount", Organization: organization, Scope: []string{"api.secrets"}, ID: got.ID,
		}
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", expected) {
			t.Errorf("the claims are\n%+v\nwant\n%+v", got, expected)
		}
		first, _, _ := strings.Cut(*a.AccessToken, ".")
		header, err := base64.RawURLEncoding.DecodeString(first)
		if err != nil || !regexp.MustCompile(`^{"alg":"`+algorithm+`","kid":"[0-9A-F]{64}`+algorithm+`","typ":"at\+jwt"}$`).Match(header) {
			t.Errorf("the header is %s", header)
		}
	}
}

func TestSessionsDifferInTheirIDs(t *testing.T) {
	h := open(t, settings)
	first := claimsOf(t, *wantGranted(t, post(h, formOf(h.token))).AccessToken, h)
	second := claimsOf(t, *wantGranted(t, post(h, formOf(h.token))).AccessToken, h)
	if first.ID == second.ID {
		t.Error("two sessions have one id")
	}
}

func TestEverySpellingOfARightRequestIsTaken(t *testing.T) {
	h := open(t, settings)
	for name, change := range map[string]func(r *http.Request, form url.Values) url.Values{
		"upper case": func(_ *http.Request, f url.Values) url.Values {
			f.Set("client_id", strings.ToUpper(h.token.ID))
			return f
		},
		"no hyphens": func(_ *http.Request, f url.Values) url.Values {
			f.Set("client_id", strings.ReplaceAll(h.token.ID, "-", ""))
			return f
		},
		"with apikey": func(_ *http.Request, f url.Values) url.Values { f.Set("client_id", "apikey."+h.token.ID); return f },
		"more scopes": func(_ *http.Request, f url.Values) url.Values {
			f.Set("scope", "openid  api.secrets offline_access")
			return f
		},
		"more members": func(_ *http.Request, f url.Values) url.Values { f.Set("deviceType", "21"); return f },
		"no charset": func(r *http.Request, f url.Values) url.Values {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			return f
		},
		"content type": func(r *http.Request, f url.Values) url.Values {
			r.Header.Set("Content-Type", "Application/X-WWW-Form-Urlencoded;charset=\"UTF-8\"")
			return f
		},
		"without /identity": func(r *http.Request, f url.Values) url.Values { r.URL.Path = "/connect/token"; return f },
		"with the path": func(r *http.Request, f url.Values) url.Values {
			r.URL.Path = "/secrets/identity/connect/token"
			return f
		},
		"path, no /identity": func(r *http.Request, f url.Values) url.Values { r.URL.Path = "/secrets/connect/token"; return f },
		"client_secret_basic": func(r *http.Request, f url.Values) url.Values {
			r.SetBasicAuth(url.QueryEscape("apikey."+h.token.ID), url.QueryEscape(h.token.ClientSecret))
			f.Del("client_id")
			f.Del("client_secret")
			return f
		},
		"basic and the same id": func(r *http.Request, f url.Values) url.Values {
			r.SetBasicAuth(h.token.ID, h.token.ClientSecret)
			f.Del("client_secret")
			return f
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(http.MethodPost, "/identity/connect/token", "")
			r.Body = io.NopCloser(strings.NewReader(change(r, formOf(h.token)).Encode()))
			a := wantGranted(t, serve(h, r))
			if got := claimsOf(t, *a.AccessToken, h).ClientID; got != h.token.ID {
				t.Errorf("the session is of %q", got)
			}
		})
	}
	// A client secret may hold anything but a point and a colon.
	const odd = "bwsm_A+b/c=d%e&f g~h-éX"
	h.change(t, h.token.ID, func(token *machine.Token) { token.Hash = accesstoken.Hash(odd) })
	body := "scope=api.secrets&client_id=" + h.token.ID + "&client_secret=bwsm_A%2Bb%2Fc%3Dd%25e%26f+g%7Eh-%C3%A9X&grant_type=client_credentials"
	wantGranted(t, serve(h, request(http.MethodPost, "/identity/connect/token", body)))
}

func TestARequestThatIsNoneIsRefusedWithoutAskingTheStore(t *testing.T) {
	h := open(t, settings)
	without := func(name string) string { f := formOf(h.token); f.Del(name); return f.Encode() }
	changed := func(name, value string) string { f := formOf(h.token); f.Set(name, value); return f.Encode() }
	right := formOf(h.token).Encode()
	for name, c := range map[string]struct {
		body, kind, authorization, want string
	}{
		"no grant type":                {body: without("grant_type"), want: "unsupported_grant_type"},
		"a password grant":             {body: changed("grant_type", "password"), want: "unsupported_grant_type"},
		"no scope":                     {body: without("scope"), want: "invalid_scope"},
		"another scope":                {body: changed("scope", "api"), want: "invalid_scope"},
		"a scope that only looks so":   {body: changed("scope", "api.secretsx"), want: "invalid_scope"},
		"nothing":                      {want: "unsupported_grant_type"},
		"JSON":                         {body: `{"client_id":"x"}`, kind: "application/json", want: "invalid_request"},
		"no content type":              {body: right, kind: "-", want: "invalid_request"},
		"a broken content type":        {body: right, kind: "application/x-www-form-urlencoded; charset", want: "invalid_request"},
		"multipart":                    {body: right, kind: "multipart/form-data; boundary=x", want: "invalid_request"},
		"a member twice":               {body: right + "&client_secret=x", want: "invalid_request"},
		"a broken escape":              {body: right + "&x=%zz", want: "invalid_request"},
		"a semicolon":                  {body: right + "&x=1;y=2", want: "invalid_request"},
		"too long":                     {body: right + "&x=" + strings.Repeat("x", 8<<10), want: "invalid_request"},
		"both ways to name the client": {body: right, authorization: "Basic " + base64.StdEncoding.EncodeToString([]byte(h.token.ID+":"+h.token.ClientSecret)), want: "invalid_request"},
		"two clients":                  {body: without("client_secret"), authorization: "Basic " + base64.StdEncoding.EncodeToString([]byte("x:y")), want: "invalid_request"},
		"another authorization":        {body: right, authorization: "Bearer x", want: "invalid_request"},
		"a broken escape in the header": {
			body: "grant_type=client_credentials&scope=api.secrets", authorization: "Basic " + base64.StdEncoding.EncodeToString([]byte("%zz:y")), want: "invalid_request",
		},
	} {
		t.Run(name, func(t *testing.T) {
			h.driver.Reset()
			r := request(http.MethodPost, "/identity/connect/token", c.body)
			switch c.kind {
			case "":
			case "-":
				r.Header.Del("Content-Type")
			default:
				r.Header.Set("Content-Type", c.kind)
			}
			if c.authorization != "" {
				r.Header.Set("Authorization", c.authorization)
			}
			wantBody(t, serve(h, r), http.StatusBadRequest, `{"error":"`+c.want+`"}`)
			if n := h.driver.Calls(); n != 0 {
				t.Errorf("it cost %d storage calls", n)
			}
		})
	}
	// Secrets do not belong into an address, and are not read there.
	r := request(http.MethodPost, "/identity/connect/token?"+right, "")
	wantBody(t, serve(h, r), http.StatusBadRequest, `{"error":"unsupported_grant_type"}`)
}

func TestTheReasonIsToldOnlyToWhoHasTheSecret(t *testing.T) {
	reason := func(message string) string {
		return fmt.Sprintf(`{"error":"invalid_client","error_description":%q,"ErrorModel":{"Message":%q,"Object":"error"}}`, message, message)
	}
	for name, c := range map[string]struct {
		change func(h *house, token *machine.Token)
		want   string // with the right secret
	}{
		"revoked": {
			func(_ *house, token *machine.Token) {
				token.Revoked = &machine.Deed{At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), By: "user:alice"}
			},
			reason("The access token was revoked by user:alice on 2026-01-02 03:04:05 UTC."),
		},
		"expired": {
			func(_ *house, token *machine.Token) { token.Expires = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) },
			reason("The access token expired on 2026-01-02 03:04:05 UTC."),
		},
		"rotated": {
			func(_ *house, token *machine.Token) {
				token.Former = &machine.Former{Hash: token.Hash, Until: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
				token.Hash = accesstoken.Hash("another")
			},
			reason("The client secret of the access token was replaced; the former one was good until 2026-01-02 03:04:05 UTC."),
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, settings)
			h.change(t, h.token.ID, func(token *machine.Token) { c.change(h, token) })
			wantBody(t, post(h, formOf(h.token)), http.StatusBadRequest, c.want)
			wrong := formOf(h.token)
			wrong.Set("client_secret", h.token.ClientSecret+"x")
			wantBody(t, post(h, wrong), http.StatusBadRequest, bareInvalidClient)
		})
	}
	h := open(t, settings)
	for _, change := range []func(url.Values){
		func(f url.Values) { f.Set("client_secret", "wrong") },
		func(f url.Values) { f.Set("client_secret", "") },
		func(f url.Values) { f.Del("client_secret") },
		func(f url.Values) { f.Set("client_id", uuid.NewString()) },
		func(f url.Values) { f.Set("client_id", "organization."+h.token.ID) },
		func(f url.Values) { f.Set("client_id", "x") },
		func(f url.Values) { f.Del("client_id") },
	} {
		form := formOf(h.token)
		change(form)
		wantBody(t, post(h, form), http.StatusBadRequest, bareInvalidClient)
	}
}

func TestASessionEndsNoLaterThanItsSecret(t *testing.T) {
	for _, c := range []struct {
		expires time.Duration // from now; 0: never
		former  bool
		want    int
	}{
		{0, false, 3600},
		{2 * time.Hour, false, 3600},
		{time.Hour, false, 3600},
		{time.Hour - time.Second, false, 3599},
		{90*time.Second + 500*time.Millisecond, false, 90},
		{time.Second, false, 1},
		{time.Millisecond, false, 1},
		{10 * time.Minute, true, 600},
		{10 * time.Hour, true, 3600},
	} {
		h := open(t, settings)
		now := h.clock.now()
		h.change(t, h.token.ID, func(token *machine.Token) {
			switch {
			case c.former:
				token.Former = &machine.Former{Hash: token.Hash, Until: now.Add(c.expires)}
				token.Hash, token.Generation = accesstoken.Hash("another"), 1
			case c.expires != 0:
				token.Expires = now.Add(c.expires)
			}
		})
		a := wantGranted(t, post(h, formOf(h.token)))
		if got := claimsOf(t, *a.AccessToken, h); *a.ExpiresIn != c.want || got.Expires != got.IssuedAt+int64(c.want) {
			t.Errorf("%+v: expires_in is %d, the session lasts %d", c, *a.ExpiresIn, got.Expires-got.IssuedAt)
		}
	}
}

func TestOtherMethodsAndPathsAreRefusedInJSON(t *testing.T) {
	h := open(t, settings)
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{http.MethodGet, "/identity/connect/token", http.StatusMethodNotAllowed, http.MethodPost},
		{http.MethodPut, "/connect/token", http.StatusMethodNotAllowed, http.MethodPost},
		{http.MethodPost, "/identity/.well-known/openid-configuration", http.StatusMethodNotAllowed, http.MethodGet},
		{http.MethodDelete, "/.well-known/openid-configuration/jwks", http.StatusMethodNotAllowed, http.MethodGet},
		{http.MethodGet, "/identity", http.StatusNotFound, ""},
		{http.MethodPost, "/identity/connect/authorize", http.StatusNotFound, ""},
		{http.MethodPost, "/api/connect/token", http.StatusNotFound, ""},
	} {
		w := serve(h, request(c.method, c.path, ""))
		var problem struct{ Message, Object string }
		if err := json.Unmarshal(w.Body.Bytes(), &problem); err != nil || w.Code != c.status || problem.Object != "error" || problem.Message == "" || w.Header().Get("Allow") != c.allow {
			t.Errorf("%s %s: %d %s %v", c.method, c.path, w.Code, w.Body, w.Header())
		}
	}
}

func TestDiscoveryNamesWhatIsThere(t *testing.T) {
	h := open(t, settings)
	wantUnavailable(t, serve(h, request(http.MethodGet, "/identity/.well-known/openid-configuration/jwks", ""))) // there is no key yet
	post(h, formOf(h.token))
	for _, base := range []string{"/identity", "", "/secrets/identity"} {
		w := serve(h, request(http.MethodGet, base+"/.well-known/openid-configuration", ""))
		want := `{"issuer":"https://sm.example.org",` +
			`"jwks_uri":"https://sm.example.org:8443/secrets/identity/.well-known/openid-configuration/jwks",` +
			`"token_endpoint":"https://sm.example.org:8443/secrets/identity/connect/token",` +
			`"scopes_supported":["api.secrets"],"grant_types_supported":["client_credentials"],` +
			`"response_types_supported":["token"],"subject_types_supported":["public"],` +
			`"token_endpoint_auth_methods_supported":["client_secret_basic","client_secret_post"],` +
			`"id_token_signing_alg_values_supported":["RS256","ES256"]}`
		if w.Code != http.StatusOK || w.Body.String() != want || w.Header().Get("Cache-Control") != "public, max-age=300" {
			t.Errorf("%d %s %v", w.Code, w.Body, w.Header())
		}
		w = serve(h, request(http.MethodGet, base+"/.well-known/openid-configuration/jwks", ""))
		var set struct {
			Keys []map[string]string
		}
		decode(t, w.Body.Bytes(), &set)
		if len(set.Keys) != 1 || w.Header().Get("Cache-Control") != "public, max-age=300" || w.Header().Get("Access-Control-Allow-Origin") != "*" {
			t.Fatalf("%s %v", w.Body, w.Header())
		}
		members := slices.Sorted(maps.Keys(set.Keys[0]))
		if fmt.Sprint(members) != "[alg crv kid kty use x y]" || set.Keys[0]["use"] != "sig" || set.Keys[0]["alg"] != "ES256" {
			t.Errorf("the key is %v", set.Keys[0])
		}
	}
}

func TestAWarmExchangeIsOneReadAndNoKMSCall(t *testing.T) {
	h := open(t, settings)
	wantGranted(t, post(h, formOf(h.token)))
	h.driver.Reset()
	unwraps := h.key.Calls().Unwrap
	const exchanges = 20
	for range exchanges {
		wantGranted(t, post(h, formOf(h.token)))
	}
	if reads, all := h.driver.Calls(storetest.Get), h.driver.Calls(); reads != exchanges || all != exchanges {
		t.Errorf("%d exchanges cost %d reads of %d storage calls", exchanges, reads, all)
	}
	if n := h.key.Calls().Unwrap - unwraps; n != 0 {
		t.Errorf("%d exchanges cost %d KMS calls", exchanges, n)
	}
}

func TestAFailedExchangeIsTwoReadsAndTwoWrites(t *testing.T) {
	h := open(t, settings)
	for _, id := range []string{h.token.ID, uuid.NewString()} { // what exists costs as much as what does not
		form := formOf(h.token)
		form.Set("client_id", id)
		form.Set("client_secret", "wrong")
		h.driver.Reset()
		wantBody(t, post(h, form), http.StatusBadRequest, bareInvalidClient)
		if gets, many, puts, all := h.driver.Calls(storetest.Get), h.driver.Calls(storetest.GetMany), h.driver.Calls(storetest.Put), h.driver.Calls(); gets != 1 || many != 1 || puts != 2 || all != 4 {
			t.Errorf("%d, %d and %d of %d calls", gets, many, puts, all)
		}
	}
}

func wantUnavailable(t testing.TB, w *httptest.ResponseRecorder) {
	t.Helper()
	var problem struct{ Message, Object string }
	err := json.Unmarshal(w.Body.Bytes(), &problem)
	if err != nil || w.Code != http.StatusServiceUnavailable || problem.Message == "" || problem.Object != "error" || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s %v, want 503", w.Code, w.Body, w.Header())
	}
}

func TestAFaultOfOursIs503AndPasses(t *testing.T) {
	store503 := func(f storetest.Fault) func(*house) {
		return func(h *house) { h.driver.Inject(slices.Repeat([]storetest.Fault{f}, 50)...) }
	}
	for name, strike := range map[string]func(*house){
		"KMS down":         func(h *house) { h.key.Set(kmstest.Faults{Err: fault.Transient}) },
		"KMS refuses us":   func(h *house) { h.key.Set(kmstest.Faults{Err: fault.Denied}) },
		"KMS lost the key": func(h *house) { h.key.Set(kmstest.Faults{Err: fault.NotFound, DescribeToo: true}) },
		"KMS hangs":        func(h *house) { h.key.Set(kmstest.Faults{Hang: true}) },
		"store down":       store503(storetest.Fault{}),
		"store refuses us": store503(storetest.Fault{Err: fault.Denied}),
		"store hangs":      store503(storetest.Fault{When: storetest.Hang}),
		"keys unreadable":  store503(storetest.Fault{Collection: "signing-keys"}),
		"key not written":  store503(storetest.Fault{Method: storetest.Put, Collection: "signing-keys"}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "KMS hangs" && testing.Short() {
				t.Skip("the second stage (make test) waits until the hanging call is given up")
			}
			h := open(t, settings)
			cold := h.instance(t, with("LATCHKEY_REQUEST_TIMEOUT", "1s")) // nothing of it is warm
			strike(h)
			wantUnavailable(t, post(cold, formOf(h.token)))
			h.key.Set(kmstest.Faults{})
			h.driver.Reset()
			deadline := time.Now().Add(30 * time.Second)
			for {
				w := post(cold, formOf(h.token))
				if w.Code == http.StatusOK {
					claimsOf(t, *wantGranted(t, w).AccessToken, cold)
					return
				}
				wantUnavailable(t, w)
				if time.Now().After(deadline) {
					t.Fatal("it does not recover")
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
}

func TestAWarmInstanceOutlastsAKMSThatIsDown(t *testing.T) {
	h := open(t, settings)
	wantGranted(t, post(h, formOf(h.token)))
	h.key.Set(kmstest.Faults{Err: fault.Transient})
	h.clock.wait(30 * time.Minute)
	wantGranted(t, post(h, formOf(h.token)))
}

func TestAPayloadThatCannotBeOpenedIs500(t *testing.T) {
	h := open(t, settings)
	h.change(t, h.token.ID, func(token *machine.Token) { token.Sealed[30] ^= 1 })
	if w := post(h, formOf(h.token)); w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), `"message":"What is stored`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestInstancesVerifyEachOthersSessions(t *testing.T) {
	h := open(t, settings)
	instances := []http.Handler{h, h.instance(t, settings), h.instance(t, settings)} // the last as after a restart
	for _, from := range instances {
		a := wantGranted(t, post(from, formOf(h.token)))
		for _, at := range instances {
			claimsOf(t, *a.AccessToken, at)
		}
	}
}

// What the API's functions accept is decided elsewhere; this is both ends.
func TestTheAPIKnowsTheSessionsUntilTheTokenIsRevoked(t *testing.T) {
	for _, algorithm := range []string{"RS256", "ES256"} {
		environment := with("LATCHKEY_SIGNING_ALGORITHM", algorithm)
		h := open(t, environment)
		config, _, err := tokenexchange.LoadConfig(environment)
		if err != nil {
			t.Fatal(err)
		}
		documents, logger := store.New(h.driver), slog.New(slog.DiscardHandler)
		api, err := smapi.NewAuthenticator(smapi.CallersConfig{
			Machines: machine.New(machine.Config{Store: documents, Logger: logger, Now: h.clock.now}),
			Sessions: config.Sessions,
			Keys:     signing.New(signing.Config{Store: documents, Logger: logger, Now: h.clock.now}).Published,
			Now:      h.clock.now,
		})
		if err != nil {
			t.Fatal(err)
		}
		r := request(http.MethodGet, "/api/secrets/x", "")
		r.Header.Set("Authorization", "Bearer "+*wantGranted(t, post(h, formOf(h.token))).AccessToken)
		caller, err := api.Authenticate(r)
		if err != nil || caller.Token() != h.token.ID || caller.Machine() != h.account {
			t.Fatalf("%s: %q, %q, %v", algorithm, caller.Token(), caller.Machine(), err)
		}

		// Without a grace every session of the former client secret is over, and
		// the one that rotated can do nothing but that, once more.
		rotating := r.Header.Clone()
		r.Header.Set("Authorization", "Bearer "+*wantGranted(t, post(h, formOf(h.token))).AccessToken)
		_, fresh, err := h.Machines.Rotate(t.Context(), caller, h.token.ClientSecret, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := api.Authenticate(r); fault.Of(err) != fault.Unauthenticated || !strings.Contains(err.Error(), "was replaced") {
			t.Errorf("of a client secret that was replaced: %v", err)
		}
		r.Header = rotating
		caller, err = api.Authenticate(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := caller.In(organization); fault.Of(err) != fault.Unauthenticated {
			t.Errorf("the session that rotated can go on: %v", err)
		}
		if _, again, err := h.Machines.Rotate(t.Context(), caller, h.token.ClientSecret, 0); err != nil || again != fresh {
			t.Errorf("the rotation cannot be repeated: %v", err)
		}
		h.token.ClientSecret = fresh
		raw := *wantGranted(t, post(h, formOf(h.token))).AccessToken
		if got := claimsOf(t, raw, h).Generation; got != "1" {
			t.Errorf("the generation is %q", got)
		}
		r.Header.Set("Authorization", "Bearer "+raw)
		if caller, err = api.Authenticate(r); err != nil {
			t.Fatal(err)
		}
		if _, err := caller.In(organization); err != nil {
			t.Errorf("a session of the new client secret: %v", err)
		}

		h.change(t, h.token.ID, func(token *machine.Token) { token.Revoked = &machine.Deed{By: "user:alice"} })
		if _, err := api.Authenticate(r); fault.Of(err) != fault.Unauthenticated {
			t.Errorf("of a revoked token: %v", err)
		}
	}
}

func TestKeysAreRotatedAndTheOldOnePublishedUntilItsSessionsEnd(t *testing.T) {
	h := open(t, with("LATCHKEY_SIGNING_KEY_AGE", "24h"))
	keys := func() (ids []string) {
		w := serve(h, request(http.MethodGet, "/.well-known/openid-configuration/jwks", ""))
		var set jose.JSONWebKeySet
		if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil {
			t.Fatal(err)
		}
		for _, key := range set.Keys {
			ids = append(ids, key.KeyID)
		}
		return ids
	}
	last := *wantGranted(t, post(h, formOf(h.token))).AccessToken
	first := keys()[0]
	most := 0
	for range 28 * 2 {
		h.clock.wait(30 * time.Minute)
		claimsOf(t, last, h) // half an hour old
		last = *wantGranted(t, post(h, formOf(h.token))).AccessToken
		most = max(most, len(keys()))
	}
	if now := keys(); most != 2 || len(now) != 1 || now[0] == first {
		t.Errorf("%d keys were published at once, and at last %v", most, now)
	}
}

func wantTooMany(t testing.TB, w *httptest.ResponseRecorder) {
	t.Helper()
	var problem struct{ Message, Object string }
	err := json.Unmarshal(w.Body.Bytes(), &problem)
	if err != nil || w.Code != http.StatusTooManyRequests || problem.Message == "" || w.Header().Get("Retry-After") != "601" && w.Header().Get("Retry-After") != "600" {
		t.Errorf("%d %s %v, want 429", w.Code, w.Body, w.Header())
	}
}

func guess(on http.Handler, id, from string) *httptest.ResponseRecorder {
	r := request(http.MethodPost, "/identity/connect/token", formOf(accesstoken.Token{ID: id, ClientSecret: "guess"}).Encode())
	r.RemoteAddr = from
	return serve(on, r)
}

func TestGuessesAtOneTokenAreLimitedAndItsHolderIsNot(t *testing.T) {
	h := open(t, settings)
	for _, id := range []string{h.token.ID, uuid.NewString()} { // 429 does not tell which exists
		for i := range 20 {
			wantBody(t, guess(h, id, fmt.Sprintf("198.51.100.%d:1", i)), http.StatusBadRequest, bareInvalidClient)
		}
		wantTooMany(t, guess(h, id, "198.51.100.99:1"))
		cold := h.instance(t, settings)
		wantTooMany(t, guess(cold, strings.ToUpper(id), "198.51.100.98:1"))
		h.driver.Reset()
		for range 20 {
			wantTooMany(t, guess(cold, id, "198.51.100.97:1"))
		}
		if reads, all := h.driver.Calls(storetest.Get), h.driver.Calls(); reads != 20 || all != 20 {
			t.Errorf("20 guesses over the limit cost %d reads of %d storage calls", reads, all)
		}
	}
	wantGranted(t, post(h, formOf(h.token)))
	wantGranted(t, post(h.instance(t, settings), formOf(h.token)))
	h.clock.wait(10 * time.Minute)
	wantBody(t, guess(h, h.token.ID, "198.51.100.1:1"), http.StatusBadRequest, bareInvalidClient)
}

func TestGuessesFromOneAddressAreLimitedAndRightSecretsFromItAreNot(t *testing.T) {
	h := open(t, settings)
	for i := range 50 {
		wantBody(t, guess(h, uuid.NewString(), fmt.Sprintf("[2001:db8::%x]:1", i)), http.StatusBadRequest, bareInvalidClient)
	}
	wantTooMany(t, guess(h, uuid.NewString(), "[2001:db8::ffff:1]:1"))
	wantTooMany(t, guess(h.instance(t, settings), "no UUID", "[2001:db8::ffff:2]:1"))
	wantBody(t, guess(h, uuid.NewString(), "[2001:db8:0:1::1]:1"), http.StatusBadRequest, bareInvalidClient)
	r := request(http.MethodPost, "/connect/token", formOf(h.token).Encode())
	r.RemoteAddr = "[2001:db8::1]:1"
	wantGranted(t, serve(h, r))
	// Nor is a holder kept from learning that his token was revoked.
	h.change(t, h.token.ID, func(token *machine.Token) { token.Revoked = &machine.Deed{By: "user:alice"} })
	r = request(http.MethodPost, "/connect/token", formOf(h.token).Encode())
	r.RemoteAddr = "[2001:db8::1]:1"
	if w := serve(h, r); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "revoked by user:alice") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestALimiterThatIsBrokenKeepsNobodyOut(t *testing.T) {
	h := open(t, settings)
	wantGranted(t, post(h, formOf(h.token)))
	h.driver.Inject(slices.Repeat([]storetest.Fault{{Collection: "limits"}, {Method: storetest.GetMany}}, 200)...)
	for range 60 {
		wantGranted(t, post(h, formOf(h.token)))
	}
	for range 20 {
		wantBody(t, guess(h, h.token.ID, "198.51.100.1:1"), http.StatusBadRequest, bareInvalidClient)
	}
	wantTooMany(t, guess(h, h.token.ID, "198.51.100.1:1")) // the memory goes on counting
}

func TestVeryManyExchangesOfOneTokenAreLimitedWithFewWrites(t *testing.T) {
	h := open(t, settings)
	other, _ := h.newToken(t, nil)
	wantGranted(t, post(h, formOf(h.token)))
	h.driver.Reset()
	for range 599 {
		wantGranted(t, post(h, formOf(h.token)))
	}
	if writes := h.driver.Calls(storetest.Put); writes > 24 {
		t.Errorf("599 exchanges cost %d writes", writes)
	}
	wantTooMany(t, post(h, formOf(h.token)))
	wantGranted(t, post(h, formOf(other)))
	// Another instance sees it with its first step.
	second, allowed := h.instance(t, settings), 0
	for range 50 {
		if post(second, formOf(h.token)).Code == http.StatusOK {
			allowed++
		}
	}
	if allowed >= 25 {
		t.Errorf("another instance allowed %d more", allowed)
	}
}

func TestTheLastUseIsNoted(t *testing.T) {
	h := open(t, settings)
	wantGranted(t, post(h, formOf(h.token)))
	uses, err := h.Machines.Uses(t.Context(), []string{h.token.ID})
	if err != nil || uses[h.token.ID] != (machine.Use{At: h.clock.now(), Address: address}) {
		t.Errorf("%+v, %v", uses, err)
	}
	// A wrong secret is no use, and a note that fails does no harm.
	unused, _ := h.newToken(t, nil)
	guess(h, unused.ID, address)
	if uses, err := h.Machines.Uses(t.Context(), []string{unused.ID}); err != nil || len(uses) != 0 {
		t.Errorf("%+v, %v", uses, err)
	}
	h.driver.Inject(storetest.Fault{Collection: "access-token-uses", When: storetest.Hang})
	wantGranted(t, post(h, formOf(unused)))
	if h.driver.Pending() != 0 {
		t.Error("the note was not even tried")
	}
}

func TestEveryExchangeLeavesOneAuditEventAndNoSecretReachesTheLog(t *testing.T) {
	h := open(t, settings)
	soon := h.clock.now().Add(time.Minute)
	expired, _ := h.newToken(t, &soon)
	h.logs.Reset()
	var answers []string
	exchange := func(form url.Values) {
		answers = append(answers, post(h, form).Body.String())
	}
	exchange(formOf(h.token))
	wrong := formOf(h.token)
	wrong.Set("client_secret", "guessed-secret")
	exchange(wrong)
	wrong.Set("client_id", "client-that-is-none")
	exchange(wrong)
	h.clock.wait(time.Minute)
	exchange(formOf(expired))
	wrong.Set("scope", "scope-that-is-none")
	exchange(wrong)
	broken := request(http.MethodPost, "/connect/token", "client_secret=%zz"+h.token.ClientSecret)
	serve(h, broken)
	serve(h, request(http.MethodPost, "/connect/token?client_secret=secret-in-the-address", ""))
	h.driver.Inject(storetest.Fault{Method: storetest.Get})
	exchange(formOf(h.token))

	logs := h.logs.String()
	for name, secret := range map[string]string{
		"a client secret": h.token.ClientSecret, "another": expired.ClientSecret, "a hash": accesstoken.Hash(h.token.ClientSecret),
		"a wrong secret": "guessed-secret", "what is in an address": "secret-in-the-address", "the payload": h.payload[:20],
		"a client id that is none": "client-that-is-none", "a scope": "scope-that-is-none", "a session": answers[0][17:60],
	} {
		if strings.Contains(logs, secret) {
			t.Errorf("%s stands in the log", name)
		}
	}
	var got []string
	for line := range strings.Lines(logs) {
		var event struct{ Msg, Action, Outcome, Actor, Subject, Token, Address, RequestID, Reason string }
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("a log line is not JSON: %s", line)
		}
		if event.Msg != "audit" {
			continue
		}
		if event.Address != address || event.RequestID == "" || (event.Reason == "") != (event.Outcome == "allowed") {
			t.Errorf("%s", line)
		}
		names := strings.NewReplacer(h.token.ID, "token", expired.ID, "expired", h.account, "account")
		got = append(got, names.Replace(fmt.Sprintf("%s %s actor=%s subject=%s token=%s", event.Action, event.Outcome, event.Actor, event.Subject, event.Token)))
	}
	want := []string{
		"access-token.exchange allowed actor=service-account:account subject=token token=token",
		"access-token.exchange refused actor= subject=token token=",
		"access-token.exchange refused actor= subject= token=",
		"access-token.exchange refused actor= subject=expired token=",
		"access-token.exchange refused actor= subject= token=",
		"access-token.exchange refused actor= subject= token=",
		"access-token.exchange refused actor= subject= token=",
		"access-token.exchange failed actor= subject=token token=",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("audit events:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestWhatCannotWorkIsRefusedByName(t *testing.T) {
	for name, value := range map[string]string{
		"LATCHKEY_STORE": "mysql", "LATCHKEY_KEYS": "", "LATCHKEY_PUBLIC_URL": "", "LATCHKEY_SIGNING_ALGORITHM": "HS256",
		"LATCHKEY_SIGNING_KEY_AGE": "1s", "LATCHKEY_DATA_KEY_MAX_AGE": "1s", "LATCHKEY_REQUEST_TIMEOUT": "1ms",
		"LATCHKEY_AWS_ACCESS_KEY_ID": "alone",
	} {
		if _, _, err := tokenexchange.LoadConfig(with(name, value)); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
	if _, _, err := tokenexchange.LoadConfig(with("LATCHKEY_PREVIOUS_KEYS", "x")); err == nil || !strings.Contains(err.Error(), "LATCHKEY_PREVIOUS_") {
		t.Errorf("another previous key: %v", err)
	}
}

func FuzzTokenForm(f *testing.F) {
	h := open(f, settings)
	right := formOf(h.token)
	for _, seed := range []string{
		right.Encode(), "", "&", "=", "client_id", "grant_type=client_credentials&scope=api.secrets&client_id=" + h.token.ID,
		"grant_type=client_credentials&scope=api.secrets&client_id=%00&client_secret=%ff", "a=1;b=2", "%", "\xff\x00",
	} {
		f.Add(seed, formType, "")
	}
	f.Add("grant_type=client_credentials&scope=api.secrets", "application/x-www-form-urlencoded", "Basic eDp5")
	tries := 0
	known := map[string]bool{"invalid_client": true, "invalid_request": true, "invalid_scope": true, "unsupported_grant_type": true}
	f.Fuzz(func(t *testing.T, body, kind, authorization string) {
		r := request(http.MethodPost, "/connect/token", body)
		r.Header["Content-Type"] = []string{kind}
		if authorization != "" {
			r.Header["Authorization"] = []string{authorization}
		}
		h.logs.Reset()
		tries++ // each from elsewhere, so that the limit hides nothing
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", tries>>16&255, tries>>8&255, tries&255)
		w := serve(h, r)
		switch w.Code {
		case http.StatusOK:
			if !strings.Contains(body, h.token.ClientSecret) {
				t.Fatalf("%q was granted", body)
			}
			wantGranted(t, w)
		case http.StatusBadRequest:
			var refusal struct{ Error string }
			decode(t, w.Body.Bytes(), &refusal)
			if !known[refusal.Error] {
				t.Fatalf("%q was answered %s", body, w.Body)
			}
		case http.StatusTooManyRequests:
		default:
			t.Fatalf("%q was answered %d %s", body, w.Code, w.Body)
		}
	})
}

// The share of the signature is in the benchmark of shared/signing.
func BenchmarkExchange(b *testing.B) {
	for _, algorithm := range []string{"RS256", "ES256"} {
		b.Run(algorithm, func(b *testing.B) {
			h := open(b, with("LATCHKEY_SIGNING_ALGORITHM", algorithm))
			wantGranted(b, post(h, formOf(h.token)))
			for b.Loop() {
				w := post(h, formOf(h.token))
				if w.Code == http.StatusTooManyRequests {
					h.clock.wait(10 * time.Minute) // the next window
					continue
				}
				wantGranted(b, w)
				h.logs.Reset()
			}
		})
	}
}
