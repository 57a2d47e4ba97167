package sponsor_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

// refusing has the cloud fail for some members' offers.
func (w *world) refusing(status int, members ...int) {
	w.Helper()
	rules := make([]emulator.Fault, len(members))
	for i, n := range members {
		rules[i] = emulator.Fault{Match: withOffer(n), Action: emulator.Status, Status: status, Body: `{}`}
	}
	w.faultSyncs(rules...)
}

func TestDeletionsThatTheCloudFailsForAreHeldBack(t *testing.T) {
	const bad = 12
	w := sent(t, 20)
	w.redeem(20, time.Time{})
	var refused []int
	for n := 1; n <= bad+2; n++ {
		if w.revoke(n); n <= bad {
			refused = append(refused, n)
		}
	}
	w.refusing(http.StatusInternalServerError, refused...)
	for range 3 {
		if run, err := w.sync(); err == nil && run.Status.Finished() {
			break
		}
		w.Clock.Pass(time.Hour)
	}
	if run := w.mustSync(sponsor.CompletedWithWarnings); run.Counts.Requests != 1 || run.Counts.Quarantined != bad || run.Counts.Refreshed != 6 {
		t.Fatalf("%+v", run.Counts)
	}
	w.expectStates(states{sponsor.Revoking: bad, sponsor.Sent: 5, sponsor.Active: 1})

	// After a week some are tried again, each alone; what else there is to do is
	// done nevertheless.
	for n := bad + 3; n < 20; n++ {
		w.reissue(n, fmt.Sprintf("new%d@home.example", n))
	}
	w.Clock.Pass(week)
	w.Cloud.Forget()
	run := w.mustSync(sponsor.CompletedWithWarnings)
	if run.Counts.Quarantined != bad || run.Counts.Sent != 5 {
		t.Errorf("%+v", run.Counts)
	}
	tried := map[string]bool{}
	for _, post := range w.posts(false) {
		for _, n := range refused {
			if key := cloudtest.Member(n); slices.Contains(post.Keys, key) {
				if tried[key] = true; len(post.Keys) > 1 {
					t.Errorf("tried among others: %q", post.Keys)
				}
			}
		}
	}
	if len(tried) != 10 {
		t.Errorf("%d were tried", len(tried))
	}

	w.fault()
	w.mustSync(sponsor.CompletedWithWarnings) // the last two
	w.Clock.Pass(week)
	w.mustSync(sponsor.Completed)
	w.expectStates(states{sponsor.Sent: 5, sponsor.Active: 1})
	w.twiceClean()
}

func TestADeletionIsTriedThoughTheQuestionBeforeItFails(t *testing.T) {
	w := sent(t, 3)
	w.reissue(1, newAddress)
	tried := false
	w.faultSyncs(emulator.Fault{Match: emulator.Match{Func: func(r emulator.Request) bool {
		about := slices.Contains(r.Keys, cloudtest.Member(1))
		tried = tried || about && r.Deletes > 0
		return about && !tried
	}}, Action: emulator.Status, Status: http.StatusInternalServerError})
	if run := w.mustSync(sponsor.Completed); run.Counts.Removed != 1 || run.Counts.Sent != 1 {
		t.Errorf("%+v", run.Counts)
	}
	if w.mailsTo(newAddress) != 1 {
		t.Errorf("%+v", w.Cloud.Mails())
	}
	w.twiceClean()
}

func TestABadOfferThatIsAskedAfterStopsNoDeletion(t *testing.T) {
	for _, status := range []int{http.StatusInternalServerError, http.StatusBadRequest} {
		w := sent(t, 2)
		w.revoke(1)
		w.faultSyncs(emulator.Fault{When: emulator.AfterCommit, Action: emulator.Close})
		w.mustFail("network_mid")
		// The deletion is left out of the answer now, and the other offer is the only
		// one that could tell what that means.
		w.refusing(status, 2)
		run := w.mustSync(sponsor.CompletedWithWarnings)
		if run.Counts.NotAccepted != 1 || run.Counts.Quarantined != 1 || w.own(2).Quarantined != "refused_by_cloud" {
			t.Errorf("%d: %+v", status, run.Counts)
		}
		if run = w.mustSync(sponsor.CompletedWithWarnings); run.Counts.Removed != 1 {
			t.Errorf("%d: %+v", status, run.Counts)
		}
		w.expectStates(states{sponsor.Sent: 1})
	}
}
