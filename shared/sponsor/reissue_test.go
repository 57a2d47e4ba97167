package sponsor_test

import (
	"fmt"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

// mailsTo counts the mails to an address.
func (w *world) mailsTo(address string) int {
	n := 0
	for _, mail := range w.Cloud.Mails() {
		if mail.To == address {
			n++
		}
	}
	return n
}

func TestAnOfferThatIsToBeReplaced(t *testing.T) {
	t.Run("stays if it was redeemed since the last sync", func(t *testing.T) {
		for name, replace := range map[string]func(*world){
			"by reissuing it": func(w *world) { w.reissue(1, "new@home.example") },
			"by another offer": func(w *world) {
				n := w.NewOffer(1)
				n.Email, n.Name = "new@home.example", "another name"
				_, err := w.CreateOffer(w.Context(), n)
				w.Must(err)
			},
		} {
			w := sent(t, 2)
			w.redeem(1, time.Time{})
			replace(w)
			run := w.mustSync(sponsor.Completed)
			o := w.own(1)
			if o.State != sponsor.Active || o.Reissue || o.ToDelete || o.Email != cloudtest.Address(1) || o.Problem == "" || run.Counts.Refreshed != 2 {
				t.Errorf("%s: %+v, %+v", name, run.Counts, o)
			}
			if row := w.row(1); row.ToDelete || row.SponsoredOrganizationID == "" {
				t.Errorf("%s: the cloud has %+v", name, row)
			}
			w.expectCloud(2, 2)
			w.twiceClean()
			// It has its own name again.
			_, err := w.RevokeNamed(t.Context(), w.Org, "Family 1")
			w.Must(err)
			if o := w.own(1); o.State != sponsor.Revoking {
				t.Errorf("%s: %+v", name, o)
			}
		}
	})

	t.Run("is not asked after once its deletion may have been carried out", func(t *testing.T) {
		for name, begin := range map[string]func(*world){
			"by the reissue": func(w *world) { w.reissue(1, "new@home.example") },
			"by a revocation before it": func(w *world) {
				w.revoke(1)
				w.faultSyncs(emulator.Fault{When: emulator.AfterCommit, Action: emulator.Close})
				w.mustFail("network_mid")
				n := w.NewOffer(1)
				n.Email = "new@home.example"
				_, err := w.CreateOffer(w.Context(), n)
				w.Must(err)
			},
		} {
			w := sent(t, 1)
			begin(w)
			deletion := emulator.Match{Func: func(r emulator.Request) bool { return r.Deletes > 0 }}
			w.faultSyncs(emulator.Fault{Match: deletion, When: emulator.AfterCommit, Action: emulator.Close})
			w.mustFail("network_mid")
			if len(w.Cloud.Rows()) != 0 {
				t.Fatalf("%s: the deletion was not carried out", name)
			}
			w.fault()
			w.mustSync(sponsor.Completed)
			if n := w.mailsTo(cloudtest.Address(1)); n != 1 || w.mailsTo("new@home.example") != 1 {
				t.Errorf("%s: the address that is no longer offered anything got %d mails", name, n)
			}
			w.twiceClean()
		}
	})

	t.Run("is deleted unasked if the cloud never confirmed it", func(t *testing.T) {
		w := offering(t, 1)
		w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 503})
		w.mustFail("cloud_error")
		w.reissue(1, "new@home.example")
		w.fault()
		w.mustSync(sponsor.Completed)
		if n := w.mailsTo(cloudtest.Address(1)); n != 0 || w.mailsTo("new@home.example") != 1 {
			t.Errorf("the address that was wrong got %d mails", n)
		}
	})

	t.Run("is one of many", func(t *testing.T) {
		w := sent(t, 20, cloudtest.BatchOf(4))
		for n := 1; n <= 12; n++ {
			switch n % 3 {
			case 0:
				w.redeem(n, time.Time{})
				w.reissue(n, fmt.Sprintf("new%d@home.example", n))
			case 1:
				w.reissue(n, fmt.Sprintf("new%d@home.example", n))
			case 2:
				w.revoke(n)
			}
		}
		run := w.mustSync(sponsor.Completed)
		if c := run.Counts; c.Removed != 8 || c.Sent != 4 || c.Refreshed != 12 || c.Kept != 0 {
			t.Errorf("%+v", c)
		}
		w.expectStates(states{sponsor.Sent: 12, sponsor.Active: 4})
		w.expectCloud(16, 24)
		w.twiceClean()
	})
}
