package house

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/functions/billingsync"
	"github.com/latchkey-fn/latchkey/functions/sponsorships"
	"github.com/latchkey-fn/latchkey/shared/httpx"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

// BillingSync is the settings of the functions that Billing sync is made of.
type BillingSync struct {
	Sponsorships sponsorships.Config
	BillingSync  billingsync.Config
}

// LoadBillingSync reads the settings of both functions from one environment.
func LoadBillingSync(environment map[string]string) (c BillingSync, warnings []string, err error) {
	var faults [2]error
	var unread [2][]string
	c.Sponsorships, unread[0], faults[0] = sponsorships.LoadConfig(environment)
	c.BillingSync, unread[1], faults[1] = billingsync.LoadConfig(environment)
	return c, InAll(unread[:]...), JoinOnce(faults[:]...)
}

// Settings are those of the outside systems, which both functions share.
func (c BillingSync) Settings() Settings {
	s := c.Sponsorships
	return Settings{Store: s.Store, AWS: s.AWS, Keys: s.Keys, Previous: s.Previous}
}

// TickEvery is how often the scheduled function is called: what is due is begun
// no later than that.
const TickEvery = 15 * time.Minute

// Syncing is both functions in one process.
type Syncing struct {
	// Function is the HTTP side.
	Function
	// path is that of the public address.
	path      string
	scheduled *billingsync.Function
	logger    *slog.Logger
	// work ends with Close.
	work context.Context //nolint:containedctx // of goroutines that outlive a request
	stop context.CancelFunc
	mu   sync.Mutex
	done bool
	wait sync.WaitGroup
}

// SyncingOptions are what only the tests and the emulator of the cloud need.
type SyncingOptions struct {
	// Now and Transport are those of sponsor.Config.
	Now       func() time.Time
	Transport http.RoundTripper
}

// Open puts both functions on open parts. Their metrics are lines of the log, as
// on a cloud. Nothing is contacted, and nothing begins, before Start or the first
// request.
func (c BillingSync) Open(p *Parts, logger *slog.Logger, o SyncingOptions) (*Syncing, error) {
	s := &Syncing{path: c.Sponsorships.Sessions.Path(), logger: logger}
	metrics := sponsor.LogMetrics{Logger: logger}
	var scheduledErr error
	s.scheduled, scheduledErr = billingsync.New(c.BillingSync, billingsync.Parts{
		Store: p.Store, Key: p.Key, Previous: p.Previous, Logger: logger, Metrics: metrics, Now: o.Now, Transport: o.Transport,
	})
	asked, askedErr := sponsorships.New(c.Sponsorships, sponsorships.Parts{
		Store: p.Store, Key: p.Key, Previous: p.Previous, Logger: logger, Metrics: metrics, Now: o.Now, Transport: o.Transport, Kick: s.kick,
	})
	if err := JoinOnce(scheduledErr, askedErr); err != nil {
		return nil, err
	}
	s.Function = Function{"sponsorships", asked, below(smapi.Prefix, asked.Routes)}
	s.work, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// errClosed is of a process that ends.
var errClosed = errors.New("the server is stopping; the next one goes on with the sync")

// goes has the work done beside the caller, until Close.
func (s *Syncing) goes(work func(context.Context)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return errClosed
	}
	s.wait.Go(func() { work(s.work) })
	return nil
}

func (s *Syncing) kick(_ context.Context, organization string) error {
	return s.goes(func(work context.Context) {
		ctx, cancel := context.WithTimeout(work, TickEvery)
		defer cancel()
		s.report(work, s.scheduled.Sync(ctx, organization))
	})
}

// report logs what failed, which on a cloud is a failed invocation. What the end
// of the process stopped did not fail.
func (s *Syncing) report(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		s.logger.ErrorContext(ctx, "billing sync failed", slog.String("error", err.Error()))
	}
}

// Start calls the scheduled function now, and from then on every TickEvery,
// until Close or until ctx ends.
func (s *Syncing) Start(ctx context.Context) error {
	return s.goes(func(work context.Context) {
		work, cancel := context.WithCancel(work)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		ticker := time.NewTicker(TickEvery)
		defer ticker.Stop()
		for at := time.Now(); ; {
			s.tick(work, at)
			select {
			case at = <-ticker.C:
			case <-work.Done():
				return
			}
		}
	})
}

// tick is one call, which leaves to the next one what has to wait for longer.
func (s *Syncing) tick(work context.Context, at time.Time) {
	ctx, cancel := context.WithTimeout(work, TickEvery)
	defer cancel()
	s.report(work, s.scheduled.Run(ctx, billingsync.Tick{At: at, ID: uuid.NewString()}))
}

// Close stops what is under way, which the next process goes on with, and waits
// for its end.
func (s *Syncing) Close() error {
	s.mu.Lock()
	s.done = true
	s.mu.Unlock()
	s.stop()
	s.wait.Wait()
	return nil
}

// AnswerRest has a mux send the HTTP side what of the API is nobody's route, so
// that it is refused in the form that clients read: where Secrets Manager is in
// the mux, that does it.
func (s *Syncing) AnswerRest(mux *http.ServeMux) {
	mux.Handle(smapi.Prefix+"/", s.Function)
	if s.path != "" {
		mux.Handle(s.path+smapi.Prefix+"/", s.Function)
	}
}

// Mount sends the HTTP side's requests to it and all others to next. It is no
// pattern of the mux that the other functions are in: that could not tell
// /organizations/connections/{id} from /organizations/{org}/secrets.
func (s *Syncing) Mount(next http.Handler) http.Handler {
	own := http.NewServeMux()
	for _, route := range s.Function.Routes {
		own.Handle(route, s.Function)
	}
	methods := httpx.Methods()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		probe := r.Clone(r.Context())
		probe.URL.Path, probe.URL.RawPath = strings.TrimPrefix(r.URL.Path, s.path), strings.TrimPrefix(r.URL.RawPath, s.path)
		for _, probe.Method = range methods {
			if _, pattern := own.Handler(probe); pattern != "" {
				s.Function.ServeHTTP(w, r)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}
