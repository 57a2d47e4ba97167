package storetest

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/store"
)

// The tests of listings.

func listOrder(t *testing.T, s suite) {
	stored := map[string]store.Document{}
	for i, name := range odd {
		doc := store.Document{Collection: things, ID: name, Parent: "p", Lookup: "l", Body: []byte(name)}
		if i%3 == 0 {
			doc.Expires = seconds(time.Hour)
		}
		stored[name] = s.put(t, doc, store.Absent())
	}
	want := slices.Sorted(slices.Values(odd))
	for _, q := range []store.Query{byParent("p"), byLookup("l")} {
		all := s.list(t, q)
		if got := ids(all); !slices.Equal(got, want) {
			t.Errorf("List %+v gave\n%q, want\n%q", q, got, want)
		}
		for _, doc := range all {
			same(t, doc, stored[doc.ID])
		}
		// Every id is a cursor, and so is everything between two of them.
		for i, name := range want {
			q.After, q.Limit = name, 2
			page, err := s.List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			rest := want[i+1:]
			if got := ids(page.Documents); !slices.Equal(got, rest[:min(2, len(rest))]) {
				t.Errorf("after %q came %q, want the first of %q", name, got, rest)
			}
		}
	}
}

func listPages(t *testing.T, s suite) {
	var want []string
	for i := range 12 {
		id := fmt.Sprintf("%02d", i)
		s.put(t, store.Document{Collection: things, ID: id, Parent: "p", Lookup: "l", Body: []byte(id)}, store.Any())
		want = append(want, id)
	}
	s.put(t, store.Document{Collection: things, ID: "99", Parent: "p2", Lookup: "l2"}, store.Any())
	for _, q := range []store.Query{byParent("p"), byLookup("l")} {
		for limit := 1; limit <= len(want)+1; limit++ {
			q.Limit = limit
			s.lists(t, q, want...)
		}
		q.Limit = store.MaxPage
		s.lists(t, q, want...)

		// The last page says that it is the last, even when it is full.
		q.Limit = len(want)
		if page, err := s.List(t.Context(), q); err != nil || page.Next != "" {
			t.Errorf("the only page, a full one, goes on after %q (%v)", page.Next, err)
		}
		for _, after := range []string{"11", "zz", "\U0010ffff"} {
			q.After = after
			page, err := s.List(t.Context(), q)
			if err != nil || page.Next != "" || len(page.Documents) != 0 {
				t.Errorf("after the end came %q, %q (%v)", ids(page.Documents), page.Next, err)
			}
		}
	}
}

func listCursor(t *testing.T, s suite) {
	for _, q := range []store.Query{byParent("p"), byLookup("l")} {
		for _, id := range []string{"b", "d", "f", "h"} {
			s.put(t, store.Document{Collection: things, ID: id, Parent: "p", Lookup: "l"}, store.Any())
		}
		q.Limit = 2
		page, err := s.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		q.After = page.Next
		s.delete(t, "d")
		s.lists(t, q, "f", "h")
		s.put(t, store.Document{Collection: things, ID: "e", Parent: "p", Lookup: "l"}, store.Any())
		s.put(t, store.Document{Collection: things, ID: "a", Parent: "p", Lookup: "l"}, store.Any())
		s.lists(t, q, "e", "f", "h")
		q.After = "c"
		s.lists(t, q, "e", "f", "h")
		q.After = "b"
		s.delete(t, "b")
		s.lists(t, q, "e", "f", "h")
		q.After = ""
		s.lists(t, q, "a", "e", "f", "h")
		for _, id := range []string{"a", "e", "f", "h"} {
			s.delete(t, id)
		}
		s.lists(t, q)
	}
}

func listMoves(t *testing.T, s suite) {
	put := func(id, parent, lookup string) {
		s.put(t, store.Document{Collection: things, ID: id, Parent: parent, Lookup: lookup, Body: []byte(parent + lookup)}, store.Any())
	}
	expect := func(step string, p1, p2, l1, l2 []string) {
		t.Helper()
		for _, listing := range []struct {
			q    store.Query
			want []string
		}{{byParent("p1"), p1}, {byParent("p2"), p2}, {byLookup("l1"), l1}, {byLookup("l2"), l2}} {
			all := s.list(t, listing.q)
			if got := ids(all); !slices.Equal(got, listing.want) {
				t.Errorf("%s: List %+v gave %q, want %q", step, listing.q, got, listing.want)
			}
			for _, doc := range all {
				if string(doc.Body) != doc.Parent+doc.Lookup {
					t.Errorf("%s: the body of %q is not of its last write", step, doc.ID)
				}
			}
		}
	}
	put("a", "p1", "l1")
	put("b", "p1", "l1")
	put("c", "p2", "l2")
	expect("first", []string{"a", "b"}, []string{"c"}, []string{"a", "b"}, []string{"c"})
	put("a", "p2", "l1")
	expect("a to the second parent", []string{"b"}, []string{"a", "c"}, []string{"a", "b"}, []string{"c"})
	put("a", "p2", "l2")
	expect("a to the second lookup", []string{"b"}, []string{"a", "c"}, []string{"b"}, []string{"a", "c"})
	put("b", "p2", "")
	expect("b has no lookup", nil, []string{"a", "b", "c"}, nil, []string{"a", "c"})
	put("c", "", "l1")
	expect("c has no parent", nil, []string{"a", "b"}, []string{"c"}, []string{"a"})
	put("c", "", "")
	expect("c has neither", nil, []string{"a", "b"}, nil, []string{"a"})
	put("c", "p1", "l1")
	expect("c has both again", []string{"c"}, []string{"a", "b"}, []string{"c"}, []string{"a"})
	s.delete(t, "c")
	expect("c is gone", nil, []string{"a", "b"}, nil, []string{"a"})
	put("c", "p2", "l2")
	expect("c is made anew elsewhere", nil, []string{"a", "b", "c"}, nil, []string{"a", "c"})
}

func listForeign(t *testing.T, s suite) {
	put := func(collection, id, parent, lookup string) {
		s.put(t, store.Document{Collection: collection, ID: id, Parent: parent, Lookup: lookup}, store.Absent())
	}
	put(things, "mine", "x", "y")
	for i, other := range []string{"y", "X", "x ", " x", "xx", "x#", "#x", "x#mine", "x/", "x%", "x\u0301", "x_", "%", "_", "*"} {
		put(things, fmt.Sprint("other ", i), other, "x")
	}
	for _, collection := range []string{thing, otherThings} {
		put(collection, "mine", "x", "y")
		put(collection, "theirs", "x", "y")
	}
	put(things, "no parent", "", "z")
	put(things, "no lookup", "z", "")
	put(things, "neither", "", "")

	s.lists(t, byParent("x"), "mine")
	s.lists(t, byLookup("y"), "mine")
	s.lists(t, byParent("y"), "other 0")
	s.lists(t, byParent("z"), "no lookup")
	s.lists(t, byLookup("z"), "no parent")
	s.lists(t, store.Query{Collection: thing, Parent: "x"}, "mine", "theirs")
	s.lists(t, store.Query{Collection: "empty", Parent: "x"})

	// Parents and ids that give the same text when they are joined.
	put(otherThings, "b#c", "a", "")
	put(otherThings, "c", "a#b", "")
	s.lists(t, store.Query{Collection: otherThings, Parent: "a"}, "b#c")
	s.lists(t, store.Query{Collection: otherThings, Parent: "a#b"}, "c")
}

func expiredListing(t *testing.T, s suite) {
	var want []string
	for i := range 40 {
		doc := store.Document{Collection: things, ID: fmt.Sprintf("%02d", i), Parent: "p", Lookup: "l", Expires: seconds(-time.Minute)}
		if i%13 == 12 {
			doc.Expires = seconds(time.Hour)
			want = append(want, doc.ID)
		}
		s.put(t, doc, store.Any())
	}
	for _, q := range []store.Query{byParent("p"), byLookup("l")} {
		for _, limit := range []int{1, 2, 3, 5, store.MaxPage} {
			q.Limit = limit
			s.lists(t, q, want...)
		}
	}
}

func listConsistent(t *testing.T, s suite) {
	drivers := s.drivers()
	var want []string
	for i := range 20 {
		id := fmt.Sprintf("%02d", i)
		writer, reader := drivers[i%len(drivers)], suite{Driver: drivers[(i+1)%len(drivers)]}
		if _, err := writer.Put(t.Context(), store.Document{Collection: things, ID: id, Parent: "p", Lookup: "l"}, store.Absent()); err != nil {
			t.Fatal(err)
		}
		want = append(want, id)
		reader.lists(t, byParent("p"), want...)
		reader.lists(t, byLookup("l"), want...)
		if i%4 == 3 {
			if err := writer.Delete(t.Context(), things, want[0], store.Any()); err != nil {
				t.Fatal(err)
			}
			want = want[1:]
			reader.lists(t, byParent("p"), want...)
			reader.lists(t, byLookup("l"), want...)
		}
	}
}

func listLarge(t *testing.T, s suite) {
	var want []string
	for i := range 20 {
		id := fmt.Sprintf("%02d", i)
		want = append(want, id)
		s.put(t, store.Document{Collection: things, ID: id, Parent: "p", Lookup: "l", Body: bytes.Repeat([]byte{byte(i)}, store.MaxBody)}, store.Any())
	}
	for _, q := range []store.Query{byParent("p"), byLookup("l")} {
		for _, limit := range []int{7, store.MaxPage} {
			q.Limit = limit
			all := s.list(t, q)
			if got := ids(all); !slices.Equal(got, want) {
				t.Fatalf("List %+v gave %q, want %q", q, got, want)
			}
			for i, doc := range all {
				if len(doc.Body) != store.MaxBody || doc.Body[0] != byte(i) {
					t.Errorf("%q came with another body", doc.ID)
				}
			}
		}
	}
}

func listMany(t *testing.T, s suite) {
	if testing.Short() {
		t.Skip("writes more than a thousand documents")
	}
	var want []string
	for i := range store.MaxPage + 5 {
		want = append(want, fmt.Sprintf("%05d", i))
	}
	together([]store.Driver{s.Driver}, 8, func(worker int, d store.Driver) {
		for i := worker; i < len(want); i += 8 {
			if _, err := d.Put(t.Context(), store.Document{Collection: things, ID: want[i], Parent: "p"}, store.Absent()); err != nil {
				t.Errorf("Put %q: %v", want[i], err)
			}
		}
	})
	s.lists(t, byParent("p"), want...)
}
