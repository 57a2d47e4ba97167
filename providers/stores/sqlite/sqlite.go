// Package sqlite keeps documents in one SQLite database file, which any number
// of processes on one machine can use at once. It is what Latchkey uses where
// there is no database service.
//
// A write is acknowledged when it is on the disk (WAL, synchronous=FULL).
// Reads do not wait for writes; writes wait for one another.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the database/sql driver "sqlite"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// readers is how many connections read at once. Each holds its own cache of
// cacheKB, in which a hot document stays; a read takes some microseconds.
const (
	readers = 4
	cacheKB = 512
)

// How long a writer waits for another process: SQLite waits busyStep without
// looking at the context, and is asked again until busyTotal.
const (
	busyStep  = 200 * time.Millisecond
	busyTotal = 10 * time.Second
)

// Store is a store.Driver over a database file.
type Store struct {
	writer *sql.DB // one connection
	reader *sql.DB

	get, byParent, byLookup               *sql.Stmt // of reader
	current, put, remove, retire, discard *sql.Stmt // of writer
}

var _ store.Driver = (*Store)(nil)

// Open opens a database file. Where there is none, or an empty one, it makes
// it with mode 0600, in a folder that it makes with mode 0700.
//
// Errors: Invalid for a database of another program or of a newer version of
// this one, which is left as it is; Lost for a file that is damaged or no
// database; Denied without the right to read and write the file and its
// folder; Transient when the disk or another process prevents it.
func Open(ctx context.Context, path string) (*Store, error) {
	s, err := open(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("open the SQLite database %s: %w", path, classify(err))
	}
	return s, nil
}

func open(ctx context.Context, path string) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := create(path); err != nil {
		return nil, err
	}
	writer, err := sql.Open("sqlite", source(path, "_txlock", "immediate", "_pragma", "synchronous(FULL)", "_pragma", "journal_size_limit(4194304)"))
	if err != nil {
		return nil, err
	}
	writer.SetMaxOpenConns(1)
	reader, err := sql.Open("sqlite", source(path, "_pragma", "query_only(true)"))
	if err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	reader.SetMaxOpenConns(readers)
	reader.SetMaxIdleConns(readers)
	s := &Store{writer: writer, reader: reader}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// create makes an empty file where there is none. A file that is there is not
// opened: closing it again would give up the locks that this process may hold
// on it through another Store (POSIX locks belong to the process).
func create(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if !errors.Is(err, fs.ErrExist) {
		if err != nil {
			return err
		}
		return file.Close()
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: it is %s and not a regular file", fault.Invalid, info.Mode().Type())
	}
	return nil
}

// source is the data source name for a path and the settings of every
// connection: a URI, in which every character of a path can stand.
func source(path string, settings ...string) string {
	query := url.Values{
		"mode": {"rw"},
		"_pragma": {
			fmt.Sprintf("busy_timeout(%d)", busyStep.Milliseconds()),
			fmt.Sprintf("cache_size(-%d)", cacheKB),
			"mmap_size(0)",
			"trusted_schema(OFF)",
		},
	}
	for i := 0; i < len(settings); i += 2 {
		query.Add(settings[i], settings[i+1])
	}
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/… on Windows
	}
	uri := url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}
	return uri.String()
}

// prepare brings the database to its schema and makes the statements.
func (s *Store) prepare(ctx context.Context) error {
	if err := s.migrate(ctx); err != nil {
		return err
	}
	for _, statement := range []struct {
		to    **sql.Stmt
		db    *sql.DB
		query string
	}{
		{&s.get, s.reader, `SELECT parent, lookup, revision, expires, body FROM documents WHERE collection = ? AND id = ?`},
		{&s.byParent, s.reader, listBy("parent")},
		{&s.byLookup, s.reader, listBy("lookup")},
		{&s.current, s.writer, `SELECT revision, expires FROM documents WHERE collection = ? AND id = ?`},
		{&s.put, s.writer, `INSERT INTO documents (collection, id, parent, lookup, revision, expires, body) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (collection, id) DO UPDATE SET parent = excluded.parent, lookup = excluded.lookup,
			revision = excluded.revision, expires = excluded.expires, body = excluded.body`},
		{&s.remove, s.writer, `DELETE FROM documents WHERE collection = ? AND id = ?`},
		{&s.retire, s.writer, `UPDATE documents SET parent = '', lookup = '', expires = 0, body = x'' WHERE collection = ? AND id = ?`},
		{&s.discard, s.writer, `DELETE FROM documents WHERE rowid IN (SELECT rowid FROM documents WHERE expires <= ? AND revision < ? LIMIT 16)`},
	} {
		prepared, err := statement.db.PrepareContext(ctx, statement.query)
		if err != nil {
			return err
		}
		*statement.to = prepared
	}
	return nil
}

// listBy is the query of a page. The comparison with ” lets SQLite use the
// index, which leaves out documents without that value.
func listBy(column string) string {
	return fmt.Sprintf(`SELECT id, parent, lookup, revision, expires, body FROM documents
		WHERE collection = ? AND %[1]s = ? AND %[1]s <> '' AND id > ? AND (expires IS NULL OR expires > ?)
		ORDER BY id LIMIT ?`, column)
}

// Get returns one document.
func (s *Store) Get(ctx context.Context, collection, id string) (store.Document, error) {
	if err := ctx.Err(); err != nil {
		return store.Document{}, err
	}
	doc := store.Document{Collection: collection, ID: id}
	var expires sql.NullInt64
	// Reading one row waits for nothing, and watching a context meanwhile would
	// take a goroutine.
	err := s.get.QueryRowContext(context.WithoutCancel(ctx), collection, id).
		Scan(&doc.Parent, &doc.Lookup, &doc.Revision, &expires, &doc.Body)
	if errors.Is(err, sql.ErrNoRows) {
		return store.Document{}, fault.NotFound
	}
	if err != nil {
		return store.Document{}, classify(err)
	}
	if expired(expires, time.Now()) {
		return store.Document{}, fault.NotFound
	}
	doc.Expires = fromColumn(expires)
	return doc, nil
}

// GetMany returns those of the documents that exist. They are looked up one by
// one: a statement for all of them saves a fifth where bodies are small, and
// takes twice as long where they are not.
func (s *Store) GetMany(ctx context.Context, keys []store.Key) ([]store.Document, error) {
	var found []store.Document
	for _, k := range keys {
		doc, err := s.Get(ctx, k.Collection, k.ID)
		if fault.Of(err) == fault.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, doc)
	}
	return found, nil
}

// List returns a page.
func (s *Store) List(ctx context.Context, q store.Query) (store.Page, error) {
	statement, value := s.byParent, q.Parent
	if q.Parent == "" {
		statement, value = s.byLookup, q.Lookup
	}
	page, err := list(ctx, statement, value, q)
	if err != nil {
		return store.Page{}, classify(err)
	}
	return page, nil
}

func list(ctx context.Context, statement *sql.Stmt, value string, q store.Query) (page store.Page, err error) {
	rows, err := statement.QueryContext(ctx, q.Collection, value, q.After, time.Now().Unix(), q.Limit+1)
	if err != nil {
		return store.Page{}, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	size := 0
	for rows.Next() {
		doc := store.Document{Collection: q.Collection}
		var expires sql.NullInt64
		if err := rows.Scan(&doc.ID, &doc.Parent, &doc.Lookup, &doc.Revision, &expires, &doc.Body); err != nil {
			return store.Page{}, err
		}
		doc.Expires = fromColumn(expires)
		size += len(doc.Body)
		if n := len(page.Documents); n == q.Limit || n > 0 && size > store.PageBytes {
			page.Next = page.Documents[n-1].ID
			return page, nil
		}
		page.Documents = append(page.Documents, doc)
	}
	return page, rows.Err()
}

// Put writes one document.
func (s *Store) Put(ctx context.Context, doc store.Document, pre store.Precondition) (int64, error) {
	if doc.Body == nil {
		doc.Body = []byte{} // nil would be NULL
	}
	var revision int64
	err := s.write(ctx, func(w *write) error {
		stored, err := w.stored(doc.Collection, doc.ID)
		if err != nil {
			return err
		}
		if err := stored.hold(pre); err != nil {
			return err
		}
		revision = store.NextRevision(stored.revision, w.now)
		if err := w.exec(s.put, doc.Collection, doc.ID, doc.Parent, doc.Lookup, revision, toColumn(doc.Expires), doc.Body); err != nil {
			return err
		}
		if doc.Expires.IsZero() {
			return nil
		}
		// Who adds what will expire removes some of what has: so the expired
		// never become many, and nothing has to run on its own.
		return w.exec(s.discard, w.now.Unix(), w.now.UnixMicro())
	})
	if err != nil {
		return 0, classify(err)
	}
	return revision, nil
}

// Delete removes one document.
func (s *Store) Delete(ctx context.Context, collection, id string, pre store.Precondition) error {
	err := s.write(ctx, func(w *write) error {
		stored, err := w.stored(collection, id)
		if err != nil {
			return err
		}
		if !stored.exists {
			return fault.NotFound
		}
		if err := stored.hold(pre); err != nil {
			return err
		}
		if stored.revision < w.now.UnixMicro() {
			return w.exec(s.remove, collection, id)
		}
		// The revision is ahead of the clock, and must not be given again. An
		// expired document keeps it until the clock has passed it.
		return w.exec(s.retire, collection, id)
	})
	return classify(err)
}

// Close closes the connections.
func (s *Store) Close() error {
	return classify(errors.Join(s.reader.Close(), s.writer.Close()))
}

// write is a transaction that no other writer of any process is in.
type write struct {
	store *Store
	tx    *sql.Tx
	now   time.Time // read inside, so that revisions follow one another
}

// write runs change in a transaction. Waiting for it ends with the context;
// once it has begun, it is a matter of one flush to the disk, and goes on.
func (s *Store) write(ctx context.Context, change func(*write) error) (err error) {
	conn, err := s.writer.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	tx, err := begin(ctx, conn)
	if err != nil {
		return err
	}
	if err := change(&write{store: s, tx: tx, now: time.Now()}); err != nil {
		return errors.Join(err, undo(tx))
	}
	if err := ctx.Err(); err != nil {
		return errors.Join(err, undo(tx))
	}
	return tx.Commit()
}

// begin starts a transaction, which waits for other processes.
func begin(ctx context.Context, conn *sql.Conn) (tx *sql.Tx, err error) {
	err = patiently(ctx, func() error {
		tx, err = conn.BeginTx(context.WithoutCancel(ctx), nil)
		return err
	})
	return tx, err
}

// patiently tries again while another process has what is needed.
func patiently(ctx context.Context, try func() error) error {
	for start := time.Now(); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := try(); !busy(err) || time.Since(start) > busyTotal {
			return err
		}
	}
}

// undo rolls back. SQLite has done so itself after some errors.
func undo(tx *sql.Tx) error {
	if err := tx.Rollback(); err != nil && !rolledBack(err) {
		return err
	}
	return nil
}

func (w *write) exec(statement *sql.Stmt, args ...any) error {
	_, err := w.tx.Stmt(statement).Exec(args...)
	return err
}

// stored is what a write finds. The revision of an expired document counts for
// its successor, but not for a precondition.
type stored struct {
	exists   bool
	revision int64
}

func (w *write) stored(collection, id string) (stored, error) {
	var found stored
	var expires sql.NullInt64
	err := w.tx.Stmt(w.store.current).QueryRow(collection, id).Scan(&found.revision, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return stored{}, nil
	}
	found.exists = !expired(expires, w.now)
	return found, err
}

func (s stored) hold(pre store.Precondition) error {
	switch {
	case !s.exists && pre.Holds(0), s.exists && pre.Holds(s.revision):
		return nil
	case !s.exists:
		return fmt.Errorf("%w: there is no document", fault.Conflict)
	default:
		return fmt.Errorf("%w: the document is at revision %d", fault.Conflict, s.revision)
	}
}

// The column expires holds Unix seconds, and NULL for never.

func expired(column sql.NullInt64, now time.Time) bool {
	return column.Valid && now.Unix() >= column.Int64
}

func toColumn(expires time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: expires.Unix(), Valid: !expires.IsZero()}
}

func fromColumn(column sql.NullInt64) time.Time {
	if !column.Valid {
		return time.Time{}
	}
	return time.Unix(column.Int64, 0).UTC()
}
