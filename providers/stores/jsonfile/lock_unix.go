//go:build unix

package jsonfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// acquire takes an advisory lock (flock(2)) on a file that it makes, and
// writes this process's id into it. The system gives the lock back when the
// process ends, however it ends.
func acquire(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, classify(err)
	}
	if err := lock(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func lock(file *os.File) error {
	err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("%w: %s holds it (%s): stop that one first, or use a store that several processes can share", fault.Transient, holder(file), file.Name())
	}
	if err != nil {
		return classify(fmt.Errorf("lock %s: %w", file.Name(), err))
	}
	if err := file.Truncate(0); err != nil {
		return classify(err)
	}
	if _, err := file.WriteAt(fmt.Appendln(nil, os.Getpid()), 0); err != nil {
		return classify(err)
	}
	return nil
}

// holder names the process that holds a lock, as far as it is known.
func holder(file *os.File) string {
	text, err := io.ReadAll(io.NewSectionReader(file, 0, 32))
	if pid, bad := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && bad == nil {
		return fmt.Sprintf("process %d", pid)
	}
	return "another process"
}

func denied(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

func notFile(err error) bool {
	return errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG) || errors.Is(err, syscall.ELOOP)
}
