package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/sponsor/licence"
)

// vendor is an emulated cloud on loopback, which the settings name.
type vendor struct {
	*emulator.Cloud
	server       *emulator.Server
	installation emulator.Installation
}

func startVendor(t *testing.T, c emulator.Config) *vendor {
	t.Helper()
	emulated, err := emulator.New(c)
	if err != nil {
		t.Fatal(err)
	}
	v := &vendor{Cloud: emulated}
	if v.server, err = emulated.Start(emulator.Addresses{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, v.server) })
	if v.installation, err = emulated.AddInstallation(emulator.Installation{}); err != nil {
		t.Fatal(err)
	}
	return v
}

// useVendor sets everything that Billing sync wants.
func useVendor(t *testing.T) *vendor {
	t.Helper()
	use(t, useSQLite)
	v := startVendor(t, emulator.Config{Region: emulator.EU})
	set(t, map[string]string{
		"LATCHKEY_CLOUD_COMMUNICATION": "true", "LATCHKEY_CLOUD_REGION": "EU",
		"LATCHKEY_CLOUD_IDENTITY_URL": v.server.IdentityURL, "LATCHKEY_CLOUD_API_URL": v.server.APIURL,
		"LATCHKEY_INSTALLATION_ID": v.installation.ID, "LATCHKEY_INSTALLATION_KEY": v.installation.Key,
		"LATCHKEY_LICENSE_TEST_CERTIFICATE_FILE": saved(t, emulator.LicenceCertificate()),
	})
	return v
}

func saved(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// examined are the doctor's findings on Billing sync. The installation's key is
// in none.
func (v *vendor) examined(t *testing.T, wantCode int) []finding {
	t.Helper()
	got := run(t, "doctor", "--functions", "billing-sync", "--json").want(t, wantCode)
	for _, key := range []string{v.installation.Key, os.Getenv("LATCHKEY_INSTALLATION_KEY")} {
		if key != "" && strings.Contains(got.out+got.err, key) {
			t.Errorf("the key is told:\n%s%s", got.out, got.err)
		}
	}
	var all []finding
	got.json(t, &all)
	return all
}

// wantFinding expects one of a check with this outcome, which tells all of that.
func wantFinding(t *testing.T, all []finding, check, outcome string, told ...string) {
	t.Helper()
	if !slices.ContainsFunc(all, func(f finding) bool {
		return f.Check == check && f.Outcome == outcome && !slices.ContainsFunc(told, func(text string) bool { return !strings.Contains(f.Detail, text) })
	}) {
		t.Errorf("no finding on %q is %q and tells %q: %+v", check, outcome, told, all)
	}
}

func TestTheDoctorFindsTheCloudWell(t *testing.T) {
	v := useVendor(t)
	all := v.examined(t, 0)
	wantFinding(t, all, "cloud", outcomeOK, "region EU", v.server.IdentityURL, v.server.APIURL)
	wantFinding(t, all, "licences", outcomeOK, "thumbprint", "valid until")
	wantFinding(t, all, "licences", outcomeWarning, "LATCHKEY_LICENSE_TEST_CERTIFICATE_FILE", "emulator")
	wantFinding(t, all, "data keys", outcomeOK, "billing-sync: none yet")
	wantFinding(t, all, "installation", outcomeOK, "gave it a token")
	wantFinding(t, all, "cloud API", outcomeOK, "takes the token")
	wantFinding(t, all, "clock", outcomeOK)
	if i := slices.IndexFunc(all, func(f finding) bool { return f.Outcome == outcomeFailed }); i >= 0 {
		t.Errorf("%+v", all[i])
	}
	// It asks once, and neither offers anything nor does anything to anybody.
	if v.Count(emulator.RouteToken) != 1 || v.Count(emulator.RouteSync) != 1 || v.Count("") != 2 || len(v.Violations())+len(v.Events())+len(v.Mails()) != 0 {
		t.Errorf("the cloud was asked %+v, and %v", v.Requests(), v.Violations())
	}
	run(t, "doctor").want(t, 0, "is a setting of billing-sync, which --functions does not choose")
	if v.Count("") != 2 {
		t.Error("the cloud is asked for other functions")
	}
}

func TestTheDoctorSendsNothingWhereTheCloudIsSwitchedOff(t *testing.T) {
	v := useVendor(t)
	for _, off := range []string{"", "false"} {
		t.Setenv("LATCHKEY_CLOUD_COMMUNICATION", off)
		all := v.examined(t, 0)
		wantFinding(t, all, "cloud", outcomeWarning, "LATCHKEY_CLOUD_COMMUNICATION", "no byte leaves")
		if slices.ContainsFunc(all, func(f finding) bool { return slices.Contains([]string{"installation", "cloud API", "clock"}, f.Check) }) {
			t.Errorf("%+v", all)
		}
	}
	set(t, map[string]string{"LATCHKEY_INSTALLATION_ID": "", "LATCHKEY_INSTALLATION_KEY": ""})
	wantFinding(t, v.examined(t, 0), "installation", outcomeWarning, "LATCHKEY_INSTALLATION_ID is not set")
	if v.Count("") != 0 {
		t.Errorf("it sent %+v", v.Requests())
	}
}

// Whatever is wrong with the cloud, its line says what, and what to do.
func TestTheDoctorTellsWhatIsWrongWithTheCloud(t *testing.T) {
	fault := func(route emulator.Route, f emulator.Fault) func(*testing.T, *vendor) {
		f.Match.Route = route
		return func(t *testing.T, v *vendor) {
			if err := v.SetFaults(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	const invalidClient = "invalid_client"
	ofInstallation := []string{invalidClient, "LATCHKEY_INSTALLATION_ID", "LATCHKEY_CLOUD_REGION", "disabled", "(EU)"}
	portal := emulator.Fault{Action: emulator.HTML, Status: 200}
	for name, c := range map[string]struct {
		spoil  func(*testing.T, *vendor)
		failed string
		told   []string
		// unasked: the API is not asked, for want of a token.
		unasked bool
	}{
		"a wrong key": {func(t *testing.T, _ *vendor) { t.Setenv("LATCHKEY_INSTALLATION_KEY", "AnotherKey1234567890") },
			"installation", append(ofInstallation, "LATCHKEY_INSTALLATION_KEY"), true},
		"an unknown installation": {func(t *testing.T, _ *vendor) { t.Setenv("LATCHKEY_INSTALLATION_ID", uuid.NewString()) }, "installation", ofInstallation, true},
		"a disabled installation": {func(t *testing.T, v *vendor) {
			if err := v.DisableInstallation(v.installation.ID); err != nil {
				t.Fatal(err)
			}
		}, "installation", ofInstallation, true},
		"an identity server that is down": {func(t *testing.T, _ *vendor) { t.Setenv("LATCHKEY_CLOUD_IDENTITY_URL", closedPort(t)) },
			"installation", []string{"network_pre", "connection refused", "LATCHKEY_CLOUD_CA_FILE"}, true},
		"an identity server that fails":        {fault(emulator.RouteToken, emulator.Fault{Action: emulator.Status, Status: 503}), "installation", []string{"cloud_error", "HTTP 503", "try again later"}, true},
		"an identity server that is overrun":   {fault(emulator.RouteToken, emulator.Fault{Action: emulator.Status, Status: 429}), "installation", []string{"rate_limited", "wait a minute"}, true},
		"an identity server that breaks off":   {fault(emulator.RouteToken, emulator.Fault{Action: emulator.Close}), "installation", []string{"network_mid", "proxy in between"}, true},
		"a captive portal before identity":     {fault(emulator.RouteToken, portal), "installation", []string{"bad_response", "captive portal"}, true},
		"an API that is down":                  {func(t *testing.T, _ *vendor) { t.Setenv("LATCHKEY_CLOUD_API_URL", closedPort(t)) }, "cloud API", []string{"network_pre", "connection refused", "firewall"}, false},
		"an API that fails":                    {fault(emulator.RouteSync, emulator.Fault{Action: emulator.HTML}), "cloud API", []string{"cloud_error", "HTTP 502"}, false},
		"an API that does not allow the scope": {fault(emulator.RouteSync, emulator.Fault{Action: emulator.Status, Status: 403}), "cloud API", []string{"forbidden_scope"}, false},
		"an API that is something else":        {func(_ *testing.T, v *vendor) { v.RemoveRoute(emulator.RouteSync) }, "cloud API", []string{"request_invalid", "check the addresses"}, false},
		"an API that knows every organisation": {fault(emulator.RouteSync, emulator.Fault{Action: emulator.Status, Status: 200, Body: `{"sponsorshipsBatch":[]}`}),
			"cloud API", []string{"not the vendor's cloud"}, false},
		"an API of another region": {func(t *testing.T, _ *vendor) {
			t.Setenv("LATCHKEY_CLOUD_API_URL", startVendor(t, emulator.Config{Region: emulator.US}).server.APIURL)
		}, "cloud API", []string{"token_rejected", "of one region (EU)", "LATCHKEY_CLOUD_REGION"}, false},
		"certificates that are none": {func(t *testing.T, _ *vendor) { t.Setenv("LATCHKEY_CLOUD_CA_FILE", saved(t, []byte("no PEM"))) },
			"cloud", []string{"holds no certificate in PEM"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := useVendor(t)
			c.spoil(t, v)
			all := v.examined(t, exitFailed)
			wantFinding(t, all, c.failed, outcomeFailed, c.told...)
			for _, f := range all {
				if f.Outcome == outcomeFailed && f.Check != c.failed {
					t.Errorf("%+v", f)
				}
			}
			switch {
			case c.unasked:
				wantFinding(t, all, "cloud API", outcomeWarning, "not checked")
				if v.Count(emulator.RouteSync) != 0 {
					t.Error("the API was asked")
				}
			case c.failed == "cloud API":
				wantFinding(t, all, "installation", outcomeOK)
			}
		})
	}
}

func TestTheDoctorComparesTheClocks(t *testing.T) {
	v := useVendor(t)
	for _, apart := range []time.Duration{time.Hour, -2 * time.Hour} {
		v.Advance(apart)
		wantFinding(t, v.examined(t, 0), "clock", outcomeWarning, "apart", "set this one")
	}
}

func TestTheDoctorLooksAtTheCertificateOfLicences(t *testing.T) {
	v := useVendor(t)
	test := os.Getenv("LATCHKEY_LICENSE_TEST_CERTIFICATE_FILE")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().AddDate(-2, 0, 0), NotAfter: time.Now().AddDate(-1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("LATCHKEY_LICENSE_TEST_CERTIFICATE_FILE", saved(t, der))
	all := v.examined(t, 0)
	wantFinding(t, all, "licences", outcomeOK, template.NotAfter.UTC().Format(time.DateOnly))
	wantFinding(t, all, "licences", outcomeWarning, "not valid now")

	t.Setenv("LATCHKEY_LICENSE_TEST_CERTIFICATE_FILE", saved(t, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("none")})))
	wantFinding(t, v.examined(t, exitFailed), "licences", outcomeFailed, "LATCHKEY_LICENSE_TEST_CERTIFICATE_FILE", "neither PEM nor DER")

	t.Setenv("LATCHKEY_LICENSE_TEST_CERTIFICATE_FILE", "")
	wantFinding(t, v.examined(t, 0), "licences", outcomeWarning, "LATCHKEY_LICENSE_CERTIFICATE_FILE is not set", "licensing.cer")

	t.Setenv("LATCHKEY_LICENSE_CERTIFICATE_FILE", test) // one of another than the vendor
	wantFinding(t, v.examined(t, exitFailed), "licences", outcomeFailed, "LATCHKEY_LICENSE_CERTIFICATE_FILE", "only "+licence.Thumbprint+" is trusted")

	t.Setenv("LATCHKEY_LICENSE_CERTIFICATE_FILE", "/nowhere/licensing.cer")
	all = v.examined(t, exitFailed)
	wantFinding(t, all, "licences", outcomeFailed, "/nowhere/licensing.cer")
	wantFinding(t, all, "cloud API", outcomeOK) // which it does not hide
}

func TestTheDoctorTellsContradictionsOfTheRegion(t *testing.T) {
	v := useVendor(t)
	set(t, map[string]string{
		"LATCHKEY_CLOUD_IDENTITY_URL": "https://identity.bitwarden.com", "LATCHKEY_CLOUD_API_URL": "https://api.bitwarden.eu",
		"LATCHKEY_LICENSE_TEST_CERTIFICATE_FILE": "", "LATCHKEY_INSTALLATION_KEY": "",
	})
	all := v.examined(t, exitUsage)
	wantFinding(t, all, "settings", outcomeFailed, "LATCHKEY_CLOUD_IDENTITY_URL is of region US", "LATCHKEY_INSTALLATION_KEY")
	if len(all) > 2 || v.Count("") != 0 {
		t.Errorf("%+v", all)
	}
}
