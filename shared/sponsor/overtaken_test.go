package sponsor_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

const newAddress = "new@home.example"

var ofDeletions = emulator.Match{Func: func(r emulator.Request) bool { return r.Deletes > 0 }}

// tooMany has the cloud refuse deletions for a while.
func tooMany(retryAfter string, times int) emulator.Fault {
	f := emulator.Fault{Match: ofDeletions, Action: emulator.Status, Status: http.StatusTooManyRequests, Times: times}
	if retryAfter != "" {
		f.Headers = map[string]string{"Retry-After": retryAfter}
	}
	return f
}

// expectActive expects that an offer was left alone that somebody redeemed.
func (w *world) expectActive(n int) {
	w.Helper()
	if o, row := w.own(n), w.row(n); o.State != sponsor.Active || o.Email != cloudtest.Address(n) || o.Problem == "" || row.ToDelete {
		w.Errorf("here %+v\nin the cloud %+v", o, row)
	}
}

func TestAnOfferThatIsRedeemedWhileItsReplacementWaitsStays(t *testing.T) {
	goOn := func(w *world) {
		w.Helper()
		w.Clock.Pass(3 * time.Hour)
		w.redeem(1, time.Time{})
		if run, err := w.Run(w.Context(), w.Org); err != nil || run.Status != sponsor.Completed {
			w.Fatalf("%+v %v", run, err)
		}
	}
	killed := func(collection, text string) func(*world) {
		return func(w *world) {
			w.mortal.whenPut(collection, text, w.mortal.die)
			if _, err := w.sync(); err == nil || !w.mortal.revive() {
				w.Fatalf("the process was not killed: %v", err)
			}
			w.Restart()
			goOn(w)
		}
	}
	for name, happen := range map[string]func(*world){
		"because the cloud asked to wait": func(w *world) {
			w.faultSyncs(tooMany("7200", 1))
			if _, err := w.sync(); !isLeft(err) {
				w.Fatal(err)
			}
			goOn(w)
		},
		"because the run failed before the cloud did anything": func(w *world) {
			w.faultSyncs(tooMany("", 6))
			w.mustFail("rate_limited")
			w.redeem(1, time.Time{})
			w.mustSync(sponsor.Completed)
		},
		"because the process was killed before the deletion was sent": killed("offers", `"deletedBy"`),
		"because the process was killed after it had asked":           killed("sync-batches", `"received"`),
	} {
		t.Run(name, func(t *testing.T) {
			w := sent(t, 2)
			w.reissue(1, newAddress)
			happen(w)
			w.expectActive(1)
			w.expectCloud(2, 2)
			w.twiceClean()
		})
	}
}

func TestAReplacementIsCarriedOutByTheRunThatHadToAskTwice(t *testing.T) {
	w := sent(t, 3)
	w.redeem(3, time.Time{})
	w.mustSync(sponsor.Completed)
	w.revoke(2)
	w.revoke(3)
	w.reissue(1, newAddress)
	w.faultSyncs(tooMany("7200", 2))
	run, err := w.sync()
	for range 4 {
		if run.Status.Finished() {
			break
		}
		w.Clock.Pass(2*time.Hour + time.Minute)
		run, err = w.Run(t.Context(), w.Org)
	}
	if c := run.Counts; err != nil || run.Status != sponsor.Completed || c.Removed != 2 || c.Kept != 1 || c.Sent != 1 {
		t.Errorf("%s %+v %v", run.Status, c, err)
	}
	if w.mailsTo(cloudtest.Address(1)) != 1 || w.mailsTo(newAddress) != 1 {
		t.Errorf("%+v", w.Cloud.Mails())
	}
	w.twiceClean()
}

func TestARunThatNeverComesToTheDeletionEnds(t *testing.T) {
	w := sent(t, 1)
	w.reissue(1, newAddress)
	w.faultSyncs(tooMany("7200", 0))
	run, err := w.sync()
	for range 30 {
		if run.Status.Finished() {
			break
		}
		if !isLeft(err) {
			t.Fatal(err)
		}
		w.Clock.Pass(2*time.Hour + time.Minute)
		run, err = w.Run(t.Context(), w.Org)
	}
	if !run.Status.Finished() {
		t.Fatalf("%+v", run)
	}
	w.fault()
	w.mustSync(sponsor.Completed)
	if w.mailsTo(newAddress) != 1 {
		t.Errorf("%+v", w.Cloud.Mails())
	}
	w.twiceClean()
}

func TestWhoHasTheirOfferRevokedByItsReplacementIsTold(t *testing.T) {
	w := sent(t, 1)
	w.reissue(1, newAddress)
	w.faultSyncs(emulator.Fault{Match: ofDeletions, Action: emulator.Close})
	w.mustFail("network_mid") // asking could mail somebody now
	w.fault()
	w.redeem(1, time.Time{})
	if run := w.mustSync(sponsor.CompletedWithWarnings); run.Counts.Overtaken != 1 || run.Counts.Kept != 1 {
		t.Errorf("%+v", run.Counts)
	}
	if !strings.Contains(w.Logs.String(), "offers were redeemed before they could be replaced") {
		t.Error("the log does not tell")
	}
	for range 2 {
		if o := w.own(1); o.State != sponsor.RevokedUntilExpiry || !strings.Contains(o.Problem, "is revoked now") {
			t.Errorf("%+v", o)
		}
		w.Clock.Pass(24 * time.Hour)
		w.mustSync(sponsor.Completed)
	}
}

func TestAskingAfterAnOfferThatTheCloudHasDroppedMailsNobodyWhoIsGivenUp(t *testing.T) {
	w := sent(t, 2)
	w.redeem(2, time.Time{})
	w.Clock.Pass(183 * 24 * time.Hour)
	if err := w.Cloud.Redeem(w.Cloud.OrgID, cloudtest.Member(1), time.Time{}); err == nil {
		t.Fatal("the cloud did not drop the offer")
	}
	w.reissue(1, newAddress)
	w.reissue(2, "other@home.example")
	w.mustSync(sponsor.Completed)
	if n := w.mailsTo(cloudtest.Address(1)); n != 1 || *w.row(1).OfferedToEmail != newAddress || w.mailsTo(newAddress) == 0 {
		t.Errorf("%d mails, %+v", n, w.row(1))
	}
	// In half a year somebody may well have redeemed one.
	w.expectActive(2)
	mails := len(w.Cloud.Mails())
	w.mustSync(sponsor.Completed)
	w.expectStates(states{sponsor.Sent: 1, sponsor.Active: 1})
	if n := len(w.Cloud.Mails()); n != mails {
		t.Errorf("%d mails more", n-mails)
	}
}
