package sponsor_test

import (
	"slices"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

const week = 7 * 24 * time.Hour

// failing has the cloud fail for a time from now on, whatever is sent.
func (w *world) failing(d time.Duration) {
	w.Helper()
	back := w.Clock.Now().Add(d)
	w.faultSyncs(emulator.Fault{Match: emulator.Match{Func: func(emulator.Request) bool { return w.Clock.Now().Before(back) }}, Action: emulator.Status, Status: 500})
}

func TestAShortOutageBlamesNoOffer(t *testing.T) {
	for name, outage := range map[string]func(*world){
		"of three requests": func(w *world) { w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 500, Times: 3}) },
		"of four requests":  func(w *world) { w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 500, Times: 4}) },
		"of a refusal that nobody can make out": func(w *world) {
			w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 400, Body: `{}`, Times: 1})
		},
		"of some seconds": func(w *world) { w.failing(5 * time.Second) },
		"that comes again": func(w *world) {
			n := 0
			w.faultSyncs(emulator.Fault{Match: emulator.Match{Func: func(emulator.Request) bool {
				n++
				return n <= 3 || n == 6 // 4 and 5 find out why
			}}, Action: emulator.Status, Status: 500})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := sent(t, 1)
			w.redeem(1, time.Time{})
			w.mustSync(sponsor.Completed)
			outage(w)
			run := w.mustSync(sponsor.Completed)
			if o := w.own(1); o.Quarantined != "" || o.State != sponsor.Active || run.Counts.Refreshed != 1 {
				t.Errorf("%+v, %+v", run.Counts, o)
			}
			w.twiceClean()
		})
	}
}

func TestAnOutageWhileABadOfferIsLookedForBlamesNobodyElse(t *testing.T) {
	w := offering(t, 16)
	var down time.Time
	w.faultSyncs(emulator.Fault{Match: emulator.Match{Func: func(r emulator.Request) bool {
		if slices.Contains(r.Keys, cloudtest.Member(5)) && len(r.Keys) == 2 && down.IsZero() {
			down = w.Clock.Now() // it is nearly found, and the cloud goes down for long
		}
		return slices.Contains(r.Keys, cloudtest.Member(5)) || !down.IsZero() && w.Clock.Now().Sub(down) < time.Hour
	}}, Action: emulator.Status, Status: 500})
	w.mustFail("cloud_error")
	if down.IsZero() {
		t.Fatal("the outage did not come")
	}
	for _, o := range w.all() {
		if o.Quarantined != "" {
			t.Errorf("quarantined: %+v", o)
		}
	}
	w.Clock.Pass(time.Hour)
	if run := w.mustSync(sponsor.CompletedWithWarnings); run.Counts.Quarantined != 1 || w.own(5).Quarantined == "" {
		t.Errorf("%+v", run.Counts)
	}
	w.expectCloud(15, len(w.Cloud.Mails()))
}

func TestARefusedOfferIsTriedAgain(t *testing.T) {
	refuse := func(w *world, members ...int) {
		rules := make([]emulator.Fault, len(members))
		for i, n := range members {
			rules[i] = emulator.Fault{Match: withOffer(n), Action: emulator.Status, Status: 500}
		}
		w.faultSyncs(rules...)
	}
	refused := func(t *testing.T) *world {
		w := offering(t, 6)
		refuse(w, 2, 3)
		w.mustSync(sponsor.CompletedWithWarnings)
		if w.own(2).Quarantined != "refused_by_cloud" || w.own(3).Quarantined != "refused_by_cloud" {
			t.Fatalf("%+v", w.all())
		}
		w.Cloud.Forget()
		return w
	}

	t.Run("after a week, alone", func(t *testing.T) {
		w := refused(t)
		w.Clock.Pass(week - 2*time.Hour)
		w.mustSync(sponsor.CompletedWithWarnings)
		if posts := w.posts(true); len(posts) != 1 {
			t.Errorf("%d posts before the week is over", len(posts))
		}
		w.Clock.Pass(2 * time.Hour)
		refuse(w, 3)
		w.Cloud.Forget()
		run := w.mustSync(sponsor.CompletedWithWarnings)
		if run.Counts.Sent != 1 || run.Counts.Quarantined != 1 || run.Counts.Refreshed != 4 {
			t.Errorf("%+v", run.Counts)
		}
		for _, post := range w.posts(false) {
			if len(post.Keys) > 1 && (slices.Contains(post.Keys, cloudtest.Member(2)) || slices.Contains(post.Keys, cloudtest.Member(3))) {
				t.Errorf("tried among others: %q", post.Keys)
			}
		}
		if o := w.own(2); o.Quarantined != "" || o.Problem != "" || o.State != sponsor.Sent {
			t.Errorf("%+v", o)
		}
		// For the other a week begins anew.
		w.fault()
		w.Clock.Pass(week / 2)
		w.Cloud.Forget()
		w.mustSync(sponsor.CompletedWithWarnings)
		if posts := w.posts(true); len(posts) != 1 || w.own(3).Quarantined == "" {
			t.Errorf("%d posts", len(posts))
		}
	})

	t.Run("when it is offered again", func(t *testing.T) {
		w := refused(t)
		w.MakeOffers(2)
		w.fault()
		if run := w.mustSync(sponsor.CompletedWithWarnings); run.Counts.Sent != 1 || run.Counts.Quarantined != 1 {
			t.Errorf("%+v", run.Counts)
		}
		if o := w.own(2); o.Quarantined != "" || o.State != sponsor.Sent {
			t.Errorf("%+v", o)
		}
		w.expectCloud(5, 1)
	})

	t.Run("when it was redeemed, and can be refreshed no other way", func(t *testing.T) {
		w := sent(t, 2)
		w.redeem(1, time.Time{})
		refuse(w, 1)
		w.mustSync(sponsor.CompletedWithWarnings)
		w.fault()
		w.MakeOffers(1)
		w.mustSync(sponsor.Completed)
		if o := w.own(1); o.Quarantined != "" || o.State != sponsor.Active {
			t.Errorf("%+v", o)
		}
	})

	t.Run("after a week, as a deletion, too", func(t *testing.T) {
		w := sent(t, 2)
		w.redeem(1, time.Time{})
		w.revoke(1)
		refuse(w, 1)
		if run := w.mustSync(sponsor.CompletedWithWarnings); run.Counts.Quarantined != 1 {
			t.Errorf("%+v", run.Counts)
		}
		w.fault()
		if run := w.mustSync(sponsor.CompletedWithWarnings); run.Counts.Requests != 1 {
			t.Errorf("%+v", run.Counts)
		}
		w.Clock.Pass(week)
		w.mustSync(sponsor.Completed)
		if o := w.own(1); o.Quarantined != "" || o.State != sponsor.RevokedUntilExpiry {
			t.Errorf("%+v", o)
		}
	})

	t.Run("not too many in one run", func(t *testing.T) {
		w := offering(t, 30)
		w.faultSyncs(emulator.Fault{Match: emulator.Match{Func: func(r emulator.Request) bool {
			return slices.ContainsFunc(r.Keys, func(key string) bool { return key <= cloudtest.Member(12) && key >= cloudtest.Member(1) })
		}}, Action: emulator.Status, Status: 400, Body: `{}`})
		for range 3 {
			if _, err := w.sync(); err != nil {
				t.Fatal(err)
			}
		}
		if run := w.mustSync(sponsor.CompletedWithWarnings); run.Counts.Quarantined != 12 {
			t.Fatalf("%+v", run.Counts)
		}
		w.fault()
		w.Clock.Pass(week)
		if run := w.mustSync(sponsor.CompletedWithWarnings); run.Counts.Sent != 10 || run.Counts.Quarantined != 2 {
			t.Errorf("%+v", run.Counts)
		}
		if run := w.mustSync(sponsor.Completed); run.Counts.Sent != 2 {
			t.Errorf("%+v", run.Counts)
		}
		w.twiceClean()
	})
}
