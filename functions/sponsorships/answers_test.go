package sponsorships_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

var runMembers = []string{
	"object", "id", "organizationId", "trigger", "status", "requestedDate", "startedDate", "finishedDate", "phase", "batch", "try", "waitingUntil",
	"counts", "errorCode", "message", "hint",
}

func TestARunIsAnsweredWithoutWhatOnlyTheStoreHas(t *testing.T) {
	h := connected(t)
	h.offer(h.bob, "family@home.example", false)
	h.kickFails.Store(true)
	queued := h.do(h.alice, http.MethodPost, syncPath+"/sync", nil).is(http.StatusAccepted)
	members(t, queued, runMembers...)
	if queued["status"] != "queued" || queued["requestedDate"] == nil || queued["startedDate"] != nil || queued["finishedDate"] != nil || queued["try"] != nil || queued["waitingUntil"] != nil {
		t.Errorf("%v", queued)
	}
	if current, _ := h.get(syncPath).is(http.StatusOK)["currentRun"].(object); current["id"] != queued["id"] {
		t.Errorf("%v", current)
	}
	h.kickFails.Store(false)
	done := h.sync()
	members(t, done, runMembers...)
	if done["organizationId"] != org || done["startedDate"] == nil || done["finishedDate"] == nil || done["errorCode"] != nil || done["message"] != nil || done["hint"] != nil {
		t.Errorf("%v", done)
	}
	counts, _ := done["counts"].(object)
	members(t, counts, "batches", "requests", "retries", "sent", "refreshed", "removed", "kept", "notAccepted", "quarantined", "anomalies", "mailUncertain", "overtaken")
	if counts["sent"] != 1.0 || counts["requests"] != 1.0 || counts["batches"] != 1.0 {
		t.Errorf("%v", counts)
	}
	status := h.get(syncPath).is(http.StatusOK)
	last, _ := status["lastRun"].(object)
	for what, run := range map[string]object{"the status": last, "the list": h.get(syncPath + "/runs").list()[0]} {
		members(t, run, runMembers...)
		if run["id"] != done["id"] || run["requestedDate"] != done["requestedDate"] {
			t.Errorf("%s has %v", what, run)
		}
	}
}

func TestARunThatWaitsTellsForWhatAndHowLong(t *testing.T) {
	h := connected(t)
	h.offer(h.bob, "family@home.example", false)
	// Longer than anybody would wait for it in one call.
	if err := h.cloud.SetFaults(emulator.Fault{
		Match: emulator.Match{Route: emulator.RouteSync}, Action: emulator.Status, Status: 429, Headers: map[string]string{"Retry-After": "3600"}, Times: 1,
	}); err != nil {
		t.Fatal(err)
	}
	// Who begins it has no time to wait for that long.
	h.kickFails.Store(true)
	queued := h.do(h.alice, http.MethodPost, syncPath+"/sync", nil).is(http.StatusAccepted)
	within, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	if err := h.scheduled.Sync(within, org); err != nil {
		t.Fatal(err)
	}
	id, _ := queued["id"].(string)
	waiting := h.get(syncPath + "/runs/" + id).is(http.StatusOK)
	try, _ := waiting["try"].(object)
	counts, _ := waiting["counts"].(object)
	if waiting["status"] != "running" || waiting["waitingUntil"] == nil || try["number"] != 1.0 || try["of"] != 6.0 || try["lastCode"] != "rate_limited" || counts["requests"] != 1.0 {
		t.Errorf("%v", waiting)
	}
	if current, _ := h.get(syncPath).is(http.StatusOK)["currentRun"].(object); current["waitingUntil"] != waiting["waitingUntil"] || current["try"] == nil {
		t.Errorf("%v", current)
	}
}

func TestTheStatusHasWhatIsToBeDone(t *testing.T) {
	h := connected(t)
	expect := func(when string, pending, quarantined float64) object {
		t.Helper()
		status := h.get(syncPath).is(http.StatusOK)
		if status["pendingOffers"] != pending || status["quarantinedOffers"] != quarantined || status["mailUncertainOffers"] != 0.0 {
			t.Errorf("%s: %v", when, status)
		}
		return status
	}
	members(t, expect("before all", 0, 0), "object", "organizationId", "cloudCommunication", "connection", "lastSponsorshipSync", "lastSponsorshipSyncLabel",
		"lastLicenseSync", "lastLicenseSyncLabel", "lastAttempt", "nextDue", "failures", "errorCode", "lastRun", "currentRun", "keyRefused", "blockedUntil",
		"overdueDays", "pendingOffers", "oldestPending", "quarantinedOffers", "mailUncertainOffers", "clockSkewSeconds")
	h.offer(h.bob, "family@home.example", false)
	if status := expect("after an offer", 1, 0); status["oldestPending"] == nil {
		t.Errorf("%v", status)
	}
	h.sync()
	expect("after a sync", 0, 0)
	h.do(h.bob, http.MethodDelete, "/organization/sponsorship/self-hosted/"+org, nil).empty()
	expect("after a revocation", 1, 0)
	h.sync()
	h.offer(h.bob, "other@home.example", false)
	if err := h.cloud.SetFaults(emulator.Fault{
		Match: emulator.Match{Batch: &emulator.BatchMatch{Key: bob}}, Action: emulator.Status, Status: 400, Body: `{"message":"The model state is invalid."}`,
	}); err != nil {
		t.Fatal(err)
	}
	if run := h.sync(); run["status"] != "completedWithWarnings" {
		t.Errorf("%v", run)
	}
	expect("after one was refused", 1, 1)
}

func TestALicenceThatHasNotChangedIsNotApplied(t *testing.T) {
	h := connected(t)
	path := syncPath + "/license"
	check := h.do(h.alice, http.MethodPost, path+"/check", object{"apply": true}).is(http.StatusOK)
	members(t, check, "object", "date", "changed", "code", "applied")
	if changed, ok := check["changed"].([]any); !ok || len(changed) != 0 || check["applied"] != false || check["code"] != nil || check["date"] == nil {
		t.Errorf("%v", check)
	}
	shown := h.get(path).is(http.StatusOK)
	last, _ := shown["lastCheck"].(object)
	members(t, last, "object", "date", "changed", "code", "applied")
	if shown["source"] != "upload" || last["date"] != check["date"] {
		t.Errorf("%v", shown)
	}
}

func TestTheAuditLogTellsWhatAConnectionsChangeWas(t *testing.T) {
	h := connected(t)
	done := len(h.audited())
	change := func(enabled bool, key string) {
		t.Helper()
		body := h.connection(key)
		body["enabled"] = enabled
		h.do(h.alice, http.MethodPut, "/organizations/connections/"+org, body).is(http.StatusOK)
	}
	rotate := func() string {
		key, err := h.cloud.RotateKey(h.cloud.OrgID)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	change(true, "")
	change(false, "")
	change(true, "")
	change(true, rotate())
	change(false, rotate())
	want := []string{
		"sync-connection.edit " + org, "sync-connection.disable " + org, "sync-connection.enable " + org, "sync-connection.key " + org,
		"sync-connection.key " + org, "sync-connection.disable " + org,
	}
	if got := h.audited()[done:]; !slices.Equal(got, want) {
		t.Errorf("the audit log has %q", got)
	}
}

func TestTheAuditLogNamesTheOfferThatIsRevoked(t *testing.T) {
	h := connected(t)
	h.offer(h.bob, "bob@home.example", false)
	h.offer(h.alice, "named@home.example", true)
	ids := map[any]string{}
	for _, o := range h.get(syncPath + "/offers").list() {
		ids[o["offeredToEmail"]], _ = o["id"].(string)
	}
	done := len(h.audited())
	own := "/organization/sponsorship/self-hosted/" + org
	h.do(h.bob, http.MethodDelete, own, nil).empty()
	h.do(h.alice, http.MethodDelete, own+"/named@home.example/revoke", nil).empty()
	want := []string{"offer.revoke " + ids["bob@home.example"], "offer.revoke " + ids["named@home.example"]}
	if got := h.audited()[done:]; !slices.Equal(got, want) {
		t.Errorf("the audit log has %q, not %q", got, want)
	}
}

func TestWhoPrefersItIsToldWhatHeHasOffered(t *testing.T) {
	h := connected(t)
	for i, c := range []struct {
		prefer string
		told   bool
	}{
		{"return=representation", true}, {"respond-async, Return=Representation; x=1", true}, {"return=minimal", false}, {"", false},
	} {
		email := string(rune('a'+i)) + "@home.example"
		body, err := json.Marshal(offer(email, email, true))
		if err != nil {
			t.Fatal(err)
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.url+families, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+h.alice)
		request.Header.Set("Prefer", c.prefer)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var content bytes.Buffer
		if _, err := content.ReadFrom(response.Body); err != nil {
			t.Fatal(err)
		}
		got := answer{h, response, content.String(), c.prefer}
		if !c.told {
			got.empty()
			continue
		}
		made := got.is(http.StatusOK)
		id, _ := made["id"].(string)
		if made["offeredToEmail"] != email || response.Header.Get("Preference-Applied") != "return=representation" {
			t.Errorf("%v %v", made, response.Header)
		}
		h.do(h.alice, http.MethodPost, syncPath+"/offers/"+id+"/revoke", nil).empty()
	}
}

func TestOffersComePageByPage(t *testing.T) {
	h := connected(t)
	for _, name := range []string{"a", "b", "c"} {
		h.offer(h.alice, name+"@home.example", true)
	}
	h.offer(h.bob, "bob@home.example", false)
	all := h.get(syncPath + "/offers").list()
	first, _ := all[0]["id"].(string)
	rest := h.get(syncPath + "/offers?continuationToken=" + first).list()
	if len(all) != 4 || len(rest) != 3 || rest[0]["id"] != all[1]["id"] {
		t.Errorf("%v after %v", rest, all)
	}
	for _, token := range []string{"x", "../../offers", strings.Repeat("0", 3_000)} {
		h.get(syncPath+"/offers?continuationToken="+token).says(http.StatusBadRequest, "The continuationToken of the query is not one of an answer.")
	}
	// A member needs none: his one offer is looked up, and no other is opened.
	if mine := h.do(h.bob, http.MethodGet, syncPath+"/offers?continuationToken=x", nil).list(); len(mine) != 1 || mine[0]["sponsoringOrganizationUserId"] != bob {
		t.Errorf("%v", mine)
	}
	lists := h.driver.Calls(storetest.List)
	h.do(h.bob, http.MethodGet, syncPath+"/offers", nil).is(http.StatusOK)
	if after := h.driver.Calls(storetest.List); after != lists {
		t.Errorf("%d lists were read", after-lists)
	}
	nobody := h.person(devidentity.Claims{User: eve, Member: []string{org}})
	if mine := h.do(nobody, http.MethodGet, syncPath+"/offers", nil).list(); len(mine) != 0 {
		t.Errorf("%v", mine)
	}
}

func TestTheCauseOfAFailureIsInTheAnswer(t *testing.T) {
	h := open(t)
	h.upload(h.alice, org, h.licence).empty()
	h.cloud.Transport.Break(h.cloud.APIURL(), errors.New("connection refused"))
	made := h.connect().is(http.StatusOK)
	probe, _ := made["probe"].(object)
	if probe["code"] != "network_pre" || probe["message"] != "The cloud could not be reached: connection refused" {
		t.Errorf("%v", probe)
	}
}
