package cloud_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-fn/latchkey/local/cloud"
)

func TestASyncIsStoredEchoedAndMailed(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	if err := w.AddUser(cloud.User{Email: "MEMBER2@example.test"}); err != nil {
		t.Fatal(err)
	}
	w.clock.now = epoch.Add(1234567890 * time.Nanosecond)
	upper := offer(1)
	upper.OfferKey = strings.ToUpper("aaaaaaaa-0000-4000-8000-00000000000a")
	answer := w.post(w.syncBody(upper, offer(2)))
	for _, header := range []string{"Date", "Content-Type"} {
		if answer.header.Get(header) == "" {
			t.Errorf("no %s", header)
		}
	}
	if !strings.HasPrefix(answer.body, `{"sponsorshipsBatch":[{"sponsoringOrganizationUserId":"aaaaaaaa-0000-4000-8000-00000000000a","friendlyName":"member1@example.test",`+
		`"offeredToEmail":"member1@example.test","planSponsorshipType":0,"lastSyncDate":"2026-03-02T08:00:01.2345678Z","validUntil":null,"toDelete":false,`+
		`"cloudSponsorshipRemoved":false,"isAdminInitiated":false},`) {
		t.Errorf("answer is %s", answer.body)
	}
	rows := w.rows()
	if len(rows) != 2 || *rows[1].OfferedToEmail != "member2@example.test" || rows[1].OfferKey != key(2) || rows[1].SponsoredOrganizationID != "" ||
		!rows[1].LastSyncDate.Equal(w.clock.now) || rows[1].SponsoringOrganizationID != w.organization.ID {
		t.Errorf("rows are %+v", rows)
	}
	mails := w.Mails()
	if len(mails) != 2 || mails[0].Template != cloud.OfferToNewAccount || mails[1].Template != cloud.OfferToExistingAccount ||
		!strings.HasSuffix(mails[0].Link, "&email=member1%40example.test&register=true") || strings.Contains(mails[1].Link, "register") ||
		!strings.HasPrefix(mails[0].Link, "https://vault.bitwarden.com/#/accept-families-for-enterprise?token=") ||
		mails[0].SponsorshipID != rows[0].ID || mails[0].To != "member1@example.test" {
		t.Errorf("mails are %+v", mails)
	}
	events := w.Events()
	if len(events) != 1 || events[0].Type != 1608 || events[0].Organization != w.organization.ID {
		t.Errorf("events are %+v", events)
	}
	w.expectViolations()
}

func TestTheStatusesOfASync(t *testing.T) {
	const (
		model   = "The model state is invalid."
		server  = "An unhandled server error has occurred."
		wrongID = "Invalid organization"
		wrong   = "Invalid Billing Sync Key"
	)
	long := strings.Repeat("x", 257)
	nothing := " "
	withItem := func(text string) func(*world) string {
		return func(w *world) string {
			return fmt.Sprintf(`{"billingSyncKey":%q,"sponsoringOrganizationCloudId":%q,"sponsorshipsBatch":[%s]}`,
				w.organization.BillingSyncKey, w.organization.ID, text)
		}
	}
	withKey := func(key string) func(*world) string {
		return func(w *world) string {
			w.organization.BillingSyncKey = key
			return w.syncBody(offer(1))
		}
	}
	raw := func(text string) func(*world) string { return func(*world) string { return text } }
	good := func(w *world) string { return w.syncBody(offer(1)) }
	for name, test := range map[string]struct {
		prepare func(*world)
		body    func(*world) string
		status  int
		message string
		rows    int
	}{
		"no token":                  {func(w *world) { w.token = "-" }, good, 401, "", 0},
		"a token of another key":    {func(w *world) { w.token = w.newToken("api.installation") + "x" }, good, 401, "", 0},
		"a token past its end":      {func(w *world) { w.token = w.newToken("api.installation"); w.Advance(24*time.Hour + 6*time.Minute) }, good, 401, "", 0},
		"a token within the skew":   {func(w *world) { w.token = w.newToken("api.installation"); w.Advance(24*time.Hour + 4*time.Minute) }, good, 200, "", 1},
		"a token not yet valid":     {func(w *world) { w.token = w.newToken("api.installation"); w.Advance(-6 * time.Minute) }, good, 401, "", 0},
		"a token of another scope":  {func(w *world) { w.token = w.newToken("api.licensing") }, good, 403, "", 0},
		"a token of both scopes":    {func(w *world) { w.token = w.newToken("api.licensing api.installation") }, good, 200, "", 1},
		"no body":                   {nil, raw(""), 400, model, 0},
		"null":                      {nil, raw(" null "), 400, model, 0},
		"not JSON":                  {nil, raw("{"), 400, model, 0},
		"an array":                  {nil, raw("[]"), 400, model, 0},
		"a bad id of organization":  {nil, raw(`{"sponsoringOrganizationCloudId":"x","sponsorshipsBatch":[]}`), 400, model, 0},
		"a GUID in braces":          {nil, withItem(`{"sponsoringOrganizationUserId":"{00000000-0000-4000-8000-000000000001}"}`), 400, model, 0},
		"a null GUID":               {nil, withItem(`{"sponsoringOrganizationUserId":null}`), 400, model, 0},
		"a bad date in one item":    {nil, withItem(`{"sponsoringOrganizationUserId":"00000000-0000-4000-8000-000000000001","offeredToEmail":"a@b.test"},{"lastSyncDate":"tomorrow"}`), 400, model, 0},
		"a plan by name":            {nil, withItem(`{"planSponsorshipType":"FamiliesForEnterprise"}`), 400, model, 0},
		"a plan beyond a byte":      {nil, withItem(`{"planSponsorshipType":256}`), 400, model, 0},
		"a null plan":               {nil, withItem(`{"planSponsorshipType":null}`), 400, model, 0},
		"toDelete as text":          {nil, withItem(`{"toDelete":"true"}`), 400, model, 0},
		"toDelete null":             {nil, withItem(`{"toDelete":null}`), 400, model, 0},
		"an unknown organization":   {nil, func(w *world) string { w.organization.ID = key(99); return w.syncBody(offer(1)) }, 400, wrongID, 0},
		"no organization":           {nil, raw(`{}`), 400, wrongID, 0},
		"a blank key":               {nil, withKey(" "), 400, wrong, 0},
		"another key":               {nil, withKey("AbC0123456789AbC0123456789AbCd"), 400, wrong, 0},
		"a blank key where none is": {func(w *world) { w.change(func(o *cloud.Organization) { o.BillingSyncKey = "" }) }, withKey(""), 400, wrong, 0},
		"a key where none is":       {func(w *world) { w.change(func(o *cloud.Organization) { o.BillingSyncKey = "" }) }, good, 500, server, 0},
		"no batch": {nil, func(w *world) string {
			return strings.Replace(w.syncBody(), `"sponsorshipsBatch":[]`, `"sponsorshipsBatch":null`, 1)
		}, 500, server, 0},
		"a null item": {nil, withItem("null"), 500, server, 0},
		"plan 7":      {nil, func(w *world) string { i := offer(2); i.Plan = 7; return w.syncBody(offer(1), i) }, 500, server, 0},
		"plan 7 of a Teams organization": {
			func(w *world) { w.change(func(o *cloud.Organization) { o.PlanType = cloud.TeamsAnnually }) },
			func(w *world) string { i := offer(1); i.Plan = 7; return w.syncBody(i) }, 500, server, 0,
		},
		"a poisoned organization":                    {func(w *world) { w.sync(offer(1)); w.poison(1) }, func(w *world) string { return w.syncBody(offer(2)) }, 500, server, 2},
		"a poisoned organization and an empty batch": {func(w *world) { w.sync(offer(1)); w.poison(1) }, func(w *world) string { return w.syncBody() }, 200, "", 2},
		"a long name":                           {nil, func(w *world) string { i := offer(2); i.FriendlyName = &long; return w.syncBody(offer(1), i) }, 500, server, 0},
		"a long address":                        {nil, func(w *world) string { i := offer(2); i.OfferedToEmail = &long; return w.syncBody(offer(1), i) }, 500, server, 0},
		"a long name of an offer that is known": {func(w *world) { w.sync(offer(1)) }, func(w *world) string { i := offer(1); i.FriendlyName = &long; return w.syncBody(i) }, 200, "", 1},
		"a name of 256 letters with bytes more": {nil, func(w *world) string {
			i, umlauts := offer(1), strings.Repeat("ü", 256)
			i.FriendlyName = &umlauts
			return w.syncBody(i)
		}, 200, "", 1},
		"a blank address": {nil, func(w *world) string { i := offer(2); i.OfferedToEmail = &nothing; return w.syncBody(offer(1), i) }, 500, server, 2},
		"no address":      {nil, func(w *world) string { i := offer(2); i.OfferedToEmail = nil; return w.syncBody(offer(1), i) }, 500, server, 2},
		"keys in any case, a date without a zone, unknown members": {nil, func(w *world) string {
			return fmt.Sprintf(`{"BillingSyncKey":%q,"SPONSORINGOrganizationCloudId":%q,"x":1,"SponsorshipsBatch":[{"SponsoringOrganizationUserId":%q,`+
				`"OfferedToEmail":"a@b.test","lastSyncDate":"0001-01-01T00:00:00","extra":[]}]}`, w.organization.BillingSyncKey, w.organization.ID, key(1))
		}, 200, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, cloud.Config{})
			if test.prepare != nil {
				test.prepare(w)
			}
			mails := len(w.Mails())
			answer := w.post(test.body(w))
			if answer.status != test.status {
				t.Fatalf("answer is %+v", answer)
			}
			if test.status != 200 {
				if got := messageOf(t, answer); got != test.message {
					t.Errorf("message is %q", got)
				}
				if len(w.Mails()) != mails {
					t.Error("something was mailed")
				}
			}
			if test.status == 401 && answer.header.Get("WWW-Authenticate") != `Bearer error="invalid_token"` {
				t.Errorf("challenge is %q", answer.header.Get("WWW-Authenticate"))
			}
			if got := len(w.rows()); got != test.rows {
				t.Errorf("%d rows", got)
			}
		})
	}
}

func (w *world) poison(n int) {
	w.Helper()
	if err := w.Poison(w.organization.ID, key(n)); err != nil {
		w.Fatal(err)
	}
}

func TestTheErrorObject(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.organization.BillingSyncKey = "x"
	const want = `{"object":"error","message":"Invalid Billing Sync Key","validationErrors":null,"exceptionMessage":null,"exceptionStackTrace":null,"innerExceptionMessage":null}`
	if got := w.post(w.syncBody()); got.body != want {
		t.Errorf("body is %s", got.body)
	}
	var body struct{ ValidationErrors map[string][]string }
	if err := json.Unmarshal([]byte(w.post("").body), &body); err != nil || body.ValidationErrors[""][0] != "Body is empty." {
		t.Errorf("%v, %v", body, err)
	}
}

func TestOtherWaysToCallTheAPI(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.token = w.newToken("api.installation")
	body := w.syncBody(offer(1))
	sync := w.APIURL() + "/organization/sponsorship/sync"
	for name, test := range map[string]struct {
		method, address, contentType, token string
		status                              int
		challenge                           string
	}{
		"no token at all":        {"POST", sync, "application/json", "", 401, "Bearer"},
		"another method":         {"GET", sync, "application/json", w.token, 405, ""},
		"not JSON":               {"POST", sync, "text/plain", w.token, 415, ""},
		"letters of any case":    {"POST", w.APIURL() + "/Organization/Sponsorship/SYNC", "application/json", w.token, 200, ""},
		"the identity host":      {"POST", w.IdentityURL() + "/organization/sponsorship/sync", "application/json", w.token, 404, ""},
		"the token, at the API":  {"POST", w.APIURL() + "/connect/token", "application/json", w.token, 404, ""},
		"the control plane":      {"POST", w.APIURL() + "/__emu/reset", "application/json", w.token, 404, ""},
		"a path that is unknown": {"POST", w.APIURL() + "/organization", "application/json", w.token, 404, ""},
	} {
		t.Run(name, func(t *testing.T) {
			answer := w.send(test.method, test.address, test.contentType, test.token, body)
			if answer.status != test.status || answer.header.Get("WWW-Authenticate") != test.challenge || test.status != 200 && answer.body != "" {
				t.Errorf("answer is %+v", answer)
			}
		})
	}
	if answer := w.post(strings.Repeat(" ", 30_000_001)); answer.status != http.StatusRequestEntityTooLarge {
		t.Errorf("30 MB and a byte: %d", answer.status)
	}
}

// The consequences of §2.4, one by one.

func TestSendingACreateAgainIsSafe(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.sync(offer(1))
	w.Advance(time.Minute)
	changed, other := offer(1), "other@example.test"
	changed.OfferedToEmail, changed.FriendlyName = &other, &other
	items := w.sync(changed)
	w.expect(1, 1)
	if *items[0].OfferedToEmail != other || *w.rows()[0].OfferedToEmail != "member1@example.test" {
		t.Error("the answer is no echo, or an existing row was changed")
	}
	if !w.rows()[0].LastSyncDate.Equal(epoch.Add(time.Minute)) {
		t.Error("lastSyncDate did not move")
	}
	w.expectViolations()
}

func TestADeleteWithALastSyncDateMakesTheOfferAgain(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.sync(offer(1))
	for send, rows := range []int{0, 1, 0, 1} {
		items := w.sync(revoke(1, true))
		if len(items) != 1 || !items[0].Removed || !items[0].ToDelete {
			t.Errorf("send %d: %+v", send, items)
		}
		if got := len(w.rows()); got != rows {
			t.Fatalf("send %d: %d rows", send, got)
		}
	}
	w.expect(1, 3)
	if w.rows()[0].ToDelete {
		t.Error("the row is not live")
	}
	if len(w.ViolationsOf(cloud.MailOnDelete)) != 2 || len(w.ViolationsOf(cloud.RepeatedMail)) != 2 || len(w.ViolationsOf(cloud.LastSyncDateOnDelete)) != 4 {
		t.Errorf("violations are %v", w.Violations())
	}
	if orphans := w.Orphans(w.organization.ID, map[string]bool{}); len(orphans) != 1 || orphans[0].OfferKey != key(1) {
		t.Errorf("orphans are %v", orphans)
	}
}

func TestADeleteWithoutALastSyncDateIsIdempotent(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.sync(offer(1))
	if items := w.sync(revoke(1, false)); len(items) != 1 || !items[0].Removed {
		t.Errorf("items are %+v", items)
	}
	for range 2 {
		if items := w.sync(revoke(1, false)); len(items) != 0 {
			t.Errorf("items are %+v", items)
		}
	}
	w.expect(0, 1)
	w.expectViolations()
}

func TestAKeyTwiceInABatchPoisonsTheOrganization(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	if items := w.sync(offer(1), offer(1)); len(items) != 2 {
		t.Errorf("items are %+v", items)
	}
	w.expect(2, 2)
	w.expectViolations(cloud.DuplicateKey, cloud.DuplicateKey, cloud.RepeatedMail)
	if answer := w.post(w.syncBody(offer(2))); answer.status != 500 {
		t.Errorf("answer is %+v", answer)
	}
	w.sync()
	if err := w.Remove(w.organization.ID, w.rows()[0].ID); err != nil {
		t.Fatal(err)
	}
	w.sync(offer(1), offer(2))
}

func TestAKeyTwiceOfAKnownRowIsOneRow(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.sync(offer(1))
	if items := w.sync(offer(1), revoke(1, false)); len(items) != 2 || !items[1].Removed {
		t.Errorf("items are %+v", items)
	}
	w.expect(0, 1)
	w.sync(offer(2))
}

func TestTwoSyncsAtOncePoisonTheOrganization(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, cloud.Config{Now: time.Now})
		w.token = w.newToken("api.installation")
		w.faults(cloud.Fault{Match: cloud.Match{Route: cloud.RouteSync}, When: cloud.BeforeCommit, Action: cloud.Delay, Milliseconds: 1000, Times: 2})
		body := w.syncBody(offer(1))
		done := make(chan response, 2)
		for range 2 {
			go func() { done <- w.post(body) }()
		}
		for range 2 {
			if answer := <-done; answer.status != 200 {
				t.Errorf("answer is %+v", answer)
			}
		}
		w.expect(2, 2)
		w.expectViolations(cloud.Overlap, cloud.DuplicateKey, cloud.RepeatedMail)
		if answer := w.post(w.syncBody(offer(2))); answer.status != 500 {
			t.Errorf("answer is %+v", answer)
		}
		w.Close()
	})
}

func TestMailsThatFailAreNeverSent(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	blank := offer(2)
	blank.OfferedToEmail = nil
	if answer := w.post(w.syncBody(offer(1), blank)); answer.status != 500 {
		t.Fatalf("answer is %+v", answer)
	}
	if len(w.Events()) != 1 {
		t.Error("the event comes before the mails")
	}
	w.sync(offer(1), offer(2))
	w.expect(2, 0)
}

func TestARevokedRedeemedOfferStaysUntilItsEnd(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.sync(offer(1))
	until := epoch.AddDate(1, 0, 0)
	if err := w.Redeem(w.organization.ID, key(1), until); err != nil {
		t.Fatal(err)
	}
	row := w.rows()[0]
	if row.SponsoredOrganizationID == "" || row.OfferedToEmail != nil || !row.ValidUntil.Equal(until) {
		t.Errorf("row is %+v", row)
	}
	items := w.sync(offer(1))
	if *items[0].ValidUntil != "2027-03-02T08:00:00Z" {
		t.Errorf("validUntil is %q", *items[0].ValidUntil)
	}
	items = w.sync(revoke(1, true))
	if items[0].Removed || *items[0].ValidUntil != "2027-03-02T08:00:00Z" || !w.rows()[0].ToDelete {
		t.Errorf("items are %+v, row %+v", items, w.rows()[0])
	}
	w.sync(offer(1))
	if !w.rows()[0].ToDelete {
		t.Error("toDelete was taken back")
	}
	later := until.AddDate(1, 0, 0)
	if err := w.Renew(w.organization.ID, key(1), later); err != nil || !w.rows()[0].ValidUntil.Equal(later) {
		t.Errorf("renewal: %v", err)
	}
	w.SetClock(later.Add(90 * 24 * time.Hour))
	if n := w.Purge(); n != 0 {
		t.Errorf("%d purged on the day", n)
	}
	w.Advance(time.Second)
	if n := w.Purge(); n != 1 {
		t.Errorf("%d purged", n)
	}
	w.expect(0, 1)
}

func TestOnlyEnterpriseOrganizationsAreServed(t *testing.T) {
	for plan, served := range map[cloud.PlanType]bool{
		4: true, 5: true, 10: true, 11: true, 14: true, 15: true, 19: true, 20: true,
		0: false, 3: false, 6: false, 7: false, 18: false, 21: false, -1: false, 99: false,
	} {
		w := newWorld(t, cloud.Config{})
		if err := w.SetPlan(w.organization.ID, plan); err != nil {
			t.Fatal(err)
		}
		items := w.sync(offer(1), revoke(2, true))
		if got := len(items) == 2; got != served || !served && len(items) != 0 {
			t.Errorf("plan %d: %+v", plan, items)
		}
		if len(w.Events()) != 1 {
			t.Errorf("plan %d: %d events", plan, len(w.Events()))
		}
	}
}

func TestADisabledOrganizationMakesNoNewOffersAfterAWhile(t *testing.T) {
	day := 24 * time.Hour
	for name, test := range map[string]struct {
		expired *time.Time
		items   int
	}{
		"expired 93 days ago": {at(epoch.Add(-93 * day)), 2},
		"expired 94 days ago": {at(epoch.Add(-94 * day)), 1},
		"expires some time":   {at(epoch.Add(day)), 2},
		"never expires":       {nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, cloud.Config{})
			w.sync(offer(1))
			w.change(func(o *cloud.Organization) { o.Disabled, o.Expiration = true, test.expired })
			if items := w.sync(offer(1), offer(2)); len(items) != test.items {
				t.Errorf("items are %+v", items)
			}
		})
	}
}

func at(t time.Time) *time.Time { return &t }

func TestTheFixedCloudHasNoneOfTheDefects(t *testing.T) {
	w := newWorld(t, cloud.Config{Fidelity: cloud.Fixed})
	if items := w.sync(offer(1), offer(1)); len(items) != 2 {
		t.Errorf("items are %+v", items)
	}
	w.expect(1, 1)
	w.sync(revoke(1, true))
	if items := w.sync(revoke(1, true)); len(items) != 0 {
		t.Errorf("items are %+v", items)
	}
	w.expect(0, 1)
	blank := offer(3)
	blank.OfferedToEmail = nil
	if answer := w.post(w.syncBody(offer(2), blank)); answer.status != 500 {
		t.Errorf("answer is %+v", answer)
	}
	w.expect(0, 1)
	w.faults(cloud.Fault{Match: cloud.Match{Route: cloud.RouteSync}, When: cloud.AfterCommit, Action: cloud.Close, Times: 1})
	if answer := w.post(w.syncBody(offer(2))); answer.err == nil {
		t.Errorf("answer is %+v", answer)
	}
	w.expect(0, 1)
	w.sync(offer(2))
	w.expect(1, 2)
}

func TestRedemption(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	const member = "Member1@example.test"
	if err := w.AddUser(cloud.User{Email: member}); err != nil {
		t.Fatal(err)
	}
	family, err := w.AddOrganization(cloud.Organization{PlanType: cloud.FamiliesAnnually, Owners: []string{member}})
	if err != nil {
		t.Fatal(err)
	}
	w.sync(offer(1), offer(2))
	link, err := url.Parse(strings.Replace(w.Mails()[0].Link, "/#/", "/", 1))
	if err != nil {
		t.Fatal(err)
	}
	offered := link.Query().Get("token")
	user, err := w.UserToken(member)
	if err != nil {
		t.Fatal(err)
	}
	other, err := w.UserToken(owner)
	if err != nil {
		t.Fatal(err)
	}
	call := func(what, token, user, organization string) response {
		return w.send("POST", w.APIURL()+"/organization/sponsorship/"+what+"?sponsorshipToken="+url.QueryEscape(token), "application/json", user,
			fmt.Sprintf(`{"planSponsorshipType":0,"sponsoredOrganizationId":%q}`, organization))
	}
	valid := func(token, user string) bool {
		return strings.Contains(call("validate-token", token, user, family.ID).body, `"isTokenValid":true`)
	}
	if !valid(offered, user) || valid(offered, other) || valid(offered[:len(offered)-2], user) || valid("", user) {
		t.Error("the wrong tokens are valid")
	}
	for name, answer := range map[string]response{
		"another user":                     call("redeem", offered, other, family.ID),
		"an organization of somebody else": call("redeem", offered, user, w.organization.ID),
		"no token":                         call("redeem", "", user, family.ID),
	} {
		if answer.status != 400 || messageOf(t, answer) == "" {
			t.Errorf("%s: %+v", name, answer)
		}
	}
	if answer := call("redeem", offered, user, family.ID); answer.status != 200 {
		t.Fatalf("answer is %+v", answer)
	}
	if row := w.rows()[0]; row.SponsoredOrganizationID != family.ID || !row.ValidUntil.Equal(*family.Expiration) || row.OfferedToEmail != nil {
		t.Errorf("row is %+v", row)
	}
	if valid(offered, user) {
		t.Error("a token is valid twice")
	}
	if answer := call("redeem", offered, w.newToken("api.installation"), family.ID); answer.status != 403 {
		t.Errorf("an installation redeems: %+v", answer)
	}
	w.Advance(183 * 24 * time.Hour)
	if err := w.Redeem(w.organization.ID, key(2), time.Time{}); err == nil || !strings.Contains(err.Error(), "more than 6 months old and has expired") {
		t.Errorf("error is %v", err)
	}
	if rows := w.rows(); len(rows) != 1 {
		t.Errorf("rows are %+v", rows)
	}
}
