// Package lambdaruntime runs real Lambda binaries on this machine. It speaks the
// Lambda Runtime API (2018-06-01) to `bootstrap` processes that it starts, and
// Handler puts an API Gateway HTTP API in front of them. A Queue invokes them
// asynchronously.
//
// Like Lambda it gives an instance one invocation at a time, starts another
// instance when all are busy, keeps them for later, ends an instance that
// overruns its time, and takes a crash, a panic or a failed start for the error
// of one invocation, after which the next gets a new instance. Unlike Lambda,
// invocations beyond MaxInstances wait instead of being refused.
package lambdaruntime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// MaxPayload is the most that Lambda carries to a function or back, in bytes.
const MaxPayload = 6<<20 + 100

// Config says what to run. Zero values are the defaults given here.
type Config struct {
	// Name is the function's name; "function".
	Name string
	// Bootstrap is the executable. Instances run in its folder.
	Bootstrap string
	// Env is an instance's environment, beside the variables that Lambda sets.
	// Nothing is inherited from this process.
	Env map[string]string
	// MaxInstances is how many run at the same time at the most; 10.
	MaxInstances int
	// MemoryMB is what the instances are told. It is not enforced. 256.
	MemoryMB int
	// Timeout bounds an invocation; 10 s.
	Timeout time.Duration
	// InitTimeout bounds the start of an instance, until it asks for its first
	// invocation; 10 s as on Lambda.
	InitTimeout time.Duration
	// Logs gets what the instances print, line by line; nil for nowhere.
	Logs io.Writer
	// Started is told how long each instance took from its start to its first
	// request for work. It is called from many goroutines. Optional.
	Started func(time.Duration)
}

// Error is a function error, as Lambda reports one: the handler returned an
// error, panicked, exited or overran its time, or the instance did not start.
type Error struct {
	// Type is the runtime's or Lambda's own: "Sandbox.Timedout",
	// "Runtime.ExitError", "Function.ResponseSizeTooLarge", "errorString".
	Type string `json:"errorType"`
	// Message is what the function reported. It is not for its callers.
	Message string `json:"errorMessage"`
}

func (e *Error) Error() string { return "function error " + e.Type + ": " + e.Message }

// ErrClosed is the end of invocations that Close found unfinished, and of later
// ones.
var ErrClosed = errors.New("the Lambda runtime is closed")

// Function is one function and its instances.
type Function struct {
	config  Config
	address string
	server  *http.Server
	logs    *sharedWriter

	slots   chan struct{} // one held by every invocation that has an instance
	closing chan struct{}
	work    sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	instances map[string]*instance // by the secret in their address
	idle      []*instance          // the last used at the end
}

// New prepares a function. The first invocation starts the first instance.
func New(config Config) (*Function, error) {
	if err := check(&config); err != nil {
		return nil, fmt.Errorf("lambda runtime: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("lambda runtime: %w", err)
	}
	f := &Function{
		config:    config,
		address:   listener.Addr().String(),
		logs:      &sharedWriter{w: config.Logs},
		slots:     make(chan struct{}, config.MaxInstances),
		closing:   make(chan struct{}),
		instances: make(map[string]*instance),
	}
	f.server = &http.Server{Handler: f.api(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = f.server.Serve(listener) }() // until Close
	return f, nil
}

func check(c *Config) error {
	if c.Name == "" {
		c.Name = "function"
	}
	if c.MaxInstances == 0 {
		c.MaxInstances = 10
	}
	if c.MemoryMB == 0 {
		c.MemoryMB = 256
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.InitTimeout == 0 {
		c.InitTimeout = 10 * time.Second
	}
	if c.Logs == nil {
		c.Logs = io.Discard
	}
	if c.MaxInstances < 0 || c.MemoryMB < 0 || c.Timeout < 0 || c.InitTimeout < 0 {
		return fmt.Errorf("%w: a limit is negative", fault.Invalid)
	}
	path, err := filepath.Abs(c.Bootstrap)
	if err != nil {
		return fmt.Errorf("%w: bootstrap %q: %w", fault.Invalid, c.Bootstrap, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%w: bootstrap: %w", fault.Invalid, err)
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("%w: bootstrap %s is not an executable file", fault.Invalid, path)
	}
	c.Bootstrap = path
	return nil
}

// Invoke gives payload, which is JSON, to an instance and returns its answer. A
// function error is an *Error. When ctx ends first, the invocation goes on
// without its caller, as on Lambda.
func (f *Function) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	return f.invoke(ctx, uuid.NewString(), payload)
}

// invoke is Invoke with the request id that the function gets.
func (f *Function) invoke(ctx context.Context, id string, payload []byte) ([]byte, error) {
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("%w: invoke %s: the payload has %d bytes, more than %d", fault.Invalid, f.config.Name, len(payload), MaxPayload)
	}
	select {
	case f.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: invoke %s: all %d instances are busy: %w", fault.Transient, f.config.Name, f.config.MaxInstances, ctx.Err())
	case <-f.closing:
		return nil, ErrClosed
	}
	call := newInvocation(id, payload)
	if !f.begin() {
		<-f.slots
		return nil, ErrClosed
	}
	go func() {
		defer f.work.Done()
		f.run(call)
		// The instance is at rest before its answer is out, so that somebody who
		// calls again at once finds it.
		<-f.slots
		call.result <- call.outcome
	}()
	select {
	case result := <-call.result:
		return result.payload, result.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: invoke %s: %w", fault.Transient, f.config.Name, ctx.Err())
	}
}

func (f *Function) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.work.Add(1)
	return true
}

// run finds an instance for a call and stays with them until the instance asks
// for more work, which may be after its answer, or is gone.
func (f *Function) run(call *invocation) {
	in, err := f.hand(call)
	if err != nil {
		call.finish(nil, err)
		return
	}
	deadline := time.NewTimer(time.Until(call.deadline))
	defer deadline.Stop()
	select {
	case <-in.asks:
		call.finish(nil, &Error{Type: "Runtime.NoResponse", Message: "the runtime asked for its next invocation without answering this one"})
		f.rest(in)
	case <-in.exited:
		call.finish(nil, in.exitError(call.id))
	case <-deadline.C:
		in.kill()
		call.finish(nil, &Error{
			Type:    "Sandbox.Timedout",
			Message: fmt.Sprintf("RequestId: %s Error: Task timed out after %.2f seconds", call.id, f.config.Timeout.Seconds()),
		})
	case <-f.closing:
		in.kill()
		call.finish(nil, ErrClosed)
	}
}

// hand gives call to an instance that was idle, or to a new one. An instance
// that died while it was idle has not seen the call, so another gets it.
func (f *Function) hand(call *invocation) (*instance, error) {
	for {
		in := f.takeIdle()
		if in == nil {
			var err error
			if in, err = f.start(); err != nil {
				return nil, err
			}
		}
		if in.hasExited() {
			continue
		}
		call.deadline = time.Now().Add(f.config.Timeout)
		select {
		case in.calls <- call:
			return in, nil
		case <-in.exited:
		case <-f.closing:
			in.kill()
			return nil, ErrClosed
		}
	}
}

func (f *Function) takeIdle() *instance {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.idle) == 0 {
		return nil
	}
	in := f.idle[len(f.idle)-1]
	f.idle = f.idle[:len(f.idle)-1]
	return in
}

func (f *Function) rest(in *instance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.idle = append(f.idle, in)
}

// Close ends every instance and waits until no process is left. It returns the
// first error that writing to Logs met.
func (f *Function) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	close(f.closing)
	f.mu.Unlock()

	f.work.Wait() // no instance is started from here on
	f.mu.Lock()
	left := make([]*instance, 0, len(f.instances))
	for _, in := range f.instances {
		left = append(left, in)
	}
	f.mu.Unlock()
	for _, in := range left {
		in.kill()
	}
	if err := f.server.Close(); err != nil {
		return fmt.Errorf("lambda runtime: close: %w", err)
	}
	return f.logs.err()
}
