package signing

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// The algorithms that keys are made for.
const (
	RS256 = string(jose.RS256)
	ES256 = string(jose.ES256)
)

const rsaBits = 2048

// document is a key as it is stored, under its number in six digits.
type document struct {
	Created time.Time `json:"created"`
	// Begins is from when it signs; the one before it then no longer does.
	Begins time.Time `json:"begins"`
	// Public is the JWK (RFC 7517) that verifiers are given.
	Public jose.JSONWebKey `json:"public"`
	// Private is the PKCS #8 form (RFC 5958), sealed.
	Private []byte `json:"private"`
}

func documentID(number int) string { return fmt.Sprintf("%06d", number) }

func numberOf(id string) (int, error) {
	number, err := strconv.Atoi(id)
	if err != nil {
		return 0, fmt.Errorf("%w: the signing key %q has no number", fault.Lost, id)
	}
	return number, nil
}

// check refuses what no instance of ours has written.
func (d document) check() error {
	known := false
	switch public := d.Public.Key.(type) {
	case *rsa.PublicKey:
		known = d.Public.Algorithm == RS256 && public.N.BitLen() >= rsaBits
	case *ecdsa.PublicKey:
		known = d.Public.Algorithm == ES256 && public.Curve == elliptic.P256()
	}
	if !known || d.Public.KeyID == "" {
		return fmt.Errorf("%w: the public half of a stored key is none of RS256 or ES256", fault.Lost)
	}
	return nil
}

// signer is a private key in memory.
type signer struct {
	kid    string
	signer jose.Signer
}

// newSigner makes a signer of both halves of a key, which have to prove
// themselves.
func newSigner(private any, public jose.JSONWebKey) (*signer, error) {
	made, err := jose.NewSigner(jose.SigningKey{
		Algorithm: jose.SignatureAlgorithm(public.Algorithm), Key: jose.JSONWebKey{Key: private, KeyID: public.KeyID},
	}, (&jose.SignerOptions{}).WithType(Type))
	if err != nil {
		return nil, fmt.Errorf("%w: a private key cannot be used for %s", fault.Lost, public.Algorithm)
	}
	s := &signer{kid: public.KeyID, signer: made}
	return s, s.proves(public)
}

func (s *signer) sign(payload []byte) (string, error) {
	signed, err := s.signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// proves tells whether what the signer signs is what the public half verifies.
func (s *signer) proves(public jose.JSONWebKey) error {
	const probe = "probe"
	token, err := s.sign([]byte(probe))
	if err != nil {
		return fmt.Errorf("%w: a private key does not sign: %w", fault.Lost, err)
	}
	parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(public.Algorithm)})
	if err == nil {
		_, err = parsed.Verify(public)
	}
	if err != nil {
		return fmt.Errorf("%w: the halves of a signing key do not belong together", fault.Lost)
	}
	return nil
}

// create makes and stores a key; Conflict where there is one of this number. It
// is opened and tried before it is stored: every instance will rely on it.
func (k *Keys) create(ctx context.Context, number int, begins time.Time) error {
	private, err := generate(k.algorithm)
	if err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	id := documentID(number)
	public := jose.JSONWebKey{Key: private.Public(), Algorithm: k.algorithm, Use: "sig"}
	thumbprint, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	public.KeyID = strings.ToUpper(hex.EncodeToString(thumbprint)) + k.algorithm
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	defer clear(der)
	sealed, err := k.ring.Seal(ctx, subject(id), der)
	if err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	made := store.Record[document]{ID: id, Parent: collection, Value: document{
		Created: k.now().UTC().Truncate(time.Second), Begins: begins.UTC().Truncate(time.Second), Public: public, Private: sealed,
	}}
	if _, err := k.open(ctx, made); err != nil {
		return fmt.Errorf("a new signing key could not be opened again, so it is not used: %w", err)
	}
	if _, err := k.records.Put(ctx, made, store.Absent()); err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	k.logger.InfoContext(ctx, "a signing key was made", slog.String("kid", public.KeyID), slog.Time("begins", made.Value.Begins))
	return nil
}

func generate(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case RS256:
		return rsa.GenerateKey(rand.Reader, rsaBits)
	case ES256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		return nil, fmt.Errorf("%w: there is no signature algorithm %q here; choose %s or %s", fault.Invalid, algorithm, RS256, ES256)
	}
}

// open gives what signs with a stored key, after it has proved itself.
func (k *Keys) open(ctx context.Context, record store.Record[document]) (*signer, error) {
	der, err := k.ring.Open(ctx, subject(record.ID), record.Value.Private)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", record.ID, err)
	}
	defer clear(der)
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: signing key %s is not a private key", fault.Lost, record.ID)
	}
	opened, err := newSigner(private, record.Value.Public)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", record.ID, err)
	}
	return opened, nil
}

func subject(id string) keyring.Subject {
	return keyring.Subject{Collection: collection, ID: id, Field: "private"}
}
