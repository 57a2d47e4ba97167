package memory_test

import (
	"testing"

	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Driver { return memory.New() })
}

func TestStoresShareNothing(t *testing.T) {
	first, second := memory.New(), memory.New()
	doc := store.Document{Collection: "things", ID: "x"}
	if _, err := first.Put(t.Context(), doc, store.Absent()); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Put(t.Context(), doc, store.Absent()); err != nil {
		t.Errorf("the second store knows of the first: %v", err)
	}
}
