package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/testenv"
	"github.com/latchkey-fn/latchkey/shared/logtest"
)

// output collects what a server writes, and tells where it listens.
type output struct {
	logtest.Log
	listening chan string
}

func newOutput() *output { return &output{listening: make(chan string, 1)} }

func (o *output) Write(b []byte) (int, error) {
	for line := range bytes.Lines(b) { // the logger writes whole lines
		var entry struct{ Msg, URL string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "listening" {
			o.listening <- entry.URL
		}
	}
	return o.Log.Write(b)
}

// server is `latchkey serve` in this process. stop does what a signal does,
// and gives the exit code.
type server struct {
	url  string
	log  *output
	stop context.CancelFunc
	code chan int
}

func startServer(t *testing.T, args ...string) *server {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	s := &server{log: newOutput(), stop: stop, code: make(chan int, 1)}
	go func() {
		s.code <- execute(ctx, &terminal{out: s.log, err: s.log, in: strings.NewReader("")},
			append([]string{"serve", "--listen", "127.0.0.1:0"}, args...))
	}()
	t.Cleanup(stop)
	select {
	case s.url = <-s.log.listening:
	case code := <-s.code:
		t.Fatalf("it ended with %d\n%s", code, s.log)
	case <-time.After(time.Minute):
		t.Fatal("it does not listen")
	}
	return s
}

func (s *server) wantEnd(t *testing.T, want int) {
	t.Helper()
	select {
	case code := <-s.code:
		if code != want {
			t.Errorf("it ended with %d\n%s", code, s.log)
		}
	case <-time.After(time.Minute):
		t.Error("it does not end")
	}
}

func TestServeTellsEveryWrongSettingAtOnce(t *testing.T) {
	set(t, map[string]string{
		"LATCHKEY_STORE": "dynamodb", "LATCHKEY_DYNAMODB_ENDPOINT": "nowhere", "LATCHKEY_KEYS": "paper", "LATCHKEY_AWS_ACCESS_KEY_ID": "one of two",
		"LATCHKEY_WEB_VAULT_ORIGINS": "vault", "LATCHKEY_PATH_PREFIX": "key-connector", "LATCHKEY_DATA_KEY_MAX_AGE": "1s",
	})
	got := run(t, "serve").want(t, exitUsage, "LATCHKEY_DYNAMODB_TABLE", "LATCHKEY_DYNAMODB_ENDPOINT", "LATCHKEY_KEYS=paper",
		"LATCHKEY_AWS_SECRET_ACCESS_KEY", "LATCHKEY_IDENTITY_URL", "LATCHKEY_WEB_VAULT_ORIGINS", "LATCHKEY_PATH_PREFIX", "LATCHKEY_DATA_KEY_MAX_AGE")
	if strings.Contains(got.out, "listening") {
		t.Errorf("it served:\n%s", got.out)
	}
}

// What is misspelt is most often what is missing: both are told.
func TestAMisspeltSettingIsToldBesideTheMissingOne(t *testing.T) {
	use(t, useSQLite)
	set(t, map[string]string{"LATCHKEY_KEYS": "", "LATCHKEY_KESY": "software"})
	const misspelt = "LATCHKEY_KESY is not a setting of this function; is it misspelt?"
	got := run(t, "serve").want(t, exitUsage, misspelt, "LATCHKEY_KEYS is not set")
	if !strings.Contains(got.out, `"level":"WARN"`) || strings.Contains(got.out, "listening") {
		t.Errorf("it logs %s", got.out)
	}
	run(t, "doctor").want(t, exitUsage, misspelt, "LATCHKEY_KEYS is not set", "FAILED", "nothing else was checked")
	var all []finding
	run(t, "doctor", "--json").json(t, &all)
	if !slices.Contains(all, finding{"settings", outcomeWarning, misspelt}) {
		t.Errorf("the findings are %v", all)
	}
}

func TestASettingOfAnotherFunctionIsNotCalledMisspelt(t *testing.T) {
	use(t, useSQLite)
	set(t, map[string]string{"LATCHKEY_PUBLIC_URL": "http://127.0.0.1:1", "LATCHKEY_PATH_PREFIX": "/kc", "LATCHKEY_KESY": "x", "LATCHKEY_ALLOW_LONG_KEYS": "perhaps"})
	t.Setenv("LATCHKEY_SERVER", "https://latchkey.example.org")
	t.Setenv("LATCHKEY_OPERATOR_TOKEN_FILE", "/run/token")
	const ofSecretsManager = "LATCHKEY_PUBLIC_URL is a setting of secrets-manager, which --functions does not choose"
	got := run(t, "doctor", "--functions", "key-connector").want(t, exitUsage, ofSecretsManager, "LATCHKEY_KESY is not a setting of this function", "of key-connector: ")
	for _, known := range []string{"LATCHKEY_PATH_PREFIX is", "LATCHKEY_SERVER", "LATCHKEY_OPERATOR_TOKEN"} {
		if strings.Contains(got.out, known) {
			t.Errorf("it warns of %s:\n%s", known, got.out)
		}
	}
	// What is wrong with the other's settings is not its concern.
	run(t, "doctor", "--functions", "secrets-manager").want(t, 0, "LATCHKEY_PATH_PREFIX is a setting of key-connector", "LATCHKEY_ALLOW_LONG_KEYS is a setting of key-connector",
		"LATCHKEY_KESY is not a setting of this function", "of secrets-manager: store sqlite")
	t.Setenv("LATCHKEY_ALLOW_LONG_KEYS", "")
	both := run(t, "doctor", "--functions", "key-connector,secrets-manager").want(t, 0, "LATCHKEY_KESY is not a setting", "of key-connector and secrets-manager: ")
	if strings.Contains(both.out, "does not choose") {
		t.Errorf("both are chosen:\n%s", both.out)
	}
}

func TestServeRefusesWhatItCannotListenOn(t *testing.T) {
	use(t, useSQLite)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, taken)
	run(t, "serve", "--listen", taken.Addr().String()).want(t, exitUsage, "--listen "+taken.Addr().String(), "in use")
	run(t, "serve", "--listen", "127.0.0.1:0", "--tls-cert", "/nowhere/cert.pem", "--tls-key", "/nowhere/key.pem").want(t, exitUsage, "/nowhere/cert.pem")
}

// An operator's commands work on the store while the server does.
func TestServeAndKeysListShareADatabase(t *testing.T) {
	identity := use(t, useSQLite)
	s := startServer(t)
	var wait sync.WaitGroup
	for i := range 4 {
		wait.Go(func() {
			for j := range 5 {
				user := fmt.Sprintf("8d7c5f0a-95b1-4ad5-9a5e-3f2c2b1f%02d%02d", i, j)
				if status := send(t, http.DefaultClient, s.url, identity, http.MethodPost, user, hisKey); status != http.StatusOK {
					t.Errorf("POST: %d", status)
				}
			}
		})
	}
	for range 5 {
		run(t, "keys", "list").want(t, 0)
	}
	wait.Wait()
	var infos []struct{ User string }
	if run(t, "keys", "list", "--json").json(t, &infos); len(infos) != 20 {
		t.Errorf("%d users are listed", len(infos))
	}
	user := infos[0].User
	run(t, "keys", "delete", "--yes", user).want(t, 0)
	if status := send(t, http.DefaultClient, s.url, identity, http.MethodGet, user, ""); status != http.StatusNotFound {
		t.Errorf("the server answers %d to a user whose key was deleted beside it", status)
	}
	if status := send(t, http.DefaultClient, s.url, identity, http.MethodPost, user, herKey); status != http.StatusOK {
		t.Errorf("the user is not free again: %d", status)
	}
	http.DefaultClient.CloseIdleConnections()
	s.stop()
	s.wantEnd(t, 0)
	if log := s.log.String(); strings.Contains(log, hisKey) || strings.Contains(log, herKey) {
		t.Error("a key is in the log")
	}
}

// send is one request over the network; its faults do not end the test.
func send(t *testing.T, client *http.Client, base string, identity *devidentity.Server, method, user, key string) int {
	token, err := identity.Mint(devidentity.Claims{User: user})
	if err != nil {
		t.Error(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, base+"/user-keys", strings.NewReader(`{"key":"`+key+`"}`))
	if err != nil {
		t.Error(err)
		return 0
	}
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(r)
	if err != nil {
		t.Error(err)
		return 0
	}
	_, _ = io.Copy(io.Discard, response.Body)
	closeIt(t, response.Body)
	return response.StatusCode
}

// slowPost is a request under way: its head and half of its body are sent.
type slowPost struct {
	connection net.Conn
	rest       string
}

func beginPost(t *testing.T, base string, identity *devidentity.Server, user, key string) slowPost {
	t.Helper()
	address, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	token, err := identity.Mint(devidentity.Claims{User: user})
	if err != nil {
		t.Fatal(err)
	}
	connection, err := net.Dial("tcp", address.Host)
	if err != nil {
		t.Fatal(err)
	}
	body := `{"key":"` + key + `"}`
	// The server asks for the body when it has begun to read it.
	_, err = fmt.Fprintf(connection, "POST /user-keys HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
		address.Host, token, len(body))
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReaderSize(connection, 16).ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("the server does not ask for the body: %q, %v", line, err)
	}
	if _, err := connection.Write([]byte(body[:10])); err != nil {
		t.Fatal(err)
	}
	return slowPost{connection, body[10:]}
}

// end sends the rest and gives the answer's first line.
func (p slowPost) end(t *testing.T) string {
	t.Helper()
	defer closeIt(t, p.connection)
	if _, err := p.connection.Write([]byte(p.rest)); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(p.connection); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "HTTP/1.1 ") {
			return lines.Text()
		}
	}
	return "the connection ended"
}

// waitUntilClosed waits until nobody new is let in.
func waitUntilClosed(t *testing.T, base string) {
	t.Helper()
	address, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		connection, err := net.Dial("tcp", address.Host)
		if err != nil {
			return
		}
		closeIt(t, connection)
	}
	t.Fatal("it still listens")
}

func TestAServerThatIsStoppedLetsARequestUnderWayEnd(t *testing.T) {
	identity := use(t, useSQLite)
	s := startServer(t)
	slow := beginPost(t, s.url, identity, alice, herKey)
	s.stop()
	waitUntilClosed(t, s.url)
	if answer := slow.end(t); answer != "HTTP/1.1 200 OK" {
		t.Errorf("the request under way is answered %q", answer)
	}
	s.wantEnd(t, 0)
	wantKeys(t, identity, map[string]string{alice: herKey})
}

func TestSIGTERMDrainsAndASecondSignalDoesNot(t *testing.T) {
	testenv.Tool(t, "go")
	binary := filepath.Join(t.TempDir(), "latchkey")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	identity := use(t, useSQLite)
	start := func(t *testing.T) (*exec.Cmd, string) {
		t.Helper()
		cmd, log := exec.CommandContext(t.Context(), binary, "serve", "--listen", "127.0.0.1:0"), newOutput()
		cmd.Stdout = log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case url := <-log.listening:
			return cmd, url
		case <-time.After(time.Minute):
			t.Fatalf("it does not listen\n%s", log)
			return nil, ""
		}
	}
	signal := func(t *testing.T, cmd *exec.Cmd, s os.Signal) {
		t.Helper()
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}

	cmd, url := start(t)
	slow := beginPost(t, url, identity, alice, herKey)
	signal(t, cmd, syscall.SIGTERM)
	waitUntilClosed(t, url)
	if answer := slow.end(t); answer != "HTTP/1.1 200 OK" {
		t.Errorf("the request under way is answered %q", answer)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it did not end well: %v", err)
	}

	cmd, url = start(t)
	slow = beginPost(t, url, identity, bob, hisKey)
	defer closeIt(t, slow.connection)
	signal(t, cmd, syscall.SIGTERM)
	waitUntilClosed(t, url)
	signal(t, cmd, syscall.SIGTERM)
	err := cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("at the second signal it ended with %v", err)
	}
	wantKeys(t, identity, map[string]string{alice: herKey})
}

// Whatever else is served beside it, Billing sync answers in its own form for what
// of the API has no route.
func TestBillingSyncIsServed(t *testing.T) {
	identity := use(t, useSQLite)
	t.Setenv("LATCHKEY_PUBLIC_URL", "https://example.org/latchkey")
	const withoutCertificate = "LATCHKEY_LICENSE_CERTIFICATE_FILE is not set"
	organization := uuid.NewString()
	token, err := identity.Mint(devidentity.Claims{User: uuid.NewString(), Owner: []string{organization}})
	if err != nil {
		t.Fatal(err)
	}
	for _, functions := range []string{"billing-sync", "key-connector,billing-sync"} {
		s := startServer(t, "--functions", functions)
		if !strings.Contains(s.log.String(), withoutCertificate) {
			t.Errorf("%s: it does not warn:\n%s", functions, s.log)
		}
		for _, path := range []string{"/api/organizations/connections/" + organization + "/7", "/latchkey/api/none"} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+token)
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			var body struct{ Object, Message string }
			err = json.NewDecoder(response.Body).Decode(&body)
			closeIt(t, response.Body)
			if response.StatusCode != http.StatusNotFound || err != nil || body.Object != "error" || body.Message != "Resource not found." {
				t.Errorf("%s: %s is answered %d, %+v, %v", functions, path, response.StatusCode, body, err)
			}
		}
		http.DefaultClient.CloseIdleConnections()
		s.stop()
		s.wantEnd(t, 0)
	}
	t.Setenv("LATCHKEY_LICENSE_CERTIFICATE_FILE", saved(t, cloud.LicenceCertificate()))
	if got := run(t, "serve", "--functions", "billing-sync", "--listen", "nowhere").want(t, exitUsage); strings.Contains(got.out, withoutCertificate) {
		t.Errorf("it warns in spite of a certificate: %s", got.out)
	}
}

func TestServeSpeaksHTTPS(t *testing.T) {
	identity := use(t, useSQLite)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))

	s := startServer(t, "--tls-cert", certFile, "--tls-key", keyFile)
	if !strings.HasPrefix(s.url, "https://127.0.0.1:") {
		t.Errorf("the address is %s", s.url)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	if status := send(t, client, s.url, identity, http.MethodPost, alice, herKey); status != http.StatusOK {
		t.Errorf("POST over https: %d", status)
	}
	client.CloseIdleConnections()
	old := &tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS11}
	if connection, err := tls.Dial("tcp", strings.TrimPrefix(s.url, "https://"), old); err == nil {
		t.Error("TLS 1.1 is spoken")
		closeIt(t, connection)
	}
	s.stop()
	s.wantEnd(t, 0)
}
