package sponsor_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

// TestT63 is the property that everything else serves: whatever fails after the
// cloud has done its work, offers here and there become the same, nobody gets two
// mails of one offer, and nothing revoked is left.
func TestT63OffersConvergeWhateverFailsAfterTheCommit(t *testing.T) {
	// Many seeds of few offers find what few seeds of many do; some of many show
	// that nothing depends on there being few. Many of many take minutes.
	sizes := map[int]int{500: 100, 10_000: 2} // seeds by offers
	switch {
	case testing.Short():
		sizes = map[int]int{400: 4}
	case os.Getenv("CI") == "true":
		sizes = map[int]int{10_000: 100}
	}
	for offers, seeds := range sizes {
		for seed := range seeds {
			t.Run(fmt.Sprintf("%d offers, seed %d", offers, seed), func(t *testing.T) { converge(t, uint64(seed), offers) })
		}
	}
}

func converge(t *testing.T, seed uint64, offers int) {
	random := rand.New(rand.NewPCG(seed, 63))
	batch := max(20, offers/40) // so that some twenty batches or more can fail
	w := connected(t, cloudtest.BatchOf(batch), limited, seeded(seed))
	w.MakeOffers(offers / 10)
	rows := make([]sponsor.LegacyOffer, 0, offers)
	for n := offers/10 + 1; n <= offers; n++ {
		// Taking rows over is the quicker way to have many.
		rows = append(rows, sponsor.LegacyOffer{ID: cloudtest.Member(n), OrganizationUserID: cloudtest.Member(n), Email: cloudtest.Address(n), FriendlyName: fmt.Sprintf("Family %d", n)})
	}
	if done, err := w.take(rows...); err != nil || done.Taken != len(rows) {
		t.Fatalf("%+v %v", done, err)
	}
	// Creations meet failures, too.
	w.disturb(random)
	w.settle()
	revoked := map[int]bool{}
	for len(revoked) < offers/20 {
		n := 1 + random.IntN(offers)
		if !revoked[n] {
			revoked[n] = true
			if random.IntN(10) == 0 {
				w.redeem(n, time.Time{})
			}
			w.revoke(n)
		}
	}
	w.disturb(random)
	w.settle()
	w.fault()
	before, mails := w.expectSame(), len(w.Cloud.Mails())
	w.mustSync(sponsor.Completed)
	if after := w.expectSame(); after != before || len(w.Cloud.Mails()) != mails {
		t.Error("a clean run changed something")
	}
}

// disturb makes random batches fail after the cloud has committed them.
func (w *world) disturb(random *rand.Rand) {
	w.Helper()
	actions := []emulator.Fault{
		{Action: emulator.Status, Status: 500}, {Action: emulator.Status, Status: 503}, {Action: emulator.Close}, {Action: emulator.HTML},
		{Action: emulator.Hang, Milliseconds: 90_000}, {Action: emulator.Truncate, Bytes: 100}, {Action: emulator.BadJSON},
	}
	var rules []emulator.Fault
	for nth := 1; nth <= 120; nth++ {
		if random.IntN(4) > 0 {
			continue
		}
		f := actions[random.IntN(len(actions))]
		f.Match.Nth, f.When = nth, emulator.AfterCommit
		if random.IntN(3) == 0 {
			f.When = emulator.AfterMail
		}
		rules = append(rules, f)
	}
	w.faultSyncs(rules...)
}

// settle runs until a run succeeds.
func (w *world) settle() {
	w.Helper()
	for range 20 {
		if run, err := w.sync(); err == nil && run.Status.Finished() {
			return
		}
	}
	w.Fatal("no run succeeds")
}

// expectSame compares all offers with all rows, and gives what of them a clean
// run must not change.
func (w *world) expectSame() string {
	w.Helper()
	rows := w.Cloud.Rows()
	byKey := make(map[string]emulator.Sponsorship, len(rows))
	for _, row := range rows {
		byKey[row.OfferKey] = row
	}
	here := w.all()
	if len(byKey) != len(rows) || len(here) != len(rows) {
		w.Fatalf("%d offers, %d rows, %d keys", len(here), len(rows), len(byKey))
	}
	var shape strings.Builder
	for _, o := range here {
		fmt.Fprintln(&shape, o.ID, o.Key, o.State, o.Email, o.Name, o.ValidUntil, o.Quarantined, byKey[o.Key].ID, byKey[o.Key].ToDelete)
		row, known := byKey[o.Key]
		redeemed := row.SponsoredOrganizationID != ""
		want := sponsor.Sent
		switch {
		case redeemed && row.ToDelete:
			want = sponsor.RevokedUntilExpiry
		case redeemed:
			want = sponsor.Active
		}
		if !known || o.State != want || o.LastSync == nil || row.LastSyncDate.Sub(*o.LastSync).Abs() > time.Microsecond {
			w.Fatalf("%+v\nbeside\n%+v", o, row)
		}
	}
	for of, n := range w.Cloud.MailCounts() {
		if n > 1 {
			w.Fatalf("%d mails of %+v", n, of)
		}
	}
	for _, v := range w.Cloud.Violations() {
		w.Fatalf("violation: %s", v)
	}
	return shape.String()
}
