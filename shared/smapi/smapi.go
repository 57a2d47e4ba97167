// Package smapi is what the functions of Secrets Manager's API have in common:
// who asks, how a request is read, and how an answer or an error is written, in
// the dialect of its clients. They print the body of an error as it is, retry
// nothing, and take 404, not 403, for what may not be reached.
package smapi

import (
	"cmp"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"sync/atomic"
	"time"

	"github.com/latchkey-fn/latchkey/shared/audit"
	"github.com/latchkey-fn/latchkey/shared/httpx"
	"github.com/latchkey-fn/latchkey/shared/machine"
)

// Prefix is the path below which clients expect the API. Requests without it
// are served as well, for an API on a host of its own.
const Prefix = "/api"

// Authenticator finds out who sent a request.
type Authenticator interface {
	Authenticate(r *http.Request) (machine.Caller, error)
}

// Config is what an API stands on.
type Config struct {
	// Function is the name in the log lines, Service the one that clients are told
	// where it is not available.
	Function, Service string
	Callers           Authenticator
	Logger            *slog.Logger
	// Path is that of the public address (config.Sessions.Path), before Prefix.
	// Requests without it are served as well: whether a reverse proxy cuts it is
	// not ours to know.
	Path string
	// Origins are the web vaults'.
	Origins []string
	// Timeout bounds a request.
	Timeout time.Duration
	// MaxBody bounds a request's body, in bytes.
	MaxBody int64
}

// API is the routes of one function. It serves them with and without the
// prefixes.
type API struct {
	http.Handler
	// Routes are those given to Handle: what is in front of several functions has
	// to know them.
	Routes []string

	config Config
	mux    *http.ServeMux
	audit  audit.Log
}

// New makes an API without routes.
func New(c Config) *API {
	a := &API{config: c, mux: http.NewServeMux(), audit: audit.New(c.Logger)}
	a.mux.HandleFunc(unrouted, a.noRoute)
	below := httpx.Below(c.Path, httpx.Below(Prefix, http.HandlerFunc(a.route)))
	a.Handler = httpx.Wrap(httpx.CORS(append([]string{httpx.DesktopOrigin}, c.Origins...), below), httpx.Options{
		Function: c.Function, Logger: c.Logger, Timeout: c.Timeout, MaxBody: c.MaxBody,
	})
	return a
}

// Operation answers a request: with a value that becomes JSON, a Stream, or nil
// for 200 without a body.
type Operation func(r Request) (answer any, err error)

// Handle adds a route, "GET /secrets/{id}". The action is its name in the audit
// log, and what the path names, as {id} or {org}, the subject there.
func (a *API) Handle(route, action string, run Operation) {
	a.Routes = append(a.Routes, route)
	a.mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, action, run) })
}

// route leaves to the mux what it would not answer with a redirect, which no
// client of this API follows.
func (a *API) route(w http.ResponseWriter, r *http.Request) {
	if at := r.URL.EscapedPath(); path.Clean(at) != at {
		a.answerError(w, r, machine.NotFound())
		return
	}
	a.mux.ServeHTTP(w, r)
}

// unrouted is the pattern of whatever has no route.
const unrouted = "/"

func (a *API) noRoute(w http.ResponseWriter, r *http.Request) {
	for _, method := range httpx.Methods() {
		probe := r.WithContext(r.Context())
		probe.Method = method
		if _, pattern := a.mux.Handler(probe); pattern != unrouted {
			w.Header().Add("Allow", method)
		}
	}
	if w.Header().Get("Allow") != "" {
		a.answerError(w, r, errMethod)
		return
	}
	a.answerError(w, r, machine.NotFound())
}

// answerError answers, and says why in the request's log line.
func (a *API) answerError(w http.ResponseWriter, r *http.Request, err error) (status int) {
	httpx.Note(r.Context(), slog.String("error", err.Error()))
	return a.writeError(w, err)
}

// serve answers one request. What was refused, or broke off, is an audit event.
// What was done is one too, for which the domain's are taken where it recorded
// any: those say more.
func (a *API) serve(w http.ResponseWriter, r *http.Request, action string, run Operation) {
	ctx := r.Context()
	event := audit.Event{
		Action: action, Outcome: audit.Failed, Reason: "the request broke off",
		Subject: subjectOf(r), RequestID: httpx.RequestID(ctx), Address: httpx.ClientAddress(r),
	}
	recorded := new(atomic.Bool)
	defer func() {
		if event.Outcome != audit.Allowed || !recorded.Load() {
			a.audit.Record(ctx, event)
		}
	}()
	caller, err := a.config.Callers.Authenticate(r)
	if err == nil {
		event.Actor, event.Token = caller.Actor(), caller.Token()
		httpx.Note(ctx, slog.String("subject", event.Actor), slog.String("token", event.Token))
		caller.RequestID, caller.Address, caller.Recorded = event.RequestID, event.Address, recorded
		var answer any
		if answer, err = run(Request{r, caller, w.Header()}); err == nil {
			err = write(w, answer)
		}
	}
	if err == nil {
		event.Outcome, event.Reason = audit.Allowed, ""
		return
	}
	event.Reason = err.Error()
	if errors.Is(err, errCutShort) {
		httpx.Note(ctx, slog.String("error", event.Reason))
		panic(http.ErrAbortHandler) // it must not look whole
	}
	if a.answerError(w, r, err) < http.StatusInternalServerError {
		event.Outcome = audit.Refused
	}
}

// subjectOf is the id of what a request is about; empty where its path names
// nothing, or something that is no id.
func subjectOf(r *http.Request) string {
	id, _ := parseID(cmp.Or(r.PathValue("id"), r.PathValue("org")))
	return id
}
