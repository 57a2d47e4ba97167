// Package jsonfile keeps documents in one JSON file, for an installation of
// one process and some thousand documents whose operator wants to be able to
// read, copy and compare what is stored.
//
// All documents are in memory; a read touches no disk. A write makes a whole
// new file beside the old one, brings it to the disk and renames it into
// place, so that at any moment, whatever happens, the file is either the old
// one or the new one. Only then is the write acknowledged and seen by reads.
// Writes that arrive while a file is being written share the next one.
package jsonfile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// MaxFile is the size in bytes beyond which the file does not grow. Every
// write costs as much as the whole file.
const MaxFile = 64 << 20

// What stands beside the file, named after it.
const (
	lockSuffix       = ".lock"       // held while the store is open
	unfinishedSuffix = ".unfinished" // the next file, until it is renamed
)

// Store is a store.Driver over a file that one process holds at a time.
type Store struct {
	path  string
	limit int // MaxFile
	lock  *os.File
	table *store.Table

	turn chan struct{} // held by whoever writes the file
	last os.FileInfo   // the file as it was read or written last; nil: none. Guarded by turn.

	mu      sync.Mutex
	waiting []*write
}

// write is one change that waits for the file.
type write struct {
	change func(*store.Batch) error
	done   chan struct{}
	err    error // valid once done is closed
}

var _ store.Driver = (*Store)(nil)

// Open reads the file, or makes an empty one with mode 0600 in a folder that
// it makes with mode 0700. It holds an advisory lock on path.lock until Close.
//
// Errors: Transient when another process holds the file, Lost when it cannot
// be understood (it is left as it is), Denied when the file or its folder may
// not be read and written, Invalid when the path names something else.
func Open(path string) (*Store, error) {
	s, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("open the JSON file %s: %w", path, err)
	}
	return s, nil
}

func open(path string) (_ *Store, err error) {
	path, err = resolve(path)
	if err != nil {
		return nil, err
	}
	s := &Store{path: path, limit: MaxFile, table: store.NewTable(), turn: make(chan struct{}, 1)}
	if s.lock, err = acquire(path + lockSuffix); err != nil {
		return nil, err
	}
	if err = s.load(); err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	return s, nil
}

// resolve makes the folder and follows links, so that a file has one lock
// however it is named, and a rename replaces the file and not a link to it.
func resolve(path string) (string, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", classify(err)
	}
	folder, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", classify(err)
	}
	if folder, err = filepath.Abs(folder); err != nil {
		return "", classify(err)
	}
	full := filepath.Join(folder, filepath.Base(path))
	info, err := os.Lstat(full)
	if errors.Is(err, fs.ErrNotExist) {
		return full, nil
	}
	if err == nil && info.Mode().Type() == fs.ModeSymlink {
		if full, err = filepath.EvalSymlinks(full); err != nil {
			return "", fmt.Errorf("%w: the link leads nowhere: %w", fault.Invalid, err)
		}
		info, err = os.Stat(full)
	}
	if err != nil {
		return "", classify(err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%w: it is %s and not a regular file", fault.Invalid, info.Mode().Type())
	}
	return full, nil
}

// load reads the file into the table, and makes the file where there is none.
func (s *Store) load() error {
	// What a process that died left behind was never acknowledged.
	if err := os.Remove(s.path + unfinishedSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return classify(err)
	}
	file, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s.persist(func(func(store.Document) bool) {})
	}
	if err != nil {
		return classify(err)
	}
	defer file.Close()
	if s.last, err = file.Stat(); err != nil {
		return classify(err)
	}
	if s.last.Size() > MaxFile {
		return fmt.Errorf("%w: it has %d bytes, more than %d", fault.Lost, s.last.Size(), MaxFile)
	}
	data, err := io.ReadAll(io.LimitReader(file, MaxFile))
	if err != nil {
		return classify(err)
	}
	return s.table.Update(func(b *store.Batch) error { return parse(data, b.Restore) })
}

// Get returns one document.
func (s *Store) Get(ctx context.Context, collection, id string) (store.Document, error) {
	return s.table.Get(ctx, collection, id)
}

// GetMany returns those of the documents that exist.
func (s *Store) GetMany(ctx context.Context, keys []store.Key) ([]store.Document, error) {
	return s.table.GetMany(ctx, keys)
}

// List returns a page.
func (s *Store) List(ctx context.Context, q store.Query) (store.Page, error) {
	return s.table.List(ctx, q)
}

// Put writes one document.
func (s *Store) Put(ctx context.Context, doc store.Document, pre store.Precondition) (int64, error) {
	if year := doc.Expires.UTC().Year(); year < 0 || year > 9999 {
		return 0, fmt.Errorf("%w: the file cannot hold the expiry year %d", fault.Invalid, year)
	}
	var revision int64
	err := s.commit(ctx, func(b *store.Batch) (err error) {
		revision, err = b.Put(doc, pre)
		return err
	})
	if err != nil {
		return 0, err
	}
	return revision, nil
}

// Delete removes one document.
func (s *Store) Delete(ctx context.Context, collection, id string, pre store.Precondition) error {
	return s.commit(ctx, func(b *store.Batch) error { return b.Delete(collection, id, pre) })
}

// Close gives up the lock. The lock file stays: removing it would let two
// processes hold two files of the same name.
func (s *Store) Close() error {
	s.turn <- struct{}{}
	if err := s.lock.Close(); err != nil {
		return fmt.Errorf("close the JSON file %s: %w", s.path, classify(err))
	}
	return nil
}

// commit waits until a change is in the file. Whoever gets the turn writes
// what everybody waits for. A change whose caller has gone by then is dropped.
func (s *Store) commit(ctx context.Context, change func(*store.Batch) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &write{done: make(chan struct{}), change: func(b *store.Batch) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return change(b)
	}}
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()

	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	case s.turn <- struct{}{}:
	}
	s.mu.Lock()
	group := s.waiting
	s.waiting = nil
	s.mu.Unlock()
	s.write(group)
	<-s.turn
	<-w.done
	return w.err
}

// write persists a group of changes as one file. Where that fails, each is
// tried alone: what fails may be the size of one of them.
func (s *Store) write(group []*write) {
	err := s.table.Update(func(b *store.Batch) error {
		for _, w := range group {
			w.err = w.change(b)
		}
		if !b.Changed() {
			return nil
		}
		return s.persist(b.Documents())
	})
	if err != nil && len(group) > 1 {
		for i := range group {
			s.write(group[i : i+1])
		}
		return
	}
	for _, w := range group {
		if w.err == nil {
			w.err = err
		}
		close(w.done)
	}
}

// persist replaces the file.
func (s *Store) persist(documents iter.Seq[store.Document]) error {
	if err := s.unchanged(); err != nil {
		return err
	}
	unfinished := s.path + unfinishedSuffix
	info, err := create(unfinished, s.limit, documents)
	if err == nil {
		err = os.Rename(unfinished, s.path)
	}
	if err != nil {
		if gone := os.Remove(unfinished); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		return fmt.Errorf("write the JSON file %s, which is as it was: %w", s.path, classify(err))
	}
	s.last = info
	if err := syncFolder(filepath.Dir(s.path)); err != nil {
		return fmt.Errorf("bring the folder of the JSON file %s to the disk: %w", s.path, classify(err))
	}
	return nil
}

// unchanged tells whether the file is the one that was read or written last.
// Somebody who restores a backup under a running process must not lose it.
func (s *Store) unchanged() error {
	info, err := os.Stat(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // Everything is in memory, and will be in the file again.
	}
	if err != nil {
		return classify(err)
	}
	if s.last == nil || !os.SameFile(info, s.last) || info.Size() != s.last.Size() || !info.ModTime().Equal(s.last.ModTime()) {
		return fmt.Errorf("%w: the JSON file %s was changed by somebody else and is left as it is; stop this process, choose the right file, start it again", fault.Lost, s.path)
	}
	return nil
}

// create writes a new file and brings it to the disk.
func create(path string, limit int, documents iter.Seq[store.Document]) (info os.FileInfo, err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if closed := file.Close(); err == nil {
			err = closed
		}
	}()
	buffered := bufio.NewWriterSize(file, 64<<10)
	if err := encode(&bounded{to: buffered, left: limit, limit: limit}, documents); err != nil {
		return nil, err
	}
	if err := buffered.Flush(); err != nil {
		return nil, err
	}
	if err := file.Sync(); err != nil {
		return nil, err
	}
	return file.Stat()
}

// bounded refuses to write more than its limit.
type bounded struct {
	to          io.Writer
	left, limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, fmt.Errorf("%w: it would have more than %d bytes; use a database", fault.Unsupported, b.limit)
	}
	return b.to.Write(p)
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// classify gives an error of the file system its class, unless it has one.
func classify(err error) error {
	switch {
	case fault.Of(err) != "":
		return err
	case denied(err):
		return fmt.Errorf("%w: %w; this process must own the folder and the file", fault.Denied, err)
	case notFile(err):
		return fmt.Errorf("%w: %w", fault.Invalid, err)
	default:
		return fmt.Errorf("%w: %w", fault.Transient, err)
	}
}
