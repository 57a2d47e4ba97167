package pkcs11

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"hash"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/providers/keys/pkcs11/internal/protocol"
)

// The fake helper is this test binary, started anew with fakeDir in its
// environment. It speaks the protocol with RSA keys from that folder and
// misbehaves as the folder's plan says.

const fakeDir = "LATCHKEY_TEST_FAKE_HELPER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(fakeDir); dir != "" {
		runFake(dir)
		return
	}
	code := m.Run()
	_ = os.Remove(helperPath) // where one was built
	os.Exit(code)
}

// behaviour is how one life of the fake helper goes.
type behaviour struct {
	OpenError     *protocol.Error
	HangInOpen    bool
	DecryptError  *protocol.Error // of every decryption
	DecryptErrors int             // if not 0: of the first so many only
	Crash         bool            // SIGSEGV in the first decryption
	Hang          bool            // no decryption is answered
	Garbage       string          // printed to standard output instead of an answer
	Empty         bool            // an answer with nothing in it
	NoSHA256      bool            // CKR_ARGUMENTS_BAD, as SoftHSM
	Damage        uint64          // what is said of damaged ciphertexts; else CKR_GENERAL_ERROR, as SoftHSM
	NoModulus     bool
	OtherKey      bool   // another key than in other lives
	Print         string // to standard error, at the start
	PrintTimes    int
	Gate          bool // the decryptions wait for the file "gate"
}

// fake is the folder and what it tells afterwards.
type fake struct {
	t   *testing.T
	dir string
}

var fakeKeys = [2]func() *rsa.PrivateKey{sync.OnceValue(newRSA), sync.OnceValue(newRSA)}

func newRSA() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
}

// newFake plans the lives of the helper; the last repeats.
func newFake(t *testing.T, plan ...behaviour) *fake {
	t.Helper()
	f := &fake{t: t, dir: t.TempDir()}
	if len(plan) == 0 {
		plan = []behaviour{{}}
	}
	data, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	f.write("plan", data)
	for i, key := range fakeKeys {
		f.write(fmt.Sprint("key", i), x509.MarshalPKCS1PrivateKey(key()))
	}
	return f
}

func (f *fake) write(name string, data []byte) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), data, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// lines gives what the helpers noted: "pids", one a life, "logins", "decrypts".
func (f *fake) lines(name string) []string {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil && !os.IsNotExist(err) {
		f.t.Fatal(err)
	}
	return strings.Fields(string(data))
}

func (f *fake) config() Config {
	self, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	return Config{
		Helper: self, Library: self, Env: []string{fakeDir + "=" + f.dir, "GORACE=atexit_sleep_ms=0"}, // race-built, it would take a second to end
		TokenLabel: "fake", KeyLabel: "key", PIN: testPIN, MaxParallel: 8,
		// So long that only a hang reaches it, so short that a test can wait for one.
		CallTimeout: 20 * time.Second, StartTimeout: 20 * time.Second,
	}
}

const testPIN = "pin-0123456789"

// note appends a line; each is one write, so that lives may overlap.
func note(dir, name, line string) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(line + "\n")
		f.Close()
	}
	if err != nil {
		panic(err)
	}
}

func load[T any](dir, name string, parse func([]byte) (T, error)) T {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err == nil {
		var value T
		if value, err = parse(data); err == nil {
			return value
		}
	}
	panic(err)
}

func runFake(dir string) {
	note(dir, "pids", strconv.Itoa(os.Getpid()))
	life := load(dir, "pids", func(b []byte) (int, error) { return len(strings.Fields(string(b))) - 1, nil })
	plan := load(dir, "plan", func(b []byte) (plan []behaviour, err error) { return plan, json.Unmarshal(b, &plan) })
	b := plan[min(life, len(plan)-1)]
	number := 0
	if b.OtherKey {
		number = 1
	}
	key := load(dir, fmt.Sprint("key", number), x509.ParsePKCS1PrivateKey)

	for range b.PrintTimes {
		fmt.Fprint(os.Stderr, b.Print)
	}
	var write sync.Mutex
	answer := func(r protocol.Response) {
		write.Lock()
		defer write.Unlock()
		if protocol.Write(os.Stdout, r) != nil {
			os.Exit(1)
		}
	}
	decrypts := 0
	for {
		var request protocol.Request
		if protocol.Read(os.Stdin, &request) != nil {
			return
		}
		switch {
		case request.Open != nil:
			if request.Open.PIN != testPIN {
				panic("the PIN did not arrive")
			}
			note(dir, "logins", "login")
			if b.HangInOpen {
				continue
			}
			response := protocol.Response{ID: request.ID, Error: b.OpenError}
			if b.OpenError == nil {
				response.Opened = &protocol.Opened{TokenSerial: "0815", TokenLabel: "fake", KeyLabel: "key", KeyID: []byte{0, 0xff}}
				if !b.NoModulus {
					response.Opened.Modulus, response.Opened.Exponent = key.N.Bytes(), big.NewInt(int64(key.E)).Bytes()
				}
			}
			answer(response)
		case request.Decrypt != nil:
			note(dir, "decrypts", request.Decrypt.Hash)
			decrypts++
			failing := b.DecryptError != nil && (b.DecryptErrors == 0 || decrypts <= b.DecryptErrors)
			go func() {
				for b.Gate {
					if _, err := os.Stat(filepath.Join(dir, "gate")); err == nil {
						break
					}
					time.Sleep(time.Millisecond)
				}
				switch {
				case b.Crash:
					_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				case b.Hang:
				case b.Garbage != "":
					fmt.Print(b.Garbage)
				case b.Empty:
					answer(protocol.Response{ID: request.ID})
				case failing:
					answer(protocol.Response{ID: request.ID, Error: b.DecryptError})
				default:
					answer(decryptFake(request, key, b))
				}
			}()
		}
	}
}

func decryptFake(request protocol.Request, key *rsa.PrivateKey, b behaviour) protocol.Response {
	var digest hash.Hash = sha1.New()
	if request.Decrypt.Hash == protocol.SHA256 {
		digest = sha256.New()
		if b.NoSHA256 {
			return protocol.Response{ID: request.ID, Error: &protocol.Error{Code: argumentsBad, Text: "C_DecryptInit: CKR_ARGUMENTS_BAD"}}
		}
	}
	plaintext, err := rsa.DecryptOAEP(digest, nil, key, request.Decrypt.Ciphertext, nil)
	if err != nil {
		code := b.Damage
		if code == 0 {
			code = generalError
		}
		return protocol.Response{ID: request.ID, Error: answered(code)}
	}
	return protocol.Response{ID: request.ID, Plaintext: plaintext}
}
