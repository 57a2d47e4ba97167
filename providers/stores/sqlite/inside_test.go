//go:build unix

package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

func opened(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// raw gives a plain connection to a file, as another program would have it.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", source(path))
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

func run(t *testing.T, db *sql.DB, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

func put(t *testing.T, s *Store, doc store.Document) int64 {
	t.Helper()
	doc.Collection = "things"
	revision, err := s.Put(t.Context(), doc, store.Any())
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func TestEveryConnectionHasItsSettings(t *testing.T) {
	s := opened(t, filepath.Join(t.TempDir(), "store.db"))
	for query, want := range map[string]map[*sql.DB]string{
		"PRAGMA journal_mode":   {s.writer: "wal", s.reader: "wal"},
		"PRAGMA synchronous":    {s.writer: "2"},
		"PRAGMA query_only":     {s.writer: "0", s.reader: "1"},
		"PRAGMA cache_size":     {s.writer: "-512", s.reader: "-512"},
		"PRAGMA mmap_size":      {s.writer: "0", s.reader: "0"},
		"PRAGMA trusted_schema": {s.writer: "0", s.reader: "0"},
		"PRAGMA busy_timeout":   {s.writer: "200", s.reader: "200"},
	} {
		for db, want := range want {
			var got string
			if err := db.QueryRowContext(t.Context(), query).Scan(&got); err != nil || got != want {
				t.Errorf("%s is %q (%v), want %q", query, got, err, want)
			}
		}
	}
}

func TestListingsUseTheirIndex(t *testing.T) {
	s := opened(t, filepath.Join(t.TempDir(), "store.db"))
	for _, column := range []string{"parent", "lookup"} {
		rows, err := s.reader.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+listBy(column), "things", "p", "", 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, detail)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("SEARCH documents USING INDEX documents_by_%[1]s (collection=? AND %[1]s=? AND id>?)", column)
		if len(plan) != 1 || plan[0] != want {
			t.Errorf("the plan is %q, want only %q", plan, want)
		}
	}
}

func TestFileAndFolderArePrivate(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "a", "b")
	path := filepath.Join(folder, "store.db")
	put(t, opened(t, path), store.Document{ID: "x"})
	for path, want := range map[string]fs.FileMode{
		folder: 0o700, filepath.Dir(folder): 0o700, path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %v, want %v", path, got, want)
		}
	}
}

func TestPathsWithOddCharacters(t *testing.T) {
	for _, name := range []string{"a b.db", "a?b=c&_pragma=x.db", "a%20b.db", "a%.db", "a#b.db", "ä日😀.db", "a'b\".db", "a;b.db", "+.db", ":memory:", "file:x", "a\\b.db", " "} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			path := filepath.Join(folder, name)
			first := opened(t, path)
			put(t, first, store.Document{ID: "x", Body: []byte(name)})
			doc, err := opened(t, path).Get(t.Context(), "things", "x")
			if err != nil || string(doc.Body) != name {
				t.Errorf("got %q (%v)", doc.Body, err)
			}
			entries, err := os.ReadDir(folder)
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range entries {
				if !strings.HasPrefix(entry.Name(), name) {
					t.Errorf("there is a file %q", entry.Name())
				}
			}
			if info, err := os.Stat(path); err != nil || info.Size() == 0 && len(entries) == 1 {
				t.Errorf("the file is not the database: %v", err)
			}
		})
	}
}

func TestARelativePathStaysWhereItWas(t *testing.T) {
	t.Chdir(t.TempDir())
	s := opened(t, "store.db")
	t.Chdir(t.TempDir())
	put(t, s, store.Document{ID: "x"})
	if _, err := s.Get(t.Context(), "things", "x"); err != nil {
		t.Error(err)
	}
}

func TestRefusedFilesAreLeftAsTheyAre(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, path string)
		class   fault.Class
		says    string
	}{
		{"a database of another program", func(t *testing.T, path string) {
			touch(t, path, nil)
			db := raw(t, path)
			run(t, db, "CREATE TABLE notes (text TEXT)", "INSERT INTO notes VALUES ('precious')")
			db.Close()
		}, fault.Invalid, "another program"},
		{"a database with another application id", func(t *testing.T, path string) {
			touch(t, path, nil)
			db := raw(t, path)
			run(t, db, "PRAGMA application_id = 7", "CREATE TABLE documents (id TEXT)")
			db.Close()
		}, fault.Invalid, "application_id 0x7"},
		{"a database of a newer version", func(t *testing.T, path string) {
			s, err := Open(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			db := raw(t, path)
			run(t, db, "PRAGMA user_version = 2")
			db.Close()
		}, fault.Invalid, "version 2"},
		{"a text file", func(t *testing.T, path string) {
			touch(t, path, []byte(strings.Repeat("my shopping list\n", 100)))
		}, fault.Lost, "no database"},
		{"a database whose header is damaged", func(t *testing.T, path string) {
			s, err := Open(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			damage(t, path, 0, []byte("xxxx"))
		}, fault.Lost, "no database"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			test.prepare(t, path)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Open(t.Context(), path)
			if fault.Of(err) != test.class || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want class %q, the path, and %q", err, test.class, test.says)
			}
			after, err := os.ReadFile(path)
			if err != nil || string(before) != string(after) {
				t.Errorf("the file was changed (%v)", err)
			}
			if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
				t.Errorf("the folder holds %v (%v)", entries, err)
			}
		})
	}
}

func touch(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func damage(t *testing.T, path string, at int64, with []byte) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt(with, at); err != nil {
		t.Fatal(err)
	}
}

func TestPathsThatAreNoFiles(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	touch(t, file, nil)
	for _, path := range []string{folder, filepath.Join(file, "store.db"), filepath.Join(folder, strings.Repeat("x", 300)), "/dev/null"} {
		if _, err := Open(t.Context(), path); fault.Of(err) != fault.Invalid {
			t.Errorf("%s: got %v, want class %q", path, err, fault.Invalid)
		}
	}
}

func TestAnEndedContextOpensNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, filepath.Join(t.TempDir(), "store.db")); fault.Of(err) != fault.Transient {
		t.Errorf("got %v", err)
	}
}

func TestAnEmptyFileBecomesAStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	touch(t, path, nil)
	put(t, opened(t, path), store.Document{ID: "x"})
}

// A copy made by VACUUM INTO is not in WAL mode.
func TestACopyBecomesAStore(t *testing.T) {
	folder := t.TempDir()
	put(t, opened(t, filepath.Join(folder, "store.db")), store.Document{ID: "x", Body: []byte("kept")})
	run(t, raw(t, filepath.Join(folder, "store.db")), "VACUUM INTO '"+filepath.Join(folder, "copy.db")+"'")
	s := opened(t, filepath.Join(folder, "copy.db"))
	if doc, err := s.Get(t.Context(), "things", "x"); err != nil || string(doc.Body) != "kept" {
		t.Errorf("got %q (%v)", doc.Body, err)
	}
	var mode string
	if err := s.writer.QueryRowContext(t.Context(), "PRAGMA journal_mode").Scan(&mode); err != nil || mode != "wal" {
		t.Errorf("the copy has journal mode %q (%v)", mode, err)
	}
}

func TestManyOpenANewFileAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	results := make(chan error)
	for range 8 {
		go func() {
			s, err := Open(t.Context(), path)
			if err == nil {
				_, err = s.Put(t.Context(), store.Document{Collection: "things", ID: "x"}, store.Any())
				if closed := s.Close(); err == nil {
					err = closed
				}
			}
			results <- err
		}()
	}
	for range 8 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestDamagedPagesAreLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 50 {
		put(t, s, store.Document{ID: fmt.Sprint(n), Parent: "p", Body: make([]byte, 5000)})
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	damage(t, path, 4096, []byte(strings.Repeat("\xff", int(info.Size()-4096))))
	s, err = Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Get(t.Context(), "things", "7")
	if fault.Of(err) != fault.Lost {
		t.Errorf("Get: got %v, want class %q", err, fault.Lost)
	}
	_, err = s.List(t.Context(), store.Query{Collection: "things", Parent: "p", Limit: 10})
	if fault.Of(err) != fault.Lost {
		t.Errorf("List: got %v, want class %q", err, fault.Lost)
	}
	if _, err = s.Put(t.Context(), store.Document{Collection: "things", ID: "7"}, store.Any()); fault.Of(err) != fault.Lost {
		t.Errorf("Put: got %v, want class %q", err, fault.Lost)
	}
}

func TestAMissingTableIsLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := opened(t, path)
	run(t, raw(t, path), "DROP TABLE documents")
	if _, err := s.Get(t.Context(), "things", "x"); fault.Of(err) != fault.Lost {
		t.Errorf("got %v, want class %q", err, fault.Lost)
	}
}

func TestMissingRightsAreDenied(t *testing.T) {
	s := opened(t, filepath.Join(t.TempDir(), "store.db"))
	_, readonly := s.reader.ExecContext(t.Context(), "DELETE FROM documents")
	for _, err := range []error{
		readonly,
		&fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES},
		&fs.PathError{Op: "open", Path: "x", Err: syscall.EROFS},
	} {
		if got := classify(err); fault.Of(got) != fault.Denied {
			t.Errorf("%v is of class %q, want %q", err, fault.Of(got), fault.Denied)
		}
	}
}

func TestAWriterWaitsForAnotherProcessAsLongAsItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := opened(t, path)
	revision := put(t, s, store.Document{ID: "x", Body: []byte("1")})
	other, err := raw(t, path).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Put(ctx, store.Document{Collection: "things", ID: "x"}, store.Any()); fault.Of(err) != fault.Transient {
		t.Errorf("Put: got %v, want class %q", err, fault.Transient)
	}
	if doc, err := s.Get(t.Context(), "things", "x"); err != nil || doc.Revision != revision {
		t.Errorf("a read meanwhile gave revision %d (%v)", doc.Revision, err)
	}
	done := make(chan error)
	go func() {
		_, err := s.Put(t.Context(), store.Document{Collection: "things", ID: "x"}, store.AtRevision(revision))
		done <- err
	}()
	// Longer than SQLite itself waits.
	time.Sleep(2 * busyStep)
	if _, err := other.ExecContext(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the patient writer: %v", err)
	}
}

func TestARevisionAheadOfTheClockIsNotGivenAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := opened(t, path)
	put(t, s, store.Document{ID: "x", Parent: "p", Body: []byte("secret")})
	ahead := time.Now().Add(time.Hour).UnixMicro()
	run(t, raw(t, path), fmt.Sprintf("UPDATE documents SET revision = %d", ahead))
	if err := s.Delete(t.Context(), "things", "x", store.AtRevision(ahead)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "things", "x"); fault.Of(err) != fault.NotFound {
		t.Errorf("after the delete: %v", err)
	}
	var kept int
	if err := s.reader.QueryRowContext(t.Context(), "SELECT count(*) FROM documents WHERE body <> x'' OR parent <> ''").Scan(&kept); err != nil || kept != 0 {
		t.Errorf("%d deleted documents still have a body or a parent (%v)", kept, err)
	}
	for range 20 {
		put(t, s, store.Document{ID: "other", Expires: time.Unix(1, 0)})
	}
	revision, err := s.Put(t.Context(), store.Document{Collection: "things", ID: "x"}, store.Absent())
	if err != nil || revision != ahead+1 {
		t.Errorf("the next revision is %d (%v), want %d", revision, err, ahead+1)
	}
}

func TestExpiredDocumentsDoNotPileUp(t *testing.T) {
	s := opened(t, filepath.Join(t.TempDir(), "store.db"))
	for n := range 300 {
		put(t, s, store.Document{ID: fmt.Sprint(n), Expires: time.Now().Add(-time.Hour).Truncate(time.Second)})
	}
	var rows int
	if err := s.reader.QueryRowContext(t.Context(), "SELECT count(*) FROM documents").Scan(&rows); err != nil || rows > 20 {
		t.Errorf("%d expired documents are stored (%v)", rows, err)
	}
}
