package sponsor_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/sponsor/cloud"
)

// expectThreeOffersSent is the happy path: one token, one request, one mail each.
func (w *world) expectThreeOffersSent() {
	w.Helper()
	w.Restart()
	w.MakeOffers(3)
	w.Cloud.Advance(time.Minute) // now it shows whose time an offer has
	began := w.Cloud.Now().Truncate(time.Microsecond)
	run := w.mustSync(sponsor.Completed)
	if tokens, posts := w.Cloud.Count(emulator.RouteToken), len(w.posts(true)); run.Counts.Sent != 3 || tokens != 1 || posts != 1 {
		w.Errorf("%+v with %d tokens and %d posts", run.Counts, tokens, posts)
	}
	w.expectStates(states{sponsor.Sent: 3})
	w.expectCloud(3, 3)
	for n := 1; n <= 3; n++ {
		o, row := w.own(n), w.row(n)
		if o.LastSync == nil || o.LastSync.Before(began) || !o.LastSync.Equal(row.LastSyncDate.Truncate(100*time.Nanosecond)) || o.Status().Label != "Sent" {
			w.Errorf("%+v beside %+v", o, row)
		}
	}
	if events := w.Cloud.Events(); len(events) != 1 || events[0].Type != emulator.SponsorshipsSynced {
		w.Errorf("events %+v", events)
	}
	w.twiceClean()
}

func TestTheLifeOfOffers(t *testing.T) {
	t.Run("T01 pending offers are sent and mailed once", func(t *testing.T) { connected(t).expectThreeOffersSent() })

	t.Run("T02 with nothing to send an empty batch asks about the key", func(t *testing.T) {
		w := connected(t)
		run := w.mustSync(sponsor.Completed)
		if posts := w.posts(true); len(posts) != 1 || !strings.Contains(posts[0].Body, `"sponsorshipsBatch":[]`) || posts[0].Status != http.StatusOK || run.Counts.Requests != 1 {
			t.Errorf("%+v, %+v", posts, run.Counts)
		}
		w.Config.Settings.SyncProbe = false
		w.Restart()
		w.Cloud.Forget()
		if run := w.mustSync(sponsor.Completed); len(w.posts(true)) != 0 || run.Counts.Requests != 0 {
			t.Errorf("without the probe: %+v", run.Counts)
		}
	})

	t.Run("T03 a redeemed offer becomes active", func(t *testing.T) {
		w := sent(t, 2)
		until := w.Cloud.Now().AddDate(1, 0, 0).Truncate(time.Second)
		w.redeem(1, until)
		w.mustSync(sponsor.Completed)
		if o := w.own(1); o.State != sponsor.Active || o.ValidUntil == nil || !o.ValidUntil.Equal(until) || o.Status().Label != "Active" {
			t.Errorf("%+v", o)
		}
		w.expectStates(states{sponsor.Sent: 1, sponsor.Active: 1})
		w.twiceClean()
	})

	t.Run("T04 a revoked offer that nobody redeemed is removed", func(t *testing.T) {
		w := sent(t, 2)
		w.revoke(1)
		if o := w.own(1); o.Status().Label != "Removed (awaiting sync)" || o.Status().Key != "requestRemoved" {
			t.Errorf("%+v", o.Status())
		}
		w.Cloud.Forget()
		run := w.mustSync(sponsor.Completed)
		posts := w.posts(false)
		if run.Counts.Removed != 1 || len(posts) != 2 || !slices.Equal(posts[0].Keys, []string{cloudtest.Member(1)}) || posts[0].Deletes != 1 ||
			!strings.Contains(posts[0].Body, `"lastSyncDate":null`) {
			t.Errorf("%+v, %+v", run.Counts, posts)
		}
		if _, err := w.OwnOffer(t.Context(), w.Org, cloudtest.Member(1)); fault.Of(err) != fault.NotFound {
			t.Errorf("it is still here: %v", err)
		}
		w.expectCloud(1, 0)
		w.twiceClean()
	})

	t.Run("T05 a revoked offer that was redeemed lasts until its end", func(t *testing.T) {
		w := sent(t, 1)
		until := time.Date(2132, 2, 29, 0, 0, 0, 0, time.UTC)
		w.redeem(1, until)
		w.mustSync(sponsor.Completed)
		w.revoke(1)
		w.mustSync(sponsor.Completed)
		if o := w.own(1); o.State != sponsor.RevokedUntilExpiry || o.Status() != (sponsor.Status{Key: "revokeWhenExpired", Label: "Expires 02/29/2132"}) {
			t.Errorf("%+v %+v", o, o.Status())
		}
		if rows := w.Cloud.Rows(); len(rows) != 1 || !rows[0].ToDelete {
			t.Errorf("%+v", rows)
		}
		w.twiceClean()
		w.Cloud.SetClock(until.AddDate(0, 0, 91))
		if n := w.Cloud.Purge(); n != 1 {
			t.Errorf("%d rows were purged", n)
		}
		w.mustSync(sponsor.Completed)
		w.expectStates(states{})
		w.expectCloud(0, 1)
	})

	t.Run("T06 a renewal is followed", func(t *testing.T) {
		w := sent(t, 1)
		w.redeem(1, time.Time{})
		w.mustSync(sponsor.Completed)
		until := w.Cloud.Now().AddDate(2, 0, 0).Truncate(time.Second)
		w.Must(w.Cloud.Renew(w.Cloud.OrgID, cloudtest.Member(1), until))
		w.mustSync(sponsor.Completed)
		if o := w.own(1); o.State != sponsor.Active || !o.ValidUntil.Equal(until) {
			t.Errorf("%+v", o)
		}
	})

	t.Run("T07 all rows of the table of statuses", func(t *testing.T) {
		at := time.Date(2031, 12, 9, 23, 0, 0, 0, time.UTC)
		for _, c := range []struct {
			name string
			of   sponsor.StatusFacts
			want sponsor.Status
		}{
			{"revoked and redeemed", sponsor.StatusFacts{SelfHosted: true, ToDelete: true, LastSync: &at, ValidUntil: &at}, sponsor.Status{Key: "revokeWhenExpired", Label: "Expires 12/09/2031"}},
			{"revoked", sponsor.StatusFacts{SelfHosted: true, ToDelete: true, LastSync: &at}, sponsor.Status{Key: "requestRemoved", Label: "Removed (awaiting sync)"}},
			{"redeemed", sponsor.StatusFacts{SelfHosted: true, LastSync: &at, ValidUntil: &at}, sponsor.Status{Key: "active", Label: "Active"}},
			{"synced", sponsor.StatusFacts{SelfHosted: true, LastSync: &at}, sponsor.Status{Key: "sent", Label: "Sent"}},
			{"in the cloud", sponsor.StatusFacts{}, sponsor.Status{Key: "sent", Label: "Sent"}},
			{"new", sponsor.StatusFacts{SelfHosted: true}, sponsor.Status{Key: "requested", Label: "Requested"}},
		} {
			if got := c.of.Status(); got != c.want {
				t.Errorf("%s: %+v", c.name, got)
			}
		}
		w := newWorld(t)
		w.MakeOffers(1)
		if got := w.own(1).Status().Label; got != "Requested" {
			t.Error(got)
		}
	})
}

func TestTokens(t *testing.T) {
	t.Run("T10 a token that ends during a run is replaced once", func(t *testing.T) {
		w := connected(t, cloudtest.BatchOf(2))
		w.Restart()
		w.MakeOffers(6)
		w.faultSyncs(emulator.Fault{Match: emulator.Match{Nth: 2}, Action: emulator.TokenExpired})
		run := w.mustSync(sponsor.Completed)
		posts := w.posts(true)
		if run.Counts.Sent != 6 || w.Cloud.Count(emulator.RouteToken) != 2 || len(posts) != 4 {
			t.Fatalf("%+v, %d tokens, %d posts", run.Counts, w.Cloud.Count(emulator.RouteToken), len(posts))
		}
		if refused, again := posts[1], posts[2]; refused.Status != http.StatusUnauthorized || !slices.Equal(refused.Keys, again.Keys) || refused.TokenID == again.TokenID {
			t.Errorf("%+v is followed by %+v", refused, again)
		}
		w.expectCloud(6, 6)
		w.twiceClean()
	})

	t.Run("T11 a token is renewed before its end", func(t *testing.T) {
		w := connected(t)
		w.mustSync(sponsor.Completed)
		w.Cloud.Forget()
		w.Clock.Pass(21 * time.Hour)
		w.mustSync(sponsor.Completed)
		if tokens := w.Cloud.Count(emulator.RouteToken); tokens != 0 {
			t.Errorf("%d tokens, three hours before the end", tokens)
		}
		w.Clock.Pass(3*time.Hour - 4*time.Minute)
		w.mustSync(sponsor.Completed)
		if tokens, refused := w.Cloud.Count(emulator.RouteToken), w.Cloud.CountStatus(http.StatusUnauthorized); tokens != 1 || refused != 0 {
			t.Errorf("%d tokens, %d refusals", tokens, refused)
		}
	})

	t.Run("T12 a refused installation is not tried again until something changes", func(t *testing.T) {
		w := connected(t)
		good := w.Config.Settings.InstallationKey
		w.Config.Settings.InstallationKey = "another key"
		w.Restart()
		w.mustFail("identity_invalid_client")
		status, err := w.Status(t.Context(), w.Org)
		if err != nil || status.Blocked == nil || status.ErrorCode != "identity_invalid_client" {
			t.Errorf("%+v %v", status, err)
		}
		// Another process, and the schedule: nothing is sent.
		w.Restart()
		w.Cloud.Forget()
		w.Clock.Set(status.NextDue)
		if _, err := w.tick(); codeOf(err) != "identity_invalid_client" {
			t.Errorf("the schedule: %v", err)
		}
		if n := w.Cloud.Count(""); n != 0 {
			t.Errorf("%d requests were sent", n)
		}
		// By hand it is tried.
		w.Cloud.ExpectToken(w.Cloud.Installation.ID)
		w.mustFail("identity_invalid_client")
		if n := w.Cloud.Count(emulator.RouteToken); n != 1 {
			t.Errorf("by hand: %d requests", n)
		}
		// Another configuration is tried by the schedule, too.
		w.Config.Settings.InstallationKey = good
		w.Restart()
		w.Clock.Pass(12 * time.Hour)
		if report, err := w.tick(); err != nil || report.Finished != 1 {
			t.Errorf("with the right key: %+v %v", report, err)
		}
		w.expectGood()
	})

	t.Run("T13 an installation that is disabled keeps its token until that ends", func(t *testing.T) {
		for _, cache := range []time.Duration{0, 5 * time.Minute} {
			w := offering(t, 1, func(s *cloudtest.Setup) { s.Emulator.ClientCache = cache })
			w.Restart()
			w.mustSync(sponsor.Completed)
			w.Must(w.Cloud.DisableInstallation(w.Cloud.Installation.ID))
			w.Cloud.Forget()
			if cache > 0 {
				// Identity has not noticed, and gives even a new token.
				w.Restart()
				w.mustSync(sponsor.Completed)
				w.Clock.Pass(cache)
			}
			w.Clock.Pass(20 * time.Hour)
			w.mustSync(sponsor.Completed)
			if refused := w.Cloud.CountStatus(http.StatusUnauthorized) + w.Cloud.CountStatus(http.StatusBadRequest); refused != 0 {
				t.Errorf("cache of %s: %d refusals", cache, refused)
			}
			w.Clock.Pass(4 * time.Hour) // and with them the token ends
			w.mustFail("identity_invalid_client")
			w.expectGood()
		}
		// Who has no token learns of it at once, or when the cache is over.
		for _, cache := range []time.Duration{0, 5 * time.Minute} {
			w := offering(t, 1, func(s *cloudtest.Setup) { s.Emulator.ClientCache = cache })
			w.Must(w.Cloud.DisableInstallation(w.Cloud.Installation.ID))
			w.Clock.Pass(cache)
			w.Restart()
			w.mustFail("identity_invalid_client")
		}
	})

	t.Run("T14 identity that fails, refuses for a while or hangs is asked again", func(t *testing.T) {
		for name, f := range map[string]emulator.Fault{
			"429":      {Action: emulator.Status, Status: 429, Headers: map[string]string{"Retry-After": "3"}},
			"503":      {Action: emulator.HTML, Status: 503},
			"it hangs": {Action: emulator.Hang, Milliseconds: 90_000},
		} {
			w := offering(t, 2)
			w.Restart()
			f.Match.Route, f.Times = emulator.RouteToken, 2
			w.fault(f)
			run := w.mustSync(sponsor.Completed)
			if n := w.Cloud.Count(emulator.RouteToken); n != 3 || run.Counts.Retries != 2 {
				t.Errorf("%s: %d token requests, %+v", name, n, run.Counts)
			}
			if waits := w.Clock.Waits(); f.Status == 429 && waits[len(waits)-1] < 3*time.Second {
				t.Errorf("it waited %v", waits)
			}
			w.expectCloud(2, 2)
		}
		// One that does not come back is given up: no more than ten calls a minute,
		// which the cloud looks after, however often somebody tries by hand.
		w := offering(t, 2)
		w.Restart()
		w.fault(emulator.Fault{Match: emulator.Match{Route: emulator.RouteToken}, Action: emulator.Status, Status: 503})
		for range 3 {
			if run := w.mustFail("cloud_error"); run.Counts.Retries != 5 || run.Counts.Requests != 0 {
				t.Errorf("%+v", run.Counts)
			}
		}
		if n := w.Cloud.Count(emulator.RouteToken); n < 10 || w.Cloud.Count(emulator.RouteSync) != 0 {
			t.Errorf("%d token requests", n)
		}
		w.expectGood()
	})

	t.Run("T14 what is held back for the limit of identity is no try", func(t *testing.T) {
		// After so short waits the sixth try comes too early for a sixth token.
		early := func(w *world) {
			w.Config.Random = func() float64 { return 0.1 }
			w.Restart()
		}
		w := offering(t, 2)
		early(w)
		w.Cloud.Transport.Break(w.Cloud.IdentityURL(), errBroken)
		if run := w.mustFail("network_pre"); run.Counts.Retries != 5 || run.Counts.Requests != 0 {
			t.Errorf("%+v", run.Counts)
		}
		if waits := w.Clock.Waits(); slices.Max(waits) < 5*time.Second {
			t.Errorf("it waited %v", waits)
		}

		// Who has no time to wait leaves it, with as many tries as there were.
		w = offering(t, 2)
		early(w)
		w.fault(emulator.Fault{Match: emulator.Match{Route: emulator.RouteToken}, Action: emulator.Status, Status: 503})
		w.queue()
		_, err := w.Run(w.Clock.Within(t, w.Config.Settings.RequestTimeout+sponsor.ApplyTime+10*time.Second), w.Org)
		if left, ok := errors.AsType[*sponsor.ContinueError](err); !ok || left.NotBefore.Sub(w.Clock.Now()) > 15*time.Second {
			t.Fatal(err)
		}
		w.Clock.Pass(15 * time.Second)
		if run := w.mustFail("cloud_error"); run.Counts.Retries != 5 {
			t.Errorf("%+v", run.Counts)
		}
		if n := w.Cloud.Count(emulator.RouteToken); n != 6 {
			t.Errorf("%d token requests", n)
		}
		w.expectGood()

		// Nor is it one when the cloud is asked whether it takes offers at all.
		w = sent(t, 2)
		early(w)
		w.mustSync(sponsor.Completed) // which gets a token
		w.revoke(1)
		w.Must(w.Cloud.SetPlan(w.Cloud.OrgID, emulator.TeamsAnnually))
		w.fault(emulator.Fault{Match: emulator.Match{Route: emulator.RouteToken}, Action: emulator.Status, Status: 503},
			emulator.Fault{Match: emulator.Match{Route: emulator.RouteSync, Batch: &emulator.BatchMatch{Key: cloudtest.Member(2)}}, Action: emulator.TokenExpired, Times: 1})
		w.Cloud.Forget()
		w.mustFail("cloud_error")
		if n := w.Cloud.Count(emulator.RouteToken); n != 6 {
			t.Errorf("%d token requests", n)
		}
	})

	t.Run("T15 clocks that differ do no harm and are reported", func(t *testing.T) {
		for _, ahead := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
			w := connected(t)
			w.Cloud.Advance(ahead)
			w.MakeOffers(2)
			w.Restart()
			w.mustSync(sponsor.Completed)
			w.expectCloud(2, 2)
			if skew, ok := w.metrics.last(sponsor.MetricClockSkew); !ok || skew < ahead.Seconds()-2 || skew > ahead.Seconds()+2 {
				t.Errorf("the skew is said to be %v of %s", skew, ahead)
			}
			w.twiceClean()
		}
		w := connected(t)
		w.Cloud.Advance(4 * time.Minute)
		if _, err := w.fetch(); err != nil {
			t.Errorf("a licence of four minutes ahead: %v", err)
		}
		w.Cloud.Advance(6 * time.Minute)
		if _, err := w.fetch(); codeOf(err) != "license_not_yet_valid" {
			t.Errorf("a licence of ten minutes ahead: %v", err)
		}
	})
}

func TestFailuresOfTheCloud(t *testing.T) {
	isTrue := true

	t.Run("T20 failures before the commit are tried again", func(t *testing.T) {
		w := offering(t, 3)
		w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 500, Times: 2})
		run := w.mustSync(sponsor.CompletedWithWarnings)
		if run.Counts.Retries != 2 || w.metrics.sum(sponsor.MetricRetries, "code", "cloud_error") != 2 {
			t.Errorf("%+v", run.Counts)
		}
		w.expectCloud(3, 3)
		w.twiceClean()
	})

	t.Run("T21 a failure after the commit of a creation is no second mail", func(t *testing.T) {
		for _, action := range []emulator.Action{emulator.Status, emulator.Close, emulator.HTML, emulator.Hang} {
			for _, when := range []emulator.When{emulator.AfterCommit, emulator.AfterMail} {
				w := offering(t, 3)
				w.faultSyncs(emulator.Fault{Action: action, Status: 500, When: when, Milliseconds: 100_000, Times: 1})
				run := w.mustSync(sponsor.CompletedWithWarnings)
				if run.Counts.Sent != 3 || run.Counts.MailUncertain != 3 {
					t.Errorf("%s %s: %+v", action, when, run.Counts)
				}
				// What ends between the commit and the mails sends none, now or later.
				want := 3
				if when == emulator.AfterCommit && action != emulator.Hang {
					want = 0
				}
				if n := len(w.Cloud.Mails()); n != want {
					t.Errorf("%s %s: %d mails", action, when, n)
				}
				w.expectStates(states{sponsor.Sent: 3})
				w.expectGood()
				w.twiceClean()
			}
		}
	})

	t.Run("T22 a failure after the commit of a deletion makes no offer anew", func(t *testing.T) {
		for _, action := range []emulator.Action{emulator.Close, emulator.Hang, emulator.Status} {
			w := sent(t, 4)
			w.revoke(1)
			w.revoke(2)
			w.Cloud.Forget()
			w.faultSyncs(emulator.Fault{
				Match: emulator.Match{Batch: &emulator.BatchMatch{Deletes: &isTrue}}, Action: action, Status: 500, When: emulator.AfterCommit, Milliseconds: 100_000, Times: 1,
			})
			run := w.mustSync(sponsor.Completed)
			if run.Counts.Removed != 2 {
				t.Errorf("%s: %+v", action, run.Counts)
			}
			w.expectCloud(2, 0)
			w.expectStates(states{sponsor.Sent: 2})
			w.twiceClean()
		}
	})

	t.Run("T23 mail that failed is warned of and healed by reissuing", func(t *testing.T) {
		w := offering(t, 2)
		w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 500, When: emulator.AfterCommit, Times: 1})
		w.mustSync(sponsor.CompletedWithWarnings)
		w.expectCloud(2, 0)
		o := w.own(1)
		if o.State != sponsor.Sent || !o.MailUncertain || !strings.Contains(w.Logs.String(), "mail may not have been sent") {
			t.Errorf("%+v", o)
		}
		w.fault()
		w.reissue(1, "")
		w.mustSync(sponsor.Completed)
		w.expectCloud(2, 1)
		if o := w.own(1); o.State != sponsor.Sent || o.MailUncertain {
			t.Errorf("%+v", o)
		}
		w.twiceClean()
	})

	t.Run("T24 a page in the place of an answer is not logged", func(t *testing.T) {
		w := offering(t, 1)
		w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 502, Body: "<html><h1>A gateway's page</h1></html>", Headers: map[string]string{"Content-Type": "text/html"}})
		run := w.mustFail("cloud_error")
		if strings.Contains(w.Logs.String(), "gateway's page") || strings.Contains(run.Message+run.Hint, "<") {
			t.Errorf("the page shows: %+v\n%s", run, w.Logs)
		}
	})

	t.Run("T25 after a request without an answer the cloud is left alone", func(t *testing.T) {
		for _, hang := range []int{100_000, 120_000} {
			w := offering(t, 3)
			w.faultSyncs(emulator.Fault{Action: emulator.Hang, Milliseconds: hang, Times: 1})
			w.mustSync(sponsor.CompletedWithWarnings)
			posts := w.posts(true)
			if len(posts) != 2 || posts[1].At.Sub(posts[0].At) < 120*time.Second {
				t.Fatalf("%d posts, %v", len(posts), posts)
			}
			if posts[0].Done == nil || posts[0].Done.After(posts[1].At) {
				t.Errorf("the first was under way: %+v", posts[0])
			}
			w.expectCloud(3, 3)
			w.twiceClean()
		}
	})

	t.Run("T25 a run that fails leaves the cloud alone for the next one, too", func(t *testing.T) {
		w := offering(t, 1)
		w.faultSyncs(emulator.Fault{Action: emulator.Hang, Milliseconds: 100_000, Times: 6})
		w.mustFail("timeout")
		w.fault()
		w.mustSync(sponsor.CompletedWithWarnings)
		posts := w.posts(true)
		if last := len(posts) - 1; posts[last].At.Sub(posts[last-1].At) < 120*time.Second {
			t.Errorf("%s after the one before", posts[last].At.Sub(posts[last-1].At))
		}
		w.expectCloud(1, 1)
	})

	t.Run("T26 a cloud that cannot be reached has done nothing", func(t *testing.T) {
		for _, host := range []func(*world) string{
			func(w *world) string { return w.Cloud.IdentityURL() }, func(w *world) string { return w.Cloud.APIURL() },
		} {
			for _, cause := range []error{
				errBroken,
				&net.DNSError{Err: "no such host", Name: "api.bitwarden.com", IsNotFound: true},
				&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}},
			} {
				w := offering(t, 2)
				w.Restart()
				w.Cloud.Transport.Break(host(w), cause)
				began := w.Clock.Now()
				run := w.mustFail("network_pre")
				if w.Cloud.Count(emulator.RouteSync) != 0 || !strings.Contains(run.Hint, strings.TrimPrefix(host(w), "https://")) || !strings.Contains(run.Message, cause.Error()) || run.Counts.MailUncertain != 0 {
					t.Errorf("%v: %+v", cause, run)
				}
				if took := w.Clock.Now().Sub(began); took > 30*time.Minute {
					t.Errorf("%v: it took %s", cause, took)
				}
				w.Cloud.Transport.Break(host(w), nil)
				// None of it was ambiguous.
				if run := w.mustSync(sponsor.Completed); run.Counts.Sent != 2 {
					t.Errorf("%v: %+v", cause, run.Counts)
				}
				w.expectCloud(2, 2)
			}
		}
	})

	t.Run("T27 an answer that cannot be read is asked for again", func(t *testing.T) {
		for _, f := range []emulator.Fault{
			{Action: emulator.Truncate, Bytes: 40}, {Action: emulator.BadJSON}, {Action: emulator.Status, Status: 200, Body: "<html>"},
		} {
			w := offering(t, 3)
			f.Times = 1
			w.faultSyncs(f)
			run := w.mustSync(sponsor.CompletedWithWarnings)
			if run.Counts.Retries != 1 || w.metrics.sum(sponsor.MetricRetries, "code", "bad_response") != 1 {
				t.Errorf("%s: %+v", f.Action, run.Counts)
			}
			w.expectCloud(3, 3)
			w.twiceClean()
		}
	})

	t.Run("T28 a cloud that keeps failing is given up", func(t *testing.T) {
		w := offering(t, 3)
		w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 500})
		run := w.mustFail("cloud_error")
		if full := len(w.posts(false)); full != 6 {
			t.Errorf("the batch was sent %d times", full)
		}
		if all := len(w.posts(true)); all != 7 {
			t.Errorf("there were %d posts, one of them empty", all)
		}
		if !strings.Contains(run.Hint, "empty batch") {
			t.Errorf("the diagnosis is missing: %+v", run)
		}
		w.expectStates(states{sponsor.Pending: 3})
		// The schedule backs off.
		w.Clock.Set(w.status().NextDue)
		var waits []time.Duration
		for range 7 {
			w.Cloud.Forget()
			if _, err := w.tick(); codeOf(err) != "cloud_error" {
				t.Fatal(err)
			}
			due := w.status().NextDue
			waits = append(waits, due.Sub(w.Clock.Now()))
			w.Clock.Set(due)
		}
		for i, most := range []time.Duration{1, 2, 4, 8, 16, 24, 24} {
			if most *= time.Hour; waits[i] > most || waits[i] < most*8/10 {
				t.Errorf("after failure %d: %s", i+1, waits[i])
			}
		}
		w.fault()
		if report, err := w.tick(); err != nil || report.Finished != 1 {
			t.Errorf("%+v %v", report, err)
		}
		w.expectStates(states{sponsor.Sent: 3})
		w.expectGood()
	})
}

func TestRateLimits(t *testing.T) {
	t.Run("T30 Retry-After is honoured, in seconds and as a date", func(t *testing.T) {
		for _, form := range []string{"seconds", "date"} {
			w := offering(t, 3)
			header := "7"
			if form == "date" {
				header = w.Cloud.Now().Add(8 * time.Second).UTC().Format(http.TimeFormat)
			}
			w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 429, Headers: map[string]string{"Retry-After": header}, Times: 1})
			run := w.mustSync(sponsor.Completed)
			posts := w.posts(true)
			if len(posts) != 2 || posts[1].At.Sub(posts[0].At) < 7*time.Second || !slices.Equal(posts[0].Keys, posts[1].Keys) || run.Counts.Sent != 3 {
				t.Errorf("%s: %+v", form, posts)
			}
			w.expectCloud(3, 3)
		}
	})

	t.Run("T30 a wait that is longer than a run waits is left to another invocation", func(t *testing.T) {
		w := offering(t, 1)
		w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 429, Headers: map[string]string{"Retry-After": "3600"}, Times: 1})
		run, err := w.sync()
		left, ok := errors.AsType[*sponsor.ContinueError](err)
		if !ok || left.NotBefore.Sub(w.Clock.Now()) < time.Hour {
			t.Fatalf("%v", err)
		}
		report, err := w.tick()
		if err != nil || report.Left != 1 || !report.Next.Equal(left.NotBefore) || len(w.posts(true)) != 1 {
			t.Errorf("%+v %v", report, err)
		}
		w.Clock.Set(left.NotBefore)
		report, err = w.tick()
		if err != nil || report.Finished != 1 {
			t.Errorf("%+v %v", report, err)
		}
		if done, err := w.GetRun(t.Context(), w.Org, run.ID); err != nil || done.Status != sponsor.Completed || done.Counts.Sent != 1 || !done.NotBefore.IsZero() {
			t.Errorf("%+v %v", done, err)
		}
	})

	t.Run("T31 forty batches stay below the published limits", func(t *testing.T) {
		w := offering(t, 200, cloudtest.BatchOf(5), limited)
		for range 3 {
			run := w.mustSync(sponsor.Completed)
			if run.Counts.Requests != 40 {
				t.Errorf("%+v", run.Counts)
			}
		}
		posts := w.posts(true)
		if n := w.Cloud.CountStatus(http.StatusTooManyRequests); n != 0 || len(posts) != 120 {
			t.Errorf("%d of %d requests were too many", n, len(posts))
		}
		for i := range posts[1:] {
			if apart := posts[i+1].At.Sub(posts[i].At); apart < 300*time.Millisecond {
				t.Fatalf("requests are %s apart", apart)
			}
		}
	})
}

func TestKeysAndConnections(t *testing.T) {
	t.Run("T40 a key that was rotated fails the run and waits for another", func(t *testing.T) {
		w := offering(t, 2)
		fresh := w.rotateKey()
		before := w.shape()
		run := w.mustFail("key_invalid")
		if run.Message != "Invalid Billing Sync Key" || !strings.Contains(run.Hint, "copy the key anew") || len(w.posts(true)) != 1 || run.Counts.Retries != 0 {
			t.Errorf("%+v", run)
		}
		if w.shape() != before {
			t.Error("offers changed")
		}
		w.Clock.Pass(48 * time.Hour)
		if report, err := w.tick(); err != nil || report.Finished != 0 || len(w.posts(true)) != 1 {
			t.Errorf("the schedule tries a refused key: %+v %v", report, err)
		}
		if status := w.status(); !status.KeyRefused {
			t.Errorf("%+v", status)
		}
		c, err := w.paste(fresh)
		if err != nil || !c.Probe.Good() || c.KeyRevision != 2 || c.KeyEnd != fresh[26:] {
			t.Fatalf("%+v %v", c, err)
		}
		if report, err := w.tick(); err != nil || report.Finished != 1 {
			t.Errorf("with the new key: %+v %v", report, err)
		}
		w.expectCloud(2, 2)
	})

	t.Run("T40 a key that the cloud refuses is not kept", func(t *testing.T) {
		w := connected(t)
		_, err := w.paste("NotTheKeyNotTheKeyNotTheKey123")
		if codeOf(err) != "key_invalid" {
			t.Errorf("%v", err)
		}
		if c, err := w.Connection(t.Context(), w.Org); err != nil || c.KeyRevision != 1 || c.KeyEnd != w.Cloud.Key[26:] {
			t.Errorf("%+v %v", c, err)
		}
		w.mustSync(sponsor.Completed)
	})

	t.Run("T41 an organisation without a key is told to make one", func(t *testing.T) {
		w := connected(t)
		w.change(func(o *emulator.Organization) { o.BillingSyncKey = "" })
		for _, offers := range []int{0, 2} {
			w.MakeOffers(offers)
			if run := w.mustFail("cloud_error"); !strings.Contains(run.Hint, "generate one") {
				t.Errorf("with %d offers: %+v", offers, run)
			}
		}
	})

	t.Run("T42 an organisation that the cloud does not know", func(t *testing.T) {
		w := offering(t, 1)
		other := newWorld(t, seeded(7))
		_, err := other.Cloud.AddInstallation(w.Cloud.Installation)
		w.Must(err)
		w.tap.next = other.Cloud.Transport
		run := w.mustFail("org_unknown")
		if !strings.Contains(run.Hint, "region") || run.Counts.Retries != 0 {
			t.Errorf("%+v", run)
		}
	})

	t.Run("T43 what is missing here is said without a request", func(t *testing.T) {
		w := newWorld(t)
		expect := func(what, code, text string) {
			t.Helper()
			_, err := w.TriggerRun(t.Context(), w.Org, sponsor.ByHand)
			f, ok := sponsor.AsFailure(err)
			if !ok || f.Code != code || f.Message != text || f.Class != fault.Invalid {
				t.Errorf("%s: %v", what, err)
			}
		}
		expect("no connection", "connection_missing", "No saved Connection config for organization "+w.Org)
		if _, err := w.CreateConnection(t.Context(), sponsor.Connect{Organization: w.Org, Enabled: true}); fault.Of(err) != fault.Invalid {
			t.Errorf("a blank key: %v", err)
		}
		if n := w.Cloud.Count(""); n != 0 {
			t.Errorf("%d requests were sent before there was a connection", n)
		}
		w.Connect()
		if _, err := w.UpdateConnection(t.Context(), sponsor.Connect{Organization: w.Org}); err != nil {
			t.Fatal(err)
		}
		w.Cloud.Forget()
		expect("disabled", "connection_disabled", "Connection disabled for organization "+w.Org)
		w.Config.Settings.CloudCommunication = false
		w.Restart()
		expect("switched off", "cloud_comm_disabled", "Failed to sync instance with cloud - Cloud communication is disabled in global settings")
		if _, err := w.fetch(); codeOf(err) != "cloud_comm_disabled" || !strings.HasPrefix(err.Error(), "cloud_comm_disabled: Cloud communication is disabled in global settings") {
			t.Errorf("licence: %v", err)
		}
		c, err := w.paste("AnotherKeyAnotherKeyAnotherKey")
		if err != nil || c.Probe.Code != "cloud_comm_disabled" || c.Probe.Good() {
			t.Errorf("a key that cannot be tried is kept: %+v %v", c, err)
		}
		w.Clock.Pass(48 * time.Hour)
		if report, err := w.tick(); err != nil || report != (sponsor.TickReport{}) {
			t.Errorf("%+v %v", report, err)
		}
		if n := w.Cloud.Count(""); n != 0 {
			t.Errorf("%d requests were sent", n)
		}
	})

	t.Run("T43 a connection that is removed while a run waits ends it", func(t *testing.T) {
		w := connected(t)
		run := w.queue()
		w.Must(w.RemoveConnection(t.Context(), w.Org))
		done, err := w.Run(t.Context(), w.Org)
		if codeOf(err) != "connection_missing" || done.ID != run.ID || done.Status != sponsor.Failed || w.Cloud.Count("") != 0 {
			t.Errorf("%+v %v", done, err)
		}
		if run, err := w.Run(t.Context(), w.Org); run.ID != "" || err != nil {
			t.Errorf("it is run again: %+v %v", run, err)
		}
	})
}

// twoRegions makes a world in the US, and an EU beside it.
func twoRegions(t *testing.T) (*world, *emulator.Cloud) {
	t.Helper()
	w := connected(t)
	eu, err := emulator.New(emulator.Config{Region: emulator.EU, Now: w.Clock.Now, Sleep: w.Clock.Wait})
	w.Must(err)
	t.Cleanup(eu.Close)
	w.tap.next = emulator.NewTransport(w.Cloud.Cloud, eu)
	return w, eu
}

func TestRegions(t *testing.T) {
	t.Run("T50 an installation of the EU", func(t *testing.T) {
		w := connected(t, inEurope)
		if w.Config.Settings.IdentityURL != "https://identity.bitwarden.eu" || w.Config.Settings.APIURL != "https://api.bitwarden.eu" {
			t.Fatalf("%+v", w.Config.Settings)
		}
		w.expectThreeOffersSent()
	})

	t.Run("T51 data of the US at the EU", func(t *testing.T) {
		w, eu := twoRegions(t)
		w.Config.Settings.Region, w.Config.Settings.IdentityURL, w.Config.Settings.APIURL = "EU", eu.IdentityURL(), eu.APIURL()
		w.Restart()
		run := w.mustFail("identity_invalid_client")
		if !strings.Contains(run.Hint, "region") || !strings.Contains(run.Hint, "EU") {
			t.Errorf("%+v", run)
		}
	})

	t.Run("T52 hosts of two regions", func(t *testing.T) {
		w, eu := twoRegions(t)
		_, err := eu.AddInstallation(w.Cloud.Installation)
		w.Must(err)
		w.Config.Settings.IdentityURL = eu.IdentityURL()
		w.Restart()
		run := w.mustFail("token_rejected")
		if !strings.Contains(run.Hint, "one region") || w.Cloud.CountStatus(http.StatusUnauthorized) != 2 || len(w.posts(true)) != 2 {
			t.Errorf("%+v", run)
		}
		// And without force the settings are refused.
		settings := w.Config.Settings
		if err := settings.Validate(); err == nil || !strings.Contains(err.Error(), "refused in the other") {
			t.Errorf("%v", err)
		}
		settings.ForceURLs = true
		w.Must(settings.Validate())
	})
}

func TestManyOffers(t *testing.T) {
	t.Run("T60 ten thousand offers", func(t *testing.T) {
		for _, batch := range []int{250, 1000} {
			n := 10_000
			if testing.Short() {
				n = 1_000
			}
			w := offering(t, n, cloudtest.BatchOf(batch), limited)
			var before, after runtime.MemStats
			most := uint64(0)
			runtime.GC()
			runtime.ReadMemStats(&before)
			w.tap.set(func() {
				runtime.GC()
				runtime.ReadMemStats(&after)
				most = max(most, after.HeapAlloc)
			}, nil)
			began := w.Clock.Now()
			run := w.mustSync(sponsor.Completed)
			w.tap.set(nil, nil)
			if run.Counts.Sent != n || run.Counts.Requests != n/batch || len(w.posts(true)) != n/batch {
				t.Errorf("%+v", run.Counts)
			}
			if refused := w.Cloud.CountStatus(http.StatusTooManyRequests); refused != 0 {
				t.Errorf("%d × 429", refused)
			}
			if took := w.Clock.Now().Sub(began); took > 2*time.Minute {
				t.Errorf("it took %s", took)
			}
			// Offers, rows and mails grow with their number, and are the store's and
			// the cloud's. The run's own is what a batch takes.
			if grown := int64(most) - int64(before.HeapAlloc); grown > int64(n)*4_000+int64(batch)*20_000 {
				t.Errorf("the heap grew by %d bytes", grown)
			}
			w.expectStates(states{sponsor.Sent: n})
			w.expectCloud(n, n)
		}
	})

	t.Run("T62 a run goes on over as many invocations as it takes", func(t *testing.T) {
		w := offering(t, 16, cloudtest.BatchOf(2))
		w.faultSyncs(emulator.Fault{Action: emulator.Delay, Milliseconds: 20_000})
		id := w.queue().ID
		for invocation := 1; ; invocation++ {
			w.Restart()
			run, err := w.Run(w.Clock.Within(t, 2*time.Minute), w.Org)
			if run.ID != id {
				t.Fatalf("another run: %+v %v", run, err)
			}
			if err == nil {
				if invocation != 3 || run.Status != sponsor.Completed || run.Counts.Sent != 16 || run.Counts.Requests != 8 {
					t.Errorf("after %d invocations: %+v", invocation, run)
				}
				break
			}
			if _, ok := errors.AsType[*sponsor.ContinueError](err); !ok || run.Batch != 3*invocation {
				t.Fatalf("invocation %d: %+v, %v", invocation, run, err)
			}
		}
		w.expectCloud(16, 16)
	})
}

func TestAnswersThatAreNotWholeOrTooMuch(t *testing.T) {
	t.Run("T70 items that are left out are warned of", func(t *testing.T) {
		w := offering(t, 5)
		w.faultSyncs(emulator.Fault{Action: emulator.DropItems, When: emulator.Before, Keys: []string{cloudtest.Member(2), cloudtest.Member(4)}, Times: 1})
		run := w.mustSync(sponsor.CompletedWithWarnings)
		if run.Counts.Sent != 3 || run.Counts.NotAccepted != 2 {
			t.Errorf("%+v", run.Counts)
		}
		if o := w.own(2); o.State != sponsor.Pending || o.Outcome != sponsor.OutcomeNotAccepted || o.Problem == "" {
			t.Errorf("%+v", o)
		}
		w.expectStates(states{sponsor.Pending: 2, sponsor.Sent: 3})
		w.mustSync(sponsor.Completed)
		w.expectStates(states{sponsor.Sent: 5})
		w.expectCloud(5, 5)
	})

	t.Run("T71 an organisation whose plan has no offers", func(t *testing.T) {
		for _, known := range []bool{true, false} {
			w := sent(t, 3)
			w.revoke(1)
			if !known {
				// Without an offer that the cloud is known to have it is for the licence to
				// tell.
				w.revoke(2)
				w.revoke(3)
			}
			w.Must(w.Cloud.SetPlan(w.Cloud.OrgID, emulator.TeamsAnnually))
			if !known {
				w.Upload()
			}
			run := w.mustSync(sponsor.CompletedWithWarnings)
			if run.Counts.NotAccepted != 3 || run.Counts.Removed != 0 {
				t.Errorf("%+v", run.Counts)
			}
			if o := w.own(1); o.State != sponsor.Revoking {
				t.Errorf("the tombstone is gone: %+v", o)
			}
			w.expectCloud(3, 3)
			w.Must(w.Cloud.SetPlan(w.Cloud.OrgID, emulator.EnterpriseAnnually))
			w.mustSync(sponsor.Completed)
			w.expectCloud(map[bool]int{true: 2, false: 0}[known], 3)
		}
	})

	t.Run("T72 items that nobody asked for are counted and left alone", func(t *testing.T) {
		for _, action := range []emulator.Action{emulator.ExtraItem, emulator.DupItems, emulator.Reorder} {
			w := offering(t, 6)
			w.faultSyncs(emulator.Fault{Action: action, Count: 2, Times: 1})
			want, anomalies := sponsor.CompletedWithWarnings, 2
			if action == emulator.Reorder {
				want, anomalies = sponsor.Completed, 0
			}
			run := w.mustSync(want)
			if run.Counts.Sent != 6 || run.Counts.Anomalies != anomalies {
				t.Errorf("%s: %+v", action, run.Counts)
			}
			w.expectStates(states{sponsor.Sent: 6})
			w.expectCloud(6, 6)
			w.twiceClean()
		}
	})

	t.Run("T73 an organisation that is disabled for long", func(t *testing.T) {
		w := sent(t, 2)
		w.Must(w.Cloud.DisableOrganization(w.Cloud.OrgID, w.Cloud.Now().AddDate(0, 0, -94)))
		w.MakeOffers(4)
		run := w.mustSync(sponsor.CompletedWithWarnings)
		if run.Counts.Refreshed != 2 || run.Counts.NotAccepted != 2 {
			t.Errorf("%+v", run.Counts)
		}
		w.expectStates(states{sponsor.Sent: 2, sponsor.Pending: 2})
		w.expectCloud(2, 2)
	})

	t.Run("T74 an answer without a list", func(t *testing.T) {
		for _, body := range []string{`{"sponsorshipsBatch":null}`, `{}`, `null`, `[]`} {
			w := offering(t, 1)
			w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 200, Body: body})
			w.mustFail("bad_response")
			w.expectStates(states{sponsor.Pending: 1})
		}
	})
}

func TestPoisonAndBadItems(t *testing.T) {
	t.Run("T90 an organisation that holds one key twice", func(t *testing.T) {
		w := sent(t, 30)
		w.Must(w.Cloud.Poison(w.Cloud.OrgID, cloudtest.Member(3)))
		w.Cloud.Forget()
		run := w.mustFail("cloud_state_conflict")
		if n := len(w.posts(true)); n > 6 || !strings.Contains(run.Hint, "support") {
			t.Errorf("%d posts, %+v", n, run)
		}
		w.expectStates(states{sponsor.Sent: 30})
		for _, o := range w.all() {
			if o.Quarantined != "" {
				t.Fatalf("quarantined: %+v", o)
			}
		}
	})

	t.Run("T91 items that must not be sent are left out one by one", func(t *testing.T) {
		w := offering(t, 247)
		bad := []sponsor.LegacyOffer{
			{ID: newGUID(), OrganizationUserID: cloudtest.Member(901), FriendlyName: "no address"},
			{ID: newGUID(), OrganizationUserID: cloudtest.Member(902), FriendlyName: strings.Repeat("n", 300), Email: "long@home.example"},
			{ID: newGUID(), OrganizationUserID: cloudtest.Member(903), FriendlyName: "plan", Email: "plan@home.example", Plan: 7},
		}
		if done, err := w.take(bad...); err != nil || done.Taken != 3 {
			t.Fatal(done, err)
		}
		run := w.mustSync(sponsor.CompletedWithWarnings)
		if run.Counts.Sent != 247 || run.Counts.Quarantined != 3 || run.Counts.Retries != 0 || len(w.posts(true)) != 1 {
			t.Errorf("%+v", run.Counts)
		}
		if o := w.own(901); o.Quarantined != "email_invalid" || o.Problem == "" {
			t.Errorf("%+v", o)
		}
		w.expectCloud(247, 247)
		if run := w.mustSync(sponsor.CompletedWithWarnings); run.Counts.Quarantined != 3 {
			t.Errorf("they are forgotten: %+v", run.Counts)
		}
		// Mended it is sent.
		w.reissue(901, "now@home.example")
		w.mustSync(sponsor.CompletedWithWarnings)
		w.expectCloud(248, 248)
		w.twiceClean()
	})

	t.Run("T91 an item that the cloud fails for is found", func(t *testing.T) {
		for _, status := range []int{500, 400} {
			w := offering(t, 60)
			refused := func(n int) emulator.Fault {
				return emulator.Fault{Match: withOffer(n), Action: emulator.Status, Status: status, Body: `{"message":"The model state is invalid."}`}
			}
			w.faultSyncs(refused(17), refused(44))
			run := w.mustSync(sponsor.CompletedWithWarnings)
			if run.Counts.Sent != 58 || run.Counts.Quarantined != 2 {
				t.Errorf("%d: %+v", status, run.Counts)
			}
			if n := len(w.posts(true)); n > 60 {
				t.Errorf("%d: it took %d posts", status, n)
			}
			if o := w.own(17); o.Quarantined != "refused_by_cloud" || o.State != sponsor.Pending {
				t.Errorf("%+v", o)
			}
			w.Cloud.Forget()
			w.mustSync(sponsor.CompletedWithWarnings)
			if n := len(w.posts(true)); n != 1 {
				t.Errorf("%d: the next run sends them again: %d posts", status, n)
			}
			w.expectGood()
		}
	})

	t.Run("T91 a batch that is refused whatever is in it is not taken apart", func(t *testing.T) {
		w := offering(t, 60)
		w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 400, Body: `{"message":"The model state is invalid."}`})
		run := w.mustFail("request_invalid")
		if n := len(w.posts(true)); n > 3 || run.Counts.Quarantined != 0 {
			t.Errorf("%d posts, %+v", n, run)
		}
	})

	t.Run("a hiccup while a bad item is looked for blames nobody else", func(t *testing.T) {
		w := offering(t, 8)
		n := 0
		w.faultSyncs(emulator.Fault{Match: emulator.Match{Func: func(r emulator.Request) bool {
			n++
			// One fails always, and every fourth request whatever is in it.
			return slices.Contains(r.Keys, cloudtest.Member(5)) || n%4 == 0 && len(r.Keys) > 0
		}}, Action: emulator.Status, Status: 500})
		run := w.mustSync(sponsor.CompletedWithWarnings)
		if run.Counts.Sent != 7 || run.Counts.Quarantined != 1 || w.own(5).Quarantined == "" {
			t.Errorf("%+v", run.Counts)
		}
	})
}

func TestMembersAndAdministrators(t *testing.T) {
	t.Run("T85 a member who leaves", func(t *testing.T) {
		w := sent(t, 3, perOffer)
		w.MakeOffers(4) // the fourth was never sent
		admin := w.NewOffer(5)
		admin.AdminInitiated, admin.By.ID = true, cloudtest.Member(1)
		_, err := w.CreateOffer(t.Context(), admin)
		w.Must(err)
		for n, want := range map[int]int{1: 2, 4: 1, 7: 0} {
			if removed, err := w.RemoveMember(t.Context(), w.Org, cloudtest.Member(n)); err != nil || removed != want {
				t.Errorf("member %d: %d, %v", n, removed, err)
			}
		}
		w.expectStates(states{sponsor.Revoking: 1, sponsor.Sent: 2})
		// One of an official server, who left before the first sync.
		legacy := sponsor.LegacyOffer{ID: newGUID(), OrganizationUserID: cloudtest.Member(8), Email: cloudtest.Address(8), ToDelete: true}
		_, err = w.take(legacy)
		w.Must(err)
		w.mustSync(sponsor.Completed)
		w.expectStates(states{sponsor.Sent: 2})
		w.expectCloud(2, 3)
		w.twiceClean()
	})

	t.Run("T86 two offers of one administrator", func(t *testing.T) {
		offer := func(w *world, n int) error {
			o := w.NewOffer(n)
			o.AdminInitiated, o.By.ID = true, cloudtest.Member(1)
			_, err := w.CreateOffer(t.Context(), o)
			return err
		}
		w := connected(t)
		w.Must(offer(w, 1))
		w.Must(offer(w, 1)) // the same again
		if err := offer(w, 2); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "OFFER_KEYS=per-offer") {
			t.Errorf("%v", err)
		}
		if _, err := w.CreateOffer(t.Context(), w.NewOffer(1)); fault.Of(err) != fault.Invalid {
			t.Errorf("an own one beside it: %v", err)
		}
		w.mustSync(sponsor.Completed)
		w.expectCloud(1, 1)
		w = connected(t, perOffer)
		for n := 1; n <= 3; n++ {
			w.Must(offer(w, n))
		}
		w.mustSync(sponsor.Completed)
		w.expectStates(states{sponsor.Sent: 3})
		w.expectCloud(3, 3)
		w.twiceClean()
	})

	t.Run("T87 rows of an official server that share a key", func(t *testing.T) {
		w := connected(t)
		old, older := cloudtest.Epoch.AddDate(0, -1, 0), cloudtest.Epoch.AddDate(0, -2, 0)
		rows := []sponsor.LegacyOffer{
			{ID: newGUID(), OrganizationUserID: cloudtest.Member(1), Email: cloudtest.Address(1), FriendlyName: "one", AdminInitiated: true},
			{ID: newGUID(), OrganizationUserID: cloudtest.Member(1), Email: cloudtest.Address(2), FriendlyName: "two", AdminInitiated: true, LastSync: &old},
			{ID: newGUID(), OrganizationUserID: cloudtest.Member(1), Email: cloudtest.Address(3), FriendlyName: "three", LastSync: &older},
			{ID: newGUID(), OrganizationUserID: cloudtest.Member(1), Email: cloudtest.Address(4), FriendlyName: "four", ToDelete: true, LastSync: &old},
			{ID: newGUID(), OrganizationUserID: cloudtest.Member(2), Email: cloudtest.Address(5), FriendlyName: "five"},
		}
		_, err := w.Cloud.AddSponsorship(emulator.Sponsorship{SponsoringOrganizationID: w.Cloud.OrgID, OfferKey: cloudtest.Member(1), OfferedToEmail: &rows[2].Email, LastSyncDate: &older})
		w.Must(err)
		done, err := w.take(rows...)
		if err != nil || done != (sponsor.Imported{Taken: 4, Rekeyed: 2, Dropped: 1, Unsent: 2}) {
			t.Fatalf("%+v %v", done, err)
		}
		slices.Reverse(rows)
		if again, err := w.take(rows...); err != nil || again != (sponsor.Imported{Known: 4, Dropped: 1}) {
			t.Fatalf("again: %+v %v", again, err)
		}
		if o := w.own(1); o.Email != cloudtest.Address(3) || o.State != sponsor.Sent {
			t.Errorf("the one that keeps the key: %+v", o)
		}
		w.mustSync(sponsor.Completed)
		w.expectStates(states{sponsor.Sent: 4})
		w.expectCloud(4, 3)
		w.twiceClean()
	})

	t.Run("T88 an offer made anew to another address", func(t *testing.T) {
		w := sent(t, 2)
		before, row := w.own(1), w.row(1)
		o, err := w.ReissueOffer(t.Context(), sponsor.Reissue{Organization: w.Org, ID: before.ID, Email: "other@home.example"})
		if err != nil || o.Email != "other@home.example" || o.ToDelete || !o.Reissue || o.Status().Label != "Requested" {
			t.Fatalf("%+v %v", o, err)
		}
		w.Cloud.Forget()
		run := w.mustSync(sponsor.Completed)
		if run.Counts.Removed != 1 || run.Counts.Sent != 1 || run.Counts.Refreshed != 1 {
			t.Errorf("%+v", run.Counts)
		}
		if mails := w.Cloud.Mails(); len(mails) != 1 || mails[0].To != "other@home.example" {
			t.Errorf("%+v", mails)
		}
		if o := w.own(1); o.State != sponsor.Sent || o.Reissue || o.Key != before.Key {
			t.Errorf("%+v", o)
		}
		w.expectCloud(2, 1)
		if r := w.row(1); r.ID == row.ID || *r.OfferedToEmail != "other@home.example" {
			t.Errorf("the cloud has %+v", r)
		}
		w.twiceClean()
		// One that was redeemed is refused, and one that is redeemed meanwhile kept.
		w.redeem(2, time.Time{})
		w.reissue(2, "")
		w.mustSync(sponsor.Completed)
		if o := w.own(2); o.State != sponsor.Active || o.Reissue || o.Problem == "" || w.row(2).ToDelete {
			t.Errorf("%+v", o)
		}
		if _, err := w.ReissueOffer(t.Context(), sponsor.Reissue{Organization: w.Org, ID: w.own(2).ID}); fault.Of(err) != fault.Invalid {
			t.Errorf("one that was redeemed: %v", err)
		}
		w.twiceClean()
	})

	t.Run("T89 a revoked row that the cloud has purged", func(t *testing.T) {
		w := sent(t, 1)
		w.redeem(1, w.Cloud.Now().AddDate(0, 0, 1))
		w.mustSync(sponsor.Completed)
		w.revoke(1)
		w.Clock.Pass(92 * 24 * time.Hour)
		if n := w.Cloud.Purge(); n != 1 {
			t.Fatalf("%d purged", n)
		}
		w.mustSync(sponsor.Completed)
		w.expectStates(states{})
		w.expectCloud(0, 1)
		w.twiceClean()
	})
}

func TestWhatUsersDoDuringASync(t *testing.T) {
	t.Run("T83 a revocation between the request and its answer stays", func(t *testing.T) {
		w := offering(t, 2)
		w.tap.set(nil, func() {
			w.tap.set(nil, nil)
			w.revoke(1)
		})
		w.mustSync(sponsor.Completed)
		if o := w.own(1); o.State != sponsor.Revoking || o.LastSync == nil {
			t.Errorf("%+v", o)
		}
		w.mustSync(sponsor.Completed)
		w.expectStates(states{sponsor.Sent: 1})
		w.expectCloud(1, 2)
		w.twiceClean()
	})

	t.Run("T84 a revocation before the first answer is known removes the row", func(t *testing.T) {
		w := offering(t, 2)
		w.faultSyncs(emulator.Fault{Action: emulator.Close, When: emulator.AfterCommit, Times: 1})
		w.tap.set(nil, func() {
			w.tap.set(nil, nil)
			w.revoke(1)
			if o := w.own(1); o.State != sponsor.Revoking {
				t.Errorf("it is forgotten: %+v", o)
			}
		})
		run := w.mustSync(sponsor.CompletedWithWarnings)
		if run.Counts.Removed != 1 || run.Counts.Sent != 1 {
			t.Errorf("%+v", run.Counts)
		}
		w.expectStates(states{sponsor.Sent: 1})
		w.expectCloud(1, 0)
		w.twiceClean()
	})

	t.Run("T84 a failed run whose offers are revoked removes the rows", func(t *testing.T) {
		w := offering(t, 2)
		w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 500, When: emulator.AfterCommit})
		w.mustFail("cloud_error")
		w.revoke(1)
		w.fault()
		w.mustSync(sponsor.CompletedWithWarnings)
		w.expectStates(states{sponsor.Sent: 1})
		w.expectCloud(1, 0)
	})
}

func TestSchedules(t *testing.T) {
	// days lets time pass by ticks, each of another process, and gives the runs.
	days := func(w *world, days int, every time.Duration) []sponsor.Run {
		for end := w.Clock.Now().Add(time.Duration(days) * 24 * time.Hour); w.Clock.Now().Before(end); {
			next := w.Clock.Now().Truncate(every).Add(every)
			w.Clock.Set(next)
			w.Restart()
			if _, err := w.Tick(w.Context(), sponsor.Tick{At: next}); err != nil && codeOf(err) == "" {
				w.Fatal(err)
			}
		}
		runs, err := w.Runs(w.Context(), w.Org, 10_000)
		w.Must(err)
		slices.Reverse(runs)
		return runs
	}

	t.Run("T120 one success a day, however often processes are restarted", func(t *testing.T) {
		for _, every := range []time.Duration{time.Hour, 15 * time.Minute} {
			w := offering(t, 1)
			runs := days(w, 5, every)
			if len(runs) != 5 {
				t.Fatalf("every %s: %d runs", every, len(runs))
			}
			for i, run := range runs {
				if run.Status != sponsor.Completed || run.Trigger != sponsor.BySchedule {
					t.Errorf("%+v", run)
				}
				if i > 0 && !run.Due.Equal(runs[i-1].Due.Add(24*time.Hour)) {
					t.Errorf("it is due at %s, and before at %s", run.Due, runs[i-1].Due)
				}
			}
			w.expectCloud(1, 1)
		}
	})

	t.Run("T120 a run by hand moves the time of the day if it succeeds", func(t *testing.T) {
		w := connected(t)
		before := w.status()
		w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 403})
		w.mustFail("forbidden_scope")
		if after := w.status(); !after.NextDue.Equal(before.NextDue) || sponsor.When(after.LastSponsorshipSync) != "Never" {
			t.Errorf("%+v", after)
		}
		w.fault()
		run := w.mustSync(sponsor.Completed)
		if after := w.status(); !after.NextDue.Equal(run.Finished.Add(24*time.Hour)) || !after.LastSponsorshipSync.Equal(*run.Finished) {
			t.Errorf("%+v", after)
		}
	})

	t.Run("T121 after an outage there is one run to catch up", func(t *testing.T) {
		w := offering(t, 2)
		w.Cloud.Transport.Break(w.Cloud.APIURL(), errBroken)
		failed := days(w, 3, 15*time.Minute)
		for i, run := range failed {
			if run.Status != sponsor.Failed || run.ErrorCode != "network_pre" {
				t.Errorf("%+v", run)
			}
			if i > 0 && run.Due.Sub(*failed[i-1].Finished) > 24*time.Hour {
				t.Errorf("the next one is due at %s, after %s", run.Due, failed[i-1].Finished)
			}
		}
		if n := len(failed); n < 5 || n > 9 {
			t.Errorf("%d runs in three days", n)
		}
		w.Cloud.Transport.Break(w.Cloud.APIURL(), nil)
		runs := days(w, 2, 15*time.Minute)[len(failed):]
		if len(runs) < 1 || len(runs) > 2 || runs[0].Status != sponsor.Completed || runs[0].Counts.Sent != 2 {
			t.Errorf("%d runs after it: %+v", len(runs), runs)
		}
		if len(runs) == 2 && runs[1].Requested.Sub(runs[0].Requested) < 24*time.Hour {
			t.Errorf("it is caught up with twice: %+v", runs)
		}
		w.expectCloud(2, 2)
	})

	t.Run("T123 a long gap is warned of and ends well", func(t *testing.T) {
		w := sent(t, 2)
		w.Cloud.Transport.Break(w.Cloud.APIURL(), errBroken)
		for _, day := range []int{29, 31, 91, 151, 180} {
			w.Clock.Set(cloudtest.Epoch.AddDate(0, 0, day))
			if _, err := w.tick(); codeOf(err) != "network_pre" {
				t.Fatalf("day %d: %v", day, err)
			}
		}
		for _, days := range []int{30, 90, 150} {
			if n := strings.Count(w.Logs.String(), fmt.Sprintf(`"days":%d,`, days)); n != 1 {
				t.Errorf("%d days are warned of %d times", days, n)
			}
		}
		if status := w.status(); status.Overdue != 150 {
			t.Errorf("%+v", status)
		}
		w.Clock.Set(cloudtest.Epoch.AddDate(0, 0, 183))
		if err := w.Cloud.Redeem(w.Cloud.OrgID, cloudtest.Member(1), time.Time{}); fault.Of(err) != fault.Conflict {
			t.Errorf("the cloud takes an old offer: %v", err)
		}
		w.Cloud.Transport.Break(w.Cloud.APIURL(), nil)
		w.Cloud.ExpectMail(emulator.MailKey{Organization: w.Cloud.OrgID, OfferKey: cloudtest.Member(1), Address: cloudtest.Address(1)})
		w.mustSync(sponsor.Completed)
		// What the cloud dropped is offered once more.
		w.expectCloud(2, 3)
		w.twiceClean()
	})
}

func TestFailuresKeepTheirCauses(t *testing.T) {
	w := offering(t, 1)
	w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 403})
	_, err := w.sync()
	if e, ok := errors.AsType[*cloud.Error](err); !ok || e.Code != cloud.ForbiddenScope {
		t.Errorf("%v", err)
	}
}
