package house_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/store"
)

const syncedOrg = "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"

// safeLog is a log that is read while it is written.
type safeLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *safeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *safeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// syncing is Billing sync over an emulated cloud, with an administrator's token
// and an organisation's licence and key.
type syncing struct {
	*testing.T
	*house.Syncing
	emu        *emulator.Cloud
	log        *safeLog
	token, key string
	licence    []byte
}

func openSyncing(t *testing.T) *syncing {
	t.Helper()
	s := &syncing{T: t, log: &safeLog{}}
	var err error
	if s.emu, err = emulator.New(emulator.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.emu.Close)
	installation, installationErr := s.emu.AddInstallation(emulator.Installation{})
	organization, organizationErr := s.emu.AddOrganization(emulator.Organization{Name: "Example"})
	key, keyErr := s.emu.RotateKey(organization.ID)
	document, documentErr := s.emu.License(organization.ID, installation.ID)
	certificate := filepath.Join(t.TempDir(), "licensing.pem")
	certificateErr := os.WriteFile(certificate, emulator.LicenceCertificate(), 0o600)
	provider, providerErr := devidentity.New(devidentity.Config{Issuer: "https://vault.example.org"})
	if err := errors.Join(installationErr, organizationErr, keyErr, documentErr, certificateErr, providerErr); err != nil {
		t.Fatal(err)
	}
	people := httptest.NewServer(provider)
	t.Cleanup(people.Close)
	if s.token, err = provider.Mint(devidentity.Claims{User: "0b1c2d3e-4f50-4617-8899-aabbccddeeff", Owner: []string{syncedOrg}}); err != nil {
		t.Fatal(err)
	}
	c, warnings, err := house.LoadBillingSync(map[string]string{
		"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": "unused",
		"LATCHKEY_IDENTITY_URL": people.URL, "LATCHKEY_PUBLIC_URL": "https://example.org/latchkey",
		"LATCHKEY_CLOUD_COMMUNICATION": "true", "LATCHKEY_INSTALLATION_ID": installation.ID, "LATCHKEY_INSTALLATION_KEY": installation.Key,
		"LATCHKEY_CLOUD_IDENTITY_URL": "http://127.0.0.1:1", "LATCHKEY_CLOUD_API_URL": "http://127.0.0.1:2",
		"LATCHKEY_LICENSE_TEST_CERTIFICATE_FILE": certificate,
	})
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	// The emulator's own addresses are of no listener: its transport knows them.
	for _, b := range []*struct{ identity, api *string }{
		{&c.Sponsorships.Billing.IdentityURL, &c.Sponsorships.Billing.APIURL}, {&c.BillingSync.Billing.IdentityURL, &c.BillingSync.Billing.APIURL},
	} {
		*b.identity, *b.api = s.emu.IdentityURL(), s.emu.APIURL()
	}
	s.Syncing, err = c.Open(&house.Parts{Store: store.NewTable(), Key: kmstest.NewKey(t)}, slog.New(slog.NewJSONHandler(s.log, nil)),
		house.SyncingOptions{Transport: emulator.NewTransport(s.emu)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	s.key, s.licence = key, document
	return s
}

func (s *syncing) ask(h http.Handler, method, path, contentType, body string) *httptest.ResponseRecorder {
	s.Helper()
	request := httptest.NewRequestWithContext(s.Context(), method, path, strings.NewReader(body))
	request.Header.Set("Authorization", "Bearer "+s.token)
	request.Header.Set("Content-Type", contentType)
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, request)
	return recorder
}

func (s *syncing) connect() {
	s.Helper()
	upload := s.ask(s, http.MethodPost, "/api/organizations/licenses/self-hosted/"+syncedOrg, "multipart/form-data; boundary=x",
		"--x\r\nContent-Disposition: form-data; name=\"License\"; filename=\"l\"\r\n\r\n"+string(s.licence)+"\r\n--x--\r\n")
	connect := s.ask(s, http.MethodPost, "/api/organizations/connections", "application/json",
		`{"type":1,"organizationId":"`+syncedOrg+`","enabled":true,"config":{"billingSyncKey":"`+s.key+`"}}`)
	if upload.Code != http.StatusOK || connect.Code != http.StatusOK {
		s.Fatalf("%d %s, %d %s", upload.Code, upload.Body, connect.Code, connect.Body)
	}
}

func TestWhatSomebodyWantsBeginsAtOnce(t *testing.T) {
	s := openSyncing(t)
	s.connect()
	before := s.emu.Count(emulator.RouteSync)
	const path = "/api/organizations/" + syncedOrg + "/billing-sync"
	if got := s.ask(s, http.MethodPost, path+"/sync", "", ""); got.Code != http.StatusAccepted {
		t.Fatalf("%d %s", got.Code, got.Body)
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(s.ask(s, http.MethodGet, path+"/runs", "", "").Body.String(), `"status":"completed"`); {
		if time.Now().After(deadline) {
			t.Fatalf("the run is not through: %s", s.log)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if n := s.emu.Count(emulator.RouteSync); n != before+1 {
		t.Errorf("%d requests", n-before)
	}
}

func TestTheScheduleTicksUntilItIsStopped(t *testing.T) {
	s := openSyncing(t)
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(s.log.String(), `"msg":"sync tick"`); {
		if time.Now().After(deadline) {
			t.Fatalf("no tick: %s", s.log)
		}
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Start(t.Context()); err == nil {
		t.Error("it starts after its end")
	}
	s.connect()
	const path = "/api/organizations/" + syncedOrg + "/billing-sync/sync"
	if got := s.ask(s, http.MethodPost, path, "", ""); got.Code != http.StatusAccepted || !strings.Contains(s.log.String(), "the server is stopping") {
		t.Errorf("%d %s\n%s", got.Code, got.Body, s.log)
	}
}

// Beside Secrets Manager each request finds its function, at the root and below
// the path of the public address.
func TestBillingSyncBesideOtherFunctions(t *testing.T) {
	s := openSyncing(t)
	others := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	both := s.Mount(others)
	for _, route := range s.Routes {
		method, path, _ := strings.Cut(route, " ")
		path = strings.NewReplacer("{org}", syncedOrg, "{id}", syncedOrg, "{friendlyName}", "a%2Fb@c.example").Replace(path)
		for _, prefix := range []string{"", "/latchkey"} {
			for _, m := range []string{method, http.MethodOptions, http.MethodPatch} {
				if got := s.ask(both, m, prefix+path, "application/json", "{}"); got.Code == http.StatusTeapot {
					t.Errorf("%s %s%s is sent to another function", m, prefix, path)
				}
			}
		}
	}
	for _, path := range []string{
		"/", "/alive", "/identity/connect/token", "/api/organizations/" + syncedOrg + "/secrets", "/api/organizations/" + syncedOrg + "/secrets-manager",
		"/api/organizations/" + syncedOrg, "/api/secrets/" + syncedOrg, "/latchkey/api/organizations/" + syncedOrg + "/projects", "/api/organizations",
	} {
		for _, m := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
			if got := s.ask(both, m, path, "", ""); got.Code != http.StatusTeapot {
				t.Errorf("%s %s is sent to Billing sync", m, path)
			}
		}
	}
}

func TestTheSettingsOfBothFunctionsAreReadAtOnce(t *testing.T) {
	_, warnings, err := house.LoadBillingSync(map[string]string{
		"LATCHKEY_STORE": "paper", "LATCHKEY_REQUEST_TIMEOUT": "20s", "LATCHKEY_SYNC_BACH": "7",
	})
	if fault.Of(err) != fault.Invalid || strings.Count(err.Error(), "LATCHKEY_STORE=paper") != 1 {
		t.Error(err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "LATCHKEY_SYNC_BACH") {
		t.Errorf("%q", warnings)
	}
}
