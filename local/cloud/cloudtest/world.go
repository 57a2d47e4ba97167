package cloudtest

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/logtest"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/sponsor/licence"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// World is an organisation here, with a licence, and in an emulated cloud.
type World struct {
	testing.TB
	// Sync is the process that works on it at the moment.
	*sponsor.Sync

	Cloud *Cloud
	Clock *Clock
	Table *store.Table
	Key   *kmstest.Key
	Logs  *logtest.Log
	Org   string // here
	// Config is what a process is made of. A change of it is the next process's.
	Config sponsor.Config
}

// Setup is what an Option changes before a world is made.
type Setup struct {
	Emulator emulator.Config
	// Settings are completed by what the cloud tells of itself.
	Settings config.Billing
}

// Option makes a world another than the ordinary one.
type Option func(*Setup)

// BatchOf has so many offers in a request.
func BatchOf(n int) Option {
	return func(s *Setup) { s.Settings.SyncBatch = n }
}

// NewWorld makes a world without a connection.
func NewWorld(t testing.TB, options ...Option) *World {
	t.Helper()
	w := &World{TB: t, Clock: NewClock(), Table: store.NewTable(), Key: kmstest.NewKey(t), Logs: &logtest.Log{}, Org: Organization}
	s := Setup{Emulator: emulator.Config{Now: w.Clock.Now, Sleep: w.Clock.Wait}, Settings: ordinary()}
	for _, o := range options {
		o(&s)
	}
	w.Cloud = NewCloud(t, s.Emulator)
	w.Cloud.complete(&s.Settings)
	trust, err := licence.NewTestTrust(emulator.LicenceCertificate())
	if err != nil {
		t.Fatal(err)
	}
	documents := store.New(w.Table)
	w.Config = sponsor.Config{
		Store: documents, Ring: keyring.New(keyring.Config{Name: sponsor.RingName, Store: documents, Key: w.Key}),
		Settings: s.Settings, Trust: trust, Now: w.Clock.Now, Waiter: w.Clock, Transport: w.Cloud.Transport,
		Random: dice(s.Emulator.Seed),
		Logger: slog.New(slog.NewJSONHandler(w.Logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	w.Restart()
	w.Upload()
	return w
}

// dice gives the same numbers for the same seed, so that what a test meets does
// not change from one time to the next.
func dice(seed uint64) func() float64 {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0))
	return func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return random.Float64()
	}
}

// Must ends the test at an error.
func (w *World) Must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// NewProcess is a process beside the one there is, over the same store.
func (w *World) NewProcess() *sponsor.Sync {
	w.Helper()
	s, err := sponsor.New(w.Config)
	w.Must(err)
	return s
}

// Restart has another process in the place of the one there is.
func (w *World) Restart() {
	w.Helper()
	w.Sync = w.NewProcess()
}

// Upload installs the organisation's licence of today, as its owner would.
func (w *World) Upload() {
	w.Helper()
	_, err := w.UploadLicence(w.Context(), sponsor.Upload{Organization: w.Org, Document: w.Cloud.Licence(w), Force: true})
	w.Must(err)
}

// Connect saves the key of the cloud, and has the cloud forget the probe of it.
func (w *World) Connect() sponsor.Connection {
	w.Helper()
	c, err := w.CreateConnection(w.Context(), sponsor.Connect{Organization: w.Org, Enabled: true, Key: config.Secret(w.Cloud.Key)})
	w.Must(err)
	w.Cloud.Forget()
	return c
}

// Member is the n-th member's GUID, which is also the key of an own offer.
func Member(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

// Address is whom the n-th member's offer goes to.
func Address(n int) string { return fmt.Sprintf("family%d@home.example", n) }

// NewOffer is the offer that the n-th member makes.
func (w *World) NewOffer(n int) sponsor.NewOffer {
	return sponsor.NewOffer{
		Organization: w.Org, By: sponsor.Member{ID: Member(n), Email: fmt.Sprintf("member%d@work.example", n), Confirmed: true, Manager: true},
		Email: Address(n), Name: fmt.Sprintf("Family %d", n),
	}
}

// MakeOffers makes the offers of the members 1 to n. Those that are there stay.
func (w *World) MakeOffers(n int) {
	w.Helper()
	w.MakeOffersOf(1, n)
}

// MakeOffersOf makes those of the members from and to.
func (w *World) MakeOffersOf(from, to int) {
	w.Helper()
	for n := from; n <= to; n++ {
		_, err := w.CreateOffer(w.Context(), w.NewOffer(n))
		w.Must(err)
	}
}
