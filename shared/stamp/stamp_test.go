package stamp

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

type note struct {
	At   time.Time `json:"at"`
	From string    `json:"from"`
}

type desk struct {
	driver *storetest.Faults
	notes  store.Collection[note]
	logs   bytes.Buffer
}

func newDesk() *desk {
	d := &desk{driver: storetest.NewFaults(store.NewTable())}
	d.notes = store.NewCollection[note](store.New(d.driver), "notes")
	return d
}

func (d *desk) book() *Book[note] {
	return NewBook(d.notes, slog.New(slog.NewTextHandler(&d.logs, nil)))
}

func (d *desk) want(t *testing.T, from string) {
	t.Helper()
	got, err := d.notes.Get(t.Context(), "thing")
	if err != nil || got.Value.From != from {
		t.Errorf("the note is of %q (%v), want %q", got.Value.From, err, from)
	}
}

func TestTheFirstUseOfAnHourIsNotedByAllInstancesTogether(t *testing.T) {
	d := newDesk()
	now := time.Now()
	first, second := d.book(), d.book()
	first.Note(t.Context(), "thing", now, note{now, "a"})
	first.Note(t.Context(), "thing", now, note{now, "b"})
	second.Note(t.Context(), "thing", now, note{now, "c"})
	d.want(t, "a")
	if n := d.driver.Calls(storetest.Put); n != 2 {
		t.Errorf("two instances made %d writes", n)
	}
	later := now.Add(Every + time.Minute)
	second.Note(t.Context(), "thing", later, note{later, "d"})
	d.want(t, "d")
	if d.logs.Len() > 0 {
		t.Errorf("the log says %s", &d.logs)
	}
}

func TestManyUsesAtOnceAreOneWrite(t *testing.T) {
	d := newDesk()
	book, now := d.book(), time.Now()
	var wait sync.WaitGroup
	for range 100 {
		wait.Go(func() { book.Note(t.Context(), "thing", now, note{now, "a"}) })
	}
	wait.Wait()
	if n := d.driver.Calls(); n != 1 {
		t.Errorf("%d storage calls", n)
	}
}

func TestANoteThatFailsIsSaidInTheLogAlone(t *testing.T) {
	for _, broken := range []storetest.Fault{{}, {When: storetest.Hang}} {
		d := newDesk()
		d.driver.Inject(broken)
		d.book().Note(t.Context(), "thing", time.Now(), note{})
		if d.driver.Pending() != 0 || !strings.Contains(d.logs.String(), "id=thing") {
			t.Errorf("the log says %q", &d.logs)
		}
	}
}

func TestTheMemoryIsBounded(t *testing.T) {
	d := newDesk()
	book, now := d.book(), time.Now()
	for i := range 2*maxNoted + 10 {
		book.due(fmt.Sprint(i), now)
		if len(book.noted) > maxNoted {
			t.Fatalf("%d things are remembered", len(book.noted))
		}
	}
	if book.due(fmt.Sprint(2*maxNoted+9), now) {
		t.Error("the last one was forgotten")
	}
}
