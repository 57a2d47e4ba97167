package storetest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// The tests of GetMany.

// gives checks that GetMany gives exactly these documents, in this order.
func (s suite) gives(t *testing.T, keys []store.Key, want ...store.Document) {
	t.Helper()
	got, err := s.GetMany(t.Context(), keys)
	if err != nil {
		t.Errorf("GetMany of %d: %v", len(keys), err)
		return
	}
	if !slices.Equal(ids(got), ids(want)) {
		t.Errorf("GetMany of %d gave %q, want %q", len(keys), ids(got), ids(want))
		return
	}
	for i := range want {
		same(t, got[i], want[i])
	}
}

// keysOf are the keys of documents.
func keysOf(documents ...store.Document) []store.Key {
	var keys []store.Key
	for _, doc := range documents {
		keys = append(keys, store.Key{Collection: doc.Collection, ID: doc.ID})
	}
	return keys
}

func manyInOrder(t *testing.T, s suite) {
	full := s.put(t, store.Document{Collection: things, ID: "x", Parent: "p", Lookup: "l", Expires: seconds(time.Hour), Body: []byte("full")}, store.Absent())
	bare := s.put(t, store.Document{Collection: things, ID: "a"}, store.Absent())
	same := s.put(t, store.Document{Collection: thing, ID: "x", Parent: "p", Body: []byte("another x")}, store.Absent())
	other := s.put(t, store.Document{Collection: otherThings, ID: "b", Body: []byte("b")}, store.Absent())
	s.put(t, store.Document{Collection: things, ID: "expired", Expires: seconds(-time.Hour), Body: []byte("old")}, store.Absent())
	s.put(t, store.Document{Collection: things, ID: "deleted", Body: []byte("old")}, store.Absent())
	s.delete(t, "deleted")

	s.gives(t, keysOf(full), full)
	s.gives(t, keysOf(full, bare, same, other), full, bare, same, other)
	s.gives(t, keysOf(other, same, bare, full), other, same, bare, full)

	missing := []store.Key{
		{Collection: things, ID: "expired"}, {Collection: things, ID: "deleted"}, {Collection: things, ID: "never"},
		{Collection: otherThings, ID: "a"}, {Collection: thing, ID: "b"}, {Collection: "empty", ID: "x"},
	}
	s.gives(t, missing)
	s.gives(t, missing[:1])
	s.gives(t, slices.Concat(missing[:2], keysOf(same), missing[2:4], keysOf(bare), missing[4:], keysOf(full)), same, bare, full)

	changed := full
	changed.Parent, changed.Expires, changed.Body = "q", time.Time{}, []byte("changed")
	changed = s.put(t, changed, store.AtRevision(full.Revision))
	again := s.put(t, store.Document{Collection: things, ID: "expired", Body: []byte("again")}, store.Absent())
	s.gives(t, keysOf(again, changed), again, changed)
}

func manyOddNames(t *testing.T, s suite) {
	var stored []store.Document
	for i, name := range odd {
		doc := store.Document{Collection: things, ID: name, Body: []byte(name)}
		if i%2 == 0 {
			stored = append(stored, s.put(t, doc, store.Absent()))
		}
	}
	random := rand.New(rand.NewPCG(1, 1))
	for range 3 {
		random.Shuffle(len(stored), func(i, j int) { stored[i], stored[j] = stored[j], stored[i] })
		for some := range slices.Chunk(stored, store.MaxKeys) {
			s.gives(t, keysOf(some...), some...)
		}
	}
	// Of all names only every second is there.
	for some := range slices.Chunk(odd, store.MaxKeys) {
		var keys []store.Key
		var want []store.Document
		for _, name := range some {
			keys = append(keys, store.Key{Collection: things, ID: name})
			if i := slices.IndexFunc(stored, func(d store.Document) bool { return d.ID == name }); i >= 0 {
				want = append(want, stored[i])
			}
		}
		s.gives(t, keys, want...)
	}
}

// manyLarge is more than DynamoDB gives in one answer, which is 16 MB.
func manyLarge(t *testing.T, s suite) {
	count := store.MaxKeys
	if testing.Short() {
		count = 65
	}
	stored := make([]store.Document, count)
	together([]store.Driver{s.Driver}, count, func(i int, d store.Driver) {
		doc := store.Document{Collection: things, ID: fmt.Sprintf("%03d", i*37%count), Body: bytes.Repeat([]byte{'a' + byte(i%26)}, store.MaxBody)}
		revision, err := d.Put(t.Context(), doc, store.Absent())
		if err != nil {
			t.Errorf("Put %q: %v", doc.ID, err)
		}
		doc.Revision = revision
		stored[i] = doc
	})
	if !t.Failed() {
		s.gives(t, keysOf(stored...), stored...)
	}
}

func manyCopies(t *testing.T, s suite) {
	one := s.put(t, store.Document{Collection: things, ID: "1", Body: []byte("original")}, store.Any())
	two := s.put(t, store.Document{Collection: things, ID: "2", Body: []byte("original")}, store.Any())
	got, err := s.GetMany(t.Context(), keysOf(one, two))
	if err != nil || len(got) != 2 {
		t.Fatalf("GetMany gave %q: %v", ids(got), err)
	}
	_ = append(got[0].Body, "mutated!"...)
	copy(got[0].Body, "mutated!")
	same(t, got[1], two)
	s.gives(t, keysOf(one, two), one, two)
	s.has(t, one)
}

func manyConsistent(t *testing.T, s suite) {
	drivers := s.drivers()
	stored := make([]store.Document, 0, 40)
	for i := range cap(stored) {
		writer, reader := drivers[i%len(drivers)], suite{Driver: drivers[(i+1)%len(drivers)]}
		doc := store.Document{Collection: things, ID: fmt.Sprintf("%02d", i), Body: []byte("1")}
		if i%3 == 0 {
			doc.Parent = "p"
		}
		stored = append(stored, suite{Driver: writer}.put(t, doc, store.Absent()))
		reader.gives(t, keysOf(stored...), stored...)

		changed := stored[i/2]
		changed.Body = []byte(doc.ID)
		stored[i/2] = suite{Driver: writer}.put(t, changed, store.AtRevision(changed.Revision))
		reader.gives(t, keysOf(stored...), stored...)
	}
	for i, doc := range stored {
		writer, reader := drivers[i%len(drivers)], suite{Driver: drivers[(i+1)%len(drivers)]}
		suite{Driver: writer}.delete(t, doc.ID)
		reader.gives(t, keysOf(stored...), stored[i+1:]...)
	}
}

func manyEndedContext(t *testing.T, s suite) {
	doc := s.put(t, store.Document{Collection: things, ID: "x"}, store.Absent())
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, ctx := range []context.Context{canceled(t.Context()), late} {
		for _, keys := range [][]store.Key{keysOf(doc), {{Collection: things, ID: "none"}, {Collection: thing, ID: "none"}}} {
			got, err := s.GetMany(ctx, keys)
			class(t, "GetMany", err, fault.Transient)
			if got != nil {
				t.Errorf("GetMany gave %q with its error", ids(got))
			}
		}
	}
}
