package sponsor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/sponsor/licence"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// epoch is in the future, so that a context whose deadline is on the fake clock
// does not end.
var epoch = time.Date(2131, 3, 5, 4, 30, 0, 0, time.UTC)

// clock passes time when somebody waits.
type clock struct {
	mu    sync.Mutex
	at    time.Time
	waits []time.Duration
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) Wait(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.waits = c.at.Add(max(d, 0)), append(c.waits, d)
	return nil
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = t
}

// measurements remembers metrics.
type measurements struct {
	mu   sync.Mutex
	list []sponsor.Measurement
}

func (m *measurements) Record(_ context.Context, of sponsor.Measurement) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = append(m.list, of)
}

// sum adds up a counter with a label; last gives the last value of a gauge.
func (m *measurements) sum(name, label, value string) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	total := 0.0
	for _, of := range m.list {
		if of.Name == name && (label == "" || of.Labels[label] == value) {
			total += of.Value
		}
	}
	return total
}

func (m *measurements) last(name string) (float64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, of := range slices.Backward(m.list) {
		if of.Name == name {
			return of.Value, true
		}
	}
	return 0, false
}

// logs is a log that is read while it is written.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// world is an organisation here and in an emulated cloud.
type world struct {
	*testing.T
	*sponsor.Sync
	emu       *emulator.Cloud
	transport *emulator.Transport
	clock     *clock
	table     *store.Table
	mortal    *mortal
	tap       *tap
	faults    *storetest.Faults
	ring      *keyring.Ring
	metrics   *measurements
	logs      *logs
	settings  config.Billing
	usage     func(context.Context, string) (licence.Usage, error)

	org          string // here
	cloudOrg     string
	key          string
	installation emulator.Installation
}

// option changes a world before it is made.
type option func(*world, *emulator.Config)

func batchOf(n int) option {
	return func(w *world, _ *emulator.Config) { w.settings.SyncBatch = n }
}

func perOffer(w *world, _ *emulator.Config) { w.settings.OfferKeys = config.OfferKeysPerOffer }

func limited(_ *world, c *emulator.Config) { c.Limits = emulator.Limits{Enabled: true} }

func inRegion(r emulator.Region) option {
	return func(w *world, c *emulator.Config) { c.Region, w.settings.Region = r, string(r) }
}

// newWorld makes a world with a licence and no connection.
func newWorld(t *testing.T, options ...option) *world {
	t.Helper()
	w := &world{
		T: t, clock: &clock{at: epoch}, table: store.NewTable(), metrics: &measurements{}, logs: &logs{},
		org: "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee",
		settings: config.Billing{
			CloudCommunication: true, SyncBatch: 250, SyncProbe: true, SyncParallel: 4, RequestTimeout: time.Minute,
			OfferKeys: config.OfferKeysMember, LicenseCheck: config.LicenseCheckOff,
		},
	}
	c := emulator.Config{Now: w.clock.Now, Sleep: w.clock.Wait}
	for _, o := range options {
		o(w, &c)
	}
	var err error
	if w.emu, err = emulator.New(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.emu.Close)
	w.transport = emulator.NewTransport(w.emu)
	w.mortal = &mortal{Driver: w.table}
	w.tap = &tap{next: w.transport, mortal: w.mortal, clock: w.clock}
	if w.installation, err = w.emu.AddInstallation(emulator.Installation{}); err != nil {
		t.Fatal(err)
	}
	organization, err := w.emu.AddOrganization(emulator.Organization{Name: "Example"})
	if err != nil {
		t.Fatal(err)
	}
	w.cloudOrg = organization.ID
	if w.key, err = w.emu.RotateKey(w.cloudOrg); err != nil {
		t.Fatal(err)
	}
	w.settings.InstallationID, w.settings.InstallationKey = w.installation.ID, config.Secret(w.installation.Key)
	w.settings.IdentityURL, w.settings.APIURL = w.emu.IdentityURL(), w.emu.APIURL()
	w.faults = storetest.NewFaults(w.mortal)
	w.ring = keyring.New(keyring.Config{Name: sponsor.RingName, Store: store.New(w.table), Key: kmstest.NewKey(t)})
	w.restart()
	w.upload()
	return w
}

// connected makes a world with a connection, too.
func connected(t *testing.T, options ...option) *world {
	t.Helper()
	w := newWorld(t, options...)
	w.connect()
	return w
}

// restart begins another process over the same store.
func (w *world) restart() { w.Sync = w.another() }

func (w *world) another() *sponsor.Sync {
	w.Helper()
	trust, err := licence.NewTestTrust(emulator.LicenceCertificate())
	if err != nil {
		w.Fatal(err)
	}
	s, err := sponsor.New(sponsor.Config{
		Store: store.New(w.faults), Ring: w.ring, Settings: w.settings, Trust: trust, Usage: w.usage, Metrics: w.metrics,
		Logger: slog.New(slog.NewJSONHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug})), Now: w.clock.Now, Waiter: w.clock, Transport: w.tap,
	})
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// document is the licence that the cloud would give.
func (w *world) document(change func(*emulator.Organization)) []byte {
	w.Helper()
	before, err := w.emu.Organization(w.cloudOrg)
	if err != nil {
		w.Fatal(err)
	}
	if change != nil {
		w.change(change)
		defer w.change(func(o *emulator.Organization) { *o = before })
	}
	document, err := w.emu.License(w.cloudOrg, w.installation.ID)
	if err != nil {
		w.Fatal(err)
	}
	return document
}

func (w *world) change(change func(*emulator.Organization)) {
	w.Helper()
	if err := w.emu.ChangeOrganization(w.cloudOrg, change); err != nil {
		w.Fatal(err)
	}
}

func (w *world) upload() {
	w.Helper()
	if _, err := w.UploadLicence(w.Context(), sponsor.Upload{Organization: w.org, Document: w.document(nil), Force: true}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) connect() sponsor.Connection {
	w.Helper()
	c, err := w.CreateConnection(w.Context(), sponsor.Connect{Organization: w.org, Enabled: true, Key: config.Secret(w.key)})
	if err != nil {
		w.Fatal(err)
	}
	w.emu.Forget()
	return c
}

// member is the n-th member's GUID.
func member(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

func address(n int) string { return fmt.Sprintf("family%d@home.example", n) }

func (w *world) offerOf(n int) sponsor.NewOffer {
	return sponsor.NewOffer{
		Organization: w.org, By: sponsor.Member{ID: member(n), Email: fmt.Sprintf("member%d@work.example", n), Confirmed: true, Manager: true},
		Email: address(n), Name: fmt.Sprintf("Family %d", n),
	}
}

// offer makes the offers of the members 1 to n.
func (w *world) offer(n int) {
	w.Helper()
	for i := 1; i <= n; i++ {
		if _, err := w.CreateOffer(w.Context(), w.offerOf(i)); err != nil {
			w.Fatal(err)
		}
	}
}

func (w *world) revoke(n int) {
	w.Helper()
	if err := w.RevokeOwn(w.Context(), w.org, member(n)); err != nil {
		w.Fatal(err)
	}
}

// sync triggers a run and does it.
func (w *world) sync() (sponsor.Run, error) {
	w.Helper()
	if _, err := w.TriggerRun(w.Context(), w.org, sponsor.ByHand); err != nil {
		return sponsor.Run{}, err
	}
	return w.Sync.Run(w.Context(), w.org)
}

// mustSync expects a status of the run.
func (w *world) mustSync(want sponsor.RunStatus) sponsor.Run {
	w.Helper()
	run, err := w.sync()
	if run.Status != want || (err != nil) != (want == sponsor.Failed) {
		w.Fatalf("the run is %q, not %q: %+v, %v\n%s", run.Status, want, run, err, w.logs)
	}
	return run
}

// mustFail expects a run to fail with a code.
func (w *world) mustFail(code string) sponsor.Run {
	w.Helper()
	run, err := w.sync()
	failure, ok := sponsor.AsFailure(err)
	if !ok || failure.Code != code || run.Status != sponsor.Failed && run.ID != "" || run.ErrorCode != code && run.ID != "" {
		w.Fatalf("the run is %+v with %v, not failed with %s", run, err, code)
	}
	return run
}

// own gives a member's offer.
func (w *world) own(n int) sponsor.Offer {
	w.Helper()
	o, err := w.OwnOffer(w.Context(), w.org, member(n))
	if err != nil {
		w.Fatalf("offer of member %d: %v", n, err)
	}
	return o
}

func (w *world) all() []sponsor.Offer {
	w.Helper()
	var all []sponsor.Offer
	for o, err := range w.Offers(w.Context(), w.org) {
		if err != nil {
			w.Fatal(err)
		}
		all = append(all, o)
	}
	return all
}

// expectStates counts the offers by state.
func (w *world) expectStates(want map[sponsor.State]int) {
	w.Helper()
	got := map[sponsor.State]int{}
	for _, o := range w.all() {
		got[o.State]++
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.Fatalf("offers: %v, not %v", got, want)
	}
}

// expectCloud counts the cloud's rows and mails.
func (w *world) expectCloud(rows, mails int) {
	w.Helper()
	if n := len(w.emu.Sponsorships(w.cloudOrg)); n != rows {
		w.Errorf("the cloud has %d rows, not %d", n, rows)
	}
	if n := len(w.emu.Mails()); n != mails {
		w.Errorf("the cloud sent %d mails, not %d", n, mails)
	}
	w.expectGood()
}

// expectGood expects that the client did nothing that no good client does, and
// left no offer in the cloud that is gone here.
func (w *world) expectGood() {
	w.Helper()
	for _, v := range w.emu.Violations() {
		w.Errorf("violation: %s", v)
	}
	known := map[string]bool{}
	for _, o := range w.all() {
		known[o.Key] = true
	}
	if orphans := w.emu.Orphans(w.cloudOrg, known); len(orphans) > 0 {
		w.Errorf("%d rows of the cloud are unknown here: %+v", len(orphans), orphans[0])
	}
}

// twiceClean runs once more without faults, which must change nothing.
func (w *world) twiceClean() {
	w.Helper()
	w.fault()
	before, rows, mails := w.shape(), len(w.emu.Sponsorships(w.cloudOrg)), len(w.emu.Mails())
	run, err := w.sync()
	if err != nil || run.Status == sponsor.Failed {
		w.Fatalf("a clean run: %+v, %v", run, err)
	}
	if after := w.shape(); after != before {
		w.Errorf("a clean run changes the offers from\n%sto\n%s", before, after)
	}
	w.expectCloud(rows, mails)
}

// shape is what of the offers a clean run must not change.
func (w *world) shape() string {
	w.Helper()
	var b strings.Builder
	for _, o := range w.all() {
		fmt.Fprintln(&b, o.ID, o.Key, o.State, o.Email, o.Name, o.ValidUntil, o.Quarantined, o.Status().Label)
	}
	return b.String()
}

// fault sets the cloud's faults; none takes them away.
func (w *world) fault(rules ...emulator.Fault) {
	w.Helper()
	if err := w.emu.SetFaults(rules...); err != nil {
		w.Fatal(err)
	}
}

// syncFault matches syncs with items.
func syncFault(f emulator.Fault) emulator.Fault {
	f.Match.Route = emulator.RouteSync
	return f
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// posts are the syncs that the cloud got, those without items left out or not.
func (w *world) posts(empty bool) []emulator.Request {
	return slices.DeleteFunc(w.emu.Requests(), func(r emulator.Request) bool {
		return r.Route != emulator.RouteSync || !empty && len(r.Keys) == 0
	})
}

func codeOf(err error) string {
	if f, ok := sponsor.AsFailure(err); ok {
		return f.Code
	}
	return ""
}

var errBroken = errors.New("connection refused")

// dump is all that the store holds, as text.
func (w *world) dump() string {
	w.Helper()
	var b strings.Builder
	w.must(w.table.Update(func(batch *store.Batch) error {
		for d := range batch.Documents() {
			fmt.Fprintf(&b, "%s/%s %s %s %s\n", d.Collection, d.ID, d.Parent, d.Lookup, d.Body)
		}
		return nil
	}))
	return b.String()
}

func newGUID() string { return uuid.NewString() }

// forgetLicence makes the organisation one that has none.
func (w *world) forgetLicence() error {
	return store.New(w.table).Delete(w.Context(), "licences", w.org, store.Any())
}

// moveConnection makes the connection one of another organisation of the cloud,
// so that an installation has to write it.
func (w *world) moveConnection() error {
	connections := store.NewCollection[map[string]any](store.New(w.table), "sync-connections")
	_, err := connections.Update(w.Context(), w.org, func(r *store.Record[map[string]any]) error {
		r.Value["cloudOrganization"] = newGUID()
		return nil
	})
	return err
}

// failPuts makes the next write into a collection fail.
func (w *world) failPuts(collection string) {
	w.faults.Inject(storetest.Fault{Method: storetest.Put, Collection: collection})
}

func (w *world) mustLicence() {
	w.Helper()
	if _, err := w.SyncLicence(w.Context(), w.org); err != nil {
		w.Fatal(err)
	}
}

// connectAgain pastes the key once more.
func (w *world) connectAgain() {
	w.Helper()
	_, err := w.UpdateConnection(w.Context(), sponsor.Connect{Organization: w.org, Enabled: true, Key: config.Secret(w.key)})
	w.must(err)
}

func (w *world) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(w.logs, nil)) }
