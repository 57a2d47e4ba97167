package kmstest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
)

func TestTheKeysInMemoryConform(t *testing.T) {
	t.Run("one", func(t *testing.T) { Run(t, func(t *testing.T) kms.Unwrapper { return NewKey(t) }) })
	t.Run("the other", func(t *testing.T) { Run(t, func(t *testing.T) kms.Unwrapper { return NewOtherKey(t) }) })
}

func TestAKeyMisbehavesAsToldAndHeals(t *testing.T) {
	key := NewKey(t)
	w, err := kms.Wrap(t.Context(), key, []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	unwrap := func(ctx context.Context) (string, error) {
		got, err := kms.Unwrap(ctx, key, w, nil)
		return string(got), err
	}
	key.Set(Faults{Err: fault.Denied})
	if _, err := unwrap(t.Context()); fault.Of(err) != fault.Denied {
		t.Errorf("told to fail: %v", err)
	}
	if _, err := key.Describe(t.Context()); err != nil {
		t.Errorf("told to fail in Unwrap only: %v", err)
	}
	key.Set(Faults{WrongPlaintext: true})
	if got, err := unwrap(t.Context()); err != nil || got == "secret" || len(got) != 6 {
		t.Errorf("told to answer another secret: %q, %v", got, err)
	}
	key.Set(Faults{Hang: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := unwrap(ctx); fault.Of(err) != fault.Transient || !errors.Is(err, context.Canceled) {
		t.Errorf("told to hang: %v", err)
	}
	key.Set(Faults{WrongPublic: true})
	if wrong, err := kms.Wrap(t.Context(), key, []byte("secret"), nil); err != nil {
		t.Error(err)
	} else if _, err := kms.Unwrap(t.Context(), key, wrong, nil); fault.Of(err) != fault.Lost {
		t.Errorf("told to show another public key: %v", err)
	}
	key.Set(Faults{})
	if got, err := unwrap(t.Context()); err != nil || got != "secret" {
		t.Errorf("healed: %q, %v", got, err)
	}
	if calls := key.Calls(); calls.Unwrap != 5 || calls.Describe != 3 {
		t.Errorf("it counted %+v", calls)
	}
}

// broken is a key that breaks one rule of the contract.
type broken struct {
	*Key
	describe func(kms.Description) kms.Description
	unwrap   func(ctx context.Context, key *Key, w kms.Wrapped) ([]byte, error)
}

func (b broken) Describe(ctx context.Context) (kms.Description, error) {
	d, err := b.Key.Describe(ctx)
	if err == nil && b.describe != nil {
		d = b.describe(d)
	}
	return d, err
}

func (b broken) Unwrap(ctx context.Context, w kms.Wrapped, binding kms.Binding) ([]byte, error) {
	if b.unwrap != nil {
		return b.unwrap(ctx, b.Key, w)
	}
	return b.Key.Unwrap(ctx, w, binding)
}

func brokenKeys(t *testing.T) map[string]broken {
	count := 0
	whole := func(f Faults) broken {
		key := NewKey(t)
		key.Set(f)
		return broken{Key: key}
	}
	return map[string]broken{
		"answers another secret":   whole(Faults{WrongPlaintext: true}),
		"shows another public key": whole(Faults{WrongPublic: true}),
		"has another name each time": {Key: NewKey(t), describe: func(d kms.Description) kms.Description {
			count++
			d.Ref.ID = fmt.Sprint(count)
			return d
		}},
		"has no version": {Key: NewKey(t), describe: func(d kms.Description) kms.Description {
			d.Ref.Version = ""
			return d
		}},
		"opens what names another key": {Key: NewKey(t), unwrap: func(ctx context.Context, key *Key, w kms.Wrapped) ([]byte, error) {
			d, err := key.Describe(ctx)
			if err != nil {
				return nil, err
			}
			w.Key = d.Ref
			return key.Unwrap(ctx, w, nil)
		}},
		"takes any algorithm for OAEP": {Key: NewKey(t), unwrap: func(ctx context.Context, key *Key, w kms.Wrapped) ([]byte, error) {
			if w.Algorithm.Hash() == nil {
				w.Algorithm = kms.RSAOAEP256
			}
			return key.Unwrap(ctx, w, nil)
		}},
		"ignores that a context ended": {Key: NewKey(t), unwrap: func(_ context.Context, key *Key, w kms.Wrapped) ([]byte, error) {
			return key.Unwrap(context.Background(), w, nil)
		}},
		"has errors without a class": {Key: NewKey(t), unwrap: func(ctx context.Context, key *Key, w kms.Wrapped) ([]byte, error) {
			plaintext, err := key.Unwrap(ctx, w, nil)
			if err != nil {
				err = errors.New("something")
			}
			return plaintext, err
		}},
		"makes something of damaged ciphertexts": {Key: NewKey(t), unwrap: func(ctx context.Context, key *Key, w kms.Wrapped) ([]byte, error) {
			plaintext, err := key.Unwrap(ctx, w, nil)
			if fault.Of(err) == fault.Lost {
				return make([]byte, 32), nil
			}
			return plaintext, err
		}},
	}
}

const brokenName = "LATCHKEY_TEST_BROKEN_KEY"

// TestTheSuiteFindsBrokenKeys runs the suite on each in a process of its own,
// where it has to fail.
func TestTheSuiteFindsBrokenKeys(t *testing.T) {
	keys := brokenKeys(t)
	if name := os.Getenv(brokenName); name != "" {
		Run(t, func(*testing.T) kms.Unwrapper { return keys[name] })
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name := range keys {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestTheSuiteFindsBrokenKeys$")
			cmd.Env = append(os.Environ(), brokenName+"="+name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL") {
				t.Errorf("the suite does not notice: %v\n%s", err, out)
			}
		})
	}
}
