package smapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/latchkey-fn/latchkey/shared/auth"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/httpx"
	"github.com/latchkey-fn/latchkey/shared/machine"
)

// Stream writes an answer in JSON that is too large to be held. An error before
// the first byte is answered like any other; after it the connection is cut.
type Stream func(w io.Writer) error

// Accepted is the answer to what will be done later.
type Accepted struct{ Body any }

// errCutShort is of an answer that ended in its middle.
var errCutShort = errors.New("the answer was cut short")

// write answers what an operation gave.
func write(w http.ResponseWriter, answer any) error {
	switch answer := answer.(type) {
	case nil:
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusOK)
	case Stream:
		body := &lateStart{w: w}
		if err := answer(body); err != nil {
			if body.started {
				return fmt.Errorf("%w: %w", errCutShort, err)
			}
			return err
		}
		body.start()
	case Accepted:
		httpx.WriteJSON(w, http.StatusAccepted, answer.Body)
	default:
		httpx.WriteJSON(w, http.StatusOK, answer)
	}
	return nil
}

// lateStart begins a good answer with the first byte of its body, so that until
// then there can be another one.
type lateStart struct {
	w       http.ResponseWriter
	started bool
}

func (l *lateStart) start() {
	if !l.started {
		l.started = true
		httpx.StartJSON(l.w, http.StatusOK)
	}
}

func (l *lateStart) Write(b []byte) (int, error) {
	l.start()
	return l.w.Write(b)
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

// statusError is what HTTP has a status for and shared/fault no class.
type statusError struct {
	status  int
	message string
}

func (s *statusError) Error() string { return s.message }

var (
	errMethod = &statusError{http.StatusMethodNotAllowed, "The method is not allowed here."}
	// errTooManyFailures is joined to the refusal of a made-up token.
	errTooManyFailures = &statusError{http.StatusTooManyRequests, "Too many failed requests. Try again later."}
)

// writeError is the one place where a class of failure becomes a status. What a
// Problem does not tell the client is in the log alone, under the request id.
func (a *API) writeError(w http.ResponseWriter, err error) (status int) {
	status, message := a.statusOf(err)
	var members map[string][]string
	if problem, told := machine.AsProblem(err); told {
		message, members = problem.Message, problem.Fields
	}
	if other, ok := errors.AsType[*statusError](err); ok {
		status, message, members = other.status, other.message, nil
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	httpx.WriteBitwardenProblem(w, status, message, members)
	return status
}

// statusOf gives the status of an error's class, and the message where there is
// no Problem to tell.
func (a *API) statusOf(err error) (status int, message string) {
	const unexpected = "An unexpected error has occurred."
	switch fault.Of(err) {
	case fault.Unauthenticated:
		return http.StatusUnauthorized, auth.Message(err)
	case fault.NotFound, fault.Forbidden:
		return http.StatusNotFound, "Resource not found."
	case fault.Conflict:
		if _, told := machine.AsProblem(err); told {
			return http.StatusBadRequest, ""
		}
		return http.StatusConflict, "It was changed by another request at the same time. Please try again."
	case fault.Invalid:
		if _, told := machine.AsProblem(err); told {
			return http.StatusBadRequest, ""
		}
		return http.StatusInternalServerError, unexpected // it was we who asked wrongly
	case fault.Transient, fault.Denied:
		return http.StatusServiceUnavailable, a.config.Service + " is not available at the moment. Please try again."
	case fault.Lost:
		return http.StatusInternalServerError, "What is stored here cannot be read. Please tell your administrator."
	default:
		return http.StatusInternalServerError, unexpected
	}
}
