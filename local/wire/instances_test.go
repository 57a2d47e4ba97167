package wire_test

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/functions/keyconnector"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/local/testenv"
	"github.com/latchkey-fn/latchkey/local/wire"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/userkey"
)

// Whichever instance makes the first data key, all must end up with that one:
// a second would lock out half of the users after a restart.
func TestInstancesThatStartAtOnceShareOneDataKey(t *testing.T) {
	instances := 100
	if testing.Short() {
		instances = 30
	}
	madeBefore := keyFile(t)
	for _, c := range []struct {
		name   string
		store  func(*testing.T) map[string]string
		shared bool // by one process, through one driver
	}{
		{"memory", func(*testing.T) map[string]string { return map[string]string{"LATCHKEY_STORE": "memory"} }, true},
		{"a JSON file", jsonFile, true},
		{"SQLite", sqliteFile, false},
		{"minidyn's DynamoDB", minidynTable, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			server, url := identity(t)
			keys := softwareKey(t)
			if err := os.WriteFile(keys["LATCHKEY_SOFTWARE_KEY_PATH"], madeBefore, 0o600); err != nil {
				t.Fatal(err)
			}
			config, _, err := keyconnector.LoadConfig(settings(url, c.store(t), keys))
			if err != nil {
				t.Fatal(err)
			}
			silent := slog.New(slog.NewTextHandler(io.Discard, nil))
			var shared store.Driver
			if c.shared {
				if shared, err = house.OpenStore(t.Context(), config.Store, config.AWS); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { closeIt(t, shared) })
			}
			open := func() (*keyconnector.Function, io.Closer, error) {
				if !c.shared {
					kc, err := house.OpenKeyConnector(t.Context(), config, silent)
					if err != nil {
						return nil, nil, err
					}
					return kc.Function, kc, nil
				}
				key, err := house.OpenKey(t.Context(), config.Keys, config.AWS, silent)
				if err != nil {
					return nil, nil, err
				}
				f, err := keyconnector.New(config, keyconnector.Parts{Store: shared, Key: key, Logger: silent})
				return f, key, err
			}

			var (
				wait      sync.WaitGroup
				functions = make([]*keyconnector.Function, instances)
				users     = make([]string, instances)
				stored    = make([]userkey.Key, instances)
			)
			for i := range instances {
				users[i] = uuid.NewString()
				wait.Go(func() {
					f, closer, err := open()
					if err != nil {
						t.Error(err)
						return
					}
					t.Cleanup(func() { closeIt(t, closer) })
					functions[i] = f
					value := wire.NewKey()
					if stored[i], err = userkey.ParseKey(value, false); err != nil {
						t.Error(err)
					}
					if status, body := create(t, f, server, users[i], value); status != http.StatusOK {
						t.Errorf("instance %d: %d %s", i, status, body)
					}
				})
			}
			wait.Wait()
			if t.Failed() {
				return
			}
			for i, f := range functions {
				infos, err := f.Ring.List(t.Context())
				if err != nil || len(infos) != 1 {
					t.Fatalf("instance %d knows %d data keys, %v", i, len(infos), err)
				}
				// Each reads ten keys of others; every key is read by ten.
				for n := range 10 {
					j := (i + n*n + 1) % instances
					if got, err := f.Users.Get(t.Context(), users[j]); err != nil || !got.Equal(stored[j]) {
						t.Fatalf("instance %d does not read the key of instance %d's user: %v", i, j, err)
					}
				}
			}
			for _, f := range []*keyconnector.Function{functions[0], functions[instances-1]} {
				for j, user := range users {
					if got, err := f.Users.Get(t.Context(), user); err != nil || !got.Equal(stored[j]) {
						t.Fatalf("the key of instance %d's user is not read: %v", j, err)
					}
				}
			}
		})
	}
}

// create sends a first key as a client would, past the network.
func create(t *testing.T, h http.Handler, identity *devidentity.Server, user, value string) (int, string) {
	token, err := identity.Mint(devidentity.Claims{User: user})
	if err != nil {
		t.Error(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/user-keys", strings.NewReader(`{"key":"`+value+`"}`))
	r.Header.Set("Authorization", "Bearer "+token)
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, r)
	return recorder.Code, recorder.Body.String()
}

func TestProcessesThatStartAtOnceShareOneDataKey(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T) map[string]string{"SQLite": sqliteFile, "minidyn's DynamoDB": minidynTable} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testenv.Tool(t, "go")
			const processes, usersOfEach = 10, 5
			w := newWitness(t, open(t), softwareKey(t))
			if err := os.WriteFile(w.settings["LATCHKEY_SOFTWARE_KEY_PATH"], keyFile(t), 0o600); err != nil {
				t.Fatal(err)
			}
			var started [processes]*process
			for i := range started {
				started[i] = w.start(t)
			}
			var servers [processes]server
			for i, p := range started {
				servers[i] = server{url: p.url(t, listening), client: client(t, nil)}
			}
			var wait sync.WaitGroup
			for _, s := range servers {
				for range usersOfEach {
					wait.Go(func() {
						if err := w.post(t, s); err != nil {
							t.Error(err)
						}
					})
				}
			}
			wait.Wait()
			for _, s := range servers {
				s.wantHealthy(t)
				w.check(t, s, w.recent)
			}
			var dataKeys []struct{ Number int }
			if output(t, w.settings, &dataKeys, "data-keys", "list", "--json"); len(dataKeys) != 1 || dataKeys[0].Number != 1 {
				t.Errorf("the data keys are %v", dataKeys)
			}
			var listed []struct{ User string }
			if output(t, w.settings, &listed, "keys", "list", "--json"); len(listed) != processes*usersOfEach {
				t.Errorf("%d users are listed", len(listed))
			}
		})
	}
}

// A JSON file has one writer. The second must neither serve an empty store nor
// disturb the first.
func TestASecondProcessOverAJSONFileIsRefused(t *testing.T) {
	t.Parallel()
	testenv.Tool(t, "go")
	w := newWitness(t, jsonFile(t), softwareKey(t))
	s := server{url: w.start(t).url(t, listening), client: client(t, nil)}
	if err := w.post(t, s); err != nil {
		t.Fatal(err)
	}
	path := w.settings["LATCHKEY_JSON_PATH"]
	for _, args := range [][]string{{"serve", "--listen", "127.0.0.1:0"}, {"keys", "list"}} {
		out, err := latchkey(t, w.settings, args...).CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("latchkey %s: %v", args[0], err)
		}
		if !strings.Contains(string(out), filepath.Base(path)) || !strings.Contains(string(out), "holds it") {
			t.Errorf("latchkey %s does not say why: %s", args[0], out)
		}
	}
	w.check(t, s, w.recent)
	if err := w.post(t, s); err != nil {
		t.Error(err)
	}
}
