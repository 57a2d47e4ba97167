// Package housetest is what tests begin with that put functions together from
// their settings: an identity server, the settings of functions that trust it,
// and for Billing sync an emulated cloud.
package housetest

import (
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/house"
)

// Identity is an identity server that listens until the test ends.
type Identity struct {
	*devidentity.Server
	URL string
}

// NewIdentity starts one.
func NewIdentity(t testing.TB) *Identity {
	t.Helper()
	server, err := devidentity.New(devidentity.Config{Issuer: "http://127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	listening := httptest.NewServer(server)
	t.Cleanup(listening.Close)
	return &Identity{server, listening.URL}
}

// Token is a token with these claims.
func (i *Identity) Token(t testing.TB, c devidentity.Claims) string {
	t.Helper()
	token, err := i.Mint(c)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// settings are those of any function, but what others say. Those come later.
func (i *Identity) settings(t testing.TB, others ...map[string]string) map[string]string {
	all := map[string]string{
		"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": filepath.Join(t.TempDir(), "key.pem"),
		"LATCHKEY_IDENTITY_URL": i.URL,
	}
	for _, o := range others {
		maps.Copy(all, o)
	}
	return all
}

// SecretsManager reads the settings of Secrets Manager, some of which are given.
// What is warned of ends the test.
func (i *Identity) SecretsManager(t testing.TB, given map[string]string) house.SecretsManager {
	t.Helper()
	c, warnings, err := house.LoadSecretsManager(i.settings(t, map[string]string{"LATCHKEY_PUBLIC_URL": "https://secrets.example.org"}, given))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	return c
}

// NewCloud makes an emulated cloud for BillingSync. Its addresses are such as the
// settings of a test cloud can name, and of no listener: its Transport knows them.
func NewCloud(t testing.TB) *cloudtest.Cloud {
	t.Helper()
	return cloudtest.NewCloud(t, emulator.Config{IdentityURL: "http://127.0.0.1:1", APIURL: "http://127.0.0.1:2"})
}

// BillingSync reads the settings of Billing sync with a cloud, some of which are
// given. What is warned of ends the test.
func (i *Identity) BillingSync(t testing.TB, with *cloudtest.Cloud, given map[string]string) house.BillingSync {
	t.Helper()
	certificate := filepath.Join(t.TempDir(), "licensing.pem")
	if err := os.WriteFile(certificate, emulator.LicenceCertificate(), 0o600); err != nil {
		t.Fatal(err)
	}
	c, warnings, err := house.LoadBillingSync(i.settings(t, map[string]string{
		"LATCHKEY_CLOUD_COMMUNICATION": "true", "LATCHKEY_INSTALLATION_ID": with.Installation.ID, "LATCHKEY_INSTALLATION_KEY": with.Installation.Key,
		"LATCHKEY_CLOUD_IDENTITY_URL": with.IdentityURL(), "LATCHKEY_CLOUD_API_URL": with.APIURL(),
		"LATCHKEY_LICENSE_TEST_CERTIFICATE_FILE": certificate,
	}, given))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	return c
}
