package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"

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

// Key names a record of this collection for Store.GetMany.
func (c Collection[T]) Key(id string) Key { return Key{c.name, id} }

// Decode reads a document that Store.GetMany gave.
func (c Collection[T]) Decode(doc Document) (Record[T], error) { return c.decode(doc) }

// GetMany walks those of the records that exist, in the order of the ids, which
// are different from one another and any number. It stops at the first error,
// which it yields.
func (c Collection[T]) GetMany(ctx context.Context, ids []string) iter.Seq2[Record[T], error] {
	return func(yield func(Record[T], error) bool) {
		for chunk := range slices.Chunk(ids, MaxKeys) {
			keys := make([]Key, len(chunk))
			for i, id := range chunk {
				keys[i] = c.Key(id)
			}
			docs, err := c.store.GetMany(ctx, keys)
			if err != nil {
				yield(Record[T]{}, err)
				return
			}
			for _, doc := range docs {
				record, err := c.decode(doc)
				if !yield(record, err) || err != nil {
					return
				}
			}
		}
	}
}

// Update reads a record, lets change alter it, and writes it back, again from
// the start for as long as somebody else's write comes between the two. An
// error of change ends it, and is returned as it is, whatever its class;
// ErrUnchanged ends it well.
func (c Collection[T]) Update(ctx context.Context, id string, change func(*Record[T]) error) (Record[T], error) {
	var record Record[T]
	var ended error // by change
	err := Retry(ctx, func() (err error) {
		if record, err = c.Get(ctx, id); err != nil {
			return err
		}
		if ended = change(&record); ended != nil {
			return nil
		}
		record.Revision, err = c.Put(ctx, record, AtRevision(record.Revision))
		return err
	})
	switch {
	case err != nil:
		return Record[T]{}, err
	case errors.Is(ended, ErrUnchanged):
		return record, nil
	default:
		return record, ended
	}
}

// ErrUnchanged is what the change of Update returns where there is nothing to
// write.
var ErrUnchanged = errors.New("unchanged")

// Retry repeats a read-and-write for as long as somebody else's write comes
// between the two, until ctx ends.
func Retry(ctx context.Context, try func() error) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = time.Millisecond, 100*time.Millisecond
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		if last = try(); last != nil && fault.Of(last) != fault.Conflict {
			return struct{}{}, backoff.Permanent(last)
		}
		return struct{}{}, last
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(0))
	if err != nil && fault.Of(last) == fault.Conflict {
		return fmt.Errorf("%w: others kept writing the same record: %w", fault.Transient, err)
	}
	return err
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
