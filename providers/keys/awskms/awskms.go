// Package awskms unwraps data keys with a key in AWS KMS: an RSA key (RSA_2048,
// RSA_3072 or RSA_4096, for ENCRYPT_DECRYPT) or a symmetric one.
//
// To an RSA key data keys are wrapped in software with its public half, by
// RSAES_OAEP_SHA_256, so the right to encrypt is not needed. A symmetric key
// wraps in KMS and binds the result to its encryption context.
//
// Unwrapping is exactly one call, Decrypt: what was wrapped names its key and
// algorithm, so the key need not be described first. Describing is one call
// for an RSA key, GetPublicKey: it answers with the ARN, the usage and the
// public half at once, and is the only other right that is needed. A symmetric
// key has no public half and takes DescribeKey, alone where Config.Symmetric
// says so.
package awskms

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"golang.org/x/sync/singleflight"

	"github.com/latchkey-fn/latchkey/providers/awsfault"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
)

// provider is our name in a kms.Ref.
const provider = "awskms"

// Config names the key.
type Config struct {
	// KeyID is a key's id or ARN, or an alias (alias/name) or its ARN. Behind an
	// alias, what was wrapped is unwrapped by the key that wrapped it, also after
	// the alias has moved on, as long as the role may use that key.
	KeyID string
	// Endpoint is the URL of another service than the region's; empty: none.
	Endpoint string
	// Symmetric says what the key is expected to be; nil: found out. A
	// contradiction is an error, never a choice.
	Symmetric *bool
}

// Key is a key in KMS.
type Key struct {
	client    client
	name      name
	symmetric *bool
	described atomic.Pointer[kms.Description]
	inFlight  singleflight.Group
}

var _ kms.Wrapper = (*Key)(nil)

// client is what a key needs of the service.
type client interface {
	GetPublicKey(context.Context, *sdk.GetPublicKeyInput, ...func(*sdk.Options)) (*sdk.GetPublicKeyOutput, error)
	DescribeKey(context.Context, *sdk.DescribeKeyInput, ...func(*sdk.Options)) (*sdk.DescribeKeyOutput, error)
	Encrypt(context.Context, *sdk.EncryptInput, ...func(*sdk.Options)) (*sdk.EncryptOutput, error)
	Decrypt(context.Context, *sdk.DecryptInput, ...func(*sdk.Options)) (*sdk.DecryptOutput, error)
}

// maxCiphertext is the longest ciphertext, in bytes, that Decrypt takes.
const maxCiphertext = 6144

// describeTimeout bounds one description, whoever waits for it.
const describeTimeout = 15 * time.Second

// New opens a key. Nothing is contacted before the first use.
func New(cfg aws.Config, c Config) *Key {
	service := sdk.NewFromConfig(cfg, func(o *sdk.Options) {
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
		}
	})
	return &Key{client: service, name: parseName(c.KeyID, cfg.Region), symmetric: c.Symmetric}
}

// Close does nothing: connections end by themselves.
func (k *Key) Close() error { return nil }

// Describe asks KMS once for all who wait, and keeps the answer.
func (k *Key) Describe(ctx context.Context) (kms.Description, error) {
	if d := k.described.Load(); d != nil {
		return *d, nil
	}
	if err := ctx.Err(); err != nil {
		return kms.Description{}, fmt.Errorf("%w: describe the AWS KMS key: %w", fault.Transient, err)
	}
	answer := k.inFlight.DoChan("", func() (any, error) {
		// One caller who gives up must not take the answer from the others.
		shared, cancel := context.WithTimeout(context.WithoutCancel(ctx), describeTimeout)
		defer cancel()
		d, err := k.describe(shared)
		if err == nil {
			k.described.Store(&d)
		}
		return nil, err
	})
	select {
	case result := <-answer:
		if result.Err != nil {
			return kms.Description{}, result.Err
		}
		return *k.described.Load(), nil
	case <-ctx.Done():
		return kms.Description{}, fmt.Errorf("%w: describe the AWS KMS key: %w", fault.Transient, ctx.Err())
	}
}

// Wrap encrypts with a symmetric key; to an RSA key kms.Wrap does it in
// software.
func (k *Key) Wrap(ctx context.Context, plaintext []byte, b kms.Binding) (kms.Wrapped, error) {
	d, err := k.Describe(ctx)
	if err != nil {
		return kms.Wrapped{}, err
	}
	if d.Public != nil {
		return kms.Wrapped{}, fmt.Errorf("%w: %s is an RSA key, to which is wrapped in software", fault.Unsupported, d.Ref)
	}
	answer, err := k.client.Encrypt(ctx, &sdk.EncryptInput{
		KeyId:               aws.String(d.Ref.ID),
		Plaintext:           plaintext,
		EncryptionAlgorithm: types.EncryptionAlgorithmSpecSymmetricDefault,
		EncryptionContext:   b,
	})
	if err != nil {
		return kms.Wrapped{}, k.explain("kms:Encrypt", err)
	}
	if used := aws.ToString(answer.KeyId); used != d.Ref.ID {
		return kms.Wrapped{}, fmt.Errorf("%w: AWS KMS was asked to encrypt with %s and answers that it used %q", fault.Invalid, d.Ref.ID, used)
	}
	return kms.Wrapped{Key: d.Ref, Algorithm: d.Wrap, Ciphertext: answer.CiphertextBlob}, nil
}

// Unwrap is one call of Decrypt. Only for what names its RSA key by another
// provider's name (a key that was imported into KMS) is the key described
// first.
func (k *Key) Unwrap(ctx context.Context, w kms.Wrapped, b kms.Binding) ([]byte, error) {
	algorithm, known := algorithms[w.Algorithm]
	switch {
	case !known:
		return nil, fmt.Errorf("%w: AWS KMS does not unwrap %q", fault.Unsupported, w.Algorithm)
	case len(w.Ciphertext) == 0 || len(w.Ciphertext) > maxCiphertext:
		return nil, fmt.Errorf("%w: the ciphertext has %d bytes, AWS KMS makes 1 to %d: it is damaged", fault.Lost, len(w.Ciphertext), maxCiphertext)
	}
	arn, err := k.keyFor(ctx, w)
	if err != nil {
		return nil, err
	}
	if w.Algorithm != kms.Symmetric {
		b = nil // RSA has no room for it, and KMS refuses it
	}
	answer, err := k.client.Decrypt(ctx, &sdk.DecryptInput{
		KeyId:               aws.String(arn),
		CiphertextBlob:      w.Ciphertext,
		EncryptionAlgorithm: algorithm,
		EncryptionContext:   b,
	})
	if err != nil {
		return nil, k.explain("kms:Decrypt", err)
	}
	if used := aws.ToString(answer.KeyId); used != arn {
		return nil, fmt.Errorf("%w: AWS KMS was asked to decrypt with %s and answers that it used %q", fault.Lost, arn, used)
	}
	return answer.Plaintext, nil
}

var algorithms = map[kms.Algorithm]types.EncryptionAlgorithmSpec{
	kms.RSAOAEP:    types.EncryptionAlgorithmSpecRsaesOaepSha1,
	kms.RSAOAEP256: types.EncryptionAlgorithmSpecRsaesOaepSha256,
	kms.Symmetric:  types.EncryptionAlgorithmSpecSymmetricDefault,
}

// keyFor gives the ARN of the key that unwraps w, if it can be ours.
func (k *Key) keyFor(ctx context.Context, w kms.Wrapped) (string, error) {
	if w.Key.Provider == provider {
		if arn, ours := k.name.matches(w.Key.ID); ours {
			// RSA keys have their public half's hash as version, symmetric ones none.
			if (w.Algorithm == kms.Symmetric) != (w.Key.Version == "") {
				return "", fmt.Errorf("%w: %s is not a key that unwraps %q", fault.Unsupported, w.Key, w.Algorithm)
			}
			return arn, nil
		}
	}
	if w.Key.Version == "" {
		return "", fmt.Errorf("%w: it was wrapped to the key %s, this is %s", fault.Lost, w.Key, k.name)
	}
	d, err := k.Describe(ctx)
	if err != nil {
		return "", err
	}
	if d.Public == nil {
		return "", fmt.Errorf("%w: it was wrapped to the key %s, this is %s", fault.Lost, w.Key, d.Ref)
	}
	return d.Ref.ID, d.CheckRSA(w)
}

// explain gives an error of the service its class. Doing is the right that the
// call needs.
func (k *Key) explain(doing string, err error) error {
	class, hint := fault.Transient, ""
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		switch code := api.ErrorCode(); code {
		case "NotFoundException":
			class, hint = fault.NotFound, " (check the key and the region)"
		case "AccessDeniedException":
			class, hint = fault.Denied, " (allow it in the role's policy and in the key's)"
		case "DisabledException":
			class, hint = fault.Invalid, " (the key is disabled: enable it)"
		case "KMSInvalidStateException":
			class, hint = fault.Invalid, " (the state of the key forbids its use: if its deletion is pending, cancel that now)"
		case "InvalidKeyUsageException":
			class, hint = fault.Invalid, " (the key has to be of usage ENCRYPT_DECRYPT)"
		case "ValidationException", "InvalidArnException", "SerializationException":
			class = fault.Invalid
		case "UnsupportedOperationException":
			class = fault.Unsupported
		case "InvalidCiphertextException", "IncorrectKeyException":
			class, hint = fault.Lost, " (the ciphertext or its binding is damaged, or it was made for another key)"
		default:
			if awsfault.Credentials(code) {
				class, hint = fault.Denied, " (check the credentials)"
			}
		}
	}
	return fmt.Errorf("%w: %s with %s%s: %w", class, doing, k.name, hint, err)
}
