package auth_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/shared/auth"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

func keysFile(t testing.TB, keys ...crypto.PublicKey) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.pem")
	writeKeys(t, path, keys...)
	return path
}

func writeKeys(t testing.TB, path string, keys ...crypto.PublicKey) {
	t.Helper()
	var content bytes.Buffer
	for _, key := range keys {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if err := pem.Encode(&content, &pem.Block{Type: "PUBLIC KEY", Bytes: der}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, content.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestIdentityServerThatStartsLater(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	v := newVerifier(t, auth.Config{IdentityURL: "http://" + address, Now: server.clock.now})
	raw := server.mint(t, devidentity.Claims{})

	_, err = v.Verify(t.Context(), raw, keyConnector)
	expect(t, err, fault.Transient, raw)
	expect(t, v.Ready(t.Context()), fault.Transient, "")
	_, err = v.Verify(t.Context(), "garbage", keyConnector)
	expect(t, err, fault.Unauthenticated, "garbage")

	listener, err = net.Listen("tcp", address)
	if err != nil {
		t.Skipf("somebody else took the port meanwhile: %v", err)
	}
	late := httptest.NewUnstartedServer(server.Server)
	late.Listener = listener
	late.Start()
	defer late.Close()

	// The failure is still remembered, then it is tried again.
	expect(t, v.Ready(t.Context()), fault.Transient, "")
	server.clock.advance(time.Second)
	expect(t, v.Ready(t.Context()), "", "")
	_, err = v.Verify(t.Context(), raw, keyConnector)
	expect(t, err, "", raw)
}

func TestIdentityServerThatStumblesOnce(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	var once sync.Once
	server.breakWith(func(w http.ResponseWriter, _ *http.Request) {
		once.Do(server.mend)
		http.Error(w, "starting", http.StatusBadGateway)
	})
	raw := server.mint(t, devidentity.Claims{})
	_, err := server.verifier(t).Verify(t.Context(), raw, keyConnector)
	expect(t, err, "", raw)
}

// Whatever an identity server does, those who come meanwhile are told to come
// again, and once it is well, all is well.
func TestIdentityServerThatMisbehaves(t *testing.T) {
	behaved := newIdentity(t, devidentity.Config{})
	onlyKeys := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/jwks") {
				h(w, r)
				return
			}
			genuine(behaved.Server)(w, r)
		}
	}
	// document serves the genuine keys, and this as the discovery document.
	document := func(format string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/jwks") {
				behaved.Server.ServeHTTP(w, r)
				return
			}
			_, _ = w.Write([]byte(strings.ReplaceAll(format, "HOST", r.Host+"/identity/.well-known/openid-configuration/jwks")))
		}
	}
	text := func(status int, contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	hang := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	huge := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"issuer":"`))
		for range 64 {
			if _, err := w.Write(bytes.Repeat([]byte("x"), 64*1024)); err != nil {
				return
			}
		}
		_, _ = w.Write([]byte(`"}`))
	}
	trickle := func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("{"))
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte(" "))
			w.(http.Flusher).Flush()
			time.Sleep(5 * time.Millisecond)
		}
	}
	loop := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/identity"+r.URL.Path+"?again", http.StatusFound)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	many := jose.JSONWebKeySet{}
	for range 17 {
		many.Keys = append(many.Keys, jose.JSONWebKey{Key: behaved.PublicKey()})
	}

	for name, broken := range map[string]http.HandlerFunc{
		"hangs":                          hang,
		"hangs at the keys":              onlyKeys(hang),
		"answers byte by byte, for ever": trickle,
		"answers 500":                    text(500, "text/plain", "oops"),
		"answers 404":                    text(404, "text/html", "<html>"),
		"answers 401":                    text(401, "application/json", "{}"),
		"answers 204":                    text(204, "application/json", ""),
		"answers with HTML":              text(200, "text/html", "<html>Log in to the hotel's network</html>"),
		"answers with nothing":           text(200, "application/json", ""),
		"answers with an empty object":   text(200, "application/json", "{}"),
		"answers with null":              text(200, "application/json", "null"),
		"answers without end":            huge,
		"redirects for ever":             loop,
		"redirects to a file": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		},
		"breaks the connection":           func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"names a jwks_uri that is a file": document(`{"issuer":"http://127.0.0.1","jwks_uri":"file://HOST"}`),
		"names a jwks_uri with a user":    document(`{"issuer":"http://127.0.0.1","jwks_uri":"http://u:p@HOST"}`),
		"names no jwks_uri":               document(`{"issuer":"http://127.0.0.1"}`),
		"names no issuer":                 document(`{"jwks_uri":"http://HOST"}`),
		"has no keys":                     onlyKeys(text(200, "application/json", `{"keys":[]}`)),
		"has keys of another kind":        onlyKeys(text(200, "application/json", `{"keys":[{"kty":"oct","k":"AAAA"},{"kty":"new"},5]}`)),
		"has a weak key":                  onlyKeys(text(200, "application/json", keySetJSON(t, jose.JSONWebKey{Key: &small.PublicKey}))),
		"has its key for encryption":      onlyKeys(text(200, "application/json", keySetJSON(t, jose.JSONWebKey{Key: behaved.PublicKey(), Use: "enc"}))),
		"has too many keys":               onlyKeys(text(200, "application/json", keySetJSON(t, many.Keys...))),
		"has HTML for keys":               onlyKeys(text(200, "text/html", "<html>")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := listen(t, behaved.Server, &clock{})
			server.breakWith(broken)
			config := server.config()
			config.FetchTimeout = 200 * time.Millisecond
			v := newVerifier(t, config)
			raw := server.mint(t, devidentity.Claims{})
			_, err := v.Verify(t.Context(), raw, keyConnector)
			expect(t, err, fault.Transient, raw)
			server.mend()
			// A busy machine may need more than one of so short fetches.
			for range 50 {
				server.clock.advance(2 * time.Second)
				if _, err = v.Verify(t.Context(), raw, keyConnector); err == nil {
					break
				}
			}
			expect(t, err, "", raw)
		})
	}
}

func keySetJSON(t testing.TB, keys ...jose.JSONWebKey) string {
	t.Helper()
	content, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestRequestThatGivesUp(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	reached, release := make(chan struct{}), make(chan struct{})
	server.breakWith(func(http.ResponseWriter, *http.Request) {
		server.mend()
		close(reached)
		<-release
	})
	v := server.verifier(t)
	raw := server.mint(t, devidentity.Claims{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-reached
		cancel()
	}()
	_, err := v.Verify(ctx, raw, keyConnector)
	expect(t, err, fault.Transient, raw)
	// The fetch it began goes on for those who come after it.
	close(release)
	_, err = v.Verify(t.Context(), raw, keyConnector)
	expect(t, err, "", raw)
}

func TestRotation(t *testing.T) {
	for _, vaultwarden := range []bool{false, true} {
		t.Run(fmt.Sprintf("Vaultwarden %t", vaultwarden), func(t *testing.T) {
			server := newIdentity(t, devidentity.Config{Vaultwarden: vaultwarden})
			v := server.verifier(t)
			before := server.mint(t, devidentity.Claims{})
			_, err := v.Verify(t.Context(), before, keyConnector)
			expect(t, err, "", before)

			if err := server.Rotate(); err != nil {
				t.Fatal(err)
			}
			_, err = v.Verify(t.Context(), before, keyConnector)
			expect(t, err, "", before)
			after := server.mint(t, devidentity.Claims{})
			_, err = v.Verify(t.Context(), after, keyConnector)
			expect(t, err, "", after)
			_, err = v.Verify(t.Context(), before, keyConnector)
			expect(t, err, fault.Unauthenticated, before)
		})
	}
}

// A key that is withdrawn while no token of another key comes by.
func TestWithdrawnKeyIsForgottenByAge(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	v := server.verifier(t)
	raw := server.mint(t, devidentity.Claims{Lifetime: 10 * time.Hour})
	_, err := v.Verify(t.Context(), raw, keyConnector)
	expect(t, err, "", raw)
	if err := server.Rotate(); err != nil {
		t.Fatal(err)
	}
	server.clock.advance(14 * time.Minute)
	_, err = v.Verify(t.Context(), raw, keyConnector)
	expect(t, err, "", raw)
	// Long overdue: the request waits for the fetch.
	server.clock.advance(50 * time.Minute)
	_, err = v.Verify(t.Context(), raw, keyConnector)
	expect(t, err, fault.Unauthenticated, raw)
}

func TestKeysAreFetchedAgainBesideARequest(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	v := server.verifier(t)
	raw := server.mint(t, devidentity.Claims{Lifetime: 10 * time.Hour})
	expect(t, v.Ready(t.Context()), "", "")

	reached, release := make(chan struct{}), make(chan struct{})
	server.breakWith(func(http.ResponseWriter, *http.Request) {
		server.mend()
		close(reached)
		<-release
	})
	server.clock.advance(16 * time.Minute)
	// The identity server does not answer, and nobody notices.
	for range 3 {
		_, err := v.Verify(t.Context(), raw, keyConnector)
		expect(t, err, "", raw)
	}
	<-reached
	if asked := server.asked.Load(); asked != 3 {
		t.Errorf("the identity server was asked %d times, not twice at first and once now", asked)
	}
	close(release)
}

func TestIdentityServerThatGoesAway(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	config := server.config()
	var log bytes.Buffer
	config.Log = slog.New(slog.NewJSONHandler(&log, nil))
	v := newVerifier(t, config)
	raw := server.mint(t, devidentity.Claims{Lifetime: 100 * time.Hour})
	expect(t, v.Ready(t.Context()), "", "")
	server.breakWith(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })

	// Cached keys keep serving, at one question a minute.
	before := server.asked.Load()
	for range 23 {
		server.clock.advance(time.Hour)
		for range 5 {
			_, err := v.Verify(t.Context(), raw, keyConnector)
			expect(t, err, "", raw)
		}
	}
	if asked := server.asked.Load() - before; asked != 23 {
		t.Errorf("the identity server was asked %d times in 23 hours of one busy minute each", asked)
	}
	if !strings.Contains(log.String(), "answered 502") {
		t.Errorf("the log does not say what is wrong: %s", log.String())
	}

	// A token of a key that we do not have may be a good one.
	unknown := server.mint(t, devidentity.Claims{Header: map[string]any{"kid": "newer"}, Sign: func([]byte) ([]byte, error) { return []byte("x"), nil }})
	for range 3 {
		_, err := v.Verify(t.Context(), unknown, keyConnector)
		expect(t, err, fault.Transient, unknown)
	}
	// One that names a key that we have is not.
	forged := server.mint(t, devidentity.Claims{Sign: func([]byte) ([]byte, error) { return []byte("x"), nil }})
	_, err := v.Verify(t.Context(), forged, keyConnector)
	expect(t, err, fault.Unauthenticated, forged)

	server.clock.advance(2 * time.Hour)
	_, err = v.Verify(t.Context(), raw, keyConnector)
	expect(t, err, fault.Transient, raw)
	expect(t, v.Ready(t.Context()), fault.Transient, "")
	server.mend()
	server.clock.advance(2 * time.Second)
	_, err = v.Verify(t.Context(), raw, keyConnector)
	expect(t, err, "", raw)
}

// Tokens that name keys at random must not make us a weapon against the
// identity server.
func TestStormOfUnknownKeys(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	v := server.verifier(t)
	expect(t, v.Ready(t.Context()), "", "")
	storm := func() {
		var group sync.WaitGroup
		for i := range 100 {
			raw := server.mint(t, devidentity.Claims{
				Header: map[string]any{"kid": fmt.Sprint(i)},
				Sign:   func([]byte) ([]byte, error) { return make([]byte, 256), nil },
			})
			group.Go(func() {
				for range 5 {
					_, err := v.Verify(t.Context(), raw, keyConnector)
					if fault.Of(err) != fault.Unauthenticated {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
	}
	for round := range int64(3) {
		storm()
		// Two questions (document and keys) at first, and two in every round.
		if asked := server.asked.Load(); asked != 2*(round+2) {
			t.Errorf("the identity server was asked %d times after %d storms", asked, round+1)
		}
		server.clock.advance(10 * time.Second)
	}
	// In the middle of a storm a rotation is noticed.
	if err := server.Rotate(); err != nil {
		t.Fatal(err)
	}
	storm()
	raw := server.mint(t, devidentity.Claims{})
	_, err := v.Verify(t.Context(), raw, keyConnector)
	expect(t, err, "", raw)
}

func TestConcurrentFirstRequestsFetchOnce(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	v := server.verifier(t)
	raw := server.mint(t, devidentity.Claims{})
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			if _, err := v.Verify(t.Context(), raw, keyConnector); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if asked := server.asked.Load(); asked != 2 {
		t.Errorf("the identity server was asked %d times", asked)
	}
}

// Who comes while the new key is being fetched is served too.
func TestRotationUnderLoad(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	v := server.verifier(t)
	expect(t, v.Ready(t.Context()), "", "")
	if err := server.Rotate(); err != nil {
		t.Fatal(err)
	}
	raw := server.mint(t, devidentity.Claims{})
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			if _, err := v.Verify(t.Context(), raw, keyConnector); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func TestRedirects(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	raw := server.mint(t, devidentity.Claims{})
	for redirects, want := range map[int]fault.Class{1: "", 3: "", 4: fault.Transient} {
		// Only the document is moved; the address says how often it was.
		server.breakWith(func(w http.ResponseWriter, r *http.Request) {
			if moved := len(r.URL.Query().Get("moved")); moved < redirects && !strings.HasSuffix(r.URL.Path, "/jwks") {
				http.Redirect(w, r, "/identity"+r.URL.Path+"?moved="+strings.Repeat("x", moved+1), http.StatusFound)
				return
			}
			genuine(server.Server)(w, r)
		})
		_, err := server.verifier(t).Verify(t.Context(), raw, keyConnector)
		expect(t, err, want, raw)
	}
}

func TestKeySetUnderAnotherName(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	raw := server.mint(t, devidentity.Claims{})
	other := httptest.NewServer(server.Server)
	defer other.Close()
	naming := func(jwksURI string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/jwks") {
				server.Server.ServeHTTP(w, r)
				return
			}
			fmt.Fprintf(w, `{"issuer":"http://127.0.0.1","jwks_uri":%q}`, jwksURI)
		}
	}
	const path = "/.well-known/openid-configuration/jwks"

	t.Run("the configured one goes before it", func(t *testing.T) {
		stranger := newIdentity(t, devidentity.Config{})
		server.breakWith(naming(stranger.http.URL + path))
		before := stranger.asked.Load()
		_, err := server.verifier(t).Verify(t.Context(), raw, keyConnector)
		expect(t, err, "", raw)
		if asked := stranger.asked.Load() - before; asked != 0 {
			t.Errorf("what answers under the published name was asked %d times", asked)
		}
	})
	t.Run("it is asked where the configured one has no keys", func(t *testing.T) {
		published := naming(other.URL + path)
		server.breakWith(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/jwks") {
				http.NotFound(w, r)
				return
			}
			published(w, r)
		})
		_, err := server.verifier(t).Verify(t.Context(), raw, keyConnector)
		expect(t, err, "", raw)
	})
	t.Run("it need not be reachable", func(t *testing.T) {
		server.breakWith(naming("http://public.invalid" + path))
		_, err := server.verifier(t).Verify(t.Context(), raw, keyConnector)
		expect(t, err, "", raw)
	})
	t.Run("not from https to http", func(t *testing.T) {
		secure := httptest.NewTLSServer(naming(other.URL + path))
		defer secure.Close()
		v := newVerifier(t, auth.Config{IdentityURL: secure.URL, Client: secure.Client(), Now: server.clock.now})
		_, err := v.Verify(t.Context(), raw, keyConnector)
		expect(t, err, fault.Transient, raw)
	})
	t.Run("nor by a redirect", func(t *testing.T) {
		secure := httptest.NewTLSServer(http.RedirectHandler(other.URL+"/.well-known/openid-configuration", http.StatusFound))
		defer secure.Close()
		v := newVerifier(t, auth.Config{IdentityURL: secure.URL, Client: secure.Client(), Now: server.clock.now})
		_, err := v.Verify(t.Context(), raw, keyConnector)
		expect(t, err, fault.Transient, raw)
	})
	t.Run("a redirect to another host is followed", func(t *testing.T) {
		front := httptest.NewServer(http.RedirectHandler(other.URL+"/.well-known/openid-configuration", http.StatusMovedPermanently))
		defer front.Close()
		v := newVerifier(t, auth.Config{IdentityURL: front.URL, Now: server.clock.now})
		_, err := v.Verify(t.Context(), raw, keyConnector)
		expect(t, err, "", raw)
	})
}

// The domain of an identity server may change while its key stays; its users
// must not be logged out until the old name has aged.
func TestAnIssuerThatChangedIsLearnedAtOnce(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	v := server.verifier(t)
	raw := server.mint(t, devidentity.Claims{})
	_, err := v.Verify(t.Context(), raw, keyConnector)
	expect(t, err, "", raw)

	keys := httptest.NewServer(server.Server)
	defer keys.Close()
	server.breakWith(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":"https://new.example","jwks_uri":"%s/.well-known/openid-configuration/jwks"}`, keys.URL)
	})
	server.clock.advance(time.Minute)
	renamed := server.mint(t, devidentity.Claims{Set: map[string]any{"iss": "https://new.example"}})
	_, err = v.Verify(t.Context(), renamed, keyConnector)
	expect(t, err, "", renamed)
}

func TestIssuerCanBeGiven(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	config := server.config()
	config.Issuer = "https://vault.example.com|login"
	v := newVerifier(t, config)
	raw := server.mint(t, devidentity.Claims{})
	_, err := v.Verify(t.Context(), raw, keyConnector)
	expect(t, err, fault.Unauthenticated, raw)
	raw = server.mint(t, devidentity.Claims{Set: map[string]any{"iss": config.Issuer}})
	_, err = v.Verify(t.Context(), raw, keyConnector)
	expect(t, err, "", raw)
}

func TestKeySetsHoldWhatTheyHold(t *testing.T) {
	server := newIdentity(t, devidentity.Config{})
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw := server.mint(t, devidentity.Claims{Header: map[string]any{"kid": "k"}})
	public := server.PublicKey()
	for name, test := range map[string]struct {
		keys []jose.JSONWebKey
		want fault.Class
	}{
		"the key beside others":                   {[]jose.JSONWebKey{{Key: []byte("secret"), KeyID: "k"}, {Key: &curve.PublicKey, KeyID: "k"}, {Key: public, KeyID: "k", Algorithm: "RS256", Use: "sig"}}, ""},
		"the key without a name":                  {[]jose.JSONWebKey{{Key: &curve.PublicKey, KeyID: "x"}, {Key: public}}, ""},
		"the key under another name":              {[]jose.JSONWebKey{{Key: public, KeyID: "x"}}, fault.Unauthenticated},
		"the key for another algorithm":           {[]jose.JSONWebKey{{Key: public, KeyID: "k", Algorithm: "PS256"}}, fault.Unauthenticated},
		"only a curve under the name of the key":  {[]jose.JSONWebKey{{Key: &curve.PublicKey, KeyID: "k"}}, fault.Unauthenticated},
		"another key of that name, and it beside": {[]jose.JSONWebKey{{Key: &curve.PublicKey, KeyID: "k"}, {Key: public}}, fault.Unauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			server.breakWith(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/jwks") {
					_, _ = w.Write([]byte(keySetJSON(t, test.keys...)))
					return
				}
				fmt.Fprintf(w, `{"issuer":"http://127.0.0.1","jwks_uri":"%s/identity/x/jwks"}`, server.http.URL)
			})
			_, err := server.verifier(t).Verify(t.Context(), raw, keyConnector)
			expect(t, err, test.want, raw)
		})
	}
}

func TestKeysFile(t *testing.T) {
	server := newIdentity(t, devidentity.Config{Issuer: "https://vault.example.com", Vaultwarden: true})
	certified := func(block *pem.Block) string {
		path := filepath.Join(t.TempDir(), "keys.pem")
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "expired"}, NotAfter: time.Unix(1, 0)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, server.PublicKey(), private)
	if err != nil {
		t.Fatal(err)
	}
	raw := server.mint(t, devidentity.Claims{})
	for name, path := range map[string]string{
		"one key":       keysFile(t, server.PublicKey()),
		"among others":  keysFile(t, &private.PublicKey, server.PublicKey()),
		"in PKCS#1":     certified(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(server.PublicKey())}),
		"a certificate": certified(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
	} {
		t.Run(name, func(t *testing.T) {
			v := newVerifier(t, auth.Config{KeysFile: path, Issuer: server.Issuer(), Now: server.clock.now})
			_, err := v.Verify(t.Context(), raw, keyConnector)
			expect(t, err, "", raw)
		})
	}

	t.Run("a file that is replaced", func(t *testing.T) {
		path := keysFile(t, &private.PublicKey)
		v := newVerifier(t, auth.Config{KeysFile: path, Issuer: server.Issuer(), Now: server.clock.now})
		_, err := v.Verify(t.Context(), raw, keyConnector)
		expect(t, err, fault.Unauthenticated, raw)
		writeKeys(t, path, server.PublicKey())
		server.clock.advance(10 * time.Second)
		_, err = v.Verify(t.Context(), raw, keyConnector)
		expect(t, err, "", raw)
		if err := os.WriteFile(path, []byte("half of a"), 0o600); err != nil {
			t.Fatal(err)
		}
		server.clock.advance(time.Hour)
		_, err = v.Verify(t.Context(), raw, keyConnector)
		expect(t, err, "", raw)
		// Damaged when it is needed: to come again, not a fault of the request.
		v = newVerifier(t, auth.Config{KeysFile: keysFile(t, server.PublicKey()), Issuer: server.Issuer(), Now: server.clock.now})
		expect(t, v.Ready(t.Context()), "", "")
	})

	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	good := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(server.PublicKey())})
	for name, content := range map[string][]byte{
		"empty":                    nil,
		"text":                     []byte("hello"),
		"a private key":            pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		"a private key beside":     append(bytes.Clone(good), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...),
		"a second key cut short":   append(bytes.Clone(good), good[:len(good)/2]...),
		"damaged content":          pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}),
		"too many keys":            bytes.Repeat(good, 17),
		"more than can be read in": append(bytes.Clone(good), make([]byte, 1<<20)...),
	} {
		t.Run("not with "+name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys.pem")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := auth.New(auth.Config{KeysFile: path, Issuer: "i"})
			expect(t, err, fault.Invalid, "")
		})
	}
	t.Run("not without an issuer", func(t *testing.T) {
		_, err := auth.New(auth.Config{KeysFile: keysFile(t, server.PublicKey())})
		expect(t, err, fault.Invalid, "")
	})
}
