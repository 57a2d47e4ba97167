package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/devidentity"
)

// These tests run the commands against a small server that answers what each of
// them says; what the real function does is tested with it.

const (
	syncKey   = "AbC0123456789AbC0123456789AbCd"
	syncRun   = "0b7d6c1e-52a5-4a8e-8b53-2f6a3d0d9c11"
	syncOffer = "1f0c6c1e-52a5-4a8e-8b53-2f6a3d0d9c22"
)

// billing is a Billing sync server with one organisation, and its operator.
type billing struct {
	t            *testing.T
	url          string
	organization string
	token        string
	// answers are by method and path below /api, without the organisation's id:
	// {org} stands there. Several of one are given one after the other, the last
	// for ever.
	answers map[string][]string
	mu      sync.Mutex
	asked   []string
	bodies  []string
}

func startBilling(t *testing.T, answers map[string][]string) *billing {
	t.Helper()
	b := &billing{t: t, organization: uuid.NewString(), answers: answers}
	identity, err := devidentity.New(devidentity.Config{Issuer: "http://127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	if b.token, err = identity.Mint(devidentity.Claims{User: uuid.NewString(), Owner: []string{b.organization}}); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	b.url = server.URL
	return b
}

func (b *billing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		b.t.Error(err)
	}
	if r.Header.Get("Authorization") != "Bearer "+b.token {
		b.t.Error("somebody else asks")
	}
	key := r.Method + " " + strings.ReplaceAll(strings.TrimPrefix(r.URL.Path, "/api"), b.organization, "{org}")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked, b.bodies = append(b.asked, key), append(b.bodies, string(body))
	answers, ok := b.answers[key]
	w.Header().Set("Content-Type", "application/json")
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"object":"error","message":"Resource not found."}`)
		return
	}
	if len(answers) > 1 {
		b.answers[key] = answers[1:]
	}
	answer := strings.ReplaceAll(answers[0], "{org}", b.organization)
	if message, refused := strings.CutPrefix(answer, "400 "); refused {
		w.WriteHeader(http.StatusBadRequest)
		answer = fmt.Sprintf(`{"object":"error","message":%q}`, message)
	}
	fmt.Fprint(w, answer)
}

// as runs a command as the operator, with this input.
func (b *billing) as(input string, args ...string) outcome {
	b.t.Helper()
	home := b.t.TempDir()
	settings := map[string]string{"HOME": home, "XDG_CONFIG_HOME": home, "LATCHKEY_SERVER": b.url}
	for _, name := range append(withheld(), "LATCHKEY_ORGANIZATION") {
		settings[name] = ""
	}
	settings["LATCHKEY_OPERATOR_TOKEN"] = b.token
	return b.in(b.t.Context(), settings, input, args...)
}

func (b *billing) in(ctx context.Context, settings map[string]string, input string, args ...string) outcome {
	b.t.Helper()
	for name, value := range settings {
		b.t.Setenv(name, value)
		if value == "" { // an empty NAME_FILE would name a file
			if err := os.Unsetenv(name); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	var out, errs bytes.Buffer
	code := execute(ctx, &terminal{out: &out, err: &errs, in: strings.NewReader(input)}, append([]string{"sync"}, args...))
	for _, secret := range []string{syncKey, b.token} {
		if strings.Contains(out.String()+errs.String(), secret) {
			b.t.Errorf("%v: a secret is told: %s%s", args, out.String(), errs.String())
		}
	}
	if strings.Contains(errs.String(), "@") {
		b.t.Errorf("%v: an address is told on the error stream: %s", args, errs.String())
	}
	return outcome{code, out.String(), errs.String()}
}

const own = " /organizations/{org}/billing-sync"

func aRun(status, more string) string {
	return fmt.Sprintf(`{"id":%q,"trigger":"manual","status":%q,"requestedDate":"2026-11-22T10:00:00Z","startedDate":"2026-11-22T10:00:01Z","phase":"offers","batch":1%s}`, syncRun, status, more)
}

func TestASyncIsStartedAndFollowedToItsEnd(t *testing.T) {
	counts := `,"counts":{"batches":2,"requests":3,"retries":1,"sent":5,"refreshed":4,"removed":2,"mailUncertain":1}`
	b := startBilling(t, map[string][]string{
		"POST" + own + "/sync":           {aRun("queued", "")},
		"GET" + own + "/runs/" + syncRun: {aRun("running", counts), aRun("completedWithWarnings", counts)},
	})
	b.as("", "now").want(t, 0, "Run "+syncRun+" is queued", "latchkey sync runs "+syncRun)
	if len(b.asked) != 1 {
		t.Errorf("without --wait it asked %q", b.asked)
	}
	b.as("", "now", "--wait").want(t, 0, "completed with warnings", "3 in 2 batch(es), 1 of them sent again",
		"5 sent, 4 refreshed, 2 removed, 0 kept", "1 in the cloud, but perhaps not mailed")
	var run struct {
		ID     string
		Counts struct{ Sent int }
	}
	b.as("", "now", "--wait", "--json").want(t, 0).json(t, &run)
	if run.ID != syncRun || run.Counts.Sent != 5 {
		t.Errorf("%+v", run)
	}
	b.as("", "now", "--timeout", "1m").want(t, exitUsage, "--timeout goes with --wait")
}

func TestASyncThatFailsHasItsExitCode(t *testing.T) {
	failure := aRun("failed", `,"errorCode":"key_invalid","message":"Invalid Billing Sync Key","hint":"paste the key again"`)
	b := startBilling(t, map[string][]string{
		"POST" + own + "/sync":           {aRun("queued", "")},
		"GET" + own + "/runs/" + syncRun: {failure},
	})
	got := b.as("", "now", "--wait", "--json").want(t, exitFailed)
	if !strings.Contains(got.err, "key_invalid: Invalid Billing Sync Key: paste the key again") || !strings.Contains(got.out, `"status": "failed"`) {
		t.Errorf("it tells %s and %s", got.out, got.err)
	}
	b.as("", "runs", syncRun).want(t, 0, "failed", "paste the key again") // to read of a failure is none
	b.answers["POST"+own+"/sync"] = []string{"400 No saved Connection config for organization {org}"}
	b.as("", "now", "--wait").want(t, exitUsage, "No saved Connection config")
}

func TestWhoStopsWaitingIsToldThatTheSyncGoesOn(t *testing.T) {
	b := startBilling(t, map[string][]string{
		"POST" + own + "/sync":           {aRun("queued", "")},
		"GET" + own + "/runs/" + syncRun: {aRun("running", "")},
	})
	b.as("", "now", "--wait", "--timeout", "1s").want(t, exitFailed, "the run is not finished after 1s\nThe run goes on", "latchkey sync runs "+syncRun)
}

func TestTheStatusSaysWhatIsWrong(t *testing.T) {
	connection := `{"enabled":true,"keyEnd":"AbCd","region":"EU","cloudOrganizationId":"8d3f"}`
	failure := aRun("failed", `,"errorCode":"key_invalid","message":"Invalid Billing Sync Key","hint":"paste the key again"`)
	for name, c := range map[string]struct {
		status string
		told   []string
	}{
		"before the first sync": {
			`{"organizationId":"{org}","cloudCommunication":true,"connection":` + connection + `,"nextDue":"2026-11-23T04:05:06Z"}`,
			[]string{"Never", "2026-11-23 04:05 UTC", "enabled, key ending in AbCd, region EU"},
		},
		"no connection": {`{"organizationId":"{org}","cloudCommunication":true,"connection":null}`, []string{"none", "not scheduled", "latchkey sync connect"}},
		"a key that was not tried": {
			`{"organizationId":"{org}","cloudCommunication":true,"connection":{"enabled":true,"probe":{"date":"2026-11-22T10:00:00Z","code":"timeout"}},"lastSponsorshipSync":"2026-11-22T09:00:00Z"}`,
			[]string{"the key could not be tried out when it was saved"},
		},
		"disabled": {
			`{"organizationId":"{org}","cloudCommunication":true,"connection":{"enabled":false}}`, []string{"disabled", "latchkey sync enable"},
		},
		"trouble": {
			`{"organizationId":"{org}","cloudCommunication":true,"connection":` + connection + `,"lastSponsorshipSync":"2026-06-01T00:00:00Z","overdueDays":150,"keyRefused":true,
			"blockedUntil":"2026-11-23T00:00:00Z","clockSkewSeconds":-600,"pendingOffers":7,"oldestPending":"2026-06-02T00:00:00Z","errorCode":"key_invalid","lastRun":` + failure + `,"nextDue":"2026-11-23T04:05:06Z",
			"currentRun":` + aRun("running", `,"waitingUntil":"2026-11-22T10:13:00Z","try":{"number":3,"of":6,"lastCode":"network_pre"}`) + `}`,
			[]string{
				"waiting until 2026-11-22 10:13 UTC after network_pre, try 3 of 6", "not before another key is given",
				"2026-06-01 00:00 UTC", "more than 150 days ago", "the cloud refused the billing sync key", "before 2026-11-23 00:00 UTC",
				"10m0s apart", "7, the oldest since 2026-06-02", "key_invalid: Invalid Billing Sync Key: paste the key again",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := startBilling(t, map[string][]string{
				"GET" + own: {c.status},
			})
			b.as("", "status").want(t, 0, c.told...)
			var status struct {
				OrganizationID string
				Warnings       []string
			}
			b.as("", "status", "--json").want(t, 0).json(t, &status)
			if status.OrganizationID != b.organization || status.Warnings == nil {
				t.Errorf("%+v", status)
			}
		})
	}
}

func TestAKeyThatWasGoodForASyncIsNotDoubted(t *testing.T) {
	b := startBilling(t, map[string][]string{"GET" + own: {`{"organizationId":"{org}","cloudCommunication":true,"lastSponsorshipSync":"2026-11-22T11:00:00Z",
		"connection":{"enabled":true,"probe":{"date":"2026-11-22T10:00:00Z","code":"timeout"}}}`}})
	if got := b.as("", "status").want(t, 0); strings.Contains(got.out, "warning") {
		t.Errorf("it tells %s", got.out)
	}
}

func TestTheStatusIsShownWhereTheLastRunIsForgotten(t *testing.T) {
	b := startBilling(t, map[string][]string{"GET" + own: {`{"organizationId":"{org}","cloudCommunication":false,"errorCode":"cloud_error","lastRun":null}`}})
	b.as("", "status").want(t, 0, "cloud_error", "LATCHKEY_CLOUD_COMMUNICATION=true")
}

func TestRunsAreListed(t *testing.T) {
	b := startBilling(t, map[string][]string{"GET" + own + "/runs": {
		`{"data":[` + aRun("completed", `,"counts":{"sent":3}`) + `,` + aRun("failed", `,"errorCode":"timeout"`) + `],"continuationToken":null}`,
	}})
	b.as("", "runs").want(t, 0, syncRun, "3 sent", "timeout", "2026-11-22 10:00 UTC")
	var runs []struct{ ID string }
	if b.as("", "runs", "--json").want(t, 0).json(t, &runs); len(runs) != 2 {
		t.Errorf("%v", runs)
	}
	b.as("", "runs", uuid.NewString()).want(t, exitNotFound, "It does not exist, or you may not reach it")
	b.as("", "runs", syncRun, syncRun).want(t, exitUsage, "takes 1 argument(s)")
}

func TestOffersAreListedWithTheirOfficialLabels(t *testing.T) {
	b := startBilling(t, map[string][]string{"GET" + own + "/offers": {`{"data":[
		{"id":"` + syncOffer + `","offeredToEmail":"a@example.org","friendlyName":"Anna\u001b[2J","status":{"key":"requestRemoved","label":"Removed (awaiting sync)"},"lastSyncDate":"2026-11-22T10:00:00Z"},
		{"id":"` + uuid.NewString() + `","offeredToEmail":"b@example.org","friendlyName":null,"status":{"key":"active","label":"Active"},"lastSyncDate":"2026-11-22T10:00:00Z","validUntil":"2027-01-02T03:04:05Z","mailUncertain":true},
		{"id":"` + uuid.NewString() + `","offeredToEmail":"c","status":{"key":"requested","label":"Requested"},"quarantined":"email_invalid"},
		{"id":"` + uuid.NewString() + `","offeredToEmail":"d@example.org","sponsoringOrganizationUserId":"the-member","status":{"key":"requested","label":"Requested"},"mailUncertain":true}],"continuationToken":null}`}})
	for _, args := range [][]string{{"offers"}, {"offers", "list"}} {
		got := b.as("", args...).want(t, 0, "a@example.org", "Removed (awaiting sync)", "Active", "2027-01-02", "Requested", "Never",
			"perhaps not mailed", "not sent: email_invalid")
		if strings.ContainsRune(got.out, '\x1b') {
			t.Errorf("a name writes to the terminal: %q", got.out)
		}
		// One that the cloud never had cannot be reissued.
		for line := range strings.Lines(got.out) {
			if strings.Contains(line, "d@example.org") && (strings.Contains(line, "reissue") || !strings.Contains(line, "the-member")) {
				t.Errorf("it tells %s", line)
			}
		}
	}
	var offers []struct{ Status struct{ Label string } }
	if b.as("", "offers", "--json").want(t, 0).json(t, &offers); len(offers) != 4 || offers[0].Status.Label != "Removed (awaiting sync)" {
		t.Errorf("%v", offers)
	}
}

func TestOffersAreCreatedRevokedAndReissued(t *testing.T) {
	const create = "POST /organization/sponsorship/self-hosted/{org}/families-for-enterprise"
	b := startBilling(t, map[string][]string{
		create: {`{"id":"` + syncOffer + `","status":{"key":"requested","label":"Requested"}}`},
		"POST" + own + "/offers/" + syncOffer + "/revoke":  {""},
		"POST" + own + "/offers/" + syncOffer + "/reissue": {`{"id":"` + syncOffer + `","status":{"key":"requested","label":"Requested"}}`},
	})
	b.as("", "offers", "create", "a@example.org", "--admin", "--name", "Anna").want(t, 0, "The offer is created, as "+syncOffer)
	if !strings.Contains(b.bodies[0], `"isAdminInitiated":true`) || !strings.Contains(b.bodies[0], `"friendlyName":"Anna"`) {
		t.Errorf("sent %s", b.bodies[0])
	}
	b.as("no\n", "offers", "revoke", syncOffer).want(t, exitDeclined)
	b.as("yes\n", "offers", "revoke", syncOffer).want(t, 0, "Offer "+syncOffer+" is revoked")
	var revoked struct{ Revoked []string }
	if b.as("", "offers", "revoke", syncOffer, "--yes", "--json").want(t, 0).json(t, &revoked); !slices.Equal(revoked.Revoked, []string{syncOffer}) {
		t.Errorf("%v", revoked)
	}
	b.as("", "offers", "reissue", syncOffer, "--email", "b@example.org").want(t, 0, "is reissued")
	if last := b.bodies[len(b.bodies)-1]; last != `{"sponsoredEmail":"b@example.org"}` {
		t.Errorf("sent %s", last)
	}
	b.as("", "offers", "revoke", uuid.NewString(), "--yes").want(t, exitNotFound)
	b.as("", "offers", "revoke", "a@example.org", "--yes").want(t, exitUsage, "no id of an offer")
	b.answers[create] = []string{"400 Specified Organization cannot sponsor other organizations."}
	b.as("", "offers", "create", "a@example.org").want(t, exitUsage, "Specified Organization cannot sponsor other organizations.")
}

func TestTheBillingSyncKeyIsTakenFromTheInput(t *testing.T) {
	const path = " /organizations/connections"
	made := `{"id":"{org}","organizationId":"{org}","enabled":true,"config":{"BillingSyncKey":"AbCd","CloudOrganizationId":"8d3f"},"probe":{"good":true,"date":"2026-11-22T10:00:00Z","code":null}}`
	b := startBilling(t, map[string][]string{
		"GET" + path + "/{org}/1": {`{"id":null,"type":0,"organizationId":"00000000-0000-0000-0000-000000000000","enabled":false,"config":null}`},
		"POST" + path:             {made},
	})
	b.as(syncKey+"\r\n", "connect").want(t, 0, "enabled, key ending in AbCd", "The cloud accepts the key")
	var body struct {
		Type    int
		Enabled bool
		Config  struct{ BillingSyncKey string }
	}
	if err := json.Unmarshal([]byte(b.bodies[1]), &body); err != nil || body.Config.BillingSyncKey != syncKey || body.Type != 1 || !body.Enabled {
		t.Errorf("sent %s: %v", b.bodies[1], err)
	}
	for _, input := range []string{"", "\n", "two words", "a\nb", strings.Repeat("x", 4000), "a\x00b"} {
		b.as(input, "connect").want(t, exitUsage, "billing sync key")
	}
	b.as("", "connect", "a-key-by-mistake").want(t, exitUsage, "takes 0 argument(s)")
	b.answers["POST"+path] = []string{"400 Cannot verify license file."}
	b.as(syncKey, "connect").want(t, exitUsage, "Cannot verify license file.")
	b.answers["POST"+path] = []string{`{"id":"{org}","enabled":true,"probe":{"date":"2026-11-22T10:00:00Z","code":"network_pre","message":"The cloud cannot be reached."}}`}
	b.as(syncKey, "connect").want(t, 0, "could not be asked", "network_pre")
	// Nothing is connected as yet.
	for _, args := range [][]string{{"enable"}, {"disable"}, {"disconnect", "--yes"}} {
		b.as("", args...).want(t, exitNotFound, "no connection")
	}
}

func TestTheConnectionIsDisabledEnabledAndRemoved(t *testing.T) {
	const path = " /organizations/connections/{org}"
	there := `{"id":"{org}","organizationId":"{org}","enabled":true,"config":{"BillingSyncKey":"AbCd"}}`
	b := startBilling(t, map[string][]string{
		"GET" + path + "/1": {there}, "PUT" + path: {strings.ReplaceAll(there, "true", "false"), there}, "DELETE" + path: {""},
	})
	b.as("", "disable").want(t, 0, "disabled")
	b.as("", "enable").want(t, 0, "enabled")
	b.as("", "disconnect").want(t, exitDeclined)
	if slices.Contains(b.asked, "DELETE"+path) {
		t.Error("it was removed without a yes")
	}
	b.as("", "disconnect", "--yes", "--json").want(t, 0, `"disconnected": true`)
	if !slices.Contains(b.asked, "DELETE"+path) {
		t.Error("it was not removed")
	}
}

func TestTheLicenceIsShownSyncedUploadedAndChecked(t *testing.T) {
	b := startBilling(t, map[string][]string{
		"GET" + own + "/license": {`{"organizationId":"{org}","license":{"Id":"8d3f","Name":"Acme","Plan":"Enterprise (Annually)","Seats":10,"Version":15,"Expires":"2027-01-02T00:00:00Z"},"usableUntil":null,
			"source":"upload","installedDate":"2026-11-22T10:00:00Z","lastLicenseSync":null,"problem":{"code":"license_expired","message":"The license has expired.","hint":null}}`},
		"POST /organizations/licenses/self-hosted/{org}/sync": {""},
		"POST /organizations/licenses/self-hosted/{org}":      {""},
		"POST" + own + "/license/check":                       {`{"date":"2026-11-22T10:00:00Z","changed":["Seats","Expires"]}`},
	})
	path := filepath.Join(t.TempDir(), "license.json")
	if err := os.WriteFile(path, []byte(`{"version":15}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"licence", "show"}, {"license", "show"}, {"licence", "sync"}, {"licence", "upload", path}} {
		b.as("", args...).want(t, 0, "Acme", "Enterprise (Annually)", "2027-01-02", "Never", "for ever", "license_expired: The license has expired")
	}
	if !strings.Contains(strings.Join(b.bodies, ""), `{"version":15}`) {
		t.Error("the file was not sent")
	}
	b.as("", "licence", "check").want(t, 0, "differs in Seats, Expires")
	b.as("", "licence", "check", "--json").want(t, 0, `"Seats"`)
	b.as("", "licence", "upload", path+".missing").want(t, exitUsage, "license")
	b.answers["POST /organizations/licenses/self-hosted/{org}"] = []string{"400 Version 17 is not supported."}
	b.as("", "licence", "upload", path).want(t, exitUsage, "Version 17 is not supported.")
	// Of one that cannot be verified nothing is known.
	b.answers["GET"+own+"/license"] = []string{`{"organizationId":"{org}","license":null,"usableUntil":null,"source":"upload","problem":{"code":"license_signature","message":"Invalid license."}}`}
	if got := b.as("", "licence", "show").want(t, 0, "license_signature"); strings.Contains(got.out, "usable until") {
		t.Errorf("it tells %s", got.out)
	}
	delete(b.answers, "GET"+own+"/license")
	b.as("", "licence", "show").want(t, exitNotFound)
}

func TestSyncTellsWhichSettingIsMissing(t *testing.T) {
	b := startBilling(t, map[string][]string{"GET" + own: {`{"organizationId":"{org}","cloudCommunication":true}`}})
	b.as("", "status").want(t, 0) // sets everything
	try := func(code int, told string, settings map[string]string, args ...string) {
		t.Helper()
		b.in(t.Context(), settings, "", append([]string{"status"}, args...)...).want(t, code, told)
	}
	try(exitUsage, "LATCHKEY_SERVER", map[string]string{"LATCHKEY_SERVER": ""})
	try(0, b.organization, nil, "--server", b.url)
	try(exitUsage, "not a UUID", map[string]string{"LATCHKEY_SERVER": b.url}, "--organization", "acme")
	try(exitUsage, "begins with https://", nil, "--server", "http://latchkey.example.org")
	try(exitNotFound, "owner or administrator", nil, "--organization", uuid.NewString())
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(b.token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	try(exitUsage, "LATCHKEY_OPERATOR_TOKEN", map[string]string{"LATCHKEY_OPERATOR_TOKEN": ""})
	try(0, b.organization, nil, "--operator-token-file", path)
	try(0, b.organization, map[string]string{"LATCHKEY_OPERATOR_TOKEN_FILE": path})
}
