// Package pkcs11 is an RSA key in an HSM or a token behind a PKCS#11 library.
//
// The library is a vendor's C code, which needs cgo, may crash or hang, and does
// not find back to a token that was lost. So it never runs in this process: the
// provider is pure Go and starts a small helper (the folder helper, built as
// latchkey-pkcs11), which loads the library, logs in and decrypts. When
// something goes wrong with the helper, another one takes its place.
//
// A PIN that was refused is never tried again by the same Key, since tokens
// lock after a few.
package pkcs11

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/latchkey-fn/latchkey/providers/keys/pkcs11/internal/protocol"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
)

const provider = "pkcs11"

// Key unwraps in the token.
type Key struct {
	supervisor *supervisor

	choosing chan struct{} // held, as a lock, while the token is asked what it can
	wrap     kms.Algorithm
}

var _ kms.Unwrapper = (*Key)(nil)

// Open checks the configuration and that its files exist, and names every
// fault; the library is not loaded before the key is used. Errors: Invalid,
// and Unsupported where there is no helper.
func Open(c Config) (*Key, error) {
	c, err := c.checked()
	if err != nil {
		return nil, fmt.Errorf("PKCS#11 key: %w", err)
	}
	k := &Key{supervisor: supervise(c), choosing: make(chan struct{}, 1)}
	switch c.OAEP {
	case protocol.SHA1:
		k.wrap = kms.RSAOAEP
	case protocol.SHA256:
		k.wrap = kms.RSAOAEP256
	}
	return k, nil
}

// Describe finds the key. Its reference is the token's serial and the key's
// id, as in a PKCS#11 URI.
func (k *Key) Describe(ctx context.Context) (kms.Description, error) {
	s, err := k.supervisor.session(ctx)
	if err != nil {
		return kms.Description{}, err
	}
	select {
	case k.choosing <- struct{}{}:
		defer func() { <-k.choosing }()
	case <-ctx.Done():
		return kms.Description{}, interrupted(ctx)
	}
	if k.wrap == "" {
		if k.wrap, err = k.choose(ctx, s.public); err != nil {
			return kms.Description{}, err
		}
	}
	return kms.Description{Ref: s.ref, Public: s.public, Wrap: k.wrap}, nil
}

// choose takes the best OAEP hash that the token undoes. Only a trial tells:
// tokens name the mechanism, not its hashes.
func (k *Key) choose(ctx context.Context, public *rsa.PublicKey) (kms.Algorithm, error) {
	var errs []error
	for _, algorithm := range []kms.Algorithm{kms.RSAOAEP256, kms.RSAOAEP} {
		probe, err := newProbe(public, algorithm)
		if err != nil {
			return "", err
		}
		plaintext, err := k.decrypt(ctx, algorithm, probe.ciphertext)
		if err == nil && !bytes.Equal(plaintext, probe.plaintext) {
			err = fmt.Errorf("%w: the token decrypts to something else than was encrypted", fault.Invalid)
		}
		if err == nil {
			return algorithm, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", algorithm, err))
		if c := fault.Of(err); c == fault.Denied || c == fault.Transient && !isAnswer(err) {
			return "", err // says nothing about the hash
		}
	}
	// What the token said to SHA-1, which every token can, is the reason.
	err := errs[len(errs)-1]
	if fault.Of(err) == fault.Lost {
		return "", fmt.Errorf("%w: the token's private key does not decrypt what is encrypted to the public key; is the certificate that of this key? (%s)", fault.Invalid, err.Error())
	}
	if k.supervisor.config.Public != nil {
		return "", fmt.Errorf("try what the token can decrypt (if this stays: is the given certificate that of the key?): %w", err)
	}
	return "", fmt.Errorf("try what the token can decrypt: %w", err)
}

func isAnswer(err error) bool {
	var answer *protocol.Error
	return errors.As(err, &answer)
}

// Unwrap decrypts in the token. The binding is not used: RSA has no room for it.
func (k *Key) Unwrap(ctx context.Context, w kms.Wrapped, _ kms.Binding) ([]byte, error) {
	s, err := k.supervisor.session(ctx)
	if err != nil {
		return nil, err
	}
	description := kms.Description{Ref: s.ref, Public: s.public}
	if err := description.CheckRSA(w); err != nil {
		return nil, err
	}
	return k.decrypt(ctx, w.Algorithm, w.Ciphertext)
}

// decrypt asks the token, and once more where the answer may have another
// reason than the ciphertext: by a new helper where the token may be lost.
func (k *Key) decrypt(ctx context.Context, algorithm kms.Algorithm, ciphertext []byte) ([]byte, error) {
	for first := true; ; first = false {
		s, err := k.supervisor.session(ctx)
		if err != nil {
			return nil, err
		}
		plaintext, err := k.ask(ctx, s, algorithm, ciphertext)
		var answer *protocol.Error
		switch {
		case err == nil:
			k.supervisor.worked()
			return plaintext, nil
		case !errors.As(err, &answer):
			return nil, err
		case answer.Kind == protocol.Login:
			return nil, k.supervisor.refusedInUse(s, answer)
		case class(answer) == fault.Lost:
			k.supervisor.worked()
			return nil, asError(answer)
		case answer.Code == userNotLoggedIn && k.supervisor.config.PIN == "":
			return nil, fmt.Errorf("%w: the key needs a PIN and none is configured: %w", fault.Denied, answer)
		case !lostToken(answer.Code) && k.works(ctx, s, algorithm):
			// Tokens say CKR_GENERAL_ERROR, CKR_DEVICE_ERROR or CKR_ARGUMENTS_BAD
			// of damaged ciphertexts too. This one decrypts others; asked twice,
			// since "lost" must not be said of what the token merely stumbled on.
			if !first {
				k.supervisor.worked()
				return nil, fmt.Errorf("%w: the ciphertext is damaged or was not made for this key: %w", fault.Lost, answer)
			}
			continue
		case !lostToken(answer.Code) && !perhapsLost(answer.Code):
			return nil, asError(answer)
		}
		k.supervisor.retire(s, answer)
		if !first {
			return nil, asError(answer)
		}
	}
}

// ask sends one decryption to one helper.
func (k *Key) ask(ctx context.Context, s *session, algorithm kms.Algorithm, ciphertext []byte) ([]byte, error) {
	hash := protocol.SHA256
	if algorithm == kms.RSAOAEP {
		hash = protocol.SHA1
	}
	response, err := s.call(ctx, k.supervisor.config.CallTimeout,
		protocol.Request{Decrypt: &protocol.Decrypt{Hash: hash, Ciphertext: ciphertext}})
	switch {
	case errors.Is(err, errGone):
		k.supervisor.retire(s, err)
		return nil, fmt.Errorf("%w: %w", fault.Transient, err)
	case err != nil:
		return nil, interrupted(ctx)
	case response.Error != nil:
		return nil, response.Error
	case len(response.Plaintext) == 0:
		return nil, fmt.Errorf("%w: the token decrypts it to nothing", fault.Lost)
	default:
		return response.Plaintext, nil
	}
}

// works tells whether the token decrypts something that is not damaged.
func (k *Key) works(ctx context.Context, s *session, algorithm kms.Algorithm) bool {
	probe, err := newProbe(s.public, algorithm)
	if err != nil {
		return false
	}
	plaintext, err := k.ask(ctx, s, algorithm, probe.ciphertext)
	return err == nil && bytes.Equal(plaintext, probe.plaintext)
}

// Close ends the helper and waits until it has gone.
func (k *Key) Close() error { return k.supervisor.close() }

type probe struct{ plaintext, ciphertext []byte }

func newProbe(public *rsa.PublicKey, algorithm kms.Algorithm) (probe, error) {
	p := probe{plaintext: make([]byte, 32)}
	_, _ = rand.Read(p.plaintext) // never fails: crypto/rand
	var err error
	p.ciphertext, err = rsa.EncryptOAEP(algorithm.Hash(), rand.Reader, public, p.plaintext, nil)
	if err != nil {
		return probe{}, fmt.Errorf("%w: encrypt to the key's public half: %w", fault.Invalid, err)
	}
	return p, nil
}
