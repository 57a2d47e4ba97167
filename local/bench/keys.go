package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/latchkey-fn/latchkey/local/emulators/softhsm"
	"github.com/latchkey-fn/latchkey/providers/keys/awskms"
	"github.com/latchkey-fn/latchkey/providers/keys/certificate"
	"github.com/latchkey-fn/latchkey/providers/keys/pkcs11"
	"github.com/latchkey-fn/latchkey/providers/keys/software"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
)

// keys measures one unwrap of a data key with each provider, by the clock,
// beside the RSA operation alone with a key of the same length.
func (b *bench) keys(ctx context.Context) (_ []result, err error) {
	providers, closeAll, err := b.openKeys(ctx)
	defer func() { err = errors.Join(err, closeAll()) }()
	if err != nil {
		return nil, err
	}
	secret := random(32)
	unwraps := b.either(10, 3)
	var contenders []func() (float64, error)
	for _, p := range providers {
		if p.skipped != "" {
			continue
		}
		description, err := p.key.Describe(ctx)
		if err != nil {
			return nil, err
		}
		wrapped, err := kms.Wrap(ctx, p.key, secret, nil)
		if err != nil {
			return nil, err
		}
		ours := func(int) error {
			got, err := kms.Unwrap(ctx, p.key, wrapped, nil)
			if err == nil && !bytes.Equal(got, secret) {
				return errors.New(p.name + " unwrapped something else")
			}
			return err
		}
		bare, err := bareUnwrap(description.Public.N.BitLen(), secret)
		if err != nil {
			return nil, err
		}
		for _, call := range []func(int) error{ours, bare} {
			contenders = append(contenders, func() (float64, error) {
				us, err := perCall(unwraps, call)
				return us / 1000, err
			})
		}
	}
	b.say("  %d rounds of %d unwraps", b.rounds, unwraps)
	measured, err := interleave(b.rounds, contenders...)
	if err != nil {
		return nil, err
	}
	var results []result
	for _, p := range providers {
		r := result{What: "key " + p.name + ": unwrap", Unit: "ms", Skipped: p.skipped}
		if p.skipped == "" {
			r.Bare = "rsa.DecryptOAEP"
			r, measured = r.compare(measured[0], measured[1]), measured[2:]
		}
		results = append(results, r)
	}
	return results, nil
}

// bareUnwrap is the RSA operation in this process.
func bareUnwrap(bits int, secret []byte) (func(int) error, error) {
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return nil, err
	}
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &private.PublicKey, secret, nil)
	if err != nil {
		return nil, err
	}
	return func(int) error {
		_, err := rsa.DecryptOAEP(sha256.New(), nil, private, wrapped, nil)
		return err
	}, nil
}

// provider is an opened key, or why there is none.
type provider struct {
	name    string
	key     kms.Unwrapper
	skipped string
}

// openKeys opens a key of every provider. What it gives to close is to be
// called after an error too.
func (b *bench) openKeys(ctx context.Context) (all []provider, closeAll func() error, err error) {
	var closers []func() error
	closeAll = func() error {
		var faults []error
		for _, c := range slices.Backward(closers) {
			faults = append(faults, c())
		}
		return errors.Join(faults...)
	}
	add := func(name string, key kms.Unwrapper) {
		all = append(all, provider{name: name, key: key})
		closers = append(closers, key.Close)
	}
	dir, err := b.folder("keys")
	if err != nil {
		return nil, closeAll, err
	}
	file, err := software.Open(filepath.Join(dir, "software-key.pem"))
	if err != nil {
		return nil, closeAll, err
	}
	add("software", file)
	pfx, err := openCertificate(filepath.Join(dir, "certificate.pfx"))
	if err != nil {
		return nil, closeAll, err
	}
	add("certificate", pfx)
	cloud, err := b.startCloud(ctx)
	if err != nil {
		return nil, closeAll, err
	}
	closers = append(closers, cloud.close)
	add("AWS KMS (local-kms)", awskms.New(cloud.config, cloud.key))

	token, err := b.openToken(ctx, dir)
	switch {
	case errors.Is(err, fault.Unsupported):
		all = append(all, provider{name: "PKCS#11 (SoftHSM)", skipped: err.Error()})
	case err != nil:
		return nil, closeAll, err
	default:
		add("PKCS#11 (SoftHSM)", token)
	}
	return all, closeAll, nil
}

func openCertificate(path string) (*certificate.Key, error) {
	private, err := rsa.GenerateKey(rand.Reader, kms.MinRSABits)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"},
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	const password = "bench"
	content, err := pkcs12.Modern.Encode(private, leaf, nil, password)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return nil, err
	}
	return certificate.Open(certificate.Config{Path: path, Password: password})
}

// openToken fails with Unsupported where SoftHSM or a C compiler is missing.
func (b *bench) openToken(ctx context.Context, dir string) (*pkcs11.Key, error) {
	token, err := softhsm.Create(ctx, filepath.Join(dir, "softhsm"))
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath(cmp.Or(os.Getenv("CC"), "cc")); err != nil {
		return nil, fmt.Errorf("%w: the PKCS#11 helper needs a C compiler: %w", fault.Unsupported, err)
	}
	helper, err := b.make(ctx, build{rule: "bench-helper", tree: b.root, source: "./providers/keys/pkcs11/helper"})
	if err != nil {
		return nil, err
	}
	return pkcs11.Open(pkcs11.Config{
		Helper: helper, Library: token.Library, Env: token.Env,
		TokenLabel: token.Label, PIN: pkcs11.PIN(token.PIN), KeyLabel: token.KeyLabel,
	})
}
