package kms_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
)

func TestARefOpens(t *testing.T) {
	rsaRef := kms.Ref{Provider: "pkcs11", ID: "serial=1;id=%01", Version: "spki-sha256:ab"}
	for _, test := range []struct {
		name  string
		other kms.Ref
		want  bool
	}{
		{"itself", rsaRef, true},
		{"the same RSA key in another provider", kms.Ref{Provider: "certificate", ID: "k.pfx", Version: rsaRef.Version}, true},
		{"another RSA key under the same name", kms.Ref{Provider: rsaRef.Provider, ID: rsaRef.ID, Version: "spki-sha256:cd"}, false},
		{"the same name without a version", kms.Ref{Provider: rsaRef.Provider, ID: rsaRef.ID}, false},
		{"nothing", kms.Ref{}, false},
	} {
		if got := rsaRef.Opens(test.other); got != test.want {
			t.Errorf("%s: %t, want %t", test.name, got, test.want)
		}
	}
	numbered := kms.Ref{Provider: "store", ID: "a", Version: "7"}
	if numbered.Opens(kms.Ref{Provider: "store", ID: "b", Version: "7"}) {
		t.Error("two keys of one version number are not the same key")
	}
	if bare := (kms.Ref{Provider: "store", ID: "a"}); bare.Opens(kms.Ref{Provider: "store", ID: "b"}) {
		t.Error("two keys without a version are not the same key")
	}
}

func TestARefPrintsForPeople(t *testing.T) {
	for want, ref := range map[string]kms.Ref{
		"awskms:arn:aws:kms:x": {Provider: "awskms", ID: "arn:aws:kms:x"},
		"gcpkms:k@3":           {Provider: "gcpkms", ID: "k", Version: "3"},
	} {
		if got := ref.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestPublicVersionIsKnown pins the form: stored values name keys by it. The
// value is that of: openssl pkey -in k.pem -pubout -outform DER | sha256sum
func TestPublicVersionIsKnown(t *testing.T) {
	data, err := os.ReadFile("testdata/public.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	got, err := kms.PublicVersion(public.(*rsa.PublicKey))
	if want := "spki-sha256:d4da9d61e67321d988cedf9ba510b2c750786e317aae80f03c3ede21c211c508"; err != nil || got != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
}

func TestAWrappedKeepsItsStoredForm(t *testing.T) {
	w := kms.Wrapped{Key: kms.Ref{Provider: "p", ID: "i", Version: "v"}, Algorithm: kms.RSAOAEP256, Ciphertext: []byte{1, 2}}
	const stored = `{"key":{"provider":"p","id":"i","version":"v"},"algorithm":"RSA-OAEP-256","ciphertext":"AQI="}`
	got, err := json.Marshal(w)
	if err != nil || string(got) != stored {
		t.Errorf("%s, %v; want %s", got, err, stored)
	}
	var back kms.Wrapped
	if err := json.Unmarshal([]byte(stored), &back); err != nil || back.Key != w.Key || !bytes.Equal(back.Ciphertext, w.Ciphertext) {
		t.Errorf("%+v, %v", back, err)
	}
}

func TestWrapRefusesWhatDoesNotFit(t *testing.T) {
	_, err := kms.Wrap(t.Context(), kmstest.NewKey(t), make([]byte, 191), nil)
	if fault.Of(err) != fault.Invalid {
		t.Errorf("191 bytes under RSA-2048: %v", err)
	}
}

func TestWrapSaysWhatTheKeySaid(t *testing.T) {
	key := kmstest.NewKey(t)
	key.Set(kmstest.Faults{Err: fault.Denied, DescribeToo: true})
	if _, err := kms.Wrap(t.Context(), key, []byte("x"), nil); fault.Of(err) != fault.Denied {
		t.Errorf("class %q: %v", fault.Of(err), err)
	}
}

func TestUnwrapNamesTheKey(t *testing.T) {
	key := kmstest.NewKey(t)
	w, err := kms.Wrap(t.Context(), key, []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	key.Set(kmstest.Faults{Err: fault.Transient})
	_, err = kms.Unwrap(t.Context(), key, w, nil)
	if fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), w.Key.String()) {
		t.Errorf("class %q: %v", fault.Of(err), err)
	}
}

// symmetric is a key without a public half; wrapping it asks the store.
type symmetric struct {
	kms.Key
	described kms.Description
}

func (s symmetric) Describe(context.Context) (kms.Description, error) { return s.described, nil }

func (s symmetric) Unwrap(context.Context, kms.Wrapped, kms.Binding) ([]byte, error) {
	return nil, errors.New("not used")
}

type symmetricWrapper struct {
	symmetric
	err error
}

func (s symmetricWrapper) Wrap(_ context.Context, plaintext []byte, b kms.Binding) (kms.Wrapped, error) {
	return kms.Wrapped{Key: s.described.Ref, Algorithm: kms.Symmetric, Ciphertext: append([]byte(b["who"]), plaintext...)}, s.err
}

func TestWrapAsksTheStoreOfASymmetricKey(t *testing.T) {
	key := symmetric{described: kms.Description{Ref: kms.Ref{Provider: "p", ID: "i"}, Wrap: kms.Symmetric}}
	if _, err := kms.Wrap(t.Context(), key, []byte("x"), nil); fault.Of(err) != fault.Unsupported {
		t.Errorf("one that cannot wrap: %v", err)
	}
	w, err := kms.Wrap(t.Context(), symmetricWrapper{symmetric: key}, []byte("x"), kms.Binding{"who": "me "})
	if err != nil || string(w.Ciphertext) != "me x" {
		t.Errorf("%q, %v; want the secret and the binding to reach the store", w.Ciphertext, err)
	}
	if _, err = kms.Wrap(t.Context(), symmetricWrapper{key, fault.Denied}, []byte("x"), nil); fault.Of(err) != fault.Denied {
		t.Errorf("a store that refuses: %v", err)
	}
}

func TestWrapRefusesAnAlgorithmThatIsNotOAEP(t *testing.T) {
	key := symmetric{described: kms.Description{Public: &rsa.PublicKey{}, Wrap: "RSA1_5"}}
	if _, err := kms.Wrap(t.Context(), key, []byte("x"), nil); fault.Of(err) != fault.Unsupported {
		t.Errorf("%v", err)
	}
}

func TestKeysInProcessAreChecked(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kms.NewInProcess("p", "i", weak); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "1024") {
		t.Errorf("1024 bits: %v", err)
	}
	one, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	mixed := &rsa.PrivateKey{PublicKey: one.PublicKey, D: other.D, Primes: other.Primes}
	if _, err := kms.NewInProcess("p", "i", mixed); fault.Of(err) != fault.Invalid {
		t.Errorf("a private key that is not that of its public half: %v", err)
	}
}
