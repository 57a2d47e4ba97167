//go:build unix

package jsonfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

func opened(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.lock.Close() })
	return s
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

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func touch(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTheFileIsReadableLineByLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.json")
	s := opened(t, path)
	if got := read(t, path); got != "{\n\"version\": 1,\n\"documents\": [\n]\n}\n" {
		t.Errorf("a new file is %q", got)
	}
	expires := time.Date(2100, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	second := put(t, s, store.Document{ID: "b", Parent: "p", Lookup: "<l>", Expires: expires, Body: []byte(`{"n":1,"s":"<é>"}`)})
	first := put(t, s, store.Document{ID: "a", Body: []byte{0, 1, 2}})
	want := fmt.Sprintf(`{
"version": 1,
"documents": [
{"collection":"things","id":"a","revision":%d,"base64":"AAEC"},
{"collection":"things","id":"b","parent":"p","lookup":"<l>","revision":%d,"expires":"2100-01-02T02:04:05Z","body":{"n":1,"s":"<é>"}}
]
}
`, first, second)
	if got := read(t, path); got != want {
		t.Errorf("the file is\n%s, want\n%s", got, want)
	}
}

func TestEverythingIsThereAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.json")
	s := opened(t, path)
	bodies := [][]byte{
		nil, {}, {0}, []byte("\xff"), []byte("null"), []byte("true"), []byte(" 1"), []byte(`"\u003c<\u2028` + "\u2028" + `\ud800"`),
		[]byte(`{"a":1,"a":2}`), []byte(`12345678901234567890.10`), []byte("\"\xff\""), []byte(`{"a":`), []byte("\"a\nb\""),
		[]byte(strings.Repeat("[", 9998) + strings.Repeat("]", 9998)),
		[]byte(strings.Repeat(`{"a":`, 999) + "1" + strings.Repeat("}", 999)),
		bytes.Repeat([]byte{'x'}, store.MaxBody),
	}
	want := map[string]store.Document{}
	for n, body := range bodies {
		doc := store.Document{Collection: "things", ID: fmt.Sprintf("%02d\u2028\"\\<", n), Parent: "p", Body: body}
		doc.Revision = put(t, s, doc)
		want[doc.ID] = doc
	}
	for range 3 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = opened(t, path)
		page, err := s.List(t.Context(), store.Query{Collection: "things", Parent: "p", Limit: 100})
		if err != nil || len(page.Documents) != len(bodies) {
			t.Fatalf("%d documents came back, want %d (%v)", len(page.Documents), len(bodies), err)
		}
		for _, got := range page.Documents {
			if want := want[got.ID]; got.Revision != want.Revision || !bytes.Equal(got.Body, want.Body) {
				t.Errorf("%q came back as revision %d, %.40q, want %d, %.40q", got.ID, got.Revision, got.Body, want.Revision, want.Body)
			}
		}
		put(t, s, store.Document{ID: "another"})
	}
}

func TestFilesAndFoldersArePrivate(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "a", "b")
	path := filepath.Join(folder, "store.json")
	s := opened(t, path)
	for range 2 {
		for path, want := range map[string]fs.FileMode{folder: 0o700, filepath.Dir(folder): 0o700, path: 0o600, path + lockSuffix: 0o600} {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode().Perm(); got != want {
				t.Errorf("%s has mode %v, want %v", path, got, want)
			}
		}
		put(t, s, store.Document{ID: "x"})
	}
}

func TestOneProcessHoldsAFile(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "store.json")
	first := opened(t, path)
	if err := os.Symlink(path, filepath.Join(folder, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(folder, filepath.Join(folder, "here")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(folder)
	for _, name := range []string{path, "store.json", "link", "here/store.json", "here/link"} {
		_, err := Open(name)
		if fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), fmt.Sprintf("process %d holds it", os.Getpid())) {
			t.Errorf("%s: got %v, want the holder", name, err)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	put(t, opened(t, "link"), store.Document{ID: "x"})
	if info, err := os.Lstat("link"); err != nil || info.Mode().Type() != fs.ModeSymlink {
		t.Errorf("the link was replaced: %v (%v)", info.Mode(), err)
	}
	if !strings.Contains(read(t, path), `"id":"x"`) {
		t.Error("what was written through the link is not in the file")
	}
}

func TestPathsThatAreNoFiles(t *testing.T) {
	folder := t.TempDir()
	file, dangling := filepath.Join(folder, "file"), filepath.Join(folder, "dangling")
	touch(t, file, "")
	if err := os.Symlink("nowhere", dangling); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{folder, filepath.Join(file, "store.json"), dangling, "/dev/null", filepath.Join(folder, strings.Repeat("x", 300))} {
		if _, err := Open(path); fault.Of(err) != fault.Invalid {
			t.Errorf("%s: got %v, want class %q", path, err, fault.Invalid)
		}
	}
}

func TestWhatACrashLeftIsRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.json")
	touch(t, path+unfinishedSuffix, `{"version":1,"docu`)
	put(t, opened(t, path), store.Document{ID: "x"})
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if !slices.Equal(names, []string{"store.json", "store.json" + lockSuffix}) {
		t.Errorf("the folder holds %q", names)
	}
}

const good = `{"collection":"things","id":"x","revision":5,"body":1}`

func TestDamagedFilesAreLostWithTheirLineAndLeftAsTheyAre(t *testing.T) {
	in := func(documents string) string {
		return "{\n\"version\": 1,\n\"documents\": [\n" + documents + "\n]\n}\n"
	}
	var many strings.Builder
	for n := range 500 {
		fmt.Fprintf(&many, " %s , \n", strings.Replace(good, `"x"`, fmt.Sprintf(`"%d"`, n), 1))
	}
	for _, test := range []struct{ name, content, says string }{
		{"empty", "", "line 1 (byte 0): the file is empty"},
		{"only spaces", " \n", "the file is empty"},
		{"not JSON", "hello", "line 1 (byte 1): this is not JSON"},
		{"an array", "[]", "\"{\" should stand here"},
		{"null", "null", "\"{\" should stand here"},
		{"no version", `{"documents":[]}`, "\"version\" should stand here"},
		{"a newer version", `{"version":2,"documents":[]}`, "version 2"},
		{"a version that is text", `{"version":"1","documents":[]}`, "not of its kind"},
		{"no documents", `{"version":1}`, "\"documents\" should stand here"},
		{"documents that are an object", `{"version":1,"documents":{}}`, "\"[\" should stand here"},
		{"cut in the beginning", "{\n\"vers", "line 2 (byte 7): the file ends in the middle"},
		{"cut between documents", "{\n\"version\": 1,\n\"documents\": [\n" + good + ",\n", "line 5"},
		{"cut in a document", in(good)[:60], "line 4 (byte 60): the file ends in the middle"},
		{"cut before the end", strings.TrimSuffix(in(good), "\n}\n"), "the file ends in the middle"},
		{"more after the end", in(good) + "{}", "line 7 (byte 91): the file goes on after its end"},
		{"a second member", `{"version":1,"documents":[],"more":1}`, "\"}\" should stand here"},
		{"a wrong byte", in(good + ",\n{\"collection\"?"), "line 5 (byte 101): this is not JSON"},
		{"a wrong byte after many documents", in(many.String() + "{\"collection\"?"), "line 504 (byte"},
		{"not UTF-8", in(strings.Replace(good, "x", "\xff", 1)), "not UTF-8"},
		{"twins", in(good + ",\n" + good), "line 5 (byte 141): invalid: a second document in things with this id"},
		{"a document that is a number", in("5"), "line 4 (byte 32): a value is not of its kind"},
		{"a document that is null", in("null"), "either a body or base64"},
		{"an unknown member", in(`{"collection":"things","id":"x","revision":5,"body":1,"x":1}`), "a member is unknown"},
		{"no body", in(`{"collection":"things","id":"x","revision":5}`), "either a body or base64"},
		{"two bodies", in(`{"collection":"things","id":"x","revision":5,"body":1,"base64":""}`), "either a body or base64"},
		{"wrong base64", in(`{"collection":"things","id":"x","revision":5,"base64":"!"}`), "line 4"},
		{"no id", in(`{"collection":"things","revision":5,"body":1}`), "the id is empty"},
		{"a wrong collection", in(`{"collection":"Things","id":"x","revision":5,"body":1}`), "not a lower-case word"},
		{"no revision", in(`{"collection":"things","id":"x","body":1}`), "revision 0 is not positive"},
		{"a revision beyond 64 bits", in(`{"collection":"things","id":"x","revision":1e30,"body":1}`), "not of its kind"},
		{"a wrong time", in(`{"collection":"things","id":"x","revision":5,"expires":"soon","body":1}`), "line 4"},
		{"a body that is too large", in(`{"collection":"things","id":"x","revision":5,"body":"` + strings.Repeat("x", store.MaxBody) + `"}`), "the body has"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.json")
			touch(t, path, test.content)
			_, err := Open(path)
			if fault.Of(err) != fault.Lost || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want class %q, the path, and %q", err, fault.Lost, test.says)
			}
			if read(t, path) != test.content {
				t.Error("the file was changed")
			}
			// The lock is given back: a good file opens at once.
			touch(t, path, in(good))
			opened(t, path)
		})
	}
}

func TestEveryCutOfAFileIsNoticed(t *testing.T) {
	whole := "{\n\"version\": 1,\n\"documents\": [\n" + good + ",\n" + strings.Replace(good, "x", "y", 1) + "\n]\n}"
	keep := func(store.Document) error { return nil }
	for n := range len(whole) {
		if err := parse([]byte(whole[:n]), keep); fault.Of(err) != fault.Lost {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
	if err := parse([]byte(whole), keep); err != nil {
		t.Error(err)
	}
}

func TestErrorsOfAFileQuoteNoBody(t *testing.T) {
	for _, line := range []string{
		`{"collection":"things","id":"x","revision":"hunter2","body":1}`,
		`{"collection":"things","id":"x","revision":1,"body":"hunter2"`,
		`{"collection":"things","id":"x","revision":1,"base64":"hunter2!"}`,
		`{"collection":"things","id":"x","revision":1,"base64":{"hunter2":1}}`,
		`{"collection":"things","id":"x","revision":1,"hunter2":1}`,
		`{"collection":"things","id":"x","revision":1,"expires":"hunter2","body":1}`,
	} {
		err := parse([]byte(`{"version":1,"documents":[`+line+`]}`), func(store.Document) error { return nil })
		if fault.Of(err) != fault.Lost || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// whole checks that the store is exactly as it was, in memory and in the file.
func whole(t *testing.T, s *Store, content string, want ...string) {
	t.Helper()
	if read(t, s.path) != content {
		t.Error("the file was changed")
	}
	page, err := s.List(t.Context(), store.Query{Collection: "things", Parent: "p", Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, doc := range page.Documents {
		got = append(got, doc.ID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the store shows %q, want %q", got, want)
	}
}

func TestAWriteThatFailsChangesNothing(t *testing.T) {
	for _, test := range []struct {
		name    string
		disturb func(t *testing.T, s *Store) (repair func())
		class   fault.Class
	}{
		{"the next file cannot be made", func(t *testing.T, s *Store) func() {
			if err := os.MkdirAll(filepath.Join(s.path+unfinishedSuffix, "x"), 0o700); err != nil {
				t.Fatal(err)
			}
			return func() { os.RemoveAll(s.path + unfinishedSuffix) }
		}, fault.Transient},
		{"the file would be too large", func(_ *testing.T, s *Store) func() {
			s.limit = 200
			return func() { s.limit = MaxFile }
		}, fault.Unsupported},
		{"the folder is gone", func(t *testing.T, s *Store) func() {
			folder := filepath.Dir(s.path)
			if err := os.Rename(folder, folder+"-away"); err != nil {
				t.Fatal(err)
			}
			return func() { os.Rename(folder+"-away", folder) }
		}, fault.Transient},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := opened(t, filepath.Join(t.TempDir(), "folder", "store.json"))
			revision := put(t, s, store.Document{ID: "a", Parent: "p", Body: []byte("1")})
			content := read(t, s.path)
			repair := test.disturb(t, s)

			_, err := s.Put(t.Context(), store.Document{Collection: "things", ID: "b", Parent: "p", Body: make([]byte, 100)}, store.Absent())
			if fault.Of(err) != test.class {
				t.Errorf("Put: got %v, want class %q", err, test.class)
			}
			_, err = s.Put(t.Context(), store.Document{Collection: "things", ID: "a", Body: make([]byte, 200)}, store.AtRevision(revision))
			if fault.Of(err) != test.class {
				t.Errorf("Put over a document: got %v, want class %q", err, test.class)
			}
			if test.class == fault.Transient {
				if err := s.Delete(t.Context(), "things", "a", store.Any()); fault.Of(err) != test.class {
					t.Errorf("Delete: got %v, want class %q", err, test.class)
				}
			}
			repair()
			whole(t, s, content, "a")

			put(t, s, store.Document{ID: "b", Parent: "p"})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = opened(t, s.path)
			whole(t, s, read(t, s.path), "a", "b")
		})
	}
}

func TestAFileThatSomebodyReplacedIsNotOverwritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.json")
	s := opened(t, path)
	put(t, s, store.Document{ID: "a", Parent: "p"})
	backup := read(t, path)
	put(t, s, store.Document{ID: "b", Parent: "p"})
	touch(t, path, backup)
	if _, err := s.Put(t.Context(), store.Document{Collection: "things", ID: "c", Parent: "p"}, store.Any()); fault.Of(err) != fault.Lost {
		t.Errorf("got %v, want class %q", err, fault.Lost)
	}
	whole(t, s, backup, "a", "b")
}

func TestAFileThatSomebodyRemovedIsWrittenAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.json")
	s := opened(t, path)
	put(t, s, store.Document{ID: "a"})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	put(t, s, store.Document{ID: "b"})
	if content := read(t, path); !strings.Contains(content, `"id":"a"`) || !strings.Contains(content, `"id":"b"`) {
		t.Errorf("the file is %s", content)
	}
}

func TestReadsDoNotSeeWhatIsNotInTheFile(t *testing.T) {
	s := opened(t, filepath.Join(t.TempDir(), "store.json"))
	old := put(t, s, store.Document{ID: "x", Parent: "p", Body: []byte("1")})
	err := s.table.Update(func(b *store.Batch) error {
		if _, err := b.Put(store.Document{Collection: "things", ID: "x", Parent: "p2", Body: []byte("2")}, store.Any()); err != nil {
			return err
		}
		// The moment before persist: reads go on.
		if doc, err := s.Get(t.Context(), "things", "x"); err != nil || doc.Revision != old {
			t.Errorf("Get saw revision %d (%v), want %d", doc.Revision, err, old)
		}
		whole(t, s, read(t, s.path), "x")
		return errors.New("the disk is full")
	})
	if err == nil {
		t.Error("the failure was swallowed")
	}
	whole(t, s, read(t, s.path), "x")
}

func TestWritesThatWaitShareAFile(t *testing.T) {
	s := opened(t, filepath.Join(t.TempDir(), "store.json"))
	put(t, s, store.Document{ID: "taken", Parent: "p", Body: []byte("1")})
	before := s.last
	s.turn <- struct{}{}
	var wait sync.WaitGroup
	results := make([]error, 20)
	for n := range results {
		wait.Go(func() {
			id := fmt.Sprint(n)
			if n%5 == 0 {
				id = "taken"
			}
			_, results[n] = s.Put(t.Context(), store.Document{Collection: "things", ID: id}, store.Absent())
		})
	}
	gone, cancel := context.WithCancel(t.Context())
	wait.Go(func() {
		if _, err := s.Put(gone, store.Document{Collection: "things", ID: "gone"}, store.Any()); fault.Of(err) != fault.Transient {
			t.Errorf("a writer that gave up: %v", err)
		}
	})
	for waiting := 0; waiting < len(results)+1; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		waiting = len(s.waiting)
		s.mu.Unlock()
	}
	cancel()
	group := s.waiting
	s.waiting = nil
	s.write(group)
	after := s.last
	<-s.turn
	wait.Wait()
	for n, err := range results {
		if want := map[bool]fault.Class{true: fault.Conflict}[n%5 == 0]; fault.Of(err) != want {
			t.Errorf("writer %d: got %v, want class %q", n, err, want)
		}
	}
	if info, err := os.Stat(s.path); err != nil || !os.SameFile(info, after) || os.SameFile(after, before) {
		t.Errorf("20 writers that waited together wrote more than one file (%v)", err)
	}
	if _, err := s.Get(t.Context(), "things", "gone"); fault.Of(err) != fault.NotFound {
		t.Errorf("the writer that gave up wrote: %v", err)
	}
}

func TestAGroupDoesNotFailForOneOfIt(t *testing.T) {
	s := opened(t, filepath.Join(t.TempDir(), "store.json"))
	s.limit = 1000
	writer := func(id string, size int) *write {
		return &write{done: make(chan struct{}), change: func(b *store.Batch) error {
			_, err := b.Put(store.Document{Collection: "things", ID: id, Parent: "p", Body: make([]byte, size)}, store.Any())
			return err
		}}
	}
	group := []*write{writer("a", 10), writer("b", 2000), writer("c", 10)}
	s.write(group)
	for i, want := range []fault.Class{"", fault.Unsupported, ""} {
		<-group[i].done
		if got := fault.Of(group[i].err); got != want {
			t.Errorf("write %d: got %v, want class %q", i, group[i].err, want)
		}
	}
	whole(t, s, read(t, s.path), "a", "c")
}

func TestExpiredDocumentsLeaveTheFile(t *testing.T) {
	s := opened(t, filepath.Join(t.TempDir(), "store.json"))
	for n := range 50 {
		put(t, s, store.Document{ID: fmt.Sprint(n), Expires: time.Unix(1, 0)})
	}
	put(t, s, store.Document{ID: "last"})
	if lines := strings.Count(read(t, s.path), "\n"); lines > 7 {
		t.Errorf("the file has %d lines for one document", lines)
	}
}

func TestAnExpiryThatTheFileCannotHoldIsInvalid(t *testing.T) {
	s := opened(t, filepath.Join(t.TempDir(), "store.json"))
	_, err := s.Put(t.Context(), store.Document{Collection: "things", ID: "x", Expires: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, store.Any())
	if fault.Of(err) != fault.Invalid {
		t.Errorf("got %v, want class %q", err, fault.Invalid)
	}
}

func TestErrorsOfTheFileSystemHaveAClass(t *testing.T) {
	for err, want := range map[error]fault.Class{
		syscall.EACCES: fault.Denied, syscall.EPERM: fault.Denied, syscall.EROFS: fault.Denied,
		syscall.ENOSPC: fault.Transient, syscall.EIO: fault.Transient, syscall.EDQUOT: fault.Transient,
		syscall.EISDIR: fault.Invalid, fault.Lost: fault.Lost,
	} {
		if got := classify(&fs.PathError{Op: "write", Path: "x", Err: err}); fault.Of(got) != want {
			t.Errorf("%v is of class %q, want %q", err, fault.Of(got), want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("{\n\"version\": 1,\n\"documents\": [\n]\n}\n"))
	f.Add([]byte("{\n\"version\": 1,\n\"documents\": [\n" + good + "\n]\n}\n"))
	f.Add([]byte(`{"version":1,"documents":[{"collection":"a","id":"1","parent":"p","lookup":"l","revision":1,"expires":"2100-01-01T00:00:00Z","base64":"AAEC"},{"collection":"a","id":"2","revision":9,"body":{"x":[null,1e5]}}]}`))
	f.Add([]byte(`{"version":1,"documents":[{"collection":"a","id":"\ud800\u0000","revision":1,"body": { "a" : "\u2028" } }]}`))
	f.Add([]byte(`{"version":2,"documents":[]}`))
	f.Add([]byte(`{"version":1,"documents":[{"revision":1e3,"expires":"0000-01-01T00:00:00.5+23:59"}]}`))
	f.Add([]byte("\xef\xbb\xbf{}"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		collect := func(data []byte) (all []store.Document, err error) {
			err = store.NewTable().Update(func(b *store.Batch) error {
				return parse(data, func(doc store.Document) error {
					all = append(all, doc)
					return b.Restore(doc)
				})
			})
			return all, err
		}
		first, err := collect(data)
		if err != nil {
			if fault.Of(err) != fault.Lost {
				t.Fatalf("class %q: %v", fault.Of(err), err)
			}
			return
		}
		// What was understood is written so that it is understood the same.
		var file bytes.Buffer
		if err := encode(&file, slices.Values(first)); err != nil {
			t.Fatal(err)
		}
		second, err := collect(file.Bytes())
		if err != nil {
			t.Fatalf("%v\n%s", err, file.Bytes())
		}
		if !slices.EqualFunc(first, second, func(a, b store.Document) bool {
			return a.Collection == b.Collection && a.ID == b.ID && a.Parent == b.Parent && a.Lookup == b.Lookup &&
				a.Revision == b.Revision && a.Expires.Equal(b.Expires) && bytes.Equal(a.Body, b.Body)
		}) {
			t.Errorf("%v became %v", first, second)
		}
	})
}
