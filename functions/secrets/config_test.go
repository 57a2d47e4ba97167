package secrets

import (
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

func least() map[string]string {
	return map[string]string{"LATCHKEY_STORE": "memory", "LATCHKEY_PUBLIC_URL": "https://sm.example.org/path"}
}

func TestTheLeastSettings(t *testing.T) {
	c, warnings, err := LoadConfig(least())
	if err != nil || len(warnings) != 0 || c.MaxAnswer != 0 || c.RequestTimeout <= 0 {
		t.Fatalf("%+v, %q, %v", c, warnings, err)
	}
	f, err := New(c, Parts{Store: memory.New(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Routes) < 20 {
		t.Errorf("%q", f.Routes)
	}
	for path, status := range map[string]int{
		"/path/api/organizations/" + organization + "/secrets": http.StatusUnauthorized,
		"/api/organizations/" + organization + "/secrets":      http.StatusUnauthorized,
		"/organizations/" + organization + "/secrets":          http.StatusUnauthorized,
		"/path/api/nothing": http.StatusNotFound,
	} {
		w := httptest.NewRecorder()
		f.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		if w.Code != status || !strings.Contains(w.Body.String(), `"object":"error"`) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestBadSettingsAreToldByName(t *testing.T) {
	for name, value := range map[string]string{
		"LATCHKEY_STORE":             "paper",
		"LATCHKEY_PUBLIC_URL":        "sm.example.org",
		"LATCHKEY_WEB_VAULT_ORIGINS": "vault",
		"LATCHKEY_REQUEST_TIMEOUT":   "1ms",
		"LATCHKEY_MAX_ANSWER":        "1000",
		"LATCHKEY_IDENTITY_URL":      "identity",
		"LATCHKEY_OPERATOR_RULES":    "none",
		"LATCHKEY_AWS_ACCESS_KEY_ID": "alone",
	} {
		settings := least()
		maps.Copy(settings, map[string]string{name: value})
		_, _, err := LoadConfig(settings)
		if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
}
