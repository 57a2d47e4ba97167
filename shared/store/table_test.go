package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// at is a table whose clock stands, and the way to set it.
func at(now time.Time) (*Table, *time.Time) {
	t := NewTable()
	t.now = func() time.Time { return now }
	return t, &now
}

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

func mustPut(t *testing.T, table *Table, doc Document, pre Precondition) int64 {
	t.Helper()
	doc.Collection = "things"
	revision, err := table.Put(t.Context(), doc, pre)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func TestRevisionsGoOnWhenTheClockStandsOrGoesBack(t *testing.T) {
	table, now := at(noon)
	first := noon.UnixMicro()
	for n := range int64(3) {
		if got := mustPut(t, table, Document{ID: "x"}, Any()); got != first+n {
			t.Errorf("write %d has revision %d, want %d", n, got, first+n)
		}
	}
	*now = noon.Add(-time.Hour)
	if got := mustPut(t, table, Document{ID: "x"}, Any()); got != first+3 {
		t.Errorf("an hour earlier the revision is %d, want %d", got, first+3)
	}
	if err := table.Delete(t.Context(), "things", "x", Any()); err != nil {
		t.Fatal(err)
	}
	if _, err := table.Get(t.Context(), "things", "x"); fault.Of(err) != fault.NotFound {
		t.Errorf("after the delete: %v", err)
	}
	if got := mustPut(t, table, Document{ID: "x"}, Absent()); got != first+4 {
		t.Errorf("made anew the revision is %d, want %d", got, first+4)
	}
	*now = noon.Add(time.Hour)
	if got, want := mustPut(t, table, Document{ID: "x"}, Any()), now.UnixMicro(); got != want {
		t.Errorf("an hour later the revision is %d, want %d", got, want)
	}
}

func TestAnExpiredDocumentIsGoneToTheSecond(t *testing.T) {
	table, now := at(noon)
	revision := mustPut(t, table, Document{ID: "x", Parent: "p", Expires: noon.Add(time.Minute)}, Any())
	for _, test := range []struct {
		after time.Duration
		there bool
	}{{0, true}, {time.Minute - 1, true}, {time.Minute, false}, {time.Hour, false}} {
		*now = noon.Add(test.after)
		_, err := table.Get(t.Context(), "things", "x")
		page, _ := table.List(t.Context(), Query{Collection: "things", Parent: "p", Limit: 1})
		many, _ := table.GetMany(t.Context(), []Key{{"things", "x"}})
		if (err == nil) != test.there || (len(page.Documents) == 1) != test.there || (len(many) == 1) != test.there {
			t.Errorf("after %v: Get says %v, List %d, GetMany %d", test.after, err, len(page.Documents), len(many))
		}
	}
	// With the clock set back, what was made anew still follows.
	if got := mustPut(t, table, Document{ID: "x"}, Absent()); got <= revision {
		t.Errorf("revision %d follows %d", got, revision)
	}
}

func TestExpiredDocumentsAreSwept(t *testing.T) {
	table, now := at(noon)
	for n := range 1000 {
		*now = noon.Add(time.Duration(n) * time.Second)
		mustPut(t, table, Document{ID: fmt.Sprint(n), Parent: "p", Lookup: fmt.Sprint(n), Expires: now.Add(time.Second)}, Any())
	}
	if len(table.documents) > 10 || len(table.listings) > 11 {
		t.Errorf("%d documents and %d listings are held", len(table.documents), len(table.listings))
	}
}

func TestABatchIsSeenWholeOrNotAtAll(t *testing.T) {
	table := NewTable()
	kept := mustPut(t, table, Document{ID: "kept", Parent: "p"}, Any())
	mustPut(t, table, Document{ID: "gone", Parent: "p"}, Any())
	change := func(b *Batch) error {
		first, err := b.Put(Document{Collection: "things", ID: "new", Parent: "p"}, Absent())
		if err != nil {
			return err
		}
		// Changes build on one another.
		if _, err := b.Put(Document{Collection: "things", ID: "new", Parent: "p"}, Absent()); fault.Of(err) != fault.Conflict {
			t.Errorf("a second creation in one batch: %v", err)
		}
		if _, err := b.Put(Document{Collection: "things", ID: "new", Parent: "q"}, AtRevision(first)); err != nil {
			return err
		}
		if err := b.Delete("things", "gone", Any()); err != nil {
			return err
		}
		if err := b.Delete("things", "gone", Any()); fault.Of(err) != fault.NotFound {
			t.Errorf("a second delete in one batch: %v", err)
		}
		_, err = b.Put(Document{Collection: "things", ID: "kept", Parent: "q"}, AtRevision(kept))
		return err
	}
	expect := func(p, q []string) {
		t.Helper()
		for parent, want := range map[string][]string{"p": p, "q": q} {
			page, err := table.List(t.Context(), Query{Collection: "things", Parent: parent, Limit: 10})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, doc := range page.Documents {
				got = append(got, doc.ID)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s holds %q, want %q", parent, got, want)
			}
		}
	}
	failed := errors.New("failed")
	if err := table.Update(func(b *Batch) error { return errors.Join(change(b), failed) }); !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	expect([]string{"gone", "kept"}, nil)
	err := table.Update(func(b *Batch) error {
		err := change(b)
		expect([]string{"gone", "kept"}, nil)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	expect(nil, []string{"kept", "new"})
}

func TestDocumentsOfOneTableRestoreAnother(t *testing.T) {
	table, now := at(noon)
	mustPut(t, table, Document{ID: "b", Parent: "p", Lookup: "l", Expires: noon.Add(time.Hour), Body: []byte("1")}, Any())
	mustPut(t, table, Document{ID: "a", Parent: "p"}, Any())
	mustPut(t, table, Document{ID: "gone"}, Any())
	mustPut(t, table, Document{ID: "expired", Expires: noon.Add(time.Second)}, Any())
	ahead := mustPut(t, table, Document{ID: "ahead"}, Any()) + 1
	*now = noon.Add(-time.Second)
	if err := table.Delete(t.Context(), "things", "ahead", Any()); err != nil {
		t.Fatal(err)
	}
	*now = noon
	mustPut(t, table, Document{ID: "ahead"}, Any())
	if err := table.Delete(t.Context(), "things", "ahead", Any()); err != nil {
		t.Fatal(err)
	}

	var documents []Document
	later := func(b *Batch) error {
		if err := b.Delete("things", "gone", Any()); err != nil {
			return err
		}
		if _, err := b.Put(Document{Collection: "other", ID: "0"}, Any()); err != nil {
			return err
		}
		if !b.Changed() {
			t.Error("the batch says that nothing changed")
		}
		documents = slices.Collect(b.Documents())
		return nil
	}
	if err := table.Update(later); err != nil {
		t.Fatal(err)
	}
	copied, clock := at(noon)
	restore := func(b *Batch) error {
		for _, doc := range documents {
			if err := b.Restore(doc); err != nil {
				return err
			}
		}
		return nil
	}
	if err := copied.Update(restore); err != nil {
		t.Fatal(err)
	}
	names := func(documents []Document) (all []string) {
		for _, doc := range documents {
			all = append(all, doc.Collection+"/"+doc.ID)
		}
		return all
	}
	// "gone" and "ahead" were deleted as fast as the clock allows, and are kept
	// for their revision.
	if got := names(documents); !slices.Equal(got, []string{"other/0", "things/a", "things/ahead", "things/b", "things/expired", "things/gone"}) {
		t.Errorf("kept is %q", got)
	}
	if got := mustPut(t, copied, Document{ID: "ahead"}, Absent()); got != ahead+1 {
		t.Errorf("the copy goes on at revision %d, want %d", got, ahead+1)
	}
	*clock = noon.Add(time.Minute)
	err := copied.Update(func(b *Batch) error {
		if b.Changed() {
			t.Error("an empty batch says that it changed something")
		}
		if got := names(slices.Collect(b.Documents())); !slices.Equal(got, []string{"other/0", "things/a", "things/ahead", "things/b"}) {
			t.Errorf("a minute later kept is %q", got)
		}
		for doc := range b.Documents() {
			if doc.ID == "b" && (doc.Parent != "p" || doc.Lookup != "l" || string(doc.Body) != "1" || doc.Revision != noon.UnixMicro() || !doc.Expires.Equal(noon.Add(time.Hour))) {
				t.Errorf("the copy holds %+v", doc)
			}
		}
		return b.Restore(documents[0])
	})
	if fault.Of(err) != fault.Invalid {
		t.Errorf("restoring a second time: %v", err)
	}
	for name, doc := range map[string]Document{
		"no revision": {Collection: "things", ID: "y"},
		"no id":       {Collection: "things", Revision: 1},
	} {
		if err := copied.Update(func(b *Batch) error { return b.Restore(doc) }); fault.Of(err) != fault.Invalid {
			t.Errorf("restoring a document with %s: %v", name, err)
		}
	}
}

func TestAPageEndsEarlyWhenItGrowsLarge(t *testing.T) {
	table := NewTable()
	for n := range 40 {
		mustPut(t, table, Document{ID: fmt.Sprintf("%02d", n), Parent: "p", Body: make([]byte, MaxBody)}, Any())
	}
	var got int
	for q := (Query{Collection: "things", Parent: "p", Limit: MaxPage}); ; {
		page, err := table.List(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		if size := len(page.Documents) * MaxBody; size > PageBytes {
			t.Errorf("a page has %d bytes", size)
		}
		got += len(page.Documents)
		if q.After = page.Next; page.Next == "" {
			break
		}
	}
	if got != 40 {
		t.Errorf("%d documents came, want 40", got)
	}
}
