package wire_test

import (
	"bufio"
	"encoding/json"
	"io"
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
	"github.com/latchkey-fn/latchkey/local/emulators/minidyn"
	"github.com/latchkey-fn/latchkey/local/emulators/moto"
	"github.com/latchkey-fn/latchkey/local/emulators/softhsm"
	"github.com/latchkey-fn/latchkey/local/testenv"
	"github.com/latchkey-fn/latchkey/local/wire"
	"github.com/latchkey-fn/latchkey/providers/awsconfig"
	"github.com/latchkey-fn/latchkey/providers/stores/dynamodb"
)

const origin = "https://vault.example.org"

// binaries are built once: latchkey, its PKCS#11 helper, and the Lambda binary.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "latchkey-wire")
	if err != nil {
		return "", err
	}
	for _, b := range []struct {
		cgo  string
		args []string
	}{
		{"0", []string{"-o", filepath.Join(dir, "latchkey"), "../latchkey"}},
		{"1", []string{"-o", filepath.Join(dir, "latchkey-pkcs11"), "../../providers/keys/pkcs11/helper"}},
		{"0", []string{"-tags", "lambda.norpc", "-o", filepath.Join(dir, "lambda", "keyconnector", "bootstrap"), "../../functions/keyconnector/aws"}},
	} {
		build := exec.Command("go", append([]string{"build", "-ldflags", "-s -w"}, b.args...)...)
		build.Env = append(os.Environ(), "CGO_ENABLED="+b.cgo)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return dir, err
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if !testing.Short() {
		if dir, err := binaries(); err == nil {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// process is a running latchkey.
type process struct {
	cmd   *exec.Cmd
	lines chan string
}

// start runs latchkey with nothing in its environment but what is given.
func start(t *testing.T, environment map[string]string, args ...string) *process {
	t.Helper()
	testenv.Tool(t, "gcc")
	dir, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(filepath.Join(dir, "latchkey"), args...), lines: make(chan string, 1000)}
	p.cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	for name, value := range environment {
		p.cmd.Env = append(p.cmd.Env, name+"="+value)
	}
	p.cmd.Stderr = logWriter{t}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.stop(t) })
	go func() {
		defer close(p.lines)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			select {
			case p.lines <- lines.Text():
			default: // nobody reads any more
			}
		}
	}()
	return p
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
	if p.cmd.ProcessState != nil {
		return
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Errorf("stop latchkey: %v", err)
	}
	timer := time.AfterFunc(30*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("latchkey did not end well: %v", err)
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

// serve runs `latchkey serve` beside a development identity server.
func serve(t *testing.T, settings ...map[string]string) wire.Target {
	t.Helper()
	identity, err := devidentity.New(devidentity.Config{Issuer: "http://127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(identity)
	t.Cleanup(server.Close)
	environment := map[string]string{
		"LATCHKEY_IDENTITY_URL": server.URL, "LATCHKEY_WEB_VAULT_ORIGINS": origin, "LATCHKEY_PATH_PREFIX": "/key-connector",
		"LATCHKEY_AWS_REGION": localkms.Region, "LATCHKEY_AWS_ACCESS_KEY_ID": "test", "LATCHKEY_AWS_SECRET_ACCESS_KEY": "test",
	}
	for _, s := range settings {
		for name, value := range s {
			environment[name] = value
		}
	}
	p := start(t, environment, "serve", "--listen", "127.0.0.1:0")
	return wire.Target{URL: p.url(t, listening), IdentityURL: server.URL, Origin: origin}
}

// The stores and keys that `latchkey serve` is tested with. Each gives the
// settings that choose it.
var (
	stores = map[string]func(*testing.T) map[string]string{
		"SQLite": func(t *testing.T) map[string]string {
			return map[string]string{"LATCHKEY_STORE": "sqlite", "LATCHKEY_SQLITE_PATH": filepath.Join(t.TempDir(), "latchkey.db")}
		},
		"JSON file": func(t *testing.T) map[string]string {
			return map[string]string{"LATCHKEY_STORE": "json", "LATCHKEY_JSON_PATH": filepath.Join(t.TempDir(), "latchkey.json")}
		},
		"DynamoDB (minidyn)": func(t *testing.T) map[string]string {
			server, err := minidyn.Start()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closeIt(t, server) })
			return table(t, server.URL)
		},
		"DynamoDB (moto)": func(t *testing.T) map[string]string { return table(t, moto.Start(t)) },
	}
	keys = map[string]func(*testing.T) map[string]string{
		"a software key": func(t *testing.T) map[string]string {
			return map[string]string{"LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": filepath.Join(t.TempDir(), "key.pem")}
		},
		"SoftHSM": func(t *testing.T) map[string]string {
			testenv.Tool(t, "softhsm2-util")
			testenv.Tool(t, "pkcs11-tool")
			token, err := softhsm.Create(t.Context(), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			settings := map[string]string{
				"LATCHKEY_KEYS": "pkcs11", "LATCHKEY_PKCS11_LIBRARY": token.Library, "LATCHKEY_PKCS11_TOKEN_SERIAL": token.Serial,
				"LATCHKEY_PKCS11_PIN": token.PIN, "LATCHKEY_PKCS11_KEY_LABEL": token.KeyLabel,
			}
			for _, variable := range token.Env {
				name, value, _ := strings.Cut(variable, "=")
				settings[name] = value
			}
			return settings
		},
		"the KMS emulator": func(t *testing.T) map[string]string {
			server, err := localkms.Start(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closeIt(t, server) })
			key, err := server.EnsureKey(t.Context(), "alias/latchkey")
			if err != nil {
				t.Fatal(err)
			}
			return map[string]string{"LATCHKEY_KEYS": "awskms", "LATCHKEY_AWSKMS_KEY_ID": key, "LATCHKEY_AWSKMS_ENDPOINT": server.URL}
		},
	}
)

func closeIt(t *testing.T, c io.Closer) {
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func table(t *testing.T, endpoint string) map[string]string {
	t.Helper()
	cfg, err := awsconfig.Load(t.Context(), awsconfig.Config{Region: localkms.Region, AccessKeyID: "test", SecretAccessKey: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := dynamodb.New(cfg, dynamodb.Config{Table: "latchkey", Endpoint: endpoint}).CreateTable(t.Context()); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"LATCHKEY_STORE": "dynamodb", "LATCHKEY_DYNAMODB_TABLE": "latchkey", "LATCHKEY_DYNAMODB_ENDPOINT": endpoint}
}

func TestServeOverEveryStoreWithEveryKey(t *testing.T) {
	for storeName, openStore := range stores {
		for keyName, openKey := range keys {
			t.Run(storeName+" with "+keyName, func(t *testing.T) {
				testenv.Tool(t, "gcc")
				wire.Run(t, serve(t, openStore(t), openKey(t)))
			})
		}
	}
}

func TestUp(t *testing.T) {
	for name, flags := range map[string][]string{
		"as one process":                   nil,
		"with SoftHSM and DynamoDB":        {"--keys", "softhsm", "--store", "dynamodb"},
		"with the KMS emulator and a file": {"--keys", "awskms", "--store", "json"},
		"as the real Lambda binary":        {"--lambda"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, nil, append([]string{"up", "--json", "--listen", "127.0.0.1:0", "--data", t.TempDir()}, flags...)...)
			var told struct{ KeyConnector, Identity string }
			var document strings.Builder
			p.url(t, func(line string) string {
				document.WriteString(line)
				if json.Unmarshal([]byte(document.String()), &told) != nil {
					return ""
				}
				return told.KeyConnector
			})
			wire.Run(t, wire.Target{
				URL: told.KeyConnector, IdentityURL: told.Identity,
				Origin: strings.TrimSuffix(told.KeyConnector, "/key-connector"),
			})
		})
	}
}
