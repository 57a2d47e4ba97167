package wire_test

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/local/wire"
)

// secretsManager is Secrets Manager in this process, over https.
func secretsManager(t *testing.T, store map[string]string) wire.Machines {
	t.Helper()
	_, operators := identity(t)
	c, _, err := house.LoadSecretsManager(settings(operators, store, softwareKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	silent := slog.New(slog.DiscardHandler)
	parts, err := house.Open(t.Context(), c.Settings(), silent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, parts) })
	functions, err := c.Functions(parts, silent)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	house.Gather(mux, functions)
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
		t.Run(name, func(t *testing.T) { wire.RunMachines(t, secretsManager(t, store(t))) })
	}
}
