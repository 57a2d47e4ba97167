package sponsor_test

import (
	"errors"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

// A machine's clock is fifty years ahead, for once. What is done with it then must
// not hold up what comes after.
func TestAClockThatWasWrongOnce(t *testing.T) {
	const years = 50 * 365 * 24 * time.Hour
	daily := func(t *testing.T, w *world) {
		t.Helper()
		runs, err := w.Runs(t.Context(), w.Org, 100)
		w.Must(err)
		before := len(runs)
		for range 3 * 24 * 4 {
			w.Clock.Pass(15 * time.Minute)
			if _, err := w.tick(); err != nil {
				t.Fatal(err)
			}
		}
		if runs, err = w.Runs(t.Context(), w.Org, 100); err != nil || len(runs)-before < 3 || len(runs)-before > 4 {
			t.Errorf("%d runs in three days, %v", len(runs)-before, err)
		}
		w.expectCloud(1, 1)
	}

	t.Run("the schedule", func(t *testing.T) {
		w := offering(t, 1)
		w.Clock.Pass(years)
		if report, err := w.tick(); err != nil || report.Finished != 1 {
			t.Fatalf("%+v %v", report, err)
		}
		w.Clock.Pass(-years)
		daily(t, w)
	})

	t.Run("a run that waits", func(t *testing.T) {
		w := offering(t, 1)
		w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 429, Headers: map[string]string{"Retry-After": "3600"}, Times: 1})
		w.Clock.Pass(years)
		if _, err := w.sync(); !isLeft(err) {
			t.Fatal(err)
		}
		w.Clock.Pass(-years)
		if run, err := w.Run(t.Context(), w.Org); err != nil || run.Status != sponsor.Completed {
			t.Fatalf("%+v %v", run, err)
		}
		w.expectCloud(1, 1)
	})

	t.Run("the quiet time after a request without an answer", func(t *testing.T) {
		w := offering(t, 1)
		w.faultSyncs(emulator.Fault{Action: emulator.Close, Times: 6})
		w.Clock.Pass(years)
		w.mustFail("network_mid")
		w.Clock.Pass(-years)
		at := w.Clock.Now()
		w.mustSync(sponsor.CompletedWithWarnings) // nobody knows of the mail
		if waited := w.Clock.Now().Sub(at); waited < 2*time.Minute || waited > 3*time.Minute {
			t.Errorf("waited %s", waited)
		}
		// It is forgotten then.
		at = w.Clock.Now()
		w.mustSync(sponsor.Completed)
		if waited := w.Clock.Now().Sub(at); waited > time.Minute {
			t.Errorf("waited %s", waited)
		}
	})

	t.Run("the lease", func(t *testing.T) {
		w := offering(t, 1)
		w.Clock.Pass(years)
		w.queue()
		w.mortal.whenPut("sync-leases", "holder", w.mortal.die)
		if _, err := w.Run(t.Context(), w.Org); err == nil || !w.mortal.revive() {
			t.Fatalf("it lives: %v", err)
		}
		w.Clock.Pass(-years)
		w.Restart()
		if run, err := w.Run(t.Context(), w.Org); err != nil || run.Status != sponsor.Completed {
			t.Fatalf("%+v %v", run, err)
		}
		w.expectCloud(1, 1)
	})

	t.Run("the refusal of the installation", func(t *testing.T) {
		w := offering(t, 1)
		w.fault(emulator.Fault{Match: emulator.Match{Route: emulator.RouteToken}, Action: emulator.Status, Status: 400, Body: `{"error":"invalid_client"}`, Times: 1})
		w.Restart()
		w.Clock.Pass(years)
		w.mustFail("identity_invalid_client")
		w.Clock.Pass(-years)
		if status := w.status(); status.Blocked != nil {
			t.Errorf("blocked until %s", status.Blocked)
		}
	})
}

func isLeft(err error) bool {
	_, left := errors.AsType[*sponsor.ContinueError](err)
	return left
}
