package wire_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/testenv"
	"github.com/latchkey-fn/latchkey/local/wire"
	"github.com/latchkey-fn/latchkey/providers/keys/software"
)

// durable are the stores that outlive the server. The DynamoDB is the test's.
// It copies the whole table at every transaction, and the JSON file is written
// whole at every write, so these begin anew after some kills.
var durable = []struct {
	name  string
	open  func(*testing.T) map[string]string
	kills int // over one store
}{
	{"minidyn's DynamoDB", minidynTable, 40},
	{"a JSON file", jsonFile, 50},
	{"SQLite", sqliteFile, 200},
}

// What happens to one server between its start and its death.
const (
	posters = 3  // clients that store the first key of one new user after another
	putters = 3  // clients that replace the key of one user, again and again
	mostAck = 24 // acknowledgements before the kill, at most
)

func TestAKilledServerLosesNoAcknowledgedKey(t *testing.T) {
	t.Parallel()
	const kills = 200
	for _, store := range durable {
		t.Run(store.name, func(t *testing.T) {
			t.Parallel()
			testenv.Tool(t, "go")
			for first := 0; first < kills; first += store.kills {
				w := newWitness(t, store.open(t), softwareKey(t))
				for n := range store.kills {
					w.life(t, n)
					if t.Failed() {
						t.Fatalf("that was after kill %d of %d", first+n, kills)
					}
				}
				w.end(t)
				t.Logf("%d kills, %d of them in the start; %d creations and %d replacements were acknowledged; "+
					"of %d creations under way at a kill, %d were stored", store.kills, w.early, w.created, w.replaced, w.cut, w.cutStored)
				if w.created+w.replaced < store.kills || w.cut == 0 {
					t.Error("that is too few to tell anything")
				}
			}
		})
	}
}

// witness knows what clients were told.
type witness struct {
	identity *devidentity.Server
	settings map[string]string

	mu     sync.Mutex
	kept   map[string]key // by user: acknowledged, or seen in the store
	recent []string       // of kept: not yet read back from a later server
	cutOff map[string]key // sent, but the server died before it answered
	put    [putters]put

	early, created, replaced, cut, cutStored int
}

type key struct{ token, value string }

// put is a user whose key is replaced by one client. A read gives the last key
// that was acknowledged, or one that was sent after it.
type put struct {
	user, token  string
	acknowledged bool
	possible     []string
}

func newWitness(t *testing.T, store, keys map[string]string) *witness {
	t.Helper()
	server, url := identity(t)
	w := &witness{
		identity: server, kept: map[string]key{}, cutOff: map[string]key{},
		// One thread is what a small server has, and leaves time for the clients.
		settings: settings(url, store, keys, map[string]string{"GOMAXPROCS": "1"}),
	}
	for i := range w.put {
		w.put[i].user = uuid.NewString()
		w.put[i].token = w.token(t, w.put[i].user)
	}
	return w
}

func (w *witness) token(t *testing.T, user string) string {
	token, err := w.identity.Mint(devidentity.Claims{User: user})
	if err != nil {
		t.Error(err)
	}
	return token
}

func (w *witness) start(t *testing.T) *process {
	return start(t, w.settings, "serve", "--listen", "127.0.0.1:0")
}

// life starts a server, reads back what the one before it was given, writes,
// and kills it. One in ten dies while it starts.
func (w *witness) life(t *testing.T, n int) {
	p := w.start(t)
	if n%10 == 9 {
		time.Sleep(rand.N(60 * time.Millisecond))
		p.kill(t)
		w.early++
		return
	}
	s := server{url: p.url(t, listening), client: client(t, nil)}
	defer s.client.CloseIdleConnections()
	if n%8 == 0 {
		s.wantHealthy(t)
	}
	w.check(t, s, w.recent)
	w.recent = nil

	var (
		wait         sync.WaitGroup
		dead         atomic.Bool
		acknowledged atomic.Int64
		enough       = make(chan struct{})
		until        = 1 + rand.Int64N(mostAck)
	)
	// ack notes an answer, and tells the client whether to go on.
	ack := func(err error) bool {
		if err != nil {
			if !dead.Load() {
				t.Errorf("the server is alive: %v", err)
				dead.Store(true)
			}
			return false
		}
		if acknowledged.Add(1) == until {
			close(enough)
		}
		return true
	}
	for range posters {
		wait.Go(func() {
			for ack(w.post(t, s)) {
			}
		})
	}
	for i := range w.put {
		wait.Go(func() {
			for ack(w.replace(s, &w.put[i])) {
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(time.Minute):
		t.Error("the server does not answer")
	}
	time.Sleep(rand.N(5 * time.Millisecond))
	dead.Store(true)
	p.kill(t)
	wait.Wait()
}

// post stores the key of a new user.
func (w *witness) post(t *testing.T, s server) error {
	user := uuid.NewString()
	k := key{w.token(t, user), wire.NewKey()}
	err := s.write(http.MethodPost, k.token, k.value)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.cutOff[user] = k
		w.recent = append(w.recent, user)
		w.cut++
		return err
	}
	w.kept[user] = k
	w.recent = append(w.recent, user)
	w.created++
	return nil
}

// replace sends the next key of a user. Nobody else writes that user's.
func (w *witness) replace(s server, p *put) error {
	value := wire.NewKey()
	p.possible = append(p.possible, value)
	if err := s.write(http.MethodPut, p.token, value); err != nil {
		return err
	}
	p.possible, p.acknowledged = []string{value}, true
	w.mu.Lock()
	defer w.mu.Unlock()
	w.replaced++
	return nil
}

// check reads the keys of these users, and those that are replaced.
func (w *witness) check(t *testing.T, s server, users []string) {
	t.Helper()
	const readers = 4
	var wait sync.WaitGroup
	for first := range readers {
		wait.Go(func() {
			for i := first; i < len(users); i += readers {
				w.checkUser(t, s, users[i])
			}
		})
	}
	wait.Wait()
	for _, p := range w.put {
		status, value, err := s.read(p.token)
		switch {
		case err != nil:
			t.Errorf("read: %v", err)
		case status == http.StatusNotFound && !p.acknowledged, slices.Contains(p.possible, value):
		default:
			t.Errorf("the key of user %s is lost: %d", p.user, status)
		}
	}
}

func (w *witness) checkUser(t *testing.T, s server, user string) {
	w.mu.Lock()
	k, acknowledged := w.kept[user]
	if !acknowledged {
		k = w.cutOff[user]
	}
	w.mu.Unlock()
	status, value, err := s.read(k.token)
	switch {
	case err != nil:
		t.Errorf("read: %v", err)
	case status == http.StatusOK && value == k.value:
		if acknowledged {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.cutOff, user)
		w.kept[user] = k
		w.cutStored++
	case acknowledged:
		t.Errorf("the key of user %s is lost: %d", user, status)
	case status != http.StatusNotFound:
		t.Errorf("what was cut off left something behind for user %s: %d", user, status)
	}
}

// end checks everything once more, and that the operator's list agrees.
func (w *witness) end(t *testing.T) {
	t.Helper()
	p := w.start(t)
	s := server{url: p.url(t, listening), client: client(t, nil)}
	s.wantHealthy(t)
	var users []string
	for user := range w.kept {
		users = append(users, user)
	}
	for user := range w.cutOff {
		users = append(users, user)
	}
	w.check(t, s, users)
	s.client.CloseIdleConnections()
	p.stop(t)

	var listed []struct{ User string }
	output(t, w.settings, &listed, "keys", "list", "--json")
	want := len(w.kept)
	for _, entry := range listed {
		_, ok := w.kept[entry.User]
		switch {
		case ok:
			want--
		case !slices.ContainsFunc(w.put[:], func(p put) bool { return p.user == entry.User }):
			t.Errorf("user %s is listed, but reads as not found", entry.User)
		}
	}
	if want != 0 {
		t.Errorf("%d users who have a key are not listed", want)
	}
	var dataKeys []struct{ Number int }
	if output(t, w.settings, &dataKeys, "data-keys", "list", "--json"); len(dataKeys) != 1 {
		t.Errorf("there are %d data keys", len(dataKeys))
	}
}

// output runs an operator's command that prints JSON.
func output(t *testing.T, environment map[string]string, into any, args ...string) {
	t.Helper()
	cmd := latchkey(t, environment, args...)
	cmd.Stderr = logWriter{t}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("latchkey %s: %v", strings.Join(args, " "), err)
	}
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatalf("latchkey %s: %v", strings.Join(args, " "), err)
	}
}

// server is a Key Connector as a client reaches it. Its calls outlive the
// server, so they do not end the test.
type server struct {
	url    string
	client *http.Client
}

// write fails where the answer is not the one success, 200.
func (s server) write(method, token, value string) error {
	status, body, err := s.do(method, "/user-keys", token, `{"key":"`+value+`"}`)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", method, status, body)
	}
	return err
}

func (s server) read(token string) (status int, value string, err error) {
	status, body, err := s.do(http.MethodGet, "/user-keys", token, "")
	if err != nil || status != http.StatusOK {
		return status, "", err
	}
	var document struct{ Key string }
	err = json.Unmarshal([]byte(body), &document)
	return status, document.Key, err
}

func (s server) do(method, path, token, body string) (int, string, error) {
	request, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := s.client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return response.StatusCode, string(content), err
}

func (s server) wantHealthy(t *testing.T) {
	t.Helper()
	status, body, err := s.do(http.MethodGet, "/health", "", "")
	if err != nil || status != http.StatusOK {
		t.Errorf("/health: %d %s %v", status, body, err)
	}
}

// The very first start makes the store, the software key and the data key.
// Killed in the middle of any of it, the next start is as good as the first.
func TestAServerKilledInItsFirstMomentsStartsAgain(t *testing.T) {
	t.Parallel()
	const kills = 30
	for _, store := range durable {
		t.Run(store.name, func(t *testing.T) {
			t.Parallel()
			testenv.Tool(t, "go")
			madeBefore := keyFile(t)
			stored := 0
			for n := range kills {
				keys := softwareKey(t)
				path := keys["LATCHKEY_SOFTWARE_KEY_PATH"]
				if n%6 != 0 {
					if err := os.WriteFile(path, madeBefore, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				w := newWitness(t, store.open(t), keys)
				p := w.start(t)
				switch {
				case n%6 == 0: // while the software key is made
					waitForFile(t, filepath.Dir(path))
					time.Sleep(rand.N(3 * time.Millisecond))
					p.kill(t)
				case n%2 == 1: // while the store is made
					time.Sleep(rand.N(50 * time.Millisecond))
					p.kill(t)
				default: // while the data key is made
					w.firstPosts(t, p)
				}
				p = w.start(t)
				s := server{url: p.url(t, listening), client: client(t, nil)}
				s.wantHealthy(t)
				w.check(t, s, w.recent)
				if err := w.post(t, s); err != nil {
					t.Error(err)
				}
				w.check(t, s, w.recent)
				s.client.CloseIdleConnections()
				p.stop(t)
				if t.Failed() {
					t.Fatalf("that was after kill %d", n)
				}
				stored += w.created + w.cutStored - 1
			}
			t.Logf("%d kills, %d keys stored before them", kills, stored)
		})
	}
}

// firstPosts sends first keys and kills the server at about the time in which
// it makes its data key.
func (w *witness) firstPosts(t *testing.T, p *process) {
	s := server{url: p.url(t, listening), client: client(t, nil)}
	defer s.client.CloseIdleConnections()
	var wait sync.WaitGroup
	for range posters {
		// Whether it gets an answer is recorded, and either is right.
		wait.Go(func() { _ = w.post(t, s) })
	}
	time.Sleep(rand.N(120 * time.Millisecond))
	p.kill(t)
	wait.Wait()
}

// keyFile is a software key, made once where making it is not what is tested.
func keyFile(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key.pem")
	key, err := software.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	closeIt(t, key)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// waitForFile waits until there is any file in the folder.
func waitForFile(t *testing.T, dir string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Microsecond) {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if len(entries) > 0 {
			return
		}
	}
	t.Fatal("no software key is made")
}
