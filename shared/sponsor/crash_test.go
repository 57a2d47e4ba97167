package sponsor_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// mixed makes a world in which a run has something of everything to do: offers
// 1 to 4 are in the cloud, of which 1 was revoked, 2 redeemed and revoked, and 3
// is to be replaced; 5 to 8 are new.
func mixed(t *testing.T) *world {
	t.Helper()
	w := sent(t, 4, cloudtest.BatchOf(2))
	w.redeem(2, time.Time{})
	w.revoke(1)
	w.revoke(2)
	w.reissue(3, "other@home.example")
	w.MakeOffersOf(5, 8)
	w.Cloud.Forget()
	return w
}

// stride is how many points of a run a test goes on by: all of them are met by
// the full run only.
func stride() int {
	if testing.Short() {
		return 5
	}
	return 1
}

// expectMixed is what has to come of it.
func (w *world) expectMixed(what string) {
	w.Helper()
	before := w.Failed()
	w.expectStates(states{sponsor.Sent: 6, sponsor.RevokedUntilExpiry: 1})
	if rows := len(w.Cloud.Rows()); rows != 7 {
		w.Errorf("%d rows", rows)
	}
	for of, n := range w.Cloud.MailCounts() {
		if n > 1 {
			w.Errorf("%d mails of %+v", n, of)
		}
	}
	w.expectGood()
	if w.Failed() && !before {
		w.Fatalf("%s\n%s", what, w.Logs)
	}
}

// goOn does what a scheduler would until the run is through.
func (w *world) goOn(id string) sponsor.Run {
	w.Helper()
	for range 20 {
		_, err := w.Run(w.Context(), w.Org)
		if busy, ok := errors.AsType[*sponsor.BusyError](err); ok {
			w.Clock.Set(busy.Until)
			continue
		}
		if err != nil {
			w.Fatalf("%v\n%s", err, w.Logs)
		}
		run, err := w.GetRun(w.Context(), w.Org, id)
		w.Must(err)
		if run.Status.Finished() {
			return run
		}
	}
	w.Fatal("the run does not end")
	return sponsor.Run{}
}

func TestT61AProcessThatIsKilledAtAnyPointIsFollowedByAnother(t *testing.T) {
	for _, after := range []bool{false, true} {
		var steps int
		for step := 1; ; step += stride() {
			w := mixed(t)
			queued := w.queue()
			w.mortal.kill(step, after)
			_, _ = w.Run(t.Context(), w.Org)
			if !w.mortal.revive() {
				steps = step - 1
				break
			}
			w.Restart()
			run := w.goOn(queued.ID)
			if run.Status == sponsor.Failed {
				t.Fatalf("killed at step %d: %+v", step, run)
			}
			w.expectMixed(fmt.Sprintf("killed at step %d (after it: %v)", step, after))
			w.Clock.Pass(time.Hour) // its lease may have outlived it
			w.twiceClean()
		}
		if steps < 50 {
			t.Errorf("the run took only %d steps", steps)
		}
	}
}

func TestARunSurvivesAFailureOfAnyCallOfTheStore(t *testing.T) {
	for _, when := range []storetest.When{storetest.Before, storetest.After} {
		for skip := 0; ; skip += stride() {
			w := mixed(t)
			queued := w.queue()
			w.faults.Inject(storetest.Fault{Skip: skip, When: when})
			_, err := w.Run(t.Context(), w.Org)
			if w.faults.Pending() > 0 {
				w.faults.Reset()
				w.Must(err)
				break
			}
			if class := fault.Of(err); err != nil && class != fault.Transient {
				t.Fatalf("call %d: %v", skip, err)
			}
			if run := w.goOn(queued.ID); run.Status == sponsor.Failed {
				t.Fatalf("call %d: %+v", skip, run)
			}
			w.expectMixed(fmt.Sprintf("call %d failed (%v)", skip, when))
		}
	}
}

func TestT82AZombieWritesNothing(t *testing.T) {
	fenced := 0
	for step := 1; ; step++ {
		w := mixed(t)
		queued := w.queue()
		met, shape := false, ""
		zombie, other := w.Sync, w.NewProcess()
		w.mortal.interrupt(step, func() {
			met = true
			// The process stands still, its lease runs out, and another does the run.
			w.Sync = other
			w.Clock.Pass(time.Hour)
			w.redeem(4, time.Time{})
			if run := w.goOn(queued.ID); run.Status == sponsor.Failed {
				t.Fatalf("%+v", run)
			}
			// A further run learns of the redemption, which the zombie knows nothing of.
			if run, err := w.sync(); err != nil || run.Status == sponsor.Failed {
				t.Fatalf("%+v %v", run, err)
			}
			shape = w.full()
			w.Sync = zombie
		})
		_, err := zombie.Run(t.Context(), w.Org)
		if !met {
			w.Must(err)
			break
		}
		switch {
		case errors.Is(err, sponsor.ErrFenced):
			fenced++
		case err != nil && codeOf(err) == "":
			t.Fatalf("step %d: %v", step, err)
		}
		if after := w.full(); after != shape {
			t.Fatalf("step %d (%v): the zombie changed\n%sinto\n%s", step, err, shape, after)
		}
		if run, err := w.GetRun(t.Context(), w.Org, queued.ID); err != nil || run.Status == sponsor.Failed || !run.Status.Finished() {
			t.Fatalf("step %d: %+v %v", step, run, err)
		}
		w.expectGood()
		if t.Failed() {
			t.Fatalf("interrupted at step %d", step)
		}
	}
	if fenced < 20 {
		t.Errorf("%d zombies met a fence", fenced)
	}
}

func TestT82ALeaseThatWasTakenIsNoticedBeforeAnAnswerIsApplied(t *testing.T) {
	w := offering(t, 2)
	w.mortal.whenPut("sync-batches", `"status":"received"`, func() {
		leases := store.NewCollection[map[string]any](store.New(w.Table), "sync-leases")
		_, err := leases.Update(t.Context(), w.Cloud.OrgID, func(r *store.Record[map[string]any]) error {
			r.Value["holder"], r.Value["token"], r.Value["until"] = "another", r.Value["token"].(float64)+1e6, w.Clock.Now().Add(time.Hour)
			return nil
		})
		w.Must(err)
	})
	if _, err := w.sync(); !errors.Is(err, sponsor.ErrFenced) {
		t.Errorf("%v", err)
	}
	w.expectStates(states{sponsor.Pending: 2})
	if _, err := w.NewProcess().Run(t.Context(), w.Org); !isBusy(err) {
		t.Errorf("the zombie has given the other's lease back: %v", err)
	}
	w.Clock.Pass(2 * time.Hour)
	if _, err := w.Run(t.Context(), w.Org); err != nil {
		t.Errorf("%v", err)
	}
	w.expectStates(states{sponsor.Sent: 2})
	w.expectCloud(2, 2)
}

func TestALeaseLastsForTheRequestThatIsSentUnderIt(t *testing.T) {
	w := offering(t, 2)
	// The store takes its time with the batch.
	w.mortal.whenPut("sync-batches", `"status":"sending"`, func() { w.Clock.Pass(7 * time.Minute) })
	met := false
	w.tap.set(func() {
		met = true
		if _, err := w.NewProcess().Run(t.Context(), w.Org); !isBusy(err) {
			t.Errorf("%v", err)
		}
		w.Clock.Pass(4 * time.Minute)
		if _, err := w.NewProcess().Run(t.Context(), w.Org); !isBusy(err) {
			t.Errorf("four minutes later: %v", err)
		}
	}, nil)
	_, err := w.sync()
	w.tap.set(nil, nil)
	if !met {
		t.Fatal("nothing was sent")
	}
	// So long a request has no answer.
	if err != nil {
		t.Errorf("%v", err)
	}
	w.expectStates(states{sponsor.Sent: 2})
}

func TestT61AProcessThatDiesWithARequestUnderWay(t *testing.T) {
	w := offering(t, 2)
	queued := w.queue()
	w.tap.set(nil, w.mortal.die)
	if _, err := w.Run(t.Context(), w.Org); err == nil {
		t.Fatal("it lives")
	}
	w.tap.set(nil, nil)
	w.mortal.revive()
	w.Restart()
	run := w.goOn(queued.ID)
	if run.Status != sponsor.CompletedWithWarnings || run.Counts.MailUncertain != 2 || run.Counts.Sent != 2 {
		t.Errorf("%+v", run)
	}
	w.expectCloud(2, 2)
}

func TestAProcessThatIsToldToStopLeavesTheCloudAlone(t *testing.T) {
	w := offering(t, 2)
	queued := w.queue()
	ctx, stop := context.WithCancel(t.Context())
	w.tap.set(nil, stop)
	if _, err := w.Run(ctx, w.Org); fault.Of(err) != fault.Transient {
		t.Errorf("%v", err)
	}
	w.tap.set(nil, nil)
	// The lease is free at once, and what was under way is waited for.
	if _, err := w.NewProcess().Run(t.Context(), w.Org); err != nil {
		t.Errorf("%v", err)
	}
	if posts := w.posts(true); len(posts) != 2 || posts[1].At.Sub(posts[0].At) < 2*time.Minute {
		t.Errorf("%+v", posts)
	}
	if run, err := w.GetRun(t.Context(), w.Org, queued.ID); err != nil || !run.Status.Finished() || run.Status == sponsor.Failed {
		t.Errorf("%+v %v", run, err)
	}
	w.expectCloud(2, 2)
}

// full is all that is stored of the offers.
func (w *world) full() string {
	w.Helper()
	text := ""
	for _, o := range w.all() {
		text += fmt.Sprintf("%+v %v %v\n", o.Status(), o.LastSync, o.ValidUntil) + fmt.Sprintln(o.ID, o.State, o.Email, o.Outcome, o.Reissue, o.MailUncertain)
	}
	return text
}

func TestT80TwoSchedulersAndAClickSendOneSetOfRequests(t *testing.T) {
	t.Run("T80 two schedulers, one after the other in the middle of a run", func(t *testing.T) {
		w := offering(t, 6, cloudtest.BatchOf(2))
		status := w.status()
		w.Clock.Set(status.NextDue)
		second, third := w.NewProcess(), w.NewProcess()
		var id string
		w.tap.set(func() {
			w.tap.set(nil, nil)
			report, err := second.Tick(t.Context(), sponsor.Tick{At: w.Clock.Now()})
			if err != nil || report.Left != 1 || report.Finished != 0 {
				t.Errorf("the second scheduler: %+v %v", report, err)
			}
			// T81: a click gets the id of the run that there is.
			clicked, err := third.TriggerRun(t.Context(), w.Org, sponsor.ByHand)
			if err != nil || clicked.Trigger != sponsor.BySchedule || clicked.Status != sponsor.Running {
				t.Errorf("the click: %+v %v", clicked, err)
			}
			again, err := third.TriggerRun(t.Context(), w.Org, sponsor.ByHand)
			if err != nil || again.ID != clicked.ID {
				t.Errorf("a second click: %+v %v", again, err)
			}
			if _, err := third.Run(t.Context(), w.Org); !isBusy(err) {
				t.Errorf("the click does the run, too: %v", err)
			}
			id = clicked.ID
		}, nil)
		report, err := w.tick()
		if err != nil || report.Finished != 1 {
			t.Errorf("%+v %v", report, err)
		}
		if run, err := w.GetRun(t.Context(), w.Org, id); err != nil || run.Status != sponsor.Completed || len(w.posts(true)) != 3 {
			t.Errorf("%+v %v, %d posts", run, err, len(w.posts(true)))
		}
		w.expectCloud(6, 6)
	})

	t.Run("T80 the same run a second time sends nothing", func(t *testing.T) {
		w := offering(t, 2)
		run := w.mustSync(sponsor.Completed)
		n := len(w.posts(true))
		if again, err := w.Run(t.Context(), w.Org); err != nil || again.ID != "" || len(w.posts(true)) != n {
			t.Errorf("%+v %v", again, err)
		}
		if same, err := w.GetRun(t.Context(), w.Org, run.ID); err != nil || same.Status != sponsor.Completed {
			t.Errorf("%+v %v", same, err)
		}
	})

	t.Run("T80 many schedulers at once", func(t *testing.T) {
		w := offering(t, 6, cloudtest.BatchOf(2))
		status := w.status()
		w.Clock.Set(status.NextDue)
		var wg sync.WaitGroup
		for range 6 {
			s := w.NewProcess()
			wg.Go(func() {
				if _, err := s.Tick(t.Context(), sponsor.Tick{At: status.NextDue}); err != nil {
					t.Errorf("%v", err)
				}
			})
		}
		wg.Wait()
		if n := len(w.posts(true)); n != 3 {
			t.Errorf("%d posts", n)
		}
		w.expectStates(states{sponsor.Sent: 6})
		w.expectCloud(6, 6)
	})

	t.Run("T81 clicks at once are one run", func(t *testing.T) {
		w := offering(t, 6, cloudtest.BatchOf(2))
		ids := make([]string, 6)
		var wg sync.WaitGroup
		for i := range ids {
			s := w.NewProcess()
			wg.Go(func() {
				run, err := s.TriggerRun(t.Context(), w.Org, sponsor.ByHand)
				if err != nil {
					t.Errorf("%v", err)
				}
				ids[i] = run.ID
			})
		}
		wg.Wait()
		for _, id := range ids {
			if id != ids[0] {
				t.Errorf("%v", ids)
			}
		}
		for range ids {
			s := w.NewProcess()
			wg.Go(func() {
				if _, err := s.Run(t.Context(), w.Org); err != nil && !isBusy(err) {
					t.Errorf("%v", err)
				}
			})
		}
		wg.Wait()
		if n := len(w.posts(true)); n != 3 {
			t.Errorf("%d posts", n)
		}
		w.expectCloud(6, 6)
	})

	t.Run("organisations are synced beside each other, as many as allowed", func(t *testing.T) {
		w := connected(t)
		w.Config.Settings.SyncParallel = 2
		w.Restart()
		for range 4 {
			organization, err := w.Cloud.AddOrganization(emulator.Organization{})
			w.Must(err)
			key, err := w.Cloud.RotateKey(organization.ID)
			w.Must(err)
			w.Org, w.Cloud.OrgID, w.Cloud.Key = newGUID(), organization.ID, key
			w.Upload()
			w.Connect()
			w.MakeOffers(2)
		}
		w.Clock.Pass(24 * time.Hour)
		if report, err := w.tick(); err != nil || report.Connections != 5 || report.Finished != 5 {
			t.Errorf("%+v %v", report, err)
		}
		if n := len(w.Cloud.Mails()); n != 8 {
			t.Errorf("%d mails", n)
		}
		health, err := w.Health(t.Context())
		if err != nil || len(health) != 5 || !health[0].Good || health[0].NextDue == nil || health[0].LastSuccess == nil {
			t.Errorf("%+v %v", health, err)
		}
		w.expectGood()
	})
}

func isBusy(err error) bool {
	_, busy := errors.AsType[*sponsor.BusyError](err)
	return busy
}
