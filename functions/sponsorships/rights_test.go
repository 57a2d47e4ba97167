package sponsorships_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/functions/sponsorships"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/httpx"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

const carol = "3b1c2d3e-4f50-4617-8899-aabbccddeeff"

// ownersOnly are the routes that the original has for owners alone.
func (h *house) ownersOnly() []struct {
	route string
	body  any
} {
	return []struct {
		route string
		body  any
	}{
		{"POST /organizations/connections", h.connection(h.cloud.Key)},
		{"GET /organizations/connections/" + org + "/1", nil},
		{"PUT /organizations/connections/" + org, h.connection(h.cloud.Key)},
		{"POST /organizations/licenses/self-hosted/" + org, nil},
		{"POST /organizations/licenses/self-hosted/" + org + "/sync", nil},
		{"POST " + syncPath + "/license/check", nil},
		{"POST " + syncPath + "/sync", nil},
		{"POST " + syncPath + "/offers/import", object{"rows": []any{}}},
		{"PUT " + syncPath + "/usage", object{"seats": 1}},
		{"GET /organization/sponsorship/" + org + "/sync-status", nil},
		{"DELETE /organizations/connections/" + org, nil},
	}
}

func TestAnAdministratorIsNoOwner(t *testing.T) {
	h := connected(t)
	admin := h.person(devidentity.Claims{User: carol, Admin: []string{org}})
	for _, c := range h.ownersOnly() {
		method, path, _ := strings.Cut(c.route, " ")
		got := h.do(admin, method, path, c.body)
		status, message := http.StatusNotFound, "Resource not found. This is for those of LATCHKEY_BILLING_RULES: the owners, where nothing else is set."
		if strings.HasPrefix(path, "/organizations/connections") {
			status, message = http.StatusBadRequest, "You do not have permission to "
		}
		said, _ := got.is(status)["message"].(string)
		if !strings.HasPrefix(said, message) || got.Header.Get(httpx.CodeHeader) != "billing_right_missing" {
			t.Errorf("%s: %q, %q", c.route, said, got.Header.Get(httpx.CodeHeader))
		}
		// Whoever has no role at all is not told that there is a right.
		if got := h.do(h.eve, method, path, c.body); got.StatusCode != status || got.Header.Get(httpx.CodeHeader) != "" || strings.Contains(got.body, "RULES") {
			t.Errorf("%s: %d %s", c.route, got.StatusCode, got.body)
		}
	}
	// Offers are an administrator's.
	h.offer(admin, "family@home.example", true)
	h.do(h.alice, http.MethodPut, syncPath+"/usage", object{"seats": 1}).is(http.StatusOK)
	for _, path := range []string{syncPath, syncPath + "/offers", syncPath + "/license", syncPath + "/usage", syncPath + "/runs"} {
		h.do(admin, http.MethodGet, path, nil).is(http.StatusOK)
	}
}

func TestWhoIsAnOwnerCanBeSaid(t *testing.T) {
	h := connected(t, func(c *sponsorships.Config) { c.BillingRules = []string{"orgowner", "roles=billing@" + org} })
	// Nothing else makes this one anybody here.
	billing := h.person(devidentity.Claims{User: carol, Set: map[string]any{"roles": []string{"billing"}}})
	h.do(billing, http.MethodPost, syncPath+"/sync", nil).is(http.StatusAccepted)
	h.do(billing, http.MethodGet, "/organizations/connections/"+org+"/1", nil).is(http.StatusOK)
	h.do(billing, http.MethodGet, syncPath+"/offers", nil).says(http.StatusNotFound, "Resource not found.")
	h.do(billing, http.MethodPost, "/organizations/"+elsewhere+"/billing-sync/sync", nil).says(http.StatusNotFound, "Resource not found.")
}

func TestBillingRulesAreChecked(t *testing.T) {
	c, _, err := sponsorships.LoadConfig(environment)
	if err != nil || !slices.Equal(c.BillingRules, []string{"orgowner"}) {
		t.Fatal(c.BillingRules, err)
	}
	for _, rules := range []string{"none", "email=x"} {
		set := map[string]string{"LATCHKEY_BILLING_RULES": rules}
		for name, value := range environment {
			set[name] = value
		}
		if _, _, err := sponsorships.LoadConfig(set); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "LATCHKEY_BILLING_RULES") {
			t.Errorf("%s: %v", rules, err)
		}
	}
}

func TestNoPathWithANameIsLogged(t *testing.T) {
	h := connected(t)
	h.do(h.alice, http.MethodPost, families, offer("aunt@home.example", "aunt.mary@home.example", true)).is(http.StatusOK)
	const own = "/organization/sponsorship/self-hosted/" + org
	for _, path := range []string{
		"/organization/sponsorship/self%2Dhosted/" + org + "/aunt.mary%40home.example/REVOKE",
		"/organization/sponsorship/self%252Dhosted/" + org + "/aunt.mary%40home.example/x",
		"/organization/sponsorship/Self-Hosted/" + org + "//aunt.mary%40home.example",
		own + "/aunt.mary%40home.example/%72evok",
		own + "/aunt.mary%40home.example",
		"/organization//sponsorship/self-hosted//" + org + "/aunt.mary%40home.example/revoked/",
		own + "/sponsored/aunt.mary%40home.example",
	} {
		if got := h.do(h.alice, http.MethodDelete, path, nil); got.StatusCode != http.StatusNotFound && got.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d %s", path, got.StatusCode, got.body)
		}
	}
	if left := h.get(syncPath + "/offers").list(); len(left) != 1 {
		t.Fatalf("%v", left)
	}
	h.do(h.alice, http.MethodDelete, "/organization/sponsorship/self%2Dhosted/"+org+"/aunt.mary%40home.example/%72evoke", nil).empty()
	if left := h.get(syncPath + "/offers").list(); len(left) != 0 {
		t.Errorf("%v", left)
	}
	if strings.Contains(h.logs.String(), "aunt") {
		t.Errorf("a name is logged:\n%s", h.logs)
	}
}

func TestHealthIsForEverybodyAndTellsNothingOfAnybody(t *testing.T) {
	ask := func(h *house) (answer, object) {
		t.Helper()
		got := h.do("", http.MethodGet, "/billing-sync/health", nil)
		var o object
		if err := json.Unmarshal([]byte(got.body), &o); err != nil {
			t.Fatal(got.body, err)
		}
		for _, secret := range []string{org, h.cloud.OrgID, "Example", h.cloud.Key[len(h.cloud.Key)-4:]} {
			if strings.Contains(got.body, secret) {
				t.Errorf("it tells %s: %s", secret, got.body)
			}
		}
		return got, o
	}
	h := open(t)
	if got, o := ask(h); got.StatusCode != http.StatusOK || o["status"] != "healthy" || len(o["connections"].([]any)) != 0 {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	h = connected(t)
	h.offer(h.alice, "family@home.example", false)
	h.sync()
	got, o := ask(h)
	list, _ := o["connections"].([]any)
	if got.StatusCode != http.StatusOK || len(list) != 1 {
		t.Fatalf("%d %s", got.StatusCode, got.body)
	}
	first, _ := list[0].(object)
	members(t, first, "good", "lastRun", "lastErrorCode", "lastSuccess", "nextDue")
	if first["good"] != true || first["lastRun"] == nil || first["lastSuccess"] == nil || first["nextDue"] == nil || first["lastErrorCode"] != nil {
		t.Errorf("%v", first)
	}
	// What was found is not looked for again at once.
	before := h.driver.Calls(storetest.List)
	ask(h)
	if h.driver.Calls(storetest.List) != before {
		t.Error("anybody can have the store read")
	}

	h = connected(t)
	if _, err := h.cloud.RotateKey(h.cloud.OrgID); err != nil {
		t.Fatal(err)
	}
	if got := h.do(h.alice, http.MethodPost, syncPath+"/sync", nil); got.StatusCode != http.StatusAccepted {
		t.Fatal(got.body)
	}
	got, o = ask(h)
	list, _ = o["connections"].([]any)
	first, _ = list[0].(object)
	// An organisation's stale key is no failure of the server.
	if got.StatusCode != http.StatusOK || o["status"] != "unhealthy" || o["store"] != "ok" || first["good"] != false || first["lastErrorCode"] != "key_invalid" || first["nextDue"] != nil {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	if status := h.get(syncPath).is(http.StatusOK); status["nextDue"] != nil {
		t.Errorf("the status says %v", status["nextDue"])
	}

	h = connected(t)
	h.driver.Inject(storetest.Fault{Method: storetest.List, Collection: "sync-connections"})
	if got, o := ask(h); got.StatusCode != http.StatusServiceUnavailable || o["status"] != "unhealthy" || o["store"] != "failed" || got.Header.Get("Retry-After") == "" {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	if !strings.Contains(h.logs.String(), `"health":"`) {
		t.Error("why is not logged")
	}
	for _, path := range []string{"/billing-sync/alive", "/billing-sync/version"} {
		if got := h.do("", http.MethodGet, path, nil); got.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", path, got.StatusCode)
		}
	}
	h.do("", http.MethodGet, "/billing-sync/other", nil).says(http.StatusNotFound, "Resource not found.")
	if got := h.do("", http.MethodPost, "/billing-sync/health", nil); got.StatusCode == http.StatusOK {
		t.Errorf("%d", got.StatusCode)
	}
	for _, route := range []string{"GET /billing-sync/health", "GET /billing-sync/alive", "GET /billing-sync/version"} {
		if !slices.Contains(h.function.Routes, route) {
			t.Errorf("%s is not told", route)
		}
	}
}

func TestALicenceIsCheckedAgainstWhatWasTold(t *testing.T) {
	h := connected(t)
	path := syncPath + "/usage"
	fetch := func() answer {
		return h.do(h.alice, http.MethodPost, "/organizations/licenses/self-hosted/"+org+"/sync", nil)
	}
	h.get(path).says(http.StatusNotFound, "Resource not found.")
	got := fetch()
	got.empty()
	if notice := got.Header.Get(httpx.NoticeHeader); !strings.Contains(notice, "never told") {
		t.Errorf("%q", notice)
	}
	if shown := h.get(syncPath + "/license").is(http.StatusOK); shown["usage"] != nil {
		t.Errorf("%v", shown["usage"])
	}
	for _, body := range []object{{}, {"seats": -1}, {"seats": "x"}} {
		h.do(h.alice, http.MethodPut, path, body).is(http.StatusBadRequest)
	}
	h.do(h.bob, http.MethodPut, path, object{"seats": 1}).says(http.StatusNotFound, "Resource not found.")
	h.do(h.bob, http.MethodGet, path, nil).says(http.StatusNotFound, "Resource not found.")
	told := h.do(h.alice, http.MethodPut, path, object{"seats": 60, "groups": 2, "sso": true}).is(http.StatusOK)
	members(t, told, "object", "told", "seats", "collections", "groups", "enabledPolicies", "sso", "keyConnector", "scim", "customPermissions", "accountRecovery")
	if told["seats"] != 60.0 || told["sso"] != true || fmt.Sprint(h.get(path).is(http.StatusOK)) != fmt.Sprint(told) {
		t.Errorf("%v", told)
	}
	h.changeSeats(50)
	got = fetch()
	if message, _ := got.is(http.StatusBadRequest)["message"].(string); !strings.Contains(message, "60 seats filled, and the new license has 50") || got.Header.Get(httpx.NoticeHeader) != "" {
		t.Errorf("%q", message)
	}
	h.do(h.alice, http.MethodPut, path, object{"seats": 50}).is(http.StatusOK)
	got = fetch()
	got.empty()
	if got.Header.Get(httpx.NoticeHeader) != "" {
		t.Error("it was told")
	}
	if usage, _ := h.get(syncPath + "/license").is(http.StatusOK)["usage"].(object); usage["seats"] != 50.0 || usage["told"] == nil {
		t.Errorf("%v", usage)
	}
}

func TestOffersOfAnOfficialServerAreTakenOver(t *testing.T) {
	h := connected(t)
	path := syncPath + "/offers/import"
	row := func(id int, change object) object {
		o := object{
			"Id": fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", id), "SponsoringOrganizationUserId": fmt.Sprintf("bbbbbbbb-0000-4000-8000-%012d", id),
			"SponsoringOrganizationId": org, "SponsoredOrganizationId": nil, "OfferedToEmail": fmt.Sprintf("family%d@home.example", id),
			"PlanSponsorshipType": 0, "LastSyncDate": "2026-01-02 03:04:05.123", "ValidUntil": nil, "ToDelete": 0, "IsAdminInitiated": false, "FriendlyName": nil, "Notes": nil,
		}
		for name, value := range change {
			o[name] = value
		}
		return o
	}
	rows := []any{
		row(1, nil),
		row(2, object{"ToDelete": 1, "OfferedToEmail": nil, "PlanSponsorshipType": nil}),
		row(3, object{"OfferedToEmail": "secret"}),
		row(4, object{"SponsoringOrganizationId": elsewhere}),
		row(5, object{"LastSyncDate": "secret"}),
		row(6, object{"FriendlyName": 7}),
		row(7, object{"PlanSponsorshipType": nil}),
		"secret",
		row(8, object{"ToDelete": "secret"}),
		row(9, object{"LastSyncDate": "2099-01-01T00:00:00Z"}),
	}
	ask := func(dry bool) object {
		return h.do(h.alice, http.MethodPost, path, object{"rows": rows, "dryRun": dry}).is(http.StatusOK)
	}
	for _, dry := range []bool{true, false, false} {
		got := ask(dry)
		bad, _ := got["bad"].([]any)
		var places []any
		for _, b := range bad {
			places = append(places, b.(object)["row"])
			if problem, _ := b.(object)["problem"].(string); problem == "" || strings.Contains(problem, "secret") {
				t.Errorf("%v", b)
			}
		}
		if fmt.Sprint(places) != "[2 3 4 5 6 7 8 9]" || got["dryRun"] != dry || got["unsent"] != 0.0 || got["message"] != nil || got["taken"].(float64)+got["known"].(float64) != 2 {
			t.Errorf("%v", got)
		}
		want := 2
		if dry {
			want = 0
		}
		if stored := h.get(syncPath + "/offers").list(); len(stored) != want {
			t.Errorf("%d offers are stored", len(stored))
		}
	}
	if got := ask(false); got["known"] != 2.0 {
		t.Errorf("%v", got)
	}
	h.do(h.alice, http.MethodPost, path, object{}).is(http.StatusBadRequest)
	h.do(h.bob, http.MethodPost, path, object{"rows": rows}).says(http.StatusNotFound, "Resource not found.")
	if strings.Contains(h.logs.String(), "secret") || strings.Contains(h.logs.String(), "home.example") {
		t.Error("a row is logged")
	}
}

func TestAnImportMailsNobodyUnlessThatIsAskedFor(t *testing.T) {
	h := connected(t)
	path := syncPath + "/offers/import"
	rows := make([]object, 150)
	for i := range rows {
		rows[i] = object{
			"Id": fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", i), "SponsoringOrganizationUserId": fmt.Sprintf("bbbbbbbb-0000-4000-8000-%012d", i),
			"OfferedToEmail": fmt.Sprintf("family%d@home.example", i), "PlanSponsorshipType": 0,
		}
	}
	for _, c := range []struct {
		dry, unsent bool
		taken       float64
		message     string
	}{
		{true, false, 0, `150 rows were never synced, and are not taken: the cloud would mail them as new offers. With "unsent": true they are taken, too.`},
		{false, false, 0, `150 rows were never synced, and are not taken: the cloud would mail them as new offers. With "unsent": true they are taken, too.`},
		{true, true, 150, "150 rows were never synced: the cloud mails them as new offers."},
		{false, true, 150, "150 rows were never synced: the cloud mails them as new offers."},
	} {
		got := h.do(h.alice, http.MethodPost, path, object{"rows": rows, "dryRun": c.dry, "unsent": c.unsent}).is(http.StatusOK)
		members(t, got, "object", "dryRun", "taken", "rekeyed", "known", "dropped", "unsent", "message", "bad")
		if got["taken"] != c.taken || got["unsent"] != 150.0 || got["message"] != c.message {
			t.Errorf("%+v: %v", c, got)
		}
		h.sync()
		want := 0
		if c.unsent && !c.dry {
			want = 150
		}
		if n := len(h.cloud.Mails()); n != want {
			t.Fatalf("%+v: %d mails", c, n)
		}
	}
}

func TestAnImportNeedsALicence(t *testing.T) {
	h := open(t)
	for _, dry := range []bool{true, false} {
		h.do(h.alice, http.MethodPost, syncPath+"/offers/import", object{"rows": []any{}, "dryRun": dry}).
			says(http.StatusBadRequest, "Specified Organization cannot sponsor other organizations.")
	}
}
