package config

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

type billingSettings struct{ Billing Billing }

func (s *billingSettings) Validate() error { return s.Billing.Validate() }

func loadBilling(environment map[string]string) (Billing, error) {
	var s billingSettings
	_, err := Load(&s, Source{Environment: environment, Aliases: BillingAliases()})
	return s.Billing, err
}

const installationID = "5d2f5b0e-7a11-4b57-9a2e-0c64f3a9d101"

// As an official installation in Europe has it, in global.override.env.
func TestTheOfficialNamesOfBillingAreUnderstood(t *testing.T) {
	environment := map[string]string{
		"globalSettings__enableCloudCommunication":      "true",
		"globalSettings__installation__id":              strings.ToUpper(installationID),
		"globalSettings__installation__key_FILE":        file(t, "hunter2hunter2\n"),
		"globalSettings__installation__identityUri":     "https://identity.bitwarden.eu/",
		"globalSettings__installation__apiUri":          "https://API.bitwarden.eu",
		"globalSettings__baseServiceUri__cloudRegion":   "eu",
		"globalSettings__licenseDirectory":              "/etc/bitwarden/core/licenses",
		"globalSettings__pushRelayBaseUri":              "https://push.bitwarden.eu",
		"globalSettings__sqlServer__connectionString":   "none of ours",
		"globalSettings__baseServiceUri__internalVault": "none of ours",
	}
	var s billingSettings
	warnings, err := Load(&s, Source{Environment: environment, Aliases: BillingAliases()})
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	b := s.Billing
	if !b.CloudCommunication || b.InstallationID != installationID || b.InstallationKey.Reveal() != "hunter2hunter2" ||
		b.IdentityURL != "https://identity.bitwarden.eu" || b.APIURL != "https://api.bitwarden.eu" || b.Region != "EU" ||
		b.LicenseDirectory != "/etc/bitwarden/core/licenses" {
		t.Errorf("%+v", b)
	}
}

func TestWhatBillingHasByDefault(t *testing.T) {
	b, err := loadBilling(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Billing{
		Region: "US", IdentityURL: "https://identity.bitwarden.com", APIURL: "https://api.bitwarden.com",
		SyncBatch: 250, SyncProbe: true, SyncParallel: 4, RequestTimeout: time.Minute, OfferKeys: "member", LicenseCheck: "off",
	}
	if b != want {
		t.Errorf("%+v", b)
	}
}

// T50, T52.
func TestTheRegionGivesBothAddresses(t *testing.T) {
	const (
		region, identity, api = "LATCHKEY_CLOUD_REGION", "LATCHKEY_CLOUD_IDENTITY_URL", "LATCHKEY_CLOUD_API_URL"
		usIdentity, usAPI     = "https://identity.bitwarden.com", "https://api.bitwarden.com"
		euIdentity, euAPI     = "https://identity.bitwarden.eu", "https://api.bitwarden.eu"
		ownIdentity, ownAPI   = "http://127.0.0.1:8081/identity", "http://localhost:8082"
	)
	type result struct{ region, identity, api string }
	for name, c := range map[string]struct {
		given   map[string]string
		want    result
		refused string
		forced  result
	}{
		"a region":                      {given: map[string]string{region: "eu"}, want: result{"EU", euIdentity, euAPI}},
		"the government's":              {given: map[string]string{region: "Gov"}, want: result{"GOV", "https://identity.bitwarden-gov.com", "https://api.bitwarden-gov.com"}},
		"an address gives the region":   {given: map[string]string{identity: euIdentity}, want: result{"EU", euIdentity, euAPI}},
		"the API's does, too":           {given: map[string]string{api: euAPI + ":443"}, want: result{"EU", euIdentity, euAPI + ":443"}},
		"region and addresses agree":    {given: map[string]string{region: "EU", identity: euIdentity, api: euAPI}, want: result{"EU", euIdentity, euAPI}},
		"an emulator":                   {given: map[string]string{region: "EU", identity: ownIdentity + "/", api: ownAPI}, want: result{"EU", ownIdentity, ownAPI}},
		"an emulator without a region":  {given: map[string]string{identity: "http://[::1]:1", api: ownAPI}, want: result{"US", "http://[::1]:1", ownAPI}},
		"an address of another region":  {given: map[string]string{region: "EU", identity: usIdentity}, refused: "CLOUD_IDENTITY_URL is of region US and LATCHKEY_CLOUD_REGION is EU", forced: result{"EU", usIdentity, euAPI}},
		"both of another region":        {given: map[string]string{region: "US", identity: euIdentity, api: euAPI}, refused: "CLOUD_API_URL is of region EU", forced: result{"US", euIdentity, euAPI}},
		"addresses of two regions":      {given: map[string]string{identity: euIdentity, api: usAPI}, refused: "a token of one region is refused in the other", forced: result{"EU", euIdentity, usAPI}},
		"one address of somebody's own": {given: map[string]string{region: "EU", api: ownAPI}, refused: "give both or none", forced: result{"EU", euIdentity, ownAPI}},
		"one beside the vendor's":       {given: map[string]string{identity: ownIdentity, api: usAPI}, refused: "give both or none", forced: result{"US", ownIdentity, usAPI}},
		"addresses that were swapped":   {given: map[string]string{identity: usAPI, api: usIdentity}, refused: "each other's place", forced: result{"US", usAPI, usIdentity}},
	} {
		b, err := loadBilling(c.given)
		if c.refused != "" {
			if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s: %v", name, err)
			}
			given := maps.Clone(c.given)
			given["LATCHKEY_CLOUD_FORCE_URLS"] = "true"
			b, err = loadBilling(given)
			c.want = c.forced
		}
		if got := (result{b.Region, b.IdentityURL, b.APIURL}); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestAddressesOfTheCloudThatAreRefused(t *testing.T) {
	for _, address := range []string{
		"identity.bitwarden.eu", "ftp://identity.bitwarden.eu", "https://", "https://u:hunter2@identity.bitwarden.eu",
		"https://identity.bitwarden.eu?hunter2", "https://identity.bitwarden.eu#x", "http://identity.bitwarden.eu", "http://10.0.0.1:80", "http://localhost.example.org",
	} {
		for _, name := range []string{"LATCHKEY_CLOUD_IDENTITY_URL", "LATCHKEY_CLOUD_API_URL"} {
			// Not even by force.
			_, err := loadBilling(map[string]string{name: address, "LATCHKEY_CLOUD_FORCE_URLS": "true"})
			if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s=%s: %v", name, address, err)
			}
		}
	}
}

func TestAllFaultsOfBillingAreReportedAtOnce(t *testing.T) {
	_, err := loadBilling(map[string]string{
		"LATCHKEY_CLOUD_COMMUNICATION": "true", "LATCHKEY_CLOUD_REGION": "MOON", "LATCHKEY_INSTALLATION_ID": "hunter2",
		"LATCHKEY_SYNC_BATCH": "1001", "LATCHKEY_SYNC_PARALLEL": "0", "LATCHKEY_SYNC_REQUEST_TIMEOUT": "1ms",
		"LATCHKEY_OFFER_KEYS": "both", "LATCHKEY_LICENSE_CHECK": "sometimes",
		"LATCHKEY_LICENSE_CERTIFICATE_FILE": "/a", "LATCHKEY_LICENSE_TEST_CERTIFICATE_FILE": "/b",
	})
	for _, want := range []string{
		"CLOUD_REGION=MOON", "INSTALLATION_ID is not", "INSTALLATION_KEY is not set", "SYNC_BATCH=1001", "SYNC_PARALLEL=0",
		"SYNC_REQUEST_TIMEOUT=1ms", "OFFER_KEYS=both", "LICENSE_CHECK=sometimes", "LICENSE_TEST_CERTIFICATE_FILE are both set",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not reported: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("what may be a key is in %v", err)
	}
}

func TestTheInstallationIsNeededOnlyWhereTheCloudIs(t *testing.T) {
	if _, err := loadBilling(map[string]string{"LATCHKEY_CLOUD_COMMUNICATION": "True"}); err == nil ||
		!strings.Contains(err.Error(), "LATCHKEY_INSTALLATION_ID") || !strings.Contains(err.Error(), "LATCHKEY_INSTALLATION_KEY") {
		t.Error(err)
	}
	if _, err := loadBilling(map[string]string{"LATCHKEY_INSTALLATION_KEY": " hunter2"}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

// REQ-8.
func TestATestCertificateIsForAnEmulatorOnThisMachine(t *testing.T) {
	test := map[string]string{"LATCHKEY_LICENSE_TEST_CERTIFICATE_FILE": "/ca.pem"}
	if _, err := loadBilling(test); err == nil || !strings.Contains(err.Error(), "emulator") {
		t.Error(err)
	}
	test["LATCHKEY_CLOUD_IDENTITY_URL"], test["LATCHKEY_CLOUD_API_URL"] = "https://127.0.0.1:1", "http://localhost:2"
	if _, err := loadBilling(test); err != nil {
		t.Error(err)
	}
}
