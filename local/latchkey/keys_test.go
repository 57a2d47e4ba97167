package main

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/local/devidentity"
)

const (
	alice   = "0b6e9f5c-7f2f-4d6b-9a55-1f7c2a9a0001"
	bob     = "8d7c5f0a-95b1-4ad5-9a5e-3f2c2b1f0002"
	nobody  = "8d7c5f0a-95b1-4ad5-9a5e-3f2c2b1fffff"
	herKey  = "yKtLWuvyTn1QWqXlbQjBcBbMMSLr5fJ1mXhC2GkSmlE="
	hisKey  = "Hyj3bAGLh0mBSP6UJ5UkmfCQdq4HOFKzJ0eV4AFpkMs="
	another = "P9dH0L1z0fN7Gf0SkQ1c4bqk5QzvZ0u0cS6p3y8nXgI="
)

// storeKeys gives Alice and Bob a key each, through the function.
func storeKeys(t *testing.T, identity *devidentity.Server) map[string]string {
	t.Helper()
	keys := map[string]string{alice: herKey, bob: hisKey}
	for _, user := range slices.Sorted(maps.Keys(keys)) {
		wantCall(t, identity, http.MethodPost, user, keys[user], http.StatusOK)
	}
	return keys
}

func TestKeysAreListedAndShownWithoutTheKeysThemselves(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			identity := use(t, open)
			storeKeys(t, identity)
			wantCall(t, identity, http.MethodPut, bob, hisKey, http.StatusOK)
			wantCall(t, identity, http.MethodGet, bob, "", http.StatusOK)

			type info struct {
				User, Created, Revised, LastAccess string
				DataKey                            int
			}
			list := run(t, "keys", "list").want(t, 0, "USER", alice, bob, "never")
			if lines := strings.Split(strings.TrimSpace(list.out), "\n"); len(lines) != 3 || !strings.HasPrefix(lines[1], alice) {
				t.Errorf("the list is not a line a user, in their order:\n%s", list.out)
			}
			listJSON := run(t, "keys", "list", "--json").want(t, 0)
			var infos []info
			listJSON.json(t, &infos)
			if len(infos) != 2 || infos[0].User != alice || infos[0].Created == "" || infos[0].Revised != "" || infos[0].DataKey != 1 ||
				infos[1].User != bob || infos[1].Revised == "" {
				t.Errorf("the list is %+v", infos)
			}
			show := run(t, "keys", "show", bob).want(t, 0, bob, "created", "replaced", "last read", "data key")
			unread := run(t, "keys", "show", strings.ToUpper(alice)).want(t, 0, alice, "never")
			showJSON := run(t, "--json", "keys", "show", bob).want(t, 0)
			var shown info
			showJSON.json(t, &shown)
			if shown.User != bob || shown.LastAccess == "" || shown.DataKey != 1 {
				t.Errorf("shown is %+v", shown)
			}
			for _, o := range []outcome{list, listJSON, show, showJSON, unread} {
				for _, secret := range []string{herKey, hisKey, "ealed", "AQAAAAF"} { // the last begins a sealed value
					if strings.Contains(o.out+o.err, secret) {
						t.Errorf("%q is told:\n%s%s", secret, o.out, o.err)
					}
				}
			}
		})
	}
}

func TestAnEmptyListIsEmpty(t *testing.T) {
	identity := use(t, useSQLite)
	wantCall(t, identity, http.MethodGet, alice, "", http.StatusNotFound)
	if got := run(t, "keys", "list", "--json").want(t, 0); strings.TrimSpace(got.out) != "[]" {
		t.Errorf("an empty list in JSON is %q", got.out)
	}
	if got := run(t, "data-keys", "list", "--json").want(t, 0); strings.TrimSpace(got.out) != "[]" {
		t.Errorf("an empty list of data keys in JSON is %q", got.out)
	}
	run(t, "keys", "list").want(t, 0, "USER")
}

func TestNothingIsDeletedWithoutTheRightAnswer(t *testing.T) {
	identity := use(t, useSQLite)
	keys := storeKeys(t, identity)
	for name, answer := range map[string]string{
		"no":                             "no\n",
		"yes":                            "yes\n",
		"nothing":                        "\n",
		"another user":                   bob + "\n",
		"the end of the input":           "",
		"an answer that is cut off":      alice,
		"the right one at second asking": "no\n" + alice + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			got := answering(t, answer, "keys", "delete", alice).want(t, exitDeclined, "cannot be undone", "nothing was done")
			if events := got.events(); len(events) != 0 || got.out != "" {
				t.Errorf("it tells of %v, and %q", events, got.out)
			}
		})
	}
	wantKeys(t, identity, keys)
}

func TestADeletedUserIsFreeAgain(t *testing.T) {
	operator, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			identity := use(t, open)
			storeKeys(t, identity)
			wantCall(t, identity, http.MethodGet, alice, "", http.StatusOK) // leaves a note of it
			wantCall(t, identity, http.MethodPost, alice, another, http.StatusBadRequest)

			got := answering(t, alice+"\n", "keys", "delete", alice).want(t, 0, "is deleted")
			want := event{"audit", "user-key.delete", "operator:" + operator.Username, alice, "allowed", ""}
			if events := got.events(); len(events) != 2 || events[0].Outcome != "attempted" || events[1] != want {
				t.Errorf("the audit events are %+v, want %+v", events, want)
			}
			run(t, "keys", "show", alice).want(t, exitNotFound, "no key for user "+alice)

			wantCall(t, identity, http.MethodGet, alice, "", http.StatusNotFound)
			wantCall(t, identity, http.MethodPost, alice, another, http.StatusOK)
			wantKeys(t, identity, map[string]string{alice: another, bob: hisKey})

			var told struct{ Deleted string }
			quiet := run(t, "keys", "delete", "--yes", "--json", bob).want(t, 0)
			if quiet.json(t, &told); told.Deleted != bob || strings.Contains(quiet.err, "Type the") {
				t.Errorf("it tells %s%s", quiet.out, quiet.err)
			}
			run(t, "keys", "delete", "--yes", bob).want(t, exitNotFound)
		})
	}
}

// What was agreed to is the deletion of the key that was shown.
func TestAKeyThatIsReplacedDuringTheQuestionIsNotDeleted(t *testing.T) {
	identity := use(t, useSQLite)
	storeKeys(t, identity)
	answer := io.MultiReader(readFunc(func() {
		wantCall(t, identity, http.MethodPut, alice, another, http.StatusOK)
	}), strings.NewReader(alice+"\n"))
	got := runWith(t.Context(), answer, "keys", "delete", alice).want(t, exitFailed, "was written since it was shown")
	if events := got.events(); len(events) != 2 || events[0].Outcome != "attempted" || events[1].Outcome != "failed" {
		t.Errorf("the audit events are %+v", events)
	}
	wantKeys(t, identity, map[string]string{alice: another, bob: hisKey})
}

// readFunc is an empty input; reading it does something.
type readFunc func()

func (f readFunc) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}

func TestADeletionThatFailsIsAuditedAsFailed(t *testing.T) {
	address := startMinidyn(t)
	target, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	readOnly, proxy := false, httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if readOnly && strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".TransactWriteItems") {
			w.Header().Set("Content-Type", "application/x-amz-json-1.0")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"__type":"com.amazon.coral.service#AccessDeniedException","Message":"not authorized to DeleteItem"}`))
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer server.Close()
	identity := use(t, func(t *testing.T) { useDynamoDB(t, server.URL) })
	keys := storeKeys(t, identity)

	readOnly = true
	got := run(t, "keys", "delete", "--yes", alice).want(t, exitFailed, "latchkey: "+alice, "denied")
	if events := got.events(); len(events) != 2 || events[1].Outcome != "failed" || !strings.Contains(events[1].Reason, "denied") {
		t.Errorf("the audit events are %+v", events)
	}
	readOnly = false
	wantKeys(t, identity, keys)
}

func TestTheExitCodeTellsAnUnknownUserFromAWrongSetting(t *testing.T) {
	identity := use(t, useSQLite)
	storeKeys(t, identity)
	for _, command := range []string{"show", "delete"} {
		run(t, "keys", command, nobody).want(t, exitNotFound, "no key for user "+nobody)
		for _, id := range []string{"", "bob", "{" + alice + "}", "urn:uuid:" + alice, strings.ReplaceAll(alice, "-", ""), alice + "0"} {
			run(t, "keys", command, id).want(t, exitUsage, "is not a user's id")
		}
		run(t, "keys", command).want(t, exitUsage, "takes 1 argument(s), not 0")
		run(t, "keys", command, alice, bob).want(t, exitUsage)
	}

	t.Run("a table that is not there", func(t *testing.T) {
		useDynamoDB(t, startMinidyn(t))
		t.Setenv("LATCHKEY_DYNAMODB_TABLE", "misspelt")
		run(t, "keys", "show", alice).want(t, exitUsage, "misspelt")
	})
	t.Run("a key file that is not there", func(t *testing.T) {
		set(t, map[string]string{"LATCHKEY_KEYS": "certificate", "LATCHKEY_CERTIFICATE_PATH": "/nowhere/cert.pfx"})
		run(t, "data-keys", "rotate").want(t, exitUsage, "/nowhere/cert.pfx")
	})
	for variable, kind := range map[string]string{"LATCHKEY_SQLITE_PATH": "sqlite", "LATCHKEY_JSON_PATH": "json"} {
		t.Run("a store that is not there, "+kind, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "misspelt")
			set(t, map[string]string{"LATCHKEY_STORE": kind, variable: path})
			run(t, "keys", "list").want(t, exitUsage, "there is no file "+path)
			run(t, "data-keys", "rotate").want(t, exitUsage, "there is no file "+path)
			if _, err := os.Stat(path); err == nil {
				t.Error("an empty store was made")
			}
		})
	}
	t.Run("a store in the memory of another process", func(t *testing.T) {
		t.Setenv("LATCHKEY_STORE", "memory")
		run(t, "keys", "list").want(t, exitUsage, "memory")
	})
	t.Run("no store at all", func(t *testing.T) {
		t.Setenv("LATCHKEY_STORE", "")
		run(t, "keys", "list").want(t, exitUsage, "LATCHKEY_STORE")
	})
	t.Run("a file that is another program's", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "notes.txt")
		if err := os.WriteFile(path, []byte("something else entirely, and long enough to be looked at"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("LATCHKEY_SQLITE_PATH", path)
		run(t, "keys", "list").want(t, exitFailed, path)
	})
	t.Run("a JSON file that the server holds", func(t *testing.T) {
		useJSON(t)
		session(t, func(http.Handler) { run(t, "keys", "list").want(t, exitFailed, "holds it") })
		run(t, "keys", "list").want(t, 0)
	})
}
