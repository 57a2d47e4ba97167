// Package software is an RSA key in a file, made when it is not there: for
// development and tests. Whoever reads the file has the key, and with it every
// key that was ever wrapped to it.
package software

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
)

const (
	provider = "software"
	bits     = 3072
	pemType  = "PRIVATE KEY"
	maxFile  = 64 << 10
)

// Key unwraps with a private key that lies in a file.
type Key struct {
	*kms.InProcess
	path string
}

var _ kms.Unwrapper = (*Key)(nil)

// Open reads the key (PKCS#8 in PEM), or makes one of 3072 bits where there is
// no file. Many processes that start at once end with one and the same key,
// and a crash leaves a whole file or none. The id of the key's reference is
// the file's name.
//
// Errors: Denied (no right to the file or its folder, or others can read the
// file), NotFound (no such folder), Invalid (the file holds no usable RSA key).
// An existing file is never overwritten.
func Open(path string) (*Key, error) {
	data, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = create(path); err == nil {
			data, err = read(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("software key: %w", classify(err))
	}
	private, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("software key: %s: %w", path, err)
	}
	key, err := kms.NewInProcess(provider, filepath.Base(path), private)
	if err != nil {
		return nil, fmt.Errorf("software key: %s: %w", path, err)
	}
	return &Key{InProcess: key, path: path}, nil
}

// Warning is for the log of whoever opens this key.
func (k *Key) Warning() string {
	return fmt.Sprintf("DEVELOPMENT ONLY: the key that protects every user's key is a plain file, %s. "+
		"Whoever reads that file can read all vaults. Use a KMS or an HSM for anything real.", k.path)
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", fault.Invalid, path)
	}
	// Windows has no such bits; there the folder's rights have to do.
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("%w: %s can be used by others (mode %04o); after making sure that nobody did: chmod 600 %s",
			fault.Denied, path, mode, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		return nil, fmt.Errorf("%w: %s is larger than %d KB, which no key is", fault.Invalid, path, maxFile>>10)
	}
	return data, err
}

// create writes a whole new file beside path and links it to path, which fails
// where somebody else was first: then theirs is the key.
func create(path string) (err error) {
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // made with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if removed := os.Remove(f.Name()); err == nil {
			err = removed
		}
	}()
	_, err = f.Write(pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}))
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Link(f.Name(), path)
	}
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	return syncFolder(dir)
}

// syncFolder makes the new name durable, before anything is wrapped to the key.
func syncFolder(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // folders cannot be opened there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closed := d.Close(); err == nil {
		err = closed
	}
	return err
}

func parse(data []byte) (*rsa.PrivateKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemType || len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("%w: it is not one %q block of PEM; restore it from a backup, or remove it if nothing was wrapped to it", fault.Invalid, pemType)
	}
	// The text of a parser's error could quote the key.
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: it is not a private key in PKCS#8", fault.Invalid)
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: it is not an RSA key", fault.Invalid)
	}
	return private, nil
}

func classify(err error) error {
	class := fault.Transient // a full or failing disk
	switch {
	case fault.Of(err) != "":
		return err
	case errors.Is(err, fs.ErrNotExist):
		class = fault.NotFound
	case errors.Is(err, fs.ErrPermission):
		class = fault.Denied
	}
	return fmt.Errorf("%w: %w", class, err)
}
