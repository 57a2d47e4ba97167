package sponsor_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

func TestT124NoKeyTokenOrAddressIsInLogsMetricsErrorsOrTheStore(t *testing.T) {
	w := connected(t, cloudtest.BatchOf(3))
	organization, err := w.Cloud.Organization(w.Cloud.OrgID)
	w.Must(err)
	var seen strings.Builder
	note := func(what any, err error) {
		fmt.Fprintf(&seen, "%+v\n%+v\n%v\n", what, err, err)
	}
	w.MakeOffers(7)
	// The cloud and what stands before it may say anything.
	echo := fmt.Sprintf(`{"message":"key %s of installation %s and %s is wrong: %s","validationErrors":{"%s":["x"]}}`, w.Cloud.Key, w.Cloud.Installation.Key, organization.LicenseKey, cloudtest.Address(2), cloudtest.Address(3))
	for _, f := range []emulator.Fault{
		{Action: emulator.Status, Status: 400, Body: echo}, {Action: emulator.Status, Status: 500, Body: echo}, {Action: emulator.Status, Status: 200, Body: echo},
		{Action: emulator.Status, Status: 403, Body: echo, Headers: map[string]string{"WWW-Authenticate": "Bearer error=\"" + w.Cloud.Key + "\""}},
		{Action: emulator.Status, Status: 401, Body: echo, Headers: map[string]string{"WWW-Authenticate": "Bearer error=\"" + w.Cloud.Key + "\""}},
		{Action: emulator.Status, Status: 302, Headers: map[string]string{"Location": "https://" + w.Cloud.Key + "@portal.example/" + cloudtest.Address(2)}},
		{Action: emulator.Status, Status: 400, Body: `{"validationErrors":{"Family 2":["x"],"Family 3 ":["x"]}}`},
		{Action: emulator.HTML}, {Action: emulator.Close}, {Action: emulator.Truncate, Bytes: 200}, {Action: emulator.Hang, Milliseconds: 70_000},
	} {
		w.fault(f)
		run, err := w.sync()
		if err == nil && f.Action != emulator.Hang {
			t.Errorf("%+v is no failure", f)
		}
		note(run, err)
		_, err = w.fetch()
		note(nil, err)
		_, err = w.paste(w.Cloud.Key + "x")
		note(nil, err)
		w.Cloud.ExpectToken(w.Cloud.Installation.ID)
		w.Clock.Pass(25 * time.Hour)
	}
	for _, secret := range []string{w.Cloud.Key, w.Cloud.Installation.Key, cloudtest.Address(2)} {
		w.Cloud.Transport.Break(w.Cloud.APIURL(), errors.New("proxy http://"+secret+"@proxy.example refuses"))
		note(w.sync())
		w.Clock.Pass(25 * time.Hour)
	}
	w.Cloud.Transport.Break(w.Cloud.APIURL(), nil)
	w.faultSyncs(emulator.Fault{Match: withOffer(4), Action: emulator.Status, Status: 500})
	note(w.sync())
	w.fault()
	w.revoke(1)
	if _, err := w.ReissueOffer(t.Context(), sponsor.Reissue{Organization: w.Org, ID: w.own(5).ID, Email: "other@home.example", Name: "Somebody else"}); err != nil {
		t.Fatal(err)
	}
	during := w.dump()
	note(w.sync())
	_, err = w.CreateOffer(t.Context(), sponsor.NewOffer{Organization: w.Org, By: sponsor.Member{ID: cloudtest.Member(9), Confirmed: true}, Email: "not an address@x", Name: "Family 9"})
	if fault.Of(err) != fault.Invalid {
		t.Errorf("%v", err)
	}
	note(nil, err)
	taken := w.NewOffer(9)
	taken.Name = "family 2"
	_, err = w.CreateOffer(t.Context(), taken)
	if fault.Of(err) != fault.Conflict {
		t.Errorf("%v", err)
	}
	note(nil, err)
	_, err = w.Tick(t.Context(), sponsor.Tick{At: w.Clock.Now(), ID: "a tick"})
	note(nil, err)
	note(w.Connection(t.Context(), w.Org))
	note(w.Status(t.Context(), w.Org))
	note(w.Health(t.Context()))
	note(w.Runs(t.Context(), w.Org, 100))
	sponsor.LogMetrics{Logger: w.Config.Logger}.Record(t.Context(), w.metrics.list[0])

	secrets := map[string]string{
		"the billing sync key": w.Cloud.Key, "the installation's key": w.Cloud.Installation.Key, "the licence key": organization.LicenseKey,
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
		"the logs": w.Logs.String(), "the metrics": fmt.Sprintf("%+v", w.metrics.list), "errors and answers": seen.String(),
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
