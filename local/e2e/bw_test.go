//go:build unix

// Package e2e proves that the real clients work against the real latchkey: the
// tests build the binary, run it as a process, and let bw, Bitwarden's own
// command line client, log in.
package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/e2e/bitwarden"
	"github.com/latchkey-fn/latchkey/local/testenv"
)

// Flags of /api/config that move a client from its TypeScript stack to the SDK's.
const (
	sdkLogin        = "use-unlock-service-for-key-connector-login"
	sdkRegistration = "enable-account-encryption-v2-key-connector-registration"
)

// Headers that tell the two stacks apart, beside those every request has.
var (
	tsGet  = map[string]string{"Bitwarden-Client-Name": "cli", "Accept": "application/json", "Cache-Control": "no-store", "Pragma": "no-cache"}
	tsPost = map[string]string{"Bitwarden-Client-Name": "cli", "Accept": "application/json", "Content-Type": "application/json; charset=utf-8"}
	sdkAny = map[string]string{"Bitwarden-Client-Name": "cli", "Accept": "application/json", "Content-Type": "application/json", "Device-Type": "25"}
)

// TestBW runs the scenes with single sign-on one after the other, since bw then
// listens on one of six fixed ports.
func TestBW(t *testing.T) {
	testenv.Tool(t, "bw")
	binary := build(t)
	for _, test := range []struct {
		name string
		sso  bool
		run  func(*testing.T, string)
	}{
		{"a personal API key opens the vault of a provisioned user", false, apiKeyLogin},
		{"a first single sign-on creates the key that opens the vault ever after", true, firstSignOn},
		{"a first single sign-on by the SDK creates the key that opens the vault ever after", true, sdkFirstSignOn},
		{"a first single sign-on never overwrites a stored key", true, abortedSignOn},
		{"a first single sign-on by the SDK replaces the key of an aborted one", true, sdkAbortedSignOn},
		{"a user without a key is told so and gets in once it is there", false, userWithoutKey},
		{"a user is not logged out while the identity server cannot be reached", false, identityServerDown},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.sso && runtime.GOOS != "linux" {
				t.Skip("SKIP bw login --sso: it is made for the script(1) and xdg-open of Linux")
			}
			if !test.sso {
				t.Parallel()
			}
			test.run(t, binary)
		})
	}
}

func apiKeyLogin(t *testing.T, binary string) {
	s := newScene(t, binary, bitwarden.Start(t))
	user, masterKey := s.cloud.AddUser("anna@acme.test"), newMasterKey()
	newAPI(t, s.cloud, s.kc.URL, user).store(t, masterKey)
	s.must(s.cloud.Provision(user, masterKey))
	s.must(s.cloud.AddLogin(user, masterKey, "Router", "admin", "correct horse"))

	m, session := s.login(s.wire.URL, func(m *machine) outcome { return m.loginWithAPIKey(user) })
	s.lists(m, session, "Router", "admin", "correct horse")

	for _, e := range s.wire.since(0) {
		s.sent(e, http.MethodGet, tsGet)
		s.gave(e, masterKey)
	}
	s.kc.keepsSecrets(t, user, masterKey)
}

func firstSignOn(t *testing.T, binary string) {
	s := newScene(t, binary, bitwarden.Start(t))
	user := s.cloud.AddUser("ben@acme.test")
	s.cloud.SignIn(user)
	s.login("", s.signOn(user))
	masterKey := s.wroteOnce(user, http.MethodPost, tsPost)

	s.must(s.cloud.AddLogin(user, masterKey, "Printer", "ben", "battery staple"))
	m, session := s.login(s.wire.URL, func(m *machine) outcome { return m.loginWithAPIKey(user) })
	s.lists(m, session, "Printer", "ben", "battery staple")
	s.wroteOnce(user, http.MethodPost, tsPost)
	s.kc.keepsSecrets(t, user, masterKey)
}

func sdkFirstSignOn(t *testing.T, binary string) {
	s := newScene(t, binary, bitwarden.Start(t))
	s.cloud.SetFeature(sdkLogin)
	s.cloud.SetFeature(sdkRegistration)
	user := s.cloud.AddUser("cleo@acme.test")
	s.cloud.SignIn(user)
	m, session := s.login("", s.signOn(user))
	masterKey := s.wroteOnce(user, http.MethodPost, sdkAny)
	first := s.wire.since(0)[0]
	s.sent(first, http.MethodGet, sdkAny)
	if first.status != http.StatusNotFound {
		s.Errorf("GET of a key that is not there: %d %s", first.status, first.answerBody)
	}

	s.creates(m, session, "Router", "cleo", "correct horse")
	before := len(s.wire.since(0))
	m, session = s.login("", s.signOn(user))
	s.lists(m, session, "Router", "cleo", "correct horse")
	for _, e := range s.wire.since(before) {
		s.sent(e, http.MethodGet, sdkAny)
		s.gave(e, masterKey)
	}
	s.kc.keepsSecrets(t, user, masterKey)
}

// An aborted first login has left a key behind that the cloud knows nothing of.
// The TypeScript clients cannot tell it from a key in use, and neither can Key
// Connector: it must stay, until an operator says otherwise.
func abortedSignOn(t *testing.T, binary string) {
	s := newScene(t, binary, bitwarden.Start(t))
	user, masterKey := s.cloud.AddUser("dora@acme.test"), newMasterKey()
	s.cloud.SignIn(user)
	kc := newAPI(t, s.cloud, s.kc.URL, user)
	kc.store(t, masterKey)

	m, o := s.attempt("", s.signOn(user))
	s.showed(o, s.only(http.MethodPost, http.StatusBadRequest))
	if got := s.status(m); got != "unauthenticated" {
		s.Errorf("bw is %s after a failed first login", got)
	}
	if !bytes.Equal(kc.load(t), masterKey) || s.cloud.Registrations(user) != 0 {
		s.Error("the stored key was overwritten")
	}
}

func sdkAbortedSignOn(t *testing.T, binary string) {
	s := newScene(t, binary, bitwarden.Start(t))
	s.cloud.SetFeature(sdkLogin)
	s.cloud.SetFeature(sdkRegistration)
	user, abandoned := s.cloud.AddUser("emil@acme.test"), newMasterKey()
	s.cloud.SignIn(user)
	newAPI(t, s.cloud, s.kc.URL, user).store(t, abandoned)

	s.login("", s.signOn(user))
	s.gave(s.wire.since(0)[0], abandoned)
	s.kc.keepsSecrets(t, user, s.wroteOnce(user, http.MethodPut, sdkAny))
}

func userWithoutKey(t *testing.T, binary string) {
	s := newScene(t, binary, bitwarden.Start(t))
	user, masterKey := s.cloud.AddUser("finn@acme.test"), newMasterKey()
	s.must(s.cloud.Provision(user, masterKey))

	m, o := s.attempt(s.wire.URL, func(m *machine) outcome { return m.loginWithAPIKey(user) })
	s.showed(o, s.only(http.MethodGet, http.StatusNotFound))
	if got := s.status(m); got != "locked" {
		s.Errorf("bw is %s after a login without a key", got)
	}

	newAPI(t, s.cloud, s.kc.URL, user).store(t, masterKey)
	s.login(s.wire.URL, func(m *machine) outcome { return m.loginWithAPIKey(user) })
}

func identityServerDown(t *testing.T, binary string) {
	cloud := bitwarden.Start(t)
	cloud.HideKeys(true)
	s := newScene(t, binary, cloud)
	user, masterKey := s.cloud.AddUser("gil@acme.test"), newMasterKey()
	s.must(s.cloud.Provision(user, masterKey))

	m, o := s.attempt(s.wire.URL, func(m *machine) outcome { return m.loginWithAPIKey(user) })
	s.showed(o, s.only(http.MethodGet, http.StatusServiceUnavailable))
	if got := s.status(m); got != "locked" {
		s.Errorf("bw is %s: a fault of the servers must not log anybody out", got)
	}

	cloud.HideKeys(false)
	kc := newAPI(t, s.cloud, s.kc.URL, user)
	for patient := time.Now().Add(patience); ; time.Sleep(time.Second) {
		status, answer := kc.do(t, http.MethodGet, nil)
		if status == http.StatusNotFound {
			break
		}
		if status != http.StatusServiceUnavailable || time.Now().After(patient) {
			t.Fatalf("the identity server is back, and Key Connector answers %d %s", status, answer)
		}
	}
	kc.store(t, masterKey)
	s.login(s.wire.URL, func(m *machine) outcome { return m.loginWithAPIKey(user) })
}

// scene is everything one test needs: the cloud, Key Connector for its users,
// and what passes between clients and Key Connector.
type scene struct {
	*testing.T
	cloud *bitwarden.Server
	kc    keyConnector
	wire  *recorder
	races int // that bw lost with itself
}

func newScene(t *testing.T, binary string, cloud *bitwarden.Server) *scene {
	t.Helper()
	kc := serve(t, binary, cloud)
	s := &scene{T: t, cloud: cloud, kc: kc, wire: record(t, cloud.Authority, kc.URL)}
	cloud.UseKeyConnector(s.wire.URL)
	t.Cleanup(func() { t.Logf("bw race retries: %d", s.races) })
	return s
}

func (s *scene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// attempt lets bw log in on a fresh machine and gives the outcome, good or bad.
// bw loses a race with itself in some logins of Key Connector users, whatever
// the servers do; those alone are tried again, on another fresh machine.
// keyConnector is "" where bw learns the address from the server.
func (s *scene) attempt(keyConnector string, try func(*machine) outcome) (*machine, outcome) {
	s.Helper()
	const limit = 6
	for range limit {
		before := len(s.wire.since(0))
		m := newMachine(s.T, s.cloud, keyConnector)
		o := try(m)
		race := raceOf(o, s.wire.since(before))
		if race == "" {
			return m, o
		}
		s.races++
		s.Logf("bw lost a race with itself: %s", race)
	}
	s.Fatalf("bw lost %d races with itself in a row", limit)
	return nil, outcome{}
}

// raceOf names the race that bw lost, "" if it lost none. Each is known by what
// it says, and by what had passed until then: no request to Key Connector
// failed, or they all did their work.
func raceOf(o outcome, asked []exchange) string {
	const (
		noToken   = "Failed to decode access token: Access token not found"
		noState   = "Account cryptographic state is required is null or undefined"
		noSession = "logged in without a session key"
	)
	said := o.stdout + o.stderr
	wrote := false
	for _, e := range asked {
		if e.status != http.StatusOK && !(e.method == http.MethodGet && e.status == http.StatusNotFound) {
			return ""
		}
		wrote = wrote || e.method != http.MethodGet
	}
	switch {
	case o.err != nil && strings.Contains(said, noToken) && len(asked) == 0:
		return noToken
	case o.err != nil && strings.Contains(said, noState) && wrote:
		return noState
	case o.err == nil && strings.Contains(said, "You are logged in!") && o.session() == "":
		return noSession
	}
	return ""
}

// login is an attempt that has to succeed; it gives the session key.
func (s *scene) login(keyConnector string, try func(*machine) outcome) (*machine, string) {
	s.Helper()
	m, o := s.attempt(keyConnector, try)
	session := o.session()
	if o.err != nil || session == "" {
		s.Fatalf("bw login: %s\nasked of Key Connector: %v\nits log: %s", o, s.wire.since(0), s.kc.log)
	}
	return m, session
}

// signOn is a single sign-on, in which bw asks about the domain as long as the
// cloud knows no key of the user.
func (s *scene) signOn(u bitwarden.User) func(*machine) outcome {
	return func(m *machine) outcome {
		if s.cloud.Registrations(u) > 0 {
			return m.loginWithSSO()
		}
		return m.loginWithSSO(confirmDomain)
	}
}

// lists fails the test unless bw shows exactly one item, decrypted.
func (s *scene) lists(m *machine, session, name, username, password string) {
	s.Helper()
	o := m.run([]string{"BW_SESSION=" + session}, "list", "items")
	var items []struct {
		Name  string
		Login struct{ Username, Password string }
	}
	if err := json.Unmarshal([]byte(o.stdout), &items); o.err != nil || err != nil {
		s.Fatalf("bw list items: %v %s", err, o)
	}
	if len(items) != 1 || items[0].Name != name || items[0].Login.Username != username || items[0].Login.Password != password {
		s.Fatalf("bw list items shows %+v, want one login %q of %q", items, name, username)
	}
}

// creates lets bw put a login into the vault.
func (s *scene) creates(m *machine, session, name, username, password string) {
	s.Helper()
	item, err := json.Marshal(map[string]any{
		"type": 1, "name": name, "login": map[string]string{"username": username, "password": password},
	})
	s.must(err)
	if o := m.run([]string{"BW_SESSION=" + session}, "create", "item", base64.StdEncoding.EncodeToString(item)); o.err != nil {
		s.Fatalf("bw create item: %s", o)
	}
}

// status is what bw says about the account: unauthenticated, locked, unlocked.
func (s *scene) status(m *machine) string {
	s.Helper()
	o := m.run(nil, "status")
	var got struct{ Status string }
	if err := json.Unmarshal([]byte(o.stdout), &got); o.err != nil || err != nil {
		s.Fatalf("bw status: %v %s", err, o)
	}
	return got.Status
}

// sent fails the test unless the client sent what its stack sends, and no more.
func (s *scene) sent(e exchange, method string, headers map[string]string) {
	s.Helper()
	if e.method != method || e.path != "/user-keys" {
		s.Fatalf("bw sent %s, not %s /user-keys", e, method)
	}
	want := http.Header{}
	for name, value := range headers {
		want.Set(name, value)
	}
	got := e.header.Clone()
	if !strings.HasPrefix(got.Get("Authorization"), "Bearer ") || got.Get("Bitwarden-Client-Version") == "" {
		s.Errorf("%s came without a token or a version", e)
	}
	for _, name := range []string{"Authorization", "Bitwarden-Client-Version", "User-Agent", "Accept-Encoding", "Content-Length"} {
		got.Del(name)
	}
	if !reflect.DeepEqual(got, want) {
		s.Errorf("%s came with %v, not %v", e, got, want)
	}
}

// gave fails the test unless Key Connector answered with that key, and nobody
// on the way may keep it.
func (s *scene) gave(e exchange, masterKey []byte) {
	s.Helper()
	var got userKey
	if err := json.Unmarshal([]byte(e.answerBody), &got); err != nil || e.status != http.StatusOK || !bytes.Equal(got.Key, masterKey) {
		s.Errorf("%s: not the user's key", e)
	}
	if kind, keep := e.answer.Get("Content-Type"), e.answer.Get("Cache-Control"); !strings.HasPrefix(kind, "application/json") || !strings.Contains(keep, "no-store") {
		s.Errorf("%s: Content-Type %q, Cache-Control %q", e, kind, keep)
	}
}

// wroteOnce fails the test unless clients wrote one key, the cloud heard of one,
// and Key Connector now gives exactly that one, which is the result.
func (s *scene) wroteOnce(u bitwarden.User, method string, headers map[string]string) []byte {
	s.Helper()
	var writes []exchange
	for _, e := range s.wire.since(0) {
		if e.method != http.MethodGet {
			writes = append(writes, e)
		}
	}
	if len(writes) != 1 || writes[0].status != http.StatusOK || s.cloud.Registrations(u) != 1 {
		s.Fatalf("Key Connector got %v, the cloud %d registrations; want one of each", writes, s.cloud.Registrations(u))
	}
	s.sent(writes[0], method, headers)
	masterKey := newAPI(s.T, s.cloud, s.kc.URL, u).load(s.T)
	if want := `{"key":"` + base64.StdEncoding.EncodeToString(masterKey) + `"}`; writes[0].body != want {
		s.Fatal("Key Connector gives another key than the one that was written")
	}
	return masterKey
}

// only is the one exchange with Key Connector so far, which has to be that one:
// clients neither retry, nor write a key because they could not read one.
func (s *scene) only(method string, status int) exchange {
	s.Helper()
	asked := s.wire.since(0)
	if len(asked) != 1 || asked[0].method != method || asked[0].status != status {
		s.Fatalf("asked of Key Connector: %v, want one %s -> %d\n%s", asked, method, status, s.kc.log)
	}
	return asked[0]
}

// showed fails the test unless bw failed and told the user what Key Connector
// said.
func (s *scene) showed(o outcome, e exchange) {
	s.Helper()
	var refusal struct{ Message string }
	if err := json.Unmarshal([]byte(e.answerBody), &refusal); err != nil || refusal.Message == "" {
		s.Fatalf("%s: no message in %q", e, e.answerBody)
	}
	if said := o.stdout + o.stderr; o.err == nil || !strings.Contains(said, refusal.Message) || !strings.Contains(said, "Key Connector error") {
		s.Errorf("bw does not show %q: %s", refusal.Message, o)
	}
}

func newMasterKey() []byte {
	key := make([]byte, bitwarden.MasterKeySize)
	rand.Read(key)
	return key
}
