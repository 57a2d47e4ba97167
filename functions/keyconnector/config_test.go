package keyconnector

import (
	"errors"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// An existing key-connector.override.env works as it is.
func TestTheOfficialSettingsAreUnderstood(t *testing.T) {
	c, warnings, err := LoadConfig(map[string]string{
		"keyConnectorSettings__webVaultUri":                         "https://Vault.example.org/",
		"keyConnectorSettings__identityServerUri":                   "http://identity:5000",
		"keyconnectorsettings__DATABASE__provider":                  "sqlite",
		"keyConnectorSettings__database__sqliteConnectionString":    "Data Source=/etc/bitwarden/key-connector/data.db;Cache=Shared",
		"keyConnectorSettings__rsaKey__provider":                    "pkcs11",
		"keyConnectorSettings__rsaKey__pkcs11Provider":              "yubihsm",
		"keyConnectorSettings__rsaKey__pkcs11SlotTokenSerialNumber": "abc",
		"keyConnectorSettings__rsaKey__pkcs11LoginUserType":         "user",
		"keyConnectorSettings__rsaKey__pkcs11LoginPin":              "0001password",
		"keyConnectorSettings__rsaKey__pkcs11PrivateKeyId":          "12",
		"keyConnectorSettings__certificate__provider":               "filesystem",
		"keyConnectorSettings__certificate__filesystemPath":         "/etc/bitwarden/key-connector/bwkc.crt",
		"keyConnectorSettings__certificate__filesystemPassword":     "",
		"keyConnectorSettings__certificate__vaultServerUri":         "",
		"keyConnectorSettings__rsaKey__awsUseSymmetricEncryption":   "",
		"keyConnectorSettings__somethingNew":                        "1",
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2]string{
		"origin":     {c.WebVaultOrigins[0], "https://vault.example.org"},
		"identity":   {c.Identity.URL, "http://identity:5000"},
		"store":      {c.Store.Kind, "sqlite"},
		"file":       {c.Store.SQLitePath, "/etc/bitwarden/key-connector/data.db"},
		"keys":       {c.Keys.Kind, "pkcs11"},
		"library":    {c.Keys.PKCS11Library, "yubihsm"},
		"serial":     {c.Keys.PKCS11TokenSerial, "abc"},
		"pin":        {c.Keys.PKCS11PIN.Reveal(), "0001password"},
		"key id":     {c.Keys.PKCS11KeyID, "12"},
		"certficate": {c.Keys.CertificatePath, "/etc/bitwarden/key-connector/bwkc.crt"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %q, want %q", name, pair[0], pair[1])
		}
	}
	if got := strings.Join(warnings, "\n"); !strings.Contains(got, "somethingNew") {
		t.Errorf("warnings: %s", got)
	}
}

func TestTheOfficialSettingsForAWSAreUnderstood(t *testing.T) {
	c, _, err := LoadConfig(map[string]string{
		"keyConnectorSettings__identityServerUri":                 "http://identity:5000",
		"keyConnectorSettings__database__provider":                "json",
		"keyConnectorSettings__database__jsonFilePath":            "/data.json",
		"keyConnectorSettings__rsaKey__provider":                  "awskms",
		"keyConnectorSettings__rsaKey__awsAccessKeyId":            "id",
		"keyConnectorSettings__rsaKey__awsAccessKeySecret":        "secret",
		"keyConnectorSettings__rsaKey__awsRegion":                 "eu-west-1",
		"keyConnectorSettings__rsaKey__awsKeyId":                  "alias/kc",
		"keyConnectorSettings__rsaKey__awsUseSymmetricEncryption": "true",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.AWS.AccessKeyID != "id" || c.AWS.SecretAccessKey != "secret" || c.AWS.Region != "eu-west-1" ||
		c.Keys.AWSKMSKeyID != "alias/kc" || c.Keys.AWSKMSSymmetric == nil || !*c.Keys.AWSKMSSymmetric || c.Store.JSONPath != "/data.json" {
		t.Errorf("%+v", c)
	}
}

func TestWhatCannotWorkIsRefusedByName(t *testing.T) {
	good := map[string]string{
		"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "certificate", "LATCHKEY_CERTIFICATE_PATH": "/c", "LATCHKEY_IDENTITY_URL": "https://id.example",
	}
	for name, value := range map[string]string{
		"LATCHKEY_STORE":                                        "mysql",
		"LATCHKEY_KEYS":                                         "",
		"LATCHKEY_IDENTITY_URL":                                 "id.example",
		"LATCHKEY_IDENTITY_KEYS_FILE":                           "/keys.pem", // without an issuer
		"LATCHKEY_WEB_VAULT_ORIGINS":                            "vault.example.org",
		"LATCHKEY_PATH_PREFIX":                                  "/{x",
		"LATCHKEY_ALLOWED_ORGANIZATIONS":                        "acme",
		"LATCHKEY_DATA_KEY_MAX_AGE":                             "1s",
		"LATCHKEY_REQUEST_TIMEOUT":                              "1ms",
		"LATCHKEY_AWS_ACCESS_KEY_ID":                            "alone",
		"LATCHKEY_PREVIOUS_KEYS":                                "awskms", // without a key id
		"keyConnectorSettings__rsaKey__provider":                "azurekv",
		"keyConnectorSettings__database__provider":              "postgresql",
		"keyConnectorSettings__certificate__provider":           "store",
		"keyConnectorSettings__database__mongoConnectionString": "mongodb://x",
	} {
		environment := map[string]string{name: value}
		for n, v := range good {
			if _, ok := environment[n]; !ok {
				environment[n] = v
			}
		}
		_, _, err := LoadConfig(environment)
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%s=%s: %v, want Invalid", name, value, err)
			continue
		}
		if want := strings.TrimSuffix(name, "_FILE"); !strings.Contains(err.Error(), want) && !strings.Contains(err.Error(), "AWSKMS_KEY_ID") {
			t.Errorf("%s=%s is not named: %v", name, value, err)
		}
	}
	if _, _, err := LoadConfig(good); err != nil {
		t.Errorf("the good settings: %v", err)
	}
}

func TestOrganizationsAreTrimmedAndTheOfficialDefaultStoreIsAFile(t *testing.T) {
	c, _, err := LoadConfig(map[string]string{
		"keyConnectorSettings__identityServerUri":           "http://identity:5000",
		"keyConnectorSettings__database__jsonFilePath":      "/data.json",
		"keyConnectorSettings__rsaKey__provider":            "certificate",
		"keyConnectorSettings__certificate__filesystemPath": "/bwkc.pfx",
		"LATCHKEY_ALLOWED_ORGANIZATIONS":                    "3F2C2B1F-95b1-4ad5-9a5e-8d7c5f0a7f10, 8d7c5f0a-95b1-4ad5-9a5e-3f2c2b1f7f10",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Store.Kind != "json" {
		t.Errorf("the store is %q", c.Store.Kind)
	}
	if got := strings.Join(c.AllowedOrganizations, ","); got != "3f2c2b1f-95b1-4ad5-9a5e-8d7c5f0a7f10,8d7c5f0a-95b1-4ad5-9a5e-3f2c2b1f7f10" {
		t.Errorf("the organisations are %q", got)
	}
}
