// Package storetest holds every store driver to the contract of shared/store,
// and gives the layers above a driver that fails on demand.
package storetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Run checks a driver whose data one process holds at a time. open gives a
// driver over a fresh, empty store, of which no other call of open knows. The
// suite closes it.
func Run(t *testing.T, open func(t *testing.T) store.Driver) {
	run(t, func(t *testing.T) func() store.Driver {
		driver := open(t)
		closeAfter(t, driver)
		return func() store.Driver { return driver }
	})
}

// RunShared checks a driver whose data many processes share. open makes a
// fresh, empty store; each call of the connect it returns gives one more
// driver over that store, which shares no memory with the others. The suite
// closes them, before the clean-up functions that open registered run.
func RunShared(t *testing.T, open func(t *testing.T) (connect func() store.Driver)) {
	run(t, func(t *testing.T) func() store.Driver {
		connect := open(t)
		return func() store.Driver {
			driver := connect()
			closeAfter(t, driver)
			return driver
		}
	})
}

func closeAfter(t *testing.T, driver store.Driver) {
	t.Cleanup(func() {
		if err := driver.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

// connections is how many drivers the tests of concurrency spread their work over.
const connections = 4

// suite is one test's fresh store: a first driver, and a way to more of them.
type suite struct {
	store.Driver
	connect func() store.Driver
}

func run(t *testing.T, open func(t *testing.T) func() store.Driver) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s suite)
	}{
		{"a document comes back as it was put", comesBack},
		{"what is not there is not found", notFound},
		{"ids are kept apart byte by byte", oddNames},
		{"bodies are arbitrary bytes of every size", bodies},
		{"names of the greatest length fit", longNames},
		{"collections are kept apart", collectionsApart},
		{"bodies given and returned are copies", copies},
		{"put keeps every precondition in every state", putPreconditions},
		{"delete keeps every precondition in every state", deletePreconditions},
		{"revisions grow", revisionsGrow},
		{"revisions are not used again after a delete", revisionsAfterDelete},
		{"revisions are the time of the write", revisionsAreTimes},
		{"a document expires while it is stored", expiresInTime},
		{"expired documents are in no listing", expiredListing},
		{"an update replaces the whole document", replaces},
		{"a listing holds whole documents in the byte order of their ids", listOrder},
		{"a listing gives the same with every page size", listPages},
		{"a listing goes on after a document that is gone", listCursor},
		{"a document moves between listings", listMoves},
		{"a listing holds nothing foreign", listForeign},
		{"a listing sees what was acknowledged before it began", listConsistent},
		{"a listing copes with large bodies", listLarge},
		{"a listing copes with more than one greatest page", listMany},
		{"many documents come in the order of their keys", manyInOrder},
		{"many documents are kept apart byte by byte", manyOddNames},
		{"many documents can be large", manyLarge},
		{"bodies of many documents are copies", manyCopies},
		{"many documents are those acknowledged before they were asked for", manyConsistent},
		{"a context that has ended gives nothing of many", manyEndedContext},
		{"of concurrent creations one wins", concurrentCreate},
		{"of concurrent deletions one wins", concurrentDelete},
		{"concurrent increments lose nothing", concurrentIncrement},
		{"concurrent writes once per time succeed once", concurrentBefore},
		{"a read never sees less than was acknowledged", concurrentReads},
		{"concurrent writes of many documents leave listings true", concurrentListing},
		{"a context that has ended does nothing", endedContext},
		{"a context that ends in the middle leaves nothing in part", endingContext},
	} {
		t.Run(test.name, func(t *testing.T) {
			connect := open(t)
			test.run(t, suite{Driver: connect(), connect: connect})
		})
	}
}

// drivers gives several drivers over the store, where it can be shared.
func (s suite) drivers() []store.Driver {
	all := []store.Driver{s.Driver}
	for len(all) < connections {
		all = append(all, s.connect())
	}
	return all
}

// The collection of most tests, and two that must not be mistaken for it.
const (
	things      = "things"
	otherThings = "things-2"
	thing       = "thing"
)

func (s suite) put(t *testing.T, doc store.Document, pre store.Precondition) store.Document {
	t.Helper()
	revision, err := s.Put(t.Context(), doc, pre)
	if err != nil {
		t.Fatalf("Put %q (%s): %v", doc.ID, pre, err)
	}
	doc.Revision = revision
	return doc
}

func (s suite) delete(t *testing.T, id string) {
	t.Helper()
	if err := s.Delete(t.Context(), things, id, store.Any()); err != nil {
		t.Fatalf("Delete %q: %v", id, err)
	}
}

// has checks that exactly this document is stored.
func (s suite) has(t *testing.T, want store.Document) {
	t.Helper()
	got, err := s.Get(t.Context(), want.Collection, want.ID)
	if err != nil {
		t.Errorf("Get %q: %v", want.ID, err)
		return
	}
	same(t, got, want)
}

func (s suite) hasNot(t *testing.T, id string) {
	t.Helper()
	got, err := s.Get(t.Context(), things, id)
	class(t, fmt.Sprintf("Get %q", id), err, fault.NotFound)
	if got.Body != nil {
		t.Errorf("Get %q gave a body with its error", id)
	}
}

func same(t *testing.T, got, want store.Document) {
	t.Helper()
	if got.Collection != want.Collection || got.ID != want.ID || got.Parent != want.Parent || got.Lookup != want.Lookup {
		t.Errorf("got the document %q %q %q %q, want %q %q %q %q", got.Collection, got.ID, got.Parent, got.Lookup,
			want.Collection, want.ID, want.Parent, want.Lookup)
	}
	if got.Revision != want.Revision {
		t.Errorf("%q has revision %d, want %d", want.ID, got.Revision, want.Revision)
	}
	if got.Expires.IsZero() != want.Expires.IsZero() || !got.Expires.Equal(want.Expires) {
		t.Errorf("%q expires %v, want %v", want.ID, got.Expires, want.Expires)
	}
	if !bytes.Equal(got.Body, want.Body) {
		t.Errorf("%q has a body of %d bytes (%.40q), want %d (%.40q)", want.ID, len(got.Body), got.Body, len(want.Body), want.Body)
	}
}

func class(t *testing.T, what string, err error, want fault.Class) {
	t.Helper()
	if got := fault.Of(err); got != want || err == nil {
		t.Errorf("%s: got the error %v of class %q, want class %q", what, err, got, want)
	}
}

// list walks a whole listing and checks what every page has to keep.
func (s suite) list(t *testing.T, q store.Query) []store.Document {
	t.Helper()
	if q.Limit == 0 {
		q.Limit = store.MaxPage
	}
	var all []store.Document
	for {
		page, err := s.List(t.Context(), q)
		if err != nil {
			t.Fatalf("List %+v: %v", q, err)
		}
		if len(page.Documents) > q.Limit {
			t.Fatalf("List %+v gave a page of %d documents", q, len(page.Documents))
		}
		all = append(all, page.Documents...)
		if page.Next == "" {
			return all
		}
		if len(page.Documents) == 0 || page.Next <= q.After {
			t.Fatalf("List %+v gave %d documents and goes on after %q: that is no progress", q, len(page.Documents), page.Next)
		}
		q.After = page.Next
	}
}

func byParent(parent string) store.Query { return store.Query{Collection: things, Parent: parent} }
func byLookup(lookup string) store.Query { return store.Query{Collection: things, Lookup: lookup} }

func ids(documents []store.Document) []string {
	all := make([]string, 0, len(documents))
	for _, doc := range documents {
		all = append(all, doc.ID)
	}
	return all
}

// lists checks the ids of a listing, and their order.
func (s suite) lists(t *testing.T, q store.Query, want ...string) {
	t.Helper()
	if got := ids(s.list(t, q)); !slices.Equal(got, want) {
		t.Errorf("List %+v gave %q, want %q", q, got, want)
	}
}

// together runs work n times at once, spread over the drivers.
func together(drivers []store.Driver, n int, work func(i int, d store.Driver)) {
	var ready, wait sync.WaitGroup
	ready.Add(n)
	for i := range n {
		wait.Go(func() {
			ready.Done()
			ready.Wait()
			work(i, drivers[i%len(drivers)])
		})
	}
	wait.Wait()
}

// seconds is a time as a Store hands it to a driver.
func seconds(fromNow time.Duration) time.Time {
	return time.Now().Add(fromNow).Truncate(time.Second)
}

func canceled(parent context.Context) context.Context {
	ctx, cancel := context.WithCancel(parent)
	cancel()
	return ctx
}
