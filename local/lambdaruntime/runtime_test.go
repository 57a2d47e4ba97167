package lambdaruntime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/logtest"
)

// run starts a function whose bootstrap is this test binary.
func run(t *testing.T, mode string, change func(*Config)) *Function {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	config := Config{
		Name: "under-test", Bootstrap: executable, Env: map[string]string{bootstrapMode: mode},
		Timeout: time.Minute, InitTimeout: time.Minute, Logs: &testLog{t: t},
	}
	if change != nil {
		change(&config)
	}
	f, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return f
}

// testLog shows the instances' output with the test's.
type testLog struct{ t *testing.T }

func (l *testLog) Write(b []byte) (int, error) {
	l.t.Logf("instance: %s", b)
	return len(b), nil
}

type rawAnswer struct {
	RequestID   string
	ARN         string
	PID         int
	HasDeadline bool
	Trace       string
}

func invoke(t *testing.T, f *Function) rawAnswer {
	t.Helper()
	payload, err := f.Invoke(t.Context(), []byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	var answer rawAnswer
	if err := json.Unmarshal(payload, &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func wantError(t *testing.T, err error, kind, message string) {
	t.Helper()
	var functionError *Error
	if !errors.As(err, &functionError) || functionError.Type != kind || !strings.Contains(functionError.Message, message) {
		t.Errorf("got %v, want the function error %s with %q", err, kind, message)
	}
}

func TestAnInvocationGoesThereAndBack(t *testing.T) {
	var mu sync.Mutex
	var starts []time.Duration
	f := run(t, "raw", func(c *Config) {
		c.Started = func(d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			starts = append(starts, d)
		}
	})
	first, second := invoke(t, f), invoke(t, f)
	if first.PID != second.PID {
		t.Error("the second invocation had another instance although the first was idle")
	}
	if first.RequestID == "" || first.RequestID == second.RequestID || !strings.HasPrefix(first.Trace, "Root=1-") {
		t.Errorf("request ids %q and %q, trace %q", first.RequestID, second.RequestID, first.Trace)
	}
	if !first.HasDeadline || !strings.HasSuffix(first.ARN, ":function:under-test") {
		t.Errorf("deadline %v, arn %q", first.HasDeadline, first.ARN)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(starts) != 1 || starts[0] <= 0 {
		t.Errorf("starts measured: %v", starts)
	}
}

func TestFiftyAtOnceShareTheInstances(t *testing.T) {
	const most = 4
	f := run(t, "http", func(c *Config) { c.MaxInstances = most })
	var mu sync.Mutex
	pids := map[string]bool{}
	var wg sync.WaitGroup
	for n := range 50 {
		wg.Go(func() {
			response := request(t, f, http.MethodGet, fmt.Sprintf("/slow?n=%d", n), nil, nil)
			var got, pid string
			if _, err := fmt.Sscan(response.body, &got, &pid); err != nil || got != fmt.Sprint(n) {
				t.Errorf("request %d got the answer %q of another", n, response.body)
			}
			mu.Lock()
			defer mu.Unlock()
			pids[pid] = true
		})
	}
	wg.Wait()
	if len(pids) < 2 || len(pids) > most {
		t.Errorf("%d instances", len(pids))
	}
}

func TestFailuresAreOneInvocations(t *testing.T) {
	for name, c := range map[string]struct {
		event, kind, message string
		sameInstance         bool
	}{
		"an error":                   {`{"do":"fail"}`, "errorString", "it did not work", true},
		"a panic":                    {`{"do":"panic"}`, "string", "all is lost", false},
		"an answer that breaks off":  {`{"do":"break off"}`, "errorString", "while it wrote", true},
		"an answer that is too long": {fmt.Sprintf(`{"do":"answer with bytes","n":"%d"}`, MaxPayload+1), "Function.ResponseSizeTooLarge", "exceeded", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := run(t, "raw", func(c *Config) { c.MaxInstances = 1 })
			before := invoke(t, f)
			_, err := f.Invoke(t.Context(), []byte(c.event))
			wantError(t, err, c.kind, c.message)
			after := invoke(t, f)
			if (before.PID == after.PID) != c.sameInstance {
				t.Errorf("instances %d and %d", before.PID, after.PID)
			}
		})
	}
}

func TestTheLargestPayloadsPass(t *testing.T) {
	f := run(t, "raw", nil)
	payload, err := f.Invoke(t.Context(), fmt.Appendf(nil, `{"do":"answer with bytes","n":"%d"}`, MaxPayload))
	if err != nil || len(payload) != MaxPayload {
		t.Errorf("answer of %d bytes, %v", len(payload), err)
	}
	envelope := `{"x":""}`
	event := `{"x":"` + strings.Repeat("x", MaxPayload-len(envelope)) + `"}`
	if _, err := f.Invoke(t.Context(), []byte(event)); err != nil {
		t.Error(err)
	}
	if _, err := f.Invoke(t.Context(), []byte(event+" ")); !errors.Is(err, fault.Invalid) {
		t.Errorf("one byte more: got %v", err)
	}
}

func TestAnInvocationThatOverrunsItsTimeEndsItsInstance(t *testing.T) {
	f := run(t, "raw", func(c *Config) { c.Timeout, c.MaxInstances = time.Second, 1 })
	before := invoke(t, f)
	_, err := f.Invoke(t.Context(), []byte(`{"do":"sleep"}`))
	wantError(t, err, "Sandbox.Timedout", "timed out after 1.00 seconds")
	if alive(before.PID) {
		t.Error("the process is still there")
	}
	if after := invoke(t, f); after.PID == before.PID {
		t.Error("the instance was used again")
	}
}

func TestAnInstanceThatDiesWhileIdleIsReplacedUnnoticed(t *testing.T) {
	f := run(t, "raw", nil)
	before := invoke(t, f)
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, func() bool { return len(f.pids()) == 0 })
	if after := invoke(t, f); after.PID == before.PID {
		t.Error("the dead answered")
	}
}

func TestFailedStarts(t *testing.T) {
	for mode, want := range map[string]Error{
		"exit at the start":     {"Runtime.ExitError", "exit status 7"},
		"report a failed start": {"Config.Invalid", "a setting is missing"},
		"hang at the start":     {"Sandbox.Timedout", "the start took longer"},
	} {
		t.Run(mode, func(t *testing.T) {
			f := run(t, mode, func(c *Config) {
				if mode == "hang at the start" {
					c.InitTimeout = 300 * time.Millisecond
				}
			})
			for range 2 { // the second is a new attempt, not a memory of the first
				_, err := f.Invoke(t.Context(), []byte(`{}`))
				wantError(t, err, want.Type, want.Message)
			}
			if n := len(f.pids()); n != 0 {
				t.Errorf("%d processes are left", n)
			}
		})
	}
}

func TestARuntimeThatDoesNotAnswerIsAnError(t *testing.T) {
	f := run(t, "ask twice", nil)
	_, err := f.Invoke(t.Context(), []byte(`{}`))
	wantError(t, err, "Runtime.NoResponse", "without answering")
}

func TestACallerThatLeavesDoesNotStopTheInvocation(t *testing.T) {
	f := run(t, "raw", func(c *Config) { c.Timeout, c.MaxInstances = 2*time.Second, 1 })
	invoke(t, f)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := f.Invoke(ctx, []byte(`{"do":"sleep"}`))
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, fault.Transient) {
		t.Errorf("got %v", err)
	}
	// The only instance is still busy, so the next caller waits in vain.
	short, cancelShort := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancelShort()
	if _, err := f.Invoke(short, []byte(`{}`)); !errors.Is(err, fault.Transient) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("got %v", err)
	}
	invoke(t, f) // once its time is over there is a new one
}

func TestCloseLeavesNoProcess(t *testing.T) {
	f := run(t, "raw", func(c *Config) { c.MaxInstances = 3 })
	idle := invoke(t, f)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, err := f.Invoke(t.Context(), []byte(`{"do":"sleep"}`)); !errors.Is(err, ErrClosed) {
				t.Errorf("an invocation under way: got %v", err)
			}
		})
	}
	waitUntil(t, func() bool { return len(f.pids()) == 3 && len(f.slots) == 3 })
	pids := f.pids()
	if !slices.Contains(pids, idle.PID) {
		t.Errorf("instances %v, without the first, %d", pids, idle.PID)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
	if _, err := f.Invoke(t.Context(), []byte(`{}`)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: got %v", err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

func TestAnInstanceHasItsOwnEnvironmentOnly(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "of the developer")
	f := run(t, "http", func(c *Config) {
		c.Env["LATCHKEY_STORE"] = "memory"
		c.Env["AWS_REGION"] = "eu-central-1"
		c.MemoryMB = 512
	})
	got := decode(t, request(t, f, http.MethodGet, "/", nil, nil))
	for _, want := range []string{"LATCHKEY_STORE=memory", "AWS_REGION=eu-central-1", "AWS_LAMBDA_FUNCTION_NAME=under-test", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=512", "_HANDLER=bootstrap"} {
		if !slices.Contains(got.Environment, want) {
			t.Errorf("the environment lacks %s", want)
		}
	}
	if slices.ContainsFunc(got.Environment, func(v string) bool { return strings.HasPrefix(v, "AWS_SECRET_ACCESS_KEY=") }) {
		t.Error("a variable was inherited")
	}
	if folder, err := filepath.EvalSymlinks(filepath.Dir(f.config.Bootstrap)); err != nil || got.Folder != folder {
		t.Errorf("it runs in %s, not in %s", got.Folder, folder)
	}
}

func TestStrangersGetNoInvocation(t *testing.T) {
	f := run(t, "raw", nil)
	invoke(t, f)
	for _, path := range []string{"/2018-06-01/runtime/invocation/next", "/guessed/2018-06-01/runtime/invocation/next"} {
		response, err := http.Get("http://" + f.address + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusNotFound && response.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s", path, response.Status)
		}
	}
}

func TestLogsAreWholeLines(t *testing.T) {
	logs := &logtest.Log{}
	f := run(t, "http", func(c *Config) { c.Logs, c.MaxInstances = logs, 4 })
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() { request(t, f, http.MethodGet, fmt.Sprintf("/print?line=line-%d", n), nil, nil) })
	}
	wg.Wait()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for n := range 8 {
		if !strings.Contains(logs.String(), fmt.Sprintf("line-%d\n", n)) {
			t.Errorf("line %d is missing or cut in: %q", n, logs)
		}
	}
	if !strings.HasSuffix(logs.String(), "no line break\n") {
		t.Errorf("the last line is not whole: %q", logs)
	}
}

func TestALogThatCannotBeWrittenIsTold(t *testing.T) {
	f := run(t, "exit at the start", func(c *Config) { c.Logs = failingWriter{} })
	_, err := f.Invoke(t.Context(), []byte(`{}`))
	wantError(t, err, "Runtime.ExitError", "exit status 7")
	if err := f.Close(); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("close: got %v", err)
	}
}

func TestALineWithoutAnEndIsCut(t *testing.T) {
	var b bytes.Buffer
	l := &lineWriter{to: &sharedWriter{w: &b}}
	for range 3 {
		if n, err := l.Write(make([]byte, maxLine/2)); n != maxLine/2 || err != nil {
			t.Fatal(n, err)
		}
	}
	if b.Len() != maxLine || len(l.rest) != maxLine/2 {
		t.Errorf("%d bytes written, %d kept", b.Len(), len(l.rest))
	}
}

func TestWhatIsNoExecutableIsRefused(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]Config{
		"a missing file":   {Bootstrap: filepath.Join(t.TempDir(), "none")},
		"a plain file":     {Bootstrap: plain},
		"a folder":         {Bootstrap: t.TempDir()},
		"a negative limit": {Bootstrap: os.Args[0], Timeout: -1},
	} {
		if f, err := New(config); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, %v", name, f, err)
		}
	}
	script := filepath.Join(t.TempDir(), "bootstrap")
	if err := os.WriteFile(script, []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := New(Config{Bootstrap: script})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Invoke(t.Context(), []byte(`{}`)); !errors.Is(err, fault.Invalid) {
		t.Errorf("a file that is no program: got %v", err)
	}
}

func (f *Function) pids() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	var pids []int
	for _, in := range f.instances {
		pids = append(pids, in.command.Process.Pid)
	}
	return pids
}

func waitUntil(t *testing.T, condition func() bool) {
	t.Helper()
	for range 3000 {
		if condition() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it did not come to pass")
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }
