// Package kmstest is the conformance suite that every key provider passes, and
// a key in memory that fails on demand, for the tests of whoever uses one.
package kmstest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
)

// patience bounds what has to come "quickly" or at all. It is generous: it
// tells a hang from an answer and measures nothing.
const patience = 30 * time.Second

// Run holds a provider to the contract of package kms. Each call of open gives
// a new handle on one and the same key, which Run closes.
func Run(t *testing.T, open func(t *testing.T) kms.Unwrapper) {
	opened := func(t *testing.T) kms.Unwrapper {
		t.Helper()
		key := open(t)
		t.Cleanup(func() {
			if err := key.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		return key
	}
	for _, test := range []struct {
		name string
		run  func(t *testing.T, open func(t *testing.T) kms.Unwrapper)
	}{
		{"a key that was never used closes", func(t *testing.T, open func(t *testing.T) kms.Unwrapper) { open(t) }},
		{"describes itself the same each time", describes},
		{"unwraps secrets of every size that fits", roundTrips},
		{"wraps and unwraps for many at once", concurrent},
		{"wraps one secret differently each time", wrapsDiffer},
		{"the other OAEP hash works or is unsupported", otherHash},
		{"a damaged ciphertext is an error and the key goes on", damaged},
		{"what another key wrapped is refused", foreign},
		{"the same key material under another name is accepted", moved},
		{"an unknown algorithm is refused", unknownAlgorithm},
		{"another binding never gives a wrong secret", otherBinding},
		{"a context that ended is answered at once and forgotten", cancelled},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, opened) })
	}
}

var binding = kms.Binding{"purpose": "kmstest"}

func describes(t *testing.T, open func(t *testing.T) kms.Unwrapper) {
	key := open(t)
	first := describe(t, key)
	if first.Ref.Provider == "" || first.Ref.ID == "" {
		t.Errorf("the reference %+v lacks a provider or an id", first.Ref)
	}
	if first.Public == nil {
		if _, ok := key.(kms.Wrapper); !ok {
			t.Error("a key without a public half has to be a kms.Wrapper")
		}
	} else {
		want, err := kms.PublicVersion(first.Public)
		if err != nil {
			t.Fatal(err)
		}
		if first.Ref.Version != want {
			t.Errorf("the version is %q, want that of the public key, %q", first.Ref.Version, want)
		}
		if first.Wrap.Hash() == nil {
			t.Errorf("an RSA key cannot wrap with %q", first.Wrap)
		}
	}
	for name, again := range map[string]kms.Unwrapper{"the same handle": key, "another handle": open(t)} {
		second := describe(t, again)
		if second.Ref != first.Ref || second.Wrap != first.Wrap {
			t.Errorf("%s describes itself as %s %s, before as %s %s", name, second.Ref, second.Wrap, first.Ref, first.Wrap)
		}
		if (first.Public == nil) != (second.Public == nil) || first.Public != nil && !first.Public.Equal(second.Public) {
			t.Errorf("%s gives another public key", name)
		}
	}
}

func roundTrips(t *testing.T, open func(t *testing.T) kms.Unwrapper) {
	key, other := open(t), open(t)
	for _, size := range []int{32, 1, 2, 16, 31, 33, 64, 127, 128, 189, 190} {
		secret := random(size)
		wrapped := wrap(t, key, secret)
		if bytes.Contains(wrapped.Ciphertext, secret) && size > 2 {
			t.Errorf("%d bytes: the ciphertext contains the secret", size)
		}
		check(t, fmt.Sprintf("%d bytes", size), key, wrapped, secret)
		check(t, fmt.Sprintf("%d bytes, by another handle", size), other, wrapped, secret)
	}
}

func concurrent(t *testing.T, open func(t *testing.T) kms.Unwrapper) {
	key := open(t)
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			secret := random(32)
			wrapped, err := kms.Wrap(t.Context(), key, secret, binding)
			if err != nil {
				t.Errorf("wrap: %v", err)
				return
			}
			got, err := kms.Unwrap(t.Context(), key, wrapped, binding)
			if err != nil || !bytes.Equal(got, secret) {
				t.Errorf("unwrap: another secret or an error: %v", err)
			}
		})
	}
	group.Wait()
}

func wrapsDiffer(t *testing.T, open func(t *testing.T) kms.Unwrapper) {
	key, secret := open(t), random(32)
	if bytes.Equal(wrap(t, key, secret).Ciphertext, wrap(t, key, secret).Ciphertext) {
		t.Error("two wraps of one secret are equal, so an observer sees that the secrets are")
	}
}

func otherHash(t *testing.T, open func(t *testing.T) kms.Unwrapper) {
	key := open(t)
	description := describe(t, key)
	if description.Public == nil {
		t.Skip("not an RSA key")
	}
	algorithm := kms.RSAOAEP
	if description.Wrap == algorithm {
		algorithm = kms.RSAOAEP256
	}
	secret := random(32)
	wrapped := wrapTo(t, description.Public, description.Ref, algorithm, secret)
	got, err := kms.Unwrap(t.Context(), key, wrapped, binding)
	if err == nil && !bytes.Equal(got, secret) {
		t.Errorf("%s: another secret", algorithm)
	}
	if err != nil {
		wantClass(t, string(algorithm), err, fault.Unsupported)
	}
}

func damaged(t *testing.T, open func(t *testing.T) kms.Unwrapper) {
	key, secret := open(t), random(32)
	whole := wrap(t, key, secret)
	n := len(whole.Ciphertext)
	flipped := func(at int) []byte {
		c := slices.Clone(whole.Ciphertext)
		c[at] ^= 1
		return c
	}
	for name, ciphertext := range map[string][]byte{
		"the first byte":         flipped(0),
		"the second byte":        flipped(1),
		"a byte of the header":   flipped(n / 8),
		"a byte in the middle":   flipped(n / 2),
		"a byte near the end":    flipped(n - 17),
		"the last byte":          flipped(n - 1),
		"cut by one byte":        whole.Ciphertext[:n-1],
		"cut in half":            whole.Ciphertext[:n/2],
		"a single byte":          whole.Ciphertext[:1],
		"empty":                  {},
		"absent":                 nil,
		"one byte more":          append(slices.Clone(whole.Ciphertext), 0),
		"a zero byte in front":   append([]byte{0}, whole.Ciphertext...),
		"zeros":                  make([]byte, n),
		"all bits set":           bytes.Repeat([]byte{0xff}, n),
		"more than any key uses": make([]byte, 64*1024),
	} {
		w := whole
		w.Ciphertext = ciphertext
		got, err := kms.Unwrap(t.Context(), key, w, binding)
		if err == nil {
			t.Errorf("%s: no error, and %d bytes of plaintext", name, len(got))
			continue
		}
		if got != nil {
			t.Errorf("%s: %d bytes of plaintext beside the error", name, len(got))
		}
		wantClass(t, name, err, fault.Lost, fault.Invalid)
	}
	check(t, "after the damaged ones", key, whole, secret)
}

func foreign(t *testing.T, open func(t *testing.T) kms.Unwrapper) {
	key, secret := open(t), random(32)
	own := wrap(t, key, secret)
	description := describe(t, key)

	if description.Public != nil {
		other := keys[1]()
		if other.N.BitLen() != description.Public.N.BitLen() {
			generated, err := rsa.GenerateKey(rand.Reader, description.Public.N.BitLen())
			if err != nil {
				t.Fatal(err)
			}
			other = generated
		}
		if other.PublicKey.Equal(description.Public) {
			other = keys[0]()
		}
		wrapped := wrapTo(t, &other.PublicKey, description.Ref, description.Wrap, secret)
		_, err := kms.Unwrap(t.Context(), key, wrapped, binding)
		wantClass(t, "wrapped to another key, naming this one", err, fault.Lost, fault.Invalid)
	}

	named := own
	named.Key.ID, named.Key.Version = named.Key.ID+"-other", "another"
	_, err := kms.Unwrap(t.Context(), key, named, binding)
	wantClass(t, "naming another key", err, fault.Lost, fault.NotFound)

	named = own
	named.Key = kms.Ref{}
	_, err = kms.Unwrap(t.Context(), key, named, binding)
	wantClass(t, "naming no key", err, fault.Lost, fault.NotFound, fault.Invalid)

	named = own
	named.Key.Provider, named.Key.Version = "somewhere-else", ""
	_, err = kms.Unwrap(t.Context(), key, named, binding)
	wantClass(t, "naming another provider", err, fault.Lost, fault.NotFound)

	check(t, "after the foreign ones", key, own, secret)
}

func moved(t *testing.T, open func(t *testing.T) kms.Unwrapper) {
	key, secret := open(t), random(32)
	if describe(t, key).Public == nil {
		t.Skip("not an RSA key")
	}
	wrapped := wrap(t, key, secret)
	wrapped.Key.Provider, wrapped.Key.ID = "before-the-move", "its name there"
	check(t, "the same key, reached another way", key, wrapped, secret)
}

func unknownAlgorithm(t *testing.T, open func(t *testing.T) kms.Unwrapper) {
	key, secret := open(t), random(32)
	own := wrap(t, key, secret)
	algorithms := []kms.Algorithm{"", "ROT13", "RSA-OAEP-384", "rsa-oaep-256", "RSA1_5"}
	if describe(t, key).Public == nil {
		algorithms = append(algorithms, kms.RSAOAEP, kms.RSAOAEP256)
	} else {
		algorithms = append(algorithms, kms.Symmetric)
	}
	for _, algorithm := range algorithms {
		w := own
		w.Algorithm = algorithm
		_, err := kms.Unwrap(t.Context(), key, w, binding)
		wantClass(t, fmt.Sprintf("algorithm %q", algorithm), err, fault.Unsupported, fault.Invalid)
	}
	check(t, "after the unknown ones", key, own, secret)
}

func otherBinding(t *testing.T, open func(t *testing.T) kms.Unwrapper) {
	key, secret := open(t), random(32)
	wrapped := wrap(t, key, secret)
	for name, other := range map[string]kms.Binding{"another": {"purpose": "other"}, "none": nil} {
		got, err := kms.Unwrap(t.Context(), key, wrapped, other)
		if err == nil && !bytes.Equal(got, secret) {
			t.Errorf("%s binding: another secret", name)
		}
		if err != nil {
			wantClass(t, name+" binding", err, fault.Lost, fault.Invalid)
		}
	}
	check(t, "under its own binding", key, wrapped, secret)
}

func cancelled(t *testing.T, open func(t *testing.T) kms.Unwrapper) {
	secret := random(32)
	wrapped := wrap(t, open(t), secret)
	key := open(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()

	within(t, "unwrap", func() {
		got, err := kms.Unwrap(ended, key, wrapped, binding)
		if got != nil {
			t.Error("a plaintext beside the error")
		}
		wantClass(t, "unwrap with a context that ended", err, fault.Transient)
	})
	within(t, "describe", func() {
		// A key that has its description at hand may give it.
		if _, err := key.Describe(ended); err != nil {
			wantClass(t, "describe with a context that ended", err, fault.Transient)
		}
	})
	describe(t, key)
	check(t, "after a context that ended", key, wrapped, secret)
}

func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s hangs although its context ended", what)
	}
}

func describe(t *testing.T, key kms.Key) kms.Description {
	t.Helper()
	description, err := key.Describe(t.Context())
	if err != nil {
		t.Fatalf("describe: %v", err)
	}
	return description
}

func wrap(t *testing.T, key kms.Unwrapper, secret []byte) kms.Wrapped {
	t.Helper()
	wrapped, err := kms.Wrap(t.Context(), key, secret, binding)
	if err != nil {
		t.Fatal(err)
	}
	if want := describe(t, key); wrapped.Key != want.Ref || wrapped.Algorithm != want.Wrap {
		t.Fatalf("wrapped with %s by %s, described as %s by %s", wrapped.Key, wrapped.Algorithm, want.Ref, want.Wrap)
	}
	return wrapped
}

func wrapTo(t *testing.T, public *rsa.PublicKey, ref kms.Ref, algorithm kms.Algorithm, secret []byte) kms.Wrapped {
	t.Helper()
	ciphertext, err := rsa.EncryptOAEP(algorithm.Hash(), rand.Reader, public, secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	return kms.Wrapped{Key: ref, Algorithm: algorithm, Ciphertext: ciphertext}
}

func check(t *testing.T, what string, key kms.Unwrapper, wrapped kms.Wrapped, secret []byte) {
	t.Helper()
	got, err := kms.Unwrap(t.Context(), key, wrapped, binding)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if !bytes.Equal(got, secret) {
		t.Fatalf("%s: another secret came back", what)
	}
}

func wantClass(t *testing.T, what string, err error, classes ...fault.Class) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error, want one of class %q", what, classes)
	} else if !slices.Contains(classes, fault.Of(err)) {
		t.Errorf("%s: error of class %q, want %q: %v", what, fault.Of(err), classes, err)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand
	return b
}
