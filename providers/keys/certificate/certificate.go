// Package certificate is an RSA key in a certificate file: PKCS#12 (.pfx,
// .p12), as the official Key Connector uses it, or PEM.
//
// The file is local, so Open reads it at once and a bad one is an error of the
// configuration. The private key is then in the memory of this process: whoever
// can read the file and the password, or the memory, has the key.
package certificate

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"software.sslmate.com/src/go-pkcs12"
)

const (
	provider = "certificate"
	// maxFile bounds what is read: a PKCS#12 file with a long chain has some 20 KB.
	maxFile = 256 << 10
	// maxIterations bounds the work that a file can ask for before its password
	// is known to be right. Tools write 1 to 1 000 000.
	maxIterations = 5_000_000
)

// Config names the file.
type Config struct {
	Path string
	// Password opens a PKCS#12 file; empty also for one without a password.
	Password string
}

// Key unwraps with the private key of a certificate file.
type Key struct{ *kms.InProcess }

var _ kms.Unwrapper = (*Key)(nil)

// Open reads the file. The id of the key's reference is the file's name.
//
// Errors: NotFound (no file), Denied (no right to read it, or a wrong
// password), Invalid (not a usable RSA key, with the reason), Unsupported (an
// encryption that is not known).
func Open(c Config) (*Key, error) {
	data, err := read(c.Path)
	if err != nil {
		return nil, err
	}
	return Parse(filepath.Base(c.Path), data, c.Password)
}

// Parse makes a key of the content of a certificate file that came from
// elsewhere (a blob, a secret store). The id of its reference is name.
func Parse(name string, data []byte, password string) (*Key, error) {
	private, err := parsePrivate(data, password)
	if err != nil {
		return nil, fmt.Errorf("certificate file %s: %w", name, err)
	}
	key, err := kms.NewInProcess(provider, name, private)
	if err != nil {
		return nil, fmt.Errorf("certificate file %s: %w", name, err)
	}
	return &Key{key}, nil
}

// PublicKey gives the RSA public key of a certificate in a file: a certificate
// in PEM or DER (of a chain, the first), or a PKCS#12 file, which needs its
// password. Errors as Open's.
func PublicKey(c Config) (*rsa.PublicKey, error) {
	data, err := read(c.Path)
	if err != nil {
		return nil, err
	}
	public, err := parsePublic(data, c.Password)
	if err != nil {
		return nil, fmt.Errorf("certificate file %s: %w", filepath.Base(c.Path), err)
	}
	if err := kms.CheckRSA(public); err != nil {
		return nil, fmt.Errorf("certificate file %s: %w", filepath.Base(c.Path), err)
	}
	return public, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		class := fault.Invalid
		switch {
		case errors.Is(err, os.ErrNotExist):
			class = fault.NotFound
		case errors.Is(err, os.ErrPermission):
			class = fault.Denied
		}
		return nil, fmt.Errorf("%w: certificate file: %w", class, err)
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%w: certificate file: %w", fault.Invalid, err)
	}
	return data, nil
}

func parsePrivate(data []byte, password string) (*rsa.PrivateKey, error) {
	if err := checkSize(data); err != nil {
		return nil, err
	}
	if isPEM(data) {
		private, certificates, err := parsePEM(data)
		if err != nil {
			return nil, err
		}
		if private == nil {
			return nil, fmt.Errorf("%w: the PEM file holds no private key", fault.Invalid)
		}
		return private, matches(private, certificates)
	}
	return parsePKCS12(data, password)
}

func parsePublic(data []byte, password string) (*rsa.PublicKey, error) {
	if err := checkSize(data); err != nil {
		return nil, err
	}
	if isPEM(data) {
		_, certificates, err := parsePEM(data)
		if err != nil {
			return nil, err
		}
		if len(certificates) == 0 {
			return nil, fmt.Errorf("%w: the PEM file holds no certificate", fault.Invalid)
		}
		return rsaPublic(certificates[0])
	}
	if certificate, err := x509.ParseCertificate(data); err == nil {
		return rsaPublic(certificate)
	}
	private, err := parsePKCS12(data, password)
	if err != nil {
		return nil, err
	}
	return &private.PublicKey, nil
}

func checkSize(data []byte) error {
	switch {
	case len(data) > maxFile:
		return fmt.Errorf("%w: it is larger than %d KB, which no certificate file is", fault.Invalid, maxFile>>10)
	case len(data) == 0:
		return fmt.Errorf("%w: it is empty", fault.Invalid)
	default:
		return nil
	}
}

func isPEM(data []byte) bool { return bytes.Contains(data, []byte("-----BEGIN ")) }

func rsaPublic(certificate *x509.Certificate) (*rsa.PublicKey, error) {
	public, ok := certificate.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: the certificate has an %s key, an RSA key is needed", fault.Invalid, certificate.PublicKeyAlgorithm)
	}
	return public, nil
}

// parsePEM takes one private key and any certificates, in any order.
func parsePEM(data []byte) (*rsa.PrivateKey, []*x509.Certificate, error) {
	var private *rsa.PrivateKey
	var certificates []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var parsed any
		var err error
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
			return nil, nil, fmt.Errorf("%w: the private key in the PEM file is encrypted; "+
				"make a PKCS#12 file of it: openssl pkcs12 -export -in FILE.pem -out FILE.pfx", fault.Unsupported)
		case block.Type == "PRIVATE KEY":
			parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case block.Type == "RSA PRIVATE KEY":
			parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case block.Type == "EC PRIVATE KEY":
			return nil, nil, notRSA("EC")
		case block.Type == "CERTIFICATE":
			var certificate *x509.Certificate
			if certificate, err = x509.ParseCertificate(block.Bytes); err == nil {
				certificates = append(certificates, certificate)
			}
		}
		if err != nil {
			// The text of a parser's error could quote the key.
			return nil, nil, fmt.Errorf("%w: the %s block of the PEM file cannot be read", fault.Invalid, block.Type)
		}
		if parsed == nil {
			continue
		}
		if private != nil {
			return nil, nil, fmt.Errorf("%w: the PEM file holds several private keys; leave one", fault.Invalid)
		}
		if private, err = asRSA(parsed); err != nil {
			return nil, nil, err
		}
	}
	return private, certificates, nil
}

func parsePKCS12(data []byte, password string) (*rsa.PrivateKey, error) {
	if !looksLikePKCS12(data) {
		return nil, fmt.Errorf("%w: it is neither PKCS#12 in DER nor PEM", fault.Invalid)
	}
	if err := boundIterations(data, 0); err != nil {
		return nil, err
	}
	parsed, leaf, others, err := pkcs12.DecodeChain(data, password)
	var notImplemented pkcs12.NotImplementedError
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword), errors.Is(err, pkcs12.ErrDecryption):
		return nil, fmt.Errorf("%w: the password does not open the PKCS#12 file", fault.Denied)
	case errors.As(err, &notImplemented):
		return nil, fmt.Errorf("%w: %w; write it anew: openssl pkcs12 -export", fault.Unsupported, err)
	case err != nil:
		return nil, fmt.Errorf("%w: the PKCS#12 file cannot be read: %w", fault.Invalid, err)
	}
	private, err := asRSA(parsed)
	if err != nil {
		return nil, err
	}
	return private, matches(private, append(others, leaf))
}

func asRSA(parsed any) (*rsa.PrivateKey, error) {
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, notRSA(fmt.Sprintf("%T", parsed))
	}
	return private, nil
}

func notRSA(kind string) error {
	return fmt.Errorf("%w: the private key is not RSA (%s); only an RSA key can unwrap", fault.Invalid, kind)
}

// matches refuses a file whose certificates all belong to another key: one that
// was put together by mistake.
func matches(private *rsa.PrivateKey, certificates []*x509.Certificate) error {
	for _, certificate := range certificates {
		if private.PublicKey.Equal(certificate.PublicKey) {
			return nil
		}
	}
	if len(certificates) == 0 {
		return nil
	}
	return fmt.Errorf("%w: the private key does not belong to the certificate beside it", fault.Invalid)
}

// looksLikePKCS12 tells a PFX (RFC 7292, 4: a sequence that begins with the
// version 3) from anything else.
func looksLikePKCS12(data []byte) bool {
	var pfx struct {
		Version int
		Rest    asn1.RawValue
		Mac     asn1.RawValue `asn1:"optional"`
	}
	rest, err := asn1.Unmarshal(data, &pfx)
	return err == nil && len(rest) == 0 && pfx.Version == 3
}

// boundIterations looks for iteration counts in everything that can be read
// without the password. In PKCS#12's PBE parameters, in PBKDF2's and in the MAC
// the count is the integer after the octet string of the salt, and nothing else
// in these files has that form.
func boundIterations(data []byte, depth int) error {
	if depth > 32 {
		return fmt.Errorf("%w: the PKCS#12 file is nested too deeply", fault.Invalid)
	}
	afterSalt := false
	for len(data) > 0 {
		var element asn1.RawValue
		rest, err := asn1.Unmarshal(data, &element)
		if err != nil {
			return nil // not DER from here on: random bytes in an octet string
		}
		universal := element.Class == asn1.ClassUniversal
		if afterSalt && universal && element.Tag == asn1.TagInteger {
			var count int64
			if _, err := asn1.Unmarshal(element.FullBytes, &count); err != nil || count > maxIterations {
				return fmt.Errorf("%w: the PKCS#12 file asks for more than %d rounds of key derivation", fault.Invalid, maxIterations)
			}
		}
		afterSalt = universal && element.Tag == asn1.TagOctetString && !element.IsCompound
		if element.IsCompound || afterSalt {
			if err := boundIterations(element.Bytes, depth+1); err != nil {
				return err
			}
		}
		data = rest
	}
	return nil
}
