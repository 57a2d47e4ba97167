package machineaccounts_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/functions/machineaccounts"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/smapi/smapitest"
	"github.com/latchkey-fn/latchkey/shared/store"
)

const (
	origin    = "https://vault.example.org"
	publicURL = smapitest.PublicURL + "/secrets-manager"
)

// house is the function, the identity server of its operators, and the domains
// that other functions would change.
type house struct {
	*smapi.API
	*smapitest.Organization
	identity *devidentity.Server
	secrets  *secret.Secrets
	alice    string // an owner's token
}

func settings(identity string) map[string]string {
	return map[string]string{
		"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": "unused",
		"LATCHKEY_IDENTITY_URL": identity, "LATCHKEY_PUBLIC_URL": publicURL, "LATCHKEY_WEB_VAULT_ORIGINS": origin + "/",
	}
}

func open(t testing.TB) *house {
	t.Helper()
	identity, err := devidentity.New(devidentity.Config{Issuer: "http://127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(identity)
	t.Cleanup(server.Close)
	h := &house{Organization: smapitest.New(t), identity: identity}
	config, warnings, err := machineaccounts.LoadConfig(settings(server.URL))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	log := h.Log.Logger()
	if h.API, err = machineaccounts.New(config, machineaccounts.Parts{Store: h.Driver, Key: h.Wrapping, Logger: log}); err != nil {
		t.Fatal(err)
	}
	h.secrets = secret.New(secret.Config{Store: store.New(h.Driver), Machines: h.Machines, Logger: log})
	h.alice = h.person(t, devidentity.Claims{User: uuid.NewString(), Owner: []string{h.ID}})
	return h
}

// person gives the token of somebody.
func (h *house) person(t testing.TB, c devidentity.Claims) string {
	t.Helper()
	token, err := h.identity.Mint(c)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// member gives the subject and the token of a member of the organisation.
func (h *house) member(t testing.TB, groups ...string) (subject, token string) {
	t.Helper()
	subject = uuid.NewString()
	return subject, h.person(t, devidentity.Claims{User: subject, SecretsManager: []string{h.ID}, Groups: groups})
}

type object = map[string]any

// send makes a request, and holds the answer to what is true of all of them.
func (h *house) send(t testing.TB, token, method, path string, body any) (*httptest.ResponseRecorder, object) {
	t.Helper()
	var content io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		content = strings.NewReader(body)
	case io.Reader:
		content = body
	default:
		encoded, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		content = bytes.NewReader(encoded)
	}
	r := httptest.NewRequestWithContext(t.Context(), method, "/secrets-manager/api"+path, content)
	r.Header.Set("Content-Type", "application/json")
	r.RemoteAddr = "192.0.2.7:4711"
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%s %s: Cache-Control is %q", method, path, w.Header().Get("Cache-Control"))
	}
	if retry := w.Header().Get("Retry-After") != ""; retry != (w.Code == http.StatusServiceUnavailable) {
		t.Errorf("%s %s: %d with Retry-After: %v", method, path, w.Code, retry)
	}
	if w.Body.Len() == 0 {
		return w, nil
	}
	var answer object
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatalf("%s %s: %d %s: %v", method, path, w.Code, w.Body, err)
	}
	if w.Code >= http.StatusBadRequest {
		if answer["message"] == "" || answer["object"] != "error" {
			t.Errorf("%s %s: %s is no error object", method, path, w.Body)
		}
		members(t, answer, "message", "validationErrors", "exceptionMessage", "exceptionStackTrace", "innerExceptionMessage", "object")
	}
	return w, answer
}

// do is send where the answer is a success.
func (h *house) do(t testing.TB, token, method, path string, body any) object {
	t.Helper()
	w, answer := h.send(t, token, method, path, body)
	if w.Code != http.StatusOK {
		t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	return answer
}

// refused is send where it is not, and holds the message to be the one given.
func (h *house) refused(t testing.TB, token, method, path string, body any, status int, message string) object {
	t.Helper()
	w, answer := h.send(t, token, method, path, body)
	if text, _ := answer["message"].(string); w.Code != status || (message != "" && text != message) {
		t.Errorf("%s %s: %d %s, want %d %q", method, path, w.Code, w.Body, status, message)
	}
	return answer
}

// members holds an object to have these and no others.
func members(t testing.TB, o object, names ...string) {
	t.Helper()
	slices.Sort(names)
	if got := slices.Sorted(maps.Keys(o)); !slices.Equal(got, names) {
		t.Errorf("the object has %v, want %v", got, names)
	}
}

// list takes the things out of a list answer.
func list(t testing.TB, answer object) []object {
	t.Helper()
	members(t, answer, "data", "continuationToken", "object")
	data, ok := answer["data"].([]any)
	if !ok || answer["object"] != "list" {
		t.Fatalf("%v is no list", answer)
	}
	return objects(data)
}

func objects(data any) (all []object) {
	for _, element := range data.([]any) {
		all = append(all, element.(object))
	}
	return all
}

func id(o object) string { return o["id"].(string) }

// newAccount makes an account as somebody.
func (h *house) newAccount(t testing.TB, by string) string {
	t.Helper()
	return id(h.do(t, by, http.MethodPost, "/organizations/"+h.ID+"/service-accounts", object{"name": h.Enc()}))
}

func (h *house) tokenBody() object {
	return object{"name": h.Enc(), "encryptedPayload": h.Enc(), "key": h.Enc(), "expireAt": nil}
}

func (h *house) newToken(t testing.TB, account string) object {
	t.Helper()
	return h.do(t, h.alice, http.MethodPost, "/service-accounts/"+account+"/access-tokens", h.tokenBody())
}

func (h *house) newProject(t testing.TB) string {
	t.Helper()
	project, err := h.secrets.CreateProject(t.Context(), h.Access(t), h.Enc())
	if err != nil {
		t.Fatal(err)
	}
	return project.ID
}

func (h *house) newSecret(t testing.TB, projects ...string) string {
	t.Helper()
	made, err := h.secrets.Create(t.Context(), h.Access(t), secret.Values{Key: h.Enc(), Value: h.Enc(), Note: h.Enc(), Projects: projects})
	if err != nil {
		t.Fatal(err)
	}
	return made.Head.ID
}

func policies(member string, rights map[string]machine.Rights) []object {
	all := []object{}
	for id, r := range rights {
		all = append(all, object{member: id, "read": r.Read, "write": r.Write})
	}
	return all
}

// setPeople gives these users and groups policies on a project or an account.
func (h *house) setPeople(t testing.TB, path string, users, groups map[string]machine.Rights) {
	t.Helper()
	h.do(t, h.alice, http.MethodPut, path+"/access-policies/people", object{
		"userAccessPolicyRequests": policies("granteeId", users), "groupAccessPolicyRequests": policies("granteeId", groups),
	})
}
