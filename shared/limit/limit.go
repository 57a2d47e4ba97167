// Package limit counts what should not happen too often, in the store, so that
// the count is that of all instances together and survives their end.
//
// A count is of a window, which begins with the first thing counted and is
// forgotten when it ends. Instances count in memory and add what they have to
// the store in steps: a limit is met to within what the instances have not added
// yet. Each step is one read and one compare-and-swap a count, never repeated: if
// another instance was faster, or the store is down, what was to be added is added
// with the next step. What is over its limit is remembered until its window ends,
// and costs nothing.
//
// A limiter is asked after the fact, about somebody who has failed already or
// asks for more than anybody needs. It fails open: where the store does not
// answer, the memory of the instance decides.
package limit

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// timeout is what a step may cost the request that makes it.
const timeout = time.Second

// maxCounts bounds what an instance remembers, at some 200 bytes each.
const maxCounts = 20_000

// Rule is a limit on things of one kind.
type Rule struct {
	// Name is a word that no other rule over the same store has.
	Name string
	// Most is how many are allowed in a window.
	Most   int
	Window time.Duration
	// Step is how many an instance counts before it adds them to the store.
	Step int
}

// Of names what is counted under the rule: an address, an id.
func (r Rule) Of(what string) Subject { return Subject{r, what} }

// Subject is what is counted.
type Subject struct {
	rule Rule
	what string
}

func (s Subject) id() string { return s.rule.Name + "/" + s.what }

// window is a count as it is stored.
type window struct {
	Count int       `json:"count"`
	Until time.Time `json:"until"`
}

// Limiter counts. It is safe for concurrent use.
type Limiter struct {
	store   *store.Store
	windows store.Collection[window]
	logger  *slog.Logger
	now     func() time.Time

	mu sync.Mutex
	// Counts move from older to newer when they are used; when newer is full, it
	// becomes older, and what was there is forgotten.
	newer, older map[string]*count
}

// count is what an instance knows of a window.
type count struct {
	until time.Time
	// stored is what the store had, adding what is being added to it, and
	// waiting what is yet to be.
	stored, adding, waiting int
}

func (c *count) over(r Rule) bool { return c.stored+c.adding+c.waiting > r.Most }

// New makes a limiter over a store. A nil clock is time.Now.
func New(s *store.Store, logger *slog.Logger, now func() time.Time) *Limiter {
	if now == nil {
		now = time.Now
	}
	return &Limiter{
		store: s, windows: store.NewCollection[window](s, "limits"), logger: logger, now: now,
		newer: map[string]*count{},
	}
}

// Count counts one event under each of the subjects, and tells how long to wait
// where one of them is over its limit; otherwise 0. While one is, nothing is
// counted, read or written.
func (l *Limiter) Count(ctx context.Context, subjects ...Subject) time.Duration {
	now := l.now()
	steps := l.begin(now, subjects)
	if len(steps) > 0 {
		l.add(ctx, now, steps)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wait(now, subjects)
}

// step is what is to be added to one count of the store.
type step struct {
	Subject
	add int
}

// begin counts in memory, and gives what is to be added to the store: of each
// count one step at a time.
func (l *Limiter) begin(now time.Time, subjects []Subject) []step {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wait(now, subjects) > 0 {
		return nil
	}
	var steps []step
	for _, s := range subjects {
		c := l.count(now, s)
		c.waiting++
		if c.adding == 0 && (c.waiting >= s.rule.Step || c.over(s.rule)) {
			c.adding, c.waiting = c.waiting, 0
			steps = append(steps, step{s, c.adding})
		}
	}
	return steps
}

// wait tells until when the subjects are over a limit.
func (l *Limiter) wait(now time.Time, subjects []Subject) time.Duration {
	var longest time.Duration
	for _, s := range subjects {
		if c := l.count(now, s); c.over(s.rule) {
			longest = max(longest, c.until.Sub(now))
		}
	}
	return longest
}

// count gives what is known of the window of this moment.
func (l *Limiter) count(now time.Time, s Subject) *count {
	id := s.id()
	c, ok := l.newer[id]
	if !ok {
		if c, ok = l.older[id]; !ok {
			c = &count{}
		}
		if len(l.newer) >= maxCounts/2 {
			l.older, l.newer = l.newer, map[string]*count{}
		}
		l.newer[id] = c
	}
	if !now.Before(c.until) {
		*c = count{until: now.Add(s.rule.Window), adding: c.adding}
	}
	return c
}

// add makes the steps. Who hangs up is counted all the same.
func (l *Limiter) add(ctx context.Context, now time.Time, steps []step) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	found, err := l.read(ctx, steps)
	for _, s := range steps {
		known, failed := found[s.id()], err
		if failed == nil {
			known, failed = l.put(ctx, now, s, known)
		}
		if failed != nil && fault.Of(failed) != fault.Conflict {
			l.logger.WarnContext(ctx, "a limit could not be kept", slog.String("rule", s.rule.Name), slog.String("error", failed.Error()))
		}
		l.end(now, s, known.Value, failed == nil)
	}
}

// read gives the windows of the steps that there are, by id.
func (l *Limiter) read(ctx context.Context, steps []step) (map[string]store.Record[window], error) {
	keys := make([]store.Key, len(steps))
	for i, s := range steps {
		keys[i] = l.windows.Key(s.id())
	}
	docs, err := l.store.GetMany(ctx, keys)
	if err != nil {
		return nil, err
	}
	found := map[string]store.Record[window]{}
	for _, doc := range docs {
		record, err := l.windows.Decode(doc)
		if err != nil {
			// A count that is damaged begins anew.
			record = store.Record[window]{ID: doc.ID, Revision: doc.Revision}
		}
		found[doc.ID] = record
	}
	return found, nil
}

// put adds a step to the window that was read, or begins the next one. One that
// is over its limit is left as it is. It gives the window as it is now.
func (l *Limiter) put(ctx context.Context, now time.Time, s step, read store.Record[window]) (store.Record[window], error) {
	next := store.Record[window]{ID: s.id(), Value: window{Count: s.add, Until: now.Add(s.rule.Window).UTC()}}
	if now.Before(read.Value.Until) {
		if read.Value.Count > s.rule.Most {
			return read, nil
		}
		next.Value = window{Count: read.Value.Count + s.add, Until: read.Value.Until}
	}
	next.Expires = next.Value.Until
	pre := store.Absent()
	if read.Revision != 0 {
		pre = store.AtRevision(read.Revision)
	}
	if _, err := l.windows.Put(ctx, next, pre); err != nil {
		return read, err
	}
	return next, nil
}

// end takes over what a step found, or keeps it for the next one.
func (l *Limiter) end(now time.Time, s step, known window, added bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.count(now, s.Subject)
	c.adding = 0
	if now.Before(known.Until) {
		c.stored, c.until = known.Count, known.Until
	}
	if !added {
		c.waiting += s.add
	}
}
