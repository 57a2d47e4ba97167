package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
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
	many := func(keys ...store.Key) error {
		_, err := s.GetMany(t.Context(), keys)
		return err
	}
	long := strings.Repeat("é", store.MaxName/2)
	most := make([]store.Key, store.MaxKeys)
	for i := range most {
		most[i] = store.Key{Collection: ok, ID: fmt.Sprint(i)}
	}
	one := store.Key{Collection: ok, ID: "x"}
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
		"get many of none":                  many(),
		"get many more than can be had":     many(append(most[:len(most):len(most)], one)...),
		"get many with one twice":           many(one, most[0], one),
		"get many of a wrong collection":    many(one, store.Key{Collection: "Things", ID: "y"}),
		"get many without a collection":     many(store.Key{ID: "x"}),
		"get many without an id":            many(one, store.Key{Collection: ok}),
		"get many with a long id":           many(one, store.Key{Collection: ok, ID: long + "x"}),
		"get many with a control character": many(one, store.Key{Collection: ok, ID: "a\nb"}),
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
		"the most keys":       many(most...),
		"the longest key":     many(store.Key{Collection: strings.Repeat("x", 63), ID: long}),
		"an id in two kinds":  many(one, store.Key{Collection: "others", ID: "x"}),
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
	_, err = s.GetMany(t.Context(), nil)
	expect(err, fault.Invalid, "get 0 documents: invalid: 1 to 100 documents can be had at once")
	driver.Inject(storetest.Fault{Method: storetest.GetMany, Err: fault.Transient})
	_, err = s.GetMany(t.Context(), []store.Key{{Collection: "things", ID: "secret-id"}, {Collection: "others", ID: "secret-id"}})
	expect(err, fault.Transient, "get 2 documents of things: temporarily unavailable")
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

func TestManyRecordsComeInBatches(t *testing.T) {
	s, driver := fresh()
	cars, all := fill(t, s, 2*store.MaxKeys+1)
	asked := append([]string{"missing"}, all...)
	slices.Reverse(asked)
	want := slices.Clone(all)
	slices.Reverse(want)
	driver.Reset()
	var got []string
	for record, err := range cars.GetMany(t.Context(), asked) {
		if err != nil {
			t.Fatal(err)
		}
		if record.Parent != "p" || record.Revision == 0 || fmt.Sprintf("%05d", record.Value.Doors) != record.ID {
			t.Errorf("got %+v", record)
		}
		got = append(got, record.ID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("came %d records, want %d", len(got), len(want))
	}
	if calls := driver.Calls(); calls != 3 || calls != driver.Calls(storetest.GetMany) {
		t.Errorf("it took %d calls, want 3", calls)
	}

	driver.Reset()
	for range cars.GetMany(t.Context(), nil) {
		t.Error("of no ids came a record")
	}
	if driver.Calls() != 0 {
		t.Error("of no ids came a call")
	}
	for range cars.GetMany(t.Context(), asked) {
		break
	}
	if calls := driver.Calls(); calls != 1 {
		t.Errorf("a reader who stopped made %d calls", calls)
	}
}

func TestManyRecordsEndWithTheFirstError(t *testing.T) {
	s, driver := fresh()
	cars, all := fill(t, s, 3*store.MaxKeys)
	if _, err := s.Put(t.Context(), store.Document{Collection: "cars", ID: "broken", Body: []byte("5551234")}, store.Any()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ids     []string
		records int
		class   fault.Class
	}{
		"a batch that fails":          {all, store.MaxKeys, fault.Transient},
		"a body of another kind":      {[]string{all[0], "broken", all[1]}, 1, fault.Lost},
		"an id twice in a batch":      {[]string{all[0], all[1], all[0]}, 0, fault.Invalid},
		"an id that is none":          {[]string{all[0], ""}, 0, fault.Invalid},
		"a bad id in a later hundred": {append(all[:store.MaxKeys:store.MaxKeys], "\n"), store.MaxKeys, fault.Invalid},
	} {
		driver.Reset()
		if c.class == fault.Transient {
			driver.Inject(storetest.Fault{Method: storetest.GetMany, Skip: 1})
		}
		records, failures := 0, 0
		for _, err := range cars.GetMany(t.Context(), c.ids) {
			if err == nil {
				records++
				continue
			}
			if failures++; fault.Of(err) != c.class || strings.Contains(err.Error(), "5551234") {
				t.Errorf("%s: got %v", name, err)
			}
		}
		if records != c.records || failures != 1 {
			t.Errorf("%s: came %d records and %d errors", name, records, failures)
		}
	}
}

func TestRecordsOfSeveralCollectionsAreReadAtOnce(t *testing.T) {
	s, driver := fresh()
	cars, _ := fill(t, s, 2)
	drivers := store.NewCollection[string](s, "drivers")
	if _, err := drivers.Put(t.Context(), store.Record[string]{ID: "00000", Lookup: "l", Value: "Ada"}, store.Absent()); err != nil {
		t.Fatal(err)
	}
	driver.Reset()
	docs, err := s.GetMany(t.Context(), []store.Key{drivers.Key("00000"), cars.Key("00001"), cars.Key("00002")})
	if err != nil || len(docs) != 2 || driver.Calls() != 1 {
		t.Fatalf("%d documents in %d calls: %v", len(docs), driver.Calls(), err)
	}
	if ada, err := drivers.Decode(docs[0]); err != nil || ada.Value != "Ada" || ada.ID != "00000" || ada.Lookup != "l" || docs[0].Collection != drivers.Name() {
		t.Errorf("got %+v (%v)", ada, err)
	}
	if second, err := cars.Decode(docs[1]); err != nil || second.Value.Doors != 1 || second.Revision != docs[1].Revision {
		t.Errorf("got %+v (%v)", second, err)
	}
	if _, err := cars.Decode(docs[0]); fault.Of(err) != fault.Lost || strings.Contains(err.Error(), "Ada") {
		t.Errorf("a document of another kind: %v", err)
	}
}

func TestAnUpdateChangesWhatIsThere(t *testing.T) {
	s, _ := fresh()
	cars, _ := fill(t, s, 1)
	before, err := cars.Get(t.Context(), "00000")
	if err != nil {
		t.Fatal(err)
	}
	updated, err := cars.Update(t.Context(), "00000", func(r *store.Record[car]) error {
		r.Value.Doors, r.Parent = 3, "q"
		return nil
	})
	after, getErr := cars.Get(t.Context(), "00000")
	if err != nil || getErr != nil || updated != after || after.Value.Doors != 3 || after.Parent != "q" || after.Lookup != "l" || after.Revision <= before.Revision {
		t.Errorf("updated %+v (%v), stored %+v (%v)", updated, err, after, getErr)
	}
}

func TestAnUpdateBeginsAgainAfterSomebodyElsesWrite(t *testing.T) {
	s, driver := fresh()
	cars, _ := fill(t, s, 1)
	tries := 0
	driver.Reset()
	updated, err := cars.Update(t.Context(), "00000", func(r *store.Record[car]) error {
		if tries++; tries <= 2 {
			other := *r
			other.Value.Doors += 10
			if _, err := cars.Put(t.Context(), other, store.Any()); err != nil {
				return err
			}
		}
		r.Value.Doors++
		return nil
	})
	if err != nil || tries != 3 || updated.Value.Doors != 21 || driver.Calls(storetest.Get) != 3 {
		t.Errorf("%+v after %d tries: %v", updated, tries, err)
	}
}

func TestConcurrentUpdatesLoseNothing(t *testing.T) {
	s, _ := fresh()
	cars, _ := fill(t, s, 1)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 20 {
				if _, err := cars.Update(t.Context(), "00000", func(r *store.Record[car]) error { r.Value.Doors++; return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if got, err := cars.Get(t.Context(), "00000"); err != nil || got.Value.Doors != 160 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAnUpdateEndsAsItsChangeSays(t *testing.T) {
	for name, c := range map[string]struct {
		change, want error
		class        fault.Class
	}{
		"nothing to write":        {store.ErrUnchanged, nil, ""},
		"nothing to write, since": {fmt.Errorf("it is so already: %w", store.ErrUnchanged), nil, ""},
		"a refusal":               {fmt.Errorf("%w: no", fault.Forbidden), fault.Forbidden, fault.Forbidden},
		"a conflict of its own":   {fmt.Errorf("%w: there is another", fault.Conflict), fault.Conflict, fault.Conflict},
		"an error without class":  {errBroken, errBroken, ""},
	} {
		s, driver := fresh()
		cars, _ := fill(t, s, 1)
		driver.Reset()
		tries := 0
		_, err := cars.Update(t.Context(), "00000", func(r *store.Record[car]) error {
			tries++
			r.Value.Doors = 9
			return c.change
		})
		if !errors.Is(err, c.want) || c.want != nil && !errors.Is(err, c.change) || fault.Of(err) != c.class || tries != 1 || driver.Calls(storetest.Put) != 0 {
			t.Errorf("%s: got %v after %d tries and %d writes", name, err, tries, driver.Calls(storetest.Put))
		}
		if got, err := cars.Get(t.Context(), "00000"); err != nil || got.Value.Doors != 0 {
			t.Errorf("%s: stored is %+v (%v)", name, got, err)
		}
	}
}

var errBroken = errors.New("broken")

func TestAnUpdateThatCannotReadOrWriteSaysSo(t *testing.T) {
	nothing := func(*store.Record[car]) error { return nil }
	s, driver := fresh()
	cars, _ := fill(t, s, 1)
	if _, err := cars.Update(t.Context(), "none", nothing); fault.Of(err) != fault.NotFound {
		t.Errorf("a record that is not there: %v", err)
	}
	for _, f := range []storetest.Fault{{Method: storetest.Get, Err: fault.Denied}, {Method: storetest.Put, Err: fault.Denied}, {Method: storetest.Put, When: storetest.After, Err: fault.Denied}} {
		driver.Reset()
		driver.Inject(f)
		if got, err := cars.Update(t.Context(), "00000", nothing); fault.Of(err) != fault.Denied || got != (store.Record[car]{}) || driver.Calls(f.Method) != 1 {
			t.Errorf("%+v: got %+v and %v", f, got, err)
		}
	}
	gone := 0
	_, err := cars.Update(t.Context(), "00000", func(*store.Record[car]) error {
		gone++
		return cars.Delete(t.Context(), "00000", store.Any())
	})
	if fault.Of(err) != fault.NotFound || gone != 1 {
		t.Errorf("a record that is deleted meanwhile: %v after %d tries", err, gone)
	}
}

func TestRetryingEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tries := 0
	err := store.Retry(ctx, func() error {
		if tries++; tries == 4 {
			cancel()
		}
		return fmt.Errorf("put: %w", fault.Conflict)
	})
	if fault.Of(err) != fault.Transient || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "others kept writing") || tries != 4 {
		t.Errorf("after %d tries: %v", tries, err)
	}
}

func TestOnlyConflictsAreRetried(t *testing.T) {
	for _, want := range []error{nil, errBroken, fault.NotFound, fault.Transient, fmt.Errorf("%w: %w", fault.Lost, fault.Conflict)} {
		tries := 0
		if err := store.Retry(t.Context(), func() error { tries++; return want }); err != want || tries != 1 {
			t.Errorf("%v became %v after %d tries", want, err, tries)
		}
	}
	tries := 0
	err := store.Retry(t.Context(), func() error {
		if tries++; tries < 5 {
			return fault.Conflict
		}
		return errBroken
	})
	if !errors.Is(err, errBroken) || tries != 5 {
		t.Errorf("after %d tries: %v", tries, err)
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
