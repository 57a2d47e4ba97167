package kms

import (
	"context"
	"crypto/rsa"
	"fmt"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// The sizes of RSA keys, in bits, that Latchkey uses. Smaller ones are weak;
// larger ones make each unwrap slow and are what no HSM offers.
const (
	MinRSABits = 2048
	MaxRSABits = 4096
)

// InProcess is an RSA key whose private half is in the memory of this process:
// what the providers that read a key from a file have in common.
type InProcess struct {
	description Description
	private     *rsa.PrivateKey
}

var _ Unwrapper = (*InProcess)(nil)

// NewInProcess checks the key, or returns an error of class Invalid.
func NewInProcess(provider, id string, private *rsa.PrivateKey) (*InProcess, error) {
	if err := CheckRSA(&private.PublicKey); err != nil {
		return nil, err
	}
	if err := private.Validate(); err != nil {
		return nil, fmt.Errorf("%w: the RSA private key is inconsistent: %w", fault.Invalid, err)
	}
	version, err := PublicVersion(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	return &InProcess{
		description: Description{
			Ref:    Ref{Provider: provider, ID: id, Version: version},
			Public: &private.PublicKey,
			Wrap:   RSAOAEP256,
		},
		private: private,
	}, nil
}

// CheckRSA refuses, as Invalid, an RSA key of a size that Latchkey does not use.
func CheckRSA(key *rsa.PublicKey) error {
	if bits := key.N.BitLen(); bits < MinRSABits || bits > MaxRSABits {
		return fmt.Errorf("%w: an RSA key of %d bits; use one of %d to %d", fault.Invalid, bits, MinRSABits, MaxRSABits)
	}
	return nil
}

// Describe never fails.
func (k *InProcess) Describe(context.Context) (Description, error) { return k.description, nil }

// Unwrap undoes both OAEP algorithms. The binding is not used: RSA has no room
// for it.
func (k *InProcess) Unwrap(ctx context.Context, w Wrapped, _ Binding) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", fault.Transient, err)
	}
	if err := k.description.CheckRSA(w); err != nil {
		return nil, err
	}
	plaintext, err := rsa.DecryptOAEP(w.Algorithm.Hash(), nil, k.private, w.Ciphertext, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: the ciphertext is damaged or was not made for this key", fault.Lost)
	}
	return plaintext, nil
}

// Close does nothing.
func (k *InProcess) Close() error { return nil }

// CheckRSA refuses, before the store is asked, what an RSA key can never
// unwrap: Lost for what was wrapped to another key or has another key's
// length, Unsupported for an algorithm that is not RSA-OAEP.
func (d Description) CheckRSA(w Wrapped) error {
	switch {
	case !d.Ref.Opens(w.Key):
		return fmt.Errorf("%w: it was wrapped to the key %s, this is %s", fault.Lost, w.Key, d.Ref)
	case w.Algorithm.Hash() == nil:
		return fmt.Errorf("%w: an RSA key unwraps %s and %s, not %q", fault.Unsupported, RSAOAEP, RSAOAEP256, w.Algorithm)
	case len(w.Ciphertext) != d.Public.Size():
		return fmt.Errorf("%w: the ciphertext has %d bytes, this key makes %d: it is damaged", fault.Lost, len(w.Ciphertext), d.Public.Size())
	default:
		return nil
	}
}
