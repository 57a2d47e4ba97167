package cloud_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/cloud"
)

var epoch = time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)

// fakeClock passes time when somebody sleeps.
type fakeClock struct {
	mu    sync.Mutex
	now   time.Time
	slept time.Duration
}

func (f *fakeClock) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fakeClock) Sleep(ctx context.Context, d time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now, f.slept = f.now.Add(d), f.slept+d
	return ctx.Err()
}

// world is a cloud with one installation and one organisation, and a client.
type world struct {
	*testing.T
	*cloud.Cloud
	clock        *fakeClock
	transport    *cloud.Transport
	http         *http.Client
	installation cloud.Installation
	organization cloud.Organization
	token        string
}

func newWorld(t *testing.T, config cloud.Config) *world {
	t.Helper()
	w := &world{T: t, clock: &fakeClock{now: epoch}}
	if config.Now == nil {
		config.Now, config.Sleep = w.clock.Now, w.clock.Sleep
	}
	c, err := cloud.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	w.Cloud = c
	w.transport = cloud.NewTransport(c)
	w.http = &http.Client{Transport: w.transport}
	w.installation, err = c.AddInstallation(cloud.Installation{Email: "ops@example.test"})
	if err != nil {
		t.Fatal(err)
	}
	w.organization, err = c.AddOrganization(cloud.Organization{Name: "Example", Owners: []string{owner}})
	if err != nil {
		t.Fatal(err)
	}
	if w.organization.BillingSyncKey, err = c.RotateKey(w.organization.ID); err != nil {
		t.Fatal(err)
	}
	if err := c.AddUser(cloud.User{Email: owner, MasterPasswordHash: "hash"}); err != nil {
		t.Fatal(err)
	}
	return w
}

const owner = "owner@example.test"

type response struct {
	status int
	header http.Header
	body   string
	err    error
}

func (w *world) send(method, address, contentType, token, body string) response {
	w.Helper()
	return w.sendContext(w.Context(), method, address, contentType, token, body)
}

func (w *world) sendContext(ctx context.Context, method, address, contentType, token, body string) response {
	w.Helper()
	r, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := w.http.Do(r)
	if err != nil {
		return response{err: err}
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return response{answer.StatusCode, answer.Header, string(text), err}
}

func (w *world) askToken(change func(url.Values)) response {
	w.Helper()
	form := url.Values{
		"grant_type": {"client_credentials"}, "scope": {"api.installation"},
		"client_id": {"installation." + w.installation.ID}, "client_secret": {w.installation.Key},
	}
	if change != nil {
		change(form)
	}
	return w.send("POST", w.IdentityURL()+"/connect/token", "application/x-www-form-urlencoded", "", form.Encode())
}

func (w *world) newToken(scope string) string {
	w.Helper()
	answer := w.askToken(func(f url.Values) { f.Set("scope", scope) })
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(answer.body), &token); err != nil || answer.status != 200 {
		w.Fatalf("no token: %+v", answer)
	}
	return token.AccessToken
}

type item struct {
	OfferKey       string  `json:"sponsoringOrganizationUserId"`
	FriendlyName   *string `json:"friendlyName"`
	OfferedToEmail *string `json:"offeredToEmail"`
	Plan           int     `json:"planSponsorshipType"`
	LastSyncDate   *string `json:"lastSyncDate"`
	ValidUntil     *string `json:"validUntil"`
	ToDelete       bool    `json:"toDelete"`
	Removed        bool    `json:"cloudSponsorshipRemoved"`
	Admin          bool    `json:"isAdminInitiated"`
}

func key(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

func offer(n int) item {
	email := fmt.Sprintf("member%d@example.test", n)
	return item{OfferKey: key(n), FriendlyName: &email, OfferedToEmail: &email}
}

func revoke(n int, lastSync bool) item {
	i := offer(n)
	i.ToDelete = true
	if lastSync {
		at := "2026-03-01T08:00:00.1234567Z"
		i.LastSyncDate = &at
	}
	return i
}

func (w *world) syncBody(items ...item) string {
	if items == nil {
		items = []item{}
	}
	body, err := json.Marshal(map[string]any{
		"billingSyncKey": w.organization.BillingSyncKey, "sponsoringOrganizationCloudId": w.organization.ID, "sponsorshipsBatch": items,
	})
	if err != nil {
		w.Fatal(err)
	}
	return string(body)
}

func (w *world) post(body string) response {
	w.Helper()
	if w.token == "" {
		w.token = w.newToken("api.installation")
	}
	return w.send("POST", w.APIURL()+"/organization/sponsorship/sync", "application/json; charset=utf-8", w.token, body)
}

// sync sends a batch that has to be accepted.
func (w *world) sync(items ...item) []item {
	w.Helper()
	answer := w.post(w.syncBody(items...))
	if answer.status != 200 {
		w.Fatalf("sync: %+v", answer)
	}
	return w.items(answer)
}

func (w *world) items(answer response) []item {
	w.Helper()
	var body struct{ SponsorshipsBatch []item }
	if err := json.Unmarshal([]byte(answer.body), &body); err != nil || body.SponsorshipsBatch == nil {
		w.Fatalf("not a batch: %v, %+v", err, answer)
	}
	return body.SponsorshipsBatch
}

func (w *world) rows() []cloud.Sponsorship { return w.Sponsorships(w.organization.ID) }

func (w *world) expect(rows, mails int) {
	w.Helper()
	if got := len(w.rows()); got != rows {
		w.Errorf("%d rows, want %d", got, rows)
	}
	if got := len(w.Mails()); got != mails {
		w.Errorf("%d mails, want %d", got, mails)
	}
}

func (w *world) expectViolations(kinds ...cloud.Kind) {
	w.Helper()
	got := w.Violations()
	if len(got) != len(kinds) {
		w.Fatalf("violations are %v, want %v", got, kinds)
	}
	for i, kind := range kinds {
		if got[i].Kind != kind {
			w.Errorf("violation is %v, want %s", got[i], kind)
		}
	}
}

func (w *world) faults(rules ...cloud.Fault) {
	w.Helper()
	if err := w.SetFaults(rules...); err != nil {
		w.Fatal(err)
	}
}

func (w *world) change(change func(*cloud.Organization)) {
	w.Helper()
	if err := w.ChangeOrganization(w.organization.ID, change); err != nil {
		w.Fatal(err)
	}
}

func messageOf(t *testing.T, answer response) string {
	t.Helper()
	if answer.body == "" {
		return ""
	}
	var body struct {
		Object, Message string
	}
	if err := json.Unmarshal([]byte(answer.body), &body); err != nil {
		t.Fatalf("%v: %s", err, answer.body)
	}
	if body.Object != "error" {
		t.Errorf("not an error object: %s", answer.body)
	}
	return body.Message
}

func TestOneSeedMakesOneHistory(t *testing.T) {
	history := func(region cloud.Region) []byte {
		w := newWorld(t, cloud.Config{Seed: 7, Region: region})
		w.sync(offer(1), offer(2))
		if err := w.Redeem(w.organization.ID, key(1), time.Time{}); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal([]any{w.State(), w.Mails()})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	first := history(cloud.US)
	if !bytes.Equal(first, history(cloud.US)) {
		t.Error("the same seed made something else")
	}
	if bytes.Equal(first, history(cloud.EU)) {
		t.Error("two regions have the same data")
	}
}

func TestResetForgetsEverything(t *testing.T) {
	w := newWorld(t, cloud.Config{Seed: 1})
	before := w.installation
	w.sync(offer(1), offer(1))
	w.Advance(time.Hour)
	w.faults(cloud.Fault{Action: cloud.Close})
	w.RemoveRoute(cloud.RouteSync)
	w.SetLimits(cloud.Limits{Enabled: true})
	w.Reset()
	state := w.State()
	if len(state.Installations)+len(state.Organizations)+len(state.Sponsorships)+len(state.Users) != 0 {
		t.Errorf("state is %+v", state)
	}
	if len(w.Mails())+len(w.Events())+len(w.Requests())+len(w.Violations())+len(w.Faults()) != 0 || !w.Now().Equal(epoch) {
		t.Error("something was kept")
	}
	if s := w.Settings(); s.Limits.Enabled || len(s.RemovedRoutes) != 0 {
		t.Errorf("settings are %+v", s)
	}
	again, err := w.AddInstallation(cloud.Installation{})
	if err != nil || again.ID != before.ID || again.Key != before.Key {
		t.Errorf("the first installation is %+v, was %+v (%v)", again, before, err)
	}
}

func TestNewRefusesWhatItDoesNotKnow(t *testing.T) {
	for name, config := range map[string]cloud.Config{"region": {Region: "Mars"}, "fidelity": {Fidelity: "perfect"}} {
		if _, err := cloud.New(config); err == nil {
			t.Errorf("an unknown %s was taken", name)
		}
	}
}

func TestTheClock(t *testing.T) {
	clock := &fakeClock{now: epoch}
	c, err := cloud.New(cloud.Config{Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	expect := func(what string, want time.Time) {
		t.Helper()
		if !c.Now().Equal(want) {
			t.Errorf("%s: it is %s, want %s", what, c.Now(), want)
		}
	}
	expect("at first", epoch)
	c.Advance(time.Hour)
	expect("advanced", epoch.Add(time.Hour))
	clock.now = epoch.Add(time.Minute)
	expect("running along", epoch.Add(time.Hour+time.Minute))
	later := epoch.AddDate(1, 0, 0)
	c.SetClock(later)
	expect("set", later)
	c.Freeze(true)
	clock.now = clock.now.Add(time.Minute)
	expect("frozen", later)
	c.Advance(-time.Second)
	expect("advanced while frozen", later.Add(-time.Second))
	c.Freeze(false)
	clock.now = clock.now.Add(time.Minute)
	expect("running again", later.Add(59*time.Second))
}
