package httpx

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/latchkey-fn/latchkey/shared/buildinfo"
)

// How long a finding is repeated. Anybody may ask, and each look costs reads of
// the store or a call of the KMS; that all is well again should be seen soon.
const (
	healthyAge   = 30 * time.Second
	unhealthyAge = 3 * time.Second
)

// healthTimeout bounds one look at everything.
const healthTimeout = 10 * time.Second

// Finding is what a look at a function's health found.
type Finding struct {
	Healthy bool
	// Status and Answer are what is answered.
	Status int
	Answer any
}

// health repeats a finding for a while.
type health struct {
	look   func(context.Context) Finding
	flight singleflight.Group

	mu    sync.Mutex
	found *Finding
	at    time.Time
}

// Health answers with what look finds, which has some seconds for it. Those who
// ask while it looks wait for the same finding.
func Health(look func(context.Context) Finding) http.HandlerFunc {
	return (&health{look: look}).serve
}

func (h *health) serve(w http.ResponseWriter, r *http.Request) {
	found := h.find(r.Context())
	if found.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(int(unhealthyAge.Seconds())))
	}
	WriteJSON(w, found.Status, found.Answer)
}

func (h *health) find(ctx context.Context) Finding {
	if kept := h.kept(); kept != nil {
		return *kept
	}
	// Who asks first does not decide for the others by going away.
	looked := h.flight.DoChan("", func() (any, error) {
		if h.kept() == nil {
			h.keep(context.WithoutCancel(ctx))
		}
		return nil, nil
	})
	select {
	case <-looked:
	case <-ctx.Done():
		return Finding{Status: http.StatusServiceUnavailable, Answer: struct {
			Status string `json:"status"`
		}{"unhealthy"}}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return *h.found
}

// kept gives the finding that is there, unless it is too old.
func (h *health) kept() *Finding {
	h.mu.Lock()
	defer h.mu.Unlock()
	age := unhealthyAge
	if h.found != nil && h.found.Healthy {
		age = healthyAge
	}
	if h.found == nil || time.Since(h.at) >= age {
		return nil
	}
	return h.found
}

func (h *health) keep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	found := h.look(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.found, h.at = &found, time.Now()
}

// Alive answers that there is somebody, with the time, as official servers do.
func Alive(w http.ResponseWriter, _ *http.Request) {
	WriteJSON(w, http.StatusOK, time.Now().UTC())
}

// Version answers with the version of the program.
func Version(w http.ResponseWriter, _ *http.Request) {
	WriteJSON(w, http.StatusOK, map[string]string{"version": buildinfo.Version})
}
