package sponsorships_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/functions/billingsync"
	"github.com/latchkey-fn/latchkey/functions/sponsorships"
	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/logtest"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

const (
	org       = cloudtest.Organization
	elsewhere = "99999999-2222-4333-8444-555555555555"
	alice     = "0b1c2d3e-4f50-4617-8899-aabbccddeeff"
	bob       = "1b1c2d3e-4f50-4617-8899-aabbccddeeff"
	eve       = "2b1c2d3e-4f50-4617-8899-aabbccddeeff"
)

// provider is the OpenID provider of all tests: making its key takes long.
var provider = sync.OnceValues(func() (*devidentity.Server, error) {
	return devidentity.New(devidentity.Config{Issuer: "https://vault.example.org"})
})

// house is the function over an emulated cloud, with its organisation's people.
type house struct {
	testing.TB
	config    sponsorships.Config
	function  *sponsorships.Function
	scheduled *billingsync.Function
	cloud     *cloudtest.Cloud
	driver    *storetest.Faults
	logs      *logtest.Log
	url       string
	licence   []byte
	// kickFails has no run begin at once; kicks counts them.
	kickFails    atomic.Bool
	kicks        atomic.Int64
	identityDown atomic.Bool

	// Tokens: an administrator, a member, and somebody of another organisation.
	alice, bob, eve string
}

// open makes a house without a licence and a connection.
func open(t testing.TB, change ...func(*sponsorships.Config)) *house {
	t.Helper()
	h := &house{TB: t, logs: &logtest.Log{}, driver: storetest.NewFaults(store.NewTable()), cloud: cloudtest.NewCloud(t, emulator.Config{})}
	h.licence = h.cloud.Licence(t)
	certificate := filepath.Join(t.TempDir(), "licensing.pem")
	if err := os.WriteFile(certificate, emulator.LicenceCertificate(), 0o600); err != nil {
		t.Fatal(err)
	}
	identity, err := provider()
	if err != nil {
		t.Fatal(err)
	}
	people := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.identityDown.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		identity.ServeHTTP(w, r)
	}))
	t.Cleanup(people.Close)
	h.config = sponsorships.Config{
		Wrapping: config.Wrapping{DataKeyMaxAge: time.Hour},
		Serving:  config.Serving{RequestTimeout: 20 * time.Second},
		Identity: config.Identity{URL: people.URL},
		Operators: config.Operators{
			Rules: []string{"orgowner", "orgadmin"}, GroupsClaim: "groups", Scopes: []string{"api"}, Algorithms: []string{"RS256"},
		},
		SponsorRules: []string{"orguser", "orgcustom"},
		BillingRules: []string{"orgowner"},
		Billing:      h.cloud.Settings(),
	}
	h.config.Billing.OfferKeys, h.config.Billing.LicenseTestCertificateFile = config.OfferKeysPerOffer, certificate
	for _, c := range change {
		c(&h.config)
	}
	logger := slog.New(slog.NewJSONHandler(h.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	key := kmstest.NewKey(t)
	if h.scheduled, err = billingsync.New(
		billingsync.Config{Wrapping: h.config.Wrapping, Billing: h.config.Billing},
		billingsync.Parts{Store: h.driver, Key: key, Logger: logger, Transport: h.cloud.Transport},
	); err != nil {
		t.Fatal(err)
	}
	h.function, err = sponsorships.New(h.config, sponsorships.Parts{
		Store: h.driver, Key: key, Logger: logger, Transport: h.cloud.Transport,
		Kick: func(ctx context.Context, organization string) error {
			h.kicks.Add(1)
			if h.kickFails.Load() {
				return context.DeadlineExceeded
			}
			return h.scheduled.Sync(context.WithoutCancel(ctx), organization)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h.function)
	t.Cleanup(server.Close)
	h.url = server.URL + "/api"
	h.alice = h.person(devidentity.Claims{User: alice, Owner: []string{org}})
	h.bob = h.person(devidentity.Claims{User: bob, Member: []string{org}})
	h.eve = h.person(devidentity.Claims{User: eve, Owner: []string{elsewhere}})
	return h
}

// connected makes a house with a licence and a connection.
func connected(t testing.TB, change ...func(*sponsorships.Config)) *house {
	t.Helper()
	h := open(t, change...)
	h.upload(h.alice, org, h.licence).is(http.StatusOK)
	h.connect().is(http.StatusOK)
	return h
}

func (h *house) person(c devidentity.Claims) string {
	h.Helper()
	identity, err := provider()
	if err != nil {
		h.Fatal(err)
	}
	raw, err := identity.Mint(c)
	if err != nil {
		h.Fatal(err)
	}
	return raw
}

type object = map[string]any

// answer is what came back.
type answer struct {
	*house
	*http.Response
	body string
	what string
}

func (h *house) send(token, method, path, contentType string, body io.Reader) answer {
	h.Helper()
	request, err := http.NewRequestWithContext(h.Context(), method, h.url+path, body)
	if err != nil {
		h.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		h.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		h.Fatal(err)
	}
	return answer{h, response, string(content), method + " " + path}
}

// do sends a body as JSON; nil sends none.
func (h *house) do(token, method, path string, body any) answer {
	h.Helper()
	if body == nil {
		return h.send(token, method, path, "", nil)
	}
	content, err := json.Marshal(body)
	if err != nil {
		h.Fatal(err)
	}
	return h.send(token, method, path, "application/json", bytes.NewReader(content))
}

func (h *house) get(path string) answer {
	h.Helper()
	return h.do(h.alice, http.MethodGet, path, nil)
}

// upload sends a licence as the web vault does.
func (h *house) upload(token, organization string, document []byte) answer {
	h.Helper()
	return h.uploadAs(token, "/organizations/licenses/self-hosted/"+organization, "License", document)
}

func (h *house) uploadAs(token, path, field string, document []byte) answer {
	h.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile(field, "license.json")
	if err != nil {
		h.Fatal(err)
	}
	if _, err := part.Write(document); err != nil {
		h.Fatal(err)
	}
	if err := form.Close(); err != nil {
		h.Fatal(err)
	}
	return h.send(token, http.MethodPost, path, form.FormDataContentType(), &body)
}

func (h *house) connection(key string) object {
	return object{"type": 1, "organizationId": org, "enabled": true, "config": object{"billingSyncKey": key}}
}

func (h *house) connect() answer {
	h.Helper()
	return h.do(h.alice, http.MethodPost, "/organizations/connections", h.connection(h.cloud.Key))
}

func offer(email, name string, admin bool) object {
	return object{"planSponsorshipType": 0, "sponsoredEmail": email, "friendlyName": name, "isAdminInitiated": admin}
}

const families = "/organization/sponsorship/self-hosted/" + org + "/families-for-enterprise"

func (h *house) offer(token, email string, admin bool) {
	h.Helper()
	h.do(token, http.MethodPost, families, offer(email, email, admin)).is(http.StatusOK)
}

// is checks the status, and gives the JSON object of the body.
func (a answer) is(status int) object {
	a.Helper()
	if a.StatusCode != status {
		a.Fatalf("%s: %d %s, not %d\n%s", a.what, a.StatusCode, a.body, status, a.logs)
	}
	if a.body == "" {
		return nil
	}
	var members object
	if err := json.Unmarshal([]byte(a.body), &members); err != nil {
		a.Fatalf("%s: %s: %v", a.what, a.body, err)
	}
	return members
}

// empty checks for a success that has nothing to tell.
func (a answer) empty() {
	a.Helper()
	if a.StatusCode != http.StatusOK || a.body != "" {
		a.Errorf("%s: %d %q, not an empty 200", a.what, a.StatusCode, a.body)
	}
}

// says checks an error's status and message.
func (a answer) says(status int, message string) {
	a.Helper()
	if a.StatusCode != status {
		a.Errorf("%s: %d %s, not %d", a.what, a.StatusCode, a.body, status)
		return
	}
	if got := a.is(status)["message"]; got != message {
		a.Errorf("%s: it says %q, not %q", a.what, got, message)
	}
}

// list gives the elements of a list.
func (a answer) list() []object {
	a.Helper()
	data, ok := a.is(http.StatusOK)["data"].([]any)
	if !ok {
		a.Fatalf("%s: no list: %s", a.what, a.body)
	}
	list := make([]object, len(data))
	for i, element := range data {
		if list[i], ok = element.(object); !ok {
			a.Fatalf("%s: %s", a.what, a.body)
		}
	}
	return list
}

// members checks that an object has these and no others.
func members(t testing.TB, o object, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, ok := o[name]; !ok {
			t.Errorf("there is no %s in %v", name, o)
		}
	}
	for name := range o {
		if !slices.Contains(names, name) {
			t.Errorf("there is a %s in %v", name, o)
		}
	}
}

// audited gives the changes that were recorded as done, with their subjects.
func (h *house) audited() []string {
	h.Helper()
	var done []string
	for _, l := range h.logs.Lines(h, "audit") {
		if l["outcome"] == "allowed" {
			subject, _ := l["subject"].(string)
			action, _ := l["action"].(string)
			if !strings.Contains(action, ".read") && !strings.HasSuffix(action, ".list") {
				done = append(done, action+" "+subject)
			}
		}
	}
	return done
}

// billingTick is a call of the scheduler.
var billingTick = billingsync.Tick{At: time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC), ID: "tick-1"}

// changeSeats has the cloud's licences be of so many seats.
func (h *house) changeSeats(n int) {
	h.Helper()
	err := h.cloud.ChangeOrganization(h.cloud.OrgID, func(o *emulator.Organization) { o.License.Set = map[string]any{"Seats": n} })
	if err != nil {
		h.Fatal(err)
	}
}
