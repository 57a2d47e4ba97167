package cloud_test

import (
	"encoding/json"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

func TestTheBillingSyncKeyOnTheCloud(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.change(func(o *cloud.Organization) { o.BillingSyncKey = "" })
	user, err := w.UserToken(owner)
	if err != nil {
		t.Fatal(err)
	}
	base := w.APIURL() + "/organizations/" + w.organization.ID
	ask := func(what, body string) response { return w.send("POST", base+"/"+what, "application/json", user, body) }
	keyOf := func(answer response) string {
		t.Helper()
		var body struct{ Object, APIKey, RevisionDate string }
		if err := json.Unmarshal([]byte(answer.body), &body); err != nil || answer.status != 200 || body.Object != "apiKey" || body.RevisionDate == "" {
			t.Fatalf("%v: %+v", err, answer)
		}
		return body.APIKey
	}
	const proof = `{"type":1,"masterPasswordHash":"hash"}`
	wrong := ask("api-key", `{"type":1,"masterPasswordHash":"x"}`)
	if wrong.status != 400 || !strings.Contains(wrong.body, `"validationErrors":{"MasterPasswordHash":["Invalid password."]}`) || w.clock.slept != 2*time.Second {
		t.Errorf("answer is %+v after %s", wrong, w.clock.slept)
	}
	made, err := w.Organization(w.organization.ID)
	if err != nil || !regexp.MustCompile(`^[A-Za-z0-9]{30}$`).MatchString(made.BillingSyncKey) {
		t.Fatalf("the key is made before the password is looked at: %q, %v", made.BillingSyncKey, err)
	}
	if keyOf(ask("api-key", proof)) != made.BillingSyncKey || keyOf(ask("api-key", `{"type":1,"otp":"hash"}`)) != made.BillingSyncKey {
		t.Error("the key is another each time")
	}
	w.organization = made
	w.sync()
	rotated := keyOf(ask("rotate-api-key", proof))
	if rotated == made.BillingSyncKey {
		t.Error("rotation changed nothing")
	}
	if answer := w.post(w.syncBody()); messageOf(t, answer) != "Invalid Billing Sync Key" {
		t.Errorf("the old key: %+v", answer)
	}
	w.organization.BillingSyncKey = rotated
	w.sync()
	get := func(path string) string { return w.send("GET", base+path, "", user, "").body }
	const information = `{"object":"list","data":[{"object":"keyInformation","keyType":1,"revisionDate":"2026-03-02T08:00:02Z"}],"continuationToken":null}`
	for _, path := range []string{"/api-key-information", "/api-key-information/1", "/api-key-information/BillingSync"} {
		if got := get(path); got != information {
			t.Errorf("%s: %s", path, got)
		}
	}
	if got := get("/api-key-information/Scim"); !strings.Contains(got, `"data":[]`) {
		t.Errorf("scim: %s", got)
	}
	scim := keyOf(ask("api-key", `{"type":2,"masterPasswordHash":"hash"}`))
	if got := get("/api-key-information"); strings.Count(got, "keyInformation") != 2 || scim == rotated {
		t.Errorf("all: %s", got)
	}
	for name, prepare := range map[string]func(){
		"a plan that has none": func() { w.change(func(o *cloud.Organization) { o.PlanType = cloud.FamiliesAnnually }) },
		"another owner": func() {
			w.change(func(o *cloud.Organization) {
				o.PlanType, o.Owners = cloud.EnterpriseAnnually, []string{"x@example.test"}
			})
		},
	} {
		prepare()
		if answer := ask("api-key", proof); answer.status != 404 || messageOf(t, answer) != "Resource not found." {
			t.Errorf("%s: %+v", name, answer)
		}
	}
}

func TestTheSyncStatusOnTheCloud(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	user, err := w.UserToken(strings.ToUpper(owner))
	if err != nil {
		t.Fatal(err)
	}
	status := func() string {
		return w.send("GET", w.APIURL()+"/organization/sponsorship/"+w.organization.ID+"/sync-status", "", user, "").body
	}
	if got := status(); got != `{"object":"syncStatus","lastSyncDate":null}` {
		t.Errorf("never: %s", got)
	}
	w.sync(offer(1))
	w.Advance(time.Hour)
	w.sync(offer(2))
	if got := status(); got != `{"object":"syncStatus","lastSyncDate":"2026-03-02T09:00:00Z"}` {
		t.Errorf("then: %s", got)
	}
	if _, err := w.UserToken("nobody@example.test"); fault.Of(err) != fault.NotFound {
		t.Errorf("a token for nobody: %v", err)
	}
}

func TestRegisteringAnInstallation(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	answer := w.send("POST", w.APIURL()+"/installations", "application/json", "", `{"email":"new@example.test"}`)
	var made struct {
		Object, ID, Key string
		Enabled         bool
	}
	if err := json.Unmarshal([]byte(answer.body), &made); err != nil || made.Object != "installation" || len(made.Key) != 20 || !made.Enabled {
		t.Fatalf("%v: %+v", err, answer)
	}
	if got := w.send("GET", w.APIURL()+"/installations/"+made.ID, "", "", "").body; got != `{"object":"installation","id":"`+made.ID+`","key":null,"enabled":true}` {
		t.Errorf("installation is %s", got)
	}
	if answer := w.askToken(func(f url.Values) { f.Set("client_id", "installation."+made.ID); f.Set("client_secret", made.Key) }); answer.status != 200 {
		t.Errorf("answer is %+v", answer)
	}
	if answer := w.send("GET", w.APIURL()+"/installations/"+key(1), "", "", ""); answer.status != 404 {
		t.Errorf("answer is %+v", answer)
	}
	for _, body := range []string{"", "{}", `{"email":"x"}`} {
		if answer := w.send("POST", w.APIURL()+"/installations", "application/json", "", body); answer.status != 400 {
			t.Errorf("%s: %+v", body, answer)
		}
	}
}

func TestWhatCannotBeAdded(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	_, taken := w.AddInstallation(cloud.Installation{ID: w.installation.ID})
	_, malformed := w.AddInstallation(cloud.Installation{ID: "1"})
	_, takenOrganization := w.AddOrganization(cloud.Organization{ID: w.organization.ID})
	_, licence := w.AddOrganization(cloud.Organization{License: cloud.LicenseSettings{Set: map[string]any{"Seats": "many"}}})
	_, unknown := w.AddOrganization(cloud.Organization{License: cloud.LicenseSettings{Set: map[string]any{"useSso": true}}})
	_, elsewhere := w.AddSponsorship(cloud.Sponsorship{SponsoringOrganizationID: key(9), OfferKey: key(1)})
	_, noKey := w.AddSponsorship(cloud.Sponsorship{SponsoringOrganizationID: w.organization.ID, OfferKey: "x"})
	for what, test := range map[string]struct {
		err  error
		want fault.Class
	}{
		"an installation twice": {taken, fault.Conflict}, "an id that is no GUID": {malformed, fault.Invalid},
		"an organization twice": {takenOrganization, fault.Conflict}, "a bad property": {licence, fault.Invalid}, "an unknown property": {unknown, fault.Invalid},
		"a sponsorship of nobody": {elsewhere, fault.Invalid}, "a bad offer key": {noKey, fault.Invalid},
		"a user without address":     {w.AddUser(cloud.User{}), fault.Invalid},
		"a redemption of nothing":    {w.Redeem(w.organization.ID, key(1), epoch), fault.NotFound},
		"a redemption nowhere":       {w.Redeem(key(9), key(1), epoch), fault.NotFound},
		"disabling nothing":          {w.DisableInstallation(key(9)), fault.NotFound},
		"a bad property of a change": {w.ChangeOrganization(w.organization.ID, func(o *cloud.Organization) { o.License.Set = map[string]any{"Trial": 1} }), fault.Invalid},
	} {
		if fault.Of(test.err) != test.want {
			t.Errorf("%s: %v", what, test.err)
		}
	}
	w.sync(offer(1))
	if err := w.Renew(w.organization.ID, key(1), epoch); fault.Of(err) != fault.Conflict {
		t.Errorf("a renewal before the redemption: %v", err)
	}
	if err := w.Redeem(w.organization.ID, w.rows()[0].ID, time.Time{}); err != nil || !w.rows()[0].ValidUntil.Equal(epoch.AddDate(1, 0, 0)) {
		t.Errorf("a redemption by id: %v", err)
	}
	if err := w.Redeem(w.organization.ID, key(1), epoch); fault.Of(err) != fault.Conflict {
		t.Errorf("a redemption twice: %v", err)
	}
	if err := w.Drop(w.organization.ID, key(1)); err != nil || !w.rows()[0].ToDelete {
		t.Errorf("dropping: %v", err)
	}
}
