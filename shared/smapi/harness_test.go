package smapi_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/shared/auth"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/logtest"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/store"
)

const (
	organization = "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"
	elsewhere    = "99999999-2222-4333-8444-555555555555"
	account      = "0c4f6d2a-9b1e-4c55-8f6b-b1d200c0ffee"
	token        = "7e9d3c11-52aa-4be0-a3c4-b1d200c0ffee"
	alice        = "0b1c2d3e-4f50-4617-8899-aabbccddeeff"

	webVault = "https://vault.example.org"
	maxBody  = 1000
)

var epoch = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

// clock stands still until it is moved.
type clock struct{ moved atomic.Int64 }

func (c *clock) now() time.Time          { return epoch.Add(time.Duration(c.moved.Load())) }
func (c *clock) advance(d time.Duration) { c.moved.Add(int64(d)) }

// sessionKey signs the sessions of all tests: making one takes longer than most
// of them.
var sessionKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// provider is the OpenID provider of all tests, for the same reason.
var provider = sync.OnceValues(func() (*devidentity.Server, error) {
	return devidentity.New(devidentity.Config{Issuer: "https://sm.example.org", Now: func() time.Time { return epoch }})
})

// driver counts what the store is asked, and can be down.
type driver struct {
	*store.Table
	reads atomic.Int64
	down  atomic.Bool
}

func (d *driver) GetMany(ctx context.Context, keys []store.Key) ([]store.Document, error) {
	d.reads.Add(1)
	if d.down.Load() {
		return nil, fault.Transient
	}
	return d.Table.GetMany(ctx, keys)
}

func (d *driver) Get(ctx context.Context, collection, id string) (store.Document, error) {
	d.reads.Add(1)
	return d.Table.Get(ctx, collection, id)
}

// edge is an API with one organisation, one service account and one access
// token of it, and an OpenID provider of people.
type edge struct {
	t        testing.TB
	clock    *clock
	driver   *driver
	store    *store.Store
	identity *devidentity.Server
	// identityDown has the provider answer 503; keysFail the key set of sessions.
	identityDown atomic.Bool
	keysFail     atomic.Bool
	config       smapi.CallersConfig
	log          *logtest.Log
	logger       *slog.Logger
}

func newEdge(t testing.TB) *edge {
	t.Helper()
	e := &edge{t: t, clock: &clock{}, driver: &driver{Table: store.NewTable()}, log: &logtest.Log{}}
	e.store = store.New(e.driver)
	e.logger = e.log.Logger()
	identity, err := provider()
	if err != nil {
		t.Fatal(err)
	}
	e.identity = identity
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if e.identityDown.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		identity.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)

	put(e, "service-accounts", account, organization, machine.Account{Name: "2.", Created: epoch})
	put(e, "access-tokens", token, account, machine.Token{Organization: organization, Account: account, Created: epoch})
	e.config = smapi.CallersConfig{
		Machines: machine.New(machine.Config{Store: e.store, Logger: e.logger, Now: e.clock.now}),
		// The same issuer as the provider's: neither is taken for the other.
		Sessions: config.Sessions{PublicURL: "https://sm.example.org:8443"},
		Keys: func(context.Context) ([]auth.PublicKey, error) {
			if e.keysFail.Load() {
				return nil, errors.New("no store")
			}
			key, err := sessionKey()
			if err != nil {
				return nil, err
			}
			return []auth.PublicKey{{ID: "RS256/000001", Algorithm: "RS256", Key: key.Public()}}, nil
		},
		Identity: config.Identity{URL: server.URL},
		Operators: config.Operators{
			Rules: []string{"orgowner", "orgadmin", "roles=sm-admin@" + organization}, MemberRules: []string{"accesssecretsmanager"},
			GroupsClaim: "groups", Scopes: []string{"api"}, Algorithms: []string{"RS256"},
		},
		Logger: e.logger,
		Now:    e.clock.now,
	}
	return e
}

func put[T any](e *edge, collection, id, parent string, value T) {
	e.t.Helper()
	record := store.Record[T]{ID: id, Parent: parent, Value: value}
	if _, err := store.NewCollection[T](e.store, collection).Put(e.t.Context(), record, store.Any()); err != nil {
		e.t.Fatal(err)
	}
}

func (e *edge) authenticator() smapi.Authenticator {
	e.t.Helper()
	a, err := smapi.NewAuthenticator(e.config)
	if err != nil {
		e.t.Fatal(err)
	}
	return a
}

// api makes an API whose routes the test adds before it is served.
func (e *edge) api() *smapi.API {
	return smapi.New(smapi.Config{
		Function: "test", Service: "Secrets Manager", Callers: e.authenticator(), Logger: e.logger, Path: "/sm", Origins: []string{webVault},
		Timeout: 10 * time.Second, MaxBody: maxBody,
	})
}

func (e *edge) serve(api *smapi.API) *client {
	server := httptest.NewServer(api)
	e.t.Cleanup(server.Close)
	return &client{e: e, url: server.URL, authorization: "Bearer " + e.session(nil)}
}

// session mints the session of a machine; set is laid over its claims, and nil
// removes.
func (e *edge) session(set map[string]any) string {
	e.t.Helper()
	return e.sessionAs(map[string]any{"alg": "RS256", "kid": "RS256/000001", "typ": "at+jwt"}, set)
}

func (e *edge) sessionAs(header, set map[string]any) string {
	e.t.Helper()
	claims := map[string]any{
		"iss": "https://sm.example.org", "nbf": e.clock.now().Unix(), "exp": e.clock.now().Add(time.Hour).Unix(),
		"sub": account, "client_id": token, "type": "ServiceAccount", "organization": organization, "scope": []string{"api.secrets"},
	}
	for name, value := range set {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	first, headerErr := json.Marshal(header)
	second, claimsErr := json.Marshal(claims)
	if err := errors.Join(headerErr, claimsErr); err != nil {
		e.t.Fatal(err)
	}
	return signed(e.t, first, second)
}

func signed(t testing.TB, header, payload []byte) string {
	t.Helper()
	key, err := sessionKey()
	if err != nil {
		t.Fatal(err)
	}
	input := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload)
	digest := sha256.Sum256([]byte(input))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func (e *edge) person(c devidentity.Claims) string {
	e.t.Helper()
	if c.User == "" {
		c.User = alice
	}
	raw, err := e.identity.Mint(c)
	if err != nil {
		e.t.Fatal(err)
	}
	return raw
}

// client asks an API.
type client struct {
	e             *edge
	url           string
	authorization string
}

func (c client) as(raw string) client {
	c.authorization = "Bearer " + raw
	return c
}

// answer is what came back; failure is why its body could not be read whole.
type answer struct {
	*http.Response
	body    string
	failure error
}

func (c client) do(method, path, body string, headers ...string) answer {
	c.e.t.Helper()
	request, err := http.NewRequestWithContext(c.e.t.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.e.t.Fatal(err)
	}
	if c.authorization != "" {
		request.Header.Set("Authorization", c.authorization)
	}
	for pair := range slices.Chunk(headers, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	follow := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := follow.Do(request)
	if err != nil {
		return answer{Response: &http.Response{}, failure: err}
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return answer{response, string(content), err}
}

func (c client) get(path string) answer {
	c.e.t.Helper()
	return c.do(http.MethodGet, path, "")
}

// problem is Bitwarden's error object.
type problem struct {
	Message          string
	ValidationErrors map[string][]string
}

// fails checks that an answer is an error of this status in Bitwarden's form.
func (a answer) fails(t *testing.T, status int) problem {
	t.Helper()
	if a.failure != nil {
		t.Fatal(a.failure)
	}
	if a.StatusCode != status || a.Header.Get("Content-Type") != "application/json; charset=utf-8" || a.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("answer is %d %v %s, not %d", a.StatusCode, a.Header, a.body, status)
	}
	if got := a.Header.Get("WWW-Authenticate"); (got == "Bearer") != (status == http.StatusUnauthorized) {
		t.Errorf("WWW-Authenticate is %q with %d", got, status)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(a.body), &members); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
	for name, want := range map[string]string{
		"exceptionMessage": "null", "exceptionStackTrace": "null", "innerExceptionMessage": "null", "object": `"error"`,
	} {
		if string(members[name]) != want {
			t.Errorf("%s is %s in %s", name, members[name], a.body)
		}
	}
	if _, ok := members["validationErrors"]; !ok || len(members) != 6 {
		t.Errorf("the members are not those of the original: %s", a.body)
	}
	var p problem
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || p.Message == "" {
		t.Errorf("%s: %v", a.body, err)
	}
	return p
}

// audited gives the events of the audit log so far.
func (e *edge) audited() []map[string]any { return e.log.Lines(e.t, "audit") }

// requests gives the lines of requests so far.
func (e *edge) requests() []map[string]any { return e.log.Lines(e.t, "request") }
