package kmstest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"sync"
	"testing"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
)

// keys are made once per process: each costs a noticeable part of a second.
var keys = [2]func() *rsa.PrivateKey{sync.OnceValue(generate), sync.OnceValue(generate)}

func generate() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, kms.MinRSABits)
	if err != nil {
		panic(err)
	}
	return key
}

// Key is an RSA key in memory that counts its calls and fails on demand. Its
// zero faults are none: it passes Run.
type Key struct {
	mu     sync.Mutex
	actual *kms.InProcess
	other  *kms.InProcess
	faults Faults
	calls  Calls
}

var _ kms.Unwrapper = (*Key)(nil)

// Faults is how a Key misbehaves, until it is told otherwise.
type Faults struct {
	// Err is returned by every Unwrap, and by Describe where DescribeToo.
	Err         error
	DescribeToo bool
	// Hang makes every call wait for the end of its context.
	Hang bool
	// WrongPlaintext makes Unwrap answer another secret of the same length.
	WrongPlaintext bool
	// WrongPublic makes Describe show a public key that is not this key's, under
	// this key's own reference: what is wrapped to it cannot be unwrapped.
	WrongPublic bool
}

// Calls counts what was asked of a Key.
type Calls struct{ Describe, Unwrap, Close int }

// NewKey gives a key without faults; all of a process are the same key.
func NewKey(t testing.TB) *Key { return newKey(t, "memory", 0, 1) }

// NewOtherKey gives another key than NewKey.
func NewOtherKey(t testing.TB) *Key { return newKey(t, "other", 1, 0) }

func newKey(t testing.TB, id string, actual, other int) *Key {
	t.Helper()
	inProcess := func(i int) *kms.InProcess {
		key, err := kms.NewInProcess("kmstest", id, keys[i]())
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	return &Key{actual: inProcess(actual), other: inProcess(other)}
}

// Set replaces the faults; Set(Faults{}) heals the key.
func (k *Key) Set(f Faults) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faults = f
}

// Calls tells what was asked so far.
func (k *Key) Calls() Calls {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.calls
}

// Describe is part of kms.Key.
func (k *Key) Describe(ctx context.Context) (kms.Description, error) {
	faults := k.count(func(c *Calls) { c.Describe++ })
	description, err := k.actual.Describe(ctx)
	if err != nil {
		return kms.Description{}, err
	}
	if faults.WrongPublic {
		other, err := k.other.Describe(ctx)
		if err != nil {
			return kms.Description{}, err
		}
		description.Public = other.Public
	}
	if !faults.DescribeToo {
		faults.Err = nil
	}
	if err := faults.strike(ctx); err != nil {
		return kms.Description{}, err
	}
	return description, nil
}

// Unwrap is part of kms.Unwrapper.
func (k *Key) Unwrap(ctx context.Context, w kms.Wrapped, b kms.Binding) ([]byte, error) {
	faults := k.count(func(c *Calls) { c.Unwrap++ })
	if err := faults.strike(ctx); err != nil {
		return nil, err
	}
	plaintext, err := k.actual.Unwrap(ctx, w, b)
	if faults.WrongPlaintext && len(plaintext) > 0 {
		plaintext[0] ^= 1
	}
	return plaintext, err
}

// Close is part of kms.Key.
func (k *Key) Close() error {
	k.count(func(c *Calls) { c.Close++ })
	return nil
}

func (k *Key) count(add func(*Calls)) Faults {
	k.mu.Lock()
	defer k.mu.Unlock()
	add(&k.calls)
	return k.faults
}

func (f Faults) strike(ctx context.Context) error {
	if f.Hang {
		<-ctx.Done()
		return fmt.Errorf("%w: %w", fault.Transient, ctx.Err())
	}
	return f.Err
}
