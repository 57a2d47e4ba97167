package tokenrevoke_test

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/functions/tokenrevoke"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/smapi/smapitest"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// house is the function, and the domain as other functions see it.
type house struct {
	*smapi.API
	*smapitest.Organization
	identity *devidentity.Server
	alice    string // an owner's token
	account  string
}

func settings(identity string) map[string]string {
	return map[string]string{
		"LATCHKEY_STORE": "memory", "LATCHKEY_IDENTITY_URL": identity, "LATCHKEY_PUBLIC_URL": smapitest.PublicURL,
		"LATCHKEY_WEB_VAULT_ORIGINS": "https://vault.example.org",
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
	config, warnings, err := tokenrevoke.LoadConfig(settings(server.URL))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if h.API, err = tokenrevoke.New(config, tokenrevoke.Parts{Store: h.Driver, Logger: h.Log.Logger()}); err != nil {
		t.Fatal(err)
	}
	h.alice = h.person(t, devidentity.Claims{User: uuid.NewString(), Owner: []string{h.ID}})
	h.account = h.NewAccount(t)
	return h
}

func (h *house) person(t testing.TB, c devidentity.Claims) string {
	t.Helper()
	token, err := h.identity.Mint(c)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// revoked is who revoked a token; empty: nobody.
func (h *house) revoked(t testing.TB, account, token string) string {
	t.Helper()
	for record, err := range h.Machines.Tokens(t.Context(), account) {
		if err != nil {
			t.Fatal(err)
		}
		if record.ID == token && record.Value.Revoked != nil {
			return record.Value.Revoked.By
		}
	}
	return ""
}

func (h *house) post(t testing.TB, bearer, account, body string) (status int, message string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/service-accounts/"+account+"/access-tokens/revoke", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code == http.StatusOK {
		if w.Body.Len() != 0 {
			t.Errorf("200 with a body: %s", w.Body)
		}
		return w.Code, ""
	}
	var answer struct{ Message, Object string }
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer.Message == "" || answer.Object != "error" {
		t.Errorf("%d %s is no error object", w.Code, w.Body)
	}
	if retry := w.Header().Get("Retry-After") != ""; retry != (w.Code == http.StatusServiceUnavailable) {
		t.Errorf("%d with Retry-After: %v", w.Code, retry)
	}
	return w.Code, answer.Message
}

func ids(tokens ...string) string {
	content, _ := json.Marshal(map[string][]string{"ids": append([]string{}, tokens...)})
	return string(content)
}

func (h *house) want(t testing.TB, bearer, body string, status int, message string) string {
	t.Helper()
	got, text := h.post(t, bearer, h.account, body)
	if got != status || (message != "" && text != message) {
		t.Errorf("%d %q, want %d %q", got, text, status, message)
	}
	return text
}

func TestARevokedTokensSessionsEnd(t *testing.T) {
	h := open(t)
	token, other := h.NewToken(t, h.account), h.NewToken(t, h.account)
	session := h.Session(t, h.account, token)
	h.want(t, session, ids(other), http.StatusNotFound, "Resource not found.") // no machine revokes
	h.want(t, h.alice, ids(strings.ToUpper(token)), http.StatusOK, "")
	if message := h.want(t, session, ids(other), http.StatusUnauthorized, ""); !strings.HasPrefix(message, "The access token was revoked by user:") {
		t.Errorf("the machine reads %q", message)
	}
	if h.revoked(t, h.account, other) != "" {
		t.Error("another token was revoked")
	}
	h.want(t, h.Session(t, h.account, other), ids(), http.StatusNotFound, "")
}

func TestRevokingAgainAndWhatIsNotThereIsFine(t *testing.T) {
	h := open(t)
	token, account := h.NewToken(t, h.account), h.NewAccount(t)
	foreign := h.NewToken(t, account)
	body := ids(token, foreign, uuid.NewString(), token)
	h.want(t, h.alice, body, http.StatusOK, "")
	first := h.revoked(t, h.account, token)
	h.want(t, h.person(t, devidentity.Claims{User: uuid.NewString(), Admin: []string{h.ID}}), body, http.StatusOK, "")
	if first == "" || h.revoked(t, h.account, token) != first {
		t.Errorf("revoked by %q and then by %q", first, h.revoked(t, h.account, token))
	}
	if h.revoked(t, account, foreign) != "" {
		t.Error("the token of another account was revoked")
	}
	h.want(t, h.alice, `{"ids":[]}`, http.StatusOK, "")
}

func TestWhoMayRevoke(t *testing.T) {
	h := open(t)
	writer, groups := uuid.NewString(), []string{"ops"}
	_, err := h.Machines.SetAccountPeople(t.Context(), smapitest.Root(), h.account, machine.People{
		Users: map[string]machine.Rights{writer: machine.ToWrite, "reader": machine.ToRead}, Groups: map[string]machine.Rights{"ops": machine.ToWrite},
	})
	if err != nil {
		t.Fatal(err)
	}
	in, machineToken := []string{h.ID}, h.NewToken(t, h.account)
	for name, c := range map[string]struct {
		bearer string
		status int
	}{
		"an owner":                    {h.alice, 200},
		"an administrator":            {h.person(t, devidentity.Claims{User: uuid.NewString(), Admin: in}), 200},
		"a member with a policy":      {h.person(t, devidentity.Claims{User: writer, SecretsManager: in}), 200},
		"a member of a group":         {h.person(t, devidentity.Claims{User: uuid.NewString(), SecretsManager: in, Groups: groups}), 200},
		"a member who may read":       {h.person(t, devidentity.Claims{Set: map[string]any{"sub": "reader"}, SecretsManager: in}), 404},
		"a member without a policy":   {h.person(t, devidentity.Claims{User: uuid.NewString(), SecretsManager: in}), 404},
		"a user without a role":       {h.person(t, devidentity.Claims{User: writer, Groups: groups}), 404},
		"another one's administrator": {h.person(t, devidentity.Claims{User: writer, Owner: []string{uuid.NewString()}}), 404},
		"a machine":                   {h.Session(t, h.account, machineToken), 404},
		"nobody":                      {"", 401},
		"somebody who expired":        {h.person(t, devidentity.Claims{User: writer, Owner: in, Lifetime: -time.Hour}), 401},
	} {
		token := h.NewToken(t, h.account)
		if status, message := h.post(t, c.bearer, h.account, ids(token)); status != c.status {
			t.Errorf("%s: %d %s, want %d", name, status, message, c.status)
		}
		if by := h.revoked(t, h.account, token); (by != "") != (c.status == http.StatusOK) {
			t.Errorf("%s: revoked by %q", name, by)
		}
	}
	if status, _ := h.post(t, h.alice, uuid.NewString(), ids()); status != http.StatusNotFound {
		t.Errorf("an account that is not there: %d", status)
	}
	if status, _ := h.post(t, h.alice, "x", ids()); status != http.StatusNotFound {
		t.Errorf("an account that cannot be: %d", status)
	}
}

func TestABatchThatBrokeSaysWhichTokensAreRevoked(t *testing.T) {
	h := open(t)
	var tokens []string
	for range 6 {
		tokens = append(tokens, h.NewToken(t, h.account))
	}
	h.Driver.Inject(
		storetest.Fault{Method: storetest.Put, Collection: "access-tokens", Skip: 2},
		storetest.Fault{Method: storetest.Put, Collection: "access-tokens", Skip: 3},
	)
	message := h.want(t, h.alice, ids(tokens...), http.StatusServiceUnavailable, "")
	failed, revoked, both := strings.Cut(message, "These are revoked: ")
	if !both {
		t.Fatal(message)
	}
	failures := 0
	for _, token := range tokens {
		if got := h.revoked(t, h.account, token) != ""; got != strings.Contains(revoked, token) || got == strings.Contains(failed, token) {
			t.Errorf("%s is revoked = %v, and the message is %q", token, got, message)
		}
		if strings.Contains(failed, token) {
			failures++
		}
	}
	if failures != 2 {
		t.Errorf("%d failures: %q", failures, message)
	}
	h.Driver.Reset()
	h.want(t, h.alice, ids(tokens...), http.StatusOK, "")
	for _, token := range tokens {
		if h.revoked(t, h.account, token) == "" {
			t.Errorf("%s is not revoked", token)
		}
	}
	h.Driver.Inject(make([]storetest.Fault, 1)...)
	h.want(t, h.alice, ids(tokens...), http.StatusServiceUnavailable, "Secrets Manager is not available at the moment. Please try again.")
}

func TestBodiesThatAreWrong(t *testing.T) {
	h := open(t)
	token := h.NewToken(t, h.account)
	many := make([]string, machine.MaxRevoked+1)
	for i := range many {
		many[i] = uuid.NewString()
	}
	h.want(t, h.alice, ids(many[1:]...), http.StatusOK, "")
	for body, status := range map[string]int{
		``: 400, `[]`: 400, `{"ids":"x"}`: 400, `{"ids":["x"]}`: 400, `{"ids":[7]}`: 400, `{"ids":["` + token + `","x"]}`: 400,
		`{}`: 400, `null`: 400, `{"ids":null}`: 400, `{"id":["` + token + `"]}`: 400,
		ids(many...):                            400,
		`{"ids":["{` + token + `}"]}`:           400,
		`{"ids":"` + strings.Repeat("x", 70000): 413,
	} {
		h.Driver.Reset()
		if got, _ := h.post(t, h.alice, h.account, body); got != status {
			t.Errorf("%.60s: %d, want %d", body, got, status)
		}
		if n := h.Driver.Calls(storetest.Put, storetest.Delete); n != 0 {
			t.Errorf("%.60s: %d writes", body, n)
		}
	}
	if h.revoked(t, h.account, token) != "" {
		t.Error("a token was revoked by a body that was refused")
	}
}

// Revoking uses no key, even where there is one to be used.
func TestRevokingNeedsNoKey(t *testing.T) {
	h := open(t)
	token := h.NewToken(t, h.account)
	before := h.Wrapping.Calls()
	h.Wrapping.Set(kmstest.Faults{Err: fault.Denied, DescribeToo: true})
	h.want(t, h.alice, ids(token), http.StatusOK, "")
	if h.Wrapping.Calls() != before {
		t.Error("the key was used")
	}
}

func TestTheLogTellsWhoRevokedWhat(t *testing.T) {
	h := open(t)
	token := h.NewToken(t, h.account)
	h.want(t, h.alice, ids(token), http.StatusOK, "")
	h.want(t, "", ids(token), http.StatusUnauthorized, "")
	logs := h.Log.String()
	for _, part := range []string{
		`"action":"access-token.revoke","outcome":"allowed","actor":"user:`, `"subject":"` + token + `"`,
		`"action":"access-token.revoke","outcome":"refused"`,
	} {
		if !strings.Contains(logs, part) {
			t.Errorf("the log does not hold %s", part)
		}
	}
	if strings.Contains(logs, h.alice) {
		t.Error("the operator's token is in the log")
	}
}

func TestWhatCannotWorkIsRefusedByName(t *testing.T) {
	good := settings("https://id.example.org")
	if _, _, err := tokenrevoke.LoadConfig(good); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"LATCHKEY_STORE": "mysql", "LATCHKEY_IDENTITY_URL": "", "LATCHKEY_PUBLIC_URL": "sm.example.org", "LATCHKEY_OPERATOR_RULES": "=x",
		"LATCHKEY_WEB_VAULT_ORIGINS": "vault.example.org", "LATCHKEY_REQUEST_TIMEOUT": "1ms", "LATCHKEY_AWS_ACCESS_KEY_ID": "alone",
	} {
		environment := maps.Clone(good)
		environment[name] = value
		if _, _, err := tokenrevoke.LoadConfig(environment); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
}

func FuzzBody(f *testing.F) {
	h := open(f)
	token := h.NewToken(f, h.account)
	for _, body := range []string{ids(token), ids(token, "x"), `{"ids":null}`, `{"ids":[null]}`, `null`, `{`, ``} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		h.Driver.Reset()
		status, message := h.post(t, h.alice, h.account, body)
		if status != http.StatusOK && (status < 400 || status > 499) {
			t.Errorf("%q: %d %s", body, status, message)
		}
		if n := h.Driver.Calls(storetest.Put, storetest.Delete); status != http.StatusOK && n != 0 {
			t.Errorf("%q: %d, and %d writes", body, status, n)
		}
	})
}
