//go:build !unix

package jsonfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// acquire refuses: without flock(2) two processes could hold one file.
func acquire(string) (*os.File, error) {
	return nil, fmt.Errorf("%w: this system has no flock(2); use the sqlite store", fault.Unsupported)
}

func denied(err error) bool { return errors.Is(err, fs.ErrPermission) }

func notFile(error) bool { return false }
