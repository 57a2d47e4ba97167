package sponsor_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// mortal is a process's way to the world, which ends when the process is killed:
// from then on nothing is written and nothing is sent.
type mortal struct {
	store.Driver

	mu sync.Mutex
	// left is how many steps it has to live; 0 is without end. With after it dies
	// when the last of them is done, and otherwise in its place.
	left  int
	after bool
	dead  bool
	steps int
	// hook is called before the step of that number.
	hookAt int
	hook   func()
	// onPut is called after each write.
	onPut func(store.Document)
}

var errDead = fmt.Errorf("%w: the process is dead", fault.Transient)

// kill makes it die at a step.
func (m *mortal) kill(step int, after bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left, m.after, m.dead, m.steps = step, after, false, 0
}

// revive is the next process. It tells whether the last one had died.
func (m *mortal) revive() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	died := m.dead
	m.left, m.dead, m.steps, m.hookAt = 0, false, 0, 0
	return died
}

// interrupt calls a function before a step.
func (m *mortal) interrupt(step int, hook func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps, m.hookAt, m.hook = 0, step, hook
}

// whenPut calls a function once, after a write into a collection of a body that
// holds a text.
func (m *mortal) whenPut(collection, text string, call func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onPut = func(d store.Document) {
		if d.Collection != collection || !strings.Contains(string(d.Body), text) {
			return
		}
		m.mu.Lock()
		m.onPut = nil
		m.mu.Unlock()
		call()
	}
}

// die ends the process now.
func (m *mortal) die() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = true
}

func (m *mortal) step(do func() error) error {
	m.mu.Lock()
	if m.dead {
		m.mu.Unlock()
		return errDead
	}
	m.steps++
	var hook func()
	if m.steps == m.hookAt {
		m.hookAt, hook = 0, m.hook
	}
	last := m.left > 0 && m.steps >= m.left
	if last {
		m.dead = true
	}
	after := m.after
	m.mu.Unlock()
	if hook != nil {
		hook()
	}
	if last && !after {
		return errDead
	}
	if err := do(); err != nil {
		return err
	}
	if last {
		return errDead
	}
	return nil
}

func (m *mortal) Get(ctx context.Context, collection, id string) (doc store.Document, err error) {
	err = m.step(func() (err error) { doc, err = m.Driver.Get(ctx, collection, id); return err })
	return doc, err
}

func (m *mortal) GetMany(ctx context.Context, keys []store.Key) (docs []store.Document, err error) {
	err = m.step(func() (err error) { docs, err = m.Driver.GetMany(ctx, keys); return err })
	return docs, err
}

func (m *mortal) Put(ctx context.Context, doc store.Document, pre store.Precondition) (revision int64, err error) {
	err = m.step(func() (err error) { revision, err = m.Driver.Put(ctx, doc, pre); return err })
	m.mu.Lock()
	onPut := m.onPut
	m.mu.Unlock()
	if err == nil && onPut != nil {
		onPut(doc)
	}
	return revision, err
}

func (m *mortal) Delete(ctx context.Context, collection, id string, pre store.Precondition) error {
	return m.step(func() error { return m.Driver.Delete(ctx, collection, id, pre) })
}

func (m *mortal) List(ctx context.Context, q store.Query) (page store.Page, err error) {
	err = m.step(func() (err error) { page, err = m.Driver.List(ctx, q); return err })
	return page, err
}

// tap is the way to the cloud. Functions can be called before a sync is sent and
// after it was answered.
type tap struct {
	next   http.RoundTripper
	mortal *mortal
	clock  *cloudtest.Clock

	mu            sync.Mutex
	before, after func()
	// tokens are those that were sent.
	tokens map[string]bool
}

func (t *tap) set(before, after func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.before, t.after = before, after
}

func (t *tap) RoundTrip(r *http.Request) (answer *http.Response, err error) {
	t.mu.Lock()
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		if t.tokens == nil {
			t.tokens = map[string]bool{}
		}
		t.tokens[token] = true
	}
	before, after := t.before, t.after
	if !strings.HasSuffix(r.URL.Path, "/sync") {
		before, after = nil, nil
	}
	t.mu.Unlock()
	if before != nil {
		before()
	}
	began := t.clock.Now()
	err = t.mortal.step(func() (err error) {
		// Who stood still for longer than a request may take does not send it.
		if deadline, ok := r.Context().Deadline(); ok && t.clock.Now().Sub(began) > time.Until(deadline) {
			return context.DeadlineExceeded
		}
		answer, err = t.next.RoundTrip(r)
		return err
	})
	if after != nil {
		after()
	}
	if errors.Is(err, errDead) && answer != nil {
		_ = answer.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	return answer, nil
}
