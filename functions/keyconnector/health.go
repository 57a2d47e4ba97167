package keyconnector

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/latchkey-fn/latchkey/shared/httpx"
)

// How long a finding is repeated. Anybody may ask, and each finding costs an
// unwrap by the KMS; that all is well again should be seen soon.
const (
	healthyAge   = 30 * time.Second
	unhealthyAge = 3 * time.Second
)

// healthTimeout bounds one look at everything.
const healthTimeout = 10 * time.Second

type check struct {
	name string
	run  func(context.Context) error
}

// health is readiness: whether a request would succeed now.
type health struct {
	checks []check
	flight singleflight.Group

	mu      sync.Mutex
	finding map[string]string
	healthy bool
	at      time.Time
}

func newHealth(checks ...check) *health { return &health{checks: checks} }

type healthDocument struct {
	Status string            `json:"status"`
	Checks map[string]string `json:"checks"`
}

func (h *health) serve(w http.ResponseWriter, r *http.Request) {
	finding, healthy := h.look(r.Context())
	if !healthy {
		w.Header().Set("Retry-After", strconv.Itoa(int(unhealthyAge.Seconds())))
		httpx.WriteJSON(w, http.StatusServiceUnavailable, healthDocument{"unhealthy", finding})
		return
	}
	httpx.WriteJSON(w, http.StatusOK, healthDocument{"healthy", finding})
}

func (h *health) look(ctx context.Context) (map[string]string, bool) {
	h.mu.Lock()
	finding, healthy, at := h.finding, h.healthy, h.at
	h.mu.Unlock()
	age := unhealthyAge
	if healthy {
		age = healthyAge
	}
	if finding != nil && time.Since(at) < age {
		return finding, healthy
	}
	// Who asks first does not decide for the others by going away.
	looked := h.flight.DoChan("", func() (any, error) {
		h.examine(context.WithoutCancel(ctx))
		return nil, nil
	})
	select {
	case <-looked:
	case <-ctx.Done():
		return map[string]string{}, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.finding, h.healthy
}

func (h *health) examine(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	var (
		wait    sync.WaitGroup
		results = make([]error, len(h.checks))
	)
	for i, c := range h.checks {
		wait.Go(func() { results[i] = c.run(ctx) })
	}
	wait.Wait()

	finding, healthy := map[string]string{}, true
	for i, c := range h.checks {
		finding[c.name] = "ok"
		if results[i] != nil {
			// What is wrong is for the log: the answer is for everybody.
			finding[c.name], healthy = "failed", false
			httpx.Note(ctx, slog.String("health."+c.name, results[i].Error()))
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.finding, h.healthy, h.at = finding, healthy, time.Now()
}
