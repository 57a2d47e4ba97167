package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

func fresh() (*store.Store, *storetest.Faults) {
	driver := storetest.NewFaults(store.NewTable())
	return store.New(driver), driver
}

func TestABadInputReachesNoDriver(t *testing.T) {
	s, driver := fresh()
	const ok = "things"
	put := func(doc store.Document) error {
		if doc.Collection == "" {
			doc.Collection = ok
		}
		if doc.ID == "" {
			doc.ID = "x"
		}
		_, err := s.Put(t.Context(), doc, store.Any())
		return err
	}
	get := func(collection, id string) error {
		_, err := s.Get(t.Context(), collection, id)
		return err
	}
	list := func(q store.Query) error {
		if q.Collection == "" {
			q.Collection = ok
		}
		_, err := s.List(t.Context(), q)
		return err
	}
	long := strings.Repeat("é", store.MaxName/2)
	for name, err := range map[string]error{
		"get without a collection":          get("", "x"),
		"get with an upper-case collection": get("Things", "x"),
		"get with a digit first":            get("1things", "x"),
		"get with a long collection":        get(strings.Repeat("x", 64), "x"),
		"get with a line's end":             get("things\n", "x"),
		"get without an id":                 get(ok, ""),
		"get with a long id":                get(ok, long+"x"),
		"get with an id not in UTF-8":       get(ok, "\xff"),
		"get with a surrogate":              get(ok, "\xed\xa0\x80"),
		"get with a zero byte":              get(ok, "a\x00b"),
		"get with a tab":                    get(ok, "a\tb"),
		"get with a delete character":       get(ok, "\x7f"),
		"delete without an id":              s.Delete(t.Context(), ok, "", store.Any()),
		"delete with a wrong collection":    s.Delete(t.Context(), "a b", "x", store.Any()),
		"put in a wrong collection":         put(store.Document{Collection: "a_b"}),
		"put of a wrong id":                 put(store.Document{ID: "\n"}),
		"put of a wrong parent":             put(store.Document{Parent: "\xff"}),
		"put of a long parent":              put(store.Document{Parent: long + "x"}),
		"put of a wrong lookup":             put(store.Document{Lookup: "\x00"}),
		"put of a long lookup":              put(store.Document{Lookup: long + "x"}),
		"put of a large body":               put(store.Document{Body: make([]byte, store.MaxBody+1)}),
		"list of a wrong collection":        list(store.Query{Collection: "?", Parent: "p"}),
		"list of everything":                list(store.Query{}),
		"list by both":                      list(store.Query{Parent: "p", Lookup: "l"}),
		"list of fewer than none":           list(store.Query{Parent: "p", Limit: -1}),
		"list of a large page":              list(store.Query{Parent: "p", Limit: store.MaxPage + 1}),
		"list of a wrong parent":            list(store.Query{Parent: "\xff"}),
		"list of a long lookup":             list(store.Query{Lookup: long + "x"}),
		"list after a wrong cursor":         list(store.Query{Parent: "p", After: "\x01"}),
		"list after a long cursor":          list(store.Query{Parent: "p", After: long + "x"}),
	} {
		if fault.Of(err) != fault.Invalid {
			t.Errorf("%s: got %v, want class %q", name, err, fault.Invalid)
		}
	}
	if calls := driver.Calls(); calls != 0 {
		t.Errorf("the driver was called %d times", calls)
	}
	for name, err := range map[string]error{
		"the longest of all": put(store.Document{
			Collection: strings.Repeat("x", 63), ID: long, Parent: long, Lookup: long, Body: make([]byte, store.MaxBody),
		}),
		"one letter":          put(store.Document{Collection: "x", ID: "y"}),
		"list by parent":      list(store.Query{Parent: "p", After: long}),
		"list by lookup":      list(store.Query{Lookup: "l", Limit: store.MaxPage}),
		"a character above C": put(store.Document{ID: "\u0085\u00a0"}),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestErrorsSayWhatWasBeingDoneAndKeepTheirClass(t *testing.T) {
	s, driver := fresh()
	_, err := s.Get(t.Context(), "things", "secret-id")
	expect := func(err error, class fault.Class, text string) {
		t.Helper()
		if fault.Of(err) != class || err.Error() != text {
			t.Errorf("got %v (class %q), want %q of class %q", err, fault.Of(err), text, class)
		}
	}
	expect(err, fault.NotFound, "get things: not found")
	expect(s.Delete(t.Context(), "things", "secret-id", store.Absent()), fault.NotFound, "delete things (absent): not found")
	_, err = s.Put(t.Context(), store.Document{Collection: "things", ID: "secret-id"}, store.AtRevision(7))
	expect(err, fault.Conflict, "put things (at revision 7): conflict: there is no document")
	driver.Inject(storetest.Fault{Method: storetest.List, Err: fault.Denied})
	_, err = s.List(t.Context(), store.Query{Collection: "things", Parent: "p"})
	expect(err, fault.Denied, "list things: denied")
}

func TestExpiriesAreInWholeSeconds(t *testing.T) {
	s, _ := fresh()
	expires := time.Date(2100, 1, 1, 0, 0, 0, 999_999_999, time.UTC)
	if _, err := s.Put(t.Context(), store.Document{Collection: "things", ID: "x", Expires: expires}, store.Any()); err != nil {
		t.Fatal(err)
	}
	doc, err := s.Get(t.Context(), "things", "x")
	if err != nil || !doc.Expires.Equal(expires.Truncate(time.Second)) {
		t.Errorf("it expires at %v (%v)", doc.Expires, err)
	}
}

func TestPreconditions(t *testing.T) {
	at := time.UnixMicro(100)
	for _, test := range []struct {
		pre     store.Precondition
		text    string
		holds   []int64
		refuses []int64
	}{
		{store.Any(), "any", []int64{0, 1, 100}, nil},
		{store.Precondition{}, "any", []int64{0, 1, 100}, nil},
		{store.Absent(), "absent", []int64{0}, []int64{1, 100}},
		{store.AtRevision(100), "at revision 100", []int64{100}, []int64{0, 99, 101}},
		{store.AtRevision(0), "at revision 0", nil, []int64{0, 1}},
		{store.Before(at), "before revision 100", []int64{0, 99}, []int64{100, 101}},
		{store.Before(time.Time{}), "before revision -62135596800000000", []int64{0}, []int64{1}},
	} {
		if got := test.pre.String(); got != test.text {
			t.Errorf("it is called %q, want %q", got, test.text)
		}
		for _, revision := range test.holds {
			if !test.pre.Holds(revision) {
				t.Errorf("%s does not hold of %d", test.pre, revision)
			}
		}
		for _, revision := range test.refuses {
			if test.pre.Holds(revision) {
				t.Errorf("%s holds of %d", test.pre, revision)
			}
		}
	}
}

type car struct {
	Plate string `json:"plate"`
	Doors int    `json:"doors"`
}

func TestACollectionKeepsTypedRecords(t *testing.T) {
	s, _ := fresh()
	cars := store.NewCollection[car](s, "cars")
	if cars.Name() != "cars" {
		t.Errorf("its name is %q", cars.Name())
	}
	record := store.Record[car]{ID: "x", Parent: "p", Lookup: "l", Expires: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), Value: car{"LK 1", 5}}
	revision, err := cars.Put(t.Context(), record, store.Absent())
	if err != nil {
		t.Fatal(err)
	}
	record.Revision = revision
	if got, err := cars.Get(t.Context(), "x"); err != nil || got != record {
		t.Errorf("got %+v (%v), want %+v", got, err, record)
	}
	if doc, err := s.Get(t.Context(), "cars", "x"); err != nil || string(doc.Body) != `{"plate":"LK 1","doors":5}` {
		t.Errorf("the body is %s (%v)", doc.Body, err)
	}
	if _, err := cars.Put(t.Context(), record, store.Absent()); fault.Of(err) != fault.Conflict {
		t.Errorf("a second creation: %v", err)
	}
	if err := cars.Delete(t.Context(), "x", store.AtRevision(revision)); err != nil {
		t.Error(err)
	}
	if _, err := cars.Get(t.Context(), "x"); fault.Of(err) != fault.NotFound {
		t.Errorf("after the delete: %v", err)
	}
	for range cars.ByParent(t.Context(), "p") {
		t.Error("a deleted record is listed")
	}
}

func TestAValueThatIsNoJSONIsNotPut(t *testing.T) {
	s, driver := fresh()
	_, err := store.NewCollection[func()](s, "things").Put(t.Context(), store.Record[func()]{ID: "x", Value: func() {}}, store.Any())
	if err == nil || driver.Calls() != 0 {
		t.Errorf("got %v and %d calls", err, driver.Calls())
	}
}

func TestABodyOfAnotherKindIsLostAndNotQuoted(t *testing.T) {
	s, _ := fresh()
	for id, body := range map[string]string{"a": `{"plate": 5551234}`, "b": `{"plate":"LK`, "c": "", "d": "hunter2"} {
		if _, err := s.Put(t.Context(), store.Document{Collection: "cars", ID: id, Parent: id, Body: []byte(body)}, store.Any()); err != nil {
			t.Fatal(err)
		}
		cars := store.NewCollection[car](s, "cars")
		_, err := cars.Get(t.Context(), id)
		if fault.Of(err) != fault.Lost || strings.Contains(err.Error(), "5551234") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v", body, err)
		}
		for _, err = range cars.ByParent(t.Context(), id) {
			if fault.Of(err) != fault.Lost {
				t.Errorf("%s in a listing: got %v", body, err)
			}
		}
	}
}

func fill(t *testing.T, s *store.Store, n int) (cars store.Collection[car], ids []string) {
	t.Helper()
	cars = store.NewCollection[car](s, "cars")
	for i := range n {
		id := fmt.Sprintf("%05d", i)
		ids = append(ids, id)
		if _, err := cars.Put(t.Context(), store.Record[car]{ID: id, Parent: "p", Lookup: "l", Value: car{Doors: i}}, store.Absent()); err != nil {
			t.Fatal(err)
		}
	}
	return cars, ids
}

func TestWalkingGoesThroughAllPages(t *testing.T) {
	s, driver := fresh()
	cars, want := fill(t, s, 2*store.MaxPage+1)
	for by, walk := range map[string]func(func(store.Record[car], error) bool){
		"parent": cars.ByParent(t.Context(), "p"), "lookup": cars.ByLookup(t.Context(), "l"),
	} {
		driver.Reset()
		var got []string
		for record, err := range walk {
			if err != nil {
				t.Fatal(err)
			}
			if record.Value.Doors != len(got) {
				t.Errorf("record %d has %d doors", len(got), record.Value.Doors)
			}
			got = append(got, record.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("by %s came %d records, want %d", by, len(got), len(want))
		}
		if calls := driver.Calls(); calls != 3 || calls != driver.Calls(storetest.List) {
			t.Errorf("by %s took %d calls, want 3", by, calls)
		}
	}
}

func TestWalkingStopsWhenItsReaderDoes(t *testing.T) {
	s, driver := fresh()
	cars, _ := fill(t, s, store.MaxPage+1)
	driver.Reset()
	for range cars.ByParent(t.Context(), "p") {
		break
	}
	if calls := driver.Calls(storetest.List); calls != 1 {
		t.Errorf("it took %d calls, want 1", calls)
	}
}

func TestWalkingEndsWithTheFirstError(t *testing.T) {
	s, driver := fresh()
	cars, _ := fill(t, s, store.MaxPage+1)
	driver.Inject(storetest.Fault{Method: storetest.List, Skip: 1})
	records, failures := 0, 0
	for _, err := range cars.ByParent(t.Context(), "p") {
		if err != nil {
			failures++
			if fault.Of(err) != fault.Transient {
				t.Errorf("got %v", err)
			}
			continue
		}
		records++
	}
	if records != store.MaxPage || failures != 1 {
		t.Errorf("came %d records and %d errors", records, failures)
	}
}

func TestClosingAStoreClosesItsDriver(t *testing.T) {
	broken := errors.New("cannot close")
	if err := store.New(closer{store.NewTable(), broken}).Close(); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

type closer struct {
	store.Driver
	err error
}

func (c closer) Close() error { return c.err }

func TestTableKeepsTheContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Driver { return store.NewTable() })
}
