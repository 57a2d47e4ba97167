// Package wire is the wire test of Key Connector: what Bitwarden's clients send
// and what they insist on, run over HTTP against whatever serves it. The
// numbers in comments are the points of the checklist that observed clients
// gave.
package wire

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// Target is a Key Connector that serves, and the development identity server
// whose tokens it takes.
type Target struct {
	// URL is the address that clients are given; they append /user-keys.
	URL string
	// IdentityURL is the base of the identity server.
	IdentityURL string
	// Origin is the web vault's, which the target lets call.
	Origin string
	// Client makes the requests; nil is http.DefaultClient.
	Client *http.Client
}

// Run runs the whole suite. Every test makes users of its own, so it can run
// again over the same store.
func Run(t *testing.T, target Target) {
	if target.Client == nil {
		target.Client = http.DefaultClient
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, Target)
	}{
		{"a key is created once, read and replaced", createReadReplace},
		{"PUT creates where there is no key", putCreates},
		{"requests are taken as each client writes them", clientsRequests},
		{"a bad body is refused and stores nothing", badBodies},
		{"a bad token is 401 and a token of the wrong kind is 403", badTokens},
		{"a user reaches no key but their own", isolation},
		{"web vault and desktop pass CORS, with errors too", cors},
		{"alive, now, version and health need no token", open},
		{"unknown paths and methods are refused in JSON", unknown},
		{"of many creations at once one wins", racingCreations},
		{"a read returns the last acknowledged write", interleaving},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, target) })
	}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

type request struct {
	method, path string
	token        string
	header       http.Header
	body         string
}

func (target Target) send(t *testing.T, r request) answer {
	t.Helper()
	a, err := target.try(t, r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// try is send for goroutines that must not end the test.
func (target Target) try(t *testing.T, r request) (answer, error) {
	var body io.Reader
	if r.body != "" {
		body = strings.NewReader(r.body)
	}
	request, err := http.NewRequestWithContext(t.Context(), r.method, target.URL+r.path, body)
	if err != nil {
		return answer{}, err
	}
	for name, values := range r.header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	if r.token != "" {
		request.Header.Set("Authorization", "Bearer "+r.token)
	}
	response, err := target.Client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(content)}, err
}

// Token gets a token for a user from the development identity server.
func (target Target) Token(t *testing.T, user string, form ...string) string {
	t.Helper()
	values := url.Values{"user": {user}}
	for i := 0; i < len(form); i += 2 {
		values.Set(form[i], form[i+1])
	}
	client := target.Client
	if client == nil {
		client = http.DefaultClient
	}
	response, err := client.PostForm(target.IdentityURL+"/connect/token", values)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var document struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&document); err != nil || document.AccessToken == "" {
		t.Fatalf("no token: %s, %v", response.Status, err)
	}
	return document.AccessToken
}

func (target Target) newUser(t *testing.T) (token string) {
	t.Helper()
	return target.Token(t, uuid.NewString())
}

// NewKey is a random key of the right size, as clients write it.
func NewKey() string { return randomKey(32) }

func randomKey(size int) string {
	key := make([]byte, size)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}

func keyBody(key string) string { return `{"key":"` + key + `"}` }

func (target Target) wantStatus(t *testing.T, r request, want int) answer {
	t.Helper()
	a := target.send(t, r)
	if a.status != want {
		t.Fatalf("%s %s: %d %s, want %d", r.method, r.path, a.status, a.body, want)
	}
	return a
}

func (target Target) wantKey(t *testing.T, token, want string) {
	t.Helper()
	a := target.wantStatus(t, request{method: http.MethodGet, path: "/user-keys", token: token}, http.StatusOK)
	if a.body != keyBody(want) {
		t.Fatalf("the key is %s, want %s", a.body, keyBody(want))
	}
}

func wantError(t *testing.T, a answer) {
	t.Helper()
	var document struct {
		Message string `json:"message"`
		Object  string `json:"object"`
	}
	if err := json.Unmarshal([]byte(a.body), &document); err != nil || document.Message == "" || document.Object != "error" {
		t.Errorf("%d %q is no error object with a message", a.status, a.body)
	}
	if got := a.header.Get("Content-Type"); !strings.HasPrefix(got, "application/json") {
		t.Errorf("the content type of an error is %q", got)
	}
	if got := a.header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control of an error is %q", got)
	}
}

func createReadReplace(t *testing.T, target Target) { // 1, 2, 3, 4
	token, first, second := target.newUser(t), NewKey(), NewKey()

	a := target.wantStatus(t, request{method: http.MethodGet, path: "/user-keys", token: token}, http.StatusNotFound)
	wantError(t, a)

	a = target.wantStatus(t, request{method: http.MethodPost, path: "/user-keys", token: token, body: keyBody(first)}, http.StatusOK)
	if a.body != "" {
		t.Errorf("POST answered %q", a.body)
	}
	a = target.wantStatus(t, request{method: http.MethodGet, path: "/user-keys", token: token}, http.StatusOK)
	if a.body != keyBody(first) {
		t.Errorf("GET answered %s", a.body)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store",
	} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s of a key is %q, want %q", name, got, want)
		}
	}

	a = target.wantStatus(t, request{method: http.MethodPost, path: "/user-keys", token: token, body: keyBody(second)}, http.StatusBadRequest)
	wantError(t, a)
	target.wantKey(t, token, first)

	target.wantStatus(t, request{method: http.MethodPut, path: "/user-keys", token: token, body: keyBody(second)}, http.StatusOK)
	target.wantKey(t, token, second)
}

func putCreates(t *testing.T, target Target) { // 4
	token, key := target.newUser(t), NewKey()
	target.wantStatus(t, request{method: http.MethodPut, path: "/user-keys", token: token, body: keyBody(key)}, http.StatusOK)
	target.wantKey(t, token, key)
}

// clientsRequests are requests as they were seen on the wire (5, 6).
func clientsRequests(t *testing.T, target Target) {
	typescript := http.Header{
		"Accept": {"application/json"}, "Cache-Control": {"no-store"}, "Pragma": {"no-cache"},
		"Bitwarden-Client-Name": {"cli"}, "Bitwarden-Client-Version": {"2026.9.0"},
		"User-Agent": {"node-fetch/1.0 (+https://github.com/bitinn/node-fetch)"}, "Accept-Encoding": {"gzip,deflate"},
	}
	typescriptPost := typescript.Clone()
	typescriptPost.Set("Content-Type", "application/json; charset=utf-8")
	sdk := http.Header{
		"Accept": {"application/json"}, "Content-Type": {"application/json"}, "Bitwarden-Client-Name": {"cli"},
		"Bitwarden-Client-Version": {"2026.9.0"}, "Device-Type": {"25"}, "User-Agent": {"Bitwarden_CLI/2026.9.0 (LINUX)"},
	}
	extension := typescriptPost.Clone()
	extension.Set("Origin", "chrome-extension://nngceckbapebfimnlniiiahkandclblb")
	for _, c := range []struct {
		client       string
		method, body string
		post, get    http.Header
	}{
		{"TypeScript clients", http.MethodPost, `{"key":"%s"}`, typescriptPost, typescript},
		{"the SDK, which sends a content type with GET", http.MethodPost, `{"key":"%s"}`, sdk, sdk},
		{"the SDK over an existing key", http.MethodPut, `{"key":"%s"}`, sdk, sdk},
		{"the Android app", http.MethodPost, `{"Key":"%s"}`, sdk, sdk},
		{"a browser extension", http.MethodPost, `{"key":"%s"}`, extension, typescript},
		{"members nobody knows, in any case", http.MethodPost, ` {"KEY":"%s","other":[1,{"key":2}],"x":null} `, nil, nil},
	} {
		t.Run(c.client, func(t *testing.T) {
			token, key := target.newUser(t), NewKey()
			body := fmt.Sprintf(c.body, key)
			target.wantStatus(t, request{method: c.method, path: "/user-keys", token: token, header: c.post, body: body}, http.StatusOK)
			a := target.wantStatus(t, request{method: http.MethodGet, path: "/user-keys", token: token, header: c.get}, http.StatusOK)
			if a.body != keyBody(key) {
				t.Errorf("the key came back as %s", a.body)
			}
		})
	}
}

func badBodies(t *testing.T, target Target) { // 13
	for name, c := range map[string]struct {
		body string
		want int
	}{
		"empty":              {"", http.StatusBadRequest},
		"null":               {"null", http.StatusBadRequest},
		"no members":         {"{}", http.StatusBadRequest},
		"a null key":         {`{"key":null}`, http.StatusBadRequest},
		"a number":           {`{"key":5}`, http.StatusBadRequest},
		"a list":             {`["key"]`, http.StatusBadRequest},
		"not JSON":           {"key=abc", http.StatusBadRequest},
		"two documents":      {keyBody(NewKey()) + keyBody(NewKey()), http.StatusBadRequest},
		"an empty key":       {keyBody(""), http.StatusBadRequest},
		"not base64":         {keyBody("not base64!"), http.StatusBadRequest},
		"base64url":          {keyBody(strings.Repeat("-_", 21) + "A="), http.StatusBadRequest},
		"no padding":         {keyBody(strings.TrimRight(NewKey(), "=")), http.StatusBadRequest},
		"16 bytes":           {keyBody(randomKey(16)), http.StatusBadRequest},
		"31 bytes":           {keyBody(randomKey(31)), http.StatusBadRequest},
		"33 bytes":           {keyBody(randomKey(33)), http.StatusBadRequest},
		"48 bytes":           {keyBody(randomKey(48)), http.StatusBadRequest},
		"64 bytes":           {keyBody(randomKey(64)), http.StatusBadRequest},
		"more than 4 KiB":    {keyBody(randomKey(4000)), http.StatusRequestEntityTooLarge},
		"deeply nested JSON": {strings.Repeat("[", 2000), http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			token := target.newUser(t)
			for _, method := range []string{http.MethodPost, http.MethodPut} {
				a := target.wantStatus(t, request{method: method, path: "/user-keys", token: token, body: c.body}, c.want)
				wantError(t, a)
			}
			target.wantStatus(t, request{method: http.MethodGet, path: "/user-keys", token: token}, http.StatusNotFound)
		})
	}
}

func badTokens(t *testing.T, target Target) { // 8
	user := uuid.NewString()
	good := target.Token(t, user)
	target.wantStatus(t, request{method: http.MethodPost, path: "/user-keys", token: good, body: keyBody(NewKey())}, http.StatusOK)
	parts := strings.Split(good, ".")
	for _, c := range []struct {
		name, token string
		want        int
	}{
		{"no token", "", http.StatusUnauthorized},
		{"no JWT", "abc", http.StatusUnauthorized},
		{"no signature", parts[0] + "." + parts[1] + ".", http.StatusUnauthorized},
		{"the signature of another token", parts[0] + "." + parts[1] + "." + strings.Split(target.newUser(t), ".")[2], http.StatusUnauthorized},
		{"alg none", base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", http.StatusUnauthorized},
		{"expired", target.Token(t, user, "expires_in", "-600"), http.StatusUnauthorized},
		{"another scope", target.Token(t, user, "scope", "api.organization"), http.StatusForbidden},
		{"no scope", target.Token(t, user, "scope", ""), http.StatusForbidden},
		{"another method of authentication", target.Token(t, user, "amr", "send"), http.StatusForbidden},
		{"no method of authentication", target.Token(t, user, "amr", ""), http.StatusForbidden},
		{"expired within the clock skew", target.Token(t, user, "expires_in", "-60"), http.StatusOK},
		{"a personal API key", target.Token(t, user, "client_id", "user."+user, "scope", "api", "amr", "Application"), http.StatusOK},
		{"the good one", good, http.StatusOK},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := target.wantStatus(t, request{method: http.MethodGet, path: "/user-keys", token: c.token}, c.want)
			if c.want != http.StatusOK {
				wantError(t, a)
			}
			if challenge := a.header.Get("WWW-Authenticate"); (c.want == http.StatusUnauthorized) != (challenge == "Bearer") {
				t.Errorf("WWW-Authenticate is %q at %d", challenge, a.status)
			}
		})
	}
}

func isolation(t *testing.T, target Target) {
	alice, bob := target.newUser(t), target.newUser(t)
	hers := NewKey()
	target.wantStatus(t, request{method: http.MethodPost, path: "/user-keys", token: alice, body: keyBody(hers)}, http.StatusOK)
	target.wantStatus(t, request{method: http.MethodGet, path: "/user-keys", token: bob}, http.StatusNotFound)
	target.wantStatus(t, request{method: http.MethodPut, path: "/user-keys", token: bob, body: keyBody(NewKey())}, http.StatusOK)
	target.wantKey(t, alice, hers)
}

func cors(t *testing.T, target Target) { // 10
	const (
		desktop = "bw-desktop-file://bundle"
		get     = "authorization,bitwarden-client-name,bitwarden-client-version,cache-control,pragma"
		sdk     = "authorization,bitwarden-client-name,bitwarden-client-version,bitwarden-package-type,content-type,device-identifier,device-type,user-agent"
		alive   = "bitwarden-client-name,bitwarden-client-version,cache-control,content-type,pragma"
	)
	for _, c := range []struct{ name, origin, path, method, headers string }{
		{"the web vault reads", target.Origin, "/user-keys", http.MethodGet, get},
		{"the web vault writes", target.Origin, "/user-keys", http.MethodPost, get + ",content-type"},
		{"the SDK in the web vault", target.Origin, "/user-keys", http.MethodPut, sdk},
		{"the desktop app reads", desktop, "/user-keys", http.MethodGet, get},
		{"the admin console tests the address", target.Origin, "/alive", http.MethodGet, alive},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := target.send(t, request{method: http.MethodOptions, path: c.path, header: http.Header{
				"Origin": {c.origin}, "Access-Control-Request-Method": {c.method}, "Access-Control-Request-Headers": {c.headers},
			}})
			if a.status/100 != 2 {
				t.Fatalf("the preflight is answered %d", a.status)
			}
			if got := a.header.Get("Access-Control-Allow-Origin"); got != c.origin {
				t.Errorf("the origin allowed is %q", got)
			}
			if got := a.header.Get("Access-Control-Allow-Methods"); !strings.Contains(got, c.method) {
				t.Errorf("the methods allowed are %q", got)
			}
			allowed := strings.Split(strings.ToLower(strings.ReplaceAll(a.header.Get("Access-Control-Allow-Headers"), " ", "")), ",")
			for name := range strings.SplitSeq(c.headers, ",") {
				if !slices.Contains(allowed, name) {
					t.Errorf("the header %s is not allowed: %q", name, allowed)
				}
			}
			if a.header.Get("Access-Control-Max-Age") == "" {
				t.Error("the preflight is asked again for every call")
			}
		})
	}
	for _, origin := range []string{target.Origin, desktop} {
		header := http.Header{"Origin": {origin}}
		for name, r := range map[string]request{
			"200": {method: http.MethodGet, path: "/alive", header: header},
			"400": {method: http.MethodPost, path: "/user-keys", header: header, token: target.newUser(t), body: "{}"},
			"401": {method: http.MethodGet, path: "/user-keys", header: header},
			"404": {method: http.MethodGet, path: "/user-keys", header: header, token: target.newUser(t)},
		} {
			a := target.send(t, r)
			if got := a.header.Get("Access-Control-Allow-Origin"); got != origin || fmt.Sprint(a.status) != name {
				t.Errorf("from %s: %d (want %s) allows origin %q", origin, a.status, name, got)
			}
		}
	}
	a := target.send(t, request{method: http.MethodGet, path: "/alive", header: http.Header{"Origin": {"https://evil.example"}}})
	if got := a.header.Get("Access-Control-Allow-Origin"); got != "" {
		t.Errorf("another site is allowed: %q", got)
	}
}

func open(t *testing.T, target Target) { // 11
	for _, path := range []string{"/alive", "/now"} {
		a := target.wantStatus(t, request{method: http.MethodGet, path: path}, http.StatusOK)
		var now time.Time
		if err := json.Unmarshal([]byte(a.body), &now); err != nil || now.IsZero() {
			t.Errorf("%s answered %q, not a time", path, a.body)
		}
	}
	a := target.wantStatus(t, request{method: http.MethodGet, path: "/version"}, http.StatusOK)
	if !strings.Contains(a.body, `"version":"`) {
		t.Errorf("/version answered %q", a.body)
	}
	a = target.wantStatus(t, request{method: http.MethodGet, path: "/health"}, http.StatusOK)
	if !strings.Contains(a.body, `"status":"healthy"`) {
		t.Errorf("/health answered %q", a.body)
	}
	target.wantStatus(t, request{method: http.MethodHead, path: "/alive"}, http.StatusOK)
}

func unknown(t *testing.T, target Target) {
	wantError(t, target.wantStatus(t, request{method: http.MethodGet, path: "/user-keys/other"}, http.StatusNotFound))
	wantError(t, target.wantStatus(t, request{method: http.MethodGet, path: "/"}, http.StatusNotFound))
	a := target.wantStatus(t, request{method: http.MethodDelete, path: "/user-keys", token: target.newUser(t)}, http.StatusMethodNotAllowed)
	wantError(t, a)
	if allow := strings.Join(a.header.Values("Allow"), ","); !strings.Contains(allow, "PUT") {
		t.Errorf("Allow is %q", allow)
	}
}

func racingCreations(t *testing.T, target Target) { // 3
	token := target.newUser(t)
	const clients = 20
	var (
		wait     sync.WaitGroup
		keys     [clients]string
		statuses [clients]int
	)
	for i := range clients {
		keys[i] = NewKey()
		wait.Go(func() {
			a, err := target.try(t, request{method: http.MethodPost, path: "/user-keys", token: token, body: keyBody(keys[i])})
			if err != nil {
				t.Error(err)
			}
			statuses[i] = a.status
		})
	}
	wait.Wait()
	winner := slices.Index(statuses[:], http.StatusOK)
	if winner < 0 {
		t.Fatalf("nobody won: %v", statuses)
	}
	for i, status := range statuses {
		if i != winner && status != http.StatusBadRequest {
			t.Errorf("a loser was answered %d", status)
		}
	}
	target.wantKey(t, token, keys[winner])
}

// interval is one PUT: its key cannot be read after a later PUT was
// acknowledged that began when this one had ended.
type interval struct {
	key        string
	begin, end time.Time
}

func interleaving(t *testing.T, target Target) {
	token := target.newUser(t)
	const clients, rounds = 6, 12
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		puts []interval
		gets []interval
	)
	for range clients {
		wait.Go(func() {
			for range rounds {
				put := interval{key: NewKey(), begin: time.Now()}
				a, err := target.try(t, request{method: http.MethodPut, path: "/user-keys", token: token, body: keyBody(put.key)})
				put.end = time.Now()
				if err != nil || a.status != http.StatusOK {
					t.Errorf("PUT: %d %s %v", a.status, a.body, err)
					return
				}
				get := interval{begin: time.Now()}
				a, err = target.try(t, request{method: http.MethodGet, path: "/user-keys", token: token})
				get.end = time.Now()
				if err != nil || a.status != http.StatusOK {
					t.Errorf("GET: %d %s %v", a.status, a.body, err)
					return
				}
				var document struct{ Key string }
				if err := json.NewDecoder(bytes.NewBufferString(a.body)).Decode(&document); err != nil {
					t.Error(err)
					return
				}
				get.key = document.Key
				mu.Lock()
				puts, gets = append(puts, put), append(gets, get)
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	for _, get := range gets {
		i := slices.IndexFunc(puts, func(p interval) bool { return p.key == get.key })
		if i < 0 {
			t.Fatal("a key was read that nobody stored")
		}
		for _, later := range puts {
			if later.begin.After(puts[i].end) && later.end.Before(get.begin) {
				t.Fatal("a read returned a key that had been replaced, with an acknowledgement, before the read began")
			}
		}
	}
}
