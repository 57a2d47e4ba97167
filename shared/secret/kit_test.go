package secret

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

const organization = "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(time.Microsecond) // no two moments are the same
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// world is the domain over a store that fails on demand.
type world struct {
	*Secrets
	driver   *storetest.Faults
	accounts store.Collection[machine.Account]
	tokens   store.Collection[machine.Token]
	clock    *clock
	admin    machine.Caller
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{driver: storetest.NewFaults(store.NewTable()), clock: &clock{at: time.Now().UTC()}}
	documents := store.New(w.driver)
	w.accounts = store.NewCollection[machine.Account](documents, "service-accounts")
	w.tokens = store.NewCollection[machine.Token](documents, "access-tokens")
	w.restart()
	w.admin = person("the admin", machine.Admin)
	return w
}

// restart begins another instance over the same store.
func (w *world) restart() {
	documents := store.New(w.driver)
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	w.Secrets = New(Config{
		Store: documents, Logger: logger, Now: w.clock.now,
		Machines: machine.New(machine.Config{Store: documents, Logger: logger, Now: w.clock.now}),
	})
}

func person(subject string, role machine.Role, groups ...string) machine.Caller {
	return machine.OfPerson(machine.Person{Subject: subject, Groups: groups, Role: func(id string) machine.Role {
		if id != organization {
			return machine.NoRole
		}
		return role
	}})
}

// machine makes a service account with these grants.
func (w *world) machine(t *testing.T, account machine.Account) (id string) {
	t.Helper()
	id = uuid.NewString()
	account.Reached = w.clock.now()
	w.put(t, id, account)
	return id
}

func (w *world) put(t *testing.T, id string, account machine.Account) {
	t.Helper()
	if _, err := w.accounts.Put(t.Context(), store.Record[machine.Account]{ID: id, Parent: organization, Value: account}, store.Any()); err != nil {
		t.Fatal(err)
	}
}

// session is one of a service account, as it is now.
func (w *world) session(t *testing.T, account string, limits machine.Token) machine.Caller {
	t.Helper()
	limits.Organization, limits.Account = organization, account
	token := uuid.NewString()
	if _, err := w.tokens.Put(t.Context(), store.Record[machine.Token]{ID: token, Parent: account, Value: limits}, store.Any()); err != nil {
		t.Fatal(err)
	}
	caller, err := w.machines.Session(t.Context(), machine.Claims{Organization: organization, Account: account, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	return caller
}

func in(t *testing.T, c machine.Caller) machine.Access {
	t.Helper()
	a, err := c.In(organization)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var key = encstring.NewKey()

func values(value string, projects ...string) Values {
	return Values{Key: key.Encrypt("key"), Value: key.Encrypt(value), Note: key.Encrypt(""), Projects: projects}
}

func plain(t *testing.T, text string) string {
	t.Helper()
	opened, err := key.Decrypt(text)
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

func (w *world) project(t *testing.T) string {
	t.Helper()
	p, err := w.CreateProject(t.Context(), in(t, w.admin), key.Encrypt("project"))
	if err != nil {
		t.Fatal(err)
	}
	return p.ID
}

func (w *world) secret(t *testing.T, value string, projects ...string) string {
	t.Helper()
	s, err := w.Create(t.Context(), in(t, w.admin), values(value, projects...))
	if err != nil {
		t.Fatal(err)
	}
	return s.Head.ID
}

// value is what the administrator reads.
func (w *world) value(t *testing.T, id string) string {
	t.Helper()
	s, err := w.Get(t.Context(), w.admin, id)
	if err != nil {
		t.Fatal(err)
	}
	return plain(t, s.Content.Value)
}

func (w *world) history(t *testing.T, id string) []string {
	t.Helper()
	versions, err := w.Versions(t.Context(), w.admin, id)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, v := range versions {
		all = append(all, plain(t, v.Value.Value))
	}
	return all
}

// contentsOf are the ids of everything stored of a secret's values.
func (w *world) contentsOf(t *testing.T, id string) map[string]bool {
	t.Helper()
	stored := map[string]bool{}
	for content, err := range w.contents.ByParent(t.Context(), id) {
		if err != nil {
			t.Fatal(err)
		}
		stored[content.ID] = true
	}
	return stored
}

// intact fails unless every secret that can still be had has all contents that
// its head names, and they open.
func (w *world) intact(t *testing.T) {
	t.Helper()
	for _, parent := range []string{organization, trashOf(organization)} {
		for head, err := range w.heads.ByParent(t.Context(), parent) {
			if err != nil {
				t.Fatal(err)
			}
			if head.Value.Purging {
				continue
			}
			stored := w.contentsOf(t, head.ID)
			for _, content := range append(head.Value.History, head.Value.Content) {
				if !stored[content] {
					t.Errorf("a content of %s is gone", head.ID)
				}
			}
		}
	}
}

func wantClass(t *testing.T, what string, err error, want fault.Class) {
	t.Helper()
	if fault.Of(err) != want {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
}

// wantTold checks the message that a client gets.
func wantTold(t *testing.T, err error, message string) {
	t.Helper()
	problem, told := machine.AsProblem(err)
	if !told || !strings.Contains(problem.Message, message) {
		t.Errorf("%v, want the message %q", err, message)
	}
}

func shortly(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}
