package devidentity

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/latchkey-fn/latchkey/local/privatefile"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

const keyBits = 2048

func newKey() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, keyBits) }

// openKey gives the key of the file, or makes one where there is no file. Two
// that do so at once end with the same key.
func openKey(path string) (*rsa.PrivateKey, error) {
	if path == "" {
		return newKey()
	}
	private, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return private, err
	}
	made, err := newKey()
	if err != nil {
		return nil, err
	}
	content, err := encodeKey(made)
	if err != nil {
		return nil, err
	}
	temporary, err := privatefile.Beside(path, content)
	if err != nil {
		return nil, err
	}
	defer os.Remove(temporary)
	if err := os.Link(temporary, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return readKey(path)
}

func replaceKey(path string, private *rsa.PrivateKey) error {
	content, err := encodeKey(private)
	if err != nil {
		return err
	}
	return privatefile.Replace(path, content)
}

func readKey(path string) (*rsa.PrivateKey, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, fmt.Errorf("%w: %s is not PEM; delete it to have a new key made", fault.Invalid, path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := parsed.(*rsa.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%w: %s is not an RSA key in PKCS#8; delete it to have a new key made", fault.Invalid, path)
	}
	return private, nil
}

func encodeKey(private *rsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
