package sponsorships_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/functions/sponsorships"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

var environment = map[string]string{
	"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": "key.pem",
	"LATCHKEY_IDENTITY_URL": "https://vault.example.org/identity",
}

func TestLittleHasToBeSet(t *testing.T) {
	c, warnings, err := sponsorships.LoadConfig(environment)
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	if c.Billing.CloudCommunication || c.Billing.Region != "US" || c.SyncFunction != "" || c.Sessions.Path() != "" {
		t.Errorf("%+v", c)
	}
	if !slices.Equal(c.SponsorRules, []string{"orguser", "orgcustom"}) || !slices.Equal(c.Operators.Rules, []string{"orgowner", "orgadmin"}) {
		t.Errorf("%v %v", c.SponsorRules, c.Operators.Rules)
	}
}

func TestTheOfficialNamesAreUnderstood(t *testing.T) {
	set := maps.Clone(environment)
	set["globalSettings__enableCloudCommunication"] = "true"
	set["globalSettings__installation__id"] = "3f2c2b1f-95b1-4ad5-9a5e-8d7c5f0a7f10"
	set["globalSettings__installation__key"] = "abcdefghij0123456789"
	set["globalSettings__baseServiceUri__cloudRegion"] = "EU"
	set["LATCHKEY_PUBLIC_URL"] = "https://example.org/latchkey"
	c, warnings, err := sponsorships.LoadConfig(set)
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	if !c.Billing.CloudCommunication || c.Billing.APIURL != "https://api.bitwarden.eu" || c.Sessions.Path() != "/latchkey" {
		t.Errorf("%+v", c.Billing)
	}
}

func TestEverythingThatIsWrongIsToldAtOnce(t *testing.T) {
	set := map[string]string{
		"LATCHKEY_SPONSOR_RULES": "email=x", "LATCHKEY_PUBLIC_URL": "nowhere", "LATCHKEY_CLOUD_COMMUNICATION": "true",
		"LATCHKEY_INSTALLATION_KEY": "abcdefghij0123456789", "LATCHKEY_REQUEST_TIMEOUT": "1ms",
	}
	_, _, err := sponsorships.LoadConfig(set)
	if fault.Of(err) != fault.Invalid {
		t.Fatal(err)
	}
	for _, name := range []string{"STORE", "KEYS", "SPONSOR_RULES", "PUBLIC_URL", "INSTALLATION_ID", "REQUEST_TIMEOUT", "IDENTITY_URL"} {
		if !strings.Contains(err.Error(), "LATCHKEY_"+name) {
			t.Errorf("%s is not in %v", name, err)
		}
	}
	if strings.Contains(err.Error(), "abcdefghij0123456789") {
		t.Error("the error has the key")
	}
}

func TestWithoutRulesNoMemberOffersAnything(t *testing.T) {
	h := open(t, func(c *sponsorships.Config) { c.SponsorRules = []string{"none"} })
	h.do(h.bob, "GET", syncPath+"/offers", nil).says(404, "Resource not found.")
	h.get(syncPath + "/offers").is(200)
}
