package house_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	lambdaevents "github.com/aws/aws-lambda-go/events"
	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/events"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/providers/hosts/awslambda"
)

// What the events' bodies and paths name; here it gets other ids when it is
// created.
const (
	eventOrganization = "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"
	eventAccount      = "0c4f6d2a-9b1e-4c55-8f6b-b1d200c0ffee"
	eventToken        = "7e9d3c11-52aa-4be0-a3c4-b1d200c0ffee"
	eventSecretOf     = "Zq3xT7mB9sLk2VdR5nHyW8cJ0pFgE1"
	eventProject      = "91f0aa07-1de4-4a2b-8c77-b1d200c0ffee"
	eventSecret       = "c2d1e8f4-6b3a-47c9-9e10-b1d200c0ffee"
)

// replay sends events through the functions as Lambda would.
type replay struct {
	t         *testing.T
	functions map[string]http.Handler
	operator  string
	machine   string
	ids       map[string]string // by those in the events
	done      map[string]bool
}

func newReplay(t *testing.T) *replay {
	t.Helper()
	identity, err := devidentity.New(devidentity.Config{Issuer: "http://127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(identity)
	t.Cleanup(server.Close)
	settings, warnings, err := house.LoadSecretsManager(map[string]string{
		"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": filepath.Join(t.TempDir(), "key.pem"),
		"LATCHKEY_IDENTITY_URL": server.URL, "LATCHKEY_PUBLIC_URL": "https://secrets.example.org",
		"LATCHKEY_WEB_VAULT_ORIGINS": "https://vault.example.org",
	})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	silent := slog.New(slog.DiscardHandler)
	parts, err := house.Open(t.Context(), settings.Settings(), silent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = parts.Close() })
	list, err := settings.Functions(parts, silent)
	if err != nil {
		t.Fatal(err)
	}
	r := &replay{t: t, functions: map[string]http.Handler{}, ids: map[string]string{}, done: map[string]bool{}}
	for _, f := range list {
		r.functions[f.Name] = f
	}
	r.operator, err = identity.Mint(devidentity.Claims{User: uuid.NewString(), Owner: []string{eventOrganization}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// send replays one event and gives the answer's body.
func (r *replay) send(name string, status int) map[string]any {
	r.t.Helper()
	r.done[name] = true
	function, _, _ := strings.Cut(name, "-")
	token := r.operator
	if function == "secrets" {
		token = r.machine
	}
	content, err := events.Load(name, token)
	if err != nil {
		r.t.Fatal(err)
	}
	for from, to := range r.ids {
		content = bytes.ReplaceAll(content, []byte(from), []byte(to))
	}
	var event lambdaevents.APIGatewayV2HTTPRequest
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&event); err != nil {
		r.t.Fatalf("%s: %v", name, err)
	}
	answer, err := awslambda.Handler(r.functions[function])(r.t.Context(), event)
	if err != nil {
		r.t.Fatalf("%s: %v", name, err)
	}
	if answer.StatusCode != status {
		r.t.Fatalf("%s: %d %s, want %d", name, answer.StatusCode, answer.Body, status)
	}
	if origin := event.Headers["origin"]; origin != "" && answer.Headers["Access-Control-Allow-Origin"] != origin {
		r.t.Errorf("%s: the origin %s is not allowed: %v", name, origin, answer.Headers)
	}
	if answer.Body == "" {
		return nil
	}
	var body map[string]any
	if err := json.Unmarshal([]byte(answer.Body), &body); err != nil {
		r.t.Fatalf("%s: %v in %s", name, err, answer.Body)
	}
	return body
}

// Each event is what `sam local invoke` is given.
func TestTheEventsOfSecretsManagerAreAnsweredAsClientsWant(t *testing.T) {
	r := newReplay(t)
	r.ids[eventAccount] = r.send("machineaccounts-create", http.StatusOK)["id"].(string)
	r.send("machineaccounts-list", http.StatusOK)
	created := r.send("machineaccounts-token-create", http.StatusOK)
	r.ids[eventToken], r.ids[eventSecretOf] = created["id"].(string), created["clientSecret"].(string)
	r.send("machineaccounts-tokens", http.StatusOK)
	r.send("tokenexchange-discovery", http.StatusOK)
	session := r.send("tokenexchange-login", http.StatusOK)
	r.send("tokenexchange-jwks", http.StatusOK)

	// There is no event for making a project; the rest of the story needs one.
	r.machine = r.operator
	r.ids[eventProject] = r.project()
	r.send("machineaccounts-grant", http.StatusOK)

	r.machine = session["access_token"].(string)
	r.send("secrets-preflight", http.StatusNoContent)
	if list := r.send("secrets-projects", http.StatusOK)["data"].([]any); len(list) != 1 {
		t.Errorf("%d projects", len(list))
	}
	r.ids[eventSecret] = r.send("secrets-create", http.StatusOK)["id"].(string)
	r.send("secrets-list", http.StatusOK)
	r.send("secrets-get", http.StatusOK)
	r.send("secrets-get-by-ids", http.StatusOK)
	r.send("secrets-edit", http.StatusOK)
	r.send("secrets-sync", http.StatusOK)
	r.send("secrets-delete", http.StatusOK)
	r.send("secrets-get", http.StatusNotFound)
	r.send("tokenrevoke-revoke", http.StatusOK)
	r.send("secrets-list", http.StatusUnauthorized)
	r.send("tokenexchange-login", http.StatusBadRequest)

	names, err := events.Names()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		function, _, _ := strings.Cut(name, "-")
		if r.functions[function] != nil && !r.done[name] {
			t.Errorf("%s is replayed by no test", name)
		}
	}
}

func (r *replay) project() string {
	r.t.Helper()
	request := httptest.NewRequest(http.MethodPost, "/api/organizations/"+eventOrganization+"/projects",
		strings.NewReader(`{"name":"2.ThZir8taIuTYFzt3FpSzbg==|l3n35A8dpFEzzNJxQNLqIQ==|u4bQjlk65FQAsobcRuy2IPKEy3+6TgMNFCNi2I2qM1g="}`))
	request.Header.Set("Authorization", "Bearer "+r.operator)
	recorder := httptest.NewRecorder()
	r.functions["secrets"].ServeHTTP(recorder, request)
	var project struct{ ID string }
	if err := json.Unmarshal(recorder.Body.Bytes(), &project); err != nil || recorder.Code != http.StatusOK {
		r.t.Fatalf("%d %s, %v", recorder.Code, recorder.Body, err)
	}
	return project.ID
}
