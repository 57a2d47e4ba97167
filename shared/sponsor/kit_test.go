// The scenarios of Billing sync, played by an organisation and an emulated cloud.
// What begins with "T" and a number is one of the list of scenarios that the
// behaviour was specified by. One reads:
//
//	w := sent(t, 2)                    // two offers, which the cloud has and has mailed
//	w.revoke(1)                        // a user does something here,
//	w.redeem(2, until)                 // or in the cloud,
//	w.faultSyncs(emulator.Fault{…})    // or something goes wrong between them
//	w.mustSync(sponsor.Completed)      // a run, and how it has to end
//	w.expectStates(states{…})          // what there is here,
//	w.expectCloud(1, 2)                // and what in the cloud: rows, and mails so far
//	w.twiceClean()                     // and another run has nothing to do
package sponsor_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

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

// world is one whose process can be killed, whose store can fail, and whose
// requests can be met on their way.
type world struct {
	*cloudtest.World
	mortal  *mortal
	tap     *tap
	faults  *storetest.Faults
	metrics *measurements
}

func perOffer(s *cloudtest.Setup) { s.Settings.OfferKeys = config.OfferKeysPerOffer }

func limited(s *cloudtest.Setup) { s.Emulator.Limits = emulator.Limits{Enabled: true} }

func inEurope(s *cloudtest.Setup) { s.Emulator.Region = emulator.EU }

func seeded(seed uint64) cloudtest.Option {
	return func(s *cloudtest.Setup) { s.Emulator.Seed = seed }
}

// newWorld makes a world with a licence and no connection.
func newWorld(t *testing.T, options ...cloudtest.Option) *world {
	t.Helper()
	w := &world{World: cloudtest.NewWorld(t, options...), metrics: &measurements{}}
	w.mortal = &mortal{Driver: w.Table}
	w.tap = &tap{next: w.Cloud.Transport, mortal: w.mortal, clock: w.Clock}
	w.faults = storetest.NewFaults(w.mortal)
	w.Config.Store, w.Config.Transport, w.Config.Metrics = store.New(w.faults), w.tap, w.metrics
	w.Restart()
	return w
}

// connected makes a world with a connection, too.
func connected(t *testing.T, options ...cloudtest.Option) *world {
	t.Helper()
	w := newWorld(t, options...)
	w.Connect()
	return w
}

// offering makes one in which the members 1 to n have made an offer each, of which
// the cloud knows nothing.
func offering(t *testing.T, n int, options ...cloudtest.Option) *world {
	t.Helper()
	w := connected(t, options...)
	w.MakeOffers(n)
	return w
}

// sent makes one in which the cloud has these offers, and has mailed them.
func sent(t *testing.T, n int, options ...cloudtest.Option) *world {
	t.Helper()
	w := offering(t, n, options...)
	w.mustSync(sponsor.Completed)
	return w
}

// document is the licence that the cloud would give if the organisation were so.
func (w *world) document(change func(*emulator.Organization)) []byte {
	w.Helper()
	before, err := w.Cloud.Organization(w.Cloud.OrgID)
	w.Must(err)
	w.change(change)
	defer w.change(func(o *emulator.Organization) { *o = before })
	return w.Cloud.Licence(w)
}

func (w *world) change(change func(*emulator.Organization)) {
	w.Helper()
	w.Must(w.Cloud.ChangeOrganization(w.Cloud.OrgID, change))
}

// What users do, here and in the cloud.

// save makes a connection with the cloud's key, and paste changes its key.
func (w *world) save() (sponsor.Connection, error) {
	return w.CreateConnection(w.Context(), sponsor.Connect{Organization: w.Org, Enabled: true, Key: config.Secret(w.Cloud.Key)})
}

func (w *world) paste(key string) (sponsor.Connection, error) {
	return w.UpdateConnection(w.Context(), sponsor.Connect{Organization: w.Org, Enabled: true, Key: config.Secret(key)})
}

// probe saves the connection without another key, which asks the cloud about it.
func (w *world) probe() (sponsor.Connection, error) {
	return w.UpdateConnection(w.Context(), sponsor.Connect{Organization: w.Org, Enabled: true})
}

func (w *world) revoke(n int) {
	w.Helper()
	_, err := w.RevokeOwn(w.Context(), w.Org, cloudtest.Member(n))
	w.Must(err)
}

// take takes over rows of an official server, whether they were synced or not.
func (w *world) take(rows ...sponsor.LegacyOffer) (sponsor.Imported, error) {
	return w.Import(w.Context(), sponsor.Import{Organization: w.Org, Rows: rows, Unsent: true})
}

// reissue makes a member's offer anew, to another address if there is one.
func (w *world) reissue(n int, email string) {
	w.Helper()
	_, err := w.ReissueOffer(w.Context(), sponsor.Reissue{Organization: w.Org, ID: w.own(n).ID, Email: email})
	w.Must(err)
}

// redeem accepts a member's offer in the cloud; no time is what the cloud gives.
func (w *world) redeem(n int, until time.Time) {
	w.Helper()
	w.Must(w.Cloud.Redeem(w.Cloud.OrgID, cloudtest.Member(n), until))
}

func (w *world) rotateKey() string {
	w.Helper()
	key, err := w.Cloud.RotateKey(w.Cloud.OrgID)
	w.Must(err)
	return key
}

// fetch asks the cloud for the licence.
func (w *world) fetch() (sponsor.Licence, error) { return w.SyncLicence(w.Context(), w.Org) }

// Runs.

// queue triggers a run that nobody does yet.
func (w *world) queue() sponsor.Run {
	w.Helper()
	run, err := w.TriggerRun(w.Context(), w.Org, sponsor.ByHand)
	w.Must(err)
	return run
}

// sync triggers a run and does it.
func (w *world) sync() (sponsor.Run, error) {
	w.Helper()
	if _, err := w.TriggerRun(w.Context(), w.Org, sponsor.ByHand); err != nil {
		return sponsor.Run{}, err
	}
	return w.Run(w.Context(), w.Org)
}

// mustSync expects a status of the run.
func (w *world) mustSync(want sponsor.RunStatus) sponsor.Run {
	w.Helper()
	run, err := w.sync()
	if run.Status != want || (err != nil) != (want == sponsor.Failed) {
		w.Fatalf("the run is %q, not %q: %+v, %v\n%s", run.Status, want, run, err, w.Logs)
	}
	return run
}

// mustFail expects a run to fail with a code.
func (w *world) mustFail(code string) sponsor.Run {
	w.Helper()
	run, err := w.sync()
	failure, ok := sponsor.AsFailure(err)
	if !ok || failure.Code != code || run.Status != sponsor.Failed || run.ErrorCode != code {
		w.Fatalf("the run is %+v with %v, not failed with %s", run, err, code)
	}
	return run
}

// tick is a call of the scheduler, who may find something due or not.
func (w *world) tick() (sponsor.TickReport, error) {
	return w.Tick(w.Context(), sponsor.Tick{At: w.Clock.Now()})
}

func (w *world) status() sponsor.SyncStatus {
	w.Helper()
	status, err := w.Status(w.Context(), w.Org)
	w.Must(err)
	return status
}

// What goes wrong.

// fault sets the cloud's faults; none takes them away.
func (w *world) fault(rules ...emulator.Fault) {
	w.Helper()
	w.Must(w.Cloud.SetFaults(rules...))
}

// faultSyncs sets faults of syncs.
func (w *world) faultSyncs(rules ...emulator.Fault) {
	w.Helper()
	for i := range rules {
		rules[i].Match.Route = emulator.RouteSync
	}
	w.fault(rules...)
}

// withOffer matches syncs that have a member's offer in them.
func withOffer(n int) emulator.Match {
	return emulator.Match{Batch: &emulator.BatchMatch{Key: cloudtest.Member(n)}}
}

var errBroken = errors.New("connection refused")

// What came of it.

type states map[sponsor.State]int

// own gives a member's offer.
func (w *world) own(n int) sponsor.Offer {
	w.Helper()
	o, err := w.OwnOffer(w.Context(), w.Org, cloudtest.Member(n))
	if err != nil {
		w.Fatalf("offer of member %d: %v", n, err)
	}
	return o
}

// row gives the cloud's row of an own offer of a member.
func (w *world) row(n int) emulator.Sponsorship {
	w.Helper()
	rows := w.Cloud.Rows()
	i := slices.IndexFunc(rows, func(r emulator.Sponsorship) bool { return r.OfferKey == cloudtest.Member(n) })
	if i < 0 {
		w.Fatalf("the cloud has no row of member %d", n)
	}
	return rows[i]
}

func (w *world) all() []sponsor.Offer {
	w.Helper()
	var all []sponsor.Offer
	for o, err := range w.Offers(w.Context(), w.Org, "") {
		w.Must(err)
		all = append(all, o)
	}
	return all
}

// expectStates counts the offers by state.
func (w *world) expectStates(want states) {
	w.Helper()
	got := states{}
	for _, o := range w.all() {
		got[o.State]++
	}
	if !maps.Equal(got, want) {
		w.Fatalf("offers: %v, not %v", got, want)
	}
}

// expectCloud counts the cloud's rows and mails.
func (w *world) expectCloud(rows, mails int) {
	w.Helper()
	if n := len(w.Cloud.Rows()); n != rows {
		w.Errorf("the cloud has %d rows, not %d", n, rows)
	}
	if n := len(w.Cloud.Mails()); n != mails {
		w.Errorf("the cloud sent %d mails, not %d", n, mails)
	}
	w.expectGood()
}

// expectGood expects that the client did nothing that no good client does, and
// left no offer in the cloud that is gone here.
func (w *world) expectGood() {
	w.Helper()
	for _, v := range w.Cloud.Violations() {
		w.Errorf("violation: %s", v)
	}
	known := map[string]bool{}
	for _, o := range w.all() {
		known[o.Key] = true
	}
	if orphans := w.Cloud.Orphans(w.Cloud.OrgID, known); len(orphans) > 0 {
		w.Errorf("%d rows of the cloud are unknown here: %+v", len(orphans), orphans[0])
	}
}

// twiceClean runs once more without faults, which must change nothing.
func (w *world) twiceClean() {
	w.Helper()
	w.fault()
	here, there, rows, mails := w.shape(), w.cloudShape(), len(w.Cloud.Rows()), len(w.Cloud.Mails())
	run, err := w.sync()
	if err != nil || run.Status == sponsor.Failed {
		w.Fatalf("a clean run: %+v, %v", run, err)
	}
	if after := w.shape(); after != here {
		w.Errorf("a clean run changes the offers from\n%sto\n%s", here, after)
	}
	if after := w.cloudShape(); after != there {
		w.Errorf("a clean run changes the cloud's rows from\n%sto\n%s", there, after)
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

// cloudShape is the same of the cloud's rows.
func (w *world) cloudShape() string {
	var b strings.Builder
	for _, row := range w.Cloud.Rows() {
		to := "nobody any more"
		if row.OfferedToEmail != nil {
			to = *row.OfferedToEmail
		}
		fmt.Fprintln(&b, row.ID, row.OfferKey, to, row.SponsoredOrganizationID, row.ValidUntil, row.ToDelete)
	}
	return b.String()
}

// posts are the syncs that the cloud got, those without items left out or not.
func (w *world) posts(empty bool) []emulator.Request {
	return slices.DeleteFunc(w.Cloud.Requests(), func(r emulator.Request) bool {
		return r.Route != emulator.RouteSync || !empty && len(r.Keys) == 0
	})
}

func codeOf(err error) string {
	if f, ok := sponsor.AsFailure(err); ok {
		return f.Code
	}
	return ""
}

// dump is all that the store holds, as text.
func (w *world) dump() string {
	w.Helper()
	var b strings.Builder
	w.Must(w.Table.Update(func(batch *store.Batch) error {
		for d := range batch.Documents() {
			fmt.Fprintf(&b, "%s/%s %s %s %s\n", d.Collection, d.ID, d.Parent, d.Lookup, d.Body)
		}
		return nil
	}))
	return b.String()
}

func newGUID() string { return uuid.NewString() }
