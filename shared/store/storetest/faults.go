package storetest

import (
	"context"
	"fmt"
	"sync"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Method names a call of a driver.
type Method string

// The methods that Faults counts and disturbs.
const (
	Get     Method = "Get"
	GetMany Method = "GetMany"
	Put     Method = "Put"
	Delete  Method = "Delete"
	List    Method = "List"
)

// When says at which moment a call fails.
type When int

const (
	// Before fails the call without making it.
	Before When = iota
	// After makes the call and then fails: an acknowledgement that was lost.
	After
	// Hang makes no call, and fails when the context ends.
	Hang
)

// Fault is one failure, used up by the call it disturbs.
type Fault struct {
	// Method is the call to disturb; empty: any.
	Method Method
	// Collection is the one whose call is disturbed (of GetMany: that of the
	// first key); empty: any.
	Collection string
	// Skip is how many such calls pass first.
	Skip int
	// When is the moment of failure.
	When When
	// Err is what the call returns; nil: an error of class Transient.
	Err error
}

// Faults is a driver that fails when it is told to, and counts its calls.
type Faults struct {
	driver store.Driver

	mu      sync.Mutex
	pending []Fault
	calls   map[Method]int
}

var _ store.Driver = (*Faults)(nil)

// NewFaults wraps a driver.
func NewFaults(driver store.Driver) *Faults {
	return &Faults{driver: driver, calls: map[Method]int{}}
}

// Inject adds failures. A call meets the first of those pending that matches
// it and has nothing left to skip.
func (f *Faults) Inject(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = append(f.pending, faults...)
}

// Pending tells how many failures no call has met yet.
func (f *Faults) Pending() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pending)
}

// Calls tells how many calls of these methods were made since the start or
// the last Reset, failed ones included; without a method, of all.
func (f *Faults) Calls(methods ...Method) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(methods) == 0 {
		methods = []Method{Get, GetMany, Put, Delete, List}
	}
	total := 0
	for _, method := range methods {
		total += f.calls[method]
	}
	return total
}

// Reset forgets pending failures and counts.
func (f *Faults) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = nil
	clear(f.calls)
}

// meet counts a call and gives the failure it meets, if any.
func (f *Faults) meet(method Method, collection string) (Fault, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[method]++
	for i := range f.pending {
		fault := &f.pending[i]
		switch {
		case fault.Method != "" && fault.Method != method, fault.Collection != "" && fault.Collection != collection:
		case fault.Skip > 0:
			fault.Skip--
		default:
			met := *fault
			f.pending = append(f.pending[:i], f.pending[i+1:]...)
			return met, true
		}
	}
	return Fault{}, false
}

// disturb makes a call, or not, as the failure it meets wants it.
func (f *Faults) disturb(ctx context.Context, method Method, collection string, call func() error) error {
	met, ok := f.meet(method, collection)
	if !ok {
		return call()
	}
	if met.Err == nil {
		met.Err = fmt.Errorf("%w: an injected failure of %s", fault.Transient, method)
	}
	switch met.When {
	case After:
		if err := call(); err != nil {
			return err
		}
	case Hang:
		<-ctx.Done()
		return fmt.Errorf("%s hung: %w", method, ctx.Err())
	}
	return met.Err
}

// Get is the driver's, disturbed.
func (f *Faults) Get(ctx context.Context, collection, id string) (doc store.Document, err error) {
	err = f.disturb(ctx, Get, collection, func() (err error) {
		doc, err = f.driver.Get(ctx, collection, id)
		return err
	})
	if err != nil {
		return store.Document{}, err
	}
	return doc, nil
}

// GetMany is the driver's, disturbed.
func (f *Faults) GetMany(ctx context.Context, keys []store.Key) (docs []store.Document, err error) {
	err = f.disturb(ctx, GetMany, keys[0].Collection, func() (err error) {
		docs, err = f.driver.GetMany(ctx, keys)
		return err
	})
	if err != nil {
		return nil, err
	}
	return docs, nil
}

// Put is the driver's, disturbed.
func (f *Faults) Put(ctx context.Context, doc store.Document, pre store.Precondition) (revision int64, err error) {
	err = f.disturb(ctx, Put, doc.Collection, func() (err error) {
		revision, err = f.driver.Put(ctx, doc, pre)
		return err
	})
	if err != nil {
		return 0, err
	}
	return revision, nil
}

// Delete is the driver's, disturbed.
func (f *Faults) Delete(ctx context.Context, collection, id string, pre store.Precondition) error {
	return f.disturb(ctx, Delete, collection, func() error {
		return f.driver.Delete(ctx, collection, id, pre)
	})
}

// List is the driver's, disturbed.
func (f *Faults) List(ctx context.Context, q store.Query) (page store.Page, err error) {
	err = f.disturb(ctx, List, q.Collection, func() (err error) {
		page, err = f.driver.List(ctx, q)
		return err
	})
	if err != nil {
		return store.Page{}, err
	}
	return page, nil
}

// Close closes the driver.
func (f *Faults) Close() error { return f.driver.Close() }
