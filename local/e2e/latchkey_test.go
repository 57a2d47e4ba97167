//go:build unix

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/e2e/bitwarden"
	"github.com/latchkey-fn/latchkey/shared/logtest"
)

// keyConnector is a running Key Connector.
type keyConnector struct {
	URL string
	log *transcript
}

// build makes the latchkey binary as a user would.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "latchkey")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../latchkey")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build ../latchkey: %v\n%s", err, out)
	}
	return binary
}

// serve runs latchkey serve on a free port until the test ends, with SQLite and
// a software key in a folder of its own, for the users of that cloud.
func serve(t *testing.T, binary string, cloud *bitwarden.Server) keyConnector {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile := cloud.Authority.Issue(t, "latchkey")
	cmd := exec.CommandContext(t.Context(), binary, "serve", "--listen", "127.0.0.1:0", "--tls-cert", certFile, "--tls-key", keyFile)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir,
		"LATCHKEY_STORE=sqlite", "LATCHKEY_SQLITE_PATH=" + filepath.Join(dir, "latchkey.db"),
		"LATCHKEY_KEYS=software", "LATCHKEY_SOFTWARE_KEY_PATH=" + filepath.Join(dir, "software.key"),
		"LATCHKEY_IDENTITY_URL=" + cloud.URL + "/identity", "LATCHKEY_IDENTITY_CA_FILE=" + cloud.Authority.File,
		"LATCHKEY_WEB_VAULT_ORIGINS=" + cloud.URL,
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	log := &transcript{listening: make(chan string, 1)}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case url := <-log.listening:
		// t.Context ends before the cleanup: latchkey has got its SIGTERM by then.
		t.Cleanup(func() {
			if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("latchkey serve did not end well: %v\n%s", err, log)
			}
		})
		return keyConnector{URL: url, log: log}
	case err := <-ended:
		t.Fatalf("latchkey serve ended before it listened: %v\n%s", err, log)
	case <-time.After(30 * time.Second):
		err := cmd.Process.Kill()
		t.Fatalf("latchkey serve does not say that it listens (kill: %v)\n%s", err, log)
	}
	return keyConnector{}
}

// transcript keeps the log of a process, and finds the address in it.
type transcript struct {
	logtest.Log
	listening chan string
	told      bool
}

// Write is called by one goroutine: both streams of the process are one.
func (l *transcript) Write(b []byte) (int, error) {
	n, err := l.Log.Write(b)
	for lines := bufio.NewScanner(strings.NewReader(l.String())); !l.told && lines.Scan(); {
		var entry struct{ Msg, URL string }
		if json.Unmarshal(lines.Bytes(), &entry) == nil && strings.Contains(entry.Msg, "listening") && entry.URL != "" {
			l.told = true
			l.listening <- entry.URL
		}
	}
	return n, err
}

// api asks Key Connector directly, as u.
type api struct {
	client *http.Client
	url    string
	token  string
}

func newAPI(t *testing.T, server *bitwarden.Server, url string, u bitwarden.User) api {
	t.Helper()
	token, err := server.AccessToken(u)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: server.Authority.Pool}}
	t.Cleanup(transport.CloseIdleConnections)
	return api{client: &http.Client{Transport: transport, Timeout: 10 * time.Second}, url: url, token: token}
}

type userKey struct {
	Key []byte `json:"key"`
}

// store creates the user's key.
func (a api) store(t *testing.T, masterKey []byte) {
	t.Helper()
	body, err := json.Marshal(userKey{masterKey})
	if err != nil {
		t.Fatal(err)
	}
	if status, answer := a.do(t, http.MethodPost, body); status != http.StatusOK {
		t.Fatalf("POST /user-keys: %d %s", status, answer)
	}
}

// load reads the user's key.
func (a api) load(t *testing.T) []byte {
	t.Helper()
	status, answer := a.do(t, http.MethodGet, nil)
	var got userKey
	if err := json.Unmarshal(answer, &got); status != http.StatusOK || err != nil || len(got.Key) != bitwarden.MasterKeySize {
		t.Fatalf("GET /user-keys: %d, %v, a key of %d bytes", status, err, len(got.Key))
	}
	return got.Key
}

func (a api) do(t *testing.T, method string, body []byte) (int, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, a.url+"/user-keys", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+a.token)
	r.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer
}

// keepsSecrets fails the test if the log holds any of the user's secrets: what
// identifies him to Key Connector, or opens his vault.
func (kc keyConnector) keepsSecrets(t *testing.T, u bitwarden.User, masterKey []byte) {
	t.Helper()
	log := kc.log.String()
	for what, secret := range map[string]string{
		"e-mail address": u.Email,
		"API secret":     u.APISecret,
		"master key":     base64.StdEncoding.EncodeToString(masterKey),
		"access token":   "eyJ", // the first letters of every JSON Web Token
	} {
		if strings.Contains(log, secret) {
			t.Errorf("the log of latchkey holds the %s of a user", what)
		}
	}
}
