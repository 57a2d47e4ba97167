package sponsorships_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/functions/sponsorships"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/httpx"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

const syncPath = "/organizations/" + org + "/billing-sync"

func TestAConnection(t *testing.T) {
	h := open(t)
	none := `{"id":null,"type":0,"organizationId":"00000000-0000-0000-0000-000000000000","enabled":false,"config":null}`
	for _, name := range []string{"1", "CloudBillingSync", "cloudbillingsync", "2", "Scim"} {
		if got := h.get("/organizations/connections/" + org + "/" + name); got.body != none || got.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", name, got.StatusCode, got.body)
		}
	}
	h.get("/organizations/connections/"+org+"/7").says(http.StatusNotFound, "Resource not found.")

	without := h.connect()
	without.says(http.StatusBadRequest, "Cannot verify license file.")
	if code := without.Header.Get(httpx.CodeHeader); code != "license_missing" {
		t.Errorf("the code is %q", code)
	}
	h.upload(h.alice, org, h.licence).empty()

	made := h.connect().is(http.StatusOK)
	members(t, made, "id", "type", "organizationId", "enabled", "config", "probe")
	end := h.cloud.Key[len(h.cloud.Key)-4:]
	want := fmt.Sprint(object{"BillingSyncKey": end, "CloudOrganizationId": h.cloud.OrgID, "LastLicenseSync": nil})
	if made["id"] != org || made["type"] != 1.0 || made["organizationId"] != org || made["enabled"] != true || fmt.Sprint(made["config"]) != want {
		t.Errorf("%v", made)
	}
	if probe, _ := made["probe"].(object); probe["good"] != true || probe["code"] != nil {
		t.Errorf("%v", made)
	}
	h.connect().says(http.StatusBadRequest, "The requested organization already has a connection of type CloudBillingSync. Only one of each connection type may exist per organization.")
	shown := h.get("/organizations/connections/" + strings.ToUpper(org) + "/1").is(http.StatusOK)
	if fmt.Sprint(shown["config"]) != want {
		t.Errorf("%v", shown)
	}

	path := "/organizations/connections/" + org
	put := func(change object) answer {
		body := h.connection(end)
		for name, value := range change {
			body[name] = value
		}
		return h.do(h.alice, http.MethodPut, path, body)
	}
	put(object{"type": 2}).says(http.StatusBadRequest, "The connection type cannot be changed.")
	put(object{"organizationId": elsewhere}).says(http.StatusBadRequest, "The connection's organization cannot be changed.")
	for _, configuration := range []any{nil, "text", []int{1}, object{"billingSyncKey": 7}} {
		put(object{"config": configuration}).says(http.StatusBadRequest, "Organization Connection configuration malformed")
	}
	fingerprint := func() any {
		connection, _ := h.get(syncPath).is(http.StatusOK)["connection"].(object)
		return connection["keyFingerprint"]
	}
	before := fingerprint()
	if off := put(object{"enabled": false}).is(http.StatusOK); off["enabled"] != false || fmt.Sprint(off["config"]) != want || fingerprint() != before {
		t.Errorf("what a client was given in the key's place has replaced it: %v", off)
	}
	rotated, err := h.cloud.RotateKey(h.cloud.OrgID)
	if err != nil {
		t.Fatal(err)
	}
	refused := put(object{"config": object{"BILLINGSYNCKEY": "thisIsNotTheKeyOfTheOrganisatio"}})
	if refused.StatusCode != http.StatusBadRequest || refused.Header.Get(httpx.CodeHeader) != "key_invalid" || fingerprint() != before {
		t.Errorf("%d %s", refused.StatusCode, refused.body)
	}
	put(object{"config": object{"BILLINGSYNCKEY": rotated}}).is(http.StatusOK)
	if fingerprint() == before {
		t.Error("the new key is not kept")
	}
	h.do(h.alice, http.MethodDelete, path, nil).empty()
	h.do(h.alice, http.MethodDelete, path, nil).says(http.StatusNotFound, "Resource not found.")
	put(nil).says(http.StatusNotFound, "Resource not found.")
	if got := h.get(path + "/1"); got.body != none {
		t.Error(got.body)
	}
	h.do(h.alice, http.MethodPost, "/organizations/connections", object{"type": 2, "organizationId": org, "enabled": true, "config": object{}}).
		says(http.StatusBadRequest, "Connections of type CloudBillingSync are all that this server has.")
	wantAudit := []string{"license.upload " + org, "sync-connection.create " + org, "sync-connection.disable " + org, "sync-connection.key " + org, "sync-connection.enable " + org, "sync-connection.delete " + org}
	if got := h.audited(); !slices.Equal(got, wantAudit) {
		t.Errorf("the audit log has %q", got)
	}
}

func TestWhetherTheCloudMayBeSpokenWith(t *testing.T) {
	for _, on := range []bool{true, false} {
		h := open(t, func(c *sponsorships.Config) { c.Billing.CloudCommunication = on })
		for _, token := range []string{h.alice, h.bob, h.eve} {
			if got := h.do(token, http.MethodGet, "/organizations/connections/enabled", nil); got.StatusCode != http.StatusOK || got.body != fmt.Sprint(on) {
				t.Errorf("%d %s", got.StatusCode, got.body)
			}
		}
	}
}

func TestWithoutCloudCommunicationNothingIsSent(t *testing.T) {
	h := open(t, func(c *sponsorships.Config) { c.Billing.CloudCommunication = false })
	h.upload(h.alice, org, h.licence).empty()
	made := h.connect().is(http.StatusOK)
	if probe, _ := made["probe"].(object); probe["good"] != false || probe["code"] != "cloud_comm_disabled" || probe["date"] != nil {
		t.Errorf("%v", made)
	}
	for path, message := range map[string]string{
		syncPath + "/sync": "Failed to sync instance with cloud - Cloud communication is disabled in global settings",
		"/organizations/licenses/self-hosted/" + org + "/sync": "Cloud communication is disabled in global settings",
	} {
		got := h.do(h.alice, http.MethodPost, path, nil)
		if text, _ := got.is(http.StatusBadRequest)["message"].(string); !strings.HasPrefix(text, message) {
			t.Errorf("%s: %q", path, text)
		}
	}
	if n := len(h.cloud.Requests()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// The story of an offer, as its member and its administrator see it.
func TestAnOfferFromItsRequestToItsEnd(t *testing.T) {
	h := connected(t)
	own := "/organization/sponsorship/self-hosted/" + org
	h.do(h.bob, http.MethodDelete, own, nil).says(http.StatusBadRequest, "You are not currently sponsoring an organization.")
	h.offer(h.bob, "family@home.example", false)
	status := func() (object, object) {
		t.Helper()
		list := h.get(syncPath + "/offers").list()
		if len(list) != 1 {
			t.Fatalf("%v", list)
		}
		shown, _ := list[0]["status"].(object)
		return list[0], shown
	}
	o, shown := status()
	members(t, o, "object", "sponsoringOrganizationUserId", "friendlyName", "offeredToEmail", "planSponsorshipType", "lastSyncDate", "validUntil",
		"toDelete", "isAdminInitiated", "notes", "cloudSponsorshipRemoved", "id", "offerKey", "status", "state", "pendingSince", "firstAttemptDate",
		"reissue", "lastOutcome", "lastError", "quarantined", "mailUncertain", "creationDate", "revisionDate")
	if shown["key"] != "requested" || shown["label"] != "Requested" || o["pendingSince"] == nil || o["sponsoringOrganizationUserId"] != bob || o["lastSyncDate"] != nil {
		t.Errorf("%v", o)
	}
	if got := h.get("/organization/sponsorship/" + org + "/sync-status"); got.body != `{"object":"syncStatus","lastSyncDate":null}` {
		t.Error(got.body)
	}

	before := h.get(syncPath).is(http.StatusOK)
	if before["lastSponsorshipSync"] != nil || before["lastSponsorshipSyncLabel"] != "Never" || before["lastLicenseSyncLabel"] != "Never" || before["lastRun"] != nil {
		t.Errorf("%v", before)
	}
	run := h.sync()
	if run["status"] != "completed" || run["trigger"] != "manual" || run["object"] != "billingSyncRun" {
		t.Errorf("%v", run)
	}
	after := h.get(syncPath).is(http.StatusOK)
	last, _ := after["lastRun"].(object)
	if after["lastSponsorshipSync"] == nil || after["lastSponsorshipSyncLabel"] == "Never" || last["id"] != run["id"] || after["nextDue"] == nil || after["currentRun"] != nil {
		t.Errorf("%v", after)
	}
	if o, shown = status(); shown["key"] != "sent" || shown["label"] != "Sent" || o["lastSyncDate"] == nil || o["pendingSince"] != nil || o["firstAttemptDate"] == nil {
		t.Errorf("%v", o)
	}
	if at := h.get("/organization/sponsorship/" + org + "/sync-status").is(http.StatusOK)["lastSyncDate"]; at != o["lastSyncDate"] {
		t.Errorf("%v", at)
	}

	until := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	if err := h.cloud.Redeem(h.cloud.OrgID, bob, until); err != nil {
		t.Fatal(err)
	}
	h.sync()
	if o, shown = status(); shown["label"] != "Active" || o["validUntil"] != "2031-02-03T04:05:06Z" {
		t.Errorf("%v", o)
	}
	h.do(h.bob, http.MethodPost, own+"/delete", nil).empty()
	if o, shown = status(); shown["key"] != "revokeWhenExpired" || shown["label"] != "Expires 02/03/2031" || o["toDelete"] != true {
		t.Errorf("%v", o)
	}
	// Nobody is told about it, and the official list has no such offer.
	if list := h.get(own + "/sponsored").list(); len(list) != 0 {
		t.Errorf("%v", list)
	}
}

// sync triggers a run, which the kick does, and gives it.
func (h *house) sync() object {
	h.Helper()
	triggered := h.do(h.alice, http.MethodPost, syncPath+"/sync", nil).is(http.StatusAccepted)
	id, _ := triggered["id"].(string)
	return h.get(syncPath + "/runs/" + id + "?wait=5").is(http.StatusOK)
}

func TestARevokedOfferAwaitsTheSync(t *testing.T) {
	h := connected(t)
	h.offer(h.alice, "one+a@home.example", true)
	h.offer(h.alice, "two/b@home.example", true)
	h.offer(h.bob, "three@home.example", false)
	h.sync()
	list := h.get("/organization/sponsorship/self-hosted/" + org + "/sponsored").list()
	if len(list) != 2 {
		t.Fatalf("%v", list)
	}
	members(t, list[0], "object", "sponsoringOrganizationUserId", "friendlyName", "offeredToEmail", "planSponsorshipType", "lastSyncDate", "validUntil",
		"toDelete", "isAdminInitiated", "notes", "cloudSponsorshipRemoved")
	if list[0]["object"] != "organizationSponsorship" || list[0]["isAdminInitiated"] != true || list[0]["cloudSponsorshipRemoved"] != false {
		t.Errorf("%v", list[0])
	}
	named := "/organization/sponsorship/self-hosted/" + org + "/"
	h.do(h.alice, http.MethodDelete, named+"ONE+a@home.example/revoke", nil).empty()
	h.do(h.alice, http.MethodDelete, named+"two%2Fb@home.example/revoke", nil).empty()
	h.do(h.alice, http.MethodDelete, named+"nobody@home.example/revoke", nil).says(http.StatusBadRequest, "You are not currently sponsoring an organization.")
	labels := map[any]int{}
	for _, o := range h.get(syncPath + "/offers").list() {
		shown, _ := o["status"].(object)
		labels[shown["label"]]++
	}
	if labels["Removed (awaiting sync)"] != 2 || labels["Sent"] != 1 {
		t.Errorf("%v", labels)
	}
	h.sync()
	if list := h.get(syncPath + "/offers").list(); len(list) != 1 {
		t.Errorf("%v", list)
	}
	revoked := h.do(h.alice, http.MethodPost, syncPath+"/members/"+bob+"/removed", nil).is(http.StatusOK)
	if revoked["revokedOffers"] != 1.0 {
		t.Errorf("%v", revoked)
	}
	h.sync()
	if left := h.cloud.Rows(); len(left) != 0 {
		t.Errorf("the cloud still has %d offers", len(left))
	}
}

func TestAnOfferIsMadeAnew(t *testing.T) {
	h := connected(t)
	h.offer(h.bob, "old@home.example", false)
	h.sync()
	id, _ := h.get(syncPath + "/offers").list()[0]["id"].(string)
	again := h.do(h.alice, http.MethodPost, syncPath+"/offers/"+id+"/reissue", object{"sponsoredEmail": "new@home.example"}).is(http.StatusOK)
	if again["offeredToEmail"] != "new@home.example" || again["friendlyName"] != "old@home.example" || again["reissue"] != true || again["toDelete"] != false {
		t.Errorf("%v", again)
	}
	h.sync()
	h.do(h.alice, http.MethodPost, syncPath+"/offers/"+id+"/reissue", nil).is(http.StatusOK)
	h.sync()
	var to []string
	for _, mail := range h.cloud.Mails() {
		to = append(to, mail.To)
	}
	if !slices.Equal(to, []string{"old@home.example", "new@home.example", "new@home.example"}) {
		t.Errorf("mails went to %v", to)
	}
	h.do(h.alice, http.MethodPost, syncPath+"/offers/"+elsewhere+"/reissue", nil).says(http.StatusNotFound, "Resource not found.")
	h.do(h.alice, http.MethodPost, syncPath+"/offers/"+id+"/revoke", nil).empty()
	h.do(h.alice, http.MethodPost, syncPath+"/offers/"+id+"/reissue", nil).is(http.StatusBadRequest)
}

func TestWhatCannotBeOffered(t *testing.T) {
	h := connected(t)
	good := offer("family@home.example", "family@home.example", false)
	with := func(name string, value any) object {
		body := object{}
		for n, v := range good {
			body[n] = v
		}
		if body[name] = value; value == nil {
			delete(body, name)
		}
		return body
	}
	const toOneself = "Cannot offer a Families Organization Sponsorship to yourself. Choose a different email."
	for name, c := range map[string]struct {
		token   string
		body    any
		status  int
		message string
		member  string
	}{
		"to oneself":             {h.bob, with("sponsoredEmail", strings.ToUpper(bob)+"@EXAMPLE.test"), 400, toOneself, ""},
		"by a stranger":          {h.eve, good, 400, toOneself, ""},
		"without a plan":         {h.bob, with("planSponsorshipType", nil), 400, "The model state is invalid.", "PlanSponsorshipType"},
		"of another plan":        {h.bob, with("planSponsorshipType", 1), 400, "The model state is invalid.", "PlanSponsorshipType"},
		"a plan that is a text":  {h.bob, with("planSponsorshipType", "families"), 400, "The model state is invalid.", "planSponsorshipType"},
		"to nobody":              {h.bob, with("sponsoredEmail", nil), 400, "The model state is invalid.", "SponsoredEmail"},
		"to what is no address":  {h.bob, with("sponsoredEmail", "family at home"), 400, "The model state is invalid.", "SponsoredEmail"},
		"with a long name":       {h.bob, with("friendlyName", strings.Repeat("x", 257)), 400, "The model state is invalid.", "FriendlyName"},
		"with long notes":        {h.bob, with("notes", strings.Repeat("x", 513)), 400, "The model state is invalid.", "Notes"},
		"not in JSON":            {h.bob, "text", 400, "The request body is not the JSON that is expected here.", ""},
		"by a member for all":    {h.bob, with("isAdminInitiated", true), 401, "You do not have permissions to send sponsorships on behalf of the organization.", ""},
		"by whom no id is known": {h.person(devidentity.Claims{User: "not-a-guid", Member: []string{org}}), good, 400, "Unknown Organization User", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := h.do(c.token, http.MethodPost, families, c.body)
			got.says(c.status, c.message)
			if wrong, _ := got.is(c.status)["validationErrors"].(object); c.member != "" && wrong[c.member] == nil {
				t.Errorf("%s", got.body)
			}
		})
	}
	h.do(h.bob, http.MethodPost, families, good).empty()
	h.do(h.bob, http.MethodPost, families, good).empty()
	h.do(h.alice, http.MethodPost, families, good).says(http.StatusBadRequest, "Another offer of this organization has that name. Choose a different one.")
	if list := h.get(syncPath + "/offers").list(); len(list) != 1 {
		t.Errorf("%v", list)
	}
}

func TestWithoutALicenceNobodyCanSponsor(t *testing.T) {
	h := open(t)
	h.do(h.bob, http.MethodPost, families, offer("family@home.example", "", false)).
		says(http.StatusBadRequest, "Specified Organization cannot sponsor other organizations.")
}

func TestWhatTheCloudAloneDoes(t *testing.T) {
	h := open(t)
	for _, route := range []string{
		"POST /organization/sponsorship/validate-token", "POST /organization/sponsorship/redeem",
		"POST /organization/sponsorship/" + org + "/families-for-enterprise/resend", "DELETE /organization/sponsorship/sponsored/" + org,
		"POST /organization/sponsorship/sponsored/" + org + "/remove",
	} {
		method, path, _ := strings.Cut(route, " ")
		h.do(h.alice, method, path, nil).says(http.StatusBadRequest, "Only allowed when not self hosted.")
	}
}

// What is not somebody's business is hidden from him, or refused in the
// original's words.
func TestWhoMayWhat(t *testing.T) {
	h := connected(t)
	h.offer(h.alice, "admin@home.example", true)
	offers := h.get(syncPath + "/offers").list()
	of, _ := offers[0]["id"].(string)
	run, _ := h.do(h.alice, http.MethodPost, syncPath+"/sync", nil).is(http.StatusAccepted)["id"].(string)
	const hidden, own = "Resource not found.", "/organization/sponsorship/self-hosted/" + org
	permission := func(verb string) string {
		return "You do not have permission to " + verb + " a connection of type CloudBillingSync."
	}
	for _, c := range []struct {
		route, message string
		body           any
	}{
		{"POST /organizations/connections", permission("create"), h.connection(h.cloud.Key)},
		{"PUT /organizations/connections/" + org, permission("update"), h.connection(h.cloud.Key)},
		{"PUT /organizations/connections/not-a-guid", permission("update"), h.connection(h.cloud.Key)},
		{"GET /organizations/connections/" + org + "/1", permission("retrieve"), nil},
		{"DELETE /organizations/connections/" + org, permission("remove"), nil},
		{"POST /organizations/licenses/self-hosted/" + org, hidden, nil},
		{"POST /organizations/licenses/self-hosted/" + org + "/sync", hidden, nil},
		{"DELETE " + own + "/admin@home.example/revoke", hidden, nil},
		{"GET " + own + "/sponsored", hidden, nil},
		{"GET /organization/sponsorship/" + org + "/sync-status", hidden, nil},
		{"GET " + syncPath, hidden, nil},
		{"POST " + syncPath + "/sync", hidden, nil},
		{"GET " + syncPath + "/runs", hidden, nil},
		{"GET " + syncPath + "/runs/" + run, hidden, nil},
		{"POST " + syncPath + "/offers/" + of + "/revoke", hidden, nil},
		{"POST " + syncPath + "/offers/" + of + "/reissue", hidden, nil},
		{"POST " + syncPath + "/members/" + alice + "/removed", hidden, nil},
		{"GET " + syncPath + "/license", hidden, nil},
		{"POST " + syncPath + "/license/check", hidden, nil},
	} {
		method, path, _ := strings.Cut(c.route, " ")
		status := http.StatusBadRequest
		if c.message == hidden {
			status = http.StatusNotFound
		}
		for _, token := range []string{h.bob, h.eve} {
			h.do(token, method, path, c.body).says(status, c.message)
		}
		h.do("", method, path, c.body).is(http.StatusUnauthorized)
		h.do("x"+h.alice[1:], method, path, c.body).is(http.StatusUnauthorized)
	}
	h.do(h.eve, http.MethodDelete, own, nil).says(http.StatusBadRequest, "Unknown Organization User")
	h.do(h.eve, http.MethodGet, syncPath+"/offers", nil).says(http.StatusNotFound, hidden)

	h.offer(h.bob, "bob@home.example", false)
	mine := h.do(h.bob, http.MethodGet, syncPath+"/offers", nil).list()
	if len(mine) != 1 || mine[0]["sponsoringOrganizationUserId"] != bob {
		t.Fatalf("a member sees %v", mine)
	}
	id, _ := mine[0]["id"].(string)
	h.do(h.bob, http.MethodPost, syncPath+"/offers/"+id+"/revoke", nil).empty()
	if left := h.get(syncPath + "/offers").list(); len(left) != 1 || left[0]["id"] != of {
		t.Errorf("%v", left)
	}
}

func TestASessionOfAMachineIsNobodys(t *testing.T) {
	h := open(t)
	machine := h.person(devidentity.Claims{User: alice, Owner: []string{org}, Set: map[string]any{"type": "ServiceAccount", "scope": []string{"api.secrets"}}})
	got := h.do(machine, http.MethodGet, syncPath, nil)
	if got.StatusCode != http.StatusUnauthorized && got.StatusCode != http.StatusNotFound {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
}

func TestWhoeverAsksAgainGetsTheSameRun(t *testing.T) {
	h := connected(t)
	h.kickFails.Store(true)
	first := h.do(h.alice, http.MethodPost, syncPath+"/sync", nil).is(http.StatusAccepted)
	second := h.do(h.alice, http.MethodPost, syncPath+"/sync", nil).is(http.StatusAccepted)
	if first["id"] != second["id"] || first["status"] != "queued" || h.kicks.Load() != 2 {
		t.Errorf("%v, %v", first, second)
	}
	if !strings.Contains(h.logs.String(), `"kick":`) {
		t.Error("the log does not tell that nothing began")
	}
	id, _ := first["id"].(string)
	if waiting := h.get(syncPath + "/runs/" + id + "?wait=1").is(http.StatusOK); waiting["status"] != "queued" {
		t.Errorf("%v", waiting)
	}
	if err := h.scheduled.Run(t.Context(), billingTick); err != nil {
		t.Fatal(err)
	}
	if done := h.get(syncPath + "/runs/" + id).is(http.StatusOK); done["status"] != "completed" {
		t.Errorf("%v", done)
	}
	h.kickFails.Store(false)
	h.sync()
	runs := h.get(syncPath + "/runs?limit=1").list()
	if all := h.get(syncPath + "/runs").list(); len(all) != 2 || len(runs) != 1 || runs[0]["id"] != all[0]["id"] || all[1]["id"] != id {
		t.Errorf("%v of %v", runs, all)
	}
	h.get(syncPath+"/runs?limit=many").says(http.StatusBadRequest, "The limit of the query is not a number.")
	h.get(syncPath+"/runs/"+id+"?wait=-1").says(http.StatusBadRequest, "The wait of the query is not a number.")
	h.get(syncPath+"/runs/"+elsewhere).says(http.StatusNotFound, "Resource not found.")
}

func TestARunThatFailsTellsWhy(t *testing.T) {
	h := connected(t)
	if _, err := h.cloud.RotateKey(h.cloud.OrgID); err != nil {
		t.Fatal(err)
	}
	run := h.sync()
	if run["status"] != "failed" || run["errorCode"] != "key_invalid" || run["message"] != "Invalid Billing Sync Key" {
		t.Errorf("%v", run)
	}
	status := h.get(syncPath).is(http.StatusOK)
	if status["errorCode"] != "key_invalid" || status["keyRefused"] != true {
		t.Errorf("%v", status)
	}
	h.do(h.alice, http.MethodPost, "/organizations/"+elsewhere+"/billing-sync/sync", nil).says(http.StatusNotFound, "Resource not found.")
	h.do(h.alice, http.MethodDelete, "/organizations/connections/"+org, nil).empty()
	missing := h.do(h.alice, http.MethodPost, syncPath+"/sync", nil)
	if text, _ := missing.is(http.StatusBadRequest)["message"].(string); !strings.HasPrefix(text, "No saved Connection config for organization "+org) {
		t.Errorf("%q", text)
	}
}

func TestALicence(t *testing.T) {
	h := open(t)
	path := syncPath + "/license"
	h.get(path).says(http.StatusNotFound, "Resource not found.")
	h.do(h.alice, http.MethodPost, "/organizations/licenses/self-hosted/"+org+"/sync", nil).says(http.StatusNotFound, "Resource not found.")
	h.do(h.alice, http.MethodPost, path+"/check", nil).says(http.StatusNotFound, "Resource not found.")
	h.upload(h.alice, org, h.licence).empty()
	h.connect().is(http.StatusOK)
	shown := h.get(path).is(http.StatusOK)
	members(t, shown, "object", "organizationId", "license", "usableUntil", "problem", "source", "installedDate", "lastLicenseSync",
		"lastLicenseSyncLabel", "hasPrevious", "lastCheck", "usage")
	values, _ := shown["license"].(object)
	if values["Id"] != h.cloud.OrgID || values["InstallationId"] != h.cloud.Installation.ID || shown["source"] != "upload" || shown["lastLicenseSyncLabel"] != "Never" || shown["problem"] != nil {
		t.Errorf("%v", shown)
	}
	for _, secret := range []string{"LicenseKey", "Hash", "Signature", "Token"} {
		if _, there := values[secret]; there {
			t.Errorf("the licence is shown with its %s", secret)
		}
	}
	h.changeSeats(77)
	check := h.do(h.alice, http.MethodPost, path+"/check", nil).is(http.StatusOK)
	if changed, _ := check["changed"].([]any); !slices.Contains(changed, any("Seats")) || check["applied"] != false {
		t.Errorf("%v", check)
	}
	h.do(h.alice, http.MethodPost, "/organizations/licenses/self-hosted/"+org+"/sync", nil).empty()
	shown = h.get(path).is(http.StatusOK)
	if values, _ = shown["license"].(object); values["Seats"] != 77.0 || shown["source"] != "cloud" || shown["lastLicenseSync"] == nil || shown["hasPrevious"] != true {
		t.Errorf("%v", shown)
	}
	connection := h.get("/organizations/connections/" + org + "/1").is(http.StatusOK)
	if configuration, _ := connection["config"].(object); configuration["LastLicenseSync"] != shown["lastLicenseSync"] {
		t.Errorf("%v", connection)
	}
	h.changeSeats(78)
	if check := h.do(h.alice, http.MethodPost, path+"/check", object{"apply": true}).is(http.StatusOK); check["applied"] != true {
		t.Errorf("%v", check)
	}
}

func TestUploadsThatAreRefused(t *testing.T) {
	h := open(t)
	path := "/organizations/licenses/self-hosted/" + org
	var document object
	if err := json.Unmarshal(h.licence, &document); err != nil {
		t.Fatal(err)
	}
	version := func(n int) []byte {
		old := object{}
		for name, value := range document {
			old[name] = value
		}
		delete(old, "token")
		old["version"] = n
		text, err := json.Marshal(old)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	starts := func(a answer, message string) {
		t.Helper()
		if text, _ := a.is(http.StatusBadRequest)["message"].(string); !strings.HasPrefix(text, message) {
			t.Errorf("%s: %q", a.what, text)
		}
	}
	for _, n := range []int{0, 17, 99} {
		got := h.upload(h.alice, org, version(n))
		got.says(http.StatusBadRequest, fmt.Sprintf("Version %d is not supported.", n))
		if code := got.Header.Get(httpx.CodeHeader); code != "license_version_unsupported" {
			t.Errorf("the code is %q", code)
		}
	}
	for name, content := range map[string][]byte{
		"no JSON": []byte("license"), "an empty file": {}, "half of one": h.licence[:len(h.licence)/2], "too large": append(h.licence, []byte(strings.Repeat(" ", 51_200))...),
	} {
		t.Run(name, func(*testing.T) { starts(h.upload(h.alice, org, content), "Invalid license") })
	}
	h.uploadAs(h.alice, path, "Other", h.licence).says(http.StatusBadRequest, "Invalid license")
	h.uploadAs(h.alice, path, "license", h.licence).empty()
	h.do(h.alice, http.MethodPost, path, document).says(http.StatusBadRequest, "Invalid license")
	h.send(h.alice, http.MethodPost, path, "multipart/form-data; boundary=x", strings.NewReader("--x\r\nbroken")).says(http.StatusBadRequest, "Invalid license")
	h.upload(h.alice, elsewhere, h.licence).says(http.StatusNotFound, "Resource not found.")

	// What is older than the installed one needs an explicit word.
	h.changeSeats(5)
	h.cloud.Advance(time.Minute)
	newer := h.cloud.Licence(t)
	h.upload(h.alice, org, newer).empty()
	if got := h.upload(h.alice, org, h.licence); got.StatusCode != http.StatusBadRequest {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	h.uploadAs(h.alice, path+"?force=true", "License", h.licence).empty()
}

func TestAStoreOrAProviderThatIsDown(t *testing.T) {
	const unavailable = "Billing sync is not available at the moment. Please try again."
	h := connected(t)
	for range 20 {
		h.driver.Inject(storetest.Fault{})
	}
	for _, path := range []string{syncPath, syncPath + "/offers", syncPath + "/runs", "/organizations/connections/" + org + "/1"} {
		h.get(path).says(http.StatusServiceUnavailable, unavailable)
	}
	h.do(h.bob, http.MethodPost, families, offer("family@home.example", "", false)).says(http.StatusServiceUnavailable, unavailable)

	h = open(t)
	h.identityDown.Store(true)
	h.get(syncPath).says(http.StatusServiceUnavailable, unavailable)
}

func TestNothingChangesByGet(t *testing.T) {
	h := connected(t)
	for _, route := range h.function.Routes {
		method, path, _ := strings.Cut(route, " ")
		if method == http.MethodGet {
			continue
		}
		path = strings.NewReplacer("{org}", org, "{id}", org, "{friendlyName}", "name").Replace(path)
		if got := h.get(path); got.StatusCode != http.StatusMethodNotAllowed && got.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s: %d %s", path, got.StatusCode, got.body)
		}
	}
}

func TestNoSecretIsInLogsOrAnswers(t *testing.T) {
	h := connected(t)
	var answers strings.Builder
	note := func(a answer) answer { answers.WriteString(a.body); return a }
	h.offer(h.bob, "secret.bob@home.example", false)
	h.offer(h.alice, "secret.admin@home.example", true)
	h.sync()
	for _, path := range []string{syncPath, syncPath + "/runs", syncPath + "/license", "/organizations/connections/" + org + "/1"} {
		note(h.get(path))
	}
	named := "/organization/sponsorship/self-hosted/" + org + "/"
	for _, name := range []string{"secret.admin@home.example", "secret.admin%40home.example", "secret%2Fsecret.admin@home.example", "secret/secret.admin@home.example"} {
		note(h.do(h.alice, http.MethodDelete, named+name+"/revoke", nil))
		note(h.do(h.alice, http.MethodGet, named+name+"/revoke", nil))
		note(h.do(h.eve, http.MethodDelete, named+name+"/revoke", nil))
	}
	note(h.do(h.alice, http.MethodPost, "/organizations/connections", h.connection("wrong"+h.cloud.Key)))
	note(h.do(h.alice, http.MethodPut, "/organizations/connections/"+org, object{"type": 1, "organizationId": org, "config": h.cloud.Key}))
	note(h.send(h.alice, http.MethodPut, "/organizations/connections/"+org, "application/json", strings.NewReader(`{"config":"`+h.cloud.Key)))
	note(h.do(h.alice, http.MethodPut, "/organizations/connections/"+org, h.connection("secret"+h.cloud.Key)))
	note(h.do(h.bob, http.MethodPost, families, offer("secret@home", "secret.bob@home.example", false)))
	note(h.do(h.alice, http.MethodPost, families, offer("secret.x@home.example", "secret.bob@home.example", true)))
	note(h.do(h.alice, http.MethodPost, syncPath+"/offers/"+elsewhere+"/reissue", object{"sponsoredEmail": "secret.y@home.example"}))
	var licensed struct{ LicenseKey, Token string }
	if err := json.Unmarshal(h.licence, &licensed); err != nil || licensed.LicenseKey == "" {
		t.Fatal(err)
	}
	for _, secret := range []string{h.cloud.Key, h.cloud.Installation.Key, licensed.LicenseKey, "secret.", "secret@", h.alice, h.bob} {
		if strings.Contains(h.logs.String(), secret) {
			t.Errorf("the log has %q", secret)
		}
		if strings.Contains(answers.String(), secret) {
			t.Errorf("an answer has %q", secret)
		}
	}
}

func TestPathsAndBrowsers(t *testing.T) {
	h := open(t, func(c *sponsorships.Config) {
		c.Sessions = config.Sessions{PublicURL: "https://example.org/latchkey"}
		c.WebVaultOrigins = []string{"https://vault.example.org"}
	})
	root := strings.TrimSuffix(h.url, "/api")
	for _, prefix := range []string{"", "/api", "/latchkey/api", "/latchkey"} {
		h.url = root + prefix
		if got := h.get("/organizations/connections/enabled"); got.body != "true" {
			t.Errorf("%s: %d %s", prefix, got.StatusCode, got.body)
		}
	}
	h.url = root
	request, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, h.url+syncPath+"/sync", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Origin", "https://vault.example.org")
	request.Header.Set("Access-Control-Request-Method", "POST")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.Header.Get("Access-Control-Allow-Origin") != "https://vault.example.org" {
		t.Errorf("%v", response.Header)
	}
}

// Whatever somebody sends, the answer is one of ours, and no failure of ours.
func FuzzBodies(f *testing.F) {
	h := connected(f)
	h.kickFails.Store(true)
	routes := []string{
		"POST /organizations/connections", "PUT /organizations/connections/" + org, "POST " + families,
		"POST " + syncPath + "/offers/" + elsewhere + "/reissue", "POST /organizations/licenses/self-hosted/" + org,
	}
	for i, body := range []string{
		`{"type":1,"organizationId":"` + org + `","enabled":true,"config":{"billingSyncKey":"WXYZ"}}`, `{"type":"scim","config":null}`,
		`{"planSponsorshipType":0,"sponsoredEmail":"a@b.example","friendlyName":null}`, `null`, `[]`, `{"config":{"billingSyncKey":{}}}`, "--x\r\n",
	} {
		f.Add(uint8(i), body)
	}
	f.Fuzz(func(t *testing.T, n uint8, body string) {
		method, path, _ := strings.Cut(routes[int(n)%len(routes)], " ")
		if method == http.MethodPut {
			// The cloud counts the keys that it is asked about.
			path = strings.Replace(path, org, elsewhere, 1)
		}
		contentType := "application/json"
		if strings.Contains(path, "licenses") {
			contentType = "multipart/form-data; boundary=x"
		}
		asks := house{TB: t, url: h.url}
		got := asks.send(h.alice, method, path, contentType, strings.NewReader(body))
		if got.StatusCode >= http.StatusInternalServerError {
			t.Errorf("%s %q: %d %s", path, body, got.StatusCode, got.body)
		}
	})
}
