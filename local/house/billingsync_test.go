package house_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/local/house/housetest"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/logtest"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// syncing is Billing sync over an emulated cloud.
type syncing struct {
	*testing.T
	*house.Syncing
	cloud *cloudtest.Cloud
	log   *logtest.Log
	token string // of an administrator
}

func openSyncing(t *testing.T) *syncing {
	t.Helper()
	identity := housetest.NewIdentity(t)
	s := &syncing{T: t, cloud: housetest.NewCloud(t), log: &logtest.Log{}}
	s.token = identity.Token(t, devidentity.Claims{User: "0b1c2d3e-4f50-4617-8899-aabbccddeeff", Owner: []string{cloudtest.Organization}})
	c := identity.BillingSync(t, s.cloud, map[string]string{"LATCHKEY_PUBLIC_URL": "https://example.org/latchkey"})
	var err error
	s.Syncing, err = c.Open(&house.Parts{Store: store.NewTable(), Key: kmstest.NewKey(t)}, s.log.Logger(), house.SyncingOptions{Transport: s.cloud.Transport})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
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
	upload := s.ask(s, http.MethodPost, "/api/organizations/licenses/self-hosted/"+cloudtest.Organization, "multipart/form-data; boundary=x",
		"--x\r\nContent-Disposition: form-data; name=\"License\"; filename=\"l\"\r\n\r\n"+string(s.cloud.Licence(s.T))+"\r\n--x--\r\n")
	connect := s.ask(s, http.MethodPost, "/api/organizations/connections", "application/json",
		`{"type":1,"organizationId":"`+cloudtest.Organization+`","enabled":true,"config":{"billingSyncKey":"`+s.cloud.Key+`"}}`)
	if upload.Code != http.StatusOK || connect.Code != http.StatusOK {
		s.Fatalf("%d %s, %d %s", upload.Code, upload.Body, connect.Code, connect.Body)
	}
}

func TestWhatSomebodyWantsBeginsAtOnce(t *testing.T) {
	s := openSyncing(t)
	s.connect()
	before := s.cloud.Count(emulator.RouteSync)
	const path = "/api/organizations/" + cloudtest.Organization + "/billing-sync"
	if got := s.ask(s, http.MethodPost, path+"/sync", "", ""); got.Code != http.StatusAccepted {
		t.Fatalf("%d %s", got.Code, got.Body)
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(s.ask(s, http.MethodGet, path+"/runs", "", "").Body.String(), `"status":"completed"`); {
		if time.Now().After(deadline) {
			t.Fatalf("the run is not through: %s", s.log)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if n := s.cloud.Count(emulator.RouteSync); n != before+1 {
		t.Errorf("%d requests", n-before)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.log.String(), `"metric":"sync_runs_total"`) {
		t.Errorf("the run is not measured: %s", s.log)
	}
}

func TestABadFileIsToldOnceForBothFunctions(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.pem")
	for _, name := range []string{"LATCHKEY_LICENSE_CERTIFICATE_FILE", "LATCHKEY_CLOUD_CA_FILE"} {
		c, _, err := house.LoadBillingSync(map[string]string{
			"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": "unused",
			"LATCHKEY_IDENTITY_URL": "https://vault.example.org/identity", name: missing,
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Open(&house.Parts{Store: store.NewTable(), Key: kmstest.NewKey(t)}, slog.New(slog.DiscardHandler), house.SyncingOptions{})
		if fault.Of(err) != fault.Invalid || strings.Count(err.Error(), missing) != 1 {
			t.Errorf("%s: %v", name, err)
		}
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
	const path = "/api/organizations/" + cloudtest.Organization + "/billing-sync/sync"
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
		path = strings.NewReplacer("{org}", cloudtest.Organization, "{id}", cloudtest.Organization, "{friendlyName}", "a%2Fb@c.example").Replace(path)
		for _, prefix := range []string{"", "/latchkey"} {
			for _, m := range []string{method, http.MethodOptions, http.MethodPatch} {
				if got := s.ask(both, m, prefix+path, "application/json", "{}"); got.Code == http.StatusTeapot {
					t.Errorf("%s %s%s is sent to another function", m, prefix, path)
				}
			}
		}
	}
	for _, path := range []string{
		"/", "/alive", "/identity/connect/token", "/api/organizations/" + cloudtest.Organization + "/secrets", "/api/organizations/" + cloudtest.Organization + "/secrets-manager",
		"/api/organizations/" + cloudtest.Organization, "/api/secrets/" + cloudtest.Organization, "/latchkey/api/organizations/" + cloudtest.Organization + "/projects", "/api/organizations",
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
