package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// The tests of many at once, over several drivers where the store can be
// shared, and of contexts that end.

// one checks that of n concurrent attempts exactly one succeeded and the rest
// failed with a class.
func one(t *testing.T, results []error, rest fault.Class) (winner int) {
	t.Helper()
	winner = -1
	for i, err := range results {
		switch {
		case err == nil && winner >= 0:
			t.Errorf("attempts %d and %d both won", winner, i)
		case err == nil:
			winner = i
		case fault.Of(err) != rest:
			t.Errorf("attempt %d failed with %v, want class %q", i, err, rest)
		}
	}
	if winner < 0 {
		t.Error("no attempt won")
	}
	return winner
}

func concurrentCreate(t *testing.T, s suite) {
	const attempts = 100
	drivers := s.drivers()
	results := make([]error, attempts)
	together(drivers, attempts, func(i int, d store.Driver) {
		_, results[i] = d.Put(t.Context(), store.Document{Collection: things, ID: "x", Body: []byte(strconv.Itoa(i))}, store.Absent())
	})
	winner := one(t, results, fault.Conflict)
	for _, d := range drivers {
		if got, err := d.Get(t.Context(), things, "x"); err != nil || string(got.Body) != strconv.Itoa(winner) {
			t.Errorf("attempt %d won, but the document is of %s (%v)", winner, got.Body, err)
		}
	}
}

func concurrentDelete(t *testing.T, s suite) {
	const attempts = 40
	drivers := s.drivers()
	for round := range 3 {
		doc := s.put(t, store.Document{Collection: things, ID: "x"}, store.Absent())
		results := make([]error, attempts)
		together(drivers, attempts, func(i int, d store.Driver) {
			pre := store.Any()
			if round > 0 {
				pre = store.AtRevision(doc.Revision)
			}
			results[i] = d.Delete(t.Context(), things, "x", pre)
		})
		one(t, results, fault.NotFound)
	}
}

func concurrentIncrement(t *testing.T, s suite) {
	const workers, times = 8, 12
	drivers := s.drivers()
	s.put(t, store.Document{Collection: things, ID: "counter", Body: []byte("0")}, store.Absent())
	together(drivers, workers, func(_ int, d store.Driver) {
		for range times {
			if err := increment(t.Context(), d); err != nil {
				t.Errorf("increment: %v", err)
				return
			}
		}
	})
	if doc, err := s.Get(t.Context(), things, "counter"); err != nil || string(doc.Body) != strconv.Itoa(workers*times) {
		t.Errorf("the counter is %s (%v), want %d", doc.Body, err, workers*times)
	}
}

// increment counts a document up, however often others come in between.
func increment(ctx context.Context, d store.Driver) error {
	for {
		doc, err := d.Get(ctx, things, "counter")
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(doc.Body))
		if err != nil {
			return err
		}
		doc.Body = []byte(strconv.Itoa(n + 1))
		if _, err = d.Put(ctx, doc, store.AtRevision(doc.Revision)); !errors.Is(err, fault.Conflict) {
			return err
		}
	}
}

// concurrentBefore is how "at most once an hour" is written.
func concurrentBefore(t *testing.T, s suite) {
	drivers := s.drivers()
	doc := s.put(t, store.Document{Collection: things, ID: "stamp"}, store.Any())
	limit := time.UnixMicro(doc.Revision + 1)
	results := make([]error, 40)
	together(drivers, len(results), func(i int, d store.Driver) {
		_, results[i] = d.Put(t.Context(), store.Document{Collection: things, ID: "stamp"}, store.Before(limit))
	})
	one(t, results, fault.Conflict)
}

func concurrentReads(t *testing.T, s suite) {
	const writers, writes, readers, reads = 4, 25, 4, 200
	drivers := s.drivers()
	first := s.put(t, store.Document{Collection: things, ID: "x", Parent: "p", Body: []byte("first")}, store.Absent())
	var acknowledged atomic.Int64
	acknowledged.Store(first.Revision)

	var mu sync.Mutex
	written := map[int64]string{first.Revision: "first"}
	read := map[int64]string{}
	saw := func(doc store.Document, floor int64, how string) {
		mu.Lock()
		defer mu.Unlock()
		if doc.Revision < floor {
			t.Errorf("%s saw revision %d after %d was acknowledged", how, doc.Revision, floor)
		}
		if body, ok := read[doc.Revision]; ok && body != string(doc.Body) {
			t.Errorf("revision %d was read as %q and as %q", doc.Revision, body, doc.Body)
		}
		read[doc.Revision] = string(doc.Body)
	}

	// The writers go on for as long as the readers need for their reads.
	var writing, done atomic.Int64
	writing.Store(writers)
	together(drivers, writers+readers, func(i int, d store.Driver) {
		if i < writers {
			defer writing.Add(-1)
			for n := 0; n < writes || done.Load() < reads && !t.Failed(); n++ {
				body := fmt.Sprintf("%d/%d", i, n)
				revision, err := d.Put(t.Context(), store.Document{Collection: things, ID: "x", Parent: "p", Body: []byte(body)}, store.Any())
				if err != nil {
					t.Errorf("Put: %v", err)
					return
				}
				mu.Lock()
				if other, taken := written[revision]; taken {
					t.Errorf("revision %d was given to %q and to %q", revision, other, body)
				}
				written[revision] = body
				mu.Unlock()
				for {
					known := acknowledged.Load()
					if known >= revision || acknowledged.CompareAndSwap(known, revision) {
						break
					}
				}
			}
			return
		}
		for more := true; more; {
			more = writing.Load() > 0
			floor := acknowledged.Load()
			doc, err := d.Get(t.Context(), things, "x")
			if err != nil {
				t.Errorf("Get: %v", err)
				return
			}
			saw(doc, floor, "Get")
			floor = acknowledged.Load()
			page, err := d.List(t.Context(), store.Query{Collection: things, Parent: "p", Limit: 10})
			if err != nil || len(page.Documents) != 1 {
				t.Errorf("List gave %d documents: %v", len(page.Documents), err)
				return
			}
			saw(page.Documents[0], floor, "List")
			floor = acknowledged.Load()
			many, err := d.GetMany(t.Context(), []store.Key{{Collection: thing, ID: "x"}, {Collection: things, ID: "x"}})
			if err != nil || len(many) != 1 {
				t.Errorf("GetMany gave %d documents: %v", len(many), err)
				return
			}
			saw(many[0], floor, "GetMany")
			done.Add(1)
		}
	})
	for revision, body := range read {
		if written[revision] != body {
			t.Errorf("revision %d was read as %q, but written as %q", revision, body, written[revision])
		}
	}
	last := slices.Max(slices.Collect(func(yield func(int64) bool) {
		for revision := range written {
			if !yield(revision) {
				return
			}
		}
	}))
	s.has(t, store.Document{Collection: things, ID: "x", Parent: "p", Revision: last, Body: []byte(written[last])})
}

func concurrentListing(t *testing.T, s suite) {
	const workers, documents, rounds = 8, 6, 6
	drivers := s.drivers()
	together(drivers, workers, func(worker int, d store.Driver) {
		random := rand.New(rand.NewPCG(uint64(worker), 1))
		for range rounds * documents {
			id := fmt.Sprintf("%d-%d", worker, random.IntN(documents))
			var err error
			if random.IntN(4) == 0 {
				if err = d.Delete(t.Context(), things, id, store.Any()); errors.Is(err, fault.NotFound) {
					err = nil
				}
			} else {
				parent, lookup := fmt.Sprint("p", random.IntN(3)), fmt.Sprint("l", random.IntN(3))
				_, err = d.Put(t.Context(), store.Document{Collection: things, ID: id, Parent: parent, Lookup: lookup}, store.Any())
			}
			if err != nil {
				t.Errorf("write %q: %v", id, err)
				return
			}
			if _, err := d.List(t.Context(), store.Query{Collection: things, Parent: "p1", Limit: 3}); err != nil {
				t.Errorf("List: %v", err)
				return
			}
		}
	})
	s.agrees(t, workers, documents, 3)
}

// agrees checks that the listings by parents p0… and look-up values l0… hold
// exactly the documents that Get finds among the ids "worker-number".
func (s suite) agrees(t *testing.T, workers, documents, values int) {
	t.Helper()
	want := map[string][]string{}
	var all []string
	for worker := range workers {
		for n := range documents {
			all = append(all, fmt.Sprintf("%d-%d", worker, n))
		}
	}
	slices.Sort(all)
	for _, id := range all {
		doc, err := s.Get(t.Context(), things, id)
		if errors.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		want[doc.Parent] = append(want[doc.Parent], id)
		want[doc.Lookup] = append(want[doc.Lookup], id)
	}
	for i := range values {
		parent, lookup := fmt.Sprint("p", i), fmt.Sprint("l", i)
		s.lists(t, byParent(parent), want[parent]...)
		s.lists(t, byLookup(lookup), want[lookup]...)
	}
}

func endedContext(t *testing.T, s suite) {
	doc := s.put(t, store.Document{Collection: things, ID: "x", Parent: "p", Body: []byte("1")}, store.Absent())
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, ctx := range []context.Context{canceled(t.Context()), late} {
		_, err := s.Get(ctx, things, "x")
		class(t, "Get", err, fault.Transient)
		_, err = s.Put(ctx, store.Document{Collection: things, ID: "x", Parent: "p", Body: []byte("2")}, store.Any())
		class(t, "Put over a document", err, fault.Transient)
		_, err = s.Put(ctx, store.Document{Collection: things, ID: "y", Parent: "p", Body: []byte("2")}, store.Absent())
		class(t, "Put of a new document", err, fault.Transient)
		class(t, "Delete", s.Delete(ctx, things, "x", store.Any()), fault.Transient)
		_, err = s.List(ctx, store.Query{Collection: things, Parent: "p", Limit: 10})
		class(t, "List", err, fault.Transient)
	}
	s.has(t, doc)
	s.hasNot(t, "y")
	s.lists(t, byParent("p"), "x")
}

func endingContext(t *testing.T, s suite) {
	const workers, documents = 4, 15
	drivers := s.drivers()
	body := make([]byte, 20_000)
	for i := range body {
		body[i] = byte(i % 251)
	}
	acknowledged := make([][documents]bool, workers)
	together(drivers, workers, func(worker int, d store.Driver) {
		random := rand.New(rand.NewPCG(uint64(worker), 2))
		for n := range documents {
			ctx, cancel := context.WithCancel(t.Context())
			stop := time.AfterFunc(time.Duration(random.IntN(2000))*time.Microsecond, cancel)
			_, err := d.Put(ctx, store.Document{
				Collection: things, ID: fmt.Sprintf("%d-%d", worker, n), Parent: "p0", Lookup: "l0", Body: body,
			}, store.Absent())
			stop.Stop()
			cancel()
			acknowledged[worker][n] = err == nil
			if err != nil && fault.Of(err) != fault.Transient {
				t.Errorf("Put: got %v, want an error of class %q", err, fault.Transient)
			}
		}
	})
	for worker := range workers {
		for n := range documents {
			doc, err := s.Get(t.Context(), things, fmt.Sprintf("%d-%d", worker, n))
			switch {
			case errors.Is(err, fault.NotFound):
				if acknowledged[worker][n] {
					t.Errorf("%d-%d was acknowledged and is not there", worker, n)
				}
			case err != nil:
				t.Errorf("Get: %v", err)
			default:
				doc.Revision = 0
				same(t, doc, store.Document{Collection: things, ID: doc.ID, Parent: "p0", Lookup: "l0", Body: body})
			}
		}
	}
	s.agrees(t, workers, documents, 1)
}
