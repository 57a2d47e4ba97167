package storetest_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// methods calls each method once on a document in a collection.
func methods(ctx context.Context, d store.Driver, collection string) map[storetest.Method]error {
	_, put := d.Put(ctx, store.Document{Collection: collection, ID: "x", Parent: "p"}, store.Any())
	_, get := d.Get(ctx, collection, "x")
	_, many := d.GetMany(ctx, []store.Key{{Collection: collection, ID: "x"}, {Collection: "elsewhere", ID: "x"}})
	_, list := d.List(ctx, store.Query{Collection: collection, Parent: "p", Limit: 1})
	return map[storetest.Method]error{
		storetest.Put: put, storetest.Get: get, storetest.GetMany: many, storetest.List: list,
		storetest.Delete: d.Delete(ctx, collection, "x", store.Any()),
	}
}

func TestFaultsWithoutFaultsIsTheDriver(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Driver { return storetest.NewFaults(store.NewTable()) })
}

func TestFaultsCountCalls(t *testing.T) {
	f := storetest.NewFaults(store.NewTable())
	for range 3 {
		for method, err := range methods(t.Context(), f, "things") {
			if err != nil {
				t.Errorf("%s: %v", method, err)
			}
		}
	}
	if got := f.Calls(); got != 15 {
		t.Errorf("15 calls count as %d", got)
	}
	if got := f.Calls(storetest.Get, storetest.GetMany, storetest.List); got != 9 {
		t.Errorf("9 reads count as %d", got)
	}
	f.Inject(storetest.Fault{})
	f.Reset()
	if f.Calls() != 0 || f.Pending() != 0 {
		t.Errorf("after Reset: %d calls, %d pending", f.Calls(), f.Pending())
	}
}

func TestAFaultMeetsTheCallItIsFor(t *testing.T) {
	for _, method := range []storetest.Method{storetest.Get, storetest.GetMany, storetest.Put, storetest.Delete, storetest.List} {
		f := storetest.NewFaults(store.NewTable())
		f.Inject(storetest.Fault{Method: method, Collection: "things", Skip: 1, When: storetest.After, Err: fault.Denied})
		for round := range 3 {
			for _, collection := range []string{"others", "things"} {
				for called, err := range methods(t.Context(), f, collection) {
					meets := called == method && collection == "things" && round == 1
					if want := map[bool]fault.Class{true: fault.Denied}[meets]; fault.Of(err) != want {
						t.Errorf("%s in %s, round %d: got %v, want class %q", called, collection, round, err, want)
					}
				}
			}
		}
		if f.Pending() != 0 {
			t.Errorf("%s met nothing", method)
		}
	}
}

func TestAFaultBeforeHidesTheCallAndOneAfterOnlyItsAnswer(t *testing.T) {
	table := store.NewTable()
	f := storetest.NewFaults(table)
	for _, test := range []struct {
		when    storetest.When
		happens bool
	}{{storetest.Before, false}, {storetest.After, true}} {
		f.Inject(storetest.Fault{When: test.when})
		id := map[bool]string{true: "happens", false: "does not"}[test.happens]
		revision, err := f.Put(t.Context(), store.Document{Collection: "things", ID: id}, store.Absent())
		if fault.Of(err) != fault.Transient || revision != 0 {
			t.Errorf("got revision %d and %v", revision, err)
		}
		if _, err := table.Get(t.Context(), "things", id); (err == nil) != test.happens {
			t.Errorf("the table says %v", err)
		}
	}
	f.Inject(storetest.Fault{When: storetest.After, Err: fault.Denied})
	if _, err := f.Get(t.Context(), "things", "nothing"); fault.Of(err) != fault.NotFound {
		t.Errorf("a call that failed by itself gave %v", err)
	}
}

func TestAFaultOfManyHidesThemAll(t *testing.T) {
	f := storetest.NewFaults(store.NewTable())
	if _, err := f.Put(t.Context(), store.Document{Collection: "things", ID: "x"}, store.Any()); err != nil {
		t.Fatal(err)
	}
	f.Inject(storetest.Fault{When: storetest.After})
	docs, err := f.GetMany(t.Context(), []store.Key{{Collection: "things", ID: "x"}})
	if fault.Of(err) != fault.Transient || docs != nil {
		t.Errorf("got %d documents and %v", len(docs), err)
	}
	f.Inject(storetest.Fault{Collection: "others"})
	docs, err = f.GetMany(t.Context(), []store.Key{{Collection: "things", ID: "x"}, {Collection: "others", ID: "x"}})
	if err != nil || len(docs) != 1 || f.Pending() != 1 {
		t.Errorf("got %d documents and %v, and %d faults are left", len(docs), err, f.Pending())
	}
}

func TestAHangingCallEndsWithItsContext(t *testing.T) {
	table := store.NewTable()
	f := storetest.NewFaults(table)
	f.Inject(storetest.Fault{When: storetest.Hang}, storetest.Fault{When: storetest.Hang, Err: errors.New("not used")})
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() {
			_, err := f.Put(ctx, store.Document{Collection: "things", ID: "x"}, store.Any())
			if fault.Of(err) != fault.Transient || !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
		cancel()
		wait.Wait()
	}
	if _, err := table.Get(t.Context(), "things", "x"); fault.Of(err) != fault.NotFound {
		t.Errorf("a call that hung was made: %v", err)
	}
}
