package sponsor_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

// move connects the organisation with another organisation of the same cloud.
func (w *world) move(to *cloudtest.Cloud) {
	w.Helper()
	w.Must(w.RemoveConnection(w.Context(), w.Org))
	w.Cloud = to
	w.Upload()
	_, err := w.save()
	w.Must(err)
	w.Cloud.Forget()
}

func TestAnotherOrganisationOfTheCloud(t *testing.T) {
	t.Run("a deletion waits for the organisation that knows the offer", func(t *testing.T) {
		w := sent(t, 2)
		w.redeem(2, time.Time{})
		w.mustSync(sponsor.Completed)
		w.revoke(1)
		old, other := w.Cloud, w.Cloud.Another(t)
		w.move(other)
		for range 2 {
			run := w.mustSync(sponsor.CompletedWithWarnings)
			if run.Counts.Removed != 0 || run.Counts.Quarantined != 1 {
				t.Errorf("%+v", run.Counts)
			}
			o := w.own(1)
			if o.State != sponsor.Revoking || o.Quarantined != "other_cloud_organization" || !strings.Contains(o.Problem, old.OrgID) {
				t.Fatalf("%+v", o)
			}
		}
		if rows := other.Rows(); len(rows) != 1 || rows[0].OfferKey != cloudtest.Member(2) {
			t.Errorf("%+v", rows)
		}
		for _, post := range w.posts(true) {
			for _, key := range post.Keys {
				if key == cloudtest.Member(1) {
					t.Error("the deletion was sent to an organisation that does not know the offer")
				}
			}
		}
		// The other offer is new there, and what the old one said is forgotten.
		if o := w.own(2); o.State != sponsor.Sent || o.ValidUntil != nil || len(other.Mails()) != 1 {
			t.Errorf("%+v, %d mails", o, len(other.Mails()))
		}
		w.move(old)
		w.mustSync(sponsor.Completed)
		if rows := old.Rows(); len(rows) != 1 || rows[0].OfferKey != cloudtest.Member(2) {
			t.Errorf("%+v", rows)
		}
		if o := w.own(2); o.State != sponsor.Active {
			t.Errorf("%+v", o)
		}
		w.twiceClean()
	})

	t.Run("a deletion can be given up", func(t *testing.T) {
		w := sent(t, 2)
		w.revoke(1)
		before := w.own(1)
		revokeAgain := func() {
			t.Helper()
			w.Must(w.RevokeOffer(t.Context(), w.Org, before.ID))
		}
		revokeAgain() // which is nothing yet
		old := w.Cloud
		w.move(w.Cloud.Another(t))
		revokeAgain()
		w.mustSync(sponsor.CompletedWithWarnings)
		w.revoke(1) // a member does not give it up
		if o := w.own(1); o.State != sponsor.Revoking {
			t.Fatalf("%+v", o)
		}
		other := w.Cloud
		w.move(old)
		revokeAgain() // where it can be removed it is not given up
		if o := w.own(1); o.State != sponsor.Revoking {
			t.Fatalf("%+v", o)
		}
		w.move(other)
		revokeAgain()
		if _, err := w.Offer(t.Context(), w.Org, before.ID); fault.Of(err) != fault.NotFound {
			t.Errorf("%v", err)
		}
		w.mustSync(sponsor.Completed)
	})

	t.Run("an offer that is to be replaced waits, too", func(t *testing.T) {
		w := sent(t, 1)
		w.reissue(1, "new@home.example")
		old := w.Cloud
		w.move(w.Cloud.Another(t))
		for range 2 {
			if run := w.mustSync(sponsor.CompletedWithWarnings); run.Counts.Quarantined != 1 || run.Counts.Sent != 0 {
				t.Errorf("%+v", run.Counts)
			}
		}
		if rows := w.Cloud.Rows(); len(rows) != 0 {
			t.Errorf("%+v", rows)
		}
		w.move(old)
		w.mustSync(sponsor.Completed)
		if r := w.row(1); *r.OfferedToEmail != "new@home.example" || len(w.Cloud.Rows()) != 1 {
			t.Errorf("%+v", r)
		}
		w.twiceClean()
	})

	t.Run("an offer that another organisation has is not asked after in this one", func(t *testing.T) {
		w := sent(t, 2)
		home, other := w.Cloud, w.Cloud.Another(t)
		w.move(other)
		w.MakeOffersOf(3, 3)
		w.mustSync(sponsor.Completed)
		w.revoke(3)
		w.faultSyncs(emulator.Fault{When: emulator.AfterCommit, Action: emulator.Close})
		w.mustFail("network_mid")
		w.fault()
		w.move(home)
		w.mustSync(sponsor.CompletedWithWarnings)
		w.move(other)
		// What is left out of the answer to the deletion leaves open what that means,
		// and no offer is known to be here that could tell.
		if run := w.mustSync(sponsor.Completed); run.Counts.Removed != 1 || len(w.posts(true)) != 2 {
			t.Errorf("%d posts, %+v", len(w.posts(true)), run.Counts)
		}
		w.expectStates(states{sponsor.Sent: 2})
	})

	t.Run("one that had an offer before may have mailed what it was", func(t *testing.T) {
		w := sent(t, 2)
		home, other := w.Cloud, w.Cloud.Another(t)
		w.move(other)
		w.mustSync(sponsor.Completed)
		w.reissue(1, "new@home.example")
		w.mustSync(sponsor.Completed)
		for range 2 {
			w.move(home)
			if run := w.mustSync(sponsor.CompletedWithWarnings); run.Counts.MailUncertain != 1 || run.Counts.Sent != 2 {
				t.Errorf("%+v", run.Counts)
			}
			if changed, same := w.own(1), w.own(2); !changed.MailUncertain || same.MailUncertain || w.mailsTo("new@home.example") != 0 {
				t.Errorf("%+v, %+v", changed, same)
			}
			w.move(other)
			w.mustSync(sponsor.Completed)
		}
		w.move(home)
		w.mustSync(sponsor.CompletedWithWarnings)
		w.reissue(1, "")
		w.mustSync(sponsor.Completed)
		if o := w.own(1); o.MailUncertain || w.mailsTo("new@home.example") != 1 || *w.row(1).OfferedToEmail != "new@home.example" {
			t.Errorf("%+v", o)
		}
		w.twiceClean()
	})

	t.Run("a run does not go on with another organisation", func(t *testing.T) {
		w := sent(t, 2)
		w.MakeOffers(3)
		w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 429, Headers: map[string]string{"Retry-After": "3600"}, Times: 1})
		run, err := w.sync()
		if _, left := errors.AsType[*sponsor.ContinueError](err); !left {
			t.Fatal(err)
		}
		w.move(w.Cloud.Another(t))
		w.Clock.Pass(2 * time.Hour)
		over, err := w.Run(t.Context(), w.Org)
		if over.ID != run.ID || codeOf(err) != sponsor.CodeOrganizationChanged || w.Cloud.Count(emulator.RouteSync) != 0 {
			t.Fatalf("%+v %v", over, err)
		}
		w.mustSync(sponsor.Completed)
		w.expectCloud(3, 3)
	})
}
