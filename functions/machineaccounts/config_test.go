package machineaccounts_test

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/functions/machineaccounts"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

func TestWhatCannotWorkIsRefusedByName(t *testing.T) {
	good := settings("https://id.example.org")
	if c, warnings, err := machineaccounts.LoadConfig(good); err != nil || len(warnings) != 0 || c.WebVaultOrigins[0] != origin {
		t.Fatalf("%+v %v %v", c, warnings, err)
	}
	for name, value := range map[string]string{
		"LATCHKEY_STORE":               "mysql",
		"LATCHKEY_KEYS":                "",
		"LATCHKEY_IDENTITY_URL":        "id.example",
		"LATCHKEY_PUBLIC_URL":          "",
		"LATCHKEY_OPERATOR_RULES":      "=x",
		"LATCHKEY_WEB_VAULT_ORIGINS":   "vault.example.org",
		"LATCHKEY_DATA_KEY_MAX_AGE":    "1s",
		"LATCHKEY_REQUEST_TIMEOUT":     "1ms",
		"LATCHKEY_AWS_ACCESS_KEY_ID":   "alone",
		"LATCHKEY_SIGNING_KEY_AGE":     "1h",
		"LATCHKEY_OPERATOR_ALGORITHMS": "HS256",
		"LATCHKEY_SIGNING_ALGORITHM":   "none",
		"LATCHKEY_IDENTITY_KEYS_FILE":  "/keys.pem", // without an issuer
	} {
		environment := maps.Clone(good)
		environment[name] = value
		_, _, err := machineaccounts.LoadConfig(environment)
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), strings.TrimSuffix(name, "_FILE")) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
}
