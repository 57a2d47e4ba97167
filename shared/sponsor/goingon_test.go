package sponsor_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// waiting makes a world in which the cloud has asked a run to wait.
func waiting(t *testing.T, retryAfter string) (*world, sponsor.Run) {
	t.Helper()
	w := offering(t, 2)
	w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 429, Headers: map[string]string{"Retry-After": retryAfter}, Times: 1})
	run, err := w.sync()
	if !isLeft(err) {
		t.Fatal(err)
	}
	return w, run
}

func TestWhatOneOrganisationOfTheCloudAskedForDoesNotKeepAnotherWaiting(t *testing.T) {
	w, run := waiting(t, "86000")
	at := w.Clock.Now()
	w.move(w.Cloud.Another(t))
	over, err := w.Run(t.Context(), w.Org)
	if over.ID != run.ID || codeOf(err) != sponsor.CodeOrganizationChanged {
		t.Fatalf("%+v %v", over, err)
	}
	w.mustSync(sponsor.Completed)
	if waited := w.Clock.Now().Sub(at); waited > time.Minute {
		t.Errorf("waited for %s", waited)
	}
	w.expectCloud(2, 2)
}

func TestARunGoesOnWithTheOrganisationOfTheCloudThatItBeganWith(t *testing.T) {
	for name, change := range map[string]func(string) string{
		"whose id is written another way":     strings.ToUpper,
		"which an older version did not note": func(string) string { return "" },
	} {
		w, run := waiting(t, "3600")
		runs := store.NewCollection[sponsor.Run](store.New(w.Table), "sync-runs")
		_, err := runs.Update(t.Context(), run.ID, func(r *store.Record[sponsor.Run]) error {
			before := r.Value.CloudOrganization
			if r.Value.CloudOrganization = change(before); r.Value.CloudOrganization == before {
				return errors.New("nothing is changed")
			}
			return nil
		})
		w.Must(err)
		w.Clock.Pass(2 * time.Hour)
		again, err := w.Run(t.Context(), w.Org)
		if err != nil || again.ID != run.ID || again.Status != sponsor.Completed || again.CloudOrganization != w.Cloud.OrgID {
			t.Errorf("%s: %+v %v", name, again, err)
		}
	}
}

func TestASyncByHandLeavesARunAloneThatSomebodyWaitsWith(t *testing.T) {
	for name, left := range map[string]time.Duration{"for minutes": 7 * time.Minute, "for seconds": 5 * time.Second} {
		w, run := waiting(t, "900")
		other := w.NewProcess()
		w.Clock.Pass(run.NotBefore.Sub(w.Clock.Now()) - left)
		clicks := 0
		w.Config.Waiter = watched{w.Clock, func(d time.Duration) {
			if d < time.Second {
				return
			}
			clicks++
			if r, err := other.TriggerRun(t.Context(), w.Org, sponsor.ByHand); err != nil || r.ID != run.ID {
				t.Errorf("%s: %+v %v", name, r, err)
			}
		}}
		w.Restart()
		if report, err := w.tick(); err != nil || report.Finished != 1 || clicks != 1 {
			t.Errorf("%s: %+v %v, %d clicks", name, report, err, clicks)
		}
		w.expectCloud(2, 2)
	}
}

func TestASyncByHandHurriesARunThatWasWaitedWithByAClockThatWasWrong(t *testing.T) {
	w, run := waiting(t, "86000")
	runs := store.NewCollection[sponsor.Run](store.New(w.Table), "sync-runs")
	_, err := runs.Update(t.Context(), run.ID, func(r *store.Record[sponsor.Run]) error {
		r.Value.WaitUntil = w.Clock.Now().Add(365 * 24 * time.Hour)
		return nil
	})
	w.Must(err)
	if run := w.queue(); !run.NotBefore.IsZero() {
		t.Errorf("%+v", run)
	}
	w.mustSync(sponsor.Completed)
}
