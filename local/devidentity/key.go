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
	"path/filepath"

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
	temporary, err := writeKey(path, made)
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
	temporary, err := writeKey(path, private)
	if err != nil {
		return err
	}
	return os.Rename(temporary, path)
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

// writeKey writes a file beside path, for its owner alone, and gives its name.
func writeKey(path string, private *rsa.PrivateKey) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".devidentity-*")
	if err != nil {
		return "", err
	}
	_, writeErr := file.Write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err := errors.Join(writeErr, file.Sync(), file.Close()); err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}
