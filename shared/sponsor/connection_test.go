package sponsor_test

import (
	"context"
	"errors"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

func TestANewKeyOfANewConnectionIsNotTakenForTheRefusedOne(t *testing.T) {
	w := offering(t, 1)
	w.Cloud.Key = w.rotateKey()
	w.mustFail("key_invalid")
	w.Must(w.RemoveConnection(t.Context(), w.Org))
	// Whether the key is good cannot be learned at the moment.
	w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 503})
	before, err := w.save()
	if err != nil || before.Probe.Good() {
		t.Fatal(before.Probe, err)
	}
	w.fault()
	w.Cloud.Forget()
	if st := w.status(); st.KeyRefused || st.NextDue.IsZero() {
		t.Fatalf("%+v", st)
	}
	w.Clock.Pass(25 * time.Hour)
	if report, err := w.tick(); err != nil || report.Finished != 1 {
		t.Fatal(report, err)
	}
	w.expectCloud(1, 1)
}

func TestTheRefusedKeyOfANewConnectionStaysRefusedUntilItIsGood(t *testing.T) {
	w := offering(t, 1)
	good := w.rotateKey()
	w.mustFail("key_invalid")
	w.Must(w.RemoveConnection(t.Context(), w.Org))
	w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 503})
	c, err := w.save()
	w.Must(err)
	w.fault()
	w.Cloud.Forget()
	if st := w.status(); !st.KeyRefused {
		t.Errorf("%+v", st)
	}
	w.Clock.Pass(25 * time.Hour)
	if report, err := w.tick(); err != nil || report.Finished != 0 || len(w.posts(true)) != 0 {
		t.Errorf("%+v %v", report, err)
	}
	again, err := w.paste(good)
	if err != nil || again.KeyFingerprint == c.KeyFingerprint || w.status().KeyRefused {
		t.Fatalf("%+v %v", again, err)
	}
	if report, err := w.tick(); err != nil || report.Finished != 1 {
		t.Fatal(report, err)
	}
	w.expectCloud(1, 1)
}

// impatient is somebody who goes away as soon as it is to wait.
type impatient struct {
	waits []time.Duration
	gone  bool
}

func (i *impatient) Wait(_ context.Context, d time.Duration) error {
	i.waits = append(i.waits, d)
	if i.gone {
		return context.Canceled
	}
	return nil
}

func TestWhoGoesAwayBooksNoTurnOfOthers(t *testing.T) {
	w := connected(t)
	waiter := &impatient{gone: true}
	w.Config.Waiter = waiter
	w.Restart()
	left := 0
	for range 1_000 {
		if _, err := w.probe(); errors.Is(err, context.Canceled) {
			left++
		}
	}
	if left < 900 {
		t.Fatalf("only %d went away", left)
	}
	// Somebody else waits no longer than if they had not been.
	waiter.waits = nil
	if _, err := w.probe(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if len(waiter.waits) != 1 || waiter.waits[0] > 3*time.Second {
		t.Errorf("the next one waits %v", waiter.waits)
	}
	// Nor does a run that has no time for its turn.
	w.MakeOffers(1)
	w.queue()
	w.Config.Waiter = w.Clock
	w.Restart()
	for range 200 {
		if _, err := w.Run(w.Clock.Within(t, 10*time.Second), w.Org); err == nil {
			t.Fatal("there was time")
		}
	}
	waits := len(w.Clock.Waits())
	if _, err := w.Run(t.Context(), w.Org); err != nil {
		t.Fatal(err)
	}
	for _, wait := range w.Clock.Waits()[waits:] {
		if wait > 3*time.Second {
			t.Errorf("the run waits %s", wait)
		}
	}
}

func TestTwoSamePostsMakeOneOffer(t *testing.T) {
	w := connected(t, perOffer)
	n := w.NewOffer(1)
	n.AdminInitiated, n.Name = true, ""
	done := make(chan error)
	for i := range 20 {
		go func() {
			again := n
			if i%2 == 1 {
				again.Email = "FAMILY1@home.example" // the same mailbox
			}
			_, err := w.CreateOffer(t.Context(), again)
			done <- err
		}()
	}
	for range 20 {
		w.Must(<-done)
	}
	w.mustSync(sponsor.Completed)
	w.expectCloud(1, 1)
	named := n
	named.Name = "another"
	if _, err := w.CreateOffer(t.Context(), named); err != nil {
		t.Fatal(err)
	}
	first := w.all()[0]
	if other := w.all()[1]; first.Key == other.Key {
		t.Error("two offers have one key")
	}
}

func TestAnOfferIsMadeAgainAfterItsRemoval(t *testing.T) {
	w := connected(t, perOffer)
	n := w.NewOffer(1)
	n.AdminInitiated = true
	made, err := w.CreateOffer(t.Context(), n)
	w.Must(err)
	w.mustSync(sponsor.Completed)
	w.Must(w.RevokeOffer(t.Context(), w.Org, made.ID))
	again, err := w.CreateOffer(t.Context(), n)
	if err != nil || again.ID != made.ID || !again.Reissue {
		t.Fatalf("%+v %v", again, err)
	}
	w.mustSync(sponsor.Completed)
	w.expectStates(states{sponsor.Sent: 1})
	if rows, mails := len(w.Cloud.Rows()), len(w.Cloud.Mails()); rows != 1 || mails != 2 {
		t.Errorf("%d rows, %d mails", rows, mails)
	}
}

func TestAnAddressCanBeOfferedToAgainWhereItsOfferWasMovedToAnother(t *testing.T) {
	w := connected(t, perOffer)
	n := w.NewOffer(1)
	n.AdminInitiated = true
	made, err := w.CreateOffer(t.Context(), n)
	w.Must(err)
	_, err = w.ReissueOffer(t.Context(), sponsor.Reissue{Organization: w.Org, ID: made.ID, Email: "moved@home.example", Name: "moved"})
	w.Must(err)
	for range 2 {
		if again, err := w.CreateOffer(t.Context(), n); err != nil || again.ID == made.ID || again.Email != cloudtest.Address(1) {
			t.Fatalf("%+v %v", again, err)
		}
	}
	w.mustSync(sponsor.Completed)
	w.expectCloud(2, 2)
}

func TestARenamingToATakenNameIsRefusedAtOnce(t *testing.T) {
	w := offering(t, 2)
	_, err := w.ReissueOffer(w.Clock.Within(t, time.Minute), sponsor.Reissue{Organization: w.Org, ID: w.own(1).ID, Name: w.own(2).Name})
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if o := w.own(1); o.Name != "Family 1" {
		t.Errorf("%+v", o)
	}
}
