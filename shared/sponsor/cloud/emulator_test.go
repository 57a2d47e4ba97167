package cloud_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/sponsor/cloud"
	"github.com/latchkey-fn/latchkey/shared/sponsor/licence"
)

// world is an emulated cloud, and the time there and here.
type world struct {
	*cloudtest.Cloud
	clock *cloudtest.Clock
}

func newWorld(t *testing.T, region emulator.Region) *world {
	t.Helper()
	clock := cloudtest.NewClock()
	return &world{cloudtest.NewCloud(t, emulator.Config{
		Region: region, Now: clock.Now, Sleep: clock.Wait, Limits: emulator.Limits{Enabled: true},
	}), clock}
}

func (w *world) config() cloud.Config {
	return cloud.Config{
		Enabled: true, Region: string(w.Region()), IdentityURL: w.IdentityURL(), APIURL: w.APIURL(),
		InstallationID: w.Installation.ID, InstallationKey: config.Secret(w.Installation.Key),
		Transport: w.Transport, Now: w.clock.Now,
	}
}

func (w *world) client(t *testing.T, c cloud.Config) *cloud.Client {
	t.Helper()
	client, err := cloud.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (w *world) batch(offers ...cloud.Offer) cloud.SyncRequest {
	return cloud.SyncRequest{BillingSyncKey: config.Secret(w.Key), CloudOrganizationID: w.OrgID, Offers: offers}
}

func (w *world) wish(t *testing.T) cloud.LicenseRequest {
	t.Helper()
	organization, err := w.Organization(w.OrgID)
	if err != nil {
		t.Fatal(err)
	}
	return cloud.LicenseRequest{CloudOrganizationID: w.OrgID, LicenseKey: config.Secret(organization.LicenseKey), BillingSyncKey: config.Secret(w.Key)}
}

func key(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

func offer(n int) cloud.Offer {
	name, email := "home", fmt.Sprintf("person%d@home.example", n)
	return cloud.Offer{Key: key(n), FriendlyName: &name, Email: &email}
}

func (w *world) expectGood(t *testing.T) {
	t.Helper()
	if violations := w.Violations(); len(violations) != 0 {
		t.Errorf("violations: %v", violations)
	}
}

func codeOf(t *testing.T, err error) cloud.Code {
	t.Helper()
	e, ok := errors.AsType[*cloud.Error](err)
	if !ok {
		t.Fatalf("%v is no *cloud.Error", err)
	}
	return e.Code
}

func TestTheLifeOfAnOfferInTheEmulator(t *testing.T) {
	w := newWorld(t, emulator.EU)
	client := w.client(t, w.config())
	if synced, err := client.Sync(t.Context(), w.batch()); err != nil || len(synced) != 0 {
		t.Fatal(synced, err)
	}
	synced, err := client.Sync(t.Context(), w.batch(offer(1), offer(2)))
	if err != nil || len(synced) != 2 || synced[0].Key != key(1) || !synced[0].LastSync.Equal(w.clock.Now()) || synced[0].ValidUntil != nil || synced[0].Removed {
		t.Fatalf("%+v %v", synced, err)
	}
	until := w.clock.Now().AddDate(1, 0, 0)
	if err := w.Redeem(w.OrgID, key(1), until); err != nil {
		t.Fatal(err)
	}
	again := offer(1)
	again.LastSync = synced[0].LastSync
	synced, err = client.Sync(t.Context(), w.batch(again, cloud.Offer{Key: key(2), ToDelete: true}))
	if err != nil || len(synced) != 2 || !synced[0].ValidUntil.Equal(until) || !synced[1].Removed {
		t.Fatalf("%+v %v", synced, err)
	}
	if synced, err = client.Sync(t.Context(), w.batch(cloud.Offer{Key: key(2), ToDelete: true})); err != nil || len(synced) != 0 {
		t.Fatalf("a deletion that was done: %+v %v", synced, err)
	}
	if n := w.Count(emulator.RouteToken); n != 1 || len(w.Mails()) != 2 {
		t.Errorf("%d tokens, %d mails", n, len(w.Mails()))
	}
	if skew, known := client.Skew(); !known || skew != 0 {
		t.Error(skew, known)
	}
	w.expectGood(t)
}

func TestFaultsOfTheEmulatorAreToldApart(t *testing.T) {
	sync := emulator.Match{Route: emulator.RouteSync}
	token := emulator.Match{Route: emulator.RouteToken}
	for name, c := range map[string]struct {
		fault     emulator.Fault
		code      cloud.Code
		ambiguous bool
		wait      time.Duration
	}{
		"500 before the commit":     {emulator.Fault{Match: sync, Action: emulator.Status, Status: 500}, cloud.CloudError, true, 0},
		"500 after the commit":      {emulator.Fault{Match: sync, When: emulator.AfterCommit, Action: emulator.Status, Status: 500}, cloud.CloudError, true, 0},
		"closed after the mails":    {emulator.Fault{Match: sync, When: emulator.AfterMail, Action: emulator.Close}, cloud.NetworkMid, true, 0},
		"a page":                    {emulator.Fault{Match: sync, Action: emulator.HTML}, cloud.CloudError, true, 0},
		"a page that says success":  {emulator.Fault{Match: sync, Action: emulator.HTML, Status: 200}, cloud.BadResponse, true, 0},
		"a server that is stuck":    {emulator.Fault{Match: sync, Action: emulator.Hang, Milliseconds: 120_000}, cloud.Timeout, true, 0},
		"an answer that breaks off": {emulator.Fault{Match: sync, Action: emulator.Truncate, Bytes: 10}, cloud.BadResponse, true, 0},
		"an answer that is no JSON": {emulator.Fault{Match: sync, Action: emulator.BadJSON}, cloud.BadResponse, true, 0},
		"429 with seconds":          {emulator.Fault{Match: sync, Action: emulator.Status, Status: 429, Headers: map[string]string{"Retry-After": "7"}}, cloud.RateLimited, false, 7 * time.Second},
		"429 with a date":           {emulator.Fault{Match: sync, Action: emulator.Status, Status: 429, Headers: map[string]string{"Retry-After": cloudtest.Epoch.Add(7 * time.Second).Format(http.TimeFormat)}}, cloud.RateLimited, false, 7 * time.Second},
		"a token that has expired":  {emulator.Fault{Match: sync, Action: emulator.TokenExpired}, cloud.TokenRejected, false, 0},
		"identity has a fault":      {emulator.Fault{Match: token, Action: emulator.Status, Status: 503}, cloud.CloudError, false, 0},
		"identity is stuck":         {emulator.Fault{Match: token, Action: emulator.Hang, Milliseconds: 120_000}, cloud.Timeout, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, emulator.US)
			if err := w.SetFaults(c.fault); err != nil {
				t.Fatal(err)
			}
			_, err := w.client(t, w.config()).Sync(t.Context(), w.batch(offer(1)))
			e, ok := errors.AsType[*cloud.Error](err)
			if !ok || e.Code != c.code || e.Ambiguous != c.ambiguous || e.RetryAfter != c.wait {
				t.Errorf("%+v", err)
			}
			w.expectGood(t)
		})
	}
}

// T10.
func TestATokenThatTheEmulatorRefusesIsReplaced(t *testing.T) {
	w := newWorld(t, emulator.US)
	if err := w.SetFaults(emulator.Fault{Match: emulator.Match{Route: emulator.RouteSync}, Action: emulator.TokenExpired, Times: 1}); err != nil {
		t.Fatal(err)
	}
	synced, err := w.client(t, w.config()).Sync(t.Context(), w.batch(offer(1)))
	if err != nil || len(synced) != 1 || w.Count(emulator.RouteToken) != 2 || w.Count(emulator.RouteSync) != 2 {
		t.Errorf("%+v %v, %d tokens", synced, err, w.Count(emulator.RouteToken))
	}
	w.expectGood(t)
}

// T40 to T42, T51, T52, T71.
func TestWhatTheEmulatorRefuses(t *testing.T) {
	us, eu := newWorld(t, emulator.US), newWorld(t, emulator.EU)
	both := emulator.NewTransport(us.Cloud.Cloud, eu.Cloud.Cloud)
	probe := func(change func(*cloud.Config, *cloud.SyncRequest)) error {
		us.clock.Pass(10 * time.Second) // for the limits
		c, request := us.config(), us.batch()
		c.Transport = both
		change(&c, &request)
		_, err := us.client(t, c).Sync(t.Context(), request)
		return err
	}
	for name, c := range map[string]struct {
		change func(*cloud.Config, *cloud.SyncRequest)
		want   cloud.Code
	}{
		"a wrong key":             {func(_ *cloud.Config, r *cloud.SyncRequest) { r.BillingSyncKey = "another" }, cloud.KeyInvalid},
		"an unknown organisation": {func(_ *cloud.Config, r *cloud.SyncRequest) { r.CloudOrganizationID = key(9) }, cloud.OrgUnknown},
		"a wrong installation":    {func(c *cloud.Config, _ *cloud.SyncRequest) { c.InstallationKey = "another" }, cloud.IdentityInvalidClient},
		"another region":          {func(c *cloud.Config, _ *cloud.SyncRequest) { c.IdentityURL, c.APIURL = eu.IdentityURL(), eu.APIURL() }, cloud.IdentityInvalidClient},
		"hosts of two regions":    {func(c *cloud.Config, _ *cloud.SyncRequest) { c.APIURL = eu.APIURL() }, cloud.TokenRejected},
		"a host that is not":      {func(c *cloud.Config, _ *cloud.SyncRequest) { c.APIURL = "https://api.example" }, cloud.NetworkPre},
	} {
		if got := codeOf(t, probe(c.change)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	withoutKey, err := us.AddOrganization(emulator.Organization{Name: "without a key"})
	if err != nil {
		t.Fatal(err)
	}
	if got := codeOf(t, probe(func(_ *cloud.Config, r *cloud.SyncRequest) { r.CloudOrganizationID = withoutKey.ID })); got != cloud.CloudError {
		t.Errorf("an organisation without a key: %s", got)
	}
	if err := us.SetPlan(us.OrgID, emulator.TeamsAnnually); err != nil {
		t.Fatal(err)
	}
	if err := probe(func(_ *cloud.Config, r *cloud.SyncRequest) { r.Offers = []cloud.Offer{offer(1)} }); err != nil || len(us.Sponsorships(us.OrgID)) != 0 {
		t.Errorf("a plan that cannot sponsor: %v", err)
	}
}

// T100 to T104, T106, T107.
func TestLicencesOfTheEmulatorAreRead(t *testing.T) {
	trust, err := licence.NewTestTrust(emulator.LicenceCertificate())
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(t *testing.T, w *world) (*licence.Authentic, error) {
		t.Helper()
		document, err := w.client(t, w.config()).License(t.Context(), w.wish(t))
		if err != nil {
			return nil, err
		}
		parsed, err := licence.Parse(document, licence.Wire)
		if err != nil {
			t.Fatalf("%v in %s", err, document)
		}
		authentic, err := trust.Authenticate(parsed)
		if err != nil {
			return nil, err
		}
		return authentic, authentic.CheckUse(w.Installation.ID, w.clock.Now())
	}
	for name, c := range map[string]struct {
		settings emulator.LicenseSettings
		text     string
	}{
		"today's":                     {},
		"a later version":             {settings: emulator.LicenseSettings{Version: 17}},
		"a later one without a token": {emulator.LicenseSettings{Version: 17, Legacy: true}, "Version 17 is not supported."},
		"a stranger's":                {emulator.LicenseSettings{Stranger: true}, "signature of its token"},
		"a stranger's, legacy":        {emulator.LicenseSettings{Stranger: true, Legacy: true}, "Invalid license. The license verification failed."},
		"a changed one, legacy":       {emulator.LicenseSettings{Tampered: true, Legacy: true}, "Invalid license. The license verification failed."},
		"another organisation's":      {emulator.LicenseSettings{Claims: map[string]any{"aud": "organization:" + key(1)}}, "not of the organization"},
		"two seconds early":           {settings: emulator.LicenseSettings{NotBeforeSeconds: 2}},
		"ten minutes early":           {emulator.LicenseSettings{NotBeforeSeconds: 600}, "not valid yet"},
		"one that has expired":        {emulator.LicenseSettings{LifetimeSeconds: -10}, "has expired"},
		"another installation's":      {emulator.LicenseSettings{Set: map[string]any{"InstallationId": key(1)}}, "Invalid license. The installation ID does not match the current installation."},
		"a disabled organisation's":   {emulator.LicenseSettings{Set: map[string]any{"Enabled": false}}, "Invalid license. Your cloud-hosted organization is currently disabled."},
		"one not to be self-hosted":   {emulator.LicenseSettings{Set: map[string]any{"SelfHost": false}}, "Invalid license. The license does not allow for on-premise hosting of organizations."},
		"a user's":                    {emulator.LicenseSettings{Set: map[string]any{"LicenseType": 0}}, "premium license"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, emulator.US)
			if err := w.ChangeOrganization(w.OrgID, func(o *emulator.Organization) { o.License = c.settings }); err != nil {
				t.Fatal(err)
			}
			authentic, err := fetch(t, w)
			switch {
			case c.text == "" && err != nil, c.text != "" && (err == nil || !strings.Contains(err.Error(), c.text)):
				t.Errorf("%v, want %q", err, c.text)
			case err == nil && (authentic.Name != "Example" || authentic.Id != w.OrgID || !authentic.Enterprise()):
				t.Errorf("%+v", authentic)
			}
			w.expectGood(t)
		})
	}
	for version := 1; version <= 16; version++ {
		w := newWorld(t, emulator.US)
		settings := emulator.LicenseSettings{Version: version, Legacy: true}
		if err := w.ChangeOrganization(w.OrgID, func(o *emulator.Organization) { o.License = settings }); err != nil {
			t.Fatal(err)
		}
		if _, err := fetch(t, w); err != nil {
			t.Errorf("version %d: %v", version, err)
		}
	}
}

func TestRefusalsOfALicenceByTheEmulator(t *testing.T) {
	for name, c := range map[string]struct {
		want   cloud.Code
		cloud  func(*emulator.Organization)
		wish   func(*cloud.LicenseRequest)
		exact  string
		status int
	}{
		"another license key":     {want: cloud.LicenseKeyInvalid, wish: func(r *cloud.LicenseRequest) { r.LicenseKey = "another" }, exact: "Invalid license key.", status: 400},
		"another sync key":        {want: cloud.KeyInvalid, wish: func(r *cloud.LicenseRequest) { r.BillingSyncKey = "another" }, exact: "Invalid Billing Sync Key", status: 400},
		"an unknown organisation": {want: cloud.LicenseOrgUnknown, wish: func(r *cloud.LicenseRequest) { r.CloudOrganizationID = key(5) }, exact: "Resource not found.", status: 404},
		"an unpaid subscription": {
			want: cloud.LicensePayment, cloud: func(o *emulator.Organization) { o.Subscription = "canceled" },
			exact: "Unable to generate license due to a payment issue. Please update your billing information or contact support for assistance.", status: 400,
		},
		"no subscription": {
			want: cloud.LicenseNoSubscription, cloud: func(o *emulator.Organization) { o.Subscription, o.Expiration = emulator.NoSubscription, nil },
			exact: "No active subscription found.", status: 400,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, emulator.US)
			if c.cloud != nil {
				if err := w.ChangeOrganization(w.OrgID, c.cloud); err != nil {
					t.Fatal(err)
				}
			}
			wish := w.wish(t)
			if c.wish != nil {
				c.wish(&wish)
			}
			_, err := w.client(t, w.config()).License(t.Context(), wish)
			e, ok := errors.AsType[*cloud.Error](err)
			if !ok || e.Code != c.want || e.Message != c.exact || e.Status != c.status {
				t.Errorf("%+v", err)
			}
		})
	}
	w := newWorld(t, emulator.US)
	w.RemoveRoute(emulator.RouteLicense)
	if _, err := w.client(t, w.config()).License(t.Context(), w.wish(t)); err == nil || codeOf(t, err) != cloud.LicenseRouteGone {
		t.Errorf("a route that is gone: %v", err)
	}
}
