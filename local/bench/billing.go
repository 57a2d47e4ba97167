package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/functions/billingsync"
	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/providers/keys/software"
	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/providers/stores/sqlite"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/sponsor/licence"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Budgets of a run. An offer is written once to note that it is sent for the
// first time, and once for what became of it; both are read by the page. The
// rest of the calls are the run's own, a few for each batch.
const (
	maxSyncRequests    = 40 // of 10 000 offers in batches of 250
	maxSyncTokens      = 1
	maxOfferReads      = 0.1
	maxOfferListed     = 2.1 // once for what is to be deleted, and once for the rest
	maxNewOfferWrites  = 2.1
	maxLiveOfferWrites = 1.1
	maxSyncMB          = 48
	maxSyncGrowth      = 2 // the memory of 10 000 offers beside that of 1 000
)

// aDay is a little more than one, so that the schedule's slot has come.
const aDay = 25 * time.Hour

// billing measures runs of Billing sync: the first one of an organisation, all
// of whose offers are new, and those of the days after it.
func (b *bench) billing(ctx context.Context) ([]result, error) {
	many, few := b.either(10_000, 1_000), b.either(1_000, 500)
	var results []result
	var large, small syncMemory
	for _, one := range []struct {
		synced
		memory *syncMemory
	}{
		{synced{"memory", many, openMemory}, nil},
		{synced{"SQLite", many, openSQLite}, &large},
		{synced{"SQLite", few, openSQLite}, &small},
	} {
		measured, held, err := b.syncOver(ctx, one.synced)
		if err != nil {
			return results, fmt.Errorf("%s, %d offers: %w", one.name, one.offers, err)
		}
		if one.offers == many {
			results = append(results, measured...)
		}
		if one.memory != nil {
			*one.memory = held
		}
	}
	return append(results,
		result{What: "  memory, the most beside before", Measured: median(large.most), Unit: "MB", Budget: atMost(maxSyncMB)},
		result{
			What: "  the same with hardly any garbage", Unit: "MB", Bare: fmt.Sprintf("%d offers", few), Budget: ratioAtMost(maxSyncGrowth),
		}.compare(large.lean, small.lean)), nil
}

// syncMemory is what daily runs take beside what was taken before, in MB: as
// they are, and with a garbage collector that lets hardly any garbage be.
type syncMemory struct{ most, lean []float64 }

// leanPercent is the garbage that is let be, in percent of what is in use.
const leanPercent = 10

// synced is what is synced: so many offers over a store, which may use a folder.
type synced struct {
	name   string
	offers int
	open   func(ctx context.Context, dir string) (store.Driver, error)
}

func openMemory(context.Context, string) (store.Driver, error) { return memory.New(), nil }

func openSQLite(ctx context.Context, dir string) (store.Driver, error) {
	return sqlite.Open(ctx, filepath.Join(dir, "latchkey.db"))
}

// syncOver measures over one store, and gives the memory of daily runs besides.
func (b *bench) syncOver(ctx context.Context, of synced) (_ []result, held syncMemory, err error) {
	dir, err := b.folder("billing")
	if err != nil {
		return nil, held, err
	}
	key, err := software.Open(filepath.Join(dir, "software-key.pem"))
	if err != nil {
		return nil, held, err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	driver, err := of.open(ctx, dir)
	if err != nil {
		return nil, held, err
	}
	defer func() { err = errors.Join(err, driver.Close()) }()
	cloud, err := startBillingCloud(ctx)
	if err != nil {
		return nil, held, err
	}
	defer func() { err = errors.Join(err, cloud.close()) }()
	offers := of.offers
	b.say("  %s: %d offers", of.name, offers)
	s := &syncedOrganization{
		id: uuid.NewString(), cloud: cloud, clock: &skippingClock{cloud: cloud}, driver: &countedDriver{Driver: driver}, key: key,
	}
	if err := s.fill(ctx, offers); err != nil {
		return nil, held, err
	}
	first, err := s.run(ctx, sponsor.Counts{Sent: offers})
	if err != nil {
		return nil, held, fmt.Errorf("first run: %w", err)
	}
	bare, err := s.newBare(ctx, offers)
	if err != nil {
		return nil, held, err
	}
	rounds := b.either(5, 2)
	b.say("  %s: %d daily runs", of.name, rounds)
	var last syncUsage
	cpu, err := interleave(rounds,
		func() (float64, error) {
			used, err := s.run(ctx, sponsor.Counts{Refreshed: offers})
			last, held.most = used, append(held.most, used.most)
			return microseconds(used.cpu) / float64(offers), err
		},
		func() (float64, error) { return cpuPerCall(offers, func(n int) error { return bare.write(ctx, n) }) },
	)
	if err != nil {
		return nil, held, fmt.Errorf("daily run: %w", err)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(leanPercent))
	for range rounds {
		used, err := s.run(ctx, sponsor.Counts{Refreshed: offers})
		if err != nil {
			return nil, held, fmt.Errorf("daily run: %w", err)
		}
		held.lean = append(held.lean, used.most)
	}
	what := fmt.Sprintf("billing sync, %s: first run of %d new offers", of.name, offers)
	results := first.results(what, offers, maxNewOfferWrites)
	results = append(results, result{What: "  CPU of an offer", Unit: "µs", Bare: "bare seal and put"}.compare(
		[]float64{microseconds(first.cpu) / float64(offers)}, []float64{median(cpu[1])}))
	what = fmt.Sprintf("billing sync, %s: daily run of %d live offers", of.name, offers)
	results = append(results, last.results(what, offers, maxLiveOfferWrites)...)
	return append(results, result{What: "  CPU of an offer", Unit: "µs", Bare: "bare seal and put"}.compare(cpu[0], cpu[1])), held, nil
}

// syncUsage is what one run took. The emulated cloud is another process, whose
// share is in the time alone.
type syncUsage struct {
	arrived
	took  time.Duration // the work
	waits time.Duration // what was skipped: pacing
	cpu   time.Duration
	most  float64 // MB
	calls storeCalls
}

func (u syncUsage) results(what string, offers int, maxWrites float64) []result {
	perOffer := func(n int64) float64 { return float64(n) / float64(offers) }
	requests := result{What: "  requests of sponsorships", Measured: float64(u.syncs), Unit: "requests", Budget: atMost(maxSyncRequests)}
	tokens := result{What: "  tokens fetched", Measured: float64(u.tokens), Unit: "requests", Budget: atMost(maxSyncTokens)}
	return []result{
		{What: what + ", without waits", Measured: u.took.Seconds(), Unit: "s"},
		{What: "  with the waits between requests", Measured: (u.took + u.waits).Seconds(), Unit: "s"},
		requests, tokens,
		{What: "  answers 429", Measured: float64(u.refused), Unit: "answers", Budget: atMost(0)},
		{What: "  storage reads of an offer", Measured: perOffer(u.calls.reads()), Unit: "calls", Budget: atMost(maxOfferReads), Note: u.calls.String()},
		{What: "  documents that listings gave, of an offer", Measured: perOffer(u.calls.listed), Unit: "documents", Budget: atMost(maxOfferListed)},
		{What: "  storage writes of an offer", Measured: perOffer(u.calls.writes()), Unit: "calls", Budget: atMost(maxWrites)},
	}
}

// syncedOrganization is one with offers and a connection to the cloud.
type syncedOrganization struct {
	id       string
	cloud    *billingCloud
	clock    *skippingClock
	driver   *countedDriver
	key      kms.Unwrapper
	settings config.Billing
	trust    *licence.Trust
}

// fill connects the organisation and makes its offers.
func (o *syncedOrganization) fill(ctx context.Context, offers int) error {
	c, _, err := billingsync.LoadConfig(map[string]string{
		"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": "unused", // they are given
		"LATCHKEY_CLOUD_COMMUNICATION": "true", "LATCHKEY_CLOUD_IDENTITY_URL": o.cloud.IdentityURL, "LATCHKEY_CLOUD_API_URL": o.cloud.APIURL,
		"LATCHKEY_INSTALLATION_ID": o.cloud.InstallationID, "LATCHKEY_INSTALLATION_KEY": o.cloud.InstallationKey,
	})
	if err != nil {
		return err
	}
	o.settings = c.Billing
	if o.trust, err = licence.NewTestTrust(emulator.LicenceCertificate()); err != nil {
		return err
	}
	domain, err := o.open()
	if err != nil {
		return err
	}
	if _, err := domain.UploadLicence(ctx, sponsor.Upload{Organization: o.id, Document: o.cloud.Licence}); err != nil {
		return err
	}
	if _, err := domain.CreateConnection(ctx, sponsor.Connect{Organization: o.id, Enabled: true, Key: config.Secret(o.cloud.Key)}); err != nil {
		return err
	}
	for n := range offers {
		_, err := domain.CreateOffer(ctx, sponsor.NewOffer{
			Organization: o.id, By: sponsor.Member{ID: uuid.NewString(), Email: fmt.Sprintf("member%d@work.example", n), Confirmed: true},
			Email: fmt.Sprintf("family%d@home.example", n), Name: fmt.Sprintf("Family %d", n),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *syncedOrganization) ring() *keyring.Ring {
	return keyring.New(keyring.Config{Name: sponsor.RingName, Store: store.New(o.driver), Key: o.key})
}

// open begins another process's work: no token and no data key is in memory.
func (o *syncedOrganization) open() (*sponsor.Sync, error) {
	return sponsor.New(sponsor.Config{
		Store: store.New(o.driver), Ring: o.ring(), Settings: o.settings, Trust: o.trust, Logger: quiet, Now: o.clock.Now, Waiter: o.clock,
	})
}

// run lets a day pass and does the run that is due then, of which these counts
// are expected.
func (o *syncedOrganization) run(ctx context.Context, want sponsor.Counts) (syncUsage, error) {
	if err := o.clock.Wait(ctx, aDay); err != nil {
		return syncUsage{}, err
	}
	if _, err := o.cloud.arrived(ctx); err != nil {
		return syncUsage{}, err
	}
	domain, err := o.open()
	if err != nil {
		return syncUsage{}, err
	}
	runtime.GC()
	o.driver.take()
	before, skipped := read(heapObjects), o.clock.waits()
	began, err := cpuTime()
	if err != nil {
		return syncUsage{}, err
	}
	most, at := watch(heapObjects), time.Now()
	_, failure := domain.Tick(ctx, sponsor.Tick{At: o.clock.Now(), ID: "bench"})
	used := syncUsage{took: time.Since(at), most: megabytes(most(), before), waits: o.clock.waits() - skipped}
	ended, err := cpuTime()
	if err := errors.Join(failure, err); err != nil {
		return syncUsage{}, err
	}
	used.cpu = ended - began
	used.calls = o.driver.take()
	if used.arrived, err = o.cloud.arrived(ctx); err != nil {
		return syncUsage{}, err
	}
	runs, err := domain.Runs(ctx, o.id, 1)
	if err != nil {
		return syncUsage{}, err
	}
	if len(runs) == 0 {
		return syncUsage{}, errors.New("no run was due")
	}
	want.Batches, want.Requests = runs[0].Counts.Batches, used.syncs
	if runs[0].Status != sponsor.Completed || runs[0].Counts != want {
		return syncUsage{}, fmt.Errorf("the run is %s with %+v, want %+v", runs[0].Status, runs[0].Counts, want)
	}
	return used, nil
}

// bareOffers is what the least conceivable writes of a run are: of each offer
// what is secret is sealed, and the document put.
type bareOffers struct {
	ring      *keyring.Ring
	documents *store.Store
	ids       []string
	// offer is a copy of one of the organisation's. Copies of all would make the
	// heap larger, and with it the garbage that a run may leave.
	offer store.Document
}

// bareParticulars are as long as what is sealed of an offer.
var bareParticulars = []byte(`{"email":"family0000@home.example","name":"Family 0000"}`)

const bareOfferCollection = "bare-offers"

// newBare puts as many documents as the organisation has offers, so that each
// is there before it is measured.
func (o *syncedOrganization) newBare(ctx context.Context, offers int) (*bareOffers, error) {
	b := &bareOffers{ring: o.ring(), documents: store.New(o.driver)}
	page, err := b.documents.List(ctx, store.Query{Collection: "offers", Parent: o.id, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(page.Documents) == 0 {
		return nil, errors.New("the organisation has no offers")
	}
	b.offer = page.Documents[0]
	b.offer.Collection = bareOfferCollection
	for n := range offers {
		b.ids = append(b.ids, uuid.NewString())
		if err := b.write(ctx, n); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *bareOffers) write(ctx context.Context, n int) error {
	document := b.offer
	document.ID = b.ids[n]
	sealed, err := b.ring.Seal(ctx, keyring.Subject{Collection: bareOfferCollection, ID: document.ID, Field: "particulars"}, bareParticulars)
	if err != nil {
		return err
	}
	// What was sealed takes the place of as many bytes: the document stays as long
	// as an offer is.
	document.Body = append(sealed, document.Body[min(len(sealed), len(document.Body)):]...)
	_, err = b.documents.Put(ctx, document, store.Any())
	return err
}

// countedDriver counts the calls of a driver.
type countedDriver struct {
	store.Driver
	gets, batchGets, lists, listed, puts, deletes atomic.Int64
}

func (c *countedDriver) Get(ctx context.Context, collection, id string) (store.Document, error) {
	c.gets.Add(1)
	return c.Driver.Get(ctx, collection, id)
}

func (c *countedDriver) GetMany(ctx context.Context, keys []store.Key) ([]store.Document, error) {
	c.batchGets.Add(1)
	return c.Driver.GetMany(ctx, keys)
}

func (c *countedDriver) List(ctx context.Context, q store.Query) (store.Page, error) {
	page, err := c.Driver.List(ctx, q)
	c.lists.Add(1)
	c.listed.Add(int64(len(page.Documents)))
	return page, err
}

func (c *countedDriver) Put(ctx context.Context, d store.Document, pre store.Precondition) (int64, error) {
	c.puts.Add(1)
	return c.Driver.Put(ctx, d, pre)
}

func (c *countedDriver) Delete(ctx context.Context, collection, id string, pre store.Precondition) error {
	c.deletes.Add(1)
	return c.Driver.Delete(ctx, collection, id, pre)
}

// storeCalls are the calls of a driver, and the documents that its listings gave.
type storeCalls struct{ gets, batchGets, lists, listed, puts, deletes int64 }

// take gives the calls since it was last called.
func (c *countedDriver) take() storeCalls {
	return storeCalls{c.gets.Swap(0), c.batchGets.Swap(0), c.lists.Swap(0), c.listed.Swap(0), c.puts.Swap(0), c.deletes.Swap(0)}
}

func (c storeCalls) reads() int64  { return c.gets + c.batchGets + c.lists }
func (c storeCalls) writes() int64 { return c.puts + c.deletes }

// String lists them.
func (c storeCalls) String() string {
	return fmt.Sprintf("%d Get, %d GetMany, %d List of %d documents, %d Put, %d Delete", c.gets, c.batchGets, c.lists, c.listed, c.puts, c.deletes)
}
