// Package privatefile writes files that only their owner can read, whole or not
// at all.
package privatefile

import (
	"errors"
	"os"
	"path/filepath"
)

// Beside writes a file beside path and gives its name, under which it is to be
// moved to path or removed.
func Beside(path string, content []byte) (name string, err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // made with mode 0600
	if err != nil {
		return "", err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}

// Replace writes a file in place of one that may be there.
func Replace(path string, content []byte) error {
	name, err := Beside(path, content)
	if err != nil {
		return err
	}
	if err := os.Rename(name, path); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}
