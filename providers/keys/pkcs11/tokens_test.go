package pkcs11

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/emulators/softhsm"
	"github.com/latchkey-fn/latchkey/local/testenv"
	"github.com/latchkey-fn/latchkey/providers/keys/pkcs11/internal/protocol"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/logtest"
	"software.sslmate.com/src/go-pkcs12"
)

// These tests run the real helper against real tokens in software.

// buildHelper builds the helper with cgo, once for the tests of this process.
func buildHelper(t *testing.T) string {
	t.Helper()
	testenv.Tool(t, "gcc")
	path, err := builtHelper()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// helperPath is not in a test's own folder: it outlives the first that asks.
// TestMain removes it.
var helperPath = filepath.Join(os.TempDir(), fmt.Sprintf("%s-test-%d", HelperName, os.Getpid()))

var builtHelper = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "build", "-o", helperPath, "./helper")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the helper: %w\n%s", err, out)
	}
	return helperPath, nil
})

func newSoftHSM(t *testing.T) softhsm.Token {
	t.Helper()
	testenv.File(t, "SoftHSM", softhsm.Libraries...)
	testenv.Tool(t, "softhsm2-util")
	testenv.Tool(t, "pkcs11-tool")
	token, err := softhsm.Create(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func softHSMConfig(t *testing.T, token softhsm.Token) Config {
	t.Helper()
	return Config{
		Helper: buildHelper(t), Library: token.Library, Env: token.Env,
		TokenLabel: token.Label, PIN: PIN(token.PIN), KeyLabel: token.KeyLabel,
		MaxParallel: 4, Log: testLog(t),
	}
}

// testLog shows the log of a test that fails. Unlike t.Log it may be used while
// the last helper is being reaped.
func testLog(t *testing.T) *slog.Logger {
	var log logtest.Log
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return log.Logger()
}

func roundTrip(ctx context.Context, key *Key) error {
	secret := []byte("thirty-two bytes of user secret!")
	w, err := kms.Wrap(ctx, key, secret, nil)
	if err != nil {
		return err
	}
	got, err := kms.Unwrap(ctx, key, w, nil)
	if err == nil && !bytes.Equal(got, secret) {
		return fmt.Errorf("%w: another secret", fault.Invalid)
	}
	return err
}

func TestSoftHSMConforms(t *testing.T) {
	token := newSoftHSM(t)
	c := softHSMConfig(t, token)
	bySerial := c
	bySerial.TokenLabel, bySerial.TokenSerial = "", token.Serial+"  "
	byID := c
	byID.KeyLabel, byID.KeyID = "", token.KeyID
	alone := c
	alone.TokenLabel = ""
	alone.MaxParallel = 0
	for name, c := range map[string]Config{
		"by label": c, "by serial": bySerial, "by key id": byID, "the only token, one session": alone,
	} {
		t.Run(name, func(t *testing.T) {
			kmstest.Run(t, func(t *testing.T) kms.Unwrapper {
				key, err := Open(c)
				if err != nil {
					t.Fatal(err)
				}
				return key
			})
		})
	}
	description, err := openKey(t, c).Describe(t.Context())
	if err != nil || description.Wrap != kms.RSAOAEP || description.Ref.ID != "serial="+token.Serial+";id=%01" {
		t.Errorf("SoftHSM, which has OAEP with SHA-1 only, describes itself as %+v, %v", description, err)
	}
}

func TestSoftHSMFindsKeys(t *testing.T) {
	token := newSoftHSM(t)
	odd := []byte{0x00, 0x01, 0xff, 0xc3, 0x28, 0x00}
	for _, k := range []struct {
		kind, label string
		id          []byte
	}{
		{"rsa:2048", "odd", odd}, {"rsa:2048", "twin", []byte{2}}, {"rsa:2048", "twin", []byte{3}},
		{"EC:prime256v1", "ec", []byte{4}}, {"rsa:1024", "weak", []byte{5}}, {"rsa:4096", "größte Schlüssel ✓", []byte{6}},
	} {
		if err := token.Generate(t.Context(), k.kind, k.label, k.id); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name   string
		change func(c *Config)
		want   fault.Class
		says   string
	}{
		{"an id with zeros and no text", func(c *Config) { c.KeyLabel, c.KeyID = "", odd }, "", ""},
		{"a label that is not ASCII", func(c *Config) { c.KeyLabel = "größte Schlüssel ✓" }, "", ""},
		{"one of two with a label, by its id", func(c *Config) { c.KeyLabel, c.KeyID = "", []byte{3} }, "", ""},
		{"the id without its leading zero", func(c *Config) { c.KeyLabel, c.KeyID = "", odd[1:] }, fault.NotFound, hex.EncodeToString(odd[1:])},
		{"a label that two have", func(c *Config) { c.KeyLabel = "twin" }, fault.Invalid, "several"},
		{"a label that none has", func(c *Config) { c.KeyLabel = "absent" }, fault.NotFound, "absent"},
		{"an elliptic curve key", func(c *Config) { c.KeyLabel = "ec" }, fault.Invalid, "RSA"},
		{"a weak key", func(c *Config) { c.KeyLabel = "weak" }, fault.Invalid, "1024"},
		{"a token that is not there", func(c *Config) { c.TokenLabel = "absent" }, fault.NotFound, token.Label},
		{"a serial that is not there", func(c *Config) { c.TokenLabel, c.TokenSerial = "", "absent" }, fault.NotFound, token.Serial},
		{"no PIN, so no key is seen", func(c *Config) { c.PIN = "" }, fault.NotFound, "login"},
		{"a file that is no library", func(c *Config) { c.Library = c.Helper }, fault.Invalid, "library"},
		{"a library without its configuration", func(c *Config) { c.Env = []string{"SOFTHSM2_CONF=/nowhere"} }, fault.Transient, ""},
		{"the security officer, who sees no private keys", func(c *Config) { c.UserType, c.PIN = "so", PIN(token.SOPIN) }, fault.NotFound, "login"},
		{"a security officer with the user's PIN", func(c *Config) { c.UserType = "so" }, fault.Denied, "PIN"},
		{"the PIN for each use, of a key that does not ask", func(c *Config) { c.UserType = "context_specific" }, "", ""},
		{"sessions that could write", func(c *Config) { c.ReadWriteSession = true }, "", ""},
		{"SHA-256, which it cannot", func(c *Config) { c.OAEP = "sha256" }, fault.Unsupported, "ARGUMENTS_BAD"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := softHSMConfig(t, token)
			test.change(&c)
			err := roundTrip(t.Context(), openKey(t, c))
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantClass(t, err, test.want)
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("it does not say %q: %v", test.says, err)
			}
		})
	}
}

func TestSoftHSMTokensAreToldApart(t *testing.T) {
	token := newSoftHSM(t)
	second := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", token.Label, "--pin", "0000", "--so-pin", "0000")
	second.Env = append(os.Environ(), token.Env...)
	if out, err := second.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c := softHSMConfig(t, token)
	err := roundTrip(t.Context(), openKey(t, c))
	wantClass(t, err, fault.Invalid)
	if !strings.Contains(err.Error(), token.Serial) {
		t.Errorf("it does not say which serials there are: %v", err)
	}
	c.TokenLabel, c.TokenSerial = "", token.Serial
	if err := roundTrip(t.Context(), openKey(t, c)); err != nil {
		t.Error(err)
	}
}

func TestSoftHSMKeyThatWantsThePINForEachUse(t *testing.T) {
	token := newSoftHSM(t)
	if err := token.Generate(t.Context(), "rsa:2048", "careful", []byte{9}, "--always-auth"); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"user", "context_specific"} {
		t.Run(user, func(t *testing.T) {
			c := softHSMConfig(t, token)
			c.KeyLabel, c.UserType = "careful", user
			kmstest.Run(t, func(t *testing.T) kms.Unwrapper {
				key, err := Open(c)
				if err != nil {
					t.Fatal(err)
				}
				return key
			})
		})
	}
}

func TestSoftHSMSeesOneLoginWithAWrongPIN(t *testing.T) {
	token := newSoftHSM(t)
	c := softHSMConfig(t, token)
	c.PIN = "wrong"
	key := openKey(t, c)
	w := kms.Wrapped{Algorithm: kms.RSAOAEP, Ciphertext: make([]byte, 256)}
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			if _, err := key.Unwrap(t.Context(), w, nil); fault.Of(err) != fault.Denied {
				t.Errorf("class %q: %v", fault.Of(err), err)
			}
		})
	}
	group.Wait()
	if got := key.supervisor.failures; got != 1 {
		t.Errorf("%d helpers were started, want 1", got)
	}
	if err := roundTrip(t.Context(), openKey(t, softHSMConfig(t, token))); err != nil {
		t.Errorf("the right PIN afterwards: %v", err)
	}
}

func TestSoftHSMGivenTheRightAndAWrongCertificate(t *testing.T) {
	token := newSoftHSM(t)
	c := softHSMConfig(t, token)
	description, err := openKey(t, c).Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Public = description.Public
	if err := roundTrip(t.Context(), openKey(t, c)); err != nil {
		t.Error(err)
	}
	c.Public = &fakeKeys[0]().PublicKey
	wantClass(t, roundTrip(t.Context(), openKey(t, c)), fault.Invalid)
}

// TestNSSConforms runs against a second, different token, which can do
// OAEP with SHA-256 and has to be given a string to start.
func TestNSSConforms(t *testing.T) {
	library := testenv.File(t, "NSS softokn",
		"/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so",
		"/usr/lib/aarch64-linux-gnu/libsoftokn3.so", "/usr/lib64/libsoftokn3.so")
	dir := t.TempDir()
	private := newRSA()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kc"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	p12, err := pkcs12.Modern.Encode(private, certificate, nil, "transport")
	if err != nil {
		t.Fatal(err)
	}
	pin, transport := filepath.Join(dir, "pin"), filepath.Join(dir, "transport")
	for name, content := range map[string][]byte{pin: []byte("nss-pin-1"), transport: []byte("transport"), filepath.Join(dir, "k.p12"): p12} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{testenv.Tool(t, "certutil"), "-N", "-d", "sql:" + dir, "-f", pin},
		{testenv.Tool(t, "pk12util"), "-i", filepath.Join(dir, "k.p12"), "-d", "sql:" + dir, "-k", pin, "-w", transport},
	} {
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		// NSS derives a key of the PIN at each decryption: let that be quick.
		cmd.Env = append(os.Environ(), "NSS_MIN_MP_PBE_ITERATION_COUNT=1", "NSS_MAX_MP_PBE_ITERATION_COUNT=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	id := nssID(&private.PublicKey)
	c := Config{
		Helper: buildHelper(t), Library: library, Log: testLog(t),
		InitArgs:   "configdir='sql:" + dir + "' certPrefix='' keyPrefix='' secmod='secmod.db' flags=readOnly ",
		TokenLabel: "NSS Certificate DB", PIN: "nss-pin-1", KeyID: id, MaxParallel: 4,
	}
	kmstest.Run(t, func(t *testing.T) kms.Unwrapper {
		key, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		return key
	})
	description, err := openKey(t, c).Describe(t.Context())
	if err != nil || description.Wrap != kms.RSAOAEP256 || !description.Public.Equal(&private.PublicKey) {
		t.Errorf("NSS, which has OAEP with SHA-256, describes itself as %+v, %v", description, err)
	}
	c.PIN = "wrong"
	wantClass(t, roundTrip(t.Context(), openKey(t, c)), fault.Denied)
}

// TestTheTokenIsLostAndComesBack kills the p11-kit server between us and
// SoftHSM, and starts another.
func TestTheTokenIsLostAndComesBack(t *testing.T) {
	client := testenv.File(t, "p11-kit client",
		"/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so", "/usr/lib/aarch64-linux-gnu/pkcs11/p11-kit-client.so", "/usr/lib64/pkcs11/p11-kit-client.so")
	tool := testenv.Tool(t, "p11-kit")
	token := newSoftHSM(t)
	// A path of a socket is short, those of t.TempDir may be too long.
	dir, err := os.MkdirTemp("", "p11")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")

	serve := func() (stop func()) {
		t.Helper()
		server := exec.Command(tool, "server", "--foreground", "--name", socket, "--provider", token.Library, "pkcs11:")
		server.Env = append(os.Environ(), token.Env...)
		var out logtest.Log
		server.Stdout, server.Stderr = &out, &out
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		stop = sync.OnceFunc(func() {
			// It forks one child a connection, and they outlive it.
			children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", server.Process.Pid, server.Process.Pid))
			for _, child := range strings.Fields(string(children)) {
				if pid, err := strconv.Atoi(child); err == nil {
					if p, err := os.FindProcess(pid); err == nil {
						_ = p.Kill()
					}
				}
			}
			_ = server.Process.Kill()
			_ = server.Wait()
			os.Remove(socket)
		})
		t.Cleanup(stop)
		for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			if c, err := net.Dial("unix", socket); err == nil {
				c.Close()
				return stop
			}
			if time.Now().After(end) {
				t.Fatalf("p11-kit server does not start: %s", out.String())
			}
		}
	}
	stop := serve()
	c := softHSMConfig(t, token)
	c.Library, c.Env = client, []string{"P11_KIT_SERVER_ADDRESS=unix:path=" + socket}
	key := openKey(t, c)
	if err := roundTrip(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	secret := []byte("what was wrapped before the loss")
	before, err := kms.Wrap(t.Context(), key, secret, nil)
	if err != nil {
		t.Fatal(err)
	}

	for range 2 {
		stop()
		for range 3 {
			_, err := key.Unwrap(t.Context(), before, nil)
			wantClass(t, err, fault.Transient)
		}
		stop = serve()
		// Pauses between starts end on their own.
		got, err := key.Unwrap(t.Context(), before, nil)
		if err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("after the token came back: %v", err)
		}
	}
	// A loss that is over before anybody asks is not noticed.
	stop()
	stop = serve()
	if got, err := key.Unwrap(t.Context(), before, nil); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("after a short loss: %v", err)
	}
	stop()
}

func TestTheHelperEndsWithItsProvider(t *testing.T) {
	helper := buildHelper(t)
	token := newSoftHSM(t)
	request := softHSMConfig(t, token).request()
	request.UserType, request.Sessions = protocol.User, 1
	for name, open := range map[string]bool{"before it was asked anything": false, "logged in": true} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), helper)
			cmd.Env = append(os.Environ(), token.Env...)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if open {
				if err := protocol.Write(stdin, protocol.Request{ID: 1, Open: request}); err != nil {
					t.Fatal(err)
				}
				var response protocol.Response
				if err := protocol.Read(stdout, &response); err != nil || response.Opened == nil {
					t.Fatalf("%+v, %v", response, err)
				}
			}
			stdin.Close()
			if rest, err := io.ReadAll(stdout); err != nil || len(rest) != 0 {
				t.Errorf("it said %q, %v", rest, err)
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTheHelperWithoutCgoSaysSo(t *testing.T) {
	testenv.Tool(t, "go")
	path := filepath.Join(t.TempDir(), HelperName)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./helper")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "CGO_ENABLED=1") {
		t.Errorf("%v: %s", err, out)
	}
	c := newFake(t).config()
	var log logtest.Log
	c.Helper, c.Log = path, log.Logger()
	key := openKey(t, c)
	_, err = key.Describe(t.Context())
	wantClass(t, err, fault.Transient)
	if err := key.Close(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "CGO_ENABLED=1") {
		t.Errorf("the log does not say why: %s", log.String())
	}
}

// nssID is the id (CKA_ID) that NSS gives to a key: the SHA-1 of its modulus.
func nssID(public *rsa.PublicKey) []byte {
	sum := sha1.Sum(public.N.Bytes())
	return sum[:]
}
