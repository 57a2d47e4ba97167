package aws

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/local/emulators/minidyn"
	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/local/house/housetest"
	"github.com/latchkey-fn/latchkey/local/wire"
	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// logicalIDs are the template's names of Secrets Manager's functions.
var logicalIDs = map[string]string{
	"tokenexchange": "TokenExchange", "tokenrevoke": "TokenRevoke", "machineaccounts": "MachineAccounts", "secrets": "Secrets",
}

// secretsManager gives the functions, each over a store of its own.
func secretsManager(t *testing.T, open func(function string) store.Driver) (functions []house.Function, operators string) {
	t.Helper()
	identity := housetest.NewIdentity(t)
	settings := identity.SecretsManager(t, nil)
	key := kmstest.NewKey(t)
	for name := range logicalIDs {
		all, err := settings.Functions(&house.Parts{Store: open(name), Key: key}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(all, func(f house.Function) bool { return f.Name == name })
		functions = append(functions, all[i])
	}
	return functions, identity.URL
}

func TestTheAPIHasTheRoutesOfSecretsManager(t *testing.T) {
	functions, _ := secretsManager(t, func(string) store.Driver { return memory.New() })
	for _, f := range functions {
		served := f.Routes
		if f.Name == "secrets" {
			served = append(served, "OPTIONS /api/{proxy+}") // the preflights of all
		}
		slices.Sort(served)
		if got := routes(t, logicalIDs[f.Name]+"Function"); !slices.Equal(got, served) {
			t.Errorf("%s: the API has\n%s\nthe function serves\n%s", f.Name, strings.Join(got, "\n"), strings.Join(served, "\n"))
		}
	}
}

// Every function does its part of the wire test over a table whose traffic is
// held against its own role.
func TestPoliciesAllowWhatSecretsManagerDoesWithThem(t *testing.T) {
	emulator, err := minidyn.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = emulator.Close() })
	if err := connect(&recorder{t: t}, emulator.URL).CreateTable(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := map[string]*recorder{}
	functions, operators := secretsManager(t, func(function string) store.Driver {
		seen[function] = &recorder{t: t}
		return connect(seen[function], emulator.URL)
	})
	mux := http.NewServeMux()
	house.SecretsManager{}.Gather(mux, functions)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	wire.RunMachines(t, wire.Machines{URL: server.URL, Operators: operators, Client: server.Client()})
	for name, r := range seen {
		role := policy(t, logicalIDs[name]+"RolePolicy")
		done := r.take()
		if len(done) == 0 {
			t.Errorf("%s did nothing", name)
		}
		for _, o := range done {
			if !allows(role, o) {
				t.Errorf("%s: its policy does not allow %s on %q", name, o.action, o.key)
			}
		}
	}
}

// The fences between the functions.
func TestNoFunctionReachesWhatIsNotItsOwn(t *testing.T) {
	for function, keys := range map[string][]string{
		"TokenExchange":   {"secrets#i#x", "secret-contents#i#x", "projects#i#x", "service-accounts#i#x", "user-keys#i#x", "data-keys#i#user-keys/000001"},
		"TokenRevoke":     {"secrets#i#x", "secret-contents#i#x", "projects#i#x", "data-keys#i#access-tokens/000001", "user-keys#i#x"},
		"MachineAccounts": {"secret-contents#i#x", "data-keys#i#signing-keys/000001", "data-keys#i#user-keys/000001", "user-keys#i#x"},
		"Secrets":         {"access-token-uses#i#x", "data-keys#i#access-tokens/000001", "data-keys#i#signing-keys/000001", "user-keys#i#x"},
		"Sponsorships":    {"secrets#i#x", "access-tokens#i#x", "data-keys#i#access-tokens/000001", "user-keys#i#x", "data-keys#i#user-keys/000001", "sync-batches#i#x"},
		"BillingSync":     {"secrets#i#x", "access-tokens#i#x", "data-keys#i#access-tokens/000001", "user-keys#i#x", "data-keys#i#user-keys/000001", "offer-name-keys#i#x"},
	} {
		role := policy(t, function+"RolePolicy")
		for _, key := range keys {
			for _, action := range []string{"dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:Query", "dynamodb:PutItem", "dynamodb:DeleteItem"} {
				if allows(role, operation{action, key}) {
					t.Errorf("%s may %s on %s", function, action, key)
				}
			}
		}
	}
	for _, function := range []string{"TokenRevoke", "MachineAccounts", "Secrets"} {
		for _, action := range []string{"dynamodb:PutItem", "dynamodb:DeleteItem"} {
			if allows(policy(t, function+"RolePolicy"), operation{action, "signing-keys#i#000001"}) {
				t.Errorf("%s may %s a signing key", function, action)
			}
		}
	}
	if allows(policy(t, "SecretsRolePolicy"), operation{"dynamodb:PutItem", "access-tokens#i#x"}) {
		t.Error("the function of secrets may write tokens")
	}
}
