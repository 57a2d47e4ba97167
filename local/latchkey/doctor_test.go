package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/local/emulators/localkms"
	"github.com/latchkey-fn/latchkey/local/emulators/softhsm"
	"github.com/latchkey-fn/latchkey/local/testenv"
	"github.com/latchkey-fn/latchkey/providers/keys/pkcs11"
	"github.com/latchkey-fn/latchkey/providers/stores/jsonfile"
)

// findings are what the doctor says of each check, without the warnings.
func findings(t *testing.T, wantCode int) (outcomes, details map[string]string) {
	t.Helper()
	got := run(t, "doctor", "--json").want(t, wantCode)
	var all []finding
	got.json(t, &all)
	outcomes, details = map[string]string{}, map[string]string{}
	for _, f := range all {
		if f.Outcome != outcomeWarning {
			outcomes[f.Check], details[f.Check] = f.Outcome, f.Detail
		}
	}
	return outcomes, details
}

var well = map[string]string{"settings": "ok", "store": "ok", "key": "ok", "data keys": "ok", "identity": "ok"}

func TestTheDoctorFindsEverythingWell(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			identity := use(t, open)
			got := run(t, "doctor").want(t, 0, "none yet")
			if strings.Contains(got.out, "FAILED") || strings.Count(got.out, "\nok ")+1 != len(well) {
				t.Errorf("the lines are\n%s", got.out)
			}
			storeKeys(t, identity)
			run(t, "doctor").want(t, 0, "the newest of 1")
			if outcomes, _ := findings(t, 0); len(outcomes) != len(well) {
				t.Errorf("the findings are %v", outcomes)
			}
			// It leaves nothing that anybody lists.
			if users := run(t, "keys", "list"); strings.Count(users.out, "\n") != 3 {
				t.Errorf("the doctor left a user behind:\n%s", users.out)
			}
		})
	}
}

func TestTheDoctorToldOfWrongSettingsTellsAllOfThem(t *testing.T) {
	set(t, map[string]string{"LATCHKEY_STORE": "sqlite", "LATCHKEY_KEYS": "pkcs11", "LATCHKEY_REQUEST_TIMEOUT": "1ms"})
	wrong := []string{"LATCHKEY_SQLITE_PATH", "LATCHKEY_PKCS11_LIBRARY", "LATCHKEY_PKCS11_PIN", "LATCHKEY_IDENTITY_URL", "LATCHKEY_REQUEST_TIMEOUT"}
	run(t, "doctor").want(t, exitUsage, append(wrong, "FAILED", "nothing else was checked")...)
	outcomes, details := findings(t, exitUsage)
	if len(outcomes) != 1 || outcomes["settings"] != outcomeFailed {
		t.Errorf("the findings are %v", outcomes)
	}
	for _, name := range wrong {
		if !strings.Contains(details["settings"], name) {
			t.Errorf("%s is not told", name)
		}
	}
}

// Whatever is wrong, its line says so, and the other parts are checked.
func TestTheDoctorTellsWhichPartIsWrong(t *testing.T) {
	file := func(t *testing.T, content string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		spoil  func(t *testing.T)
		failed []string
		told   []string
	}{
		"a folder of the store that cannot be": {
			func(t *testing.T) { t.Setenv("LATCHKEY_SQLITE_PATH", filepath.Join(file(t, ""), "latchkey.db")) },
			[]string{"store"}, []string{"latchkey.db"},
		},
		"a store that is no store": {
			func(t *testing.T) { t.Setenv("LATCHKEY_SQLITE_PATH", file(t, strings.Repeat("no database ", 100))) },
			[]string{"store"}, []string{"file"},
		},
		"a table that is not there": {
			func(t *testing.T) {
				useDynamoDB(t, startMinidyn(t))
				t.Setenv("LATCHKEY_DYNAMODB_TABLE", "misspelt")
			},
			[]string{"store"}, []string{"misspelt", "create it"},
		},
		"a store that another process holds": {
			func(t *testing.T) {
				useJSON(t)
				held, err := jsonfile.Open(os.Getenv("LATCHKEY_JSON_PATH"))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { closeIt(t, held) })
			},
			[]string{"store"}, []string{"holds it"},
		},
		"a certificate that is not there": {
			func(t *testing.T) {
				set(t, map[string]string{"LATCHKEY_KEYS": "certificate", "LATCHKEY_CERTIFICATE_PATH": "/nowhere/cert.pfx"})
			},
			[]string{"key"}, []string{"/nowhere/cert.pfx", "Check the name in the settings."},
		},
		"a folder of the software key that is not there": {
			func(t *testing.T) { t.Setenv("LATCHKEY_SOFTWARE_KEY_PATH", "/nowhere/key.pem") },
			[]string{"key"}, []string{"/nowhere"},
		},
		"a KMS that is down": {
			func(t *testing.T) {
				set(t, map[string]string{
					"LATCHKEY_KEYS": "awskms", "LATCHKEY_AWSKMS_KEY_ID": "alias/latchkey", "LATCHKEY_AWSKMS_ENDPOINT": closedPort(t),
					"LATCHKEY_AWS_REGION": localkms.Region, "LATCHKEY_AWS_ACCESS_KEY_ID": "test", "LATCHKEY_AWS_SECRET_ACCESS_KEY": "test",
				})
			},
			[]string{"key"}, []string{"Check that the service runs"},
		},
		"a KMS without that key": {
			func(t *testing.T) {
				server, err := localkms.Start(t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { closeIt(t, server) })
				set(t, map[string]string{
					"LATCHKEY_KEYS": "awskms", "LATCHKEY_AWSKMS_KEY_ID": "alias/misspelt", "LATCHKEY_AWSKMS_ENDPOINT": server.URL,
					"LATCHKEY_AWS_REGION": localkms.Region, "LATCHKEY_AWS_ACCESS_KEY_ID": "test", "LATCHKEY_AWS_SECRET_ACCESS_KEY": "test",
				})
			},
			[]string{"key"}, []string{"misspelt"},
		},
		"a previous key that is not there": {
			func(t *testing.T) {
				set(t, map[string]string{"LATCHKEY_PREVIOUS_KEYS": "certificate", "LATCHKEY_PREVIOUS_CERTIFICATE_PATH": "/nowhere/old.pfx"})
			},
			[]string{"previous key"}, []string{"/nowhere/old.pfx"},
		},
		"another key than the data keys are wrapped under": {
			useCertificate,
			[]string{"data keys"}, []string{"none of the configured keys unwraps it", "Do not write to this store"},
		},
		"an identity server that is down": {
			func(t *testing.T) { t.Setenv("LATCHKEY_IDENTITY_URL", closedPort(t)) },
			[]string{"identity"}, []string{"Check that the service runs"},
		},
		"an identity server that is something else": {
			func(t *testing.T) {
				server := httptest.NewServer(http.NotFoundHandler())
				t.Cleanup(server.Close)
				t.Setenv("LATCHKEY_IDENTITY_URL", server.URL)
			},
			[]string{"identity"}, []string{"openid-configuration"},
		},
		"certificates of the identity server that are none": {
			func(t *testing.T) { t.Setenv("LATCHKEY_IDENTITY_CA_FILE", file(t, "no PEM")) },
			[]string{"identity"}, []string{"holds no certificate"},
		},
		"the KMS and the identity server at once": {
			func(t *testing.T) {
				set(t, map[string]string{"LATCHKEY_KEYS": "certificate", "LATCHKEY_CERTIFICATE_PATH": "/nowhere/cert.pfx"})
				t.Setenv("LATCHKEY_IDENTITY_URL", closedPort(t))
			},
			[]string{"key", "identity"}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			storeKeys(t, use(t, useSQLite))
			c.spoil(t)
			outcomes, details := findings(t, exitFailed)
			for check, want := range well {
				if slices.Contains(c.failed, check) {
					continue
				}
				_, checked := outcomes[check]
				if skipped := check == "data keys" && !checked; !skipped && outcomes[check] != want {
					t.Errorf("%s is %s: %s", check, outcomes[check], details[check])
				}
			}
			for _, check := range c.failed {
				if outcomes[check] != outcomeFailed {
					t.Errorf("%s is %q: %s", check, outcomes[check], details[check])
				}
			}
			for _, text := range c.told {
				if !strings.Contains(details[c.failed[0]], text) {
					t.Errorf("%q is not told: %s", text, details[c.failed[0]])
				}
			}
		})
	}
}

func TestTheDoctorEndsWithACount(t *testing.T) {
	use(t, useSQLite)
	set(t, map[string]string{
		"LATCHKEY_KEYS": "certificate", "LATCHKEY_CERTIFICATE_PATH": "/nowhere/cert.pfx",
		"LATCHKEY_CACHE": "", // the tests' own, which would be one warning more
	})
	run(t, "doctor").want(t, exitFailed, "FAILED   key", "not checked, because store or key failed", "latchkey: 1 of 8 checks failed")
}

func TestTheDoctorWarns(t *testing.T) {
	use(t, func(t *testing.T) { t.Setenv("LATCHKEY_STORE", "memory") })
	t.Setenv("LATCHKEY_PAHT_PREFIX", "/key-connector")
	run(t, "doctor").want(t, 0, "warning", "LATCHKEY_PAHT_PREFIX is not a setting", "memory: everything is gone",
		"for development only", "LATCHKEY_WEB_VAULT_ORIGINS", "LATCHKEY_ALLOWED_ORGANIZATIONS")

	useSQLite(t)
	run(t, "doctor").want(t, 0, "is the path right?")
	if again := run(t, "doctor").want(t, 0); strings.Contains(again.out, "is the path right?") {
		t.Errorf("it warns of a store that is there:\n%s", again.out)
	}
}

func TestTheDoctorTellsOfAWrongPINWithoutTellingThePIN(t *testing.T) {
	testenv.Tool(t, "softhsm2-util")
	testenv.Tool(t, "pkcs11-tool")
	testenv.Tool(t, "gcc")
	helper := filepath.Join(t.TempDir(), pkcs11.HelperName)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", helper, "../../providers/keys/pkcs11/helper")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	token, err := softhsm.Create(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, variable := range token.Env {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
	use(t, useSQLite)
	set(t, map[string]string{
		"LATCHKEY_KEYS": "pkcs11", "LATCHKEY_PKCS11_HELPER": helper, "LATCHKEY_PKCS11_LIBRARY": token.Library,
		"LATCHKEY_PKCS11_TOKEN_LABEL": token.Label, "LATCHKEY_PKCS11_KEY_LABEL": token.KeyLabel, "LATCHKEY_PKCS11_PIN": token.PIN,
	})
	run(t, "doctor").want(t, 0, "pkcs11:")

	const wrong = "90817263"
	t.Setenv("LATCHKEY_PKCS11_PIN", wrong)
	got := run(t, "doctor").want(t, exitFailed, "FAILED   key", "PIN", "Check the credentials", "not checked, because store or key failed")
	if strings.Contains(got.out+got.err, wrong) {
		t.Errorf("the PIN is told:\n%s%s", got.out, got.err)
	}
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, listener)
	return "http://" + listener.Addr().String()
}

func TestTheDoctorExaminesSecretsManager(t *testing.T) {
	use(t, stores["SQLite"])
	set(t, map[string]string{"LATCHKEY_PUBLIC_URL": "http://127.0.0.1:5000"})
	got := run(t, "doctor", "--functions", "key-connector,secrets-manager").want(t, 0, "user-keys: none yet", "access-tokens: none yet", "signing-keys: none yet", "released clients insist on https")
	if strings.Contains(got.out, "FAILED") {
		t.Error(got.out)
	}
	set(t, map[string]string{"LATCHKEY_PUBLIC_URL": "secrets.example.org", "LATCHKEY_OPERATOR_RULES": "=x"})
	got = run(t, "doctor", "--functions", "secrets-manager").want(t, exitUsage, "LATCHKEY_PUBLIC_URL", "LATCHKEY_OPERATOR_RULES")
	if strings.Count(got.out, "LATCHKEY_PUBLIC_URL") != 1 {
		t.Errorf("a fault that four functions find is told more than once:\n%s", got.out)
	}
	run(t, "doctor", "--functions", "coffee").want(t, exitUsage, "choose of key-connector, secrets-manager, billing-sync")
}
