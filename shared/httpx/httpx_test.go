package httpx

import (
	"bytes"
	"context"
	"encoding/json"
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

func TestOnlyAnswersThatCanBeRepeatedSayWhen(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 429, 500, 503} {
		w := httptest.NewRecorder()
		WriteBitwardenError(w, status, "message")
		if got := w.Header().Get("Retry-After") != ""; got != (status == 429 || status == 503) {
			t.Errorf("%d has Retry-After: %v", status, got)
		}
	}
}
