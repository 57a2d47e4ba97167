package wire_test

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/local/wire"
)

// secretsManager is Secrets Manager in this process, over https.
func secretsManager(t *testing.T, operators string, parts ...map[string]string) wire.Machines {
	t.Helper()
	c, _, err := house.LoadSecretsManager(settings(operators, parts...))
	if err != nil {
		t.Fatal(err)
	}
	silent := slog.New(slog.DiscardHandler)
	opened, err := house.Open(t.Context(), c.Settings(), silent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, opened) })
	functions, err := c.Functions(opened, silent)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	c.Gather(mux, functions)
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	trust := &tls.Config{RootCAs: roots}
	return wire.Machines{URL: server.URL, Operators: operators, Client: client(t, trust), TLS: trust}
}

func TestMachinesInProcess(t *testing.T) {
	for name, store := range map[string]func(*testing.T) map[string]string{
		"memory":             func(*testing.T) map[string]string { return map[string]string{"LATCHKEY_STORE": "memory"} },
		"SQLite":             sqliteFile,
		"minidyn's DynamoDB": minidynTable,
	} {
		t.Run(name, func(t *testing.T) {
			_, operators := identity(t)
			wire.RunMachines(t, secretsManager(t, operators, store(t), softwareKey(t)))
		})
	}
}

// Fifty sessions, five instances, one store: see wire.RunRevocation.
func TestARevokedTokenIsDeadAtTheNextRequestOfEveryInstance(t *testing.T) {
	for name, store := range map[string]func(*testing.T) map[string]string{
		"SQLite": sqliteFile, "minidyn's DynamoDB": minidynTable,
	} {
		t.Run(name, func(t *testing.T) {
			_, operators := identity(t)
			shared, key := store(t), softwareKey(t)
			if err := os.WriteFile(key["LATCHKEY_SOFTWARE_KEY_PATH"], keyFile(t), 0o600); err != nil {
				t.Fatal(err)
			}
			var instances []wire.Machines
			for range 5 {
				instances = append(instances, secretsManager(t, operators, shared, key))
			}
			wire.RunRevocation(t, instances, 50)
		})
	}
}
