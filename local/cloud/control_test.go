package cloud_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// control calls the control plane and decodes what it answers into a value.
func (w *world) control(method, path, body string, into any) int {
	w.Helper()
	r := httptest.NewRequest(method, "/__emu"+path, strings.NewReader(body))
	recorder := httptest.NewRecorder()
	w.ControlHandler().ServeHTTP(recorder, r)
	if into != nil {
		if err := json.Unmarshal(recorder.Body.Bytes(), into); err != nil {
			w.Fatalf("%s %s: %v: %s", method, path, err, recorder.Body)
		}
	}
	return recorder.Code
}

// do calls it where it has to succeed.
func (w *world) do(method, path, body string, into any) {
	w.Helper()
	if status := w.control(method, path, body, into); status != http.StatusOK && status != http.StatusNoContent {
		w.Fatalf("%s %s: %d", method, path, status)
	}
}

func TestTheControlPlaneTellsTheWholeStory(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	org := "/org/" + w.organization.ID
	w.sync(offer(1), offer(2), offer(3))

	var mails []cloud.Mail
	var events []cloud.Event
	var requests []cloud.Request
	w.do("GET", "/mails", "", &mails)
	w.do("GET", "/events", "", &events)
	w.do("GET", "/requests", "", &requests)
	if len(mails) != 3 || len(events) != 1 || len(requests) != 2 {
		t.Errorf("%d mails, %d events, %d requests", len(mails), len(events), len(requests))
	}

	w.do("POST", "/redeem", fmt.Sprintf(`{"offerKey":%q,"until":"2027-01-01T00:00:00Z"}`, key(1)), nil)
	w.do("POST", "/redeem", fmt.Sprintf(`{"sponsorshipId":%q,"organizationId":%q,"until":"2026-04-01T00:00:00Z"}`, w.rows()[1].ID, w.organization.ID), nil)
	w.do("POST", "/renew", fmt.Sprintf(`{"offerKey":%q,"until":"2028-01-01T00:00:00Z"}`, key(1)), nil)
	w.do("POST", "/drop", fmt.Sprintf(`{"offerKey":%q}`, key(2)), nil)
	rows := w.rows()
	if rows[0].ValidUntil.Year() != 2028 || rows[1].ValidUntil.Month() != time.April || !rows[1].ToDelete {
		t.Errorf("rows are %+v", rows)
	}
	var clock struct {
		Now    time.Time
		Frozen bool
	}
	w.do("PUT", "/clock", `{"now":"2026-07-01T00:00:00Z","frozen":true}`, &clock)
	w.do("PUT", "/clock", `{"advance":"36h"}`, &clock)
	if want := time.Date(2026, 7, 2, 12, 0, 0, 0, time.UTC); !clock.Now.Equal(want) || !w.Now().Equal(want) || !clock.Frozen {
		t.Errorf("clock is %+v", clock)
	}
	var purged struct{ Purged int }
	w.do("POST", "/purge", "", &purged)
	if purged.Purged != 1 || len(w.rows()) != 2 {
		t.Errorf("%d purged", purged.Purged)
	}
	w.do("PUT", "/clock", `{"now":"2026-03-02T08:00:00Z","frozen":false}`, &clock)

	w.do("POST", "/poison", fmt.Sprintf(`{"offerKey":%q}`, key(3)), nil)
	if answer := w.post(w.syncBody(offer(3))); answer.status != 500 {
		t.Errorf("poisoned: %+v", answer)
	}
	var orphans []cloud.Sponsorship
	w.do("POST", org+"/orphans", fmt.Sprintf(`{"known":[%q]}`, key(1)), &orphans)
	if len(orphans) != 2 {
		t.Errorf("orphans are %v", orphans)
	}
	w.do("POST", "/remove", fmt.Sprintf(`{"offerKey":%q}`, key(3)), nil)

	w.do("POST", org+"/plan", `{"planType":18}`, nil)
	if items := w.sync(offer(1)); len(items) != 0 {
		t.Errorf("items are %v", items)
	}
	w.do("POST", org+"/disable", `{"expirationDate":"2025-01-01T00:00:00Z"}`, nil)
	var shown cloud.Organization
	w.do("GET", org, "", &shown)
	if !shown.Disabled || shown.Expiration.Year() != 2025 || shown.PlanType != cloud.TeamsAnnually {
		t.Errorf("organization is %+v", shown)
	}
	w.do("POST", org+"/enable", "", nil)
	w.do("PATCH", org, `{"planType":20,"subscription":"canceled","license":{"version":17,"set":{"Seats":3}}}`, &shown)
	if shown.PlanType != 20 || shown.Subscription != "canceled" || shown.License.Version != 17 || shown.Name != "Example" || shown.Disabled {
		t.Errorf("organization is %+v", shown)
	}
	var licence map[string]any
	w.do("GET", org+"/license?installationId="+w.installation.ID, "", &licence)
	if licence["seats"] != 3.0 || licence["version"] != 17.0 {
		t.Errorf("licence is %v", licence)
	}
	var rotated struct{ BillingSyncKey string }
	w.do("POST", org+"/rotate-key", "", &rotated)
	if answer := w.post(w.syncBody()); messageOf(t, answer) != "Invalid Billing Sync Key" {
		t.Errorf("rotated: %+v", answer)
	}
	w.organization.BillingSyncKey = rotated.BillingSyncKey
	w.sync()

	w.do("POST", "/installation/"+w.installation.ID+"/disable", "", nil)
	if answer := w.askToken(nil); answer.status != 400 {
		t.Errorf("disabled: %+v", answer)
	}
	w.do("POST", "/expect", fmt.Sprintf(`{"installation":%q}`, w.installation.ID), nil)
	w.do("POST", "/installation/"+w.installation.ID+"/enable", "", nil)
	w.do("POST", "/installation/"+w.installation.ID+"/key", `{"key":"another"}`, nil)
	w.installation.Key = "another"
	w.newToken("api.installation")

	var violations []cloud.Violation
	w.do("GET", "/violations", "", &violations)
	if len(violations) != 0 {
		t.Errorf("violations are %v", violations)
	}
	w.do("PUT", "/settings", `{"fidelity":"fixed","limits":{"enabled":true},"clientCacheSeconds":300,"removedRoutes":["license"]}`, nil)
	var settings cloud.Settings
	w.do("GET", "/settings", "", &settings)
	if settings.Fidelity != cloud.Fixed || !settings.Limits.Enabled || settings.ClientCacheSeconds != 300 || len(settings.RemovedRoutes) != 1 {
		t.Errorf("settings are %+v", settings)
	}
	if answer := w.askLicence(nil); answer.status != 404 {
		t.Errorf("removed: %+v", answer)
	}
	w.do("PUT", "/faults", `[{"match":{"route":"sync","from":1,"to":2,"batch":{"min":1}},"when":"afterCommit","action":"status","status":503,"times":1}]`, nil)
	var rules []cloud.Fault
	w.do("GET", "/faults", "", &rules)
	if len(rules) != 1 || rules[0].When != cloud.AfterCommit || rules[0].Match.To != 2 {
		t.Errorf("faults are %+v", rules)
	}
	if answer := w.post(w.syncBody(offer(9))); answer.status != 503 {
		t.Errorf("fault: %+v", answer)
	}
	w.do("DELETE", "/requests", "", nil)
	if w.Count("") != 0 {
		t.Error("requests were kept")
	}
	w.do("POST", "/settle", "", nil)

	var made cloud.Organization
	w.do("POST", "/org", `{"name":"Made"}`, &made)
	var installation cloud.Installation
	w.do("POST", "/installation", `{}`, &installation)
	w.do("POST", "/user", `{"email":"made@example.test"}`, nil)
	var user struct{ Token string }
	w.do("POST", "/user/token", `{"email":"made@example.test"}`, &user)
	var row cloud.Sponsorship
	w.do("POST", "/sponsorship", fmt.Sprintf(`{"sponsoringOrganizationId":%q,"sponsoringOrganizationUserId":%q}`, made.ID, key(5)), &row)
	if made.ID == "" || installation.Key == "" || user.Token == "" || row.ID == "" {
		t.Errorf("made were %+v, %+v, %+v, %+v", made, installation, user, row)
	}
	var counts []struct {
		OfferKey string
		Mails    int
	}
	w.do("GET", "/mail-counts", "", &counts)
	if len(counts) != 3 || counts[0].Mails != 1 || counts[0].OfferKey == "" {
		t.Errorf("counts are %+v", counts)
	}

	var state json.RawMessage
	w.do("GET", "/state", "", &state)
	w.do("POST", "/reset", "", nil)
	if len(w.State().Organizations) != 0 {
		t.Error("reset kept something")
	}
	var restored json.RawMessage
	w.do("PUT", "/state", string(state), &restored)
	if !bytes.Equal(state, restored) {
		t.Errorf("restored was\n%s, want\n%s", restored, state)
	}
	w.sync(offer(20))
}

func TestWhatTheControlPlaneRefuses(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	before := w.State()
	for _, test := range []struct {
		method, path, body string
		status             int
	}{
		{"PUT", "/faults", `[{"action":"explode"}]`, 400},
		{"PUT", "/faults", `[{"acton":"close"}]`, 400},
		{"PUT", "/faults", `{`, 400},
		{"PUT", "/settings", `{"fidelity":"x"}`, 400},
		{"PUT", "/settings", `{"removedRoutes":["x"]}`, 400},
		{"PUT", "/clock", `{"advance":"soon"}`, 400},
		{"PUT", "/state", `{"installations":[{"id":"x"}]}`, 400},
		{"PUT", "/state", `{"organizations":[],"sponsorships":[{"sponsoringOrganizationId":"x"}]}`, 400},
		{"POST", "/redeem", fmt.Sprintf(`{"offerKey":%q}`, key(1)), 404},
		{"POST", "/org/" + key(1) + "/disable", ``, 404},
		{"PATCH", "/org/" + key(1), `{}`, 404},
		{"PATCH", "/org/" + w.organization.ID, `{"license":{"set":{"Nothing":1}}}`, 400},
		{"POST", "/org/" + w.organization.ID + "/plan", `{}`, 400},
		{"POST", "/org", fmt.Sprintf(`{"id":%q}`, w.organization.ID), 409},
		{"POST", "/installation/" + key(1) + "/enable", ``, 404},
		{"POST", "/user/token", `{"email":"x"}`, 404},
		{"GET", "/org/" + key(1) + "/license", ``, 404},
	} {
		var body struct{ Error string }
		if status := w.control(test.method, test.path, test.body, &body); status != test.status || body.Error == "" {
			t.Errorf("%s %s %s: %d %q", test.method, test.path, test.body, status, body.Error)
		}
	}
	if status := w.control("GET", "/nothing", "", nil); status != 404 {
		t.Errorf("an unknown path: %d", status)
	}
	if got := w.State(); len(got.Organizations) != 1 || got.Organizations[0].Name != before.Organizations[0].Name || len(got.Installations) != 1 {
		t.Errorf("state is %+v", got)
	}
}

func TestStartListensOnLoopbackOnly(t *testing.T) {
	c, err := cloud.New(cloud.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Start(cloud.Addresses{API: "0.0.0.0:0"}); fault.Of(err) != fault.Invalid {
		t.Errorf("error is %v", err)
	}
	if c, err = cloud.New(cloud.Config{}); err != nil {
		t.Fatal(err)
	}
	server, err := c.Start(cloud.Addresses{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	status := func(address string, change func(*http.Request)) int {
		r, err := http.NewRequestWithContext(t.Context(), "GET", address, nil)
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(r)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode
	}
	for name, got := range map[string]int{
		"control":                      status(server.ControlURL+"/__emu/state", nil),
		"not control, on identity 404": status(server.IdentityURL+"/__emu/state", nil) - 204,
		"not control, on the API 404":  status(server.APIURL+"/__emu/state", nil) - 204,
		"discovery not on the API 404": status(server.APIURL+"/.well-known/openid-configuration", nil) - 204,
		"a page of another site 403":   status(server.ControlURL+"/__emu/state", func(r *http.Request) { r.Host = "evil.example" }) - 203,
		"a script of another site 403": status(server.ControlURL+"/__emu/state", func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }) - 203,
		"localhost":                    status(server.ControlURL+"/__emu/state", func(r *http.Request) { r.Host = "localhost:1" }),
	} {
		if got != 200 {
			t.Errorf("%s: off by %d", name, got-200)
		}
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}
