// Package kms is the contract with a key that never leaves its store: a cloud
// KMS, an HSM behind PKCS#11, or (weaker, and saying so) a file.
//
// Latchkey asks little of such a key: to unwrap a data key that was wrapped to
// it. With an RSA key, wrapping is done here in software with the public half,
// so the right to encrypt is never needed; with a symmetric key the store
// wraps as well. kmstest.Run holds every provider to this contract.
package kms

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Ref names a key for ever: it is stored beside whatever was wrapped, and
// tells which key is needed to unwrap it.
type Ref struct {
	// Provider is the package that opens the key, for example "awskms".
	Provider string `json:"provider"`
	// ID is the provider's own stable name, never an alias that can be moved.
	ID string `json:"id"`
	// Version tells apart the key material under one ID: the store's version,
	// or PublicVersion of an RSA key that the store does not number.
	Version string `json:"version,omitempty"`
}

// String is for people: provider:id@version.
func (r Ref) String() string {
	if r.Version == "" {
		return r.Provider + ":" + r.ID
	}
	return r.Provider + ":" + r.ID + "@" + r.Version
}

// Opens tells whether the key r unwraps what was wrapped to other: the same
// key, or the same RSA key reached by another way (a PKCS#12 file that was
// moved into an HSM).
func (r Ref) Opens(other Ref) bool {
	return r == other || (strings.HasPrefix(r.Version, publicVersion) && r.Version == other.Version)
}

const publicVersion = "spki-sha256:"

// PublicVersion is the Version of an RSA key: the SHA-256 of its public key in
// SubjectPublicKeyInfo form (RFC 5280), in hex.
func PublicVersion(key *rsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("%w: public key: %w", fault.Invalid, err)
	}
	sum := sha256.Sum256(der)
	return publicVersion + hex.EncodeToString(sum[:]), nil
}

// Algorithm is how something was wrapped. RSA names are those of RFC 7518.
type Algorithm string

// The algorithms that providers know.
const (
	RSAOAEP    Algorithm = "RSA-OAEP"     // RSAES-OAEP with SHA-1 and MGF1 with SHA-1
	RSAOAEP256 Algorithm = "RSA-OAEP-256" // RSAES-OAEP with SHA-256 and MGF1 with SHA-256
	Symmetric  Algorithm = "symmetric"    // the key store's own authenticated form
)

// Hash is the hash of an OAEP algorithm; nil for any other.
func (a Algorithm) Hash() hash.Hash {
	switch a {
	case RSAOAEP:
		return sha1.New()
	case RSAOAEP256:
		return sha256.New()
	default:
		return nil
	}
}

// Description is what a key tells of itself.
type Description struct {
	Ref Ref
	// Public is the public half of an RSA key, nil for a symmetric key.
	Public *rsa.PublicKey
	// Wrap is the algorithm to wrap with; for an RSA key one whose OAEP hash
	// the store can undo.
	Wrap Algorithm
}

// Key is a key in its store. Opening one does not contact the store: a store
// that is down when a process starts is a store that is down, not a broken
// configuration. All methods are safe for concurrent use, honour their
// context, and find their way back by themselves when the store returns.
//
// Errors carry a class of shared/fault: NotFound (no such key), Denied (our
// credentials or rights), Invalid (this key cannot be used so, or was not what
// it was said to be), Unsupported, Transient, Lost (the ciphertext was not
// made for this key, or is damaged).
type Key interface {
	// Describe asks the store for what it has; an answer is kept, an error
	// is not.
	Describe(ctx context.Context) (Description, error)
	// Close gives everything back. No call follows it.
	Close() error
}

// Binding is what a wrapped value belongs to. Stores that can (AWS KMS:
// encryption context) refuse to unwrap it under another one. Not secret.
type Binding map[string]string

// Unwrapper decrypts what was wrapped to it.
type Unwrapper interface {
	Key
	Unwrap(ctx context.Context, w Wrapped, b Binding) ([]byte, error)
}

// Wrapper is implemented by symmetric keys, where wrapping needs the store.
type Wrapper interface {
	Unwrapper
	Wrap(ctx context.Context, plaintext []byte, b Binding) (Wrapped, error)
}

// Wrapped is a small secret (at most 190 bytes for RSA-2048 with SHA-256) that
// only one key can unwrap.
type Wrapped struct {
	Key        Ref       `json:"key"`
	Algorithm  Algorithm `json:"algorithm"`
	Ciphertext []byte    `json:"ciphertext"`
}

// Wrap wraps plaintext to a key, in software where the key is an RSA key.
func Wrap(ctx context.Context, key Unwrapper, plaintext []byte, b Binding) (Wrapped, error) {
	description, err := key.Describe(ctx)
	if err != nil {
		return Wrapped{}, fmt.Errorf("wrap: %w", err)
	}
	if description.Public == nil {
		wrapper, ok := key.(Wrapper)
		if !ok {
			return Wrapped{}, fmt.Errorf("%w: wrap with %s: it has no public key and cannot wrap", fault.Unsupported, description.Ref)
		}
		wrapped, err := wrapper.Wrap(ctx, plaintext, b)
		if err != nil {
			return Wrapped{}, fmt.Errorf("wrap with %s: %w", description.Ref, err)
		}
		return wrapped, nil
	}
	digest := description.Wrap.Hash()
	if digest == nil {
		return Wrapped{}, fmt.Errorf("%w: wrap with %s: %q is no RSA-OAEP algorithm", fault.Unsupported, description.Ref, description.Wrap)
	}
	ciphertext, err := rsa.EncryptOAEP(digest, rand.Reader, description.Public, plaintext, nil)
	if err != nil {
		return Wrapped{}, fmt.Errorf("%w: wrap with %s: %w", fault.Invalid, description.Ref, err)
	}
	return Wrapped{Key: description.Ref, Algorithm: description.Wrap, Ciphertext: ciphertext}, nil
}

// Unwrap asks the key's store to undo Wrap.
func Unwrap(ctx context.Context, key Unwrapper, w Wrapped, b Binding) ([]byte, error) {
	plaintext, err := key.Unwrap(ctx, w, b)
	if err != nil {
		return nil, fmt.Errorf("unwrap with %s: %w", w.Key, err)
	}
	return plaintext, nil
}
