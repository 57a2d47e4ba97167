package secrets

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/logtest"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

const (
	organization = "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"
	elsewhere    = "0f6b3c1d-2f3c-4f0d-9a57-b1d200c0fff0"
	nobody       = "ffffffff-7f3c-4f0d-9a57-b1d200c0ffee" // an id that nothing has
)

// house is the function over a store that counts, with callers whose bearer
// tokens are their names.
type house struct {
	t         testing.TB
	driver    *storetest.Faults
	tally     *tally
	documents *store.Store
	machines  *machine.Machines
	secrets   *secret.Secrets
	handler   http.Handler
	logs      *logtest.Log

	mu      sync.Mutex
	callers map[string]func(context.Context) (machine.Caller, error)
}

// tally counts the documents that were read, by collection, and the calls.
type tally struct {
	store.Driver
	mu        sync.Mutex
	calls     int
	documents map[string]int
}

func (c *tally) count(collections ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	for _, collection := range collections {
		c.documents[collection]++
	}
}

func (c *tally) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls, c.documents = 0, map[string]int{}
}

func (c *tally) Get(ctx context.Context, collection, id string) (store.Document, error) {
	c.count(collection)
	return c.Driver.Get(ctx, collection, id)
}

func (c *tally) GetMany(ctx context.Context, keys []store.Key) ([]store.Document, error) {
	var collections []string
	for _, key := range keys {
		collections = append(collections, key.Collection)
	}
	c.count(collections...)
	return c.Driver.GetMany(ctx, keys)
}

func (c *tally) List(ctx context.Context, q store.Query) (store.Page, error) {
	page, err := c.Driver.List(ctx, q)
	collections := []string{q.Collection}
	for range max(0, len(page.Documents)-1) {
		collections = append(collections, q.Collection)
	}
	c.count(collections...)
	return page, err
}

// Authenticate implements smapi.Authenticator.
func (h *house) Authenticate(r *http.Request) (machine.Caller, error) {
	h.mu.Lock()
	caller, ok := h.callers[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	h.mu.Unlock()
	if !ok {
		return machine.Caller{}, machine.Refused("Who are you?")
	}
	return caller(r.Context())
}

// encString is what no log may hold, and no error.
var encString = regexp.MustCompile(`2\.[A-Za-z0-9+/]{20,}`)

func open(t testing.TB) *house { return openWith(t, memory.New(), Config{}) }

func openWith(t testing.TB, driver store.Driver, c Config) *house {
	t.Helper()
	h := &house{t: t, logs: &logtest.Log{}, callers: map[string]func(context.Context) (machine.Caller, error){}}
	h.tally = &tally{Driver: driver, documents: map[string]int{}}
	h.driver = storetest.NewFaults(h.tally)
	h.documents = store.New(h.driver)
	logger := h.logs.Logger()
	h.machines = machine.New(machine.Config{Store: h.documents, Logger: logger})
	h.secrets = secret.New(secret.Config{Store: h.documents, Machines: h.machines, Logger: logger})
	if c.RequestTimeout == 0 {
		c.RequestTimeout = time.Minute
	}
	api := smapi.New(smapi.Config{
		Function: "secrets", Service: "Secrets Manager", Callers: h, Logger: logger, Timeout: c.RequestTimeout, MaxBody: maxImport,
	})
	(&handler{secrets: h.secrets, maxAnswer: c.MaxAnswer}).addRoutes(api)
	h.handler = api
	h.person("admin", machine.Admin)
	t.Cleanup(func() {
		if found := encString.FindString(h.logs.String()); found != "" {
			t.Errorf("the log holds %q", found)
		}
		if strings.Contains(h.logs.String(), "Bearer") {
			t.Error("the log holds a bearer token")
		}
	})
	return h
}

// person is somebody of the organisation.
func (h *house) person(name string, role machine.Role, groups ...string) string {
	h.callers[name] = func(context.Context) (machine.Caller, error) {
		return machine.OfPerson(machine.Person{Subject: name, Groups: groups, Role: func(id string) machine.Role {
			if id == organization {
				return role
			}
			return machine.NoRole
		}}), nil
	}
	return name
}

type grants = map[string]machine.Rights

// machine makes a service account of the organisation, with one token.
func (h *house) machine(name string, projects, secrets grants, limits machine.Token) string {
	return h.machineOf(organization, name, projects, secrets, limits)
}

func (h *house) machineOf(organization, name string, projects, secrets grants, limits machine.Token) string {
	h.t.Helper()
	account, token := uuid.NewString(), uuid.NewString()
	_, err := store.NewCollection[machine.Account](h.documents, "service-accounts").Put(h.t.Context(), store.Record[machine.Account]{
		ID: account, Parent: organization,
		Value: machine.Account{Name: key.Encrypt(name), Projects: projects, Secrets: secrets},
	}, store.Absent())
	if err != nil {
		h.t.Fatal(err)
	}
	limits.Organization, limits.Account = organization, account
	_, err = store.NewCollection[machine.Token](h.documents, "access-tokens").Put(h.t.Context(), store.Record[machine.Token]{
		ID: token, Parent: account, Value: limits,
	}, store.Absent())
	if err != nil {
		h.t.Fatal(err)
	}
	h.callers[name] = func(ctx context.Context) (machine.Caller, error) {
		return h.machines.Session(ctx, machine.Claims{Organization: organization, Account: account, Token: token})
	}
	return account
}

// do sends a request and gives the answer.
func (h *house) do(caller, route string, body any) (status int, answer []byte) {
	h.t.Helper()
	var content io.Reader = http.NoBody
	switch body := body.(type) {
	case nil:
	case string:
		content = strings.NewReader(body)
	default:
		text, err := json.Marshal(body)
		if err != nil {
			h.t.Fatal(err)
		}
		content = bytes.NewReader(text)
	}
	method, path, _ := strings.Cut(route, " ")
	r := httptest.NewRequestWithContext(h.t.Context(), method, "/api"+path, content)
	r.Header.Set("Authorization", "Bearer "+caller)
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, r)
	if kind := w.Header().Get("Content-Type"); w.Body.Len() > 0 && !strings.HasPrefix(kind, "application/json") {
		h.t.Errorf("%s has the content type %q", route, kind)
	}
	if cache := w.Header().Get("Cache-Control"); cache != "no-store" {
		h.t.Errorf("%s has Cache-Control %q", route, cache)
	}
	return w.Code, w.Body.Bytes()
}

// get sends a request whose answer is 200 and decodes it, strictly where it is a
// struct.
func get[T any](h *house, caller, route string, body any) (answer T) {
	h.t.Helper()
	status, text := h.do(caller, route, body)
	if status != http.StatusOK {
		h.t.Fatalf("%s %s: %d %s", caller, route, status, text)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&answer); err != nil {
		h.t.Fatalf("%s: %v: %s", route, err, text)
	}
	return answer
}

type problem struct {
	Message               *string             `json:"message"`
	ValidationErrors      map[string][]string `json:"validationErrors"`
	ExceptionMessage      *string             `json:"exceptionMessage"`
	ExceptionStackTrace   *string             `json:"exceptionStackTrace"`
	InnerExceptionMessage *string             `json:"innerExceptionMessage"`
	Object                string              `json:"object"`
}

// refused sends a request whose answer is an error, with the original's object.
func (h *house) refused(caller, route string, body any, status int, message string) problem {
	h.t.Helper()
	got, text := h.do(caller, route, body)
	var p problem
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil || p.Object != "error" || p.Message == nil {
		h.t.Fatalf("%s %s: %d %s is not the error object (%v)", caller, route, got, text, err)
	}
	if got != status || *p.Message != message {
		h.t.Errorf("%s %s: %d %q, want %d %q", caller, route, got, *p.Message, status, message)
	}
	return p
}

const hidden = "Resource not found."

func (h *house) notFound(caller, route string, body any) {
	h.t.Helper()
	h.refused(caller, route, body, http.StatusNotFound, hidden)
}

var key = encstring.NewKey()

func secretBody(value string, projects ...string) map[string]any {
	body := map[string]any{"key": key.Encrypt("KEY"), "value": key.Encrypt(value), "note": key.Encrypt("")}
	if len(projects) > 0 {
		body["projectIds"] = projects
	}
	return body
}

// project and secret are made by the administrator.
func (h *house) project() string {
	h.t.Helper()
	return get[projectAnswer](h, "admin", "POST /organizations/"+organization+"/projects", map[string]string{"name": key.Encrypt("project")}).ID
}

func (h *house) secret(value string, projects ...string) string {
	h.t.Helper()
	return get[secretAnswer](h, "admin", "POST /organizations/"+organization+"/secrets", secretBody(value, projects...)).ID
}

func (h *house) plain(text string) string {
	h.t.Helper()
	opened, err := key.Decrypt(text)
	if err != nil {
		h.t.Fatal(err)
	}
	return opened
}
