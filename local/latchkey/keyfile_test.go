package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/testenv"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/encstring"
)

func (p *person) keyFile() string {
	return filepath.Join(p.config, "latchkey", p.organization+keyFileSuffix)
}

func TestAnOrganisationGetsOneKey(t *testing.T) {
	p := startManager(t).operator(t)
	p.run("org", "show").want(t, 0, "not made yet")
	p.run("project", "create", "x").want(t, exitUsage, "org create")

	p.run("org", "create").want(t, 0, p.organization, "copy")
	content, err := os.ReadFile(p.keyFile())
	info, statErr := os.Stat(p.keyFile())
	if err != nil || statErr != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the key file: %v %v %v", err, statErr, info)
	}
	p.run("org", "show").want(t, 0, "registered", p.organization, "enabled")
	p.run("project", "create", "x").want(t, 0)

	// Again, nothing changes.
	p.run("org", "create", "--json").want(t, 0, p.keyFile())
	if again, err := os.ReadFile(p.keyFile()); err != nil || string(again) != string(content) {
		t.Errorf("the key file was written again (%v)", err)
	}

	// Somebody else makes no second one, and works with a copy of the first.
	other := p.colleague()
	other.run("org", "create").want(t, exitFailed, "has a key already", other.keyFile())
	if _, err := os.Stat(other.keyFile()); err == nil {
		t.Error("a key file was made")
	}
	other.run("project", "list", "--key-file", p.keyFile()).want(t, 0, "x")

	// With a key of their own they could write nothing.
	k := organizationKey{other.organization, encstring.NewKey(), ""}
	if err := writeKeyFile(other.keyFile(), passphrase, 10, k); err != nil {
		t.Fatal(err)
	}
	other.run("project", "create", "y").want(t, exitUsage, "not the key")
	other.run("org", "create").want(t, exitFailed, "another")
	if _, err := os.Stat(other.keyFile()); err != nil {
		t.Errorf("a key file that was there before is gone: %v", err)
	}
	p.checkLogs()
}

func TestOfTwoOperatorsAtOnceOneMakesTheKey(t *testing.T) {
	first := startManager(t).operator(t)
	desks := []*person{first, first.colleague(), first.colleague(), first.colleague()}
	// Settings of the environment are the process's, so these are given by flags.
	set(t, map[string]string{"LATCHKEY_PASSPHRASE": passphrase, "LATCHKEY_SERVER": first.manager.url})
	codes := make([]int, len(desks))
	var all sync.WaitGroup
	for i, p := range desks {
		token := filepath.Join(p.config, "token")
		if err := os.WriteFile(token, []byte(p.token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			codes[i] = execute(t.Context(), &terminal{out: io.Discard, err: io.Discard, in: strings.NewReader(""), scryptWork: 10},
				[]string{"org", "create", "--operator-token-file", token, "--key-file", p.keyFile()})
		})
	}
	all.Wait()
	made := 0
	for i, p := range desks {
		_, err := os.Stat(p.keyFile())
		switch codes[i] {
		case 0:
			made++
			if err != nil {
				t.Errorf("who made the key has no key file: %v", err)
			}
			p.run("project", "create", "x").want(t, 0)
		case exitFailed:
			if err == nil {
				t.Error("a key file is left that opens nothing")
			}
		default:
			t.Errorf("it ends with %d", codes[i])
		}
	}
	if made != 1 {
		t.Errorf("%d keys were made", made)
	}
}

func TestAKeyFileIsAnAgeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "key.age")
	k := organizationKey{uuid.NewString(), encstring.NewKey(), "https://sm.example.org"}
	if err := writeKeyFile(path, passphrase, 10, k); err != nil {
		t.Fatal(err)
	}
	back, err := readKeyFile(path, passphrase)
	if err != nil || back != k {
		t.Errorf("it reads back as %+v, %v", back, err)
	}
	if err := writeKeyFile(path, "another one", 10, organizationKey{}); !errors.Is(err, os.ErrExist) {
		t.Errorf("it is overwritten: %v", err)
	}
	if back, err := readKeyFile(path, passphrase); err != nil || back != k {
		t.Errorf("after that it is %+v, %v", back, err)
	}

	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	identity, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := age.Decrypt(file, identity)
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]string
	if err := json.NewDecoder(plain).Decode(&document); err != nil || document["organization"] != k.organization || document["key"] != k.key.Reveal() || document["server"] != k.server {
		t.Errorf("it holds %v, %v", document, err)
	}
}

func TestWhatIsWrongWithAKeyFileIsTold(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.age")
	k := organizationKey{uuid.NewString(), encstring.NewKey(), ""}
	if err := writeKeyFile(good, passphrase, 10, k); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	broken := append([]byte{}, content...)
	broken[len(broken)-1] ^= 1
	sealed := func(plain string) []byte {
		recipient, err := age.NewScryptRecipient(passphrase)
		if err != nil {
			t.Fatal(err)
		}
		recipient.SetWorkFactor(10)
		var b strings.Builder
		w, err := age.Encrypt(&b, recipient)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(plain)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return []byte(b.String())
	}
	for name, c := range map[string]struct {
		content []byte
		told    string
	}{
		"changed":      {broken, "damaged"},
		"cut":          {content[:len(content)-20], "damaged"},
		"something":    {[]byte("hunter2"), "not a key file"},
		"empty":        {nil, "not a key file"},
		"large":        {make([]byte, maxKeyFile+1), "more than"},
		"no JSON":      {sealed("hunter2"), "holds no organization's key"},
		"half a key":   {sealed(`{"organization":"` + k.organization + `","key":"` + k.key.Reveal()[:44] + `"}`), "holds no organization's key"},
		"no id":        {sealed(`{"organization":"hunter2","key":"` + k.key.Reveal() + `"}`), "holds no organization's key"},
		"another kind": {sealed(`["hunter2"]`), "holds no organization's key"},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := readKeyFile(path, passphrase)
		if !errors.Is(err, errUsage) || !strings.Contains(err.Error(), c.told) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), k.key.Reveal()[:44]) {
			t.Errorf("%s: it quotes the content: %v", name, err)
		}
	}
	for _, wrong := range []string{"not the passphrase", passphrase + " "} {
		if _, err := readKeyFile(good, config.Secret(wrong)); !errors.Is(err, errUsage) || !strings.Contains(err.Error(), "not its passphrase") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if _, err := readKeyFile(filepath.Join(dir, "nowhere"), passphrase); !errors.Is(err, errUsage) {
		t.Errorf("no file: %v", err)
	}
}

// A file is there whole or not at all, and nothing else is left beside it.
func TestAFileIsWrittenWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	wantOnly := func(content string) {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("the folder has %v, %v", entries, err)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != content {
			t.Errorf("the file holds %q, %v", now, err)
		}
	}
	if err := writeNew(path, []byte("first")); err != nil {
		t.Fatal(err)
	}
	wantOnly("first")
	if err := writeNew(path, []byte("second")); !errors.Is(err, os.ErrExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("it replaces a file: %v", err)
	}
	wantOnly("first")
	if err := writeNew(filepath.Join(path, "key.age"), []byte("x")); err == nil {
		t.Error("it is written below a file")
	}
	wantOnly("first")

	// Of many at once one makes it, and nobody ever sees half of it.
	race := filepath.Join(t.TempDir(), "race")
	content := bytes.Repeat([]byte("x"), 1<<20)
	var all sync.WaitGroup
	var made atomic.Int32
	for range 8 {
		all.Go(func() {
			if err := writeNew(race, content); err == nil {
				made.Add(1)
			} else if !errors.Is(err, os.ErrExist) {
				t.Error(err)
			}
		})
		all.Go(func() {
			if now, err := os.ReadFile(race); err == nil && len(now) != len(content) {
				t.Errorf("%d bytes are seen", len(now))
			}
		})
	}
	all.Wait()
	if made.Load() != 1 {
		t.Errorf("%d made it", made.Load())
	}
}

// Where there are no links, as on FAT, the name is taken first.
func TestAFileIsPublishedWithoutLinks(t *testing.T) {
	noLinks := func(string, string) error { return errors.ErrUnsupported }
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	for _, want := range []error{nil, os.ErrExist} {
		if err := os.WriteFile(from, []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := publish(from, to, noLinks); !errors.Is(err, want) {
			t.Errorf("it ends with %v, want %v", err, want)
		}
		if content, err := os.ReadFile(to); err != nil || string(content) != "content" {
			t.Errorf("it holds %q, %v", content, err)
		}
	}
	gone := filepath.Join(dir, "gone")
	if err := publish(gone, filepath.Join(dir, "other"), noLinks); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no file: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "other")); err == nil {
		t.Error("an empty file is left")
	}
}

// The new key is deleted only where it is certain that it is not the
// organisation's.
func TestANewKeyStaysWhereItMayBeRegistered(t *testing.T) {
	for name, spoil := range map[string]func(w http.ResponseWriter, r *http.Request, next http.Handler){
		"a conflict with no reason": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusConflict) },
		"a server that is down": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.WriteHeader(http.StatusServiceUnavailable)
		},
		"an answer that is lost": func(_ http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := startManager(t).operator(t)
			to, err := url.Parse(p.manager.url)
			if err != nil {
				t.Fatal(err)
			}
			next := httputil.NewSingleHostReverseProxy(to)
			var asked atomic.Bool
			between := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == http.MethodPut:
					asked.Store(true)
					spoil(w, r, next)
				case asked.Load(): // whose key it is now cannot be read either
					w.WriteHeader(http.StatusInternalServerError)
				default:
					next.ServeHTTP(w, r)
				}
			}))
			between.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
			between.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
			between.StartTLS()
			t.Cleanup(between.Close)

			o := p.run("org", "create", "--server", between.URL)
			o.want(t, exitFailed, "stays in "+p.keyFile(), "run this again")
			if _, err := readKeyFile(p.keyFile(), passphrase); err != nil {
				t.Fatalf("the key is gone: %v", err)
			}
			p.run("org", "create").want(t, 0, p.organization)
			p.run("project", "create", "x").want(t, 0)
		})
	}
}

func TestTheOrganisationAndItsKeyAreFound(t *testing.T) {
	p := founded(t)
	p.run("project", "create", "x").want(t, 0)
	k, err := readKeyFile(p.keyFile(), passphrase)
	if err != nil {
		t.Fatal(err)
	}
	*p.secrets = append(*p.secrets, k.key.Reveal())
	named := filepath.Join(t.TempDir(), "acme.age")
	if err := os.Rename(p.keyFile(), named); err != nil {
		t.Fatal(err)
	}
	file := func(content string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	list := func(change map[string]string, args ...string) outcome {
		t.Helper()
		e := p.asOperator()
		for name, value := range change {
			e[name] = value
		}
		o, _ := p.in(e, "", append([]string{"project", "list"}, args...)...)
		return o
	}
	none := map[string]string{"LATCHKEY_OPERATOR_TOKEN": ""}
	for name, c := range map[string]struct {
		environment map[string]string
		args        []string
	}{
		"a key file with a name of its own":     {nil, []string{"--key-file", named}},
		"one in the environment":                {map[string]string{"LATCHKEY_KEY_FILE": named}, nil},
		"a server that only the key file knows": {map[string]string{"LATCHKEY_KEY_FILE": named, "LATCHKEY_SERVER": ""}, nil},
		"a key in the environment":              {map[string]string{"LATCHKEY_ORGANIZATION_KEY": k.key.Reveal() + "\n", "LATCHKEY_PASSPHRASE": ""}, nil},
		"a key in a plain file":                 {map[string]string{"LATCHKEY_ORGANIZATION_KEY_FILE": file(k.key.Reveal()), "LATCHKEY_PASSPHRASE": ""}, nil},
		"an id in upper case":                   {map[string]string{"LATCHKEY_KEY_FILE": named, "LATCHKEY_ORGANIZATION": strings.ToUpper(p.organization)}, nil},
		"a passphrase in a file":                {map[string]string{"LATCHKEY_PASSPHRASE": "", "LATCHKEY_PASSPHRASE_FILE": file(passphrase + "\n")}, []string{"--key-file", named}},
		"a token in a file":                     {none, []string{"--key-file", named, "--operator-token-file", file(p.token + "\n")}},
		"a flag that says as whom":              {map[string]string{"LATCHKEY_OPERATOR_TOKEN": "", "LATCHKEY_ACCESS_TOKEN": "x"}, []string{"--key-file", named, "--operator-token-file", file(p.token)}},
	} {
		t.Run(name, func(t *testing.T) { list(c.environment, c.args...).want(t, 0, "x") })
	}
	for name, c := range map[string]struct {
		environment map[string]string
		args        []string
		code        int
		told        string
	}{
		"nobody":                     {none, nil, exitUsage, "LATCHKEY_ACCESS_TOKEN"},
		"both":                       {map[string]string{"LATCHKEY_ACCESS_TOKEN": "x"}, nil, exitUsage, "both set"},
		"no server":                  {map[string]string{"LATCHKEY_SERVER": ""}, nil, exitUsage, "LATCHKEY_SERVER"},
		"a server without https":     {map[string]string{"LATCHKEY_SERVER": "http://sm.example.org"}, nil, exitUsage, "https://"},
		"no server for a machine":    {map[string]string{"LATCHKEY_SERVER": "", "LATCHKEY_OPERATOR_TOKEN": "", "LATCHKEY_ACCESS_TOKEN": "0.x"}, nil, exitUsage, "LATCHKEY_SERVER"},
		"half an access token":       {map[string]string{"LATCHKEY_OPERATOR_TOKEN": "", "LATCHKEY_ACCESS_TOKEN": "0.hunter2"}, nil, exitUsage, "LATCHKEY_ACCESS_TOKEN"},
		"no key":                     {nil, nil, exitUsage, "key file"},
		"a key and a key file":       {map[string]string{"LATCHKEY_ORGANIZATION_KEY": k.key.Reveal(), "LATCHKEY_KEY_FILE": named}, nil, exitUsage, "both given"},
		"half a key":                 {map[string]string{"LATCHKEY_ORGANIZATION_KEY": k.key.Reveal()[:40]}, nil, exitUsage, "64 bytes"},
		"another key":                {map[string]string{"LATCHKEY_ORGANIZATION_KEY": encstring.NewKey().Reveal()}, nil, exitUsage, "not the key"},
		"another organisation":       {map[string]string{"LATCHKEY_KEY_FILE": named, "LATCHKEY_ORGANIZATION": uuid.NewString()}, nil, exitUsage, "has the key of organization"},
		"no such organisation":       {map[string]string{"LATCHKEY_ORGANIZATION_KEY": k.key.Reveal(), "LATCHKEY_ORGANIZATION": uuid.NewString()}, nil, exitNotFound, "404"},
		"an odd organisation":        {map[string]string{"LATCHKEY_ORGANIZATION": "acme"}, nil, exitUsage, "UUID"},
		"an opaque token":            {map[string]string{"LATCHKEY_OPERATOR_TOKEN": "opaque", "LATCHKEY_KEY_FILE": named}, nil, exitFailed, "401"},
		"an opaque token, no file":   {map[string]string{"LATCHKEY_OPERATOR_TOKEN": "opaque"}, nil, exitUsage, "which organization?"},
		"a wrong passphrase":         {map[string]string{"LATCHKEY_PASSPHRASE": "wrong"}, []string{"--key-file", named}, exitUsage, "not its passphrase"},
		"nobody to ask":              {map[string]string{"LATCHKEY_PASSPHRASE": ""}, []string{"--key-file", named}, exitUsage, "LATCHKEY_PASSPHRASE_FILE"},
		"no file of the token":       {none, []string{"--operator-token-file", "/nowhere/token"}, exitUsage, "/nowhere/token"},
		"an odd organisation's flag": {nil, []string{"--organization", "x"}, exitUsage, "UUID"},
		"a server that is not there": {map[string]string{"LATCHKEY_SERVER": "https://127.0.0.1:1", "LATCHKEY_KEY_FILE": named}, nil, exitFailed, "cannot be reached"},
		"a token with another end":   {map[string]string{"LATCHKEY_OPERATOR_TOKEN": p.token + "x", "LATCHKEY_KEY_FILE": named}, nil, exitFailed, "401"},
	} {
		t.Run(name, func(t *testing.T) {
			if o := list(c.environment, c.args...).want(t, c.code, c.told); strings.Contains(o.err, "hunter2") {
				t.Errorf("it quotes what it was given: %s", o.err)
			}
		})
	}
	e := p.asOperator()
	e["LATCHKEY_PASSPHRASE"] = "too short"
	o, _ := p.in(e, "", "org", "create", "--id", uuid.NewString())
	o.want(t, exitNotFound, "404") // not theirs
	p.run("org", "create", "--id", "acme").want(t, exitUsage, "--id acme")
	other := p.manager.operator(t)
	e = other.asOperator()
	e["LATCHKEY_PASSPHRASE"] = "too short"
	o, _ = other.in(e, "", "org", "create")
	o.want(t, exitUsage, "fewer than 10")
	key := encstring.NewKey().Reveal()
	*p.secrets = append(*p.secrets, key)
	e["LATCHKEY_ORGANIZATION_KEY"] = key
	for range 2 {
		o, _ = other.in(e, "", "org", "create")
		o.want(t, 0)
	}
	if _, err := os.Stat(other.keyFile()); err == nil {
		t.Error("a key file was made for a key of the environment")
	}
	o, _ = other.in(e, "", "project", "create", "y")
	o.want(t, 0)
	p.checkLogs()
}

func TestLifetimesAreInDaysToo(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90d": 90 * day, "1d12h": 36 * time.Hour, "12h": 12 * time.Hour, "90m": 90 * time.Minute, "1d": day, "never": 0, "36500d": longestLifetime,
	} {
		l := lifetime{none: "never", duration: time.Minute}
		if err := l.Set(text); err != nil || l.duration != want {
			t.Errorf("%q is %s, %v", text, l.duration, err)
		}
		back := lifetime{none: "never"}
		if err := back.Set(l.String()); err != nil || back.duration != want {
			t.Errorf("%q is written %q", text, l.String())
		}
	}
	for _, text := range []string{"", "d", "0d", "0s", "-1d", "-1h", "1.5d", "90", "d12h", "12h1d", "1d-12h", "36501d", "99999999d", "1ms", "forever", "2562047h", "1d 2h"} {
		l := lifetime{none: "never"}
		if err := l.Set(text); err == nil {
			t.Errorf("%q is %s", text, l.duration)
		}
	}
	l := lifetime{}
	if err := l.Set("never"); err == nil || strings.Contains(err.Error(), "or never") {
		t.Errorf("a word that is not allowed: %v", err)
	}
}

// On a terminal what is secret is asked for, and not shown.
func TestSecretsAreAskedForOnATerminal(t *testing.T) {
	testenv.Tool(t, "script") // before a server is started for nothing
	p := startManager(t).operator(t)
	e := p.asOperator()
	e["LATCHKEY_PASSPHRASE"] = ""
	self := os.Args[0]
	dialogue(t, e, exitUsage, self+" org create", passphrase+"\n", "another one\n")
	dialogue(t, e, exitDeclined, self+" org create", "\x03") // Ctrl-C
	if _, err := os.Stat(p.keyFile()); err == nil {
		t.Error("a key file was made")
	}
	dialogue(t, e, 0, self+" org create", passphrase+"\n", passphrase+"\n")
	dialogue(t, e, 0, self+" secret set KEY", passphrase+"\n", "the value\n")
	dialogue(t, e, exitUsage, self+" secret get KEY", "wrong\n")
	// The input is a pipe: the passphrase is asked for at the terminal.
	dialogue(t, e, 0, testenv.Tool(t, "sh")+" -c 'echo piped | "+self+" secret set KEY2'", passphrase+"\n")
	e["LATCHKEY_PASSPHRASE"] = passphrase
	if o := p.run("secret", "get", "KEY").want(t, 0); o.out != "the value" {
		t.Errorf("the value is %q", o.out)
	}
	if o := p.run("secret", "get", "KEY2").want(t, 0); o.out != "piped" {
		t.Errorf("the piped value is %q", o.out)
	}
}

func TestARotationWithoutAGraceIsAskedAboutOnATerminal(t *testing.T) {
	testenv.Tool(t, "script")
	p := founded(t)
	p.run("machine", "create", "ci").want(t, 0)
	token := p.newToken("ci")
	e := p.asMachine(token)
	dialogue(t, e, exitDeclined, os.Args[0]+" token rotate --grace 0", "no\n")
	p.machine(token, "project", "list").want(t, 0)
	dialogue(t, e, 0, os.Args[0]+" token rotate --grace 1h")
	p.machine(token, "project", "list").want(t, 0)
	token = p.newToken("ci")
	e["LATCHKEY_ACCESS_TOKEN"] = token
	dialogue(t, e, 0, os.Args[0]+" token rotate --grace 0", "yes\n")
	p.machine(token, "project", "list").want(t, exitFailed, "replaced")
}

// dialogue runs a command on a terminal, which script(1) pretends to be, and
// answers what it asks.
func dialogue(t *testing.T, e map[string]string, wantCode int, command string, answers ...string) {
	t.Helper()
	stty, script := testenv.Tool(t, "stty"), testenv.Tool(t, "script")
	c := latchkeyProcess(t, e)
	c.Path, c.Args = script, []string{script, "-qec", testenv.Tool(t, "tty") + "; exec " + command, os.DevNull} // some shells take Ctrl-C for themselves
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	buffer := make([]byte, 1024)
	for {
		n, err := out.Read(buffer)
		shown.Write(buffer[:n])
		if len(answers) > 0 && strings.HasSuffix(shown.String(), ": ") {
			if !strings.HasSuffix(shown.String(), " to go on: ") { // the question is shown before the echo is off
				terminal, _, _ := strings.Cut(shown.String(), "\r\n")
				awaitNoEcho(t, stty, terminal)
			}
			if _, err := io.WriteString(in, answers[0]); err != nil {
				t.Fatal(err)
			}
			answers = answers[1:]
		}
		if err != nil {
			break
		}
	}
	if len(answers) > 0 {
		t.Errorf("%s does not ask for all of its answers", command)
	}
	err = c.Wait()
	var exit *exec.ExitError
	if code := c.ProcessState.ExitCode(); code != wantCode || err != nil && !errors.As(err, &exit) {
		t.Errorf("%s ends with %d (%v)\n%s", command, code, err, shown.String())
	}
	for _, secret := range []string{passphrase, "another one", "the value"} {
		if strings.Contains(shown.String(), secret) {
			t.Errorf("%s shows %q:\n%s", command, secret, shown.String())
		}
	}
}

// awaitNoEcho waits until what is typed at a terminal is not shown.
func awaitNoEcho(t *testing.T, stty, path string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		settings, err := exec.CommandContext(t.Context(), stty, "-F", path, "-a").Output()
		if err != nil {
			t.Fatalf("stty -F %s: %v", path, err)
		}
		if slices.Contains(strings.Fields(string(settings)), "-echo") {
			return
		}
	}
	t.Fatal("what is typed is still shown")
}
