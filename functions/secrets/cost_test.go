package secrets

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// What requests cost: calls of the store, documents read, memory.

func TestReadingASecretIsThreeCallsOfTheStore(t *testing.T) {
	h := open(t)
	p := h.project()
	s := h.secret("value", p)
	h.machine("robot", grants{p: machine.ToWrite}, nil, machine.Token{})
	h.tally.reset()
	get[secretAnswer](h, "robot", "GET /secrets/"+s, nil)
	want := map[string]int{
		"access-tokens": 1, "service-accounts": 1, "organizations": 1, // the session, in one call
		"secrets":         1,
		"secret-contents": 1, "projects": 1, // in one call
	}
	if h.tally.calls != 3 || !maps.Equal(h.tally.documents, want) {
		t.Errorf("%d calls, %v", h.tally.calls, h.tally.documents)
	}
}

// fill stores projects and secrets directly: the same text is key, value and
// note of all.
func fill(t testing.TB, driver store.Driver, projects, secrets int) []string {
	t.Helper()
	documents := store.New(driver)
	allProjects := store.NewCollection[secret.Project](documents, "projects")
	heads := store.NewCollection[secret.Head](documents, "secrets")
	text, now := key.Encrypt("text"), time.Now().UTC()
	ids := make([]string, projects)
	for i := range ids {
		ids[i] = uuid.NewString()
		if _, err := allProjects.Put(t.Context(), store.Record[secret.Project]{ID: ids[i], Parent: organization, Value: secret.Project{Name: text}}, store.Absent()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range secrets {
		head := store.Record[secret.Head]{ID: uuid.NewString(), Parent: organization, Lookup: ids[i%projects], Value: secret.Head{
			Organization: organization, Key: text, Created: now, Revised: now, Content: uuid.NewString(), Size: 2 * len(text),
		}}
		if _, err := heads.Put(t.Context(), head, store.Absent()); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

func TestListsReadNoValues(t *testing.T) {
	projects, secrets := 200, 10_000
	if testing.Short() {
		projects, secrets = 40, 1_000
	}
	driver := memory.New()
	ids := fill(t, driver, projects, secrets)
	h := openWith(t, driver, Config{})
	granted := grants{}
	for _, id := range ids {
		granted[id] = machine.ToRead
	}
	h.machine("robot", granted, nil, machine.Token{})
	for _, test := range []struct {
		caller, route   string
		secrets, atMost int
	}{
		{"admin", "GET /organizations/" + organization + "/secrets", secrets, secrets/store.MaxPage + projects/store.MaxPage + 4},
		{"robot", "GET /organizations/" + organization + "/secrets", secrets, projects + projects/store.MaxKeys + 3},
		{"robot", "GET /projects/" + ids[0] + "/secrets", secrets / projects, 4},
	} {
		h.tally.reset()
		list := get[secretsAnswer](h, test.caller, test.route, nil)
		if len(list.Secrets) != test.secrets {
			t.Errorf("%s lists %d secrets, want %d", test.caller, len(list.Secrets), test.secrets)
		}
		if h.tally.documents["secret-contents"] != 0 || h.tally.calls > test.atMost {
			t.Errorf("%s %s: %d calls (at most %d), %v", test.caller, test.route, h.tally.calls, test.atMost, h.tally.documents)
		}
	}
}

// generous is a store whose every secret has a value of the greatest size, made
// when it is read.
type generous struct {
	store.Driver
	content []byte
}

func (g generous) GetMany(ctx context.Context, keys []store.Key) ([]store.Document, error) {
	if keys[0].Collection != "secret-contents" {
		return g.Driver.GetMany(ctx, keys)
	}
	docs := make([]store.Document, len(keys))
	for i, key := range keys {
		docs[i] = store.Document{Collection: key.Collection, ID: key.ID, Parent: "secret", Revision: 1, Body: append([]byte{}, g.content...)}
	}
	return docs, nil
}

// gauge throws an answer away and looks at the memory meanwhile.
type gauge struct {
	http.ResponseWriter
	written, most uint64
	next          uint64
}

func (g *gauge) Write(b []byte) (int, error) {
	g.written += uint64(len(b))
	if g.written >= g.next {
		g.next = g.written + 4<<20
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		g.most = max(g.most, m.HeapAlloc)
	}
	return len(b), nil
}

func TestGettingVeryManyLargeValuesNeedsLittleMemory(t *testing.T) {
	secrets := 5_000
	if testing.Short() {
		secrets = 400
	}
	text := key.Encrypt(strings.Repeat("x", 100_000))
	content, err := json.Marshal(secret.Content{Organization: organization, Value: text, Note: key.Encrypt("")})
	if err != nil {
		t.Fatal(err)
	}
	driver := generous{memory.New(), content}
	fill(t, driver, 1, secrets)
	h := openWith(t, driver, Config{})
	heads := store.NewCollection[secret.Head](h.documents, "secrets")
	var ids []string
	for head, err := range h.secrets.Heads(t.Context(), organization) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, head.ID)
		head.Value.Size = len(text)
		if _, err := heads.Put(t.Context(), head, store.AtRevision(head.Revision)); err != nil {
			t.Fatal(err)
		}
	}
	body, err := json.Marshal(object{"ids": ids})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/secrets/get-by-ids", strings.NewReader(string(body)))
	r.Header.Set("Authorization", "Bearer admin")
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	w := &gauge{ResponseWriter: httptest.NewRecorder()}
	h.handler.ServeHTTP(w, r)
	if least := uint64(secrets * len(text)); w.written < least {
		t.Fatalf("the answer has %d bytes, less than %d", w.written, least)
	}
	const allowed = 40 << 20
	if used := w.most - min(w.most, before.HeapAlloc); used > allowed {
		t.Errorf("an answer of %d MB needed %d MB of memory", w.written>>20, used>>20)
	} else {
		t.Logf("an answer of %d MB needed %d MB of memory", w.written>>20, used>>20)
	}
}
