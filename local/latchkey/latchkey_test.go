package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/latchkey-fn/latchkey/functions/keyconnector"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/emulators/localkms"
	"github.com/latchkey-fn/latchkey/local/emulators/minidyn"
	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/local/house/housetest"
	"github.com/latchkey-fn/latchkey/providers/awsconfig"
	"github.com/latchkey-fn/latchkey/providers/awsconfig/chain"
	"github.com/latchkey-fn/latchkey/providers/keys/software"
	"github.com/latchkey-fn/latchkey/providers/stores/dynamodb"
	"github.com/latchkey-fn/latchkey/shared/config"
)

// outcome is what a command leaves behind.
type outcome struct {
	code     int
	out, err string
}

// run runs a command in this process, over the settings of its environment.
func run(t *testing.T, args ...string) outcome { return answering(t, "", args...) }

// answering is run for a command that asks.
func answering(t *testing.T, input string, args ...string) outcome {
	t.Helper()
	return runWith(t.Context(), strings.NewReader(input), args...)
}

func runWith(ctx context.Context, in io.Reader, args ...string) outcome {
	var out, err bytes.Buffer
	code := execute(ctx, &terminal{out: &out, err: &err, in: in}, args)
	return outcome{code, out.String(), err.String()}
}

func (o outcome) want(t *testing.T, code int, told ...string) outcome {
	t.Helper()
	if o.code != code {
		t.Errorf("exit code %d, want %d\n%s%s", o.code, code, o.out, o.err)
	}
	for _, text := range told {
		if !strings.Contains(o.out+o.err, text) {
			t.Errorf("%q is not told:\n%s%s", text, o.out, o.err)
		}
	}
	return o
}

func (o outcome) json(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(o.out), into); err != nil {
		t.Errorf("%v in %s", err, o.out)
	}
}

// event is an audit event among the lines of the error stream.
type event struct{ Msg, Action, Actor, Subject, Outcome, Reason string }

func (o outcome) events() []event {
	var events []event
	for lines := bufio.NewScanner(strings.NewReader(o.err)); lines.Scan(); {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Msg == "audit" {
			events = append(events, e)
		}
	}
	return events
}

// set sets these variables for the test; an empty value unsets in effect.
func set(t *testing.T, environment map[string]string) {
	for name, value := range environment {
		t.Setenv(name, value)
	}
}

// The stores that outlive a process. The DynamoDB is the test's.
var stores = map[string]func(*testing.T){
	"SQLite":      useSQLite,
	"a JSON file": useJSON,
	"DynamoDB":    func(t *testing.T) { useDynamoDB(t, startMinidyn(t)) },
}

func useSQLite(t *testing.T) {
	set(t, map[string]string{"LATCHKEY_STORE": "sqlite", "LATCHKEY_SQLITE_PATH": filepath.Join(t.TempDir(), "latchkey.db")})
}

func useJSON(t *testing.T) {
	set(t, map[string]string{"LATCHKEY_STORE": "json", "LATCHKEY_JSON_PATH": filepath.Join(t.TempDir(), "latchkey.json")})
}

func startMinidyn(t *testing.T) string {
	t.Helper()
	server, err := minidyn.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, server) })
	return server.URL
}

// useDynamoDB makes the table, and sets credentials that any emulator takes.
func useDynamoDB(t *testing.T, endpoint string) {
	t.Helper()
	cfg, err := chain.Load(t.Context(), awsconfig.Config{Region: localkms.Region, AccessKeyID: "test", SecretAccessKey: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := dynamodb.New(cfg, dynamodb.Config{Table: "latchkey", Endpoint: endpoint}).CreateTable(t.Context()); err != nil {
		t.Fatal(err)
	}
	set(t, map[string]string{
		"LATCHKEY_STORE": "dynamodb", "LATCHKEY_DYNAMODB_TABLE": "latchkey", "LATCHKEY_DYNAMODB_ENDPOINT": endpoint,
		"LATCHKEY_AWS_REGION": localkms.Region, "LATCHKEY_AWS_ACCESS_KEY_ID": "test", "LATCHKEY_AWS_SECRET_ACCESS_KEY": "test",
	})
}

// softwareKey is made once: its primes take a second to find.
var softwareKey = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "key.pem")
	if _, err := software.Open(path); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

func useSoftwareKey(t *testing.T) {
	t.Helper()
	content, err := softwareKey()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "software-key.pem")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	set(t, map[string]string{"LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": path})
}

func useIdentity(t *testing.T) *devidentity.Server {
	t.Helper()
	identity := housetest.NewIdentity(t)
	t.Setenv("LATCHKEY_IDENTITY_URL", identity.URL)
	return identity.Server
}

// use chooses a software key and an identity server besides a store.
func use(t *testing.T, store func(*testing.T)) *devidentity.Server {
	t.Helper()
	store(t)
	useSoftwareKey(t)
	return useIdentity(t)
}

// session is Key Connector over the settings of the environment. It is opened
// and closed around each use: a JSON file is one process's at a time.
func session(t *testing.T, do func(h http.Handler)) {
	t.Helper()
	settings, _, err := keyconnector.LoadConfig(config.Environment())
	if err != nil {
		t.Fatal(err)
	}
	kc, err := house.OpenKeyConnector(t.Context(), settings, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, kc)
	do(kc)
}

// call is one request of a user.
func call(t *testing.T, h http.Handler, identity *devidentity.Server, method, user, key string) (status int, body string) {
	t.Helper()
	token, err := identity.Mint(devidentity.Claims{User: user})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), method, "/user-keys", strings.NewReader(`{"key":"`+key+`"}`))
	r.Header.Set("Authorization", "Bearer "+token)
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, r)
	return recorder.Code, recorder.Body.String()
}

// wantCall is a session of one request.
func wantCall(t *testing.T, identity *devidentity.Server, method, user, key string, want int) (body string) {
	t.Helper()
	session(t, func(h http.Handler) {
		var status int
		if status, body = call(t, h, identity, method, user, key); status != want {
			t.Errorf("%s by %s: %d %s, want %d", method, user, status, body, want)
		}
	})
	return body
}

// wantKeys reads these users' keys back.
func wantKeys(t *testing.T, identity *devidentity.Server, keys map[string]string) {
	t.Helper()
	session(t, func(h http.Handler) {
		for user, key := range keys {
			if status, body := call(t, h, identity, http.MethodGet, user, ""); status != http.StatusOK || !strings.Contains(body, key) {
				t.Errorf("GET by %s: %d %s", user, status, body)
			}
		}
	})
}

func closeIt(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
