package sponsor_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

func TestT124NoKeyTokenOrAddressIsInLogsMetricsErrorsOrTheStore(t *testing.T) {
	w := connected(t, batchOf(3))
	organization, err := w.emu.Organization(w.cloudOrg)
	w.must(err)
	var seen strings.Builder
	note := func(what any, err error) {
		fmt.Fprintf(&seen, "%+v\n%+v\n%v\n", what, err, err)
	}
	w.offer(7)
	// The cloud and what stands before it may say anything.
	echo := fmt.Sprintf(`{"message":"key %s of installation %s and %s is wrong: %s","validationErrors":{"%s":["x"]}}`, w.key, w.installation.Key, organization.LicenseKey, address(2), address(3))
	for _, f := range []emulator.Fault{
		{Action: emulator.Status, Status: 400, Body: echo}, {Action: emulator.Status, Status: 500, Body: echo}, {Action: emulator.Status, Status: 200, Body: echo},
		{Action: emulator.Status, Status: 403, Body: echo, Headers: map[string]string{"WWW-Authenticate": "Bearer error=\"" + w.key + "\""}},
		{Action: emulator.Status, Status: 401, Body: echo, Headers: map[string]string{"WWW-Authenticate": "Bearer error=\"" + w.key + "\""}},
		{Action: emulator.HTML}, {Action: emulator.Close}, {Action: emulator.Truncate, Bytes: 200}, {Action: emulator.Hang, Milliseconds: 70_000},
	} {
		w.fault(f)
		run, err := w.sync()
		if err == nil && f.Action != emulator.Hang {
			t.Errorf("%+v is no failure", f)
		}
		note(run, err)
		_, err = w.SyncLicence(t.Context(), w.org)
		note(nil, err)
		_, err = w.UpdateConnection(t.Context(), sponsor.Connect{Organization: w.org, Enabled: true, Key: config.Secret(w.key + "x")})
		note(nil, err)
		w.emu.ExpectToken(w.installation.ID)
		w.clock.pass(25 * time.Hour)
	}
	w.fault(syncFault(emulator.Fault{Match: emulator.Match{Batch: &emulator.BatchMatch{Key: member(4)}}, Action: emulator.Status, Status: 500}))
	note(w.sync())
	w.fault()
	w.revoke(1)
	if _, err := w.ReissueOffer(t.Context(), sponsor.Reissue{Organization: w.org, ID: w.own(5).ID, Email: "other@home.example", Name: "Somebody else"}); err != nil {
		t.Fatal(err)
	}
	during := w.dump()
	note(w.sync())
	_, err = w.CreateOffer(t.Context(), sponsor.NewOffer{Organization: w.org, By: sponsor.Member{ID: member(9), Confirmed: true}, Email: "not an address@x", Name: "Family 9"})
	if fault.Of(err) != fault.Invalid {
		t.Errorf("%v", err)
	}
	note(nil, err)
	taken := w.offerOf(9)
	taken.Name = "family 2"
	_, err = w.CreateOffer(t.Context(), taken)
	if fault.Of(err) != fault.Conflict {
		t.Errorf("%v", err)
	}
	note(nil, err)
	_, err = w.Tick(t.Context(), sponsor.Tick{At: w.clock.Now(), ID: "a tick"})
	note(nil, err)
	note(w.Connection(t.Context(), w.org))
	note(w.Status(t.Context(), w.org))
	note(w.Health(t.Context()))
	note(w.Runs(t.Context(), w.org, 100))
	sponsor.LogMetrics{Logger: w.logger()}.Record(t.Context(), w.metrics.list[0])

	secrets := map[string]string{
		"the billing sync key": w.key, "the installation's key": w.installation.Key, "the licence key": organization.LicenseKey,
		"an address": "@home.example", "a member's address": "@work.example", "a name": "Family ", "a name in small letters": "family ", "another name": "Somebody else",
	}
	n := 0
	for token := range w.tap.tokens {
		secrets[fmt.Sprintf("token %d", n)] = token
		secrets[fmt.Sprintf("the middle of token %d", n)] = strings.Split(token, ".")[1]
		n++
	}
	if n < 2 {
		t.Fatalf("%d tokens were seen", n)
	}
	places := map[string]string{
		"the logs": w.logs.String(), "the metrics": fmt.Sprintf("%+v", w.metrics.list), "errors and answers": seen.String(),
		"the store": w.dump(), "the store before": during,
	}
	for place, text := range places {
		if len(text) < 100 {
			t.Errorf("%s hold nothing", place)
		}
		for what, secret := range secrets {
			for form, written := range map[string]string{"": secret, " in base64": base64.StdEncoding.EncodeToString([]byte(secret))} {
				if i := strings.Index(text, written); i >= 0 {
					t.Errorf("%s%s is in %s: …%s…", what, form, place, text[max(0, i-200):min(len(text), i+100)])
				}
			}
		}
	}
}
