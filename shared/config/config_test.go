package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

type settings struct {
	Keys     Keys
	Previous Keys          `envPrefix:"PREVIOUS_"`
	Timeout  time.Duration `env:"TIMEOUT" envDefault:"5s"`
	On       bool          `env:"ON"`
	List     []string      `env:"LIST"`
}

func (s *settings) Validate() error { return s.Keys.Validate() }

var software = map[string]string{"LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": "/k"}

func with(extra map[string]string) map[string]string {
	all := map[string]string{}
	for name, value := range software {
		all[name] = value
	}
	for name, value := range extra {
		all[name] = value
	}
	return all
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestASecretCanComeFromAFile(t *testing.T) {
	var s settings
	path := file(t, "se=cret \n")
	_, err := Load(&s, Source{Environment: with(map[string]string{
		"LATCHKEY_CERTIFICATE_PASSWORD_FILE": path, "LATCHKEY_PREVIOUS_PKCS11_PIN_FILE": path,
	})})
	if err != nil || s.Keys.CertificatePassword != "se=cret " || s.Previous.PKCS11PIN != "se=cret " {
		t.Fatalf("%q %q %v", s.Keys.CertificatePassword.Reveal(), s.Previous.PKCS11PIN.Reveal(), err)
	}
	if s.Timeout != 5*time.Second {
		t.Errorf("the default was not used: %s", s.Timeout)
	}
}

func TestAllFaultsAreReportedAtOnceByTheNamesOfTheirVariables(t *testing.T) {
	var s settings
	_, err := Load(&s, Source{Environment: with(map[string]string{
		"LATCHKEY_TIMEOUT":                   "soon",
		"LATCHKEY_ON":                        "perhaps",
		"LATCHKEY_CERTIFICATE_PASSWORD":      "hunter2",
		"LATCHKEY_CERTIFICATE_PASSWORD_FILE": "/nowhere",
		"LATCHKEY_PKCS11_PIN_FILE":           "/nowhere/else",
	})})
	if !errors.Is(err, fault.Invalid) {
		t.Fatalf("%v, want Invalid", err)
	}
	for _, name := range []string{"LATCHKEY_TIMEOUT", "LATCHKEY_ON", "LATCHKEY_CERTIFICATE_PASSWORD_FILE", "LATCHKEY_PKCS11_PIN_FILE"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not reported: %v", name, err)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Error("a secret is reported")
	}
}

func TestValidateSeesTheWhole(t *testing.T) {
	var s settings
	_, err := Load(&s, Source{Environment: map[string]string{"LATCHKEY_KEYS": "pkcs11"}})
	if err == nil || !strings.Contains(err.Error(), "LATCHKEY_PKCS11_LIBRARY") || !strings.Contains(err.Error(), "LATCHKEY_PKCS11_PIN") {
		t.Fatal(err)
	}
}

func TestMisspeltNamesAreWarnedOf(t *testing.T) {
	var s settings
	warnings, err := Load(&s, Source{
		Environment: with(map[string]string{
			"LATCHKEY_TIMEUOT": "1s", "LATCHKEY_LIST_FILE": "/x", "other": "y",
			"official__Typo": "1", "official__List": "a,b", "Official__Pin_File": file(t, "1"),
		}),
		Aliases:     []Alias{{Name: "official__list", To: "LIST"}, {Name: "official__pin", To: "PKCS11_PIN"}},
		AliasPrefix: "official__",
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(warnings, "\n"); len(warnings) != 3 ||
		!strings.Contains(got, "LATCHKEY_TIMEUOT") || !strings.Contains(got, "LATCHKEY_LIST_FILE") || !strings.Contains(got, "official__Typo") {
		t.Errorf("warnings:\n%s", got)
	}
	if len(s.List) != 2 || s.Keys.PKCS11PIN != "1" {
		t.Errorf("the further names were not read: %v", s)
	}
}

func TestContradictionsAreRefused(t *testing.T) {
	source := Source{Aliases: []Alias{{Name: "official__list", To: "LIST"}}}
	for name, c := range map[string]struct {
		environment map[string]string
		fine        bool
	}{
		"two names, two values": {map[string]string{"LATCHKEY_LIST": "a", "OFFICIAL__LIST": "b"}, false},
		"two names, one value":  {map[string]string{"LATCHKEY_LIST": "a", "official__List": "a"}, true},
	} {
		var s settings
		source.Environment = with(c.environment)
		if _, err := Load(&s, source); (err == nil) != c.fine {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestADocumentGivesTheSameSettingsAndTheEnvironmentGoesBefore(t *testing.T) {
	document := file(t, `{"official":{"list":"a","on":true,"deep":{"timeout":"7s"}},"LATCHKEY_KEYS":"software","LATCHKEY_SOFTWARE_KEY_PATH":"/d"}`)
	var s settings
	_, err := Load(&s, Source{
		Environment: map[string]string{"LATCHKEY_CONFIG_FILE": document, "LATCHKEY_SOFTWARE_KEY_PATH": "/e"},
		Aliases:     []Alias{{Name: "official__list", To: "LIST"}, {Name: "official__on", To: "ON"}, {Name: "official__deep__timeout", To: "TIMEOUT"}},
	})
	if err != nil || s.Keys.SoftwareKeyPath != "/e" || !s.On || s.Timeout != 7*time.Second || len(s.List) != 1 {
		t.Fatalf("%+v %v", s, err)
	}
	for name, content := range map[string]string{"no JSON": "x=1", "a list": `{"official":{"list":["a"]}}`} {
		_, err := Load(&s, Source{Environment: with(map[string]string{"LATCHKEY_CONFIG_FILE": file(t, content)})})
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "LATCHKEY_CONFIG_FILE") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestASecretDoesNotPrintItself(t *testing.T) {
	s := Secret("hunter2")
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", s, "in", struct{ S Secret }{s})
	encoded, err := json.Marshal(struct{ S Secret }{s})
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{fmt.Sprintf("%v %+v %#v %s %q", s, s, s, s, s), string(encoded), log.String()} {
		if strings.Contains(printed, "hunter2") {
			t.Errorf("the secret is printed: %s", printed)
		}
	}
}
