package cloud_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/sponsor/licence"
)

func trusted(t *testing.T) *rsa.PublicKey {
	t.Helper()
	block, _ := pem.Decode(cloud.LicenceCertificate())
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate.PublicKey.(*rsa.PublicKey)
}

func (w *world) askLicence(change func(body map[string]any)) response {
	w.Helper()
	body := map[string]any{"licenseKey": w.organization.LicenseKey, "billingSyncKey": w.organization.BillingSyncKey}
	if change != nil {
		change(body)
	}
	text, err := json.Marshal(body)
	if err != nil {
		w.Fatal(err)
	}
	return w.send("GET", w.APIURL()+"/licenses/organization/"+w.organization.ID, "application/json", w.newToken("api.licensing"), string(text))
}

func (w *world) licence() map[string]any {
	w.Helper()
	answer := w.askLicence(nil)
	var document map[string]any
	if err := json.Unmarshal([]byte(answer.body), &document); err != nil || answer.status != 200 {
		w.Fatalf("%v: %+v", err, answer)
	}
	return document
}

// claimsOf gives the claims of a licence's token if the key signed it.
func claimsOf(t *testing.T, document map[string]any, key *rsa.PublicKey) (map[string]any, error) {
	t.Helper()
	raw, ok := document["token"].(string)
	if !ok {
		t.Fatalf("no token: %v", document)
	}
	token, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	err = token.Claims(key, &claims)
	return claims, err
}

func TestALicenceWithAToken(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.clock.now = epoch.Add(123456700 * time.Nanosecond)
	document := w.licence()
	claims, err := claimsOf(t, document, trusted(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"iss": "bitwarden", "aud": "organization:" + w.organization.ID, "nbf": float64(epoch.Unix()), "exp": float64(epoch.Unix() + 365*86400),
		"LicenseKey": w.organization.LicenseKey, "InstallationId": w.installation.ID, "Id": w.organization.ID, "Name": "Example",
		"Enabled": "True", "SelfHost": "True", "Trial": "False", "PlanType": "20", "Plan": "Enterprise (Annually)", "Seats": "100",
		"LicenseType": "Organization", "Issued": "03/02/2026 08:00:00", "Refresh": "04/01/2026 08:00:00", "Expires": "05/01/2027 08:00:00",
		"ExpirationWithoutGracePeriod": "03/02/2027 08:00:00", "UsePam": "True", "MaxCollections": nil, "BusinessName": nil, "Version": nil, "Hash": nil,
	} {
		if claims[name] != want {
			t.Errorf("claim %s is %v, want %v", name, claims[name], want)
		}
	}
	for name, want := range map[string]any{
		"version": 15.0, "issued": "2026-03-02T08:00:00.1234567Z", "licenseType": 1.0, "use2fa": true, "maxStorageGb": 5.0, "businessName": nil,
		"installationId": w.installation.ID, "enabled": true, "smSeats": 20.0,
	} {
		if document[name] != want {
			t.Errorf("%s is %v, want %v", name, document[name], want)
		}
	}
	if _, has := document["maxCollections"]; !has || len(document) != 51 {
		t.Errorf("document has %d members", len(document))
	}
}

func TestWhatALicenceCanBe(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	settings := func(s cloud.LicenseSettings) {
		w.change(func(o *cloud.Organization) { o.License = s })
	}
	expect := func(what string, want map[string]any) map[string]any {
		t.Helper()
		document := w.licence()
		claims, err := claimsOf(t, document, trusted(t))
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for name, value := range want {
			if claims[name] != value {
				t.Errorf("%s: %s is %v", what, name, claims[name])
			}
		}
		return document
	}
	now := float64(epoch.Unix())
	settings(cloud.LicenseSettings{Set: map[string]any{
		"Seats": 7, "UseSso": false, "MaxCollections": 3.0, "BusinessName": "GmbH", "Expires": "2030-01-01T00:00:00Z", "LicenseType": 0, "Name": nil,
	}})
	document := expect("other values", map[string]any{
		"Seats": "7", "UseSso": "False", "MaxCollections": "3", "BusinessName": "GmbH", "Expires": "01/01/2030 00:00:00", "LicenseType": "User", "Name": nil,
	})
	if document["seats"] != 7.0 || document["useSso"] != false || document["expires"] != "2030-01-01T00:00:00Z" {
		t.Errorf("document is %v", document)
	}
	settings(cloud.LicenseSettings{Claims: map[string]any{"aud": "organization:x", "iss": nil, "Seats": "many"}})
	expect("other claims", map[string]any{"aud": "organization:x", "iss": nil, "Seats": "many"})
	settings(cloud.LicenseSettings{NotBeforeSeconds: 2})
	expect("not valid yet", map[string]any{"nbf": now + 2})
	settings(cloud.LicenseSettings{LifetimeSeconds: -60})
	expect("expired", map[string]any{"exp": now - 60, "nbf": now - 60 - 365*86400})
	settings(cloud.LicenseSettings{Version: 17})
	if document := expect("of version 17", nil); document["version"] != 17.0 {
		t.Errorf("version is %v", document["version"])
	}
	w.change(func(o *cloud.Organization) { o.License, o.Disabled = cloud.LicenseSettings{}, true })
	expect("of a disabled organization", map[string]any{"Enabled": "False"})
	w.faults(cloud.Fault{Match: cloud.Match{Route: cloud.RouteLicense}, Action: cloud.NotYetValid, Milliseconds: 120_000})
	expect("of a fault", map[string]any{"nbf": now + 120})
	w.faults()
	for name, s := range map[string]cloud.LicenseSettings{
		"a stranger's": {Stranger: true}, "a tampered one": {Tampered: true},
		"a stranger's without token": {Stranger: true, Legacy: true}, "a tampered one without token": {Tampered: true, Legacy: true},
	} {
		settings(s)
		document := w.licence()
		if s.Legacy {
			if verifies(t, document, trusted(t)) {
				t.Errorf("%s verifies", name)
			}
			continue
		}
		if claims, err := claimsOf(t, document, trusted(t)); err == nil {
			t.Errorf("%s verifies: %v", name, claims)
		}
	}
}

// verifies tells whether a document of version 15 or later is signed by the key. The rules are
// those of §4.4, and the property list is the longest of the published vectors.
func verifies(t *testing.T, document map[string]any, key *rsa.PublicKey) bool {
	t.Helper()
	var vectors struct {
		Legacy []struct{ SignatureData string }
	}
	file, err := os.ReadFile("testdata/licences.json")
	if err == nil {
		err = json.Unmarshal(file, &vectors)
	}
	if err != nil {
		t.Fatal(err)
	}
	text := "license:organization"
	for _, part := range strings.Split(vectors.Legacy[15].SignatureData, "|")[1:] {
		name, _, _ := strings.Cut(part, ":")
		var value string
		switch v := document[strings.ToLower(name[:1])+name[1:]].(type) {
		case nil:
		case string:
			value = v
			if at, err := time.Parse(time.RFC3339Nano, v); err == nil {
				value = fmt.Sprint(at.Unix())
			}
		default:
			value = fmt.Sprint(v)
		}
		text += "|" + name + ":" + value
	}
	digest := sha256.Sum256([]byte(text))
	signature, err := base64.StdEncoding.DecodeString(document["signature"].(string))
	if err != nil {
		t.Fatal(err)
	}
	return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) == nil
}

func TestALicenceWithoutAToken(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	for _, version := range []int{15, 16, 17} {
		w.change(func(o *cloud.Organization) { o.License = cloud.LicenseSettings{Legacy: true, Version: version} })
		document := w.licence()
		if document["token"] != nil || document["version"] != float64(version) {
			t.Errorf("document is %v", document)
		}
		if !verifies(t, document, trusted(t)) {
			t.Errorf("version %d does not verify", version)
		}
	}
}

func TestTheStatusesOfALicence(t *testing.T) {
	past, future := epoch.Add(-time.Hour), epoch.Add(time.Hour)
	wrong := func(name string, value any) func(map[string]any) {
		return func(body map[string]any) { body[name] = value }
	}
	const payment = "Unable to generate license due to a payment issue. Please update your billing information or contact support for assistance."
	for name, test := range map[string]struct {
		prepare func(*world)
		change  func(map[string]any)
		status  int
		message string
		slept   time.Duration
	}{
		"an unknown organization": {func(w *world) { w.organization.ID = key(9) }, nil, 404, "Resource not found.", 0},
		"another licence key":     {nil, wrong("licenseKey", "x"), 400, "Invalid license key.", 2 * time.Second},
		"no licence key":          {nil, wrong("licenseKey", nil), 400, "Invalid license key.", 2 * time.Second},
		"another sync key":        {nil, wrong("billingSyncKey", "x"), 400, "Invalid Billing Sync Key", 0},
		"both wrong":              {nil, func(b map[string]any) { b["licenseKey"], b["billingSyncKey"] = "x", "x" }, 400, "Invalid license key.", 2 * time.Second},
		"no sync key on the cloud": {
			func(w *world) { w.change(func(o *cloud.Organization) { o.BillingSyncKey = "" }) }, nil, 500, "An unhandled server error has occurred.", 0,
		},
		"no subscription, expired": {func(w *world) {
			w.change(func(o *cloud.Organization) { o.Subscription, o.Expiration = cloud.NoSubscription, &past })
		}, nil, 400, "No active subscription found.", 0},
		"no subscription, no end": {func(w *world) {
			w.change(func(o *cloud.Organization) { o.Subscription, o.Expiration = cloud.NoSubscription, nil })
		}, nil, 400, "No active subscription found.", 0},
		"no subscription, paid for": {func(w *world) {
			w.change(func(o *cloud.Organization) { o.Subscription, o.Expiration = cloud.NoSubscription, &future })
		}, nil, 200, "", 0},
		"canceled":                 {func(w *world) { w.change(func(o *cloud.Organization) { o.Subscription = "canceled" }) }, nil, 400, payment, 0},
		"incomplete":               {func(w *world) { w.change(func(o *cloud.Organization) { o.Subscription = "incomplete" }) }, nil, 400, payment, 0},
		"past due":                 {func(w *world) { w.change(func(o *cloud.Organization) { o.Subscription = "past_due" }) }, nil, 200, "", 0},
		"a route that was removed": {func(w *world) { w.RemoveRoute(cloud.RouteLicense) }, nil, 404, "", 0},
		"a route that was restored": {func(w *world) {
			w.RemoveRoute(cloud.RouteLicense)
			w.RestoreRoute(cloud.RouteLicense)
		}, nil, 200, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, cloud.Config{})
			if test.prepare != nil {
				test.prepare(w)
			}
			answer := w.askLicence(test.change)
			if answer.status != test.status {
				t.Fatalf("answer is %+v", answer)
			}
			if test.status != 200 && messageOf(t, answer) != test.message {
				t.Errorf("message is %q", messageOf(t, answer))
			}
			if w.clock.slept != test.slept {
				t.Errorf("slept %s", w.clock.slept)
			}
		})
	}
	w := newWorld(t, cloud.Config{})
	licensing := w.newToken("api.licensing")
	route := w.APIURL() + "/licenses/organization/" + w.organization.ID
	if answer := w.send("GET", route, "", licensing, ""); answer.status != 400 || messageOf(t, answer) != "The model state is invalid." {
		t.Errorf("without a body: %+v", answer)
	}
	if answer := w.send("GET", route, "", w.newToken("api.installation"), ""); answer.status != 403 {
		t.Errorf("with a token of another scope: %+v", answer)
	}
	if err := w.DisableInstallation(w.installation.ID); err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"licenseKey":%q,"billingSyncKey":%q}`, w.organization.LicenseKey, w.organization.BillingSyncKey)
	if answer := w.send("GET", route, "application/json", licensing, body); answer.status != 400 || messageOf(t, answer) != "Invalid installation id" {
		t.Errorf("a disabled installation: %+v", answer)
	}
}

func TestAnOwnerDownloadsALicence(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	user, err := w.UserToken(owner)
	if err != nil {
		t.Fatal(err)
	}
	download := func(organization, installation, token string) response {
		return w.send("GET", w.APIURL()+"/organizations/"+organization+"/license?installationId="+installation, "", token, "")
	}
	answer := download(w.organization.ID, strings.ToUpper(w.installation.ID), user)
	var document map[string]any
	if err := json.Unmarshal([]byte(answer.body), &document); err != nil || answer.status != 200 {
		t.Fatalf("%v: %+v", err, answer)
	}
	if claims, err := claimsOf(t, document, trusted(t)); err != nil || claims["InstallationId"] != w.installation.ID {
		t.Errorf("%v: %v", err, claims)
	}
	if answer := download(w.organization.ID, key(1), user); messageOf(t, answer) != "Invalid installation id" {
		t.Errorf("answer is %+v", answer)
	}
	if answer := download(key(1), w.installation.ID, user); answer.status != 404 {
		t.Errorf("answer is %+v", answer)
	}
	if answer := download(w.organization.ID, w.installation.ID, w.newToken("api.licensing")); answer.status != 403 {
		t.Errorf("answer is %+v", answer)
	}
	direct, err := w.License(w.organization.ID, w.installation.ID)
	if err != nil || len(direct) == 0 {
		t.Errorf("directly: %v", err)
	}
	if _, err := w.License(key(1), w.installation.ID); err == nil {
		t.Error("a licence of nobody was made")
	}
}

func TestTheReaderOfLicencesAgrees(t *testing.T) {
	trust, err := licence.NewTestTrust(cloud.LicenceCertificate())
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		settings cloud.LicenseSettings
		want     licence.Code
	}{
		"with a token":               {cloud.LicenseSettings{}, ""},
		"of version 17 with a token": {cloud.LicenseSettings{Version: 17}, ""},
		"of version 1":               {cloud.LicenseSettings{Legacy: true, Version: 1}, ""},
		"of version 9":               {cloud.LicenseSettings{Legacy: true, Version: 9}, ""},
		"of version 15":              {cloud.LicenseSettings{Legacy: true}, ""},
		"of version 16":              {cloud.LicenseSettings{Legacy: true, Version: 16}, ""},
		"of version 17":              {cloud.LicenseSettings{Legacy: true, Version: 17}, licence.VersionUnsupported},
		"tampered":                   {cloud.LicenseSettings{Tampered: true}, licence.Untrusted},
		"tampered, without token":    {cloud.LicenseSettings{Tampered: true, Legacy: true}, licence.Untrusted},
		"of a stranger":              {cloud.LicenseSettings{Stranger: true}, licence.Untrusted},
		"for somebody else":          {cloud.LicenseSettings{Claims: map[string]any{"aud": "organization:x"}}, licence.Untrusted},
		"two seconds early":          {cloud.LicenseSettings{NotBeforeSeconds: 2}, ""},
		"ten minutes early":          {cloud.LicenseSettings{NotBeforeSeconds: 600}, licence.NotYetValid},
		"expired":                    {cloud.LicenseSettings{LifetimeSeconds: -60}, licence.Expired},
		"for other installations":    {cloud.LicenseSettings{Set: map[string]any{"InstallationId": key(1)}}, licence.OtherInstallation},
		"for the cloud":              {cloud.LicenseSettings{Set: map[string]any{"SelfHost": false}}, licence.NotSelfHosted},
		"of a user":                  {cloud.LicenseSettings{Set: map[string]any{"LicenseType": 0}}, licence.OtherKind},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, cloud.Config{})
			w.change(func(o *cloud.Organization) { o.License = test.settings })
			document, err := licence.Parse([]byte(w.askLicence(nil).body), licence.Wire)
			if err != nil {
				t.Fatal(err)
			}
			authentic, err := trust.Authenticate(document)
			if err == nil {
				err = authentic.CheckUse(w.installation.ID, epoch)
			}
			var refused *licence.Error
			if errors.As(err, &refused); err != nil && (refused == nil || refused.Code != test.want) || err == nil && test.want != "" {
				t.Errorf("error is %v, want %q", err, test.want)
			}
		})
	}
}
