// Package memory keeps documents in the memory of one process, for tests and
// for trying things out. Nothing of it outlives the process.
package memory

import "github.com/latchkey-fn/latchkey/shared/store"

// Store is a store.Driver in memory.
type Store struct{ *store.Table }

var _ store.Driver = (*Store)(nil)

// New makes an empty store.
func New() *Store { return &Store{Table: store.NewTable()} }
