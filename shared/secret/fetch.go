package secret

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// What requests read of many things: always heads, and always several calls of
// the store side by side.

// each does work for every item, atOnce of them at a time, and gives the first
// error.
func each[T any](ctx context.Context, items []T, work func(context.Context, T) error) error {
	return eachOf(ctx, atOnce, items, work)
}

func eachOf[T any](ctx context.Context, atOnce int, items []T, work func(context.Context, T) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, item := range items {
		group.Go(func() error { return work(ctx, item) })
	}
	return group.Wait()
}

// found is records by id, gathered by several goroutines.
type found[T any] struct {
	mu      sync.Mutex
	records map[string]store.Record[T]
}

func newFound[T any]() *found[T] { return &found[T]{records: map[string]store.Record[T]{}} }

func (f *found[T]) add(record store.Record[T]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.records[record.ID] = record
}

// added adds a record that was created, which somebody else may have done
// first.
func (f *found[T]) added(record store.Record[T], err error) error {
	switch {
	case err == nil:
		f.add(record)
	case fault.Of(err) == fault.Conflict:
		return nil
	}
	return err
}

// fetch adds those of the records that exist.
func (f *found[T]) fetch(ctx context.Context, c store.Collection[T], ids []string) error {
	return each(ctx, slices.Collect(slices.Chunk(ids, store.MaxKeys)), func(ctx context.Context, chunk []string) error {
		for record, err := range c.GetMany(ctx, chunk) {
			if err != nil {
				return err
			}
			f.add(record)
		}
		return nil
	})
}

// projectsOf gives the projects of these heads, by id, besides those that are
// known already. One that is gone is left out.
func (s *Secrets) projectsOf(ctx context.Context, heads []store.Record[Head], known map[string]store.Record[Project]) (map[string]store.Record[Project], error) {
	missing := map[string]bool{}
	for _, head := range heads {
		if _, ok := known[head.Lookup]; !ok && head.Lookup != "" {
			missing[head.Lookup] = true
		}
	}
	all := newFound[Project]()
	maps.Copy(all.records, known)
	if err := all.fetch(ctx, s.projects, slices.Collect(maps.Keys(missing))); err != nil {
		return nil, fmt.Errorf("projects of secrets: %w", err)
	}
	return all.records, nil
}
