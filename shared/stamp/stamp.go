// Package stamp notes when things were last used, without a write for every use:
// at most once an hour and thing, for all instances together, and never at the
// cost of the use itself.
package stamp

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Every is how often at most the use of one thing is noted.
const Every = time.Hour

// timeout is what a note may cost the one use that makes it.
const timeout = 500 * time.Millisecond

// maxNoted bounds the memory of what was noted lately. Forgetting is harmless:
// the store refuses a second note within the hour.
const maxNoted = 10_000

// Book keeps the notes, which are of type T. It is safe for concurrent use.
type Book[T any] struct {
	notes  store.Collection[T]
	logger *slog.Logger

	mu    sync.Mutex
	noted map[string]time.Time
}

// NewBook keeps notes in a collection, under the ids of the things.
func NewBook[T any](notes store.Collection[T], logger *slog.Logger) *Book[T] {
	return &Book[T]{notes: notes, logger: logger, noted: map[string]time.Time{}}
}

// Note notes the use of a thing, unless that was done within the hour before
// now. It is one conditional write; that it failed stands in the log alone.
func (b *Book[T]) Note(ctx context.Context, id string, now time.Time, note T) {
	if !b.due(id, now) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := b.notes.Put(ctx, store.Record[T]{ID: id, Value: note}, store.Before(now.Add(-Every)))
	if err != nil && fault.Of(err) != fault.Conflict {
		b.logger.WarnContext(ctx, "the last use could not be noted",
			slog.String("in", b.notes.Name()), slog.String("id", id), slog.String("error", err.Error()))
	}
}

func (b *Book[T]) due(id string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if at, ok := b.noted[id]; ok && now.Sub(at) < Every {
		return false
	}
	if len(b.noted) >= maxNoted {
		clear(b.noted)
	}
	b.noted[id] = now
	return true
}
