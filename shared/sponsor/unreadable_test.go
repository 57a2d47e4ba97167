package sponsor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// exchange puts what is sealed of one member's offer into another's, where it
// cannot be opened, and gives what undoes that.
func (w *world) exchange(from, to int) (undo func()) {
	w.Helper()
	offers := store.NewCollection[map[string]any](store.New(w.Table), "offers")
	put := func(sealed any) (before any) {
		_, err := offers.Update(w.Context(), w.own(to).ID, func(r *store.Record[map[string]any]) error {
			before, r.Value["sealed"] = r.Value["sealed"], sealed
			return nil
		})
		w.Must(err)
		return before
	}
	source, err := offers.Get(w.Context(), w.own(from).ID)
	w.Must(err)
	before := put(source.Value["sealed"])
	return func() { put(before) }
}

func TestAnOfferThatCannotBeRead(t *testing.T) {
	t.Run("does not stop the others, and is sent when it can be read again", func(t *testing.T) {
		w := offering(t, 3)
		undo := w.exchange(1, 2)
		for range 2 {
			if run := w.mustSync(sponsor.CompletedWithWarnings); run.Counts.Quarantined != 1 {
				t.Errorf("%+v", run.Counts)
			}
			w.expectCloud(2, 2)
			if o := w.own(2); o.Quarantined != "unreadable" || o.Problem == "" || o.Email != "" {
				t.Errorf("%+v", o)
			}
		}
		undo()
		w.mustSync(sponsor.Completed)
		if o := w.own(2); o.Quarantined != "" || o.Problem != "" || o.State != sponsor.Sent || o.Email != cloudtest.Address(2) {
			t.Errorf("%+v", o)
		}
		w.expectCloud(3, 3)
		w.twiceClean()
	})

	t.Run("is deleted from the cloud", func(t *testing.T) {
		w := sent(t, 3)
		w.exchange(1, 2)
		w.Must(w.RevokeOffer(t.Context(), w.Org, w.own(2).ID))
		w.Cloud.Forget()
		if run := w.mustSync(sponsor.Completed); run.Counts.Removed != 1 {
			t.Errorf("%+v", run.Counts)
		}
		post := w.posts(false)[0]
		if post.Deletes != 1 || strings.Contains(post.Body, "home.example") {
			t.Errorf("%+v", post)
		}
		w.expectStates(states{sponsor.Sent: 2})
		w.twiceClean()
	})

	t.Run("is not deleted if what was to replace it cannot be read", func(t *testing.T) {
		w := sent(t, 3)
		w.reissue(2, "new@home.example")
		undo := w.exchange(1, 2)
		w.redeem(3, time.Time{})
		for range 2 {
			if run := w.mustSync(sponsor.CompletedWithWarnings); run.Counts.Quarantined != 1 || run.Counts.Refreshed != 2 {
				t.Errorf("%+v", run.Counts)
			}
			w.expectCloud(3, 3)
		}
		undo()
		w.mustSync(sponsor.Completed)
		if r := w.row(2); *r.OfferedToEmail != "new@home.example" {
			t.Errorf("%+v", r)
		}
		w.twiceClean()
		// Or it is taken back.
		w.reissue(1, "new1@home.example")
		w.exchange(3, 1)
		w.mustSync(sponsor.CompletedWithWarnings)
		id := w.own(1).ID
		w.Must(w.RevokeOffer(t.Context(), w.Org, id))
		w.mustSync(sponsor.Completed)
		if _, err := w.Offer(t.Context(), w.Org, id); fault.Of(err) != fault.NotFound {
			t.Errorf("%v", err)
		}
		w.twiceClean()
	})
}
