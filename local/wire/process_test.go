package wire_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/emulators/localkms"
	"github.com/latchkey-fn/latchkey/local/testenv"
)

// programs is the folder of what is built here, each program once, when it is
// first needed: latchkey finds the other two beside itself.
var programs string

var (
	buildLatchkey = program("latchkey", "../latchkey", "0")
	buildHelper   = program("latchkey-pkcs11", "../../providers/keys/pkcs11/helper", "1")
	buildLambda   = sync.OnceValue(func() (err error) {
		for _, function := range []string{"keyconnector", "tokenexchange", "tokenrevoke", "machineaccounts", "secrets", "sponsorships", "billingsync"} {
			err = errors.Join(err, program("lambda/"+function+"/bootstrap", "../../functions/"+function+"/aws", "0", "-tags", "lambda.norpc")())
		}
		return err
	})
)

func program(name, source, cgo string, flags ...string) func() error {
	return sync.OnceValue(func() error {
		args := append([]string{"build", "-ldflags", "-s -w", "-o", filepath.Join(programs, name)}, flags...)
		build := exec.Command("go", append(args, source)...)
		build.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
		return nil
	})
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if programs, err = os.MkdirTemp("", "latchkey-wire"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(programs)
	return m.Run()
}

// latchkey is the command with nothing in its environment but what is given.
func latchkey(t *testing.T, environment map[string]string, args ...string) *exec.Cmd {
	t.Helper()
	testenv.Tool(t, "go")
	if err := buildLatchkey(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(programs, "latchkey"), args...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	for name, value := range environment {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

// withHelper builds latchkey's PKCS#11 helper, which needs a C compiler.
func withHelper(t *testing.T) {
	t.Helper()
	testenv.Tool(t, "gcc")
	if err := buildHelper(); err != nil {
		t.Fatal(err)
	}
}

// process is a running latchkey.
type process struct {
	cmd   *exec.Cmd
	lines chan string   // of its output, the first thousand
	ended chan struct{} // closed when it has ended, with err
	err   error
}

// start runs latchkey until the test ends.
func start(t *testing.T, environment map[string]string, args ...string) *process {
	t.Helper()
	p := &process{
		cmd:   latchkey(t, environment, args...),
		lines: make(chan string, 1000),
		ended: make(chan struct{}),
	}
	p.cmd.Stderr = logWriter{t}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.read(out)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() { p.stop(t) })
	return p
}

func (p *process) read(out io.Reader) {
	defer close(p.lines)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		select {
		case p.lines <- lines.Text():
		default: // nobody reads any more
		}
	}
}

type logWriter struct{ t *testing.T }

func (w logWriter) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "ERROR") || strings.Contains(line, "panic") || strings.HasPrefix(line, "latchkey:") {
			w.t.Log(strings.TrimSpace(line))
		}
	}
	return len(b), nil
}

// stop ends the process as an operator would, and expects it to end well.
func (p *process) stop(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
		return
	default:
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Errorf("stop latchkey: %v", err)
	}
	timer := time.AfterFunc(30*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	if <-p.ended; p.err != nil {
		t.Errorf("latchkey did not end well: %v", p.err)
	}
}

// kill ends the process in the middle of what it does.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Errorf("kill latchkey: %v", err)
	}
	if <-p.ended; p.cmd.ProcessState.Exited() {
		t.Errorf("latchkey ended by itself: %v", p.cmd.ProcessState)
	}
}

// url waits for the line that find recognises.
func (p *process) url(t *testing.T, find func(line string) string) string {
	t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				t.Fatal("latchkey ended before it listened")
			}
			if url := find(line); url != "" {
				return url
			}
		case <-timeout:
			t.Fatal("latchkey does not listen")
		}
	}
}

func listening(line string) string {
	var entry struct{ Msg, URL string }
	if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "listening" {
		return ""
	}
	return entry.URL
}

// identity is a development identity server on loopback.
func identity(t *testing.T) (*devidentity.Server, string) {
	t.Helper()
	server, err := devidentity.New(devidentity.Config{Issuer: "http://127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(server)
	t.Cleanup(listener.Close)
	return server, listener.URL
}

// settings joins those of `latchkey serve`.
func settings(identityURL string, parts ...map[string]string) map[string]string {
	all := map[string]string{
		"LATCHKEY_IDENTITY_URL": identityURL, "LATCHKEY_WEB_VAULT_ORIGINS": origin, "LATCHKEY_PATH_PREFIX": "/key-connector",
		"LATCHKEY_PUBLIC_URL": "https://127.0.0.1",
		"LATCHKEY_AWS_REGION": localkms.Region, "LATCHKEY_AWS_ACCESS_KEY_ID": "test", "LATCHKEY_AWS_SECRET_ACCESS_KEY": "test",
	}
	for _, part := range parts {
		maps.Copy(all, part)
	}
	return all
}

// certificate is for https on loopback: the flags of `latchkey serve`, and what
// its clients trust.
func certificate(t *testing.T) (flags []string, trust *tls.Config) {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	defer server.Close()
	own := server.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: own.Certificate[0]}, "key.pem": {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return []string{"--tls-cert", filepath.Join(dir, "cert.pem"), "--tls-key", filepath.Join(dir, "key.pem")}, &tls.Config{RootCAs: roots}
}

// client keeps as many connections as the suite uses at once. They are closed
// before the server is stopped: it waits some seconds for those on which no
// request has come yet.
func client(t *testing.T, trust *tls.Config) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 32, TLSClientConfig: trust}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

func closeIt(t *testing.T, c io.Closer) {
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
