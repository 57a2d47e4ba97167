package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	driver "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// primary is the primary result code of an error of SQLite
// (https://sqlite.org/rescode.html), or 0.
func primary(err error) int {
	var e *driver.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return codes.SQLITE_OK
}

// busy tells whether another connection has what is needed.
func busy(err error) bool {
	code := primary(err)
	return code == codes.SQLITE_BUSY || code == codes.SQLITE_LOCKED
}

// rolledBack tells whether a rollback failed because there was nothing left to
// roll back ("cannot rollback - no transaction is active").
func rolledBack(err error) bool {
	return primary(err) == codes.SQLITE_ERROR || errors.Is(err, sql.ErrTxDone)
}

// classify gives an error its class, unless it has one.
func classify(err error) error {
	if err == nil || fault.Of(err) != "" {
		return err
	}
	switch primary(err) {
	case codes.SQLITE_CORRUPT, codes.SQLITE_NOTADB, codes.SQLITE_FORMAT:
		return fmt.Errorf("%w: the file is damaged or no database, and is left as it is; restore a backup: %w", fault.Lost, err)
	case codes.SQLITE_ERROR, codes.SQLITE_MISMATCH, codes.SQLITE_CONSTRAINT:
		return fmt.Errorf("%w: the tables are not as this program made them: %w", fault.Lost, err)
	case codes.SQLITE_CANTOPEN, codes.SQLITE_READONLY, codes.SQLITE_PERM, codes.SQLITE_AUTH:
		return fmt.Errorf("%w: this process must own the file and its folder, and be allowed to write both: %w", fault.Denied, err)
	case codes.SQLITE_TOOBIG, codes.SQLITE_RANGE, codes.SQLITE_MISUSE:
		return fmt.Errorf("%w: %w", fault.Invalid, err)
	case codes.SQLITE_FULL:
		return fmt.Errorf("%w: the disk is full: %w", fault.Transient, err)
	}
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: this process must own the file and its folder, and be allowed to write both: %w", fault.Denied, err)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ELOOP), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", fault.Invalid, err)
	default:
		return fmt.Errorf("%w: %w", fault.Transient, err)
	}
}
