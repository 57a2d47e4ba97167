package cloud

import (
	"crypto/rsa"
	"crypto/x509"
	_ "embed" // the throw-away keys
	"encoding/pem"
	"fmt"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

var (
	//go:embed testca/identity-key.pem
	identityKeyPEM []byte
	//go:embed testca/licensing-key.pem
	licenceKeyPEM []byte
	//go:embed testca/licensing.pem
	licenceCertificatePEM []byte
)

// LicenceCertificate is the certificate, in PEM, of the throw-away key that
// signs licences by default. Whoever trusts it trusts everybody's licences.
func LicenceCertificate() []byte { return append([]byte(nil), licenceCertificatePEM...) }

func readKey(text []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%w: not PEM", fault.Invalid)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: not PKCS#8: %w", fault.Invalid, err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: not an RSA key", fault.Invalid)
	}
	return key, nil
}
