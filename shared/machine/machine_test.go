package machine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/logtest"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// world is one organisation over a store that fails on demand and a clock that is
// set.
type world struct {
	*machine.Machines
	driver       *storetest.Faults
	key          *kmstest.Key
	log          *logtest.Log
	organization string
	// org is the organisation's key, which only clients have.
	org encstring.Key

	mu    sync.Mutex
	clock time.Time
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		driver: storetest.NewFaults(store.NewTable()), key: kmstest.NewKey(t), log: &logtest.Log{},
		organization: uuid.NewString(), org: encstring.NewKey(),
		// A store forgets what has expired by its own clock, so this one is near.
		clock: time.Now().UTC().Truncate(time.Hour),
	}
	w.Machines = w.instance(w.driver)
	return w
}

// instance is the domain as a process that has just started has it.
func (w *world) instance(driver store.Driver) *machine.Machines {
	documents := store.New(driver)
	return machine.New(machine.Config{
		Store: documents, Logger: w.log.Logger(), Now: w.now,
		Ring: keyring.New(keyring.Config{Name: machine.Ring, Store: documents, Key: w.key}),
	})
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

// later is how a time to come is written in messages.
func (w *world) later(d time.Duration) string {
	return w.now().Add(d).Format("2006-01-02 15:04:05 MST")
}

func (w *world) wait(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

func (w *world) person(role machine.Role, subject string, groups ...string) machine.Caller {
	return machine.OfPerson(machine.Person{Subject: subject, Groups: groups, Role: func(organization string) machine.Role {
		if organization != w.organization {
			return machine.NoRole
		}
		return role
	}})
}

func (w *world) admin() machine.Caller { return w.person(machine.Admin, "alice") }

func (w *world) account(t testing.TB, by machine.Caller) string {
	t.Helper()
	record, err := w.CreateAccount(t.Context(), access(t, by, w.organization), machine.AccountSettings{Name: w.org.Encrypt("machine")})
	if err != nil {
		t.Fatal(err)
	}
	return record.ID
}

func (w *world) newToken() machine.NewToken {
	return machine.NewToken{Name: w.org.Encrypt("token"), Payload: w.org.Encrypt("payload"), Key: w.org.Encrypt("key")}
}

// token makes a token and gives its id and client secret.
func (w *world) token(t testing.TB, account string) (id, clientSecret string) {
	t.Helper()
	record, clientSecret, err := w.CreateToken(t.Context(), w.admin(), account, w.newToken())
	if err != nil {
		t.Fatal(err)
	}
	return record.ID, clientSecret
}

// session is one made with the first client secret of a token.
func (w *world) session(ctx context.Context, account, token string) (machine.Caller, error) {
	return w.Session(ctx, w.claims(account, token))
}

func (w *world) claims(account, token string) machine.Claims {
	return machine.Claims{Organization: w.organization, Account: account, Token: token, Session: "a session"}
}

func (w *world) machine(t testing.TB, account, token string) machine.Caller {
	t.Helper()
	caller, err := w.session(t.Context(), account, token)
	if err != nil {
		t.Fatal(err)
	}
	return caller
}

// stored is a token as it stands in the store.
func (w *world) stored(t testing.TB, account, id string) machine.Token {
	t.Helper()
	for record, err := range w.Tokens(t.Context(), account) {
		if err != nil {
			t.Fatal(err)
		}
		if record.ID == id {
			return record.Value
		}
	}
	t.Fatalf("there is no token %s", id)
	return machine.Token{}
}

func access(t testing.TB, c machine.Caller, organization string) machine.Access {
	t.Helper()
	a, err := c.In(organization)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// want holds an error to a class and a part of the message for the client.
func want(t testing.TB, err error, class fault.Class, message string) {
	t.Helper()
	problem, told := machine.AsProblem(err)
	if fault.Of(err) != class || (message != "" && (!told || !strings.Contains(problem.Message, message))) {
		t.Errorf("the error is %v, want %q: ...%s...", err, class, message)
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// interleaved runs something once before a certain call.
type interleaved struct {
	store.Driver
	collection string
	put        bool
	once       sync.Once
	run        func()
}

func (i *interleaved) Put(ctx context.Context, doc store.Document, pre store.Precondition) (int64, error) {
	if i.put && doc.Collection == i.collection {
		i.once.Do(i.run)
	}
	return i.Driver.Put(ctx, doc, pre)
}

func TestAnAccountsLife(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	bob := w.person(machine.Member, "bob")
	id := w.account(t, bob)
	a, record, err := w.AccountFor(ctx, bob, id, machine.ToWrite)
	ok(t, err)
	if a.Organization != w.organization || record.Value.NoNewProjects || !record.Value.Created.Equal(w.now()) {
		t.Errorf("%+v", record)
	}
	w.wait(time.Hour)
	no := false
	name := w.org.Encrypt("renamed")
	edited, err := w.EditAccount(ctx, bob, id, machine.AccountSettings{Name: name, MayCreateProjects: &no})
	ok(t, err)
	if edited.Value.Name != name || !edited.Value.NoNewProjects || !edited.Value.Revised.Equal(w.now()) || edited.Value.Reached.Equal(w.now()) {
		t.Errorf("%+v", edited.Value)
	}
	if edited, err = w.EditAccount(ctx, bob, id, machine.AccountSettings{Name: name}); err != nil || !edited.Value.NoNewProjects {
		t.Errorf("what was not given was changed: %+v %v", edited.Value, err)
	}
	w.account(t, w.admin())
	count := 0
	for _, err := range w.Accounts(ctx, w.organization) {
		ok(t, err)
		count++
	}
	if count != 2 {
		t.Errorf("%d accounts are listed", count)
	}
	ok(t, w.DeleteAccount(ctx, bob, id))
	_, err = w.Account(ctx, id)
	want(t, err, fault.NotFound, "Resource not found.")
	for listed, err := range w.Accounts(ctx, w.organization) {
		ok(t, err)
		if listed.ID == id {
			t.Error("the deleted account is listed")
		}
	}
	_, err = w.EditAccount(ctx, bob, id, machine.AccountSettings{Name: name})
	want(t, err, fault.NotFound, "")
	_, _, err = w.CreateToken(ctx, bob, id, w.newToken())
	want(t, err, fault.NotFound, "")
	want(t, w.Revoke(ctx, bob, id, []string{uuid.NewString()}), fault.NotFound, "")
}

// Who may manage an account: each row is somebody, and whether they may read and
// write it.
func TestWhoMayManageAnAccount(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id := w.account(t, w.admin())
	token, _ := w.token(t, id)
	_, err := w.SetAccountPeople(ctx, w.admin(), id, machine.People{
		Users:  map[string]machine.Rights{"reader": machine.ToRead, "writer": machine.ToWrite},
		Groups: map[string]machine.Rights{"ops": machine.ToWrite},
	})
	ok(t, err)
	everyOperation := map[string]struct {
		write bool
		run   func(machine.Caller) error
	}{
		"read": {false, func(c machine.Caller) error { _, _, err := w.AccountFor(ctx, c, id, machine.ToRead); return err }},
		"edit": {true, func(c machine.Caller) error {
			_, err := w.EditAccount(ctx, c, id, machine.AccountSettings{Name: w.org.Encrypt("x")})
			return err
		}},
		"people": {true, func(c machine.Caller) error {
			record, err := w.Account(ctx, id)
			ok(t, err)
			_, err = w.SetAccountPeople(ctx, c, id, record.Value.People)
			return err
		}},
		"grants": {true, func(c machine.Caller) error {
			_, err := w.SetAccountProjects(ctx, c, id, nil, func(string, *machine.Rights) error { return nil })
			return err
		}},
		"token":  {true, func(c machine.Caller) error { _, _, err := w.CreateToken(ctx, c, id, w.newToken()); return err }},
		"revoke": {true, func(c machine.Caller) error { return w.Revoke(ctx, c, id, nil) }},
		"events": {true, func(c machine.Caller) error {
			_, err := w.Events(ctx, c, machine.EventQuery{Account: id, Most: 1})
			return err
		}},
	}
	elsewhere := newWorld(t)
	for name, c := range map[string]struct {
		caller      machine.Caller
		read, write bool
	}{
		"an administrator":              {w.admin(), true, true},
		"a member without a policy":     {w.person(machine.Member, "carol"), false, false},
		"a member with a policy":        {w.person(machine.Member, "writer"), true, true},
		"a member who may read":         {w.person(machine.Member, "reader"), true, false},
		"a member of a group":           {w.person(machine.Member, "dave", "x", "ops"), true, true},
		"a group's name as a user":      {w.person(machine.Member, "ops"), false, false},
		"a user with a policy, no role": {w.person(machine.NoRole, "writer", "ops"), false, false},
		"another one's administrator":   {elsewhere.admin(), false, false},
		"the machine itself":            {w.machine(t, id, token), false, false},
		"nobody":                        {machine.Caller{}, false, false},
	} {
		for operation, o := range everyOperation {
			allowed := c.read
			if o.write {
				allowed = c.write
			}
			if err := o.run(c.caller); (err == nil) != allowed || (err != nil && fault.Of(err) != fault.NotFound) {
				t.Errorf("%s, %s: %v, want allowed = %v", name, operation, err, allowed)
			}
		}
	}
	_, err = w.CreateAccount(ctx, access(t, w.machine(t, id, token), w.organization), machine.AccountSettings{Name: w.org.Encrypt("x")})
	want(t, err, fault.NotFound, "")
}

func TestDeletingEndsSessionsBeforeAnythingElse(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id := w.account(t, w.admin())
	var tokens []string
	for range 20 {
		token, _ := w.token(t, id)
		tokens = append(tokens, token)
	}
	// It breaks off after the account is marked and one token is revoked.
	for range len(tokens) - 1 {
		w.driver.Inject(storetest.Fault{Method: storetest.Put, Collection: "access-tokens", Skip: 1})
	}
	err := w.DeleteAccount(ctx, w.admin(), id)
	want(t, err, fault.Transient, "could not be revoked")
	for _, token := range tokens {
		_, err := w.session(ctx, id, token)
		want(t, err, fault.Unauthenticated, "The machine account was deleted by user:alice on "+w.later(0)+".")
	}
	w.driver.Reset()
	w.wait(time.Hour)
	for range 2 {
		ok(t, w.DeleteAccount(ctx, w.admin(), id))
	}
	for record, err := range w.Tokens(ctx, id) {
		ok(t, err)
		if record.Value.Revoked == nil {
			t.Errorf("token %s is not revoked", record.ID)
		}
	}
	_, err = w.session(ctx, id, tokens[0])
	want(t, err, fault.Unauthenticated, w.later(-time.Hour)) // the first time, not the second
	want(t, w.DeleteAccount(ctx, w.person(machine.Member, "carol"), id), fault.NotFound, "")
}

func TestATokenMadeWhileItsAccountIsDeletedIsRevoked(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id := w.account(t, w.admin())
	slow := w.instance(&interleaved{Driver: w.driver, collection: "access-tokens", put: true, run: func() {
		ok(t, w.DeleteAccount(ctx, w.admin(), id))
	}})
	_, clientSecret, err := slow.CreateToken(ctx, w.admin(), id, w.newToken())
	want(t, err, fault.NotFound, "")
	if clientSecret != "" {
		t.Error("a client secret was given")
	}
	for record, err := range w.Tokens(ctx, id) {
		ok(t, err)
		if record.Value.Revoked == nil {
			t.Error("the token lives on")
		}
	}
}

func TestATokenOfWhichNobodyKnowsWhetherItsAccountIsThereIsRevoked(t *testing.T) {
	for name, unread := range map[string]storetest.When{"the store fails": storetest.Before, "the time is over": storetest.Hang} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			id := w.account(t, w.admin())
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			w.driver.Inject(storetest.Fault{Method: storetest.Get, Collection: "service-accounts", Skip: 1, When: unread})
			_, clientSecret, err := w.CreateToken(ctx, w.admin(), id, w.newToken())
			want(t, err, fault.Transient, "")
			if clientSecret != "" || w.driver.Pending() != 0 {
				t.Error("a client secret was given, or nothing failed")
			}
			made := 0
			for record, err := range w.Tokens(t.Context(), id) {
				ok(t, err)
				if made++; record.Value.Revoked == nil {
					t.Error("the token lives on")
				}
			}
			if made != 1 {
				t.Errorf("%d tokens were made", made)
			}
		})
	}
	// If that fails too, the answer names the token.
	w := newWorld(t)
	id := w.account(t, w.admin())
	w.driver.Inject(
		storetest.Fault{Method: storetest.Get, Collection: "service-accounts", Skip: 1},
		storetest.Fault{Method: storetest.Get, Collection: "access-tokens"},
	)
	_, _, err := w.CreateToken(t.Context(), w.admin(), id, w.newToken())
	for record := range w.Tokens(t.Context(), id) {
		want(t, err, fault.Transient, "could not be revoked: "+record.ID)
	}
}

func TestASessionIsToldWhyItIsOver(t *testing.T) {
	for name, c := range map[string]struct {
		end     func(t *testing.T, w *world, account, token string)
		message string
	}{
		"revoked": {func(t *testing.T, w *world, account, token string) {
			ok(t, w.Revoke(t.Context(), w.person(machine.Admin, "bob"), account, []string{token}))
		}, "The access token was revoked by user:bob on NOW."},
		"expired": {func(t *testing.T, w *world, _, _ string) { w.wait(time.Hour) }, "The access token expired on NOW."},
		"disabled": {func(t *testing.T, w *world, _, _ string) {
			no := false
			_, err := w.EditOrganization(t.Context(), access(t, w.admin(), w.organization), machine.OrganizationEdit{Enabled: &no})
			ok(t, err)
		}, "Secrets Manager was disabled for this organization on NOW."},
		"deleted": {func(t *testing.T, w *world, account, _ string) {
			ok(t, w.DeleteAccount(t.Context(), w.admin(), account))
		}, "The machine account was deleted by user:alice on NOW."},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			account := w.account(t, w.admin())
			expires, request := w.now().Add(time.Hour), w.newToken()
			request.Expires = &expires
			record, _, err := w.CreateToken(t.Context(), w.admin(), account, request)
			ok(t, err)
			w.machine(t, account, record.ID)
			c.end(t, w, account, record.ID)
			_, err = w.session(t.Context(), account, record.ID)
			want(t, err, fault.Unauthenticated, strings.ReplaceAll(c.message, "NOW", w.later(0)))
		})
	}
}

func TestASessionOfWhatDoesNotBelongTogetherIsRefused(t *testing.T) {
	w := newWorld(t)
	account, other := w.account(t, w.admin()), w.account(t, w.admin())
	token, _ := w.token(t, account)
	for name, c := range map[string]machine.Claims{
		"another account":      {Organization: w.organization, Account: other, Token: token},
		"another organisation": {Organization: uuid.NewString(), Account: account, Token: token},
		"no such token":        {Organization: w.organization, Account: account, Token: uuid.NewString()},
		"no such account":      {Organization: w.organization, Account: uuid.NewString(), Token: token},
	} {
		_, err := w.Session(t.Context(), c)
		want(t, err, fault.Unauthenticated, "does not exist")
		if t.Failed() {
			t.Fatal(name)
		}
	}
	w.driver.Inject(storetest.Fault{Method: storetest.GetMany})
	_, err := w.session(t.Context(), account, token)
	want(t, err, fault.Transient, "")
}

func TestASessionIsOneRead(t *testing.T) {
	w := newWorld(t)
	account := w.account(t, w.admin())
	token, _ := w.token(t, account)
	w.driver.Reset()
	w.machine(t, account, token)
	if calls := w.driver.Calls(); calls != 1 || w.driver.Calls(storetest.GetMany) != 1 {
		t.Errorf("%d calls of the store", calls)
	}
}

// Nothing of what a request brings, and no client secret, is in the log or in
// the store as it came.
func TestNoSecretIsLoggedOrStored(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	account := w.account(t, w.admin())
	request := w.newToken()
	record, clientSecret, err := w.CreateToken(ctx, w.admin(), account, request)
	ok(t, err)
	_, rotated, err := w.Rotate(ctx, w.machine(t, account, record.ID), clientSecret, time.Hour)
	ok(t, err)
	_, _, err = w.Rotate(ctx, w.machine(t, account, record.ID), "not the "+rotated, time.Hour)
	want(t, err, fault.Invalid, "")
	doc, err := w.driver.Get(ctx, "access-tokens", record.ID)
	ok(t, err)
	for name, secret := range map[string]string{"payload": request.Payload, "key": request.Key, "client secret": clientSecret, "new client secret": rotated} {
		if bytes.Contains(doc.Body, []byte(secret)) {
			t.Errorf("the %s is stored as it is", name)
		}
		if strings.Contains(w.log.String(), secret) || strings.Contains(fmt.Sprint(err), secret) {
			t.Errorf("the %s is logged", name)
		}
	}
}

func TestAnErrorOfTheStoreIsNotTakenForAnAnswer(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	account := w.account(t, w.admin())
	a := access(t, w.admin(), w.organization)
	for name, run := range map[string]func() error{
		"account":  func() error { _, err := w.Account(ctx, account); return err },
		"accounts": func() error { _, err := w.ProjectHolders(ctx, w.organization, "p"); return err },
		"create":   func() error { _, err := w.CreateAccount(ctx, a, machine.AccountSettings{}); return err },
		"edit": func() error {
			_, err := w.EditAccount(ctx, w.admin(), account, machine.AccountSettings{})
			return err
		},
		"delete":       func() error { return w.DeleteAccount(ctx, w.admin(), account) },
		"organization": func() error { _, err := w.Organization(ctx, w.organization); return err },
		"settings":     func() error { _, err := w.EditOrganization(ctx, a, machine.OrganizationEdit{}); return err },
		"token":        func() error { _, _, err := w.CreateToken(ctx, w.admin(), account, w.newToken()); return err },
		"uses":         func() error { _, err := w.Uses(ctx, []string{"x"}); return err },
		"grant":        func() error { return w.GrantProject(ctx, account, "p", machine.ToRead) },
		"forget":       func() error { return w.ForgetProject(ctx, w.organization, "p") },
		"forget some":  func() error { return w.ForgetSecrets(ctx, w.organization, []string{"s"}) },
		"events": func() error {
			_, err := w.Events(ctx, w.admin(), machine.EventQuery{Account: account, Most: 1})
			return err
		},
	} {
		w.driver.Reset()
		w.driver.Inject(storetest.Fault{})
		err := run()
		if fault.Of(err) != fault.Transient {
			t.Errorf("%s: %v", name, err)
		}
		if _, told := machine.AsProblem(err); told {
			t.Errorf("%s tells the client about the store: %v", name, err)
		}
	}
}

func TestAProblemSaysItsClassAndItsFields(t *testing.T) {
	fields := machine.Fields{}
	if fields.Problem() != nil {
		t.Error("nothing is wrong, and that is a problem")
	}
	fields.EncString("name", "", 100)
	fields.EncString("key", "plain text", 100)
	fields.EncString("note", strings.Repeat("x", 101), 100)
	fields.EncString("value", encstring.NewKey().Encrypt("fine"), 200)
	err := fmt.Errorf("wrapped: %w", fields.Problem())
	problem, told := machine.AsProblem(err)
	if !told || !errors.Is(err, fault.Invalid) || len(problem.Fields) != 3 ||
		problem.Fields["name"][0] != "The name field is required." ||
		problem.Fields["key"][0] != "key is not a valid encrypted string." ||
		problem.Fields["note"][0] != "The field note exceeds the maximum encrypted value length of 100 characters." {
		t.Errorf("%v", err)
	}
}
