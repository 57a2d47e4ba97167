package billingsync_test

import (
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/functions/billingsync"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

func TestTheSettings(t *testing.T) {
	environment := map[string]string{
		"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": "key.pem",
		"globalSettings__enableCloudCommunication": "true", "globalSettings__installation__id": "3f2c2b1f-95b1-4ad5-9a5e-8d7c5f0a7f10",
		"globalSettings__installation__key": "abcdefghij0123456789", "globalSettings__baseServiceUri__cloudRegion": "EU",
	}
	c, warnings, err := billingsync.LoadConfig(environment)
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	if !c.Billing.CloudCommunication || c.Billing.IdentityURL != "https://identity.bitwarden.eu" || c.Billing.InstallationKey.Reveal() != "abcdefghij0123456789" {
		t.Errorf("%+v", c.Billing)
	}
	environment["LATCHKEY_STORE"], environment["globalSettings__installation__id"] = "paper", ""
	environment["LATCHKEY_SYNC_FUNKTION"] = "x"
	_, warnings, err = billingsync.LoadConfig(environment)
	if fault.Of(err) != fault.Invalid || len(warnings) != 1 {
		t.Fatal(err, warnings)
	}
	for _, name := range []string{"LATCHKEY_STORE", "LATCHKEY_INSTALLATION_ID"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not in %v", name, err)
		}
	}
	if strings.Contains(err.Error(), "abcdefghij0123456789") {
		t.Error("the error has the key")
	}
}
