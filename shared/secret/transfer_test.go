package secret

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

func anArchive() Archive {
	return Archive{
		Projects: []ArchivedProject{{"a", key.Encrypt("a")}},
		Secrets:  []ArchivedSecret{{"1", values("1", "a")}, {"2", values("2")}},
	}
}

func (w *world) imports(t *testing.T, archive Archive, want Imported) {
	t.Helper()
	got, err := w.Import(t.Context(), in(t, w.admin), archive)
	if err != nil || got != want {
		t.Fatalf("%+v, %v, want %+v", got, err, want)
	}
}

// all are the heads of the organisation's secrets, by their readable values.
func (w *world) all(t *testing.T) map[string]View {
	t.Helper()
	views, err := w.List(t.Context(), in(t, w.admin))
	if err != nil {
		t.Fatal(err)
	}
	byValue := map[string]View{}
	for _, view := range views {
		byValue[w.value(t, view.Head.ID)] = view
	}
	if len(byValue) != len(views) {
		t.Errorf("of %d secrets some are there twice", len(views))
	}
	return byValue
}

func TestTheSameArchiveIsImportedOnce(t *testing.T) {
	w := newWorld(t)
	archive := anArchive()
	w.imports(t, archive, Imported{})
	first := w.all(t)["1"].Head.ID
	if _, err := w.Edit(t.Context(), w.admin, first, values("changed since")); err != nil {
		t.Fatal(err)
	}
	w.imports(t, archive, Imported{1, 2})
	if got := w.value(t, first); got != "changed since" {
		t.Errorf("an import wrote over a change: %q", got)
	}

	// Another text makes another archive, and so does another order.
	other := anArchive()
	w.imports(t, other, Imported{})
	other.Secrets[0], other.Secrets[1] = other.Secrets[1], other.Secrets[0]
	w.imports(t, other, Imported{})
	ours, _, err := archive.ids(organization)
	if err != nil {
		t.Fatal(err)
	}
	if theirs, _, err := archive.ids("5a1b0e52-7f3c-4f0d-9a57-b1d200c0fff1"); err != nil || theirs[0] == ours[0] {
		t.Errorf("two organisations share ids: %v", err)
	}
}

func TestImportsOfTheSameAtOnceMakeItOnce(t *testing.T) {
	w := newWorld(t)
	archive, admin := anArchive(), in(t, w.admin)
	errs := make([]error, 8)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() { _, errs[i] = w.Import(t.Context(), admin, archive) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	w.intact(t)
	for value, view := range w.all(t) {
		if stored := w.contentsOf(t, view.Head.ID); len(stored) != 1 {
			t.Errorf("%d values of %q are stored", len(stored), value)
		}
	}
	w.imports(t, archive, Imported{1, 2})
}

func TestAnImportThatBreaksOffSaysHowToGoOn(t *testing.T) {
	w := newWorld(t)
	archive := anArchive()
	w.driver.Inject(storetest.Fault{Method: storetest.Put, Collection: "secrets"})
	_, err := w.Import(t.Context(), in(t, w.admin), archive)
	wantClass(t, "an import that broke off", err, fault.Transient)
	wantTold(t, err, "send the same encrypted file again")

	// Where nothing was written yet, there is nothing to say.
	w.driver.Inject(storetest.Fault{Method: storetest.GetMany})
	_, err = w.Import(t.Context(), in(t, w.admin), archive)
	wantClass(t, "an import that did not begin", err, fault.Transient)
	if _, told := machine.AsProblem(err); told {
		t.Errorf("the client is told %v", err)
	}
}

func TestWhatWasImportedAndDeletedIsNotPassedOver(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	archive := anArchive()
	w.imports(t, archive, Imported{})
	id := w.all(t)["1"].Head.ID
	if err := failed(w.Delete(ctx, w.admin, []string{id})); err != nil {
		t.Fatal(err)
	}
	_, err := w.Import(ctx, in(t, w.admin), archive)
	wantClass(t, "an import of what is in the trash", err, fault.Invalid)
	wantTold(t, err, "are in the trash")
	if err := w.Empty(ctx, in(t, w.admin), []string{id}); err != nil {
		t.Fatal(err)
	}
	w.imports(t, archive, Imported{1, 1})
	if got := w.value(t, id); got != "1" {
		t.Errorf("the value is %q", got)
	}
}

// beforeDelete is a driver that does something once, before the first deletion.
type beforeDelete struct {
	store.Driver
	once sync.Once
	do   func()
}

func (d *beforeDelete) Delete(ctx context.Context, collection, id string, pre store.Precondition) error {
	d.once.Do(d.do)
	return d.Driver.Delete(ctx, collection, id, pre)
}

// Two purge a secret, one of them so slowly that it is imported again meanwhile.
func TestASlowPurgeLeavesWhatWasImportedSince(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	archive := anArchive()
	w.imports(t, archive, Imported{})
	id := w.all(t)["1"].Head.ID
	if err := failed(w.Delete(ctx, w.admin, []string{id})); err != nil {
		t.Fatal(err)
	}
	head, err := w.heads.Get(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	slow := New(Config{
		Store: store.New(&beforeDelete{Driver: w.driver, do: func() {
			if _, err := w.purge(ctx, organization, []store.Record[Head]{head}); err != nil {
				t.Error(err)
			}
			w.imports(t, archive, Imported{1, 1})
		}}),
		Machines: w.machines, Logger: w.logger, Now: w.clock.now,
	})
	if _, err := slow.purge(ctx, organization, []store.Record[Head]{head}); err != nil {
		t.Fatal(err)
	}
	w.intact(t)
	if got := w.value(t, id); got != "1" {
		t.Errorf("the value is %q", got)
	}
	// The same where the other was done before the slow one looked for values.
	if err := slow.purgeMarked(ctx, store.Record[Head]{ID: id, Revision: head.Revision}); err != nil {
		t.Fatal(err)
	}
	w.intact(t)
	if got := w.value(t, id); got != "1" {
		t.Errorf("the value is %q", got)
	}
}
