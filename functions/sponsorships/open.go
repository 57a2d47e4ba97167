package sponsorships

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/latchkey-fn/latchkey/shared/buildinfo"
	"github.com/latchkey-fn/latchkey/shared/httpx"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

// open are the routes that need no token: for whoever watches the server. They
// tell nothing of whose it is.
type open struct {
	handler http.Handler
	// path is that of the public address.
	path string
}

// openPath is what open routes are below.
const openPath = "/billing-sync/"

func newOpen(h *handler, public string, o httpx.Options) *open {
	health := &health{look: h.sync.Health, communicates: h.communicates}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+openPath+"health", health.serve)
	mux.HandleFunc("GET "+openPath+"alive", func(w http.ResponseWriter, _ *http.Request) {
		httpx.WriteJSON(w, http.StatusOK, time.Now().UTC())
	})
	mux.HandleFunc("GET "+openPath+"version", func(w http.ResponseWriter, _ *http.Request) {
		httpx.WriteJSON(w, http.StatusOK, map[string]string{"version": buildinfo.Version})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		httpx.WriteBitwardenError(w, http.StatusNotFound, "Resource not found.")
	})
	return &open{httpx.Wrap(httpx.Below(public, httpx.Below(smapi.Prefix, mux)), o), public}
}

func (*open) routes() []string {
	return []string{"GET " + openPath + "health", "GET " + openPath + "alive", "GET " + openPath + "version"}
}

// before leaves to next what is not open.
func (o *open) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		below := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, o.path), smapi.Prefix)
		if strings.HasPrefix(below, openPath) {
			o.handler.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

const (
	// healthyAge and unhealthyAge are how long a finding is repeated. Anybody may
	// ask, and each finding reads the store; that all is well again should be seen
	// soon.
	healthyAge   = 30 * time.Second
	unhealthyAge = 3 * time.Second
	// healthTimeout bounds a look at everything.
	healthTimeout = 10 * time.Second
)

// health tells whether the syncs of all organisations go on.
type health struct {
	look         func(context.Context) ([]sponsor.Health, error)
	communicates bool

	mu    sync.Mutex
	found *healthAnswer
	until time.Time
}

type healthAnswer struct {
	Status string `json:"status"`
	// Store is ok or failed.
	Store string `json:"store"`
	// CloudCommunication is the master switch of the settings. Without it nothing
	// is synced, which is no fault.
	CloudCommunication bool               `json:"cloudCommunication"`
	Connections        []connectionHealth `json:"connections"`
}

// connectionHealth is of one enabled connection. Which, the state of the sync
// tells to its owner.
type connectionHealth struct {
	Good        bool       `json:"good"`
	LastRun     *time.Time `json:"lastRun"`
	ErrorCode   *string    `json:"lastErrorCode"`
	LastSuccess *time.Time `json:"lastSuccess"`
	NextDue     *time.Time `json:"nextDue"`
}

const healthy = "healthy"

func (h *health) serve(w http.ResponseWriter, r *http.Request) {
	found := h.find(r.Context())
	if found.Status == healthy {
		httpx.WriteJSON(w, http.StatusOK, found)
		return
	}
	w.Header().Set("Retry-After", strconv.Itoa(int(unhealthyAge.Seconds())))
	httpx.WriteJSON(w, http.StatusServiceUnavailable, found)
}

// find has those who ask meanwhile wait for the one who looks, who does not
// decide for them by going away.
func (h *health) find(ctx context.Context) *healthAnswer {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.found != nil && time.Now().Before(h.until) {
		return h.found
	}
	h.found = h.examine(ctx)
	age := unhealthyAge
	if h.found.Status == healthy {
		age = healthyAge
	}
	h.until = time.Now().Add(age)
	return h.found
}

func (h *health) examine(ctx context.Context) *healthAnswer {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healthTimeout)
	defer cancel()
	answer := &healthAnswer{Status: healthy, Store: "ok", CloudCommunication: h.communicates, Connections: []connectionHealth{}}
	all, err := h.look(ctx)
	if err != nil {
		httpx.Note(ctx, slog.String("health", err.Error()))
		answer.Status, answer.Store = "unhealthy", "failed"
		return answer
	}
	if !h.communicates {
		return answer
	}
	for _, c := range all {
		answer.Connections = append(answer.Connections, connectionHealth{c.Good, c.LastAttempt, optional(c.ErrorCode), c.LastSuccess, c.NextDue})
		if !c.Good {
			answer.Status = "unhealthy"
		}
	}
	return answer
}
