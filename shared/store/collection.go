package store

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Collection is one kind of record, typed: bodies are the JSON of T.
type Collection[T any] struct {
	store *Store
	name  string
}

// Record is a document whose body has been decoded.
type Record[T any] struct {
	ID       string
	Parent   string
	Lookup   string
	Revision int64
	Expires  time.Time
	Value    T
}

// NewCollection gives a typed view of the documents under name.
func NewCollection[T any](s *Store, name string) Collection[T] {
	return Collection[T]{store: s, name: name}
}

// Name is the collection's name, as it stands in documents and subjects.
func (c Collection[T]) Name() string { return c.name }

// Get returns one record, or an error of class NotFound.
func (c Collection[T]) Get(ctx context.Context, id string) (Record[T], error) {
	doc, err := c.store.Get(ctx, c.name, id)
	if err != nil {
		return Record[T]{}, err
	}
	return c.decode(doc)
}

// Put writes a record where the precondition holds and returns its revision.
func (c Collection[T]) Put(ctx context.Context, r Record[T], pre Precondition) (int64, error) {
	body, err := json.Marshal(r.Value)
	if err != nil {
		return 0, fmt.Errorf("put %s: %w", c.name, err)
	}
	return c.store.Put(ctx, Document{
		Collection: c.name, ID: r.ID, Parent: r.Parent, Lookup: r.Lookup,
		Expires: r.Expires, Body: body,
	}, pre)
}

// Delete removes one record where the precondition holds.
func (c Collection[T]) Delete(ctx context.Context, id string, pre Precondition) error {
	return c.store.Delete(ctx, c.name, id, pre)
}

// ByParent walks all records of a parent, page by page, in the order of their
// ids. It stops at the first error, which it yields.
func (c Collection[T]) ByParent(ctx context.Context, parent string) iter.Seq2[Record[T], error] {
	return c.walk(ctx, Query{Collection: c.name, Parent: parent})
}

// ByLookup walks all records of a look-up value likewise.
func (c Collection[T]) ByLookup(ctx context.Context, lookup string) iter.Seq2[Record[T], error] {
	return c.walk(ctx, Query{Collection: c.name, Lookup: lookup})
}

func (c Collection[T]) walk(ctx context.Context, q Query) iter.Seq2[Record[T], error] {
	return func(yield func(Record[T], error) bool) {
		for {
			page, err := c.store.List(ctx, q)
			if err != nil {
				yield(Record[T]{}, err)
				return
			}
			for _, doc := range page.Documents {
				record, err := c.decode(doc)
				if !yield(record, err) || err != nil {
					return
				}
			}
			if page.Next == "" {
				return
			}
			q.After = page.Next
		}
	}
}

func (c Collection[T]) decode(doc Document) (Record[T], error) {
	r := Record[T]{
		ID: doc.ID, Parent: doc.Parent, Lookup: doc.Lookup,
		Revision: doc.Revision, Expires: doc.Expires,
	}
	if err := json.Unmarshal(doc.Body, &r.Value); err != nil {
		// The text of a JSON error can quote the body, which may be secret.
		return Record[T]{}, fmt.Errorf("%w: the body of a document in %s is not the JSON of its kind", fault.Lost, c.name)
	}
	return r, nil
}
