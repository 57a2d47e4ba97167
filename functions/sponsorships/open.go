package sponsorships

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

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
	health := &health{h.sync, h.communicates}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+openPath+"health", httpx.Health(health.look))
	mux.HandleFunc("GET "+openPath+"alive", httpx.Alive)
	mux.HandleFunc("GET "+openPath+"version", httpx.Version)
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

// health tells whether the syncs of all organisations go on.
type health struct {
	sync         *sponsor.Sync
	communicates bool
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
	// NextDue is null where the schedule waits for another key.
	NextDue *time.Time `json:"nextDue"`
}

func (h *health) look(ctx context.Context) httpx.Finding {
	answer := healthAnswer{Status: "healthy", Store: "ok", CloudCommunication: h.communicates, Connections: []connectionHealth{}}
	all, err := h.sync.Health(ctx)
	if err != nil {
		httpx.Note(ctx, slog.String("health", err.Error()))
		answer.Status, answer.Store = "unhealthy", "failed"
		return httpx.Finding{Status: http.StatusServiceUnavailable, Answer: answer}
	}
	found := httpx.Finding{Healthy: true, Status: http.StatusOK}
	if h.communicates {
		for _, c := range all {
			answer.Connections = append(answer.Connections, connectionHealth{c.Good, c.LastAttempt, optional(c.ErrorCode), c.LastSuccess, c.NextDue})
			if !c.Good {
				// An organisation's stale key is no failure of the server: a 5xx would
				// be counted by what watches all functions behind the same address.
				answer.Status, found.Healthy = "unhealthy", false
			}
		}
	}
	found.Answer = answer
	return found
}
