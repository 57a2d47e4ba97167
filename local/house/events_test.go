package house_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	lambdaevents "github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/events"
	"github.com/latchkey-fn/latchkey/functions/billingsync"
	"github.com/latchkey-fn/latchkey/functions/sponsorships"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/local/house/housetest"
	"github.com/latchkey-fn/latchkey/providers/hosts/awslambda"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/logtest"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// What the events' bodies and paths name; here it gets other ids when it is
// created.
const (
	eventOrganization = "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"
	eventAccount      = "0c4f6d2a-9b1e-4c55-8f6b-b1d200c0ffee"
	eventToken        = "7e9d3c11-52aa-4be0-a3c4-b1d200c0ffee"
	eventSecretOf     = "Zq3xT7mB9sLk2VdR5nHyW8cJ0pFgE1" // also a billing sync key
	eventProject      = "91f0aa07-1de4-4a2b-8c77-b1d200c0ffee"
	eventSecret       = "c2d1e8f4-6b3a-47c9-9e10-b1d200c0ffee"
	eventLicence      = "LICENSE"
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
	identity := housetest.NewIdentity(t)
	settings := identity.SecretsManager(t, map[string]string{"LATCHKEY_WEB_VAULT_ORIGINS": "https://vault.example.org"})
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
	r := &replay{
		t: t, functions: map[string]http.Handler{}, ids: map[string]string{}, done: map[string]bool{},
		operator: identity.Token(t, devidentity.Claims{User: uuid.NewString(), Owner: []string{eventOrganization}}),
	}
	for _, f := range list {
		r.functions[f.Name] = f
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
	content = r.withIDs(content)
	var event lambdaevents.APIGatewayV2HTTPRequest
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&event); err != nil {
		r.t.Fatalf("%s: %v", name, err)
	}
	if event.IsBase64Encoded {
		body, err := base64.StdEncoding.DecodeString(event.Body)
		if err != nil {
			r.t.Fatalf("%s: %v", name, err)
		}
		event.Body = base64.StdEncoding.EncodeToString(r.withIDs(body))
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
	var body any
	if err := json.Unmarshal([]byte(answer.Body), &body); err != nil {
		r.t.Fatalf("%s: %v in %s", name, err, answer.Body)
	}
	members, _ := body.(map[string]any) // nil where it is no object
	return members
}

// withIDs puts what is there in the place of what the events name.
func (r *replay) withIDs(content []byte) []byte {
	for from, to := range r.ids {
		content = bytes.ReplaceAll(content, []byte(from), []byte(to))
	}
	return content
}

// complete checks that every event of the functions was replayed.
func (r *replay) complete(functions ...string) {
	r.t.Helper()
	names, err := events.Names()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, name := range names {
		function, _, _ := strings.Cut(name, "-")
		if slices.Contains(functions, function) && !r.done[name] {
			r.t.Errorf("%s is replayed by no test", name)
		}
	}
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

	r.complete("machineaccounts", "secrets", "tokenexchange", "tokenrevoke")
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

// syncReplay sends the events of both sides of Billing sync.
type syncReplay struct {
	replay
	scheduled lambda.Handler
	kicked    []string // organisations
	log       *logtest.Log
}

func newSyncReplay(t *testing.T) *syncReplay {
	t.Helper()
	identity, cloud := housetest.NewIdentity(t), housetest.NewCloud(t)
	c := identity.BillingSync(t, cloud, map[string]string{"LATCHKEY_WEB_VAULT_ORIGINS": "https://vault.example.org"})
	r := &syncReplay{log: &logtest.Log{}}
	documents, wrapping := store.NewTable(), kmstest.NewKey(t)
	asked, askedErr := sponsorships.New(c.Sponsorships, sponsorships.Parts{
		Store: documents, Key: wrapping, Logger: r.log.Logger(), Transport: cloud.Transport,
		Kick: func(_ context.Context, organization string) error {
			r.kicked = append(r.kicked, organization)
			return nil
		},
	})
	scheduled, scheduledErr := billingsync.New(c.BillingSync, billingsync.Parts{
		Store: documents, Key: wrapping, Logger: r.log.Logger(), Transport: cloud.Transport,
	})
	if err := errors.Join(askedErr, scheduledErr); err != nil {
		t.Fatal(err)
	}
	r.replay = replay{
		t: t, functions: map[string]http.Handler{"sponsorships": asked}, done: map[string]bool{},
		operator: identity.Token(t, devidentity.Claims{User: uuid.NewString(), Owner: []string{eventOrganization}}),
		ids:      map[string]string{eventSecretOf: cloud.Key, eventLicence: string(cloud.Licence(t))},
	}
	// As the main of the function has it.
	r.scheduled = lambda.NewHandlerWithOptions(awslambda.TickHandler(func(ctx context.Context, tick awslambda.Tick) error {
		if tick.Organization != "" {
			return scheduled.Sync(ctx, tick.Organization)
		}
		return scheduled.Run(ctx, billingsync.Tick{At: tick.At, ID: tick.ID})
	}), lambda.WithDisallowUnknownFields(true))
	return r
}

// call replays an event of the scheduled function, and gives it.
func (r *syncReplay) call(name string) []byte {
	r.t.Helper()
	r.done[name] = true
	content, err := events.Load(name, "")
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.scheduled.Invoke(r.t.Context(), content); err != nil {
		r.t.Fatalf("%s: %v", name, err)
	}
	return content
}

// sync asks for a run, has it done by the event that follows, and gives it.
func (r *syncReplay) sync() map[string]any {
	r.t.Helper()
	r.kicked = nil
	r.send("sponsorships-start-sync", http.StatusAccepted)
	var event struct{ Organization string }
	if err := json.Unmarshal(r.call("billingsync-organization"), &event); err != nil || !slices.Equal(r.kicked, []string{event.Organization}) {
		r.t.Errorf("%v is asked to sync, the event is %+v, %v", r.kicked, event, err)
	}
	last := r.send("sponsorships-runs", http.StatusOK)["data"].([]any)[0].(map[string]any)
	if last["status"] != "completed" {
		r.t.Errorf("the run is %v\n%s", last, r.log)
	}
	return last["counts"].(map[string]any)
}

func TestTheEventsOfBillingSyncAreAnsweredAsClientsWant(t *testing.T) {
	r := newSyncReplay(t)
	r.send("sponsorships-preflight", http.StatusNoContent)
	r.send("sponsorships-enabled", http.StatusOK)
	r.send("sponsorships-connect", http.StatusBadRequest) // there is no licence yet
	r.send("sponsorships-upload-license", http.StatusOK)
	r.send("sponsorships-connect", http.StatusOK)
	if connection := r.send("sponsorships-connection", http.StatusOK); connection["id"] != eventOrganization {
		t.Errorf("the connection is %v", connection)
	}
	r.send("sponsorships-sync-license", http.StatusOK)
	r.send("sponsorships-offer", http.StatusOK)
	if list := r.send("sponsorships-sponsored", http.StatusOK)["data"].([]any); len(list) != 1 {
		t.Errorf("%d offers", len(list))
	}
	if counts := r.sync(); counts["sent"] != 1.0 {
		t.Errorf("the run has %v", counts)
	}
	if status := r.send("sponsorships-sync-status", http.StatusOK); status["lastSyncDate"] == nil {
		t.Errorf("the status is %v", status)
	}
	r.send("sponsorships-revoke", http.StatusOK)
	if counts := r.sync(); counts["removed"] != 1.0 {
		t.Errorf("the run has %v", counts)
	}

	var tick struct{ ID string }
	if err := json.Unmarshal(r.call("billingsync-tick"), &tick); err != nil || tick.ID == "" {
		t.Fatal(tick, err)
	}
	if !strings.Contains(r.log.String(), `"msg":"sync tick","tick":"`+tick.ID+`","at":"2026-11-22T14:30:00Z","connections":1,`) {
		t.Errorf("the log is %s", r.log)
	}
	r.complete("sponsorships", "billingsync")
}
