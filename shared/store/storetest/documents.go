package storetest

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// The tests of single documents: what goes in comes out, under which
// preconditions, and for how long.

func comesBack(t *testing.T, s suite) {
	for _, doc := range []store.Document{
		{ID: "full", Parent: "parent", Lookup: "lookup", Expires: seconds(time.Hour), Body: []byte(`{"a":1}`)},
		{ID: "no parent", Lookup: "lookup", Body: []byte(`{}`)},
		{ID: "no lookup", Parent: "parent", Body: []byte(`[]`)},
		{ID: "bare", Body: []byte(`null`)},
		{ID: "far future", Expires: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), Body: []byte(`1`)},
		{ID: "other zone", Expires: seconds(time.Hour).In(time.FixedZone("east", 9*3600)), Body: []byte(`1`)},
	} {
		doc.Collection = things
		s.has(t, s.put(t, doc, store.Absent()))
	}
	doc := store.Document{Collection: things, ID: "revision", Revision: 77, Body: []byte(`1`)}
	if put := s.put(t, doc, store.Any()); put.Revision == 77 {
		t.Error("the revision is the store's to set, and the caller's was taken")
	} else {
		s.has(t, put)
	}
}

func notFound(t *testing.T, s suite) {
	s.hasNot(t, "x")
	s.put(t, store.Document{Collection: things, ID: "x", Parent: "p", Lookup: "l"}, store.Any())
	s.delete(t, "x")
	s.hasNot(t, "x")
	s.lists(t, byParent("p"))
	s.lists(t, byLookup("l"))
	class(t, "Delete again", s.Delete(t.Context(), things, "x", store.Any()), fault.NotFound)
}

// odd are names that a store which escapes, folds, normalises, trims, joins
// or compares in UTF-16 would mistake for one another or put out of order.
var odd = []string{
	"a", "A", "b", "B", "a ", " a", " ", "  ", "aa", "a.", ".", "..", "-", "a-b", "0", "00", "10", "9",
	"#", "a#", "a#b", "a#b#c", "#a", "/", "a/b", "a//b", "/a", "a/../b", `\`, `a\b`, `\n`, "?", "a?b=c", "&", "%", "%%", "%2F", "%00", "a%b",
	"_", "a_b", "*", "[a]", "'", "''", `"`, `""`, "`", "';--", "$", "$a", "{}", "${a}", "|", "a|b", ":", "a:b", "::", "=", "@", "~", "^", ",", "<a>", "+", "a+b",
	"\u00e9", "e\u0301", "\u00c9", "E\u0301", "ß", "ss", "ſ", "s", "İ", "i", "ı", "ﬁ", "fi", "Å", "\u212b", "\u00a0", "\u200b", "a\u200b", "\u200f", "\ufeff", "\ufeffa", "\u2028", "\u0085",
	"שלום", "مرحبا", "\u202eabc", "日本語", "がぎ", "か\u3099き", "😀", "👩‍👩‍👧", "👍", "👍🏽", "\ufffd", "\uffff", "\U00010000", "\U0010ffff", "\ue000",
	"null", "true", "id", "NaN", "1e3", "1000",
}

func oddNames(t *testing.T, s suite) {
	var stored []store.Document
	for _, name := range odd {
		stored = append(stored, s.put(t, store.Document{
			Collection: things, ID: name, Parent: "p" + name, Lookup: "l" + name, Body: []byte(name),
		}, store.Absent()))
	}
	for _, doc := range stored {
		s.has(t, doc)
		for _, q := range []store.Query{byParent(doc.Parent), byLookup(doc.Lookup)} {
			all := s.list(t, q)
			if len(all) != 1 {
				t.Errorf("List %+v gave %q, want one document", q, ids(all))
				continue
			}
			same(t, all[0], doc)
		}
	}
	for i, doc := range stored {
		s.delete(t, doc.ID)
		s.hasNot(t, doc.ID)
		if i+1 < len(stored) {
			s.has(t, stored[i+1])
		}
	}
}

func bodies(t *testing.T, s suite) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	random := make([]byte, store.MaxBody)
	rand.Read(random)
	for name, body := range map[string][]byte{
		"none":               nil,
		"empty":              {},
		"a zero byte":        {0},
		"zero bytes":         make([]byte, 1000),
		"every byte":         every,
		"no UTF-8":           {0xff, 0xfe, 0xc3, 0x28, 0xed, 0xa0, 0x80},
		"broken JSON":        []byte(`{"a":`),
		"JSON with spaces":   []byte(" {\n\t\"b\" : 1 , \"a\" : 1.0 }\r\n"),
		"JSON with twins":    []byte(`{"a":1,"a":2}`),
		"JSON with escapes":  []byte(`"\u003c<>&\u2028` + "\u2028" + `\/\ud800"`),
		"JSON, no UTF-8":     []byte("\"\xff\""),
		"a large number":     []byte(`12345678901234567890123456789.10`),
		"null":               []byte(`null`),
		"one below the most": random[1:],
		"the most":           random,
		"the most of one":    bytes.Repeat([]byte{'<'}, store.MaxBody),
	} {
		doc := store.Document{Collection: things, ID: name, Parent: name, Body: body}
		stored := s.put(t, doc, store.Any())
		s.has(t, stored)
		if all := s.list(t, byParent(name)); len(all) == 1 {
			same(t, all[0], stored)
		} else {
			t.Errorf("%s: the listing holds %d documents, want 1", name, len(all))
		}
		doc.Body = []byte("x")
		s.has(t, s.put(t, doc, store.AtRevision(stored.Revision)))
	}
}

func longNames(t *testing.T, s suite) {
	collection := "c" + strings.Repeat("-9", 31)
	for i, unit := range []string{"x", "%", "#", "é", "日", "😀", "'", `\`} {
		long := strings.Repeat(unit, store.MaxName/len(unit))
		// Two that differ in their last byte only, under one parent.
		short := long[:len(long)-len(unit)]
		id := func(end string) string { return short + end }
		for _, name := range []string{id("y"), id("z")} {
			doc := s.put(t, store.Document{Collection: collection, ID: name, Parent: long, Lookup: id("y"), Body: []byte(unit)}, store.Absent())
			s.has(t, doc)
		}
		for _, q := range []store.Query{
			{Collection: collection, Parent: long, Limit: 1},
			{Collection: collection, Lookup: id("y"), Limit: 1},
		} {
			s.lists(t, q, id("y"), id("z"))
		}
		s.lists(t, store.Query{Collection: collection, Parent: long, After: id("y")}, id("z"))
		s.lists(t, store.Query{Collection: collection, Parent: short + fmt.Sprint(i)})
	}
}

func collectionsApart(t *testing.T, s suite) {
	var stored []store.Document
	for _, collection := range []string{things, otherThings, thing} {
		stored = append(stored, s.put(t, store.Document{Collection: collection, ID: "x", Parent: "p", Body: []byte(collection)}, store.Absent()))
	}
	for _, doc := range stored {
		s.has(t, doc)
	}
	s.delete(t, "x")
	s.hasNot(t, "x")
	s.has(t, stored[1])
	s.has(t, stored[2])
}

func copies(t *testing.T, s suite) {
	body := []byte("original")
	doc := s.put(t, store.Document{Collection: things, ID: "x", Parent: "p", Lookup: "l", Body: body}, store.Any())
	doc.Body = []byte("original")
	copy(body, "mutated!")
	s.has(t, doc)

	got, err := s.Get(t.Context(), things, "x")
	if err != nil {
		t.Fatal(err)
	}
	copy(got.Body, "mutated!")
	s.has(t, doc)
	_ = append(got.Body[:0], "mutated!"...)
	s.has(t, doc)

	for _, q := range []store.Query{byParent("p"), byLookup("l")} {
		for _, listed := range s.list(t, q) {
			copy(listed.Body, "mutated!")
		}
	}
	s.has(t, doc)
}

// precondition is one made for a stored (or expired) document's revision, and
// whether it holds of that document and of none at all.
type precondition struct {
	name               string
	make               func(revision int64) store.Precondition
	present, otherwise bool
}

var preconditions = []precondition{
	{"any", func(int64) store.Precondition { return store.Any() }, true, true},
	{"absent", func(int64) store.Precondition { return store.Absent() }, false, true},
	{"at its revision", store.AtRevision, true, false},
	{"at an earlier revision", func(n int64) store.Precondition { return store.AtRevision(n - 1) }, false, false},
	{"at a later revision", func(n int64) store.Precondition { return store.AtRevision(n + 1) }, false, false},
	{"at revision 0", func(int64) store.Precondition { return store.AtRevision(0) }, false, false},
	{"before just after its write", func(n int64) store.Precondition { return store.Before(time.UnixMicro(n + 1)) }, true, true},
	{"before its write", func(n int64) store.Precondition { return store.Before(time.UnixMicro(n)) }, false, true},
	{"before an hour earlier", func(n int64) store.Precondition { return store.Before(time.UnixMicro(n).Add(-time.Hour)) }, false, true},
	{"before the epoch", func(int64) store.Precondition { return store.Before(time.Time{}) }, false, true},
	{"before an hour later", func(n int64) store.Precondition { return store.Before(time.UnixMicro(n).Add(time.Hour)) }, true, true},
}

// state is what was done with an id before a write, and whether it left a
// document there.
type state struct {
	name    string
	prepare func(t *testing.T, s suite, id string) (left store.Document)
	present bool
}

var states = []state{
	{"none", func(*testing.T, suite, string) store.Document {
		return store.Document{Revision: time.Now().UnixMicro()}
	}, false},
	{"present", func(t *testing.T, s suite, id string) store.Document {
		return s.put(t, store.Document{Collection: things, ID: id, Parent: "p", Lookup: "l", Body: []byte("old")}, store.Any())
	}, true},
	{"present until later", func(t *testing.T, s suite, id string) store.Document {
		return s.put(t, store.Document{Collection: things, ID: id, Parent: "p", Lookup: "l", Expires: seconds(time.Hour), Body: []byte("old")}, store.Any())
	}, true},
	{"expired", func(t *testing.T, s suite, id string) store.Document {
		return s.put(t, store.Document{Collection: things, ID: id, Parent: "p", Lookup: "l", Expires: seconds(-time.Hour), Body: []byte("old")}, store.Any())
	}, false},
	{"expired long ago", func(t *testing.T, s suite, id string) store.Document {
		return s.put(t, store.Document{Collection: things, ID: id, Parent: "p", Lookup: "l", Expires: time.Unix(0, 0), Body: []byte("old")}, store.Any())
	}, false},
	{"deleted", func(t *testing.T, s suite, id string) store.Document {
		doc := s.put(t, store.Document{Collection: things, ID: id, Parent: "p", Lookup: "l", Body: []byte("old")}, store.Any())
		s.delete(t, id)
		return doc
	}, false},
}

func putPreconditions(t *testing.T, s suite) {
	for _, state := range states {
		for _, pre := range preconditions {
			t.Run(pre.name+" on "+state.name, func(t *testing.T) {
				id := pre.name + "/" + state.name
				left := state.prepare(t, s, id)
				doc := store.Document{Collection: things, ID: id, Parent: "q", Lookup: "m", Body: []byte("new")}
				revision, err := s.Put(t.Context(), doc, pre.make(left.Revision))
				if holds := pre.present && state.present || pre.otherwise && !state.present; holds {
					if err != nil {
						t.Fatal(err)
					}
					if state.name != "none" && revision <= left.Revision {
						t.Errorf("the new revision %d is not after %d", revision, left.Revision)
					}
					doc.Revision = revision
					s.has(t, doc)
					return
				}
				class(t, "Put", err, fault.Conflict)
				if state.present {
					s.has(t, left)
				} else {
					s.hasNot(t, id)
				}
			})
		}
	}
	// What was refused is in no listing of where it would have gone.
	for _, doc := range append(s.list(t, byParent("q")), s.list(t, byLookup("m"))...) {
		s.has(t, doc)
	}
}

func deletePreconditions(t *testing.T, s suite) {
	for _, state := range states {
		for _, pre := range preconditions {
			t.Run(pre.name+" on "+state.name, func(t *testing.T) {
				id := pre.name + "/" + state.name
				left := state.prepare(t, s, id)
				err := s.Delete(t.Context(), things, id, pre.make(left.Revision))
				switch {
				case !state.present:
					class(t, "Delete", err, fault.NotFound)
				case !pre.present:
					class(t, "Delete", err, fault.Conflict)
					s.has(t, left)
					return
				case err != nil:
					t.Fatal(err)
				}
				s.hasNot(t, id)
			})
		}
	}
}

func revisionsGrow(t *testing.T, s suite) {
	var last int64
	for range 50 {
		doc := s.put(t, store.Document{Collection: things, ID: "x", Body: []byte("1")}, store.Any())
		if doc.Revision <= last {
			t.Fatalf("revision %d follows %d", doc.Revision, last)
		}
		last = doc.Revision
		s.has(t, doc)
	}
}

func revisionsAfterDelete(t *testing.T, s suite) {
	var last int64
	for range 30 {
		// Two writes, so that one of them may have run ahead of the clock.
		s.put(t, store.Document{Collection: things, ID: "x"}, store.Absent())
		doc := s.put(t, store.Document{Collection: things, ID: "x"}, store.Any())
		if doc.Revision <= last {
			t.Fatalf("revision %d came after %d was deleted", doc.Revision, last)
		}
		last = doc.Revision
		s.delete(t, "x")
		class(t, "Put over a deleted revision", func() error {
			_, err := s.Put(t.Context(), store.Document{Collection: things, ID: "x"}, store.AtRevision(last))
			return err
		}(), fault.Conflict)
	}
}

// revisionsAreTimes is generous: a store may have its own clock.
func revisionsAreTimes(t *testing.T, s suite) {
	doc := s.put(t, store.Document{Collection: things, ID: "x"}, store.Any())
	if at := time.UnixMicro(doc.Revision); time.Since(at).Abs() > time.Hour {
		t.Errorf("the revision %d means %v", doc.Revision, at)
	}
}

func expiresInTime(t *testing.T, s suite) {
	doc := s.put(t, store.Document{Collection: things, ID: "x", Parent: "p", Expires: seconds(2 * time.Second), Body: []byte("1")}, store.Any())
	if _, err := s.Get(t.Context(), things, "x"); err != nil && time.Now().Before(doc.Expires) {
		t.Fatalf("gone before its time: %v", err)
	}
	// The slack is for a store with a clock of its own.
	for give := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := s.Get(t.Context(), things, "x")
		if fault.Of(err) == fault.NotFound {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if time.Now().After(give) {
			t.Fatal("still there long after it expired")
		}
	}
	s.lists(t, byParent("p"))
	class(t, "Delete", s.Delete(t.Context(), things, "x", store.Any()), fault.NotFound)
	again := s.put(t, store.Document{Collection: things, ID: "x", Parent: "p", Body: []byte("2")}, store.Absent())
	if again.Revision <= doc.Revision {
		t.Errorf("revision %d follows the expired %d", again.Revision, doc.Revision)
	}
	s.has(t, again)
}

func replaces(t *testing.T, s suite) {
	doc := s.put(t, store.Document{Collection: things, ID: "x", Parent: "p", Lookup: "l", Expires: seconds(time.Hour), Body: []byte("long body")}, store.Any())
	for _, next := range []store.Document{
		{Body: []byte("b")},
		{Parent: "p2", Body: nil},
		{Lookup: "l2", Expires: seconds(2 * time.Hour)},
		{Parent: "l2", Lookup: "p2", Body: []byte("other")},
	} {
		next.Collection, next.ID = things, "x"
		doc = s.put(t, next, store.AtRevision(doc.Revision))
		s.has(t, doc)
	}
	expired := doc
	expired.Expires = seconds(-time.Second)
	s.put(t, expired, store.AtRevision(doc.Revision))
	s.hasNot(t, "x")
}
