package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/providers/keys/software"
	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

// The program starts itself as the emulator of the cloud, and here it is the
// tests.
func TestMain(m *testing.M) {
	if len(os.Args) != 2 || os.Args[1] != emulateCloud {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := serveBillingCloud(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func startTestCloud(t *testing.T) *billingCloud {
	t.Helper()
	cloud, err := startBillingCloud(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cloud.close(); err != nil {
			t.Error(err)
		}
	})
	return cloud
}

func newTestOrganization(t *testing.T, offers int) *syncedOrganization {
	t.Helper()
	key, err := software.Open(filepath.Join(t.TempDir(), "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := key.Close(); err != nil {
			t.Error(err)
		}
	})
	cloud := startTestCloud(t)
	o := &syncedOrganization{
		id: uuid.NewString(), cloud: cloud, clock: &skippingClock{cloud: cloud}, driver: &countedDriver{Driver: memory.New()}, key: key,
	}
	if err := o.fill(t.Context(), offers); err != nil {
		t.Fatal(err)
	}
	return o
}

// The budgets that are counts, not times, are kept by this test too.
func TestTheCountsOfASyncKeepTheirBudgets(t *testing.T) {
	b := &bench{temp: t.TempDir(), quick: true, rounds: 1, progress: io.Discard}
	const offers = 600
	results, _, err := b.syncOver(t.Context(), synced{"memory", offers, openMemory})
	if err != nil {
		t.Fatal(err)
	}
	measured := map[string][]float64{}
	for _, r := range results {
		r.judge()
		measured[r.What] = append(measured[r.What], r.Measured)
		if r.Verdict == over {
			t.Errorf("%s: %v %s, at most %v; %s", r.What, r.Measured, r.Unit, r.Budget.Max, r.Note)
		}
	}
	// Of the first run, and of a daily one. That nothing was counted would keep
	// every budget.
	for what, least := range map[string][2]float64{
		"  requests of sponsorships":   {3, 3},
		"  tokens fetched":             {1, 1},
		"  storage reads of an offer":  {3. / offers, 3. / offers},
		"  storage writes of an offer": {2, 1},
		"  CPU of an offer":            {0.1, 0.1},
	} {
		got := measured[what]
		if len(got) != 2 || got[0] < least[0] || got[1] < least[1] {
			t.Errorf("%s: %v, want %v at the least", what, got, least)
		}
	}
}

// The waits are skipped and not left out: without them the cloud refuses.
func TestTheCloudCountsTheWaitsThatAreSkipped(t *testing.T) {
	o := newTestOrganization(t, 1_500) // 6 batches, and 5 requests a second are allowed
	used, err := o.run(t.Context(), sponsor.Counts{Sent: 1_500})
	if err != nil || used.syncs != 6 || used.refused != 0 || used.waits <= 0 || used.most <= 0 || used.cpu <= 0 {
		t.Fatalf("%+v, %v", used, err)
	}
	for range 70 { // and 60 a minute
		response, err := o.cloud.client.Get(o.cloud.IdentityURL + "/.well-known/openid-configuration")
		if err != nil {
			t.Fatal(err)
		}
		if err := response.Body.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if a, err := o.cloud.arrived(t.Context()); err != nil || a.refused < 10 || a.syncs+a.tokens != 0 {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestARunThatIsNotWhatWasExpectedIsNoResult(t *testing.T) {
	o := newTestOrganization(t, 3)
	if _, err := o.run(t.Context(), sponsor.Counts{Sent: 4}); err == nil || !strings.Contains(err.Error(), "Sent:3") {
		t.Error(err)
	}
	fault := []map[string]any{{"match": map[string]string{"route": "sync"}, "action": "status", "status": 403}}
	if err := o.cloud.control(t.Context(), http.MethodPut, "/faults", fault, nil); err != nil {
		t.Fatal(err)
	}
	var failure *sponsor.Failure
	if _, err := o.run(t.Context(), sponsor.Counts{Refreshed: 3}); !errors.As(err, &failure) || failure.Code != "forbidden_scope" {
		t.Errorf("a run that fails: %v", err)
	}
	if err := o.cloud.control(t.Context(), http.MethodPut, "/clock", map[string]string{"advance": "soon"}, nil); err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("what the emulator refuses: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	before := o.clock.waits()
	if err := o.clock.Wait(ended, time.Hour); !errors.Is(err, context.Canceled) || o.clock.waits() != before {
		t.Errorf("a wait that was called off: %v", err)
	}
}

// The floor must be one: what is written has to be sealed, and as long as an
// offer.
func TestTheBareWritesAreThoseOfOffers(t *testing.T) {
	o := newTestOrganization(t, 3)
	bare, err := o.newBare(t.Context(), 3)
	if err != nil || len(bare.ids) != 3 {
		t.Fatal(bare, err)
	}
	o.driver.take()
	for n, id := range bare.ids {
		if err := bare.write(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		written, err := bare.documents.Get(t.Context(), bareOfferCollection, id)
		if err != nil || len(written.Body) != len(bare.offer.Body) {
			t.Fatalf("%q, %v", written.Body, err)
		}
		subject := keyring.Subject{Collection: bareOfferCollection, ID: id, Field: "particulars"}
		sealed, err := bare.ring.Seal(t.Context(), subject, bareParticulars)
		if err != nil {
			t.Fatal(err)
		}
		if opened, err := bare.ring.Open(t.Context(), subject, written.Body[:len(sealed)]); err != nil || string(opened) != string(bareParticulars) {
			t.Errorf("%q, %v", opened, err)
		}
	}
	if calls := o.driver.take(); calls != (storeCalls{gets: 3, puts: 3}) || calls.reads() != 3 || calls.writes() != 3 {
		t.Errorf("the calls are %s", calls)
	}
}
