package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

type sessionSettings struct{ Sessions Sessions }

func (s *sessionSettings) Validate() error { return s.Sessions.Validate() }

func loadSessions(environment map[string]string) (Sessions, error) {
	var s sessionSettings
	_, err := Load(&s, Source{Environment: environment})
	return s.Sessions, err
}

func TestAddressesOfSecretsManager(t *testing.T) {
	for given, want := range map[string]struct{ issuer, path, identity, api string }{
		"https://sm.example.org":            {"https://sm.example.org", "", "https://sm.example.org/identity", "https://sm.example.org/api"},
		"https://SM.Example.org:8443/":      {"https://sm.example.org", "", "https://sm.example.org:8443/identity", "https://sm.example.org:8443/api"},
		"http://127.0.0.1:18480/a/b.c//":    {"http://127.0.0.1", "/a/b.c", "http://127.0.0.1:18480/a/b.c/identity", "http://127.0.0.1:18480/a/b.c/api"},
		"HTTPS://[2001:DB8::1]:443/secrets": {"https://[2001:db8::1]", "/secrets", "https://[2001:db8::1]:443/secrets/identity", "https://[2001:db8::1]:443/secrets/api"},
	} {
		s, err := loadSessions(map[string]string{"LATCHKEY_PUBLIC_URL": given})
		if err != nil {
			t.Errorf("%s: %v", given, err)
			continue
		}
		if s.Issuer() != want.issuer || s.Path() != want.path || s.IdentityURL() != want.identity || s.APIURL() != want.api {
			t.Errorf("%s gives issuer %s, path %q, %s, %s", given, s.Issuer(), s.Path(), s.IdentityURL(), s.APIURL())
		}
		if s.Algorithm != "RS256" || s.SigningKeyAge != 90*24*time.Hour {
			t.Errorf("by default %+v", s)
		}
	}
}

func TestAddressesThatNoClientCouldUseAreRefused(t *testing.T) {
	for _, address := range []string{
		"", "sm.example.org", "ftp://sm.example.org", "https://", "https://:443", "https:///path", "https://a b", "https://u:hunter2@sm.example.org",
		"https://sm.example.org?hunter2", "https://sm.example.org/?", "https://sm.example.org/#x", "https://sm.example.org/a//b",
		"https://sm.example.org/../a", "https://sm.example.org/a%2Fb", "https://sm.example.org/ä", "https://a.example.org,https://b.example.org",
	} {
		_, err := loadSessions(map[string]string{"LATCHKEY_PUBLIC_URL": address})
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "LATCHKEY_PUBLIC_URL") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestAllFaultsOfSessionsAreReportedAtOnce(t *testing.T) {
	for _, age := range []string{"1h", "23h59m", "20000h", "-24h"} {
		_, err := loadSessions(map[string]string{"LATCHKEY_SIGNING_ALGORITHM": "HS256", "LATCHKEY_SIGNING_KEY_AGE": age})
		for _, name := range []string{"LATCHKEY_PUBLIC_URL", "LATCHKEY_SIGNING_ALGORITHM", "LATCHKEY_SIGNING_KEY_AGE"} {
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s is not reported: %v", name, err)
			}
		}
	}
	for _, age := range []string{"24h", "17520h"} {
		if _, err := loadSessions(map[string]string{
			"LATCHKEY_PUBLIC_URL": "https://x", "LATCHKEY_SIGNING_ALGORITHM": "ES256", "LATCHKEY_SIGNING_KEY_AGE": age,
		}); err != nil {
			t.Errorf("%s: %v", age, err)
		}
	}
}
