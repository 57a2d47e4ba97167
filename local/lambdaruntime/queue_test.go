package lambdaruntime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/logtest"
)

// waits lets no time pass, and tells how much would have.
type waits struct {
	mu  sync.Mutex
	all []time.Duration
}

func (w *waits) wait(_ context.Context, d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, d)
	return nil
}

func (w *waits) list() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.all)
}

func queueOf(t *testing.T, c QueueConfig) *Queue {
	t.Helper()
	q, err := NewQueue(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

// post invokes over HTTP as the SDK would, but for what change does.
func post(t *testing.T, q *Queue, name, event string, change func(*http.Request)) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, q.URL+"/2015-03-31/functions/"+name+"/invocations", strings.NewReader(event))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Invocation-Type", "Event")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=local/20260901/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=00")
	if change != nil {
		change(r)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.Body.Close(); err != nil {
		t.Error(err)
	}
	return answer
}

// note is an event that has the function write down its request id, and fail
// until it did so more than failures times.
func note(t *testing.T, path string, failures int) string {
	t.Helper()
	event, err := json.Marshal(map[string]string{"do": "note", "file": path, "failures": strconv.Itoa(failures)})
	if err != nil {
		t.Fatal(err)
	}
	return string(event)
}

// notes waits until there are this many.
func notes(t *testing.T, path string, n int) (ids, pids []string) {
	t.Helper()
	for {
		content, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if bytes.Count(content, []byte("\n")) >= n {
			for line := range strings.Lines(string(content)) {
				id, pid, _ := strings.Cut(strings.TrimSpace(line), " ")
				ids, pids = append(ids, id), append(pids, pid)
			}
			return ids, pids
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("there is only %q", content)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestAnEventIsTakenAndThenDelivered(t *testing.T) {
	f := run(t, "raw", nil)
	q := queueOf(t, QueueConfig{Functions: []*Function{f}})
	path := filepath.Join(t.TempDir(), "notes")
	for i, name := range []string{
		"under-test", "under-test:live", "123456789012:function:under-test",
		"arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Afunction%3Aunder-test%3Alive",
	} {
		answer := post(t, q, name, note(t, path, 0), nil)
		if answer.StatusCode != http.StatusAccepted {
			t.Fatalf("%s: %s", name, answer.Status)
		}
		if ids, _ := notes(t, path, i+1); ids[i] == "" || ids[i] != answer.Header.Get("X-Amzn-Requestid") {
			t.Errorf("%s: the request ids are %v and %s", name, ids, answer.Header.Get("X-Amzn-Requestid"))
		}
	}
}

func TestAnEventThatFailsIsTriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		retries, failures, tries int
		waits                    []time.Duration
		dropped                  bool
	}{
		"it does not fail":            {2, 0, 1, nil, false},
		"it fails once":               {2, 1, 2, []time.Duration{time.Minute}, false},
		"it fails twice":              {2, 2, 3, []time.Duration{time.Minute, 2 * time.Minute}, false},
		"it fails each time":          {2, 9, 3, []time.Duration{time.Minute, 2 * time.Minute}, true},
		"it may be tried twice":       {1, 9, 2, []time.Duration{time.Minute}, true},
		"it may not be tried again":   {0, 9, 1, nil, true},
		"it succeeds in the last try": {1, 1, 2, []time.Duration{time.Minute}, false},
	} {
		t.Run(name, func(t *testing.T) {
			log, w := &logtest.Log{}, &waits{}
			f := run(t, "raw", func(c *Config) { c.Logs = log })
			q := queueOf(t, QueueConfig{Functions: []*Function{f}, Retries: c.retries, Wait: w.wait})
			path := filepath.Join(t.TempDir(), "notes")
			id, err := q.Send("under-test", []byte(note(t, path, c.failures)))
			if err != nil {
				t.Fatal(err)
			}
			for len(q.queued) > 0 {
				time.Sleep(5 * time.Millisecond)
			}
			ids, _ := notes(t, path, c.tries)
			if len(ids) != c.tries || slices.ContainsFunc(ids, func(other string) bool { return other != id }) {
				t.Errorf("event %s was tried as %v", id, ids)
			}
			if got := w.list(); !slices.Equal(got, c.waits) {
				t.Errorf("it waited %v", got)
			}
			if strings.Contains(log.String(), "its event is dropped") != c.dropped || strings.Count(log.String(), id) != min(c.failures, c.tries) {
				t.Errorf("the log is\n%s", log)
			}
		})
	}
}

func TestNoMoreEventsRunAtOnceThanThereMayBeInstances(t *testing.T) {
	f := run(t, "raw", func(c *Config) { c.MaxInstances = 2 })
	q := queueOf(t, QueueConfig{Functions: []*Function{f}})
	path := filepath.Join(t.TempDir(), "notes")
	const events = 12
	for range events {
		if _, err := q.Send("under-test", []byte(note(t, path, 0))); err != nil {
			t.Fatal(err)
		}
	}
	ids, pids := notes(t, path, events)
	slices.Sort(ids)
	slices.Sort(pids)
	if len(slices.Compact(ids)) != events || len(slices.Compact(pids)) > 2 {
		t.Errorf("%d events in the processes %v", len(ids), slices.Compact(pids))
	}
}

func TestWhatTheQueueRefuses(t *testing.T) {
	q := queueOf(t, QueueConfig{Functions: []*Function{run(t, "raw", nil)}})
	for name, c := range map[string]struct {
		function, event string
		change          func(*http.Request)
		status          int
		kind            string
	}{
		"another function":         {"another", "{}", nil, http.StatusNotFound, "ResourceNotFoundException"},
		"no JSON":                  {"under-test", "{", nil, http.StatusBadRequest, "InvalidRequestContentException"},
		"too much":                 {"under-test", `"` + strings.Repeat("x", maxEvent) + `"`, nil, http.StatusRequestEntityTooLarge, "RequestTooLargeException"},
		"a call that waits":        {"under-test", "{}", func(r *http.Request) { r.Header.Del("X-Amz-Invocation-Type") }, http.StatusBadRequest, "InvalidParameterValueException"},
		"a call without signature": {"under-test", "{}", func(r *http.Request) { r.Header.Del("Authorization") }, http.StatusForbidden, "MissingAuthenticationTokenException"},
	} {
		t.Run(name, func(t *testing.T) {
			answer := post(t, q, c.function, c.event, c.change)
			if answer.StatusCode != c.status || answer.Header.Get("X-Amzn-Errortype") != c.kind {
				t.Errorf("%s, %s", answer.Status, answer.Header.Get("X-Amzn-Errortype"))
			}
		})
	}
	for _, retries := range []int{-1, 3} {
		if _, err := NewQueue(QueueConfig{Retries: retries}); fault.Of(err) != fault.Invalid {
			t.Errorf("%d retries: %v", retries, err)
		}
	}
	for range maxQueued {
		q.queued <- struct{}{}
	}
	if answer := post(t, q, "under-test", "{}", nil); answer.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a full queue: %s", answer.Status)
	}
}

func TestAClosedQueueForgetsAndTakesNothing(t *testing.T) {
	f := run(t, "raw", nil)
	waiting := make(chan struct{})
	q := queueOf(t, QueueConfig{Functions: []*Function{f}, Retries: 2, Wait: func(ctx context.Context, _ time.Duration) error {
		close(waiting)
		<-ctx.Done()
		return ctx.Err()
	}})
	if _, err := q.Send("under-test", []byte(`{"do":"fail"}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Send("under-test", []byte(`{"do":"sleep"}`)); err != nil {
		t.Fatal(err)
	}
	<-waiting
	if err := q.Close(); err != nil { // although one sleeps and one waits
		t.Fatal(err)
	}
	if len(q.queued) != 0 {
		t.Errorf("%d events are left", len(q.queued))
	}
	if _, err := q.Send("under-test", []byte(`{}`)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := q.Send("another", []byte(`{}`)); fault.Of(err) != fault.NotFound {
		t.Error(err)
	}
}
