package keyconnector_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/functions/keyconnector"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/wire"
	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/logtest"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

const (
	origin = "https://vault.example.org"
	prefix = "/key-connector"
)

// house is Key Connector over a store, a key and an identity server that fail
// on demand.
type house struct {
	wire.Target
	driver   *storetest.Faults
	key      *kmstest.Key
	identity *breakable
	logs     *logtest.Log
	server   *httptest.Server
	function http.Handler
}

// breakable is an identity server that may be down.
type breakable struct {
	http.Handler
	mu   sync.Mutex
	down bool
}

func (b *breakable) set(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
}

func (b *breakable) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	down := b.down
	b.mu.Unlock()
	if down && strings.HasPrefix(r.URL.Path, "/.well-known") {
		http.Error(w, "down", http.StatusBadGateway)
		return
	}
	b.Handler.ServeHTTP(w, r)
}

func open(t *testing.T, settings map[string]string) *house {
	t.Helper()
	return openOver(t, storetest.NewFaults(memory.New()), settings)
}

// openOver starts another instance over a store.
func openOver(t *testing.T, driver *storetest.Faults, settings map[string]string) *house {
	t.Helper()
	identity, err := devidentity.New(devidentity.Config{Issuer: "http://127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{
		driver: driver, key: kmstest.NewKey(t),
		identity: &breakable{Handler: identity}, logs: &logtest.Log{},
	}
	identityServer := httptest.NewServer(h.identity)
	t.Cleanup(identityServer.Close)

	environment := map[string]string{
		"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": "unused",
		"LATCHKEY_IDENTITY_URL": identityServer.URL, "LATCHKEY_WEB_VAULT_ORIGINS": origin + "/", "LATCHKEY_PATH_PREFIX": prefix,
	}
	for name, value := range settings {
		environment[name] = value
	}
	config, _, err := keyconnector.LoadConfig(environment)
	if err != nil {
		t.Fatal(err)
	}
	function, err := keyconnector.New(config, keyconnector.Parts{
		Store: h.driver, Key: h.key, Logger: h.logs.Logger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	h.function = function
	h.server = httptest.NewServer(function)
	t.Cleanup(h.server.Close)
	h.Target = wire.Target{URL: h.server.URL + prefix, IdentityURL: identityServer.URL, Origin: origin}
	return h
}

func (h *house) call(t *testing.T, method, token, body string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, h.URL+"/user-keys", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(content)
}

func (h *house) want(t *testing.T, method, token, body string, status int) string {
	t.Helper()
	response, content := h.call(t, method, token, body)
	if response.StatusCode != status {
		t.Fatalf("%s: %s %s, want %d", method, response.Status, content, status)
	}
	if retry := response.Header.Get("Retry-After"); (status == http.StatusServiceUnavailable) != (retry != "") {
		t.Errorf("%s: Retry-After is %q at %d", method, retry, status)
	}
	return content
}

func TestTheWire(t *testing.T) {
	wire.Run(t, open(t, nil).Target)
}

func TestPathsAreServedWithAndWithoutThePrefix(t *testing.T) {
	h := open(t, nil)
	token := h.Token(t, uuid.NewString())
	h.want(t, http.MethodPost, token, `{"key":"`+wire.NewKey()+`"}`, http.StatusOK)
	h.URL = h.server.URL // as behind a proxy that cuts the prefix
	h.want(t, http.MethodGet, token, "", http.StatusOK)
}

func TestLongKeysAreTakenWhereAllowed(t *testing.T) {
	h := open(t, map[string]string{"LATCHKEY_ALLOW_LONG_KEYS": "true"})
	token, body := h.Token(t, uuid.NewString()), `{"key":"`+strings.Repeat("QUJD", 21)+`QQ=="}` // 64 bytes
	h.want(t, http.MethodPost, token, body, http.StatusOK)
	if got := h.want(t, http.MethodGet, token, "", http.StatusOK); got != body {
		t.Errorf("the key came back as %s", got)
	}
}

func TestOnlyMembersOfTheAllowedOrganizationsAreServed(t *testing.T) {
	ours, other := uuid.NewString(), uuid.NewString()
	h := open(t, map[string]string{"LATCHKEY_ALLOWED_ORGANIZATIONS": ours})
	user := uuid.NewString()
	h.want(t, http.MethodGet, h.Token(t, user, "orgs", ours), "", http.StatusNotFound)
	h.want(t, http.MethodGet, h.Token(t, user, "orgs", other), "", http.StatusForbidden)
	h.want(t, http.MethodGet, h.Token(t, user), "", http.StatusForbidden)
}

// Clients log their user out at 401 and 403, so no fault of ours may look like
// one of theirs; and each call must succeed again when the fault is gone.
func TestAFaultOfOursIs503AndPasses(t *testing.T) {
	for name, c := range map[string]struct {
		strike, heal func(*house)
	}{
		"KMS down": {
			func(h *house) { h.key.Set(kmstest.Faults{Err: fault.Transient}) },
			func(h *house) { h.key.Set(kmstest.Faults{}) },
		},
		"KMS refuses us": {
			func(h *house) { h.key.Set(kmstest.Faults{Err: fault.Denied}) },
			func(h *house) { h.key.Set(kmstest.Faults{}) },
		},
		"KMS does not know the key": {
			func(h *house) { h.key.Set(kmstest.Faults{Err: fault.NotFound, DescribeToo: true}) },
			func(h *house) { h.key.Set(kmstest.Faults{}) },
		},
		"KMS hangs": {
			func(h *house) { h.key.Set(kmstest.Faults{Hang: true}) },
			func(h *house) { h.key.Set(kmstest.Faults{}) },
		},
		"identity server down": {
			func(h *house) { h.identity.set(true) },
			func(h *house) { h.identity.set(false) },
		},
		"store down": {
			func(h *house) { h.driver.Inject(make([]storetest.Fault, 3)...) },
			func(h *house) { h.driver.Reset() },
		},
		"store hangs": {
			func(h *house) {
				h.driver.Inject(storetest.Fault{When: storetest.Hang}, storetest.Fault{When: storetest.Hang}, storetest.Fault{When: storetest.Hang})
			},
			func(h *house) { h.driver.Reset() },
		},
		"store refuses us": {
			func(h *house) {
				h.driver.Inject(storetest.Fault{Err: fault.Denied}, storetest.Fault{Err: fault.Denied}, storetest.Fault{Err: fault.Denied})
			},
			func(h *house) { h.driver.Reset() },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t, map[string]string{"LATCHKEY_REQUEST_TIMEOUT": "1s"})
			token, body := h.Token(t, uuid.NewString()), `{"key":"`+wire.NewKey()+`"}`
			c.strike(h) // from the very first request on: nothing is warm
			for _, method := range []string{http.MethodPost, http.MethodPut} {
				h.want(t, method, token, body, http.StatusServiceUnavailable)
			}
			if name == "store down" || name == "store hangs" || name == "store refuses us" || name == "identity server down" {
				h.want(t, http.MethodGet, token, "", http.StatusServiceUnavailable)
			}
			c.heal(h)
			deadline := time.Now().Add(15 * time.Second)
			for {
				response, content := h.call(t, http.MethodPost, token, body)
				if response.StatusCode == http.StatusOK {
					break
				}
				if response.StatusCode != http.StatusServiceUnavailable || time.Now().After(deadline) {
					t.Fatalf("after the fault: %s %s", response.Status, content)
				}
				time.Sleep(100 * time.Millisecond)
			}
			if got := h.want(t, http.MethodGet, token, "", http.StatusOK); got != body {
				t.Errorf("the key came back as %s", got)
			}
		})
	}
}

// The same for somebody who has a key, in an instance that has just started.
func TestAReadThatTheKMSFailsIs503AndPasses(t *testing.T) {
	for _, class := range []fault.Class{fault.Transient, fault.Denied, fault.NotFound, fault.Invalid} {
		warm := open(t, nil)
		user, body := uuid.NewString(), `{"key":"`+wire.NewKey()+`"}`
		warm.want(t, http.MethodPost, warm.Token(t, user), body, http.StatusOK)
		cold := openOver(t, warm.driver, nil)
		cold.key.Set(kmstest.Faults{Err: class})
		cold.want(t, http.MethodGet, cold.Token(t, user), "", http.StatusServiceUnavailable)
		cold.key.Set(kmstest.Faults{})
		if got := cold.want(t, http.MethodGet, cold.Token(t, user), "", http.StatusOK); got != body {
			t.Errorf("after %q the key came back as %s", string(class), got)
		}
	}
}

func TestAKeyThatCannotBeOpenedIs500AndStays(t *testing.T) {
	h := open(t, nil)
	alice, bob := uuid.NewString(), uuid.NewString()
	for _, user := range []string{alice, bob} {
		h.want(t, http.MethodPost, h.Token(t, user), `{"key":"`+wire.NewKey()+`"}`, http.StatusOK)
	}
	// Somebody with the database's password gives Bob Alice's ciphertext.
	stolen, err := h.driver.Get(t.Context(), "user-keys", alice)
	if err != nil {
		t.Fatal(err)
	}
	stolen.ID = bob
	if _, err := h.driver.Put(t.Context(), stolen, store.Any()); err != nil {
		t.Fatal(err)
	}
	h.want(t, http.MethodGet, h.Token(t, bob), "", http.StatusInternalServerError)
	h.want(t, http.MethodPost, h.Token(t, bob), `{"key":"`+wire.NewKey()+`"}`, http.StatusBadRequest)
	h.want(t, http.MethodGet, h.Token(t, alice), "", http.StatusOK)
}

func TestAWarmReadIsOneStorageReadAndNoKMSCall(t *testing.T) {
	h := open(t, nil)
	token := h.Token(t, uuid.NewString())
	h.want(t, http.MethodPost, token, `{"key":"`+wire.NewKey()+`"}`, http.StatusOK)
	h.want(t, http.MethodGet, token, "", http.StatusOK)
	h.driver.Reset()
	unwraps := h.key.Calls().Unwrap
	const reads = 100
	for range reads {
		h.want(t, http.MethodGet, token, "", http.StatusOK)
	}
	if got := h.driver.Calls(); got != reads || h.driver.Calls(storetest.Get) != reads {
		t.Errorf("%d reads cost %d storage calls", reads, got)
	}
	if got := h.key.Calls().Unwrap - unwraps; got != 0 {
		t.Errorf("%d reads cost %d KMS calls", reads, got)
	}
}

func TestAFailingAccessNoteDoesNotFailTheRead(t *testing.T) {
	h := open(t, nil)
	token := h.Token(t, uuid.NewString())
	h.want(t, http.MethodPost, token, `{"key":"`+wire.NewKey()+`"}`, http.StatusOK)
	h.driver.Inject(storetest.Fault{Method: storetest.Put, When: storetest.Hang})
	h.want(t, http.MethodGet, token, "", http.StatusOK)
	if h.driver.Pending() != 0 {
		t.Error("the note was not even tried")
	}
}

func TestEveryAccessLeavesOneAuditEventAndNoSecretReachesTheLog(t *testing.T) {
	h := open(t, nil)
	user, key := uuid.NewString(), wire.NewKey()
	token := h.Token(t, user)
	body := `{"key":"` + key + `"}`
	h.want(t, http.MethodGet, token, "", http.StatusNotFound)
	h.want(t, http.MethodPost, token, body, http.StatusOK)
	h.want(t, http.MethodPost, token, body, http.StatusBadRequest)
	h.want(t, http.MethodPut, token, body, http.StatusOK)
	h.want(t, http.MethodGet, token, "", http.StatusOK)
	h.want(t, http.MethodGet, token+"x", "", http.StatusUnauthorized)
	h.want(t, http.MethodGet, h.Token(t, user, "scope", "other"), "", http.StatusForbidden)
	h.want(t, http.MethodPost, token, `{"key":"`+key+key+`"}`, http.StatusBadRequest)
	h.driver.Inject(storetest.Fault{Method: storetest.Get})
	h.want(t, http.MethodGet, token, "", http.StatusServiceUnavailable)
	h.server.Close() // waits for the log lines

	logs := h.logs.String()
	for name, secret := range map[string]string{"the key": strings.TrimRight(key, "="), "the token": token[:40], "the signature": token[len(token)-40:], "an e-mail address": "@"} {
		if strings.Contains(logs, secret) {
			t.Errorf("%s stands in the log", name)
		}
	}
	var got []string
	requestIDs := map[string]bool{}
	for line := range strings.Lines(logs) {
		var event struct {
			Msg, Action, Outcome, Subject, RequestID string
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("a log line is not JSON: %s", line)
		}
		switch event.Msg {
		case "audit":
			who := "user"
			if event.Subject != user {
				who = "nobody"
			}
			got = append(got, event.Action+" "+who+" "+event.Outcome)
			requestIDs[event.RequestID] = true
		case "request":
			if !requestIDs[event.RequestID] {
				t.Errorf("no audit event has the request id %s", event.RequestID)
			}
		}
	}
	want := []string{
		"user-key.read user refused", "user-key.create user allowed", "user-key.create user refused",
		"user-key.replace user allowed", "user-key.read user allowed", "user-key.read nobody refused",
		"user-key.read nobody refused", "user-key.create user refused", "user-key.read user failed",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("audit events:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestReadinessSeesEachPart(t *testing.T) {
	for name, strike := range map[string]func(*house){
		"keys":     func(h *house) { h.key.Set(kmstest.Faults{Err: fault.Denied}) },
		"store":    func(h *house) { h.driver.Inject(make([]storetest.Fault, 3)...) },
		"identity": func(h *house) { h.identity.set(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t, nil)
			strike(h)
			response, err := http.Get(h.URL + "/health")
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			var document struct{ Checks map[string]string }
			if err := json.NewDecoder(response.Body).Decode(&document); err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != http.StatusServiceUnavailable || document.Checks[name] != "failed" {
				t.Errorf("%s %v", response.Status, document)
			}
			if response, err = http.Get(h.URL + "/alive"); err != nil || response.StatusCode != http.StatusOK {
				t.Errorf("/alive: %v %v", response, err)
			}
		})
	}
}

func TestReadinessAsksTheKMSOnceForManyCallers(t *testing.T) {
	h := open(t, nil)
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			response, err := http.Get(h.URL + "/health")
			if err != nil || response.StatusCode != http.StatusOK {
				t.Errorf("%v %v", response, err)
			}
		})
	}
	wait.Wait()
	if n := h.key.Calls().Unwrap; n != 1 {
		t.Errorf("50 callers cost %d unwraps", n)
	}
}

func TestFailedAuthenticationsOfOneAddressAreLimitedAndValidOnesAreNot(t *testing.T) {
	h := open(t, nil)
	token := h.Token(t, uuid.NewString())
	limited := 0
	for range 60 {
		response, _ := h.call(t, http.MethodGet, "nonsense", "")
		switch response.StatusCode {
		case http.StatusTooManyRequests:
			limited++
		case http.StatusUnauthorized:
		default:
			t.Fatalf("a bad token was answered %s", response.Status)
		}
	}
	if limited == 0 {
		t.Error("60 failures were all answered in full")
	}
	// A token of the identity server's own that has expired is no guess: its
	// holder, perhaps behind the same proxy, has to learn that it has expired.
	h.want(t, http.MethodGet, h.Token(t, uuid.NewString(), "expires_in", "-600"), "", http.StatusUnauthorized)
	h.want(t, http.MethodGet, token, "", http.StatusNotFound)
}

func FuzzRequestBody(f *testing.F) {
	for _, seed := range []string{`{"key":"` + wire.NewKey() + `"}`, `{"Key":"x"}`, "null", "[]", `{"key":{"key":1}}`, "\xff\x00"} {
		f.Add([]byte(seed))
	}
	identity, err := devidentity.New(devidentity.Config{Issuer: "http://127.0.0.1"})
	if err != nil {
		f.Fatal(err)
	}
	identityServer := httptest.NewServer(identity)
	f.Cleanup(identityServer.Close)
	config, _, err := keyconnector.LoadConfig(map[string]string{
		"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": "unused",
		"LATCHKEY_IDENTITY_URL": identityServer.URL,
	})
	if err != nil {
		f.Fatal(err)
	}
	function, err := keyconnector.New(config, keyconnector.Parts{
		Store: memory.New(), Key: kmstest.NewKey(f), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		token, err := identity.Mint(devidentity.Claims{User: uuid.NewString()})
		if err != nil {
			t.Fatal(err)
		}
		call := func(method string, body []byte) *httptest.ResponseRecorder {
			r := httptest.NewRequestWithContext(context.Background(), method, "/user-keys", bytes.NewReader(body))
			r.Header.Set("Authorization", "Bearer "+token)
			w := httptest.NewRecorder()
			function.ServeHTTP(w, r)
			return w
		}
		stored := call(http.MethodPost, body)
		read := call(http.MethodGet, nil)
		switch stored.Code {
		case http.StatusOK:
			var document struct{ Key []byte }
			if err := json.Unmarshal(read.Body.Bytes(), &document); err != nil || len(document.Key) != 32 {
				t.Fatalf("%q was stored and came back as %s", body, read.Body)
			}
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			if read.Code != http.StatusNotFound {
				t.Fatalf("%q was refused, and then there was a key: %d", body, read.Code)
			}
		default:
			t.Fatalf("%q was answered %d", body, stored.Code)
		}
	})
}
