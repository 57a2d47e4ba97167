// Package smapi is what the functions of Secrets Manager's API have in common:
// who asks, how a request is read, and how an answer or an error is written, in
// the dialect of its clients. They print the body of an error as it is, retry
// nothing, and take 404, not 403, for what may not be reached.
package smapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/audit"
	"github.com/latchkey-fn/latchkey/shared/fault"
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
	// Function is the name in the log lines.
	Function string
	Callers  Authenticator
	Logger   *slog.Logger
	// Origins are the web vaults'.
	Origins []string
	// Timeout bounds a request.
	Timeout time.Duration
	// MaxBody bounds a request's body, in bytes.
	MaxBody int64
}

// API is the routes of one function.
type API struct {
	config Config
	mux    *http.ServeMux
	audit  audit.Log
}

// New makes an API without routes.
func New(c Config) *API {
	return &API{config: c, mux: http.NewServeMux(), audit: audit.New(c.Logger)}
}

// Request is a request whose sender is known.
type Request struct {
	*http.Request
	Caller machine.Caller
}

// Operation answers a request: with a value that becomes JSON, a Stream, or nil
// for 200 without a body.
type Operation func(r Request) (answer any, err error)

// Stream writes an answer in JSON that is too large to be held. Whatever can
// fail for a reason that the client should read has been done before.
type Stream func(w io.Writer) error

// Handle adds a route, "GET /secrets/{id}". The action is its name in the audit
// log where it is refused.
func (a *API) Handle(route, action string, run Operation) {
	a.mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		var answer any
		caller, err := a.config.Callers.Authenticate(r)
		event := audit.Event{Action: action, Outcome: audit.Failed, RequestID: httpx.RequestID(ctx), Address: httpx.ClientAddress(r)}
		if err == nil {
			event.Actor, event.Token = caller.Actor(), caller.Token()
			httpx.Note(ctx, slog.String("subject", event.Actor), slog.String("token", event.Token))
			caller.RequestID, caller.Address = event.RequestID, event.Address
			answer, err = run(Request{r, caller})
		}
		if err != nil {
			status := writeError(w, err)
			httpx.Note(ctx, slog.String("error", err.Error()))
			if status < http.StatusInternalServerError {
				event.Outcome = audit.Refused
			}
			event.Reason = err.Error()
			a.audit.Record(ctx, event)
			return
		}
		switch answer := answer.(type) {
		case nil:
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusOK)
		case Stream:
			httpx.StartJSON(w, http.StatusOK)
			if err := answer(w); err != nil {
				httpx.Note(ctx, slog.String("error", err.Error()))
				panic(http.ErrAbortHandler) // an answer cut short must not look whole
			}
		default:
			httpx.WriteJSON(w, http.StatusOK, answer)
		}
	})
}

// Handler serves the routes, with and without Prefix.
func (a *API) Handler() http.Handler {
	a.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_ = writeError(w, machine.NotFound())
	})
	routes := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.Path, Prefix+"/"); ok {
			r.URL.Path, r.URL.RawPath = "/"+rest, ""
		}
		a.mux.ServeHTTP(w, r)
	})
	return httpx.Wrap(httpx.CORS(append([]string{httpx.DesktopOrigin}, a.config.Origins...), routes), httpx.Options{
		Function: a.config.Function, Logger: a.config.Logger, Timeout: a.config.Timeout, MaxBody: a.config.MaxBody,
	})
}

// ID reads an id of the path. One that is no UUID does not exist.
func (r Request) ID(name string) (string, error) {
	id, err := uuid.Parse(r.PathValue(name))
	if err != nil {
		return "", machine.NotFound()
	}
	return id.String(), nil
}

// Access is what the caller may do in the organisation that the path names.
func (r Request) Access(name string) (machine.Access, error) {
	organization, err := r.ID(name)
	if err != nil {
		return machine.Access{}, err
	}
	return r.Caller.In(organization)
}

// Read decodes the body. Members that are not known are let be, as in the
// original.
func (r Request) Read(into any) error {
	content, err := io.ReadAll(r.Body)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return machine.Invalid("The request body is larger than %d bytes.", tooLarge.Limit)
	}
	if err != nil {
		return machine.Invalid("The request body could not be read.")
	}
	if err := json.Unmarshal(content, into); err != nil {
		// The text of the error could quote what was sent.
		if mistyped := (*json.UnmarshalTypeError)(nil); errors.As(err, &mistyped) && mistyped.Field != "" {
			return &machine.Problem{Class: fault.Invalid, Message: "The model state is invalid.", Fields: map[string][]string{
				mistyped.Field: {fmt.Sprintf("It must not be a JSON %s.", strings.Fields(mistyped.Value + " value")[0])},
			}}
		}
		return machine.Invalid("The request body is not the JSON that is expected here.")
	}
	return nil
}

// IDs checks ids of a body: UUIDs, which it gives in lower case.
func IDs(texts []string) ([]string, error) {
	ids := make([]string, len(texts))
	for i, text := range texts {
		id, err := uuid.Parse(text)
		if err != nil {
			return nil, machine.Invalid("%.40q is not an id.", text)
		}
		ids[i] = id.String()
	}
	return ids, nil
}

// List is an answer of several things. Clients do not page.
type List[T any] struct {
	Data              []T     `json:"data"`
	ContinuationToken *string `json:"continuationToken"`
	Object            string  `json:"object"`
}

// NewList makes the answer of these things, which may be none.
func NewList[T any](data []T) List[T] {
	if data == nil {
		data = []T{}
	}
	return List[T]{Data: data, Object: "list"}
}

// BulkResult tells of one of several things that were to be done.
type BulkResult struct {
	ID     string  `json:"id"`
	Error  *string `json:"error"`
	Object string  `json:"object"`
}

// NewBulkResult makes a result; an empty problem is none.
func NewBulkResult(id, problem string) BulkResult {
	r := BulkResult{ID: id, Object: "BulkDeleteResponseModel"}
	if problem != "" {
		r.Error = &problem
	}
	return r
}

// AccessDenied is the problem of a thing that the caller may not change.
const AccessDenied = "access denied"

// writeError is the one place where a class of failure becomes a status.
// Everything else about it is in the log under the request id.
func writeError(w http.ResponseWriter, err error) (status int) {
	message := "An unexpected error has occurred."
	var members map[string][]string
	problem, told := machine.AsProblem(err)
	if told {
		message, members = problem.Message, problem.Fields
	}
	switch class := fault.Of(err); {
	case class == fault.Unauthenticated:
		status = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", "Bearer")
		if !told {
			message = authMessage(err)
		}
	case class == fault.NotFound, class == fault.Forbidden:
		status = http.StatusNotFound
		if !told {
			message = "Resource not found."
		}
	case told && (class == fault.Invalid || class == fault.Conflict):
		status = http.StatusBadRequest
	case class == fault.Transient, class == fault.Denied:
		status, message = http.StatusServiceUnavailable, "Secrets Manager is not available at the moment. Please try again."
	case class == fault.Lost:
		status, message = http.StatusInternalServerError, "What is stored here cannot be read. Please tell your administrator."
	default:
		status = http.StatusInternalServerError
	}
	httpx.WriteBitwardenProblem(w, status, message, members)
	return status
}
