//go:build unix

package sqlite_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/latchkey-fn/latchkey/providers/stores/sqlite"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

func mustOpen(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	storetest.RunShared(t, func(t *testing.T) func() store.Driver {
		path := filepath.Join(t.TempDir(), "store.db")
		return func() store.Driver { return mustOpen(t, path) }
	})
}

func open(path string) (store.Driver, error) { return sqlite.Open(context.Background(), path) }

func TestAcknowledgedWritesSurviveKills(t *testing.T) { storetest.Kill(t, open) }

func TestFullDisk(t *testing.T) { storetest.Full(t, open) }

func TestProcessesShareAStore(t *testing.T) { storetest.Processes(t, open) }

func BenchmarkGet(b *testing.B) {
	s := mustOpen(b, filepath.Join(b.TempDir(), "store.db"))
	defer s.Close()
	doc := store.Document{Collection: "user-keys", ID: "3b9f0f6e-5a0e-4f0d-9a4e-6f0d3c1b2a10", Body: make([]byte, 300)}
	if _, err := s.Put(b.Context(), doc, store.Any()); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	for b.Loop() {
		if _, err := s.Get(ctx, doc.Collection, doc.ID); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetMany(b *testing.B) {
	s := mustOpen(b, filepath.Join(b.TempDir(), "store.db"))
	defer s.Close()
	keys := make([]store.Key, store.MaxKeys)
	for i := range keys {
		keys[i] = store.Key{Collection: "secrets", ID: fmt.Sprintf("%08d-5a0e-4f0d-9a4e-6f0d3c1b2a10", i)}
		if _, err := s.Put(b.Context(), store.Document{Collection: keys[i].Collection, ID: keys[i].ID, Body: make([]byte, 300)}, store.Any()); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if found, err := s.GetMany(b.Context(), keys); err != nil || len(found) != len(keys) {
			b.Fatal(len(found), err)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	s := mustOpen(b, filepath.Join(b.TempDir(), "store.db"))
	defer s.Close()
	doc := store.Document{Collection: "user-keys", ID: "3b9f0f6e-5a0e-4f0d-9a4e-6f0d3c1b2a10", Body: make([]byte, 300)}
	for b.Loop() {
		if _, err := s.Put(b.Context(), doc, store.Any()); err != nil {
			b.Fatal(err)
		}
	}
}
