package cloud_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/cloud"
)

func TestThePublishedLimits(t *testing.T) {
	on := cloud.Limits{Enabled: true}
	refused := func(t *testing.T, answer response, period, after string) {
		t.Helper()
		if answer.status != 429 || answer.header.Get("Retry-After") != after ||
			messageOf(t, answer) != "Slow down! Too many requests. Try again in "+period+"." {
			t.Errorf("answer is %+v", answer)
		}
	}
	t.Run("ten tokens a minute", func(t *testing.T) {
		w := newWorld(t, cloud.Config{Limits: on})
		for range 10 {
			w.newToken("api.installation")
			w.Advance(time.Second)
		}
		refused(t, w.askToken(nil), "1m", "50")
		w.Advance(50 * time.Second)
		w.newToken("api.installation")
	})
	t.Run("five requests a second to the API", func(t *testing.T) {
		w := newWorld(t, cloud.Config{Limits: on})
		for range 5 {
			w.sync()
		}
		w.Advance(100 * time.Millisecond)
		refused(t, w.post(w.syncBody()), "1s", "1")
		w.transport.Address = "127.0.0.2"
		w.sync()
		w.transport.Address = "127.0.0.1"
		w.Advance(900 * time.Millisecond)
		w.sync()
		if w.CountStatus(429) != 1 {
			t.Errorf("%d requests were refused", w.CountStatus(429))
		}
	})
	t.Run("sixty posts a minute to the API, and 200 gets", func(t *testing.T) {
		w := newWorld(t, cloud.Config{Limits: on})
		for range 60 {
			w.sync()
			w.Advance(250 * time.Millisecond)
		}
		refused(t, w.post(w.syncBody()), "1m", "45")
		get := func() response { return w.send("GET", w.APIURL()+"/installations/"+w.installation.ID, "", "", "") }
		for range 200 {
			if answer := get(); answer.status != 200 {
				t.Fatalf("answer is %+v", answer)
			}
		}
		refused(t, get(), "1m", "60")
	})
	t.Run("five requests a second to identity", func(t *testing.T) {
		w := newWorld(t, cloud.Config{Limits: on})
		get := func() response { return w.send("GET", w.IdentityURL()+"/.well-known/openid-configuration", "", "", "") }
		for range 5 {
			get()
		}
		refused(t, get(), "1s", "1")
	})
	t.Run("on the machine's clock", func(t *testing.T) {
		w := newWorld(t, cloud.Config{Limits: cloud.Limits{Enabled: true, RealTime: true}})
		for range 10 {
			w.askToken(nil)
			w.Advance(time.Hour)
		}
		if answer := w.askToken(nil); answer.status != 429 {
			t.Errorf("answer is %+v", answer)
		}
	})
	t.Run("off", func(t *testing.T) {
		w := newWorld(t, cloud.Config{})
		for range 100 {
			w.sync()
		}
	})
}

func TestTokensAreCountedWithoutLimitsToo(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	for range 10 {
		w.newToken("api.installation")
	}
	w.expectViolations()
	w.Advance(59 * time.Second)
	w.newToken("api.installation")
	w.expectViolations(cloud.TokenRate)
	w.Advance(time.Second)
	w.newToken("api.installation")
	w.expectViolations(cloud.TokenRate)
}

func TestCredentialsThatWereRefusedAreNotToBeSentAgain(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	wrong := func(secret string) {
		w.askToken(func(f url.Values) { f.Set("client_secret", secret) })
	}
	wrong("x")
	w.expectViolations()
	w.Advance(23 * time.Hour)
	wrong("x")
	w.expectViolations(cloud.BreakerOpen)
	w.Advance(24 * time.Hour)
	wrong("x")
	w.expectViolations(cloud.BreakerOpen)
	wrong("y") // somebody changed the settings
	w.expectViolations(cloud.BreakerOpen)
	w.ExpectToken(w.installation.ID)
	wrong("y") // somebody asked for it
	w.expectViolations(cloud.BreakerOpen)
	w.newToken("api.installation")
	w.newToken("api.installation")
	w.expectViolations(cloud.BreakerOpen)
}

func TestAMailOnceMoreIsAViolationUnlessExpected(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.sync(offer(1))
	w.sync(revoke(1, false))
	other, again := offer(1), "Other@example.test"
	other.OfferedToEmail = &again
	w.sync(other)
	w.expectViolations() // to another address
	w.sync(revoke(1, false))
	mail := cloud.MailKey{Organization: w.organization.ID, OfferKey: key(1), Address: "MEMBER1@example.test"}
	w.ExpectMail(mail)
	w.sync(offer(1))
	w.expectViolations()
	w.sync(revoke(1, false))
	w.sync(offer(1))
	w.expectViolations(cloud.RepeatedMail)
	mail.Address = strings.ToLower(mail.Address)
	counts := w.MailCounts()
	if counts[mail] != 3 || len(counts) != 2 {
		t.Errorf("mails are %v", counts)
	}
}

func TestALargeBatchIsAViolation(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	var items []item
	for n := range 1001 {
		items = append(items, offer(n))
	}
	w.sync(items[:1000]...)
	w.expectViolations()
	w.sync(items...)
	w.expectViolations(cloud.LargeBatch)
}

func TestRecordsHaveNoSecrets(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.sync(offer(1), revoke(2, false))
	w.post(`{"billingSyncKey" : "` + w.organization.BillingSyncKey)
	licence := w.newToken("api.licensing")
	w.send("GET", w.APIURL()+"/licenses/organization/"+w.organization.ID, "application/json", licence,
		fmt.Sprintf(`{"LicenseKey":%q,"BILLINGSYNCKEY":%q}`, w.organization.LicenseKey, w.organization.BillingSyncKey))
	user, err := w.UserToken(owner)
	if err != nil {
		t.Fatal(err)
	}
	w.send("POST", w.APIURL()+"/organizations/"+w.organization.ID+"/api-key", "application/json", user, `{"type":1,"masterPasswordHash":"hash-of-password"}`)
	w.send("POST", w.APIURL()+"/organization/sponsorship/validate-token?sponsorshipToken=offered-token", "", user, "")
	w.send("POST", w.IdentityURL()+"/connect/token", "text/plain", "", "client_secret="+w.installation.Key)
	requests := w.Requests()
	text, err := json.Marshal(requests)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{w.organization.BillingSyncKey, w.organization.LicenseKey, w.installation.Key, w.token, licence, user, "hash-of-password", "offered-token"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("%s is recorded", secret)
		}
	}
	if got := requests[0]; got.Number != 1 || got.Route != cloud.RouteToken || got.Client != "installation."+w.installation.ID || got.Scope != "api.installation" ||
		got.Host != "identity" || got.Status != 200 || got.Address != "127.0.0.1" || !strings.Contains(got.Body, "client_secret=%2A%2A%2A") {
		t.Errorf("recorded was %+v", got)
	}
	if got := requests[1]; got.Route != cloud.RouteSync || len(got.Keys) != 2 || got.Keys[1] != key(2) || got.Deletes != 1 || got.Organization != w.organization.ID ||
		got.TokenID == "" || got.TokenID != requests[0].TokenID || got.Header.Get("Authorization") != "Bearer ***" || !strings.Contains(got.Body, `"billingSyncKey":"***"`) {
		t.Errorf("recorded was %+v", got)
	}
	if w.Count(cloud.RouteSync) != 2 || w.Count("") != 8 || w.CountStatus(200) != 5 {
		t.Errorf("%d syncs of %d, %d ok", w.Count(cloud.RouteSync), w.Count(""), w.CountStatus(200))
	}
	w.Forget()
	if w.Count("") != 0 {
		t.Error("something is remembered")
	}
	w.sync()
	if got := w.Requests()[0].Number; got != 9 {
		t.Errorf("the next number is %d", got)
	}
}
