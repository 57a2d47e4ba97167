package signing

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/latchkey-fn/latchkey/shared/auth"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// surroundings are a store and a KMS key that fail on demand, and a clock that is
// set.
type surroundings struct {
	driver *storetest.Faults
	key    *kmstest.Key
	mu     sync.Mutex
	clock  time.Time
}

func newSurroundings(t testing.TB) *surroundings {
	return &surroundings{
		driver: storetest.NewFaults(store.NewTable()), key: kmstest.NewKey(t),
		clock: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC),
	}
}

func (s *surroundings) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clock
}

func (s *surroundings) wait(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = s.clock.Add(d)
}

// instance gives the keys as a process that has just started has them.
func (s *surroundings) instance(algorithm string, rotateEvery time.Duration) *Keys {
	return s.instanceOver(algorithm, rotateEvery, time.Hour)
}

func (s *surroundings) instanceOver(algorithm string, rotateEvery, dataKeyAge time.Duration) *Keys {
	documents := store.New(s.driver)
	return New(Config{
		Store: documents, Ring: keyring.New(keyring.Config{Name: Ring, Store: documents, Key: s.key, MaxAge: dataKeyAge}),
		Algorithm: algorithm, RotateEvery: rotateEvery, Logger: slog.New(slog.DiscardHandler), Now: s.now,
	})
}

func (s *surroundings) verifier() *Keys {
	return New(Config{Store: store.New(s.driver), Logger: slog.New(slog.DiscardHandler), Now: s.now})
}

func (s *surroundings) documents(t testing.TB) []store.Record[document] {
	t.Helper()
	var all []store.Record[document]
	for record, err := range store.NewCollection[document](store.New(s.driver), collection).ByParent(t.Context(), collection) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, record)
	}
	return all
}

type session struct {
	Number int `json:"number"`
}

func sign(t testing.TB, k *Keys) string {
	t.Helper()
	token, err := k.Sign(t.Context(), session{7})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func published(t testing.TB, k *Keys) []auth.PublicKey {
	t.Helper()
	keys, err := k.Published(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

type header struct{ Alg, Kid, Typ string }

func headerOf(t testing.TB, token string) (h header, text string) {
	t.Helper()
	first, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		t.Fatal(err)
	}
	return h, string(raw)
}

// verifies tells whether one of the keys has signed the token.
func verifies(t testing.TB, token string, keys []auth.PublicKey) bool {
	t.Helper()
	h, _ := headerOf(t, token)
	for _, key := range keys {
		if key.ID != h.Kid {
			continue
		}
		if key.Algorithm != h.Alg {
			t.Fatalf("the key is for %s, the token says %s", key.Algorithm, h.Alg)
		}
		parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(key.Algorithm)})
		if err != nil {
			t.Fatal(err)
		}
		payload, err := parsed.Verify(jose.JSONWebKey{Key: key.Key})
		if err != nil {
			t.Fatalf("the signature is wrong: %v", err)
		}
		if string(payload) != `{"number":7}` {
			t.Fatalf("the claims are %s", payload)
		}
		return true
	}
	return false
}

func wantVerified(t testing.TB, token string, keys []auth.PublicKey) {
	t.Helper()
	if !verifies(t, token, keys) {
		t.Fatal("the key of the token is not published")
	}
}

func wantClass(t testing.TB, err error, want fault.Class) {
	t.Helper()
	if fault.Of(err) != want {
		t.Fatalf("the error is %v, want one of class %q", err, want)
	}
}

func TestWhatIsSignedHereIsVerifiedElsewhere(t *testing.T) {
	for _, algorithm := range []string{RS256, ES256} {
		s := newSurroundings(t)
		token := sign(t, s.instance(algorithm, 0))
		keys := published(t, s.verifier())
		wantVerified(t, token, keys)
		h, text := headerOf(t, token)
		if want := fmt.Sprintf(`{"alg":"%s","kid":"%s","typ":"at+jwt"}`, algorithm, keys[0].ID); text != want {
			t.Errorf("the header is %s, want %s", text, want)
		}
		if hex, ok := strings.CutSuffix(h.Kid, algorithm); !ok || len(hex) != 64 || strings.Trim(hex, "0123456789ABCDEF") != "" {
			t.Errorf("the key id is %q", h.Kid)
		}
		if rsaKey, ok := keys[0].Key.(*rsa.PublicKey); (algorithm == RS256) != ok || ok && rsaKey.N.BitLen() != 2048 {
			t.Errorf("the key for %s is %T", algorithm, keys[0].Key)
		}
	}
}

func TestInstancesThatStartAtOnceShareOneKey(t *testing.T) {
	for algorithm, instances := range map[string]int{ES256: 100, RS256: 4} {
		s := newSurroundings(t)
		// The acknowledgements of some writes are lost, and some fail.
		s.driver.Inject(
			storetest.Fault{Method: storetest.Put, Collection: collection, When: storetest.After},
			storetest.Fault{Method: storetest.Put, Collection: collection},
		)
		tokens := make([]string, instances)
		var wait sync.WaitGroup
		for i := range tokens {
			wait.Go(func() {
				k := s.instance(algorithm, 0)
				for range 5 { // those who met a fault are asked again
					token, err := k.Sign(t.Context(), session{7})
					if err == nil {
						tokens[i] = token
						return
					}
					if fault.Of(err) != fault.Transient {
						t.Error(err)
					}
				}
			})
		}
		wait.Wait()
		keys := published(t, s.verifier())
		if len(keys) != 1 {
			t.Fatalf("%d instances made %d keys", instances, len(keys))
		}
		for _, token := range tokens {
			wantVerified(t, token, keys)
		}
	}
}

func TestARestartKeepsTheKey(t *testing.T) {
	s := newSurroundings(t)
	before, _ := headerOf(t, sign(t, s.instance(RS256, 0)))
	after, _ := headerOf(t, sign(t, s.instance(RS256, 0)))
	if before != after {
		t.Errorf("%v became %v", before, after)
	}
}

func TestAWarmSignatureAsksNobody(t *testing.T) {
	s := newSurroundings(t)
	k := s.instance(ES256, 0)
	sign(t, k)
	s.driver.Reset()
	unwraps := s.key.Calls().Unwrap
	for range 50 {
		sign(t, k)
	}
	if n := s.driver.Calls(); n != 0 {
		t.Errorf("50 signatures cost %d storage calls", n)
	}
	if n := s.key.Calls().Unwrap - unwraps; n != 0 {
		t.Errorf("50 signatures cost %d KMS calls", n)
	}
}

// fleet plays instances and verifiers through time, with each token held
// against the keys for as long as it lasts.
type fleet struct {
	*surroundings
	signers  []*Keys
	verifier *Keys
	// known is a verifier's copy of the keys, half an hour old at the most.
	known   []auth.PublicKey
	knownAt time.Time
	alive   []issued
	kids    map[string]bool
}

type issued struct {
	token string
	ends  time.Time
}

func (f *fleet) step(t *testing.T, d time.Duration) {
	t.Helper()
	f.wait(d)
	if f.now().Sub(f.knownAt) >= 30*time.Minute {
		f.known, f.knownAt = published(t, f.verifier), f.now()
	}
	for _, k := range f.signers {
		token := sign(t, k)
		h, _ := headerOf(t, token)
		f.kids[h.Kid] = true
		// A verifier need not ask again for the key of a new token …
		wantVerified(t, token, f.known)
		f.alive = append(f.alive, issued{token, f.now().Add(MaxSession)})
	}
	// … nor does he lose one before it ends.
	f.alive = slices.DeleteFunc(f.alive, func(i issued) bool { return i.ends.Before(f.now()) })
	current := published(t, f.verifier)
	for _, i := range f.alive {
		wantVerified(t, i.token, current)
	}
}

func newFleet(t *testing.T, s *surroundings, signers ...*Keys) *fleet {
	t.Helper()
	sign(t, signers[0]) // makes the first key
	f := &fleet{surroundings: s, signers: signers, verifier: s.verifier(), kids: map[string]bool{}}
	f.known, f.knownAt = published(t, f.verifier), s.now()
	return f
}

func TestKeysAreRotatedWithoutRefusingASession(t *testing.T) {
	s := newSurroundings(t)
	const every = 24 * time.Hour
	f := newFleet(t, s, s.instance(ES256, every), s.instance(ES256, every), s.instance(ES256, every))
	for range 6 * 24 * 5 / 2 {
		f.step(t, 20*time.Minute)
		if n := len(s.documents(t)); n > 2 {
			t.Fatalf("%d keys are kept", n)
		}
	}
	if n := len(f.kids); n != 5 && n != 6 {
		t.Errorf("%d keys were used in five days", n)
	}
	if first := s.documents(t)[0].ID; first < "000004" {
		t.Errorf("the key %s is still there", first)
	}
}

func TestAnotherAlgorithmTakesOverWithoutRefusingASession(t *testing.T) {
	s := newSurroundings(t)
	f := newFleet(t, s, s.instance(RS256, 0))
	f.step(t, time.Minute)
	f.signers = []*Keys{s.instance(ES256, 0)} // the setting was changed
	algorithm := ""
	for range 30 {
		f.step(t, 10*time.Minute)
		h, _ := headerOf(t, f.alive[len(f.alive)-1].token)
		algorithm = h.Alg
	}
	if algorithm != ES256 {
		t.Errorf("five hours later, %s signs", algorithm)
	}
	if documents := s.documents(t); len(documents) != 1 || documents[0].Value.Public.Algorithm != ES256 {
		t.Errorf("five hours later, %d keys are kept", len(documents))
	}
}

// Such settings are wrong, but no machine has to feel it.
func TestInstancesOfDifferentSettingsRefuseNoSession(t *testing.T) {
	s := newSurroundings(t)
	f := newFleet(t, s, s.instance(RS256, 24*time.Hour), s.instance(ES256, 48*time.Hour))
	for range 30 {
		f.step(t, 20*time.Minute)
		if n := len(s.documents(t)); n > 6 {
			t.Fatalf("%d keys are kept", n)
		}
	}
}

func TestAnIdleFunctionRotatesWhenItIsUsedAgain(t *testing.T) {
	s := newSurroundings(t)
	f := newFleet(t, s, s.instance(ES256, 24*time.Hour))
	f.step(t, time.Minute)
	s.wait(1000 * time.Hour)
	f.knownAt, f.known = s.now(), published(t, f.verifier)
	for range 12 {
		f.step(t, 10*time.Minute)
	}
	if len(f.kids) != 2 {
		t.Errorf("%d keys were used", len(f.kids))
	}
}

func TestKeysAtHandSignForAWhileWhenTheStoreOrTheKMSIsDown(t *testing.T) {
	for name, strike := range map[string]func(*surroundings){
		"the store": func(s *surroundings) {
			s.driver.Inject(slices.Repeat([]storetest.Fault{{}}, 1000)...)
		},
		"the KMS": func(s *surroundings) { s.key.Set(kmstest.Faults{Err: fault.Transient}) },
	} {
		s := newSurroundings(t)
		k := s.instanceOver(ES256, 0, time.Nanosecond) // the ring keeps no data key
		sign(t, k)
		strike(s)
		for range 11 {
			s.wait(5 * time.Minute)
			sign(t, k)
		}
		s.wait(10 * time.Minute)
		_, err := k.Sign(t.Context(), session{})
		wantClass(t, err, fault.Transient)
		s.key.Set(kmstest.Faults{})
		s.driver.Reset()
		wantVerified(t, sign(t, k), published(t, s.verifier()))
		if n := len(s.documents(t)); n != 1 {
			t.Errorf("%s: there are %d keys afterwards", name, n)
		}
	}
}

func TestAStoreThatHangsHoldsUpNoSignature(t *testing.T) {
	s := newSurroundings(t)
	k := s.instance(ES256, 0)
	sign(t, k)
	s.wait(signerReadsEvery)
	s.driver.Inject(storetest.Fault{Method: storetest.List, When: storetest.Hang})
	ctx, cancel := context.WithTimeout(t.Context(), loadTimeout/2)
	defer cancel()
	if _, err := k.Sign(ctx, session{}); err != nil {
		t.Error(err)
	}
	if s.driver.Pending() != 0 {
		t.Error("the store was not asked at all")
	}
}

func TestPublishedKeysOutlastAStoreThatIsDown(t *testing.T) {
	s := newSurroundings(t)
	token := sign(t, s.instance(ES256, 0))
	v := s.verifier()
	published(t, v)
	s.driver.Inject(slices.Repeat([]storetest.Fault{{}}, 100)...)
	s.wait(maxAge - time.Second)
	wantVerified(t, token, published(t, v))
	s.wait(2 * time.Second)
	_, err := v.Published(t.Context())
	wantClass(t, err, fault.Transient)
}

func TestAVerifierFindsTheFirstKeyAsSoonAsItIsThere(t *testing.T) {
	s := newSurroundings(t)
	v := s.verifier()
	_, err := v.Published(t.Context())
	wantClass(t, err, fault.Transient)
	if !errors.Is(err, ErrNoKey) {
		t.Errorf("without a key it is %v", err)
	}
	_, err = v.Sign(t.Context(), session{})
	wantClass(t, err, fault.Unsupported)
	if n := len(s.documents(t)); n != 0 {
		t.Fatalf("a verifier made %d keys", n)
	}
	token := sign(t, s.instance(ES256, 0))
	wantVerified(t, token, published(t, v))
}

func TestAKeyThatCannotBeSealedIsNotStored(t *testing.T) {
	s := newSurroundings(t)
	s.key.Set(kmstest.Faults{Err: fault.Denied})
	_, err := s.instance(ES256, 0).Sign(t.Context(), session{})
	wantClass(t, err, fault.Denied)
	if n := len(s.documents(t)); n != 0 {
		t.Errorf("%d keys are stored", n)
	}
	_, err = s.instance("HS256", 0).Sign(t.Context(), session{})
	wantClass(t, err, fault.Invalid)
}

func TestAKeyThatWasDeletedIsReplacedWhenTheListIsReadAgain(t *testing.T) {
	s := newSurroundings(t)
	k := s.instance(ES256, 0)
	before, _ := headerOf(t, sign(t, k))
	// As an operator does whose key was stolen.
	if err := s.driver.Delete(t.Context(), collection, documentID(1), store.Any()); err != nil {
		t.Fatal(err)
	}
	s.wait(signerReadsEvery)
	token := sign(t, k)
	if after, _ := headerOf(t, token); after.Kid == before.Kid {
		t.Error("the deleted key still signs")
	}
	wantVerified(t, token, published(t, s.verifier()))
}

// Who can write to the database and not use the KMS cannot make us sign with a
// key of his, nor for one.
func TestAForeignKeyIsNotSignedWith(t *testing.T) {
	ours, theirs := newSurroundings(t), newSurroundings(t)
	for _, s := range []*surroundings{ours, theirs} {
		sign(t, s.instance(ES256, 0))
	}
	foreign := theirs.documents(t)[0]
	for name, change := range map[string]func(*document){
		"public half":  func(d *document) { d.Public = foreign.Value.Public },
		"private half": func(d *document) { d.Private = foreign.Value.Private },
		"both":         func(d *document) { *d = foreign.Value },
		"damaged":      func(d *document) { d.Private[20] ^= 1 },
		"HMAC key":     func(d *document) { d.Public = jose.JSONWebKey{Key: []byte("secret"), KeyID: "x", Algorithm: ES256} },
		"nameless":     func(d *document) { d.Public.KeyID = "" },
		"weak RSA": func(d *document) {
			weak, err := rsa.GenerateKey(rand.Reader, 1024)
			if err != nil {
				t.Fatal(err)
			}
			d.Public = jose.JSONWebKey{Key: weak.Public(), KeyID: "x", Algorithm: RS256}
		},
	} {
		t.Run(name, func(t *testing.T) {
			records := store.NewCollection[document](store.New(ours.driver), collection)
			before := ours.documents(t)[0]
			changed := ours.documents(t)[0]
			change(&changed.Value)
			put := func(r store.Record[document]) {
				if _, err := records.Put(t.Context(), r, store.Any()); err != nil {
					t.Fatal(err)
				}
			}
			put(changed)
			_, err := ours.instance(ES256, 0).Sign(t.Context(), session{})
			put(before)
			if !errors.Is(err, fault.Lost) {
				t.Errorf("%v, want Lost", err)
			}
			sign(t, ours.instance(ES256, 0))
		})
	}
}

// The private key is nowhere in the document but sealed.
func TestTheStoreHoldsNoPrivateKeyInTheClear(t *testing.T) {
	s := newSurroundings(t)
	sign(t, s.instance(ES256, 0))
	doc, err := s.driver.Get(t.Context(), collection, documentID(1))
	if err != nil {
		t.Fatal(err)
	}
	var members struct{ Public map[string]any }
	if err := json.Unmarshal(doc.Body, &members); err != nil {
		t.Fatal(err)
	}
	if _, ok := members.Public["d"]; ok || members.Public["x"] == nil {
		t.Errorf("the public half is %v", members.Public)
	}
}

func BenchmarkSign(b *testing.B) {
	for _, algorithm := range []string{RS256, ES256} {
		b.Run(algorithm, func(b *testing.B) {
			s := newSurroundings(b)
			k := s.instance(algorithm, 0)
			sign(b, k)
			for b.Loop() {
				sign(b, k)
			}
		})
	}
	// What of RS256 is the signature alone.
	b.Run("RS256 floor", func(b *testing.B) {
		key, err := rsa.GenerateKey(rand.Reader, rsaBits)
		if err != nil {
			b.Fatal(err)
		}
		digest := make([]byte, 32)
		for b.Loop() {
			if _, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest); err != nil {
				b.Fatal(err)
			}
		}
	})
}
