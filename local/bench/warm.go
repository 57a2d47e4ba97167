package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/functions/keyconnector"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/providers/keys/software"
	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/providers/stores/sqlite"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/store"
)

const maxWarmRatio = 1.5

// warmUsers take turns in the requests, so that no cache of one user's makes
// them cheap.
const warmUsers = 64

// warm measures the CPU time of a GET /user-keys that finds everything at hand,
// of our handler and of the bare one, over the same driver and with the same
// tokens. Both are called directly, with a request that is made once.
func (b *bench) warm(ctx context.Context) (_ []result, err error) {
	dir, err := b.folder("warm")
	if err != nil {
		return nil, err
	}
	database, err := sqlite.Open(ctx, filepath.Join(dir, "warm.db"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, database.Close()) }()
	key, err := software.Open(filepath.Join(dir, "software-key.pem"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, key.Close()) }()

	drivers := []struct {
		name   string
		driver store.Driver
	}{{"memory", memory.New()}, {"SQLite", database}}
	var contenders []func() (float64, error)
	requests := b.either(1000, 300)
	for _, d := range drivers {
		p, err := newPair(ctx, d.driver, key)
		if err != nil {
			return nil, err
		}
		defer p.identity.Close()
		contenders = append(contenders,
			func() (float64, error) { return cpuPerRequest(p.ours, p.requests, requests) },
			func() (float64, error) { return cpuPerRequest(p.bare, p.requests, requests) })
		if b.profile != "" && d.name == "memory" {
			if err := b.profileOf(p); err != nil {
				return nil, err
			}
		}
	}
	b.say("  %d rounds of %d requests each", b.rounds, requests)
	measured, err := interleave(b.rounds, contenders...)
	if err != nil {
		return nil, err
	}
	var results []result
	for i, d := range drivers {
		results = append(results, result{
			What: "keyconnector: CPU of a warm GET, " + d.name, Unit: "µs", Bare: "bare handler", Budget: ratioAtMost(maxWarmRatio),
		}.compare(measured[2*i], measured[2*i+1]))
	}
	results[0].Note = "the bare handler checks the same signature, decodes the claims, reads once from the same driver, opens AES-GCM and answers JSON; ours also writes its audit event and its log line (discarded)"
	return results, nil
}

// pair is our handler and the bare one over one driver.
type pair struct {
	ours, bare http.Handler
	identity   *httptest.Server
	requests   []*http.Request // one for each user
}

func newPair(ctx context.Context, driver store.Driver, key kms.Unwrapper) (_ *pair, err error) {
	identity, err := devidentity.New(devidentity.Config{Issuer: "http://127.0.0.1"})
	if err != nil {
		return nil, err
	}
	p := &pair{identity: httptest.NewServer(identity)}
	defer func() {
		if err != nil {
			p.identity.Close()
		}
	}()
	ours, err := newFunction(p.identity.URL, driver, key)
	if err != nil {
		return nil, err
	}
	p.ours = ours
	block, err := aes.NewCipher(random(32))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	p.bare = &bare{public: identity.PublicKey(), issuer: identity.Issuer(), driver: driver, aead: aead}
	for range warmUsers {
		user, secret := uuid.NewString(), random(32)
		token, err := identity.Mint(devidentity.Claims{User: user, Member: []string{uuid.NewString()}})
		if err != nil {
			return nil, err
		}
		if err := createKey(ctx, ours, token, secret); err != nil {
			return nil, err
		}
		nonce := random(bareNonce)
		_, err = driver.Put(ctx, store.Document{
			Collection: bareCollection, ID: user, Body: aead.Seal(nonce, nonce, secret, []byte(user)),
		}, store.Absent())
		if err != nil {
			return nil, err
		}
		request, err := newRequest(ctx, http.MethodGet, token, nil)
		if err != nil {
			return nil, err
		}
		p.requests = append(p.requests, request)
		// What is compared has to be the same, and everything has to be at hand.
		want := keyBody(secret)
		for name, handler := range map[string]http.Handler{"our handler": ours, "the bare handler": p.bare} {
			a := newAnswer()
			handler.ServeHTTP(a, request)
			if a.status != http.StatusOK || strings.TrimSpace(a.body.String()) != want {
				return nil, fmt.Errorf("%s answers %d with %d bytes instead of the key", name, a.status, a.body.Len())
			}
		}
	}
	return p, nil
}

// newFunction is Key Connector as a server has it, its log lines discarded.
func newFunction(identityURL string, driver store.Driver, key kms.Unwrapper) (*keyconnector.Function, error) {
	settings, _, err := keyconnector.LoadConfig(map[string]string{
		// Store and key are given, whatever these say.
		"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": "unused",
		"LATCHKEY_IDENTITY_URL": identityURL, "LATCHKEY_WEB_VAULT_ORIGINS": "https://vault.example.org",
	})
	if err != nil {
		return nil, err
	}
	return keyconnector.New(settings, keyconnector.Parts{
		Store: driver, Key: key, Logger: slog.New(slog.NewJSONHandler(io.Discard, nil)),
	})
}

// cpuPerRequest is in µs. The heap is swept before, so that nobody pays for the
// garbage of another.
func cpuPerRequest(h http.Handler, requests []*http.Request, n int) (float64, error) {
	a := newAnswer()
	runtime.GC()
	begin, err := cpuTime()
	if err != nil {
		return 0, err
	}
	for i := range n {
		a.reset()
		h.ServeHTTP(a, requests[i%len(requests)])
		if a.status != http.StatusOK {
			return 0, fmt.Errorf("a warm request was answered %d", a.status)
		}
	}
	end, err := cpuTime()
	if err != nil {
		return 0, err
	}
	return microseconds(end-begin) / float64(n), nil
}

// profileOf writes a CPU profile of our handler alone.
func (b *bench) profileOf(p *pair) (err error) {
	file, err := os.Create(b.profile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := pprof.StartCPUProfile(file); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	_, err = cpuPerRequest(p.ours, p.requests, b.either(100_000, 10_000))
	return err
}

func createKey(ctx context.Context, h http.Handler, token string, secret []byte) error {
	request, err := newRequest(ctx, http.MethodPost, token, strings.NewReader(keyBody(secret)))
	if err != nil {
		return err
	}
	a := newAnswer()
	h.ServeHTTP(a, request)
	if a.status != http.StatusOK {
		return fmt.Errorf("POST /user-keys: %d %s", a.status, a.body.String())
	}
	return nil
}

// newRequest is one as a server hands it to a handler, with the headers that
// Bitwarden's clients send.
func newRequest(ctx context.Context, method, token string, body io.Reader) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, method, "/user-keys", body)
	if err != nil {
		return nil, err
	}
	if body == nil {
		request.Body = http.NoBody
	}
	request.RemoteAddr = "127.0.0.1:50000"
	for name, value := range map[string]string{
		"Authorization": "Bearer " + token, "Accept": "application/json", "Cache-Control": "no-store", "Pragma": "no-cache",
		"Bitwarden-Client-Name": "web", "Bitwarden-Client-Version": "2026.9.0", "Device-Type": "9",
	} {
		request.Header.Set(name, value)
	}
	return request, nil
}

func keyBody(secret []byte) string {
	return `{"key":"` + base64.StdEncoding.EncodeToString(secret) + `"}`
}

func random(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.Read(b) // never fails
	return b
}

// answer is the least http.ResponseWriter, used again for the next request.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func newAnswer() *answer { return &answer{header: http.Header{}} }

func (a *answer) reset() {
	clear(a.header)
	a.status = 0
	a.body.Reset()
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}
