package wire_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/local/emulators/localkms"
	"github.com/latchkey-fn/latchkey/local/emulators/minidyn"
	"github.com/latchkey-fn/latchkey/local/emulators/moto"
	"github.com/latchkey-fn/latchkey/local/emulators/softhsm"
	"github.com/latchkey-fn/latchkey/local/testenv"
	"github.com/latchkey-fn/latchkey/local/wire"
	"github.com/latchkey-fn/latchkey/providers/awsconfig"
	"github.com/latchkey-fn/latchkey/providers/awsconfig/chain"
	"github.com/latchkey-fn/latchkey/providers/stores/dynamodb"
)

const origin = "https://vault.example.org"

// The stores and keys that `latchkey serve` is tested with. Each gives the
// settings that choose it.

func sqliteFile(t *testing.T) map[string]string {
	return map[string]string{"LATCHKEY_STORE": "sqlite", "LATCHKEY_SQLITE_PATH": filepath.Join(t.TempDir(), "latchkey.db")}
}

func jsonFile(t *testing.T) map[string]string {
	return map[string]string{"LATCHKEY_STORE": "json", "LATCHKEY_JSON_PATH": filepath.Join(t.TempDir(), "latchkey.json")}
}

func minidynTable(t *testing.T) map[string]string {
	server, err := minidyn.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, server) })
	return table(t, server.URL)
}

func motoTable(t *testing.T) map[string]string { return table(t, moto.Start(t)) }

func table(t *testing.T, endpoint string) map[string]string {
	t.Helper()
	cfg, err := chain.Load(t.Context(), awsconfig.Config{Region: localkms.Region, AccessKeyID: "test", SecretAccessKey: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := dynamodb.New(cfg, dynamodb.Config{Table: "latchkey", Endpoint: endpoint}).CreateTable(t.Context()); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"LATCHKEY_STORE": "dynamodb", "LATCHKEY_DYNAMODB_TABLE": "latchkey", "LATCHKEY_DYNAMODB_ENDPOINT": endpoint}
}

func softwareKey(t *testing.T) map[string]string {
	return map[string]string{"LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": filepath.Join(t.TempDir(), "key.pem")}
}

func softHSM(t *testing.T) map[string]string {
	testenv.Tool(t, "softhsm2-util")
	testenv.Tool(t, "pkcs11-tool")
	withHelper(t)
	token, err := softhsm.Create(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{
		"LATCHKEY_KEYS": "pkcs11", "LATCHKEY_PKCS11_LIBRARY": token.Library, "LATCHKEY_PKCS11_TOKEN_SERIAL": token.Serial,
		"LATCHKEY_PKCS11_PIN": token.PIN, "LATCHKEY_PKCS11_KEY_LABEL": token.KeyLabel,
	}
	for _, variable := range token.Env {
		name, value, _ := strings.Cut(variable, "=")
		settings[name] = value
	}
	return settings
}

func kmsEmulator(t *testing.T) map[string]string {
	server, err := localkms.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, server) })
	key, err := server.EnsureKey(t.Context(), "alias/latchkey")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"LATCHKEY_KEYS": "awskms", "LATCHKEY_AWSKMS_KEY_ID": key, "LATCHKEY_AWSKMS_ENDPOINT": server.URL}
}

// Every store meets every kind of key, but for those pairs that would add
// nothing: moto takes seconds, and the JSON file is for small installations.
// The slowest come first, so that the others run beside them.
func TestServeOverStoresWithKeys(t *testing.T) {
	for _, c := range []struct {
		name       string
		store, key func(*testing.T) map[string]string
	}{
		{"moto's DynamoDB with a software key", motoTable, softwareKey},
		{"moto's DynamoDB with the KMS emulator", motoTable, kmsEmulator},
		{"SQLite with a software key", sqliteFile, softwareKey},
		{"SQLite with SoftHSM", sqliteFile, softHSM},
		{"SQLite with the KMS emulator", sqliteFile, kmsEmulator},
		{"minidyn's DynamoDB with a software key", minidynTable, softwareKey},
		{"minidyn's DynamoDB with SoftHSM", minidynTable, softHSM},
		{"minidyn's DynamoDB with the KMS emulator", minidynTable, kmsEmulator},
		{"a JSON file with a software key", jsonFile, softwareKey},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			testenv.Tool(t, "go")
			_, url := identity(t)
			flags, trust := certificate(t)
			p := start(t, settings(url, c.store(t), c.key(t)), append([]string{"serve", "--listen", "127.0.0.1:0", "--functions", "key-connector,secrets-manager"}, flags...)...)
			address, client := p.url(t, listening), client(t, trust)
			wire.Run(t, wire.Target{URL: address, IdentityURL: url, Origin: origin, Client: client})
			wire.RunMachines(t, wire.Machines{URL: strings.TrimSuffix(address, "/key-connector"), Operators: url, Client: client, TLS: trust})
		})
	}
}

func TestUp(t *testing.T) {
	for name, flags := range map[string][]string{
		"as one process":                   nil,
		"with SoftHSM and DynamoDB":        {"--keys", "softhsm", "--store", "dynamodb"},
		"with the KMS emulator and a file": {"--keys", "awskms", "--store", "json"},
		"as the real Lambda binaries":      {"--lambda"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testenv.Tool(t, "go")
			switch {
			case strings.Contains(name, "SoftHSM"):
				testenv.Tool(t, "softhsm2-util")
				testenv.Tool(t, "pkcs11-tool")
				withHelper(t)
			case strings.Contains(name, "Lambda"):
				if err := buildLambda(); err != nil {
					t.Fatal(err)
				}
			}
			p := start(t, nil, append([]string{"up", "--json", "--listen", "127.0.0.1:0", "--data", t.TempDir()}, flags...)...)
			var told struct{ KeyConnector, SecretsManager, Identity string }
			var document strings.Builder
			p.url(t, func(line string) string {
				document.WriteString(line)
				if json.Unmarshal([]byte(document.String()), &told) != nil {
					return ""
				}
				return told.KeyConnector
			})
			client := client(t, nil)
			wire.Run(t, wire.Target{URL: told.KeyConnector, IdentityURL: told.Identity, Origin: told.SecretsManager, Client: client})
			wire.RunMachines(t, wire.Machines{URL: told.SecretsManager, Operators: told.Identity, Client: client})
		})
	}
}
