package lambdaruntime

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// instance is one bootstrap process.
type instance struct {
	id       string // also the secret in its Runtime API address
	command  *exec.Cmd
	begun    time.Time
	asks     chan time.Time   // it has asked for work, for the first time or again
	calls    chan *invocation // work for the request that asks
	initFail chan *Error
	exited   chan struct{}
	state    string // how it exited, once exited is closed

	mu      sync.Mutex
	asking  bool
	current *invocation
}

// invocation is one event on its way.
type invocation struct {
	id       string
	trace    string
	payload  []byte
	deadline time.Time
	once     sync.Once
	outcome  result
	result   chan result // gets the outcome once the instance is done with it
}

type result struct {
	payload []byte
	err     error
}

func newInvocation(id string, payload []byte) *invocation {
	return &invocation{id: id, trace: newTraceID(), payload: payload, result: make(chan result, 1)}
}

// finish sets the outcome; the first one counts.
func (i *invocation) finish(payload []byte, err error) {
	i.once.Do(func() { i.outcome = result{payload, err} })
}

// start runs a new process and waits until it asks for work.
func (f *Function) start() (*instance, error) {
	in := &instance{
		// Whoever knows the address can take invocations, and with them tokens;
		// only the process does.
		id:       rand.Text(),
		asks:     make(chan time.Time, 1),
		calls:    make(chan *invocation),
		initFail: make(chan *Error, 1),
		exited:   make(chan struct{}),
	}
	in.command = exec.Command(f.config.Bootstrap)
	in.command.Dir = filepath.Dir(f.config.Bootstrap)
	in.command.Env = f.environment(in.id)
	logs := &lineWriter{to: f.logs}
	in.command.Stdout, in.command.Stderr = logs, logs
	in.command.WaitDelay = time.Second // a grandchild may hold the pipe

	if err := f.launch(in); err != nil {
		return nil, fmt.Errorf("%w: start %s: %w", fault.Invalid, f.config.Name, err)
	}
	go func() {
		err := in.command.Wait()
		logs.flush()
		in.state = "exit status 0"
		if err != nil {
			in.state = err.Error()
		}
		f.forget(in)
		close(in.exited)
	}()

	timer := time.NewTimer(f.config.InitTimeout)
	defer timer.Stop()
	select {
	case at := <-in.asks:
		if f.config.Started != nil {
			f.config.Started(at.Sub(in.begun))
		}
		return in, nil
	case failure := <-in.initFail:
		in.kill()
		return nil, failure
	case <-in.exited:
		select {
		case failure := <-in.initFail:
			return nil, failure
		default:
			return nil, in.exitError("")
		}
	case <-timer.C:
		in.kill()
		return nil, &Error{Type: "Sandbox.Timedout", Message: fmt.Sprintf("Error: the start took longer than %.2f seconds", f.config.InitTimeout.Seconds())}
	case <-f.closing:
		in.kill()
		return nil, ErrClosed
	}
}

// launch starts the process and makes it known, under the lock, so that its
// first request for work is not taken for a stranger's.
func (f *Function) launch(in *instance) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	in.begun = time.Now()
	if err := in.command.Start(); err != nil {
		return err
	}
	f.instances[in.id] = in
	return nil
}

func (f *Function) forget(in *instance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.instances, in.id)
	f.idle = slices.DeleteFunc(f.idle, func(other *instance) bool { return other == in })
}

// kill ends the process and waits for its end. One that has ended is no error.
func (in *instance) kill() {
	_ = in.command.Process.Kill()
	<-in.exited
}

func (in *instance) hasExited() bool {
	select {
	case <-in.exited:
		return true
	default:
		return false
	}
}

func (in *instance) exitError(requestID string) *Error {
	message := "Error: Runtime exited with error: " + in.state
	if requestID != "" {
		message = "RequestId: " + requestID + " " + message
	}
	return &Error{Type: "Runtime.ExitError", Message: message}
}

// environment is what Lambda sets for provided.al2023, over the function's own.
func (f *Function) environment(id string) []string {
	variables := map[string]string{
		"AWS_REGION":         "us-east-1",
		"AWS_DEFAULT_REGION": "us-east-1",
		"LANG":               "en_US.UTF-8",
		"PATH":               "/usr/local/bin:/usr/bin:/bin",
		"TZ":                 ":UTC",
	}
	for name, value := range f.config.Env {
		variables[name] = value
	}
	folder := filepath.Dir(f.config.Bootstrap)
	for name, value := range map[string]string{
		"AWS_LAMBDA_RUNTIME_API":          f.address + "/" + id,
		"AWS_LAMBDA_FUNCTION_NAME":        f.config.Name,
		"AWS_LAMBDA_FUNCTION_VERSION":     "$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": strconv.Itoa(f.config.MemoryMB),
		"AWS_LAMBDA_INITIALIZATION_TYPE":  "on-demand",
		"AWS_LAMBDA_LOG_FORMAT":           "JSON",
		"AWS_LAMBDA_LOG_GROUP_NAME":       "/aws/lambda/" + f.config.Name,
		"AWS_LAMBDA_LOG_STREAM_NAME":      time.Now().UTC().Format("2006/01/02") + "/[$LATEST]" + hex.EncodeToString([]byte(id[:8])),
		"LAMBDA_TASK_ROOT":                folder,
		"LAMBDA_RUNTIME_DIR":              folder,
		"_HANDLER":                        "bootstrap",
	} {
		variables[name] = value
	}
	list := make([]string, 0, len(variables))
	for name, value := range variables {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}

// api is the Runtime API. Each instance has it under a path of its own.
func (f *Function) api() http.Handler {
	mux := http.NewServeMux()
	route := func(pattern string, serve func(*instance, http.ResponseWriter, *http.Request)) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /{instance}/2018-06-01/runtime"+path, func(w http.ResponseWriter, r *http.Request) {
			f.mu.Lock()
			in := f.instances[r.PathValue("instance")]
			f.mu.Unlock()
			if in == nil {
				refuse(w, http.StatusForbidden, "State.Forbidden", "there is no such instance")
				return
			}
			serve(in, w, r)
		})
	}
	route("GET /invocation/next", f.next)
	route("POST /invocation/{id}/response", (*instance).response)
	route("POST /invocation/{id}/error", (*instance).failure)
	route("POST /init/error", (*instance).initError)
	return mux
}

func (f *Function) next(in *instance, w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	in.mu.Lock()
	twice := in.asking
	in.asking, in.current = true, nil
	in.mu.Unlock()
	if twice {
		refuse(w, http.StatusForbidden, "State.Forbidden", "an instance has one invocation at a time")
		return
	}
	in.asks <- now // it has room: whoever waits takes each before the next call
	var call *invocation
	select {
	case call = <-in.calls:
	case <-r.Context().Done():
		return // the process hung up, which an instance does once, at its end
	}
	in.mu.Lock()
	in.asking, in.current = false, call
	in.mu.Unlock()

	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Lambda-Runtime-Aws-Request-Id", call.id)
	header.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(call.deadline.UnixMilli(), 10))
	header.Set("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:123456789012:function:"+f.config.Name)
	header.Set("Lambda-Runtime-Trace-Id", call.trace)
	// If the process is gone, its exit tells.
	_, _ = w.Write(call.payload)
}

// answered gives the invocation that a response or an error is for, once.
func (in *instance) answered(w http.ResponseWriter, r *http.Request) *invocation {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.current == nil || in.current.id != r.PathValue("id") {
		refuse(w, http.StatusBadRequest, "InvalidRequestID", "this is not the invocation that the instance has")
		return nil
	}
	call := in.current
	in.current = nil
	return call
}

func (in *instance) response(w http.ResponseWriter, r *http.Request) {
	call := in.answered(w, r)
	if call == nil {
		return
	}
	payload, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxPayload))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		message := fmt.Sprintf("Response payload size exceeded maximum allowed payload size (%d bytes).", MaxPayload)
		call.finish(nil, &Error{Type: "Function.ResponseSizeTooLarge", Message: message})
		refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", message)
		return
	case err != nil:
		return // the process died while it wrote; its exit tells
	}
	if kind := r.Trailer.Get("Lambda-Runtime-Function-Error-Type"); kind != "" {
		call.finish(nil, &Error{Type: kind, Message: "the function failed while it wrote its answer"})
	} else {
		call.finish(payload, nil)
	}
	accept(w)
}

func (in *instance) failure(w http.ResponseWriter, r *http.Request) {
	call := in.answered(w, r)
	if call == nil {
		return
	}
	call.finish(nil, reported(w, r))
	accept(w)
}

func (in *instance) initError(w http.ResponseWriter, r *http.Request) {
	select {
	case in.initFail <- reported(w, r):
		accept(w)
	default:
		refuse(w, http.StatusForbidden, "State.Forbidden", "the start has been reported to have failed")
	}
}

// reported reads what a runtime says of a failure.
func reported(w http.ResponseWriter, r *http.Request) *Error {
	failure := &Error{}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxPayload))
	if err == nil {
		err = json.Unmarshal(body, failure)
	}
	if err != nil {
		failure.Message = "the function's report of its failure could not be read"
	}
	if kind := r.Header.Get("Lambda-Runtime-Function-Error-Type"); kind != "" {
		failure.Type = kind
	}
	if failure.Type == "" {
		failure.Type = "Runtime.Unknown"
	}
	return failure
}

func accept(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, `{"status":"OK"}`)
}

func refuse(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(Error{Type: kind, Message: message})
}

// newTraceID makes one in X-Ray's form, not sampled.
func newTraceID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("Root=1-%08x-%x;Sampled=0", time.Now().Unix(), b)
}
