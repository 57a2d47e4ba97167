package sponsor_test

import (
	"strings"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

func TestOffersAreRefusedInTheOfficialWords(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		change func(*sponsor.NewOffer)
		text   string
		field  string
		class  fault.Class
	}{
		"to oneself":               {func(o *sponsor.NewOffer) { o.Email = strings.ToUpper(o.By.Email) }, "Cannot offer a Families Organization Sponsorship to yourself. Choose a different email.", "", fault.Invalid},
		"by one not confirmed":     {func(o *sponsor.NewOffer) { o.By.Confirmed = false }, "Only confirmed users can sponsor other organizations.", "", fault.Invalid},
		"by nobody":                {func(o *sponsor.NewOffer) { o.By.ID = "me" }, "Unknown Organization User", "", fault.Invalid},
		"by one who may not":       {func(o *sponsor.NewOffer) { o.AdminInitiated, o.By.Manager = true, false }, "You do not have permissions to send sponsorships on behalf of the organization.", "", fault.Unauthenticated},
		"without an address":       {func(o *sponsor.NewOffer) { o.Email = " " }, "The model state is invalid.", "SponsoredEmail", fault.Invalid},
		"to a name":                {func(o *sponsor.NewOffer) { o.Email = "Me <me@home.example>" }, "The model state is invalid.", "SponsoredEmail", fault.Invalid},
		"to an unfinished address": {func(o *sponsor.NewOffer) { o.Email = "me@home" }, "The model state is invalid.", "SponsoredEmail", fault.Invalid},
		"to two lines":             {func(o *sponsor.NewOffer) { o.Email = "me@home.example\nBcc: you@home.example" }, "The model state is invalid.", "SponsoredEmail", fault.Invalid},
		"to a long address":        {func(o *sponsor.NewOffer) { o.Email = strings.Repeat("a", 250) + "@home.example" }, "The model state is invalid.", "SponsoredEmail", fault.Invalid},
		"with a long name":         {func(o *sponsor.NewOffer) { o.Name = strings.Repeat("😀", 129) }, "The model state is invalid.", "FriendlyName", fault.Invalid},
		"with long notes":          {func(o *sponsor.NewOffer) { o.Notes = strings.Repeat("n", 513) }, "The model state is invalid.", "Notes", fault.Invalid},
		"of another kind":          {func(o *sponsor.NewOffer) { o.Plan = 1 }, "The model state is invalid.", "PlanSponsorshipType", fault.Invalid},
		"of no organisation":       {func(o *sponsor.NewOffer) { o.Organization = "ours" }, "Resource not found.", "", fault.NotFound},
		"of one without a licence": {func(o *sponsor.NewOffer) { o.Organization = newGUID() }, "Specified Organization cannot sponsor other organizations.", "", fault.Invalid},
	} {
		offer := w.NewOffer(1)
		c.change(&offer)
		_, err := w.CreateOffer(t.Context(), offer)
		problem, ok := machine.AsProblem(err)
		if !ok || problem.Message != c.text || problem.Class != c.class || c.field != "" && len(problem.Fields[c.field]) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(w.all()); n != 0 {
		t.Errorf("%d offers were made", n)
	}
	if _, err := w.CreateOffer(t.Context(), func() sponsor.NewOffer {
		o := w.NewOffer(1)
		o.Name, o.Notes = strings.Repeat("😀", 128), strings.Repeat("n", 512)
		return o
	}()); err != nil {
		t.Errorf("the longest texts: %v", err)
	}
	for name, change := range map[string]func(*emulator.Organization){
		"Specified Organization cannot sponsor other organizations.":                  func(o *emulator.Organization) { o.PlanType = emulator.TeamsAnnually },
		"Sponsoring organization cannot send admin-initiated sponsorship invitations": func(o *emulator.Organization) { o.License.Set = map[string]any{"UseAdminSponsoredFamilies": false} },
	} {
		w := newWorld(t)
		w.change(change)
		w.Upload()
		offer := w.NewOffer(1)
		offer.AdminInitiated = true
		_, err := w.CreateOffer(t.Context(), offer)
		if problem, ok := machine.AsProblem(err); !ok || problem.Message != name {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheSameOfferAgainChangesNothing(t *testing.T) {
	w := offering(t, 1)
	first := w.own(1)
	w.Clock.Pass(time.Hour)
	w.MakeOffers(1)
	if w.own(1) != first {
		t.Errorf("%+v, before %+v", w.own(1), first)
	}
	w.mustSync(sponsor.Completed)
	w.MakeOffers(1)
	w.expectStates(states{sponsor.Sent: 1})
	w.redeem(1, time.Time{})
	w.mustSync(sponsor.Completed)
	w.MakeOffers(1)
	other := w.NewOffer(1)
	other.Email = "other@home.example"
	_, err := w.CreateOffer(t.Context(), other)
	if problem, ok := machine.AsProblem(err); !ok || problem.Message != "Can only sponsor one organization per Organization User." {
		t.Errorf("%v", err)
	}
	w.twiceClean()
}

func TestAnotherOfferOfTheSameMemberTakesThePlaceOfTheOneBefore(t *testing.T) {
	other := func(w *world) {
		o := w.NewOffer(1)
		o.Email, o.Name = "other@home.example", "Others"
		if _, err := w.CreateOffer(w.Context(), o); err != nil {
			w.Fatal(err)
		}
	}
	t.Run("at once if it was never sent", func(t *testing.T) {
		w := offering(t, 1)
		other(w)
		if o := w.own(1); o.State != sponsor.Pending || o.Email != "other@home.example" {
			t.Errorf("%+v", o)
		}
		w.mustSync(sponsor.Completed)
		w.expectCloud(1, 1)
	})
	t.Run("after its removal if it was", func(t *testing.T) {
		w := sent(t, 1)
		other(w)
		w.mustSync(sponsor.Completed)
		w.expectCloud(1, 2)
		w.expectStates(states{sponsor.Sent: 1})
		w.twiceClean()
	})
	t.Run("also of one that was revoked", func(t *testing.T) {
		w := sent(t, 1)
		w.revoke(1)
		other(w)
		if o := w.own(1); o.Email != "other@home.example" || o.ToDelete {
			t.Errorf("%+v", o)
		}
		w.mustSync(sponsor.Completed)
		w.expectCloud(1, 2)
		w.twiceClean()
	})
	t.Run("unless that is revoked before it was sent", func(t *testing.T) {
		w := sent(t, 1)
		other(w)
		w.revoke(1)
		w.mustSync(sponsor.Completed)
		w.expectCloud(0, 1)
		w.expectStates(states{})
		w.twiceClean()
	})
	t.Run("and again if it changes while the one before is removed", func(t *testing.T) {
		w := sent(t, 1)
		w.revoke(1)
		w.tap.set(nil, func() {
			w.tap.set(nil, nil)
			other(w)
		})
		w.mustSync(sponsor.Completed)
		w.expectStates(states{sponsor.Sent: 1})
		w.expectCloud(1, 2)
		w.twiceClean()
	})
}

func TestOffersAreRevokedByName(t *testing.T) {
	w := sent(t, 3)
	for _, name := range []string{"FAMILY 2", " family 2 "} {
		_, err := w.RevokeNamed(t.Context(), w.Org, name)
		if (err != nil) != (name != "FAMILY 2") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if o := w.own(2); o.State != sponsor.Revoking {
		t.Errorf("%+v", o)
	}
	for _, name := range []string{"", "Family 9"} {
		_, err := w.RevokeNamed(t.Context(), w.Org, name)
		if problem, ok := machine.AsProblem(err); !ok || problem.Message != "You are not currently sponsoring an organization." {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := w.RevokeOwn(t.Context(), w.Org, cloudtest.Member(9)); fault.Of(err) != fault.Invalid {
		t.Errorf("%v", err)
	}
	// Another organisation's are out of reach.
	if err := w.RevokeOffer(t.Context(), newGUID(), w.own(1).ID); fault.Of(err) != fault.Invalid {
		t.Errorf("%v", err)
	}
	if _, err := w.Offer(t.Context(), newGUID(), w.own(1).ID); fault.Of(err) != fault.NotFound {
		t.Errorf("%v", err)
	}
	// A name is free again when its offer is revoked, and taken before.
	taken := w.NewOffer(4)
	taken.Name = "Family 1"
	_, err := w.CreateOffer(t.Context(), taken)
	if fault.Of(err) != fault.Conflict {
		t.Errorf("%v", err)
	}
	taken.Name = "Family 2"
	if _, err := w.CreateOffer(t.Context(), taken); err != nil {
		t.Errorf("%v", err)
	}
	w.mustSync(sponsor.Completed)
	w.expectStates(states{sponsor.Sent: 3})
	w.expectGood()
}

func TestAnOfferThatWasNeverSentIsRevokedAtOnce(t *testing.T) {
	w := offering(t, 2)
	w.Must(w.RevokeOffer(t.Context(), w.Org, w.own(1).ID))
	w.expectStates(states{sponsor.Pending: 1})
	w.mustSync(sponsor.Completed)
	w.expectCloud(1, 1)
}

func TestConnections(t *testing.T) {
	w := newWorld(t)
	c := w.Connect()
	if c.Organization != w.Org || c.CloudOrganization != w.Cloud.OrgID || c.KeyEnd != w.Cloud.Key[26:] || c.KeyRevision != 1 || !c.Probe.Good() || !c.Enabled {
		t.Errorf("%+v", c)
	}
	_, err := w.save()
	if problem, ok := machine.AsProblem(err); !ok || !strings.HasPrefix(problem.Message, "The requested organization already has a connection of type CloudBillingSync.") {
		t.Errorf("%v", err)
	}
	again, err := w.paste(w.Cloud.Key)
	if err != nil || again.KeyRevision != 1 || again.KeyFingerprint != c.KeyFingerprint {
		t.Errorf("the same key: %+v %v", again, err)
	}
	for _, key := range []string{"a key", "ключ", strings.Repeat("k", 200)} {
		_, err := w.paste(key)
		if key != "ключ" && fault.Of(err) != fault.Invalid || err == nil {
			t.Errorf("%q: %v", key, err)
		}
	}
	// While a run has the lease the key is kept and not tried.
	w.MakeOffers(1)
	fresh, err := w.Cloud.RotateKey(w.Cloud.OrgID)
	w.Must(err)
	w.tap.set(func() {
		w.tap.set(nil, nil)
		c, err := w.NewProcess().UpdateConnection(t.Context(), sponsor.Connect{Organization: w.Org, Enabled: true, Key: config.Secret(fresh)})
		if err != nil || c.Probe.Good() || c.Probe.At != nil || c.KeyRevision != 2 {
			t.Errorf("during a run: %+v %v", c, err)
		}
	}, nil)
	w.mustFail("key_invalid")
	// What was refused is the key before.
	if status := w.status(); status.KeyRefused {
		t.Errorf("%+v", status)
	}
	probed, err := w.probe()
	if err != nil || !probed.Probe.Good() {
		t.Errorf("%+v %v", probed, err)
	}
	listed, err := w.Health(t.Context())
	if err != nil || len(listed) != 1 || listed[0].Organization != w.Org {
		t.Errorf("%+v %v", listed, err)
	}
	w.Must(w.RemoveConnection(t.Context(), w.Org))
	for what, err := range map[string]error{
		"removed again": w.RemoveConnection(t.Context(), w.Org),
		"read":          func() error { _, err := w.Connection(t.Context(), w.Org); return err }(),
		"probed":        func() error { _, err := w.probe(); return err }(),
		"of no GUID":    func() error { _, err := w.Connection(t.Context(), "x"); return err }(),
	} {
		if fault.Of(err) != fault.NotFound {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.expectGood()
}

func TestAProbeWithoutAnAnswerIsQuietTimeForARun(t *testing.T) {
	w := newWorld(t)
	w.faultSyncs(emulator.Fault{Action: emulator.Hang, Milliseconds: 100_000, Times: 1})
	c, err := w.save()
	if err != nil || c.Probe.Code != "timeout" {
		t.Fatalf("%+v %v", c, err)
	}
	// Nor is the key tried anew before that.
	if c, err := w.probe(); err != nil || c.Probe.At != nil || len(w.posts(true)) != 1 {
		t.Errorf("%+v %v", c, err)
	}
	w.mustSync(sponsor.Completed)
	if posts := w.posts(true); len(posts) != 2 || posts[1].At.Sub(posts[0].At) < 2*time.Minute {
		t.Errorf("%+v", posts)
	}
	w.expectGood()
}

func TestMetricsOfARun(t *testing.T) {
	w := connected(t)
	w.Restart()
	w.MakeOffers(3)
	w.faultSyncs(emulator.Fault{Action: emulator.DropItems, When: emulator.Before, Keys: []string{cloudtest.Member(2)}, Times: 1})
	w.mustSync(sponsor.CompletedWithWarnings)
	for _, want := range []struct {
		name, label, value string
		sum                float64
	}{
		{sponsor.MetricRuns, "status", "completedWithWarnings", 1}, {sponsor.MetricRuns, "trigger", "manual", 1},
		{sponsor.MetricItems, "outcome", "sent", 2}, {sponsor.MetricItems, "outcome", "notAccepted", 1},
		{sponsor.MetricTokens, "result", "ok", 2},
	} {
		if got := w.metrics.sum(want.name, want.label, want.value); got != want.sum {
			t.Errorf("%s{%s=%s} is %v, not %v", want.name, want.label, want.value, got, want.sum)
		}
	}
	w.Clock.Pass(time.Hour)
	w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 403})
	w.mustFail("forbidden_scope")
	for name, least := range map[string]float64{sponsor.MetricPending: 1, sponsor.MetricOldestPending: 3600, sponsor.MetricSuccessAge: 3600} {
		if got, ok := w.metrics.last(name); !ok || got < least || got > least+60 {
			t.Errorf("%s is %v", name, got)
		}
	}
	status := w.status()
	if status.Pending != 1 || status.ErrorCode != "forbidden_scope" || status.LastSponsorshipSync == nil || status.Failures != 0 {
		t.Errorf("%+v", status)
	}
	last, err := w.LastSync(t.Context(), w.Org)
	if err != nil || last == nil || !last.Equal(*w.own(1).LastSync) {
		t.Errorf("%v %v", last, err)
	}
}

func TestWhatIsKnownOfABatchThatIsGivenUpIsNotLost(t *testing.T) {
	w := offering(t, 200, cloudtest.BatchOf(200))
	// More bad ones than a run looks for.
	for _, attempt := range []bool{true, false} {
		var rules []emulator.Fault
		for n := 10; n <= 200; n += 20 {
			rules = append(rules, emulator.Fault{Match: withOffer(n), Action: emulator.Status, Status: 500})
		}
		w.faultSyncs(rules...)
		run, err := w.sync()
		if attempt && (codeOf(err) != "cloud_error" || run.Counts.Requests < 100 || run.Counts.Requests > 110) {
			t.Fatalf("%+v %v", run, err)
		}
		for range 5 {
			if err == nil {
				break
			}
			run, err = w.sync()
		}
		if !attempt && (err != nil || run.Counts.Quarantined != 10) {
			t.Errorf("%+v %v", run, err)
		}
	}
	w.expectStates(states{sponsor.Sent: 190, sponsor.Pending: 10})
	w.expectGood()
}
