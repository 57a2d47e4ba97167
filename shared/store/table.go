package store

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// PageBytes bounds the memory of a page: a driver ends one early, with a Next,
// rather than add a document that takes the bodies beyond it.
const PageBytes = 4 << 20

// Table is documents held in memory under the rules of Driver. It is the
// memory store, and what stores are made of that read everything at the start
// and write everything when something changes.
type Table struct {
	now func() time.Time

	updating sync.Mutex // held by Update from start to end
	mu       sync.RWMutex
	// documents also holds those that have expired, until sweep drops them: a
	// new document in their place goes on from their revision.
	documents map[Key]Document
	listings  map[listing][]string // ids in byte order
	unswept   int                  // changes since the last sweep
}

type listing struct {
	collection string
	by         property
	value      string
}

type property byte

const (
	byParent property = iota
	byLookup
)

var _ Driver = (*Table)(nil)

// NewTable makes an empty table.
func NewTable() *Table {
	return &Table{now: time.Now, documents: map[Key]Document{}, listings: map[listing][]string{}}
}

// Get returns one document.
func (t *Table) Get(ctx context.Context, collection, id string) (Document, error) {
	if err := ctx.Err(); err != nil {
		return Document{}, err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	doc, ok := t.documents[Key{collection, id}]
	if !ok || doc.expired(t.now()) {
		return Document{}, fault.NotFound
	}
	doc.Body = slices.Clone(doc.Body)
	return doc, nil
}

// GetMany returns those of the documents that exist.
func (t *Table) GetMany(ctx context.Context, keys []Key) ([]Document, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	var found []Document
	now := t.now()
	for _, k := range keys {
		if doc, ok := t.documents[k]; ok && !doc.expired(now) {
			doc.Body = slices.Clone(doc.Body)
			found = append(found, doc)
		}
	}
	return found, nil
}

// Put writes one document.
func (t *Table) Put(ctx context.Context, doc Document, pre Precondition) (revision int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	err = t.Update(func(b *Batch) error {
		revision, err = b.Put(doc, pre)
		return err
	})
	return revision, err
}

// Delete removes one document.
func (t *Table) Delete(ctx context.Context, collection, id string, pre Precondition) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return t.Update(func(b *Batch) error { return b.Delete(collection, id, pre) })
}

// List returns a page.
func (t *Table) List(ctx context.Context, q Query) (Page, error) {
	if err := ctx.Err(); err != nil {
		return Page{}, err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	at := listing{q.Collection, byParent, q.Parent}
	if q.Parent == "" {
		at = listing{q.Collection, byLookup, q.Lookup}
	}
	ids := t.listings[at]
	start, found := slices.BinarySearch(ids, q.After)
	if found {
		start++
	}
	var page Page
	now, size := t.now(), 0
	for _, id := range ids[start:] {
		doc := t.documents[Key{q.Collection, id}]
		if doc.expired(now) {
			continue
		}
		size += len(doc.Body)
		if n := len(page.Documents); n == q.Limit || n > 0 && size > PageBytes {
			page.Next = page.Documents[n-1].ID
			break
		}
		doc.Body = slices.Clone(doc.Body)
		page.Documents = append(page.Documents, doc)
	}
	return page, nil
}

// Close does nothing: a table holds memory only.
func (t *Table) Close() error { return nil }

// Update makes the changes of one batch visible together when change returns
// nil, and none of them when it returns an error, which Update returns. Reads
// go on meanwhile and see none of them; another Update waits.
func (t *Table) Update(change func(*Batch) error) error {
	t.updating.Lock()
	defer t.updating.Unlock()
	b := &Batch{table: t, changes: map[Key]*Document{}}
	if err := change(b); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for at, doc := range b.changes {
		t.set(at, doc)
	}
	t.sweep(len(b.changes))
	return nil
}

// set stores a document, or removes it where doc is nil. A listing that it stays
// in is left alone: taking it out and in again moves half of that twice.
func (t *Table) set(at Key, doc *Document) {
	var now Document
	if doc != nil {
		now = *doc
	}
	old := t.documents[at]
	t.relist(at, byParent, old.Parent, now.Parent)
	t.relist(at, byLookup, old.Lookup, now.Lookup)
	if doc == nil {
		delete(t.documents, at)
		return
	}
	t.documents[at] = now
}

func (t *Table) relist(at Key, by property, old, now string) {
	if old == now {
		return
	}
	t.unlist(listing{at.Collection, by, old}, at.ID)
	t.list(listing{at.Collection, by, now}, at.ID)
}

func (t *Table) list(at listing, id string) {
	if at.value == "" {
		return
	}
	ids := t.listings[at]
	if i, found := slices.BinarySearch(ids, id); !found {
		t.listings[at] = slices.Insert(ids, i, id)
	}
}

func (t *Table) unlist(at listing, id string) {
	ids := t.listings[at]
	i, found := slices.BinarySearch(ids, id)
	switch {
	case !found:
	case len(ids) == 1:
		delete(t.listings, at)
	default:
		t.listings[at] = slices.Delete(ids, i, i+1)
	}
}

// sweep drops expired documents once there were half as many changes as there
// are documents, so that its cost per change stays the same however many there
// are.
func (t *Table) sweep(changes int) {
	t.unswept += changes
	if t.unswept <= len(t.documents)/2 {
		return
	}
	t.unswept = 0
	now := t.now()
	for at, doc := range t.documents {
		if doc.forgettable(now) {
			t.set(at, nil)
		}
	}
}

// expired tells whether the document has ceased to exist.
func (d Document) expired(now time.Time) bool {
	return !d.Expires.IsZero() && !now.Before(d.Expires)
}

// forgettable tells whether nothing is needed of an expired document any more:
// a write in its place gets a larger revision from the clock alone.
func (d Document) forgettable(now time.Time) bool {
	return d.expired(now) && d.Revision < now.UnixMicro()
}

// Batch is changes to a Table that nobody sees yet. Each builds on those
// before it.
type Batch struct {
	table   *Table
	changes map[Key]*Document // nil: removed
}

// Put is Driver's.
func (b *Batch) Put(doc Document, pre Precondition) (int64, error) {
	at, now := Key{doc.Collection, doc.ID}, b.table.now()
	stored, _ := b.stored(at)
	if err := hold(pre, stored, now); err != nil {
		return 0, err
	}
	doc.Revision = NextRevision(stored.Revision, now)
	doc.Body = slices.Clone(doc.Body)
	b.changes[at] = &doc
	return doc.Revision, nil
}

// Delete is Driver's.
func (b *Batch) Delete(collection, id string, pre Precondition) error {
	at, now := Key{collection, id}, b.table.now()
	stored, ok := b.stored(at)
	if !ok || stored.expired(now) {
		return fault.NotFound
	}
	if err := hold(pre, stored, now); err != nil {
		return err
	}
	if stored.Revision < now.UnixMicro() {
		b.changes[at] = nil
		return nil
	}
	// The revision is ahead of the clock, and must not be given again. An
	// expired document keeps it until the clock has passed it.
	b.changes[at] = &Document{Collection: collection, ID: id, Revision: stored.Revision, Expires: time.Unix(0, 0)}
	return nil
}

// Restore adds a document as it was given by Documents, with its revision.
func (b *Batch) Restore(doc Document) error {
	if err := check(doc); err != nil {
		return err
	}
	if doc.Revision < 1 {
		return fmt.Errorf("%w: the revision %d is not positive", fault.Invalid, doc.Revision)
	}
	at := Key{doc.Collection, doc.ID}
	if _, ok := b.stored(at); ok {
		return fmt.Errorf("%w: a second document in %s with this id", fault.Invalid, doc.Collection)
	}
	b.changes[at] = &doc
	return nil
}

// Changed tells whether the batch holds any change.
func (b *Batch) Changed() bool { return len(b.changes) > 0 }

// Documents gives everything that has to be kept, the changes of the batch
// included, in the order of collections and ids. Bodies are not copied and
// must not be changed.
func (b *Batch) Documents() iter.Seq[Document] {
	return func(yield func(Document) bool) {
		var keys []Key
		for at := range b.table.documents {
			if _, changed := b.changes[at]; !changed {
				keys = append(keys, at)
			}
		}
		for at := range b.changes {
			keys = append(keys, at)
		}
		slices.SortFunc(keys, func(x, y Key) int {
			return cmp.Or(cmp.Compare(x.Collection, y.Collection), cmp.Compare(x.ID, y.ID))
		})
		now := b.table.now()
		for _, at := range keys {
			doc, ok := b.stored(at)
			if ok && !doc.forgettable(now) && !yield(doc) {
				return
			}
		}
	}
}

// stored gives what is at a key now, expired or not. Only Update changes the
// table, so that it can be read here without its lock.
func (b *Batch) stored(at Key) (Document, bool) {
	if doc, changed := b.changes[at]; changed {
		if doc == nil {
			return Document{}, false
		}
		return *doc, true
	}
	doc, ok := b.table.documents[at]
	return doc, ok
}

func hold(pre Precondition, stored Document, now time.Time) error {
	current := stored.Revision
	if stored.expired(now) {
		current = 0
	}
	switch {
	case pre.Holds(current):
		return nil
	case current == 0:
		return fmt.Errorf("%w: there is no document", fault.Conflict)
	default:
		return fmt.Errorf("%w: the document is at revision %d", fault.Conflict, current)
	}
}
