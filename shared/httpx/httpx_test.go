package httpx

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func serve(t *testing.T, h http.HandlerFunc, r *http.Request) (*httptest.ResponseRecorder, map[string]any) {
	t.Helper()
	var log bytes.Buffer
	wrapped := Wrap(h, Options{
		Function: "test", Logger: slog.New(slog.NewJSONHandler(&log, nil)), Timeout: 50 * time.Millisecond, MaxBody: 10,
	})
	w := httptest.NewRecorder()
	wrapped.ServeHTTP(w, r)
	var line map[string]any
	if err := json.Unmarshal(log.Bytes(), &line); err != nil {
		t.Fatalf("not one log line: %q", log.String())
	}
	return w, line
}

func get(id string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/path?token=secret", strings.NewReader(strings.Repeat("x", 11)))
	r.Header.Set(RequestIDHeader, id)
	return r
}

func TestARequestIsOneLogLineWithItsIDAndNoQuery(t *testing.T) {
	w, line := serve(t, func(w http.ResponseWriter, r *http.Request) {
		Note(r.Context(), slog.String("extra", "note"))
		if RequestID(r.Context()) != "given-id" {
			t.Error("the context has another request id")
		}
		w.WriteHeader(http.StatusTeapot)
	}, get("given-id"))
	if w.Code != http.StatusTeapot || line["status"] != float64(http.StatusTeapot) || line["requestId"] != "given-id" ||
		line["extra"] != "note" || line["path"] != "/path" || w.Header().Get(RequestIDHeader) != "given-id" {
		t.Errorf("%d %v", w.Code, line)
	}
}

func TestARequestIDThatCouldForgeALogLineIsReplaced(t *testing.T) {
	for _, id := range []string{"", "short", "with blank in it", "with\"quote12", strings.Repeat("x", 129)} {
		_, line := serve(t, func(http.ResponseWriter, *http.Request) {}, get(id))
		if line["requestId"] == id || line["requestId"] == "" {
			t.Errorf("%q was taken over", id)
		}
	}
}

func TestAPanicIsA500AndALogLine(t *testing.T) {
	w, line := serve(t, func(http.ResponseWriter, *http.Request) { panic("broken") }, get("given-id"))
	if stack, _ := line["stack"].([]any); len(stack) == 0 {
		t.Error("the log line does not say where")
	}
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "broken") || line["panic"] != "string" || line["level"] != "ERROR" {
		t.Errorf("%d %s %v", w.Code, w.Body, line)
	}
}

// An answer that ends too early would be taken for the whole where its length was
// not said, as that of a list is not.
func TestAnAnswerThatBreaksOffBreaksTheConnection(t *testing.T) {
	for name, c := range map[string]struct {
		written string
		thrown  any
	}{
		"aborted before anything":     {"", http.ErrAbortHandler},
		"aborted in the middle":       {`{"data":[`, http.ErrAbortHandler},
		"a panic in the middle":       {`{"data":[`, "broken"},
		"a panic after the last byte": {`{"data":[]}`, "broken"},
	} {
		t.Run(name, func(t *testing.T) {
			lines := make(chan map[string]any, 1)
			server := httptest.NewServer(Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if c.written != "" {
					StartJSON(w, http.StatusOK)
					_, _ = io.WriteString(w, c.written)
					if err := http.NewResponseController(w).Flush(); err != nil {
						t.Error(err)
					}
				}
				panic(c.thrown)
			}), Options{Function: "test", Logger: slog.New(slog.NewJSONHandler(logLine(lines), nil)), Timeout: time.Minute, MaxBody: 10}))
			defer server.Close()
			response, err := http.Get(server.URL)
			if err == nil {
				var content []byte
				content, err = io.ReadAll(response.Body)
				if closed := response.Body.Close(); closed != nil {
					t.Error(closed)
				}
				if string(content) != c.written || c.written == "" {
					t.Errorf("came %d %q", response.StatusCode, content)
				}
			}
			if err == nil {
				t.Error("the answer looks whole")
			}
			line := <-lines
			if line["level"] != "ERROR" || line["aborted"] != true || (line["panic"] != nil) != (c.thrown == "broken") || strings.Contains(fmt.Sprint(line), "broken") {
				t.Errorf("logged %v", line)
			}
		})
	}
}

// logLine hands the lines of a JSON log on.
type logLine chan map[string]any

func (l logLine) Write(b []byte) (int, error) {
	var line map[string]any
	if err := json.Unmarshal(b, &line); err != nil {
		return 0, err
	}
	l <- line
	return len(b), nil
}

func TestAHandlersErrorsLevelFollowsTheStatus(t *testing.T) {
	for status, want := range map[int]string{200: "INFO", 404: "INFO", 500: "ERROR", 503: "ERROR"} {
		_, line := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }, get("given-id"))
		if line["level"] != want || line["aborted"] != nil {
			t.Errorf("%d: %v", status, line)
		}
	}
}

func TestAnAnswerInJSONSaysSo(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter){
		"a value":  func(w http.ResponseWriter) { WriteJSON(w, http.StatusCreated, map[string]string{"a": "<b>"}) },
		"a stream": func(w http.ResponseWriter) { StartJSON(w, http.StatusCreated) },
	} {
		w := httptest.NewRecorder()
		answer(w)
		for header, want := range map[string]string{
			"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
		} {
			if got := w.Header().Get(header); got != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got, want)
			}
		}
		if w.Code != http.StatusCreated {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
	// What a handler decided stays: the public keys may be kept.
	w := httptest.NewRecorder()
	w.Header().Set("Cache-Control", "public, max-age=60")
	WriteJSON(w, http.StatusOK, nil)
	if got := w.Header().Get("Cache-Control"); got != "public, max-age=60" || w.Body.String() != "null" {
		t.Errorf("Cache-Control %q, body %q", got, w.Body)
	}
}

func TestAValueThatIsNoJSONIsA500(t *testing.T) {
	w := httptest.NewRecorder()
	WriteJSON(w, http.StatusOK, func() {})
	if w.Code != http.StatusInternalServerError || !json.Valid(w.Body.Bytes()) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAnErrorIsBitwardens(t *testing.T) {
	for name, c := range map[string]struct {
		members map[string][]string
		want    string
	}{
		"without members": {nil, `{"message":"Resource not found.","validationErrors":null,"exceptionMessage":null,"exceptionStackTrace":null,"innerExceptionMessage":null,"object":"error"}`},
		"with members":    {map[string][]string{"Key": {"a", "b"}}, `{"message":"Resource not found.","validationErrors":{"Key":["a","b"]},"exceptionMessage":null,"exceptionStackTrace":null,"innerExceptionMessage":null,"object":"error"}`},
	} {
		w := httptest.NewRecorder()
		WriteBitwardenProblem(w, http.StatusNotFound, "Resource not found.", c.members)
		if w.Code != http.StatusNotFound || w.Body.String() != c.want {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if c.members == nil {
			alike := httptest.NewRecorder()
			WriteBitwardenError(alike, http.StatusNotFound, "Resource not found.")
			if alike.Body.String() != c.want {
				t.Errorf("WriteBitwardenError writes %s", alike.Body)
			}
		}
	}
	w := httptest.NewRecorder()
	w.Header().Set("Retry-After", "60")
	WriteBitwardenError(w, http.StatusTooManyRequests, "message")
	if got := w.Header().Get("Retry-After"); got != "60" {
		t.Errorf("Retry-After is %q, not what was asked for", got)
	}
}

func TestABodyAndTheTimeAreBounded(t *testing.T) {
	serve(t, func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err == nil {
			t.Error("11 bytes were read where 10 are allowed")
		}
		<-r.Context().Done()
		if r.Context().Err() != context.DeadlineExceeded {
			t.Error(r.Context().Err())
		}
	}, get("given-id"))
}

func TestOriginsAreThoseThatBrowsersSend(t *testing.T) {
	for address, want := range map[string]string{
		"https://vault.example.org":             "https://vault.example.org",
		"https://Vault.Example.org/":            "https://vault.example.org",
		"https://vault.example.org:443/#/login": "https://vault.example.org",
		"http://localhost:8080/":                "http://localhost:8080",
		" https://vault.example.org:8443 ":      "https://vault.example.org:8443",
	} {
		if got, err := Origin(address); err != nil || got != want {
			t.Errorf("%q gives %q (%v), want %q", address, got, err, want)
		}
	}
	for _, address := range []string{"", "*", "vault.example.org", "ftp://x", "https://", "file:///x"} {
		if got, err := Origin(address); err == nil {
			t.Errorf("%q gives %q", address, got)
		}
	}
}

func TestAClientsNetworkIsAnAddressOrA64(t *testing.T) {
	for address, want := range map[string]string{
		"203.0.113.7":               "203.0.113.7/32",
		"203.0.113.7:443":           "203.0.113.7/32",
		"::ffff:203.0.113.7":        "203.0.113.7/32",
		"[::ffff:203.0.113.7]:443":  "203.0.113.7/32",
		"2001:db8:1:2:3:4:5:6":      "2001:db8:1:2::/64",
		"[2001:db8:1:2:3::1]:50000": "2001:db8:1:2::/64",
		"fe80::1%eth0":              "fe80::/64",
		"":                          "invalid Prefix",
		"not an address":            "invalid Prefix",
		"203.0.113.7, 198.51.100.1": "invalid Prefix",
		"example.org:443":           "invalid Prefix",
	} {
		if got := Network(address).String(); got != want {
			t.Errorf("%q is of %s, want %s", address, got, want)
		}
	}
}

func TestOnlyAnswersThatCanBeRepeatedSayWhen(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 429, 500, 503} {
		w := httptest.NewRecorder()
		WriteBitwardenError(w, status, "message")
		if got := w.Header().Get("Retry-After") != ""; got != (status == 429 || status == 503) {
			t.Errorf("%d has Retry-After: %v", status, got)
		}
	}
}

func TestAClientIsAnAddressOrTheNetworkOfOne(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "192.0.2.1:1000": "192.0.2.1/32", "[::ffff:192.0.2.1]:7": "192.0.2.1/32",
		"2001:db8::1": "2001:db8::/64", "[2001:db8::ffff:2%eth0]:9": "2001:db8::/64", "2001:db8:0:1::1": "2001:db8:0:1::/64",
		"": "invalid Prefix", "unix": "invalid Prefix",
	} {
		if got := Network(address).String(); got != want {
			t.Errorf("%q is of %s, want %s", address, got, want)
		}
	}
}

func TestWhatAHandlerSaysOfCachesAndOfWaitingStands(t *testing.T) {
	w := httptest.NewRecorder()
	w.Header().Set("Cache-Control", "public")
	w.Header().Set("Retry-After", "600")
	WriteBitwardenError(w, http.StatusTooManyRequests, "message")
	if w.Header().Get("Cache-Control") != "public" || w.Header().Get("Retry-After") != "600" {
		t.Errorf("%v", w.Header())
	}
	w = httptest.NewRecorder()
	WriteJSON(w, http.StatusOK, "x")
	if w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%v", w.Header())
	}
}
