// Package sponsor is the domain of Billing sync: the offers of free Families
// organisations that members of an organisation make, the connection to the
// vendor's cloud that they are synced over, the runs that do it, and the
// organisation's licence.
//
// A run is a state machine in the store: whoever is stopped, at whatever point,
// is followed by another that goes on where the store says the first was. The
// cloud has no transactions, mails on creation, and can be made unusable for an
// organisation by two requests at once, so that a run
//
//   - notes on an offer that it may be known to the cloud before it is sent,
//   - has a lease on the organisation, whose fencing token every write carries,
//   - sends deletions, with a null lastSyncDate, before everything else,
//   - keeps an answer before it applies it, and applies it idempotently,
//   - and, after a failure that leaves it open what the cloud did, waits until
//     the cloud can no longer be at work and sends the same offers again.
//
// Names and addresses of the people who are offered something, and keys, are
// sealed in the store and in no log, metric or error.
package sponsor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/sponsor/cloud"
	"github.com/latchkey-fn/latchkey/shared/sponsor/licence"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// The official server's texts that its HTTP side has for refusals of its own, too.
const (
	ToOneself       = "Cannot offer a Families Organization Sponsorship to yourself. Choose a different email."
	UnknownMember   = "Unknown Organization User"
	MalformedConfig = "Organization Connection configuration malformed"
)

// RingName is the name of the ring that seals what is secret here.
const RingName = "billing-sync"

// Config is what a Sync is made of.
type Config struct {
	Store *store.Store
	// Ring has the name RingName.
	Ring *keyring.Ring
	// Settings were validated.
	Settings config.Billing
	// Trust verifies licences; see LoadTrust. Nil: none can be installed.
	Trust *licence.Trust
	// Logger may be nil.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics Metrics
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Waiter lets time pass. Nil: timers.
	Waiter Waiter
	// Transport takes the place of the connection to the cloud. Nil: TLS.
	Transport http.RoundTripper
	// Random gives numbers from 0 to 1 for back-off and jitter. Nil: random ones.
	Random func() float64
}

// Waiter lets time pass.
type Waiter interface {
	// Wait returns after d, or with the context's error when that ends first.
	Wait(ctx context.Context, d time.Duration) error
}

// Timers is the Waiter of real time.
type Timers struct{}

// Wait implements Waiter.
func (Timers) Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Sync is the domain. It is safe for concurrent use, by any number of processes
// over one store.
type Sync struct {
	documents   *store.Store
	ring        *keyring.Ring
	settings    config.Billing
	trust       *licence.Trust
	logger      *slog.Logger
	metrics     Metrics
	now         func() time.Time
	waiter      Waiter
	random      func() float64
	cloud       *cloud.Client
	breaker     *breaker
	pace        *pace
	connections store.Collection[connection]
	offers      store.Collection[offer]
	runs        store.Collection[Run]
	batches     store.Collection[batch]
	leases      store.Collection[leaseState]
	schedules   store.Collection[schedule]
	licences    store.Collection[installed]
	nameKeys    store.Collection[nameKey]
	licenceKeys store.Collection[licenceClaim]
	usages      store.Collection[Usage]
	imports     store.Collection[importedRow]

	mu sync.Mutex
	// names are the keys of nameKeys, opened, by organisation.
	names map[string][]byte
}

// New makes a Sync. Errors are of class Invalid; nothing is contacted.
func New(c Config) (*Sync, error) {
	s := &Sync{
		documents: c.Store, ring: c.Ring, settings: c.Settings, trust: c.Trust,
		logger: c.Logger, metrics: c.Metrics, now: c.Now, waiter: c.Waiter, random: c.Random,
		connections: store.NewCollection[connection](c.Store, "sync-connections"),
		offers:      store.NewCollection[offer](c.Store, "offers"),
		runs:        store.NewCollection[Run](c.Store, "sync-runs"),
		batches:     store.NewCollection[batch](c.Store, "sync-batches"),
		leases:      store.NewCollection[leaseState](c.Store, "sync-leases"),
		schedules:   store.NewCollection[schedule](c.Store, "sync-schedules"),
		licences:    store.NewCollection[installed](c.Store, "licences"),
		nameKeys:    store.NewCollection[nameKey](c.Store, "offer-name-keys"),
		licenceKeys: store.NewCollection[licenceClaim](c.Store, "licence-keys"),
		usages:      store.NewCollection[Usage](c.Store, "licence-usage"),
		imports:     store.NewCollection[importedRow](c.Store, "offer-imports"),
		names:       map[string][]byte{},
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if s.metrics == nil {
		s.metrics = noMetrics{}
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.waiter == nil {
		s.waiter = Timers{}
	}
	if s.random == nil {
		s.random = rand.Float64
	}
	s.breaker = newBreaker(c.Store, s.now)
	s.pace = newPace()
	settings := cloud.FromSettings(c.Settings)
	settings.Breaker, settings.Observe, settings.Transport, settings.Now = s.breaker, s.observeCall, c.Transport, s.now
	client, err := cloud.New(settings)
	if err != nil {
		return nil, err
	}
	s.cloud = client
	return s, nil
}

// LoadTrust reads the certificate that the settings name; nil where they name
// none.
func LoadTrust(settings config.Billing) (*licence.Trust, error) {
	path, trust := settings.LicenseCertificateFile, licence.NewTrust
	if settings.LicenseTestCertificateFile != "" {
		path, trust = settings.LicenseTestCertificateFile, licence.NewTestTrust
	}
	if path == "" {
		return nil, nil
	}
	certificate, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: certificate of licences: %w", fault.Invalid, err)
	}
	return trust(certificate)
}

// pace spaces the requests of this process, whose address the cloud counts them
// by: 5 a second and 60 a minute are published.
type pace struct {
	mu             sync.Mutex
	apart, aMinute *rate.Limiter
}

const (
	requestsApart = 300 * time.Millisecond
	// Of a minute's 60 requests 40 can come at once and 20 over the minute, so
	// that any minute has no more.
	paceBurst = 40
	paceEvery = 3 * time.Second
)

func newPace() *pace {
	return &pace{apart: rate.NewLimiter(rate.Every(requestsApart), 1), aMinute: rate.NewLimiter(rate.Every(paceEvery), paceBurst)}
}

// take takes the turn of a request, if that is now, or tells after how long to
// ask again. Who has to wait has booked nothing, so that nobody waits for the
// turn of one who has gone.
func (p *pace) take(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	apart, aMinute := p.apart.ReserveN(now, 1), p.aMinute.ReserveN(now, 1)
	wait := max(apart.DelayFrom(now), aMinute.DelayFrom(now))
	if wait > 0 {
		apart.CancelAt(now)
		aMinute.CancelAt(now)
	}
	return wait
}

// Failure is a refusal, or the end of a run, that has a code. It holds nothing
// that is secret. machine.AsProblem gives its message for clients.
type Failure struct {
	// Code is a cloud.Code or a licence.Code.
	Code string
	// Message is in the words of the official server, or of the cloud, where they
	// have some.
	Message string
	// Hint says what to do; it may be empty.
	Hint  string
	Class fault.Class
	cause error
}

// Error implements error.
func (f *Failure) Error() string {
	text := f.Code + ": " + strings.TrimSuffix(f.Message, ".")
	if f.Hint != "" {
		text += ": " + f.Hint
	}
	return text
}

// Unwrap gives the problem for clients, which has the class, and the cause.
func (f *Failure) Unwrap() []error {
	problem := &machine.Problem{Class: f.Class, Message: f.Message}
	if f.Hint != "" {
		problem.Message = strings.TrimSuffix(f.Message, ".") + ". " + sentence(f.Hint)
	}
	if isOfficial[f.Message] {
		problem.Message = f.Message
	}
	if f.cause == nil {
		return []error{problem}
	}
	return []error{problem, f.cause}
}

func sentence(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + strings.TrimSuffix(text[1:], ".") + "."
}

// AsFailure gives the failure in an error's chain.
func AsFailure(err error) (*Failure, bool) { return errors.AsType[*Failure](err) }

// texts of failures that come without any.
var texts = map[cloud.Code]string{
	cloud.IdentityInvalidClient: "The cloud does not accept this installation.",
	cloud.IdentityInvalidScope:  "The cloud does not allow this installation to sync.",
	cloud.TokenRejected:         "The cloud refuses the token that it has just issued.",
	cloud.ForbiddenScope:        "The cloud refuses access.",
	cloud.RequestInvalid:        "The cloud does not understand the request.",
	cloud.RateLimited:           "The cloud asks for fewer requests.",
	cloud.CloudError:            "The cloud failed.",
	cloud.NetworkPre:            "The cloud could not be reached.",
	cloud.NetworkMid:            "The connection to the cloud broke off.",
	cloud.Timeout:               "The cloud did not answer in time.",
	cloud.BadResponse:           "What answered is not the cloud's API.",
	cloud.CloudStateConflict:    "The cloud's own data on this organization is inconsistent.",
	cloud.LicenseRouteGone:      "The cloud no longer offers licenses on this route.",
	cloud.LicenseBodyLost:       "The cloud did not receive the request's body.",
	cloud.LicenseRefused:        "The cloud refuses the license.",
	cloud.KeyMissing:            "Failed to get Billing Sync Key",
	cloud.CommDisabled:          commDisabled,
}

// isOfficial are messages that clients compare, and that nothing is added to.
var isOfficial = map[string]bool{cannotVerify: true}

// unhandled is what the API says of any fault of its own.
const unhandled = "An unhandled server error has occurred."

// canShow tells whether what the cloud said can be shown and kept. The request of
// a sync is full of names, which an answer to it could repeat: of those only what
// the API is known to say is shown.
func canShow(e *cloud.Error) bool {
	switch {
	case e.Stage == cloud.StageLicense:
		return e.Code != cloud.RequestInvalid
	case e.Stage == cloud.StageSync:
		return e.Code == cloud.OrgUnknown || e.Code == cloud.KeyInvalid || e.Code == cloud.CloudError && e.Message == unhandled
	}
	return false
}

// fromCloud makes a failure of what the cloud's client says. Of anything else it
// returns nil.
func fromCloud(err error) *Failure {
	e, ok := errors.AsType[*cloud.Error](err)
	if !ok {
		return nil
	}
	f := &Failure{Code: string(e.Code), Message: e.Message, Hint: e.Hint, Class: fault.Of(e), cause: err}
	if f.Message == "" || !canShow(e) {
		f.Message = texts[e.Code]
	}
	if e.Detail != "" {
		f.Message = strings.TrimSuffix(f.Message, ".") + ": " + e.Detail
	}
	if f.Class == fault.Denied {
		// Denied is of our own stores and keys. To whoever asked, what the cloud
		// refuses is a request that cannot be met as it is.
		f.Class = fault.Invalid
	}
	return f
}

// guid brings an id into the one form that documents have; NotFound for what is
// none, since nothing has it.
func guid(id string) (string, error) {
	parsed, err := uuid.Parse(id)
	if err != nil || parsed == uuid.Nil || len(id) != 36 {
		return "", machine.NotFound()
	}
	return parsed.String(), nil
}

func pointer[T any](v T) *T { return &v }
