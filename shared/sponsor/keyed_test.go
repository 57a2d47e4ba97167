package sponsor_test

import (
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// offerTo is an administrator's offer, and is done again as often as a client
// likes.
func (w *world) offerTo(email, name string) sponsor.Offer {
	w.Helper()
	n := w.NewOffer(1)
	n.AdminInitiated, n.Email, n.Name = true, email, name
	o, err := w.CreateOffer(w.Context(), n)
	w.Must(err)
	return o
}

func (w *world) reissueTo(id, email string) {
	w.Helper()
	_, err := w.ReissueOffer(w.Context(), sponsor.Reissue{Organization: w.Org, ID: id, Email: email})
	w.Must(err)
}

func (w *world) expectMailsTo(email string, n int) {
	w.Helper()
	if got := w.mailsTo(email); got != n {
		w.Errorf("%d mails to %s, not %d", got, email, n)
	}
}

func TestAnAdministratorsOfferIsFoundByWhatItIsNow(t *testing.T) {
	const a, b = "a@home.example", "b@home.example"
	for what, name := range map[string]string{"without a name": "", "with a name": "Family"} {
		t.Run(what+", once it was made anew to that address", func(t *testing.T) {
			w := connected(t, perOffer)
			made := w.offerTo(a, name)
			w.mustSync(sponsor.Completed)
			w.reissueTo(made.ID, b)
			if again := w.offerTo("B@home.example", name); again.ID != made.ID || !again.Reissue {
				t.Errorf("%+v", again)
			}
			w.mustSync(sponsor.Completed)
			if again := w.offerTo(b, name); again.ID != made.ID {
				t.Errorf("%+v", again)
			}
			w.mustSync(sponsor.Completed)
			w.expectMailsTo(b, 1)
			w.expectCloud(1, 2)
		})
	}

	t.Run("also when the one that was the same before is gone", func(t *testing.T) {
		w := connected(t, perOffer)
		first := w.offerTo(a, "")
		w.mustSync(sponsor.Completed)
		w.reissueTo(first.ID, b)
		second := w.offerTo(a, "")
		w.mustSync(sponsor.Completed)
		w.Must(w.RevokeOffer(t.Context(), w.Org, first.ID))
		w.mustSync(sponsor.Completed)
		if again := w.offerTo(a, ""); again.ID != second.ID {
			t.Errorf("%+v", again)
		}
		w.mustSync(sponsor.Completed)
		w.expectMailsTo(a, 2) // one by each
		w.expectCloud(1, 3)
		// Also when it is being removed.
		w.Must(w.RevokeOffer(t.Context(), w.Org, second.ID))
		if again := w.offerTo(a, ""); again.ID != second.ID || !again.Reissue {
			t.Errorf("%+v", again)
		}
	})

	t.Run("unless it was redeemed and revoked", func(t *testing.T) {
		w := connected(t, perOffer)
		first := w.offerTo(a, "")
		w.mustSync(sponsor.Completed)
		w.Must(w.Cloud.Redeem(w.Cloud.OrgID, first.Key, time.Time{}))
		w.mustSync(sponsor.Completed)
		if again := w.offerTo(a, ""); again.ID != first.ID {
			t.Errorf("%+v", again)
		}
		w.Must(w.RevokeOffer(t.Context(), w.Org, first.ID))
		for range 2 {
			if second := w.offerTo(a, ""); second.Key == first.Key || second.ToDelete {
				t.Errorf("%+v", second)
			}
			w.mustSync(sponsor.Completed)
		}
		w.expectStates(states{sponsor.RevokedUntilExpiry: 1, sponsor.Sent: 1})
		w.expectMailsTo(a, 2)
		w.twiceClean()
	})

	t.Run("and is not made anew to where another one goes", func(t *testing.T) {
		w := connected(t, perOffer)
		w.offerTo(a, "")
		second := w.offerTo(b, "")
		w.MakeOffersOf(2, 2)
		_, err := w.ReissueOffer(t.Context(), sponsor.Reissue{Organization: w.Org, ID: second.ID, Email: a})
		if problem, ok := machine.AsProblem(err); !ok || problem.Class != fault.Conflict || problem.Message != "Another offer of the same administrator goes to that address." {
			t.Errorf("%v", err)
		}
		w.reissueTo(second.ID, cloudtest.Address(2)) // that one is somebody else's
		w.mustSync(sponsor.Completed)
		w.expectCloud(3, 3)
	})
}

func TestAnOfferHasSoManyNamesakes(t *testing.T) {
	const a = "a@home.example"
	w := connected(t, perOffer)
	var made []sponsor.Offer
	for i := range 16 {
		made = append(made, w.offerTo(a, ""))
		w.reissueTo(made[i].ID, cloudtest.Address(i+1))
	}
	n := w.NewOffer(1)
	n.AdminInitiated, n.Email, n.Name = true, a, ""
	if _, err := w.CreateOffer(t.Context(), n); fault.Of(err) != fault.Invalid {
		t.Fatalf("%v", err)
	}
	w.Must(w.RevokeOffer(t.Context(), w.Org, made[7].ID))
	if again := w.offerTo(a, ""); again.ID != made[7].ID {
		t.Errorf("%+v", again)
	}
}

func TestARedeemedOfferThatWasRevokedIsNotReplacedBeforeTheCloudKnows(t *testing.T) {
	w := sent(t, 1)
	w.redeem(1, time.Time{})
	w.mustSync(sponsor.Completed)
	w.revoke(1)
	for _, email := range []string{"new@home.example", cloudtest.Address(1)} {
		n := w.NewOffer(1)
		n.Email = email
		_, err := w.CreateOffer(t.Context(), n)
		if problem, ok := machine.AsProblem(err); !ok || problem.Message != "Can only sponsor one organization per Organization User." {
			t.Errorf("%v", err)
		}
	}
	w.mustSync(sponsor.Completed)
	w.expectStates(states{sponsor.RevokedUntilExpiry: 1})
	w.expectCloud(1, 1)
}

// Who runs has no access to the key that names are found by.
func TestARunPutsANameBackThatItCannotMake(t *testing.T) {
	w := sent(t, 1)
	w.redeem(1, time.Time{})
	_, err := w.ReissueOffer(t.Context(), sponsor.Reissue{Organization: w.Org, ID: w.own(1).ID, Email: "new@home.example", Name: "New"})
	w.Must(err)
	// Twice, and the name before stays the first one.
	_, err = w.ReissueOffer(t.Context(), sponsor.Reissue{Organization: w.Org, ID: w.own(1).ID, Name: "Newer"})
	w.Must(err)
	w.Restart()
	w.queue()
	noKey := storetest.Fault{Method: storetest.Get, Collection: "offer-name-keys"}
	w.faults.Inject(noKey)
	if run, err := w.Run(t.Context(), w.Org); err != nil || run.Status != sponsor.Completed || w.faults.Pending() != 1 {
		t.Fatalf("%+v %v", run, err)
	}
	w.faults.Reset()
	for _, name := range []string{"New", "Newer"} {
		if _, err := w.RevokeNamed(t.Context(), w.Org, name); fault.Of(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.RevokeNamed(t.Context(), w.Org, "Family 1"); err != nil {
		t.Error(err)
	}
}
