package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/house"
)

// played is a Billing sync of the real functions in this process, beside the
// emulator of the cloud.
type played struct {
	billing
	emulator     *cloud.Cloud
	installation cloud.Installation
	customer     cloud.Organization // the organisation, as the cloud knows it
	key          string
	log          *lines
}

func play(t *testing.T) *played {
	t.Helper()
	useSoftwareKey(t)
	p := &played{billing: billing{t: t, organization: uuid.NewString()}, log: &lines{}}
	var err error
	if p.emulator, err = cloud.New(cloud.Config{IdentityURL: "http://127.0.0.1:1", APIURL: "http://127.0.0.1:2"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.emulator.Close)
	if p.installation, err = p.emulator.AddInstallation(cloud.Installation{}); err != nil {
		t.Fatal(err)
	}
	if p.customer, err = p.emulator.AddOrganization(cloud.Organization{Name: "Acme"}); err != nil {
		t.Fatal(err)
	}
	if p.key, err = p.emulator.RotateKey(p.customer.ID); err != nil {
		t.Fatal(err)
	}
	certificate := filepath.Join(t.TempDir(), "licensing.pem")
	if err := os.WriteFile(certificate, cloud.LicenceCertificate(), 0o600); err != nil {
		t.Fatal(err)
	}
	identity, err := devidentity.New(devidentity.Config{Issuer: "http://127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	if p.token, err = identity.Mint(devidentity.Claims{User: uuid.NewString(), Owner: []string{p.organization}}); err != nil {
		t.Fatal(err)
	}
	identityServer := httptest.NewServer(identity)
	t.Cleanup(identityServer.Close)
	settings, _, err := house.LoadBillingSync(map[string]string{
		"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": os.Getenv("LATCHKEY_SOFTWARE_KEY_PATH"),
		"LATCHKEY_IDENTITY_URL": identityServer.URL, "LATCHKEY_CLOUD_COMMUNICATION": "true",
		"LATCHKEY_INSTALLATION_ID": p.installation.ID, "LATCHKEY_INSTALLATION_KEY": p.installation.Key,
		"LATCHKEY_CLOUD_IDENTITY_URL": p.emulator.IdentityURL(), "LATCHKEY_CLOUD_API_URL": p.emulator.APIURL(),
		"LATCHKEY_LICENSE_TEST_CERTIFICATE_FILE": certificate,
	})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewJSONHandler(p.log, nil))
	parts, err := house.Open(t.Context(), settings.Settings(), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, parts) })
	functions, err := settings.Open(parts, log, house.SyncingOptions{Transport: cloud.NewTransport(p.emulator)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, functions) })
	server := httptest.NewServer(functions.Mount(http.NotFoundHandler()))
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// licence is a file with the cloud's licence.
func (p *played) licence() string {
	p.t.Helper()
	document, err := p.emulator.License(p.customer.ID, p.installation.ID)
	if err != nil {
		p.t.Fatal(err)
	}
	path := filepath.Join(p.t.TempDir(), "license.json")
	if err := os.WriteFile(path, document, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// only is the one offer that there is.
func (p *played) only() (id, key, label string) {
	p.t.Helper()
	var offers []struct {
		ID     string
		Status struct{ Key, Label string }
	}
	p.as("", "offers", "--json").want(p.t, 0).json(p.t, &offers)
	if len(offers) != 1 {
		p.t.Fatalf("there are %d offers", len(offers))
	}
	return offers[0].ID, offers[0].Status.Key, offers[0].Status.Label
}

func TestAnOfferIsMadeRedeemedAndRevokedWithTheRealFunctions(t *testing.T) {
	p := play(t)
	p.as("", "status").want(t, 0, "Never", "latchkey sync connect")
	p.as("", "licence", "show").want(t, exitNotFound)
	p.as(p.key, "connect").want(t, exitUsage, "Cannot verify license file.")
	p.as("", "licence", "upload", p.licence()).want(t, 0, "Acme", "from upload", "Never")
	p.as(strings.Repeat("x", 30), "connect").want(t, exitUsage, "Invalid Billing Sync Key")
	p.as(p.key, "connect").want(t, 0, "enabled, key ending in "+p.key[len(p.key)-4:], "The cloud accepts the key")
	p.as("", "offers", "create", "someone@example.org", "--name", "Somebody").want(t, 0, "The offer is created")
	if _, key, label := p.only(); key != "requested" || label != "Requested" {
		t.Errorf("it is %s", label)
	}
	p.as("", "now", "--wait").want(t, 0, "completed", "1 sent")
	id, _, label := p.only()
	if label != "Sent" || len(p.emulator.Mails()) != 1 {
		t.Errorf("it is %s after %d mails", label, len(p.emulator.Mails()))
	}
	p.as("", "offers").want(t, 0, "someone@example.org", "Somebody", "Sent")

	until := time.Now().Add(200 * 24 * time.Hour)
	rows := p.emulator.Sponsorships(p.customer.ID)
	if len(rows) != 1 {
		t.Fatalf("the cloud has %d", len(rows))
	}
	if err := p.emulator.Redeem(p.customer.ID, rows[0].ID, until); err != nil {
		t.Fatal(err)
	}
	p.as("", "now", "--wait").want(t, 0, "1 refreshed")
	if _, _, label := p.only(); label != "Active" {
		t.Errorf("it is %s", label)
	}
	p.as("", "offers", "reissue", id).want(t, exitUsage)
	p.as("", "offers", "revoke", id, "--yes").want(t, 0)
	p.as("", "now", "--wait").want(t, 0, "1 kept until they expire")
	if _, _, label := p.only(); label != "Expires "+until.UTC().Format("01/02/2006") {
		t.Errorf("it is %s", label)
	}
	p.as("", "runs").want(t, 0, "manual", "completed")
	if got := p.as("", "status").want(t, 0, "enabled", "next due"); strings.Contains(strings.Split(got.out, "last license sync")[0], "Never") {
		t.Errorf("it was synced:\n%s", got.out)
	}
	p.as("", "licence", "sync").want(t, 0, "from cloud")
	p.as("", "licence", "check").want(t, 0, "The license: ")
	p.wantSilence("someone@example.org")
}

func TestARefusedKeyIsToldWithWhatToDoByTheRealFunctions(t *testing.T) {
	p := play(t)
	p.as("", "licence", "upload", p.licence()).want(t, 0)
	p.as("", "now").want(t, exitUsage, "connection")
	p.as(p.key, "connect").want(t, 0)
	p.as("", "offers", "create", "someone@example.org").want(t, 0)
	p.as("", "offers", "create", "no address").want(t, exitUsage, "SponsoredEmail")
	if _, err := p.emulator.RotateKey(p.customer.ID); err != nil {
		t.Fatal(err)
	}
	got := p.as("", "now", "--wait").want(t, exitFailed, "key_invalid")
	p.as("", "status").want(t, 0, "key_invalid", "the cloud refused the billing sync key", "latchkey sync connect")
	if !strings.Contains(got.err, "Invalid Billing Sync Key") {
		t.Errorf("it tells %s", got.err)
	}
	p.as("", "disable").want(t, 0, "disabled")
	p.as("", "now").want(t, exitUsage, "Connection disabled for organization")
	p.as("", "disconnect", "--yes").want(t, 0)
	p.as("", "enable").want(t, exitNotFound)
	p.as("", "offers", "revoke", uuid.NewString(), "--yes").want(t, exitNotFound)
	p.as("", "status", "--organization", uuid.NewString()).want(t, exitNotFound)
	p.wantSilence("someone@example.org")
}

// wantSilence looks for what no log may tell.
func (p *played) wantSilence(address string) {
	p.t.Helper()
	for what, text := range map[string]string{"address": address, "key": p.key, "installation key": p.installation.Key, "token": p.token} {
		if strings.Contains(p.log.String(), text) {
			p.t.Errorf("the server logs the %s", what)
		}
	}
}
