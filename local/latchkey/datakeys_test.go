package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/store"
)

type dataKey struct {
	Number       int
	Created      string
	WrappedUnder []kms.Ref
}

func dataKeys(t *testing.T) []dataKey {
	t.Helper()
	var keys []dataKey
	run(t, "data-keys", "list", "--json").want(t, 0).json(t, &keys)
	return keys
}

func TestRotatingSealsEveryKeyAnewAndLosesNone(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			identity := use(t, open)
			keys := storeKeys(t, identity)
			run(t, "data-keys", "list").want(t, 0, "NUMBER", "software:software-key.pem")

			got := run(t, "data-keys", "rotate").want(t, 0, "2 of 2")
			events := got.events()
			if len(events) != 2 || events[0].Action != "data-key.rotate" || events[0].Subject != "2" ||
				events[1].Action != "user-key.reseal" || events[1].Subject != "2 of 2" || events[1].Outcome != "allowed" {
				t.Errorf("the audit events are %+v", events)
			}
			if all := dataKeys(t); len(all) != 2 || all[1].Number != 2 {
				t.Errorf("the data keys are %+v", all)
			}
			var infos []struct{ DataKey int }
			run(t, "keys", "list", "--json").json(t, &infos)
			for _, info := range infos {
				if info.DataKey != 2 {
					t.Errorf("a key is still sealed under data key %d", info.DataKey)
				}
			}
			wantKeys(t, identity, keys)

			var told map[string]int
			run(t, "data-keys", "rotate", "--reseal-only", "--json").want(t, 0).json(t, &told)
			if told["users"] != 2 || told["resealed"] != 0 || told["failed"] != 0 || len(dataKeys(t)) != 2 {
				t.Errorf("with nothing to do it tells %v", told)
			}
		})
	}
}

func TestRotatingWorksWhileKeyConnectorServes(t *testing.T) {
	identity := use(t, useSQLite)
	keys := storeKeys(t, identity)
	session(t, func(h http.Handler) {
		wantSame := func() {
			t.Helper()
			for user, key := range keys {
				if status, body := call(t, h, identity, http.MethodGet, user, ""); status != http.StatusOK || !strings.Contains(body, key) {
					t.Errorf("%d %s", status, body)
				}
			}
		}
		wantSame()
		run(t, "data-keys", "rotate").want(t, 0)
		wantSame()
		if status, body := call(t, h, identity, http.MethodPost, nobody, another); status != http.StatusOK {
			t.Errorf("%d %s", status, body)
		}
	})
}

// One damaged record must not keep the others under the old data key.
func TestADamagedKeyDoesNotStopARotation(t *testing.T) {
	identity := use(t, useSQLite)
	storeKeys(t, identity)
	wantCall(t, identity, http.MethodPost, nobody, another, http.StatusOK)
	driver, err := house.OpenStore(t.Context(), config.Store{Kind: config.StoreSQLite, SQLitePath: os.Getenv("LATCHKEY_SQLITE_PATH")}, config.AWS{})
	if err != nil {
		t.Fatal(err)
	}
	// Bob's is too short to be anything; his record stands between the others'.
	_, err = store.New(driver).Put(t.Context(), store.Document{
		Collection: "user-keys", ID: bob, Parent: "all", Body: []byte(`{"sealed":"AQAAAAE="}`),
	}, store.Any())
	if err != nil {
		t.Fatal(err)
	}
	closeIt(t, driver)

	run(t, "keys", "list").want(t, exitFailed, alice, nobody, "key of user "+bob)
	got := run(t, "data-keys", "rotate").want(t, exitFailed, "2 of 2", bob, "lost")
	if events := got.events(); len(events) != 2 || events[1].Outcome != "failed" || !strings.Contains(events[1].Reason, bob) {
		t.Errorf("the audit events are %+v", events)
	}
	wantKeys(t, identity, map[string]string{alice: herKey, nobody: another})
}

func TestARotationThatIsBrokenOffIsFinishedLater(t *testing.T) {
	identity := use(t, useSQLite)
	keys := storeKeys(t, identity)
	ended, end := context.WithCancel(t.Context())
	end()
	if got := runWith(ended, strings.NewReader(""), "data-keys", "rotate"); got.code != exitFailed {
		t.Errorf("broken off, it ends with %d\n%s", got.code, got.err)
	}
	wantKeys(t, identity, keys)
	run(t, "data-keys", "rotate").want(t, 0)
	run(t, "data-keys", "rotate", "--reseal-only").want(t, 0, "0 of 2")
	wantKeys(t, identity, keys)
}

// useCertificate chooses a new key in a PEM file.
func useCertificate(t *testing.T) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "new.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	set(t, map[string]string{"LATCHKEY_KEYS": "certificate", "LATCHKEY_CERTIFICATE_PATH": path})
}

func TestMovingFromOneKeyToAnother(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			identity := use(t, open)
			keys := storeKeys(t, identity)
			run(t, "data-keys", "rotate").want(t, 0)
			wraps := func() []string {
				t.Helper()
				var under []string
				for _, key := range dataKeys(t) {
					var providers []string
					for _, ref := range key.WrappedUnder {
						providers = append(providers, ref.Provider)
					}
					under = append(under, strings.Join(providers, "+"))
				}
				return under
			}
			wantWraps := func(want string) {
				t.Helper()
				if got := wraps(); len(got) != 2 || got[0] != want || got[1] != want {
					t.Errorf("the data keys are wrapped under %v, want %s", got, want)
				}
			}
			old := map[string]string{"LATCHKEY_KEYS": "software", "LATCHKEY_CERTIFICATE_PATH": ""}

			// The new key alone cannot unwrap, and changes nothing.
			useCertificate(t)
			run(t, "data-keys", "rewrap").want(t, exitFailed, "none of the configured keys unwraps it")
			run(t, "data-keys", "rewrap", "--only").want(t, exitFailed)
			wantWraps("software")

			// The old one beside it.
			set(t, map[string]string{"LATCHKEY_PREVIOUS_KEYS": "software", "LATCHKEY_PREVIOUS_SOFTWARE_KEY_PATH": os.Getenv("LATCHKEY_SOFTWARE_KEY_PATH")})
			got := run(t, "data-keys", "rewrap").want(t, 0, "2 data key(s) changed", "certificate:new.pem")
			if events := got.events(); len(events) != 1 || events[0].Action != "data-key.rewrap" || events[0].Outcome != "allowed" {
				t.Errorf("the audit events are %+v", events)
			}
			wantWraps("software+certificate")
			wantKeys(t, identity, keys)
			run(t, "data-keys", "rewrap").want(t, 0, "0 data key(s) changed")

			// An instance that has the old settings still.
			t.Run("old settings", func(t *testing.T) {
				set(t, old)
				set(t, map[string]string{"LATCHKEY_PREVIOUS_KEYS": ""})
				wantKeys(t, identity, keys)
			})

			var told map[string]int
			run(t, "data-keys", "rewrap", "--only", "--json").want(t, 0).json(t, &told)
			if told["changed"] != 2 {
				t.Errorf("it tells %v", told)
			}
			wantWraps("certificate")
			t.Setenv("LATCHKEY_PREVIOUS_KEYS", "")
			wantKeys(t, identity, keys)
			run(t, "data-keys", "rotate").want(t, 0, "2 of 2")
			wantKeys(t, identity, keys)

			set(t, old)
			run(t, "data-keys", "rotate").want(t, exitFailed, "none of the configured keys unwraps it")
			wantCall(t, identity, http.MethodGet, alice, "", http.StatusInternalServerError)
		})
	}
}

func TestWrongSettingsOfThePreviousKeyAreNamed(t *testing.T) {
	use(t, useSQLite)
	t.Setenv("LATCHKEY_PREVIOUS_KEYS", "software")
	run(t, "data-keys", "rewrap").want(t, exitUsage, "LATCHKEY_PREVIOUS_", "SOFTWARE_KEY_PATH")
	t.Setenv("LATCHKEY_PREVIOUS_KEYS", "paper")
	run(t, "data-keys", "rewrap").want(t, exitUsage, "LATCHKEY_PREVIOUS_", "paper")
}
