package lambdaruntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// maxEvent is the most that Lambda takes for an asynchronous invocation, in
// bytes.
const maxEvent = 1 << 20

// maxQueued bounds the events that wait or are being tried. Lambda's own queue
// has no bound that is told.
const maxQueued = 1000

// Queue is Lambda's queue of asynchronous invocations, with the one call of
// Lambda's API that fills it:
//
//	POST /2015-03-31/functions/{name or ARN}/invocations
//	X-Amz-Invocation-Type: Event
//
// Like Lambda it answers before the function begins, gives an event that failed
// to the function again after one minute and after two more, under the same
// request id and for as many times as Retries allows, and then drops it; that is
// logged, as there are no destinations and no dead-letter queue. How many events of a function run at once is its
// MaxInstances; the others wait. Unlike Lambda it does not verify signatures,
// delivers no event twice that succeeded, and forgets what is queued when it is
// closed.
type Queue struct {
	// URL is the endpoint: the base URL of Lambda's API.
	URL string

	functions map[string]*Function
	pauses    []time.Duration // before each retry
	wait      func(context.Context, time.Duration) error
	server    *http.Server
	work      sync.WaitGroup
	ctx       context.Context //nolint:containedctx // of events that outlive the request
	stop      context.CancelFunc
	queued    chan struct{} // one held by every event

	mu     sync.Mutex
	closed bool
}

// QueueConfig says which functions can be invoked, by their names.
type QueueConfig struct {
	Functions []*Function
	// Retries is how often an event is tried again, as MaximumRetryAttempts of an
	// event invoke configuration: 0, 1 or 2.
	Retries int
	// Wait lets the time between two tries pass, or returns the context's error.
	// Nil: real timers.
	Wait func(context.Context, time.Duration) error
}

// NewQueue makes an empty queue and listens on loopback. It has to be closed
// before its functions are.
func NewQueue(c QueueConfig) (*Queue, error) {
	pauses := []time.Duration{time.Minute, 2 * time.Minute}
	if c.Retries < 0 || c.Retries > len(pauses) {
		return nil, fmt.Errorf("%w: lambda queue: %d retries: choose from 0 to %d", fault.Invalid, c.Retries, len(pauses))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("lambda queue: %w", err)
	}
	q := &Queue{
		URL: "http://" + listener.Addr().String(), functions: map[string]*Function{}, pauses: pauses[:c.Retries], wait: c.Wait, queued: make(chan struct{}, maxQueued),
	}
	for _, f := range c.Functions {
		q.functions[f.config.Name] = f
	}
	if q.wait == nil {
		q.wait = pass
	}
	q.ctx, q.stop = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("POST /2015-03-31/functions/{name}/invocations", q.invoke)
	q.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second}
	q.work.Go(func() { _ = q.server.Serve(listener) }) // until Close
	return q, nil
}

func pass(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Send queues an event, which is JSON, and gives its request id: NotFound where
// there is no such function, Transient where the queue is full.
func (q *Queue) Send(function string, event []byte) (string, error) {
	f := q.functions[function]
	switch {
	case f == nil:
		return "", fmt.Errorf("%w: no function %q", fault.NotFound, function)
	case len(event) > maxEvent:
		return "", fmt.Errorf("%w: the event has %d bytes, more than %d", fault.Invalid, len(event), maxEvent)
	case !json.Valid(event):
		return "", fmt.Errorf("%w: the event is not JSON", fault.Invalid)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return "", ErrClosed
	}
	select {
	case q.queued <- struct{}{}:
	default:
		return "", fmt.Errorf("%w: %d events are queued", fault.Transient, maxQueued)
	}
	id := uuid.NewString()
	q.work.Go(func() {
		defer func() { <-q.queued }()
		q.deliver(f, id, event)
	})
	return id, nil
}

// deliver gives an event to its function until that succeeds, or failed as often
// as it is tried.
func (q *Queue) deliver(f *Function, id string, event []byte) {
	for try := 0; ; try++ {
		_, err := f.invoke(q.ctx, id, event)
		switch {
		case err == nil, q.ctx.Err() != nil, errors.Is(err, ErrClosed):
			return
		case try == len(q.pauses):
			f.report("an asynchronous invocation failed for the last time, and its event is dropped", fmt.Errorf("event %s: %w", id, err))
			return
		}
		f.report("an asynchronous invocation failed", fmt.Errorf("event %s, to be tried again in %s: %w", id, q.pauses[try], err))
		if q.wait(q.ctx, q.pauses[try]) != nil {
			return
		}
	}
}

// invoke is Lambda's call Invoke, asynchronous only.
func (q *Queue) invoke(w http.ResponseWriter, r *http.Request) {
	// Whose signature it is does not matter here, but a page in a browser, which
	// could send the rest, cannot send this header.
	if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ") {
		refuseInvoke(w, http.StatusForbidden, "MissingAuthenticationTokenException", "the request is not signed")
		return
	}
	if kind := r.Header.Get("X-Amz-Invocation-Type"); kind != "Event" {
		refuseInvoke(w, http.StatusBadRequest, "InvalidParameterValueException", "this Lambda has asynchronous invocations only: X-Amz-Invocation-Type: Event")
		return
	}
	event, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEvent))
	if err != nil {
		status, kind := http.StatusBadRequest, "InvalidRequestContentException"
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			status, kind = http.StatusRequestEntityTooLarge, "RequestTooLargeException"
		}
		refuseInvoke(w, status, kind, "the event cannot be read")
		return
	}
	id, err := q.Send(functionName(r.PathValue("name")), event)
	switch fault.Of(err) {
	case fault.NotFound:
		refuseInvoke(w, http.StatusNotFound, "ResourceNotFoundException", err.Error())
		return
	case fault.Invalid:
		refuseInvoke(w, http.StatusBadRequest, "InvalidRequestContentException", err.Error())
		return
	case fault.Transient:
		refuseInvoke(w, http.StatusTooManyRequests, "TooManyRequestsException", err.Error())
		return
	}
	if err != nil {
		refuseInvoke(w, http.StatusInternalServerError, "ServiceException", err.Error())
		return
	}
	w.Header().Set("X-Amzn-Requestid", id)
	w.WriteHeader(http.StatusAccepted)
}

// functionName is the name in a name or an ARN, whole or partial, with a
// qualifier or without.
func functionName(text string) string {
	if i := strings.LastIndex(text, "function:"); i >= 0 {
		text = text[i+len("function:"):]
	}
	name, _, _ := strings.Cut(text, ":")
	return name
}

func refuseInvoke(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("X-Amzn-Errortype", kind)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A caller that went away is nobody's fault, and there is nobody to tell.
	_ = json.NewEncoder(w).Encode(map[string]string{"Type": "User", "message": message})
}

// Close forgets what is queued and leaves what runs to the functions' Close.
func (q *Queue) Close() error {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.stop()
	err := q.server.Close()
	q.work.Wait()
	if err != nil {
		return fmt.Errorf("lambda queue: close: %w", err)
	}
	return nil
}
