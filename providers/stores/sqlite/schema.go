package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// What the header of the file says (https://sqlite.org/fileformat2.html, 1.3.15
// and 1.3.17): whose database this is, and which version of the schema.
const (
	applicationID = 0x4c63686b // "Lchk"
	schemaVersion = 1
)

// The collation of TEXT is the order of its UTF-8 bytes. Documents without a
// parent or a look-up value are in no index, which makes them cheaper.
const schema = `
CREATE TABLE documents (
	collection TEXT NOT NULL,
	id         TEXT NOT NULL,
	parent     TEXT NOT NULL,
	lookup     TEXT NOT NULL,
	revision   INTEGER NOT NULL,
	expires    INTEGER,
	body       BLOB NOT NULL,
	PRIMARY KEY (collection, id)
) STRICT;
CREATE INDEX documents_by_parent ON documents (collection, parent, id) WHERE parent <> '';
CREATE INDEX documents_by_lookup ON documents (collection, lookup, id) WHERE lookup <> '';
CREATE INDEX documents_by_expiry ON documents (expires) WHERE expires IS NOT NULL;
`

// migrate makes sure that the database is ours and has our schema. Nothing is
// written to one that is not.
func (s *Store) migrate(ctx context.Context) (err error) {
	conn, err := s.writer.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := patiently(ctx, func() error { return inspect(ctx, conn) }); err != nil {
		return err
	}
	if err := patiently(ctx, func() error { return useWAL(ctx, conn) }); err != nil {
		return err
	}
	tx, err := begin(ctx, conn)
	if err != nil {
		return err
	}
	if err := makeSchema(ctx, tx); err != nil {
		return errors.Join(err, undo(tx))
	}
	return tx.Commit()
}

// inspect refuses a database that is not ours. It does so in one transaction,
// because another process may be making the schema meanwhile.
func inspect(ctx context.Context, conn *sql.Conn) error {
	tx, err := conn.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	_, err = identify(ctx, tx)
	return errors.Join(err, undo(tx))
}

// makeSchema runs in a transaction, because several processes may start at
// once with one new file.
func makeSchema(ctx context.Context, tx *sql.Tx) error {
	empty, err := identify(ctx, tx)
	if err != nil || !empty {
		return err
	}
	_, err = tx.ExecContext(ctx, schema+fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d;", applicationID, schemaVersion))
	return err
}

// identify tells whether the database is empty, and refuses one that is
// neither empty nor ours.
func identify(ctx context.Context, tx *sql.Tx) (empty bool, err error) {
	var application, version, objects int64
	for query, to := range map[string]*int64{
		"PRAGMA application_id":              &application,
		"PRAGMA user_version":                &version,
		"SELECT count(*) FROM sqlite_schema": &objects,
	} {
		if err := tx.QueryRowContext(ctx, query).Scan(to); err != nil {
			return false, err
		}
	}
	switch {
	case application == 0 && version == 0 && objects == 0:
		return true, nil
	case application != applicationID:
		return false, fmt.Errorf("%w: it is a database of another program (application_id %#x, %d objects) and is left as it is; name another file", fault.Invalid, application, objects)
	case version != schemaVersion:
		return false, fmt.Errorf("%w: it has schema version %d, and this program knows version %d; use the program that wrote it, or a newer one", fault.Invalid, version, schemaVersion)
	default:
		return false, nil
	}
}

// useWAL sets the journal mode, which stays with the file.
func useWAL(ctx context.Context, conn *sql.Conn) error {
	var mode string
	if err := conn.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("%w: the file system cannot hold a write-ahead log (journal mode %q); use a local disk", fault.Unsupported, mode)
	}
	return nil
}
