package secret

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

func TestTheLastFiftyVersionsAreKeptAndNoMoreIsStored(t *testing.T) {
	w := newWorld(t)
	id := w.secret(t, "0")
	const edits = maxHistory + 7
	for i := range edits {
		if _, err := w.Edit(t.Context(), w.admin, id, values(fmt.Sprint(i+1))); err != nil {
			t.Fatal(err)
		}
	}
	var want []string
	for i := range maxHistory {
		want = append(want, fmt.Sprint(edits-1-i))
	}
	if got := w.history(t, id); !slices.Equal(got, want) {
		t.Errorf("the versions are %q", got)
	}
	if stored := len(w.contentsOf(t, id)); stored != maxHistory+1 {
		t.Errorf("%d contents are stored", stored)
	}
	w.intact(t)
}

func TestOfManyEditsAtOnceEveryValueIsKept(t *testing.T) {
	w := newWorld(t)
	id := w.secret(t, "first")
	want := []string{"first"}
	var wait sync.WaitGroup
	for i := range 16 {
		next := fmt.Sprint(i)
		want = append(want, next)
		wait.Go(func() {
			if _, err := w.Edit(t.Context(), w.admin, id, values(next)); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	got := append(w.history(t, id), w.value(t, id))
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if stored := len(w.contentsOf(t, id)); stored != len(want) {
		t.Errorf("%d contents are stored, want %d", stored, len(want))
	}
}

func TestWhetherAVersionIsKeptIsTheClientsToSayOrFollowsFromTheValue(t *testing.T) {
	yes, no := true, false
	for _, test := range []struct {
		name    string
		keep    *bool
		same    bool
		version bool
		authors bool // whether the value has another author
	}{
		{"nothing said, another value", nil, false, true, true},
		{"nothing said, the same value", nil, true, false, false},
		{"changed, another value", &yes, false, true, true},
		{"changed, the same value", &yes, true, true, true},
		{"not changed, another value", &no, false, false, true},
		{"not changed, the same value", &no, true, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			before, err := w.Create(t.Context(), in(t, w.admin), values("old"))
			if err != nil {
				t.Fatal(err)
			}
			next := values("new")
			if test.same {
				next.Value = before.Content.Value
			}
			next.KeepVersion = test.keep
			other := person("another admin", machine.Admin)
			after, err := w.Edit(t.Context(), other, before.Head.ID, next)
			if err != nil {
				t.Fatal(err)
			}
			if after.Content.Value != next.Value || after.Content.Note != next.Note {
				t.Error("it is not what was written")
			}
			if got := len(w.history(t, before.Head.ID)); (got == 1) != test.version {
				t.Errorf("%d versions", got)
			}
			if got := after.Content.User == "another admin"; got != test.authors {
				t.Errorf("the value's author is %q", after.Content.User)
			}
			w.intact(t)
			if stored, want := len(w.contentsOf(t, before.Head.ID)), 1+len(after.Head.Value.History); stored != want {
				t.Errorf("%d contents are stored, want %d", stored, want)
			}
		})
	}
}

func TestTheTrashIsPurgedAfterThirtyDaysAndNotBefore(t *testing.T) {
	w := newWorld(t)
	project := w.project(t)
	old, young, kept := w.secret(t, "old", project), w.secret(t, "young", project), w.secret(t, "kept", project)
	account := w.machine(t, machine.Account{Secrets: map[string]machine.Rights{old: machine.ToRead, kept: machine.ToRead}})
	if err := failed(w.Delete(t.Context(), w.admin, []string{old})); err != nil {
		t.Fatal(err)
	}
	w.clock.pass(trashLife - time.Minute)
	if err := failed(w.Delete(t.Context(), w.admin, []string{young})); err != nil {
		t.Fatal(err)
	}
	trash := func() []string {
		views, err := w.Trash(t.Context(), in(t, w.admin))
		if err != nil {
			t.Fatal(err)
		}
		ids := idsOf(views)
		slices.Sort(ids)
		return ids
	}
	both := []string{old, young}
	slices.Sort(both)
	if got := trash(); !slices.Equal(got, both) {
		t.Errorf("before its time the trash holds %q", got)
	}
	w.clock.pass(time.Minute)
	if got := trash(); !slices.Equal(got, both) {
		t.Error("it was swept twice within an hour")
	}
	w.clock.pass(sweepEvery)
	if got := trash(); !slices.Equal(got, []string{young}) {
		t.Errorf("after its time the trash holds %q", got)
	}
	if left := w.contentsOf(t, old); len(left) != 0 {
		t.Errorf("%d contents are left", len(left))
	}
	if got := w.value(t, kept); got != "kept" {
		t.Errorf("the value is %q", got)
	}
	found, err := w.machines.Account(t.Context(), account)
	if err != nil || len(found.Value.Secrets) != 1 {
		t.Errorf("the account reaches %v, %v", found.Value.Secrets, err)
	}
}

func TestASweepThatFailsIsNoFaultOfTheRequestAndIsDoneAgain(t *testing.T) {
	for _, method := range []storetest.Method{storetest.List, storetest.Delete} {
		w := newWorld(t)
		id := w.secret(t, "old")
		if err := failed(w.Delete(t.Context(), w.admin, []string{id})); err != nil {
			t.Fatal(err)
		}
		w.clock.pass(trashLife)
		w.driver.Inject(storetest.Fault{Method: method})
		if _, err := w.Trash(t.Context(), in(t, w.admin)); err != nil {
			t.Fatal(err)
		}
		if w.driver.Pending() != 0 {
			t.Fatalf("no %s was disturbed", method)
		}
		if _, err := w.Trash(t.Context(), in(t, w.admin)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.heads.Get(t.Context(), id); fault.Of(err) != fault.NotFound {
			t.Errorf("after a failed %s: %v", method, err)
		}
	}
}

func TestSweepsOfManyInstancesAtOnceAgree(t *testing.T) {
	w := newWorld(t)
	ids := make([]string, 20)
	for i := range ids {
		ids[i] = w.secret(t, "old")
	}
	if err := failed(w.Delete(t.Context(), w.admin, ids)); err != nil {
		t.Fatal(err)
	}
	w.clock.pass(trashLife)
	var wait sync.WaitGroup
	for range 4 {
		w.restart()
		instance := w.Secrets
		wait.Go(func() {
			if _, err := instance.Trash(t.Context(), in(t, w.admin)); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	for _, id := range ids {
		if _, err := w.heads.Get(t.Context(), id); fault.Of(err) != fault.NotFound {
			t.Errorf("%v", err)
		}
		if left := w.contentsOf(t, id); len(left) != 0 {
			t.Errorf("%d contents are left", len(left))
		}
	}
}

// A head that was read before an edit names a content that is gone after it.
func TestAReadThatAnEditOvertakesGivesTheNewValue(t *testing.T) {
	w := newWorld(t)
	id := w.secret(t, "old")
	no := false
	next := values("new")
	next.KeepVersion = &no

	selection, err := w.Select(t.Context(), w.admin, []string{id})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Edit(t.Context(), w.admin, id, next); err != nil {
		t.Fatal(err)
	}
	for s, err := range selection.Read(t.Context()) {
		if err != nil || plain(t, s.Content.Value) != "new" {
			t.Errorf("%+v, %v", s, err)
		}
	}

	// And one whose right to read was taken meanwhile is given nothing.
	account := w.machine(t, machine.Account{Secrets: map[string]machine.Rights{id: machine.ToRead}})
	selection, err = w.Select(t.Context(), w.session(t, account, machine.Token{}), []string{id})
	if err != nil {
		t.Fatal(err)
	}
	if err := failed(w.Delete(t.Context(), w.admin, []string{id})); err != nil {
		t.Fatal(err)
	}
	if err := w.Empty(t.Context(), in(t, w.admin), []string{id}); err != nil {
		t.Fatal(err)
	}
	for _, err := range selection.Read(t.Context()) {
		wantClass(t, "read", err, fault.NotFound)
	}
}

func TestAContentThatIsGoneIsSaidToBeLost(t *testing.T) {
	w := newWorld(t)
	id := w.secret(t, "value")
	for content := range w.contentsOf(t, id) {
		if err := w.contents.Delete(t.Context(), content, store.Any()); err != nil {
			t.Fatal(err)
		}
	}
	_, err := w.Get(t.Context(), w.admin, id)
	wantClass(t, "get", err, fault.Lost)
	_, err = w.Edit(t.Context(), w.admin, id, values("new"))
	wantClass(t, "edit", err, fault.Lost)
}

func TestASecretWhoseProjectIsGoneIsInNone(t *testing.T) {
	w := newWorld(t)
	project := w.project(t)
	id := w.secret(t, "value", project)
	account := w.machine(t, machine.Account{
		Projects: map[string]machine.Rights{project: machine.ToWrite},
		Secrets:  map[string]machine.Rights{id: machine.ToRead},
	})
	if err := w.projects.Delete(t.Context(), project, store.Any()); err != nil { // as if a deletion broke off
		t.Fatal(err)
	}
	s, err := w.Get(t.Context(), w.admin, id)
	if err != nil || s.Project != nil {
		t.Errorf("%+v, %v", s.Project, err)
	}
	c := w.session(t, account, machine.Token{})
	if s, err = w.Get(t.Context(), c, id); err != nil || s.Rights != machine.ToRead {
		t.Errorf("a policy on what is gone grants %+v, %v", s.Rights, err)
	}
	limited := w.session(t, account, machine.Token{Projects: []string{project}})
	if _, err := w.Get(t.Context(), limited, id); fault.Of(err) != fault.NotFound {
		t.Errorf("a token limited to what is gone reads, %v", err)
	}
	// Who may write it can keep it there or put it elsewhere.
	if _, err := w.Edit(t.Context(), w.admin, id, values("new")); err != nil {
		t.Error(err)
	}
}

// sync is what a machine is told at a time, and reads.
func (w *world) sync(t *testing.T, account string, limits machine.Token, since time.Time) (bool, []string) {
	t.Helper()
	changed, all, err := w.Sync(t.Context(), in(t, w.session(t, account, limits)), since)
	if err != nil {
		t.Fatal(err)
	}
	var read []string
	for s, err := range all.Read(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		read = append(read, plain(t, s.Content.Value))
	}
	slices.Sort(read)
	return changed, read
}

func TestSyncTellsOfEveryChangeThatAMachineCanNotice(t *testing.T) {
	admin := func(t *testing.T, w *world) machine.Access { return in(t, w.admin) }
	type place struct{ project, other, inside, direct, outside string }
	for name, change := range map[string]func(t *testing.T, w *world, p place) error{
		"a secret is created": func(t *testing.T, w *world, p place) error {
			_, err := w.Create(t.Context(), admin(t, w), values("new", p.project))
			return err
		},
		"a secret is edited": func(t *testing.T, w *world, p place) error {
			_, err := w.Edit(t.Context(), w.admin, p.inside, values("new", p.project))
			return err
		},
		"a secret of its own is edited": func(t *testing.T, w *world, p place) error {
			_, err := w.Edit(t.Context(), w.admin, p.direct, values("new"))
			return err
		},
		"a secret is moved away": func(t *testing.T, w *world, p place) error {
			_, err := w.Edit(t.Context(), w.admin, p.inside, values("new", p.other))
			return err
		},
		"a secret is moved to no project": func(t *testing.T, w *world, p place) error {
			_, err := w.Edit(t.Context(), w.admin, p.inside, values("new"))
			return err
		},
		"a secret is moved here": func(t *testing.T, w *world, p place) error {
			_, err := w.Edit(t.Context(), w.admin, p.outside, values("new", p.project))
			return err
		},
		"a secret is deleted": func(t *testing.T, w *world, p place) error {
			return failed(w.Delete(t.Context(), w.admin, []string{p.inside}))
		},
		"a secret of its own is deleted": func(t *testing.T, w *world, p place) error {
			return failed(w.Delete(t.Context(), w.admin, []string{p.direct}))
		},
		"a secret is deleted for good": func(t *testing.T, w *world, p place) error {
			if err := failed(w.Delete(t.Context(), w.admin, []string{p.inside})); err != nil {
				return err
			}
			return w.Empty(t.Context(), admin(t, w), []string{p.inside})
		},
		"a secret of its own is deleted for good": func(t *testing.T, w *world, p place) error {
			if err := failed(w.Delete(t.Context(), w.admin, []string{p.direct})); err != nil {
				return err
			}
			return w.Empty(t.Context(), admin(t, w), []string{p.direct})
		},
		"the project is deleted": func(t *testing.T, w *world, p place) error {
			return failed(w.DeleteProjects(t.Context(), w.admin, []string{p.project}))
		},
		"the project has another name": func(t *testing.T, w *world, p place) error {
			_, err := w.EditProject(t.Context(), w.admin, p.project, key.Encrypt("other"))
			return err
		},
		"a policy is added": func(t *testing.T, w *world, p place) error {
			for account, err := range w.machines.Accounts(t.Context(), organization) {
				if err != nil {
					return err
				}
				return w.machines.GrantProject(t.Context(), account.ID, p.other, machine.ToRead)
			}
			return fault.NotFound
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := place{project: w.project(t), other: w.project(t)}
			p.inside, p.direct, p.outside = w.secret(t, "inside", p.project), w.secret(t, "direct"), w.secret(t, "outside", p.other)
			account := w.machine(t, machine.Account{
				Projects: map[string]machine.Rights{p.project: machine.ToWrite},
				Secrets:  map[string]machine.Rights{p.direct: machine.ToRead},
			})
			if changed, read := w.sync(t, account, machine.Token{}, time.Time{}); !changed || !slices.Equal(read, []string{"direct", "inside"}) {
				t.Fatalf("at first: %v, %q", changed, read)
			}
			w.clock.pass(time.Minute)
			synced := w.clock.now()
			w.clock.pass(time.Minute)
			// What others do elsewhere does not count.
			if _, err := w.Edit(t.Context(), w.admin, p.outside, values("outside", p.other)); err != nil {
				t.Fatal(err)
			}
			if changed, read := w.sync(t, account, machine.Token{}, synced); changed || read != nil {
				t.Fatalf("nothing was changed, and %q comes", read)
			}
			if err := change(t, w, p); err != nil {
				t.Fatal(err)
			}
			w.clock.pass(time.Minute)
			if changed, _ := w.sync(t, account, machine.Token{}, synced); !changed {
				t.Error("it is not told of")
			}
			w.clock.pass(time.Hour)
			if changed, _ := w.sync(t, account, machine.Token{}, w.clock.now()); changed {
				t.Error("it is told of for ever")
			}
		})
	}
}

func TestSyncAfterVeryLongTellsOfChangesAlways(t *testing.T) {
	w := newWorld(t)
	account := w.machine(t, machine.Account{})
	w.clock.pass(time.Hour)
	synced := w.clock.now()
	w.clock.pass(departureLife)
	if changed, _ := w.sync(t, account, machine.Token{}, synced); !changed {
		t.Error("departures may have expired")
	}
}

func TestSyncRefusesTheFutureAndPeople(t *testing.T) {
	w := newWorld(t)
	a := in(t, w.session(t, w.machine(t, machine.Account{}), machine.Token{}))
	_, _, err := w.Sync(t.Context(), a, w.clock.now().Add(time.Minute))
	wantTold(t, err, "Last synced date must be in the past.")
	_, _, err = w.Sync(t.Context(), in(t, w.admin), time.Time{})
	wantTold(t, err, "Only service accounts can sync secrets.")
}

func TestPoliciesOnASecretAreForThoseWhoMayGrantThem(t *testing.T) {
	w := newWorld(t)
	project := w.project(t)
	if _, err := w.SetProjectPeople(t.Context(), w.admin, project, machine.People{Users: map[string]machine.Rights{"member": machine.ToWrite}}); err != nil {
		t.Fatal(err)
	}
	id := w.secret(t, "value", project)
	mine := w.machine(t, machine.Account{People: machine.People{Users: map[string]machine.Rights{"member": machine.ToWrite}}})
	foreign := w.machine(t, machine.Account{Secrets: map[string]machine.Rights{id: machine.ToRead}})
	member := person("member", machine.Member)
	set := func(c machine.Caller, accounts map[string]machine.Rights) error {
		next := values("value", project)
		next.Policies = &Policies{Accounts: accounts}
		_, err := w.Edit(t.Context(), c, id, next)
		return err
	}
	for _, test := range []struct {
		name     string
		caller   machine.Caller
		accounts map[string]machine.Rights
		class    fault.Class
	}{
		{"a member grants to a machine of theirs", member, map[string]machine.Rights{mine: machine.ToWrite, foreign: machine.ToRead}, ""},
		{"a member leaves others as they are", member, map[string]machine.Rights{foreign: machine.ToRead}, ""},
		{"a member grants more to another machine", member, map[string]machine.Rights{foreign: machine.ToWrite}, fault.NotFound},
		{"a member grants to one that does not exist", member, map[string]machine.Rights{"5a1b0e52-7f3c-4f0d-9a57-b1d200c0fff0": machine.ToRead}, fault.NotFound},
		{"an administrator likewise", w.admin, map[string]machine.Rights{"5a1b0e52-7f3c-4f0d-9a57-b1d200c0fff0": machine.ToRead}, fault.Invalid},
		{"a member takes away from another machine", member, nil, ""},
		{"a member grants to it again", member, map[string]machine.Rights{foreign: machine.ToRead}, fault.NotFound},
		{"an administrator grants to anybody", w.admin, map[string]machine.Rights{foreign: machine.ToWrite}, ""},
	} {
		err := set(test.caller, test.accounts)
		wantClass(t, test.name, err, test.class)
		if err != nil {
			continue
		}
		_, holders, err := w.Policies(t.Context(), test.caller, id)
		if err != nil || len(holders.Accounts) != len(test.accounts) {
			t.Errorf("%s: %+v, %v", test.name, holders, err)
		}
		for _, holder := range holders.Accounts {
			if test.accounts[holder.ID] != holder.Rights {
				t.Errorf("%s: %+v", test.name, holder)
			}
		}
	}
	machineCaller := w.session(t, foreign, machine.Token{})
	next := values("value", project)
	next.Policies = &Policies{}
	_, err := w.Edit(t.Context(), machineCaller, id, next)
	wantClass(t, "a machine sets policies", err, fault.NotFound)
	_, _, err = w.Policies(t.Context(), machineCaller, id)
	wantClass(t, "a machine reads policies", err, fault.NotFound)
	_, _, err = w.Policies(t.Context(), person("reader", machine.Member), id)
	wantClass(t, "who has no right reads policies", err, fault.NotFound)
}

func TestBadTextsStoreNothing(t *testing.T) {
	good := values("value")
	w := newWorld(t)
	id := w.secret(t, "value")
	w.driver.Reset()
	for name, spoil := range map[string]func(*Values){
		"no key":            func(v *Values) { v.Key = "" },
		"no value":          func(v *Values) { v.Value = "" },
		"no note":           func(v *Values) { v.Note = "" },
		"a plain value":     func(v *Values) { v.Value = "hunter2" },
		"another type":      func(v *Values) { v.Note = "0" + strings.TrimPrefix(v.Note, "2") },
		"a key too large":   func(v *Values) { v.Key = key.Encrypt(strings.Repeat("x", machine.MaxName)) },
		"a value too large": func(v *Values) { v.Value = key.Encrypt(strings.Repeat("x", machine.MaxValue)) },
		"a note too large":  func(v *Values) { v.Note = key.Encrypt(strings.Repeat("x", machine.MaxNote)) },
		"two projects":      func(v *Values) { v.Projects = []string{"a", "b"} },
		"too many people": func(v *Values) {
			v.Policies = &Policies{People: machine.People{Users: map[string]machine.Rights{strings.Repeat("x", 4096): machine.ToRead}}}
		},
	} {
		bad := good
		spoil(&bad)
		_, err := w.Create(t.Context(), in(t, w.admin), bad)
		wantClass(t, name+", created", err, fault.Invalid)
		_, err = w.Edit(t.Context(), w.admin, id, bad)
		wantClass(t, name+", edited", err, fault.Invalid)
	}
	if writes := w.driver.Calls(storetest.Put, storetest.Delete); writes != 0 {
		t.Errorf("%d writes", writes)
	}
	// The largest that clients allow fits: 25 000 characters of four bytes.
	large := Values{
		Key: key.Encrypt(strings.Repeat("🔑", 500)), Value: key.Encrypt(strings.Repeat("🔑", 25_000)), Note: key.Encrypt(strings.Repeat("🔑", 7_000)),
	}
	if _, err := w.Create(t.Context(), in(t, w.admin), large); err != nil {
		t.Error(err)
	}
}

func TestPartOfADeletionThatFailsIsSaid(t *testing.T) {
	w := newWorld(t)
	ids := []string{w.secret(t, "0"), w.secret(t, "1"), w.secret(t, "2")}
	w.driver.Inject(storetest.Fault{Method: storetest.Put, Collection: "secrets", Skip: 1})
	results, err := w.Delete(t.Context(), w.admin, ids)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, r := range results {
		if r.Err != nil {
			wantClass(t, "one", r.Err, fault.Transient)
			left = append(left, r.ID)
		}
	}
	if len(left) != 1 {
		t.Fatalf("%d are left", len(left))
	}
	if err := failed(w.Delete(t.Context(), w.admin, left)); err != nil {
		t.Errorf("those that are left cannot be deleted: %v", err)
	}
	last := w.secret(t, "3")
	w.driver.Inject(storetest.Fault{Method: storetest.Put, Collection: "secrets"})
	_, err = w.Delete(t.Context(), w.admin, []string{last})
	wantClass(t, "nothing could be deleted", err, fault.Transient)
}
