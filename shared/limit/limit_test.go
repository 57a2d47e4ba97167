package limit

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

var rule = Rule{Name: "tries", Most: 5, Window: 10 * time.Minute, Step: 1}

type surroundings struct {
	driver *storetest.Faults
	mu     sync.Mutex
	clock  time.Time
}

func newSurroundings() *surroundings {
	// A store forgets what has expired by its own clock, so windows are of now.
	return &surroundings{driver: storetest.NewFaults(store.NewTable()), clock: time.Now()}
}

func (s *surroundings) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clock
}

func (s *surroundings) wait(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = s.clock.Add(d)
}

func (s *surroundings) instance() *Limiter {
	return New(store.New(s.driver), slog.New(slog.DiscardHandler), s.now)
}

// allowed tells how many of so many tries were.
func allowed(t *testing.T, l *Limiter, tries int, subjects ...Subject) (n int) {
	t.Helper()
	for range tries {
		if l.Count(t.Context(), subjects...) == 0 {
			n++
		}
	}
	return n
}

func TestALimitHoldsForItsWindow(t *testing.T) {
	s := newSurroundings()
	l := s.instance()
	if n := allowed(t, l, 20, rule.Of("a")); n != rule.Most {
		t.Errorf("%d tries were allowed, want %d", n, rule.Most)
	}
	if n := allowed(t, l, 20, rule.Of("b")); n != rule.Most {
		t.Errorf("somebody else was allowed %d tries", n)
	}
	s.wait(4 * time.Minute)
	if wait := l.Count(t.Context(), rule.Of("a")); wait != 6*time.Minute {
		t.Errorf("four minutes later there are %s to wait", wait)
	}
	s.wait(6 * time.Minute)
	if n := allowed(t, l, 20, rule.Of("a")); n != rule.Most {
		t.Errorf("in the next window %d tries were allowed", n)
	}
}

func TestALimitSurvivesAColdStart(t *testing.T) {
	s := newSurroundings()
	allowed(t, s.instance(), rule.Most-1, rule.Of("a"))
	if n := allowed(t, s.instance(), 1, rule.Of("a")); n != 1 {
		t.Error("the last of the tries was refused")
	}
	if n := allowed(t, s.instance(), 10, rule.Of("a")); n != 0 {
		t.Errorf("a new instance allowed %d tries", n)
	}
}

func TestOverTheLimitNothingIsReadOrWritten(t *testing.T) {
	s := newSurroundings()
	l := s.instance()
	allowed(t, l, rule.Most+1, rule.Of("a"))
	s.driver.Reset()
	allowed(t, l, 100, rule.Of("a"))
	allowed(t, l, 100, rule.Of("a"), rule.Of("b")) // nor of who comes along
	if n := s.driver.Calls(); n != 0 {
		t.Errorf("100 tries over the limit cost %d storage calls", n)
	}
	// An instance that does not know yet asks once, and writes nothing.
	allowed(t, s.instance(), 100, rule.Of("a"))
	if reads, all := s.driver.Calls(storetest.GetMany), s.driver.Calls(); reads != 1 || all != 1 {
		t.Errorf("to a new instance they cost %d reads of %d calls", reads, all)
	}
}

func TestATryCostsOneReadAndOneWriteASubject(t *testing.T) {
	s := newSurroundings()
	l := s.instance()
	allowed(t, l, 1, rule.Of("a"), rule.Of("b"))
	if reads, writes, all := s.driver.Calls(storetest.GetMany), s.driver.Calls(storetest.Put), s.driver.Calls(); reads != 1 || writes != 2 || all != 3 {
		t.Errorf("%d reads, %d writes, %d calls", reads, writes, all)
	}
}

func TestCountingInStepsWritesOnceAStep(t *testing.T) {
	s := newSurroundings()
	l := s.instance()
	generous := Rule{Name: "uses", Most: 100, Window: time.Minute, Step: 20}
	if n := allowed(t, l, 19, generous.Of("a")); n != 19 || s.driver.Calls() != 0 {
		t.Errorf("%d were allowed at %d storage calls", n, s.driver.Calls())
	}
	if n := allowed(t, l, 200, generous.Of("a")); n != 81 {
		t.Errorf("%d more were allowed, want 81", n)
	}
	if n := s.driver.Calls(storetest.Put); n != 6 {
		t.Errorf("they cost %d writes, want 5 steps and the last", n)
	}
}

func TestManyInstancesKeepOneLimit(t *testing.T) {
	const instances, most = 20, 200
	s := newSurroundings()
	wide := Rule{Name: "wide", Most: most, Window: time.Minute, Step: 1}
	var mu sync.Mutex
	total := 0
	var wait sync.WaitGroup
	for range instances {
		wait.Go(func() {
			l := s.instance()
			n := allowed(t, l, most, wide.Of("a"))
			mu.Lock()
			defer mu.Unlock()
			total += n
		})
	}
	wait.Wait()
	// What an instance could not add yet is not known to the others.
	if total < most || total > 2*most {
		t.Errorf("%d tries were allowed by %d instances together, at a limit of %d", total, instances, most)
	}
	if n := allowed(t, s.instance(), 10, wide.Of("a")); n != 0 {
		t.Errorf("afterwards %d more were", n)
	}
}

func TestOneInstanceIsExactHoweverManyAskAtOnce(t *testing.T) {
	s := newSurroundings()
	l := s.instance()
	var mu sync.Mutex
	total := 0
	var wait sync.WaitGroup
	for range 100 {
		wait.Go(func() {
			n := allowed(t, l, 10, rule.Of("a"))
			mu.Lock()
			defer mu.Unlock()
			total += n
		})
	}
	wait.Wait()
	if total > rule.Most {
		t.Errorf("%d tries were allowed, want %d", total, rule.Most)
	}
}

func TestAConflictIsNotFoughtOut(t *testing.T) {
	s := newSurroundings()
	l := s.instance()
	s.driver.Inject(storetest.Fault{Method: storetest.Put, Err: fault.Conflict})
	allowed(t, l, 1, rule.Of("a"))
	if n := s.driver.Calls(); n != 2 {
		t.Errorf("a conflict cost %d calls", n)
	}
	// What was to be added is added with the next.
	allowed(t, l, 1, rule.Of("a"))
	if n := allowed(t, s.instance(), 20, rule.Of("a")); n != rule.Most-2 {
		t.Errorf("another instance allowed %d, want %d", n, rule.Most-2)
	}
}

func TestAStoreThatIsDownLeavesTheMemory(t *testing.T) {
	for _, broken := range []storetest.Fault{{}, {When: storetest.Hang}, {Err: fault.Denied}, {Method: storetest.Put, When: storetest.After}} {
		s := newSurroundings()
		l := s.instance()
		s.driver.Inject(broken)
		if n := allowed(t, l, 20, rule.Of("a")); n != rule.Most && n != rule.Most-1 {
			t.Errorf("%d tries were allowed, want %d", n, rule.Most)
		}
		if s.driver.Pending() != 0 {
			t.Error("the fault was not met")
		}
	}
}

func TestWhoHangsUpIsCounted(t *testing.T) {
	s := newSurroundings()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	l := s.instance()
	for range rule.Most {
		l.Count(gone, rule.Of("a"))
	}
	if n := allowed(t, s.instance(), 10, rule.Of("a")); n != 0 {
		t.Errorf("%d more tries were allowed", n)
	}
}

func TestADamagedCountBeginsAnew(t *testing.T) {
	s := newSurroundings()
	id := rule.Of("a").id()
	if _, err := s.driver.Put(t.Context(), store.Document{Collection: "limits", ID: id, Body: []byte("{")}, store.Absent()); err != nil {
		t.Fatal(err)
	}
	if n := allowed(t, s.instance(), 20, rule.Of("a")); n != rule.Most {
		t.Errorf("%d tries were allowed", n)
	}
	if n := allowed(t, s.instance(), 20, rule.Of("a")); n != 0 {
		t.Errorf("then %d", n)
	}
}

func TestCountsExpireInTheStore(t *testing.T) {
	s := newSurroundings()
	allowed(t, s.instance(), 1, rule.Of("a"))
	doc, err := s.driver.Get(t.Context(), "limits", rule.Of("a").id())
	if err != nil {
		t.Fatal(err)
	}
	if doc.Parent != "" || doc.Expires.IsZero() || doc.Expires.After(s.now().Add(rule.Window)) {
		t.Errorf("%+v", doc)
	}
}

func TestTheMemoryIsBoundedAndKeepsWhoGoesOn(t *testing.T) {
	s := newSurroundings()
	l := s.instance()
	allowed(t, l, rule.Most+1, rule.Of("a"))
	patient := Rule{Name: "patient", Most: 10, Window: time.Minute, Step: 10}
	for i := range 3 * maxCounts {
		l.Count(t.Context(), patient.Of(fmt.Sprint(i)))
		if i%100 == 0 && l.Count(t.Context(), rule.Of("a")) == 0 {
			t.Fatal("who is over the limit was forgotten")
		}
		if n := len(l.newer) + len(l.older); n > maxCounts {
			t.Fatalf("%d counts are kept", n)
		}
	}
}
