package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"filippo.io/age"
	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/privatefile"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/encstring"
)

// The organisation's key is never at the server. An operator has it in a key
// file: JSON, encrypted with age under a passphrase (scrypt), so that the age
// command opens it too.

const (
	keyFileSuffix = ".age"
	// maxKeyFile bounds what is read of a key file, in bytes.
	maxKeyFile = 64 << 10
)

// organizationKey is what a key file holds.
type organizationKey struct {
	organization string
	key          encstring.Key
	server       string // where the organisation is; may be empty
}

// keyDocument is its JSON.
type keyDocument struct {
	Organization string `json:"organization"`
	Key          string `json:"key"`
	Server       string `json:"server,omitempty"`
}

func keyFolder() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("%w: where is the key file? Give --key-file: %w", errUsage, err)
	}
	return filepath.Join(dir, "latchkey"), nil
}

// keyFilePath is the one of the settings, or the organisation's in the usual
// place.
func keyFilePath(s remoteSettings) (string, error) {
	if s.KeyFile != "" {
		return s.KeyFile, nil
	}
	dir, err := keyFolder()
	return filepath.Join(dir, s.Organization+keyFileSuffix), err
}

// idOf is the organisation that a key file is named after; "" if it is named
// otherwise.
func idOf(path string) string {
	id, err := uuid.Parse(strings.TrimSuffix(filepath.Base(path), keyFileSuffix))
	if err != nil {
		return ""
	}
	return id.String()
}

// writeKeyFile makes a key file. It replaces none, and leaves no half of one.
// A work of zero is age's own.
func writeKeyFile(path string, passphrase config.Secret, work int, k organizationKey) (err error) {
	recipient, err := age.NewScryptRecipient(passphrase.Reveal())
	if err != nil {
		return fmt.Errorf("%w: passphrase: %w", errUsage, err)
	}
	if work > 0 {
		recipient.SetWorkFactor(work)
	}
	plain, err := json.Marshal(keyDocument{k.organization, k.key.Reveal(), k.server})
	if err != nil {
		return err
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, recipient)
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	if _, err := w.Write(plain); err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	return writeNew(path, sealed.Bytes())
}

// writeNew makes a file that only its owner can read, where there is none. It is
// there whole or not at all, and once it is there it stays.
func writeNew(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	unfinished, err := privatefile.Beside(path, content)
	if err != nil {
		return err
	}
	err = publish(unfinished, path, os.Link)
	// A renamed file has its first name no more.
	if removed := os.Remove(unfinished); !errors.Is(removed, fs.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	return errors.Join(err, syncFolder(dir))
}

// publish gives a file its name, which nothing has yet. A file system without
// links has the name taken with an empty file first.
func publish(from, to string, link func(from, to string) error) error {
	err := link(from, to)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist):
		return &fs.PathError{Op: "create", Path: to, Err: fs.ErrExist}
	}
	taken, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(taken.Close(), os.Rename(from, to)); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

func syncFolder(path string) error {
	if runtime.GOOS == "windows" {
		return nil // folders cannot be opened there
	}
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// readKeyFile opens a key file. No error quotes what is in it.
func readKeyFile(path string, passphrase config.Secret) (organizationKey, error) {
	content, err := readSmall(path)
	if err != nil {
		return organizationKey{}, fmt.Errorf("%w: key file: %w", errUsage, err)
	}
	identity, err := age.NewScryptIdentity(passphrase.Reveal())
	if err != nil {
		return organizationKey{}, fmt.Errorf("%w: passphrase: %w", errUsage, err)
	}
	opened, err := age.Decrypt(strings.NewReader(content), identity)
	var wrong *age.NoIdentityMatchError
	if errors.As(err, &wrong) {
		return organizationKey{}, fmt.Errorf("%w: %s: this is not its passphrase", errUsage, path)
	}
	if err != nil { // its text can quote the beginning of what is no key file
		return organizationKey{}, fmt.Errorf("%w: %s is not a key file, or is damaged", errUsage, path)
	}
	plain, err := io.ReadAll(io.LimitReader(opened, maxKeyFile))
	if err != nil {
		return organizationKey{}, fmt.Errorf("%w: %s is damaged: %w", errUsage, path, err)
	}
	var document keyDocument
	jsonErr := json.Unmarshal(plain, &document)
	id, idErr := uuid.Parse(document.Organization)
	key, keyErr := encstring.ParseKey(document.Key)
	if jsonErr != nil || idErr != nil || keyErr != nil {
		return organizationKey{}, fmt.Errorf("%w: %s holds no organization's key", errUsage, path)
	}
	return organizationKey{id.String(), key, document.Server}, nil
}

// readSmall reads a file of the settings.
func readSmall(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return "", err
	}
	if len(content) > maxKeyFile {
		return "", fmt.Errorf("%s has more than %d bytes", path, maxKeyFile)
	}
	return string(content), nil
}
