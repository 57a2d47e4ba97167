package billingsync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// script answers as it is told to, and remembers what it was asked.
type script struct {
	reports []sponsor.TickReport
	errs    []error
	asked   []string
}

func (s *script) next() (sponsor.TickReport, error) {
	n := len(s.asked) - 1
	var report sponsor.TickReport
	var err error
	if n < len(s.reports) {
		report = s.reports[n]
	}
	if n < len(s.errs) {
		err = s.errs[n]
	}
	return report, err
}

func (s *script) Tick(_ context.Context, tick sponsor.Tick) (sponsor.TickReport, error) {
	s.asked = append(s.asked, tick.ID)
	return s.next()
}

func (s *script) Run(_ context.Context, organization string) (sponsor.Run, error) {
	s.asked = append(s.asked, organization)
	_, err := s.next()
	return sponsor.Run{}, err
}

func scripted(s *script, c *cloudtest.Clock) *Function {
	return newFunction(s, Config{Billing: config.Billing{RequestTimeout: time.Minute}}, Parts{Now: c.Now, Waiter: c})
}

func left(in time.Duration) sponsor.TickReport {
	return sponsor.TickReport{Connections: 2, Left: 1, Next: cloudtest.Epoch.Add(in)}
}

func TestATickGoesOnForAsLongAsThereIsTime(t *testing.T) {
	for name, c := range map[string]struct {
		reports []sponsor.TickReport
		time    time.Duration // 0: no deadline
		calls   int
		waits   []time.Duration
	}{
		"nothing is left":                      {[]sponsor.TickReport{{}}, time.Hour, 1, nil},
		"what is left is somebody else's":      {[]sponsor.TickReport{{Left: 1}}, time.Hour, 1, nil},
		"what is left can go on at once":       {[]sponsor.TickReport{left(0), {}}, time.Hour, 2, []time.Duration{time.Second}},
		"what is left goes on in two minutes":  {[]sponsor.TickReport{left(2 * time.Minute), left(3 * time.Minute), {}}, time.Hour, 3, []time.Duration{2 * time.Minute, time.Minute}},
		"it goes on after the deadline":        {[]sponsor.TickReport{left(2 * time.Minute)}, 2 * time.Minute, 1, nil},
		"there is no time for a request after": {[]sponsor.TickReport{left(2 * time.Minute)}, 3 * time.Minute, 1, nil},
		"there is just time for a request":     {[]sponsor.TickReport{left(2 * time.Minute), {}}, 3*time.Minute + 15*time.Second, 2, []time.Duration{2 * time.Minute}},
		"there is no deadline":                 {[]sponsor.TickReport{left(9 * time.Hour), {}}, 0, 2, []time.Duration{9 * time.Hour}},
	} {
		t.Run(name, func(t *testing.T) {
			clock, s := cloudtest.NewClock(), &script{reports: c.reports}
			ctx := t.Context()
			if c.time > 0 {
				ctx = clock.Within(t, c.time)
			}
			if err := scripted(s, clock).Run(ctx, Tick{At: cloudtest.Epoch, ID: "one"}); err != nil {
				t.Fatal(err)
			}
			if len(s.asked) != c.calls || slices.ContainsFunc(s.asked, func(id string) bool { return id != "one" }) || !slices.Equal(clock.Waits(), c.waits) {
				t.Errorf("asked %q, waited %v", s.asked, clock.Waits())
			}
		})
	}
}

func TestAFailedRunIsAFailedCall(t *testing.T) {
	failed := &sponsor.Failure{Code: "key_invalid", Message: "Invalid Billing Sync Key", Class: fault.Invalid}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx   context.Context
		err   error
		fails bool
	}{
		"a run failed":                          {t.Context(), errors.Join(errors.New("other"), failed), true},
		"the store is down":                     {t.Context(), fault.Transient, true},
		"the time is over":                      {over, fmt.Errorf("list: %w", context.DeadlineExceeded), false},
		"a run failed before the time was over": {over, errors.Join(context.DeadlineExceeded, failed), true},
	} {
		t.Run(name, func(t *testing.T) {
			for what, call := range map[string]func(*Function) error{
				"tick": func(f *Function) error { return f.Run(c.ctx, Tick{ID: "one"}) },
				"kick": func(f *Function) error { return f.Sync(c.ctx, cloudtest.Organization) },
			} {
				s := &script{errs: []error{c.err}}
				err := call(scripted(s, cloudtest.NewClock()))
				if (err != nil) != c.fails || err != nil && !errors.Is(err, c.err) || len(s.asked) != 1 {
					t.Errorf("%s: %v, asked %q", what, err, s.asked)
				}
			}
		})
	}
}

func TestAKickGoesOnForAsLongAsThereIsTime(t *testing.T) {
	later := &sponsor.ContinueError{NotBefore: cloudtest.Epoch.Add(2 * time.Minute)}
	for name, c := range map[string]struct {
		errs  []error
		time  time.Duration
		calls int
	}{
		"it is through":                 {nil, time.Hour, 1},
		"somebody tries a key":          {[]error{&sponsor.BusyError{}, &sponsor.BusyError{}}, time.Hour, 3},
		"somebody else does it":         {slices.Repeat([]error{&sponsor.BusyError{}}, 100), time.Hour, 41},
		"there is no time to look":      {[]error{&sponsor.BusyError{}}, 76 * time.Second, 1},
		"somebody else took it over":    {[]error{fmt.Errorf("run: %w", sponsor.ErrFenced)}, time.Hour, 1},
		"it goes on in two minutes":     {[]error{later}, time.Hour, 2},
		"there is no time for the rest": {[]error{later}, 3 * time.Minute, 1},
	} {
		t.Run(name, func(t *testing.T) {
			clock, s := cloudtest.NewClock(), &script{errs: c.errs}
			if err := scripted(s, clock).Sync(clock.Within(t, c.time), cloudtest.Organization); err != nil || len(s.asked) != c.calls {
				t.Errorf("%v, asked %q", err, s.asked)
			}
		})
	}
}

// world is one whose runs the function does.
type world struct {
	*cloudtest.World
	driver   *storetest.Faults
	function *Function
}

func newWorld(t *testing.T, options ...cloudtest.Option) *world {
	t.Helper()
	w := &world{World: cloudtest.NewWorld(t, options...)}
	w.Connect()
	w.driver = storetest.NewFaults(w.Table)
	var err error
	w.function, err = New(Config{Wrapping: config.Wrapping{DataKeyMaxAge: time.Hour}, Billing: w.Config.Settings}, Parts{
		Store: w.driver, Key: w.Key, Logger: w.Config.Logger, Now: w.Clock.Now, Waiter: w.Clock, Transport: w.Cloud.Transport,
	})
	w.Must(err)
	return w
}

func (w *world) runs() []sponsor.Run {
	w.Helper()
	runs, err := w.Runs(w.Context(), w.Org, 100)
	w.Must(err)
	return runs
}

func TestATickDoesWhatIsDueOnce(t *testing.T) {
	w := newWorld(t)
	w.MakeOffers(3)
	for day := range 3 {
		for range 24 * 4 {
			tick := Tick{At: w.Clock.Now(), ID: fmt.Sprint("tick ", w.Clock.Now().Unix())}
			for range 2 { // it is delivered at least once
				if err := w.function.Run(w.Clock.Within(t, 10*time.Minute), tick); err != nil {
					t.Fatal(err)
				}
			}
			w.Clock.Pass(15 * time.Minute)
		}
		if runs := w.runs(); len(runs) != day+1 || runs[0].Status != sponsor.Completed || runs[0].Trigger != sponsor.BySchedule {
			t.Fatalf("day %d: %+v", day, runs)
		}
	}
	if mails := w.Cloud.Mails(); len(mails) != 3 {
		t.Errorf("%d mails", len(mails))
	}
	if v := w.Cloud.Violations(); len(v) != 0 {
		t.Errorf("%v", v)
	}
	if !strings.Contains(w.Logs.String(), fmt.Sprint("tick ", cloudtest.Epoch.Unix())) {
		t.Error("the log does not name the tick")
	}
}

func TestARunGoesOnOverSeveralCalls(t *testing.T) {
	w := newWorld(t, cloudtest.BatchOf(1))
	w.MakeOffers(5)
	asked, err := w.TriggerRun(t.Context(), cloudtest.Organization, sponsor.ByHand)
	w.Must(err)
	// Each request of the cloud takes long, so that one call does not do for all.
	if err := w.Cloud.SetFaults(emulator.Fault{
		Match: emulator.Match{Route: emulator.RouteSync}, When: emulator.Before, Action: emulator.Delay, Milliseconds: 40_000, Times: 100,
	}); err != nil {
		t.Fatal(err)
	}
	calls := 0
	for ; calls < 10 && !w.runs()[0].Status.Finished(); calls++ {
		if err := w.function.Sync(w.Clock.Within(t, 2*time.Minute), cloudtest.Organization); err != nil {
			t.Fatal(err)
		}
	}
	runs := w.runs()
	if len(runs) != 1 || runs[0].ID != asked.ID || runs[0].Status != sponsor.Completed || runs[0].Counts.Sent != 5 || calls < 2 || len(w.Cloud.Mails()) != 5 {
		t.Errorf("%d calls, %d mails, %+v", calls, len(w.Cloud.Mails()), runs)
	}
}

func TestWithoutTimeNothingIsSent(t *testing.T) {
	w := newWorld(t)
	w.MakeOffers(1)
	if _, err := w.TriggerRun(t.Context(), cloudtest.Organization, sponsor.ByHand); err != nil {
		t.Fatal(err)
	}
	// Nothing would ever be: it is an error.
	short := w.Clock.Within(t, 30*time.Second)
	for what, err := range map[string]error{"tick": w.function.Run(short, Tick{ID: "short"}), "kick": w.function.Sync(short, cloudtest.Organization)} {
		if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "30s") || !strings.Contains(err.Error(), "1m15s") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := w.Cloud.Count(emulator.RouteSync); n != 0 || w.runs()[0].Status.Finished() {
		t.Errorf("%d requests, %+v", n, w.runs())
	}
}

func TestAStoreThatIsDownFailsTheCall(t *testing.T) {
	w := newWorld(t)
	w.driver.Inject(storetest.Fault{Method: storetest.List})
	if err := w.function.Run(t.Context(), Tick{ID: "one"}); fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), "tick one") {
		t.Error(err)
	}
}

func TestNothingToDo(t *testing.T) {
	w := newWorld(t)
	if err := w.function.Sync(t.Context(), cloudtest.Organization); err != nil {
		t.Error(err)
	}
	if err := w.function.Sync(t.Context(), "not a guid"); fault.Of(err) != fault.NotFound {
		t.Error(err)
	}
	if runs := w.runs(); len(runs) != 0 {
		t.Errorf("%+v", runs)
	}
}
