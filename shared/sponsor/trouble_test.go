package sponsor_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

func TestAFailedRunTellsItsCauseAndWhatHelps(t *testing.T) {
	status := func(f emulator.Fault) func(*world) { return func(w *world) { w.faultSyncs(f) } }
	broken := func(cause error) func(*world) {
		return func(w *world) { w.Cloud.Transport.Break(w.Cloud.APIURL(), cause) }
	}
	for name, c := range map[string]struct {
		goesWrong           func(*world)
		code, message, hint string
	}{
		"a certificate of somebody else": {
			broken(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), "network_pre",
			"The cloud could not be reached: tls: failed to verify certificate: x509: certificate signed by unknown authority", "LATCHKEY_CLOUD_CA_FILE",
		},
		"a refused connection": {
			broken(errors.New("dial tcp 192.0.2.1:443: connect: connection refused")), "network_pre",
			"The cloud could not be reached: dial tcp 192.0.2.1:443: connect: connection refused", "HTTPS_PROXY",
		},
		"a redirect": {
			status(emulator.Fault{Action: emulator.Status, Status: 302, Headers: map[string]string{"Location": "https://portal.example/login?next=1"}}), "bad_response",
			"What answered is not the cloud's API: the answer is a redirect to portal.example, which is not followed", "captive portal",
		},
		"a page in the place of JSON": {
			status(emulator.Fault{Action: emulator.Status, Status: 200, Body: "<html></html>", Headers: map[string]string{"Content-Type": "text/html"}}), "bad_response",
			"What answered is not the cloud's API: the answer is no JSON (at byte 1); the answer is 13 bytes of text/html", "captive portal",
		},
		"a request that is not understood": {
			status(emulator.Fault{Action: emulator.Status, Status: 400, Body: `{"message":"The model state is invalid.","validationErrors":{"SponsorshipsBatch[0].OfferedToEmail":["x"],"Family 1":["x"]}}`}), "request_invalid",
			"The cloud does not understand the request: members: SponsorshipsBatch[0].OfferedToEmail", "report it with the run's id",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := offering(t, 1)
			c.goesWrong(w)
			run := w.mustFail(c.code)
			if run.Message != c.message && !strings.HasPrefix(run.Message, c.message+";") || !strings.Contains(run.Hint, c.hint) {
				t.Errorf("%q, %q", run.Message, run.Hint)
			}
			_, detail, _ := strings.Cut(c.message, ": ")
			if !strings.Contains(w.Logs.String(), `"detail":"`+detail) {
				t.Errorf("no line of the log says %q:\n%s", detail, w.Logs)
			}
			w.Cloud.Transport.Break(w.Cloud.APIURL(), nil)
			w.fault()
		})
	}
}

func TestAConnectionCanBeDisabledWithoutALicenceAndWithoutTheCloud(t *testing.T) {
	w := connected(t)
	before, err := w.Connection(t.Context(), w.Org)
	w.Must(err)
	w.Config.Settings.InstallationID = newGUID() // for which the licence is not
	w.Restart()
	if _, err := w.UpdateConnection(t.Context(), sponsor.Connect{Organization: w.Org, Enabled: true}); err == nil {
		t.Fatal("the licence can be used all the same")
	}
	posts := len(w.posts(true))
	after, err := w.UpdateConnection(t.Context(), sponsor.Connect{Organization: w.Org, Key: " "})
	w.Must(err)
	before.Enabled = false
	if after.KeyFingerprint != before.KeyFingerprint || after.Enabled || *after.Probe.At != *before.Probe.At || len(w.posts(true)) != posts {
		t.Errorf("%+v, not %+v, with %d requests", after, before, len(w.posts(true))-posts)
	}
	if again, err := w.Connection(t.Context(), w.Org); err != nil || again.Enabled {
		t.Errorf("%+v %v", again, err)
	}
	// With another key it is more than that.
	if _, err := w.UpdateConnection(t.Context(), sponsor.Connect{Organization: w.Org, Key: "another"}); err == nil {
		t.Error("a key was kept without a licence")
	}
}

func TestToDisableAConnectionGivesARefusedKeyNoOtherChance(t *testing.T) {
	w := offering(t, 1)
	w.rotateKey()
	w.mustFail("key_invalid")
	_, err := w.UpdateConnection(t.Context(), sponsor.Connect{Organization: w.Org})
	w.Must(err)
	if status := w.status(); !status.KeyRefused {
		t.Errorf("%+v", status)
	}
}

func TestTheStatusCountsWhatIsToBeDoneNow(t *testing.T) {
	w := sent(t, 3)
	expect := func(when string, pending int) sponsor.SyncStatus {
		t.Helper()
		status := w.status()
		if status.Pending != pending || (status.OldestPending != nil) != (pending > 0) {
			t.Errorf("%s: %d pending since %v, not %d", when, status.Pending, status.OldestPending, pending)
		}
		return status
	}
	expect("after a run", 0)
	w.Clock.Pass(time.Minute)
	since := w.Clock.Now()
	w.MakeOffersOf(4, 4)
	expect("after a new offer", 1)
	w.Clock.Pass(time.Minute)
	w.revoke(1)
	expect("after a revocation", 2)
	w.reissue(2, "")
	if status := expect("after a reissue", 3); !status.OldestPending.Equal(since) {
		t.Errorf("the oldest is of %s, not of %s", status.OldestPending, since)
	}
	w.mustSync(sponsor.Completed)
	expect("after the next run", 0)
	// One that was redeemed is confirmed as soon as the cloud has said so.
	w.redeem(3, time.Time{})
	w.mustSync(sponsor.Completed)
	w.revoke(3)
	expect("after the revocation of a redeemed one", 1)
	w.mustSync(sponsor.Completed)
	expect("after that is known", 0)
}

func TestTheStatusCountsWhatSomebodyHasToLookAt(t *testing.T) {
	w := offering(t, 3)
	w.faultSyncs(emulator.Fault{Action: emulator.Close, When: emulator.AfterCommit, Times: 1})
	w.mustSync(sponsor.CompletedWithWarnings)
	w.mustSync(sponsor.Completed)
	if status := w.status(); status.MailUncertain != 3 || status.Quarantined != 0 {
		t.Errorf("%+v", status)
	}
	w.reissue(1, "")
	w.revoke(2)
	if status := w.status(); status.MailUncertain != 1 {
		t.Errorf("%+v", status)
	}
	w = offering(t, 2)
	w.faultSyncs(emulator.Fault{Match: withOffer(1), Action: emulator.Status, Status: 400, Body: `{"message":"The model state is invalid."}`})
	w.mustSync(sponsor.CompletedWithWarnings)
	if status := w.status(); status.MailUncertain != 0 || status.Quarantined != 1 {
		t.Errorf("%+v", status)
	}
}

func TestWhileAKeyIsRefusedNothingIsDue(t *testing.T) {
	w := offering(t, 1)
	due := func() *time.Time {
		t.Helper()
		health, err := w.Health(t.Context())
		if err != nil || len(health) != 1 {
			t.Fatalf("%+v %v", health, err)
		}
		return health[0].NextDue
	}
	if w.status().NextDue.IsZero() || due() == nil {
		t.Error("nothing is due")
	}
	key := w.rotateKey()
	w.mustFail("key_invalid")
	if at := due(); at != nil {
		t.Errorf("health has a next time, %s", at)
	}
	if status := w.status(); !status.KeyRefused || !status.NextDue.IsZero() {
		t.Errorf("%+v", status)
	}
	_, err := w.paste(key)
	w.Must(err)
	if status := w.status(); status.KeyRefused || status.NextDue.IsZero() || due() == nil {
		t.Errorf("%+v", status)
	}
}

// watched is a clock whose waits somebody looks at.
type watched struct {
	*cloudtest.Clock
	look func(d time.Duration)
}

func (w watched) Wait(ctx context.Context, d time.Duration) error {
	w.look(d)
	return w.Clock.Wait(ctx, d)
}

func TestARunTellsWhatItWaitsFor(t *testing.T) {
	for name, c := range map[string]struct {
		fault emulator.Fault
		code  string
		times int // of long waits at the least
	}{
		"after a failure that says how long": {emulator.Fault{Action: emulator.Status, Status: 429, Headers: map[string]string{"Retry-After": "90"}, Times: 2}, "rate_limited", 2},
		"until the cloud is through":         {emulator.Fault{Action: emulator.Hang, Milliseconds: 100_000, Times: 1}, "timeout", 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := offering(t, 2)
			w.faultSyncs(c.fault)
			queued := w.queue()
			looks := 0
			w.Config.Waiter = watched{w.Clock, func(d time.Duration) {
				if d < 30*time.Second {
					return
				}
				looks++
				run, err := w.NewProcess().GetRun(t.Context(), w.Org, queued.ID)
				w.Must(err)
				if run.Try == nil || run.Try.Number != looks || run.Try.Of != 6 || run.Try.LastCode != c.code || !run.NotBefore.Equal(w.Clock.Now().Add(d)) || run.Counts.Requests != looks {
					t.Errorf("look %d of %s: %+v, try %+v", looks, d, run, run.Try)
				}
				runs, err := w.NewProcess().Runs(t.Context(), w.Org, 1)
				w.Must(err)
				if !runs[0].NotBefore.Equal(run.NotBefore) {
					t.Errorf("the list has %+v", runs[0])
				}
			}}
			w.Restart()
			w.tap.set(func() {
				run, err := w.NewProcess().GetRun(t.Context(), w.Org, queued.ID)
				w.Must(err)
				if !run.NotBefore.IsZero() || run.Try == nil || run.Try.Number != looks+1 {
					t.Errorf("during request %d: %+v, try %+v", looks+1, run, run.Try)
				}
			}, nil)
			run, err := w.Run(t.Context(), w.Org)
			w.Must(err)
			w.tap.set(nil, nil)
			if looks != c.times {
				t.Errorf("%d long waits", looks)
			}
			done, err := w.GetRun(t.Context(), w.Org, queued.ID)
			w.Must(err)
			if done.Try != nil || done.Counts != run.Counts || done.Counts.Requests != c.times+1 {
				t.Errorf("%+v", done)
			}
		})
	}
}

func TestARunWhoseBatchCannotBeReadIsNotShown(t *testing.T) {
	w := offering(t, 2)
	queued := w.queue()
	w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 429, Headers: map[string]string{"Retry-After": "3600"}, Times: 1})
	if run, err := w.Run(t.Context(), w.Org); run.Status != sponsor.Running || err == nil {
		t.Fatalf("%+v %v", run, err)
	}
	w.faults.Inject(storetest.Fault{Method: storetest.Get, Collection: "sync-batches"})
	if run, err := w.GetRun(t.Context(), w.Org, queued.ID); err == nil {
		t.Errorf("%+v", run)
	}
}

func TestARefusedTokenIsNoRequestForASync(t *testing.T) {
	w := offering(t, 2)
	w.Config.Settings.InstallationKey = config.Secret("wrong")
	w.Restart()
	if run := w.mustFail("identity_invalid_client"); run.Counts.Requests != 0 || run.Counts.Batches != 0 {
		t.Errorf("%+v", run.Counts)
	}
	// What reaches the sync counts.
	w = offering(t, 2)
	w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 403, Times: 1})
	if run := w.mustFail("forbidden_scope"); run.Counts.Requests != 1 {
		t.Errorf("%+v", run.Counts)
	}
}

func TestALicenceThatWasOnlyWrittenAnewHasNotChanged(t *testing.T) {
	w := connected(t)
	installed := w.installedLicence()
	w.Clock.Pass(48 * time.Hour)
	check, err := w.CheckLicence(t.Context(), w.Org, true)
	w.Must(err)
	if len(check.Changed) != 0 || check.Applied || check.Code != "" {
		t.Errorf("%+v", check)
	}
	if after := w.installedLicence(); !after.Values.Issued.Equal(installed.Values.Issued) || after.HasPrevious {
		t.Errorf("it was installed: %+v", after)
	}
	// The cloud did write it anew.
	w.mustFetch()
	if after := w.installedLicence(); after.Values.Issued.Equal(installed.Values.Issued) {
		t.Errorf("the cloud gives the same document twice: %+v", after.Values)
	}
}

func TestOffersCanBeWalkedFromAnyOfThem(t *testing.T) {
	w := offering(t, 5)
	all := w.all()
	for i, from := range all {
		var rest []string
		for o, err := range w.Offers(t.Context(), w.Org, from.ID) {
			w.Must(err)
			rest = append(rest, o.ID)
		}
		if len(rest) != len(all)-i-1 || len(rest) > 0 && rest[0] != all[i+1].ID {
			t.Errorf("after number %d: %v", i, rest)
		}
	}
	for o, err := range w.Offers(t.Context(), "x", "") {
		if _, problem := machine.AsProblem(err); !problem {
			t.Errorf("%+v %v", o, err)
		}
	}
}

func TestWhatIsRevokedIsNamed(t *testing.T) {
	w := sent(t, 2)
	id, err := w.RevokeOwn(t.Context(), w.Org, cloudtest.Member(1))
	if err != nil || id != w.own(1).ID {
		t.Errorf("%q %v", id, err)
	}
	id, err = w.RevokeNamed(t.Context(), w.Org, "Family 2")
	if err != nil || id != w.own(2).ID {
		t.Errorf("%q %v", id, err)
	}
}
