//go:build unix

package storetest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// The tests here run a part of themselves in a child: the test binary with
// only this test selected and a variable set that makes it take the part.
const (
	childPath  = "LATCHKEY_STORETEST_PATH"  // the store of the child
	childStart = "LATCHKEY_STORETEST_START" // the first step of each of its workers
)

func child(t *testing.T, path, start string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), childPath+"="+path, childStart+"="+start)
	return cmd
}

// Kill checks that every acknowledged write survives the death of the process:
// a child writes and says so, is killed at a random moment, and the store is
// opened again and compared; 200 times over one store, 10 with -short. open
// opens the store at a path; the test must call nothing else.
func Kill(t *testing.T, open func(path string) (store.Driver, error)) {
	if path := os.Getenv(childPath); path != "" {
		writeUntilKilled(t, path, open)
		return
	}
	kills := 200
	if testing.Short() {
		kills = 10
	}
	path := filepath.Join(t.TempDir(), "folder", "store")
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	w := witness{kept: make([]map[string]int, writers), last: make([]int, writers)}
	for i := range w.kept {
		w.kept[i] = map[string]int{}
	}
	total := 0
	for n := range kills {
		acknowledged := w.run(t, path, random)
		total += acknowledged
		w.check(t, path, open)
		if t.Failed() {
			t.Fatalf("after kill %d of %d, which came %d acknowledgements into its process", n+1, kills, acknowledged)
		}
	}
	t.Logf("%d kills, %d acknowledged writes", kills, total)
	if total < kills {
		t.Errorf("only %d writes were acknowledged in %d processes: that tests little", total, kills)
	}
}

// writers is how many goroutines of a child write, each its own documents.
const writers = 4

// step is what a writer does at a step of its life: always the same, so that
// the parent knows it too.
type step struct {
	id     string
	remove bool
	body   []byte
}

func stepOf(writer, number int) step {
	random := rand.New(rand.NewPCG(uint64(writer), uint64(number)))
	s := step{id: fmt.Sprintf("%d-%d", writer, random.IntN(8)), remove: random.IntN(6) == 0}
	size := random.IntN(400)
	if random.IntN(20) == 0 {
		size = random.IntN(40_000)
	}
	s.body = fmt.Appendf(nil, "%d/%d/", writer, number)
	for range size {
		s.body = append(s.body, byte(random.Uint32()))
	}
	return s
}

func writeUntilKilled(t *testing.T, path string, open func(path string) (store.Driver, error)) {
	driver, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for writer, text := range strings.Split(os.Getenv(childStart), ",") {
		start, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		wait.Go(func() {
			for number := start; ; number++ {
				s := stepOf(writer, number)
				var err error
				if s.remove {
					if err = driver.Delete(t.Context(), things, s.id, store.Any()); errors.Is(err, fault.NotFound) {
						err = nil
					}
				} else {
					_, err = driver.Put(t.Context(), store.Document{Collection: things, ID: s.id, Parent: fmt.Sprint("p", writer), Lookup: "l0", Body: s.body}, store.Any())
				}
				if err != nil {
					fmt.Printf("failed %d %d %v\n", writer, number, err)
					return
				}
				// One write of one line, so that a kill cannot cut it.
				if _, err := os.Stdout.WriteString(fmt.Sprintf("ack %d %d\n", writer, number)); err != nil {
					return
				}
			}
		})
	}
	wait.Wait()
}

// witness knows what the writers were told is kept.
type witness struct {
	kept []map[string]int // by writer: the step that each document is of
	last []int            // by writer: the last step that was acknowledged or found done
}

// run lets a child write and kills it at a random moment.
func (w *witness) run(t *testing.T, path string, random *rand.Rand) (acknowledged int) {
	t.Helper()
	var starts []string
	for i := range w.last {
		starts = append(starts, strconv.Itoa(w.last[i]+1))
	}
	cmd := child(t, path, strings.Join(starts, ","))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Some die while they start or open the store, most while they write.
	var kill *time.Timer
	if random.IntN(10) == 0 {
		kill = time.AfterFunc(time.Duration(random.IntN(30_000))*time.Microsecond, func() { cmd.Process.Kill() })
		defer kill.Stop()
	}
	until, delay := random.IntN(60), time.Duration(random.IntN(5000))*time.Microsecond
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		var writer, number int
		if n, _ := fmt.Sscanf(lines.Text(), "ack %d %d", &writer, &number); n != 2 {
			t.Errorf("the child says %q", lines.Text())
			continue
		}
		if number != w.last[writer]+1 {
			t.Errorf("writer %d acknowledged step %d after %d", writer, number, w.last[writer])
		}
		w.done(writer, number)
		if acknowledged++; acknowledged == until+1 {
			time.AfterFunc(delay, func() { cmd.Process.Kill() })
		}
	}
	err = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Errorf("the child ended by itself: %v %s", err, stderr.Bytes())
	}
	return acknowledged
}

func (w *witness) done(writer, number int) {
	s := stepOf(writer, number)
	w.last[writer] = number
	if s.remove {
		delete(w.kept[writer], s.id)
	} else {
		w.kept[writer][s.id] = number
	}
}

// check opens the store and compares it with what the witness knows. The one
// step of each writer that was under way when it died may be there or not.
func (w *witness) check(t *testing.T, path string, open func(path string) (store.Driver, error)) {
	t.Helper()
	driver, err := open(path)
	if err != nil {
		t.Fatalf("the store does not open again: %v", err)
	}
	defer func() {
		if err := driver.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}()
	s := suite{Driver: driver}
	var all []string
	for writer := range writers {
		found := map[string]int{}
		for _, doc := range s.list(t, byParent(fmt.Sprint("p", writer))) {
			number := 0
			if parts := strings.SplitN(string(doc.Body), "/", 3); len(parts) == 3 {
				number, _ = strconv.Atoi(parts[1])
			}
			if want := stepOf(writer, number); number == 0 || want.id != doc.ID || !bytes.Equal(doc.Body, want.body) {
				t.Errorf("%q has a body that nobody wrote whole (%d bytes)", doc.ID, len(doc.Body))
			}
			found[doc.ID] = number
			all = append(all, doc.ID)
			got, err := s.Get(t.Context(), things, doc.ID)
			if err != nil {
				t.Errorf("Get %q: %v", doc.ID, err)
			}
			same(t, got, doc)
		}
		if maps.Equal(found, w.kept[writer]) {
			// The step under way did not happen, or changed nothing.
			continue
		}
		w.done(writer, w.last[writer]+1)
		if !maps.Equal(found, w.kept[writer]) {
			t.Errorf("writer %d was told that %v is kept (with step %d perhaps), and the store has %v", writer, w.kept[writer], w.last[writer], found)
		}
	}
	slices.Sort(all)
	s.lists(t, byLookup("l0"), all...)
}

// Processes checks that several processes share one store without losing a
// write: each of them, this one included, counts up one document. open opens
// the store at a path; the test must call nothing else.
func Processes(t *testing.T, open func(path string) (store.Driver, error)) {
	const processes, times = 4, 40
	path := os.Getenv(childPath)
	if path != "" {
		if err := count(t, path, times, open); err != nil {
			t.Error(err)
		}
		return
	}
	path = filepath.Join(t.TempDir(), "store")
	var wait sync.WaitGroup
	for range processes - 1 {
		cmd := child(t, path, "")
		wait.Go(func() {
			if output, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("a child failed: %v\n%s", err, output)
			}
		})
	}
	if err := count(t, path, times, open); err != nil {
		t.Error(err)
	}
	wait.Wait()
	driver, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, driver)
	if doc, err := driver.Get(t.Context(), things, "counter"); err != nil || string(doc.Body) != strconv.Itoa(processes*times) {
		t.Errorf("the counter is %s (%v), want %d", doc.Body, err, processes*times)
	}
}

func count(t *testing.T, path string, times int, open func(path string) (store.Driver, error)) error {
	driver, err := open(path)
	if err != nil {
		return err
	}
	closeAfter(t, driver)
	_, err = driver.Put(t.Context(), store.Document{Collection: things, ID: "counter", Body: []byte("0")}, store.Absent())
	if err != nil && !errors.Is(err, fault.Conflict) {
		return err
	}
	for range times {
		if err := increment(t.Context(), driver); err != nil {
			return err
		}
	}
	return nil
}

// Full checks that a store which cannot grow says so, keeps what it has
// acknowledged, shows nothing that it refused, and goes on when there is room
// again. The limit is that of the process on the size of files (RLIMIT_FSIZE),
// which binds root as well. open opens the store at a path; the test must call
// nothing else.
func Full(t *testing.T, open func(path string) (store.Driver, error)) {
	if path := os.Getenv(childPath); path != "" {
		fill(t, path, open)
		return
	}
	output, err := child(t, filepath.Join(t.TempDir(), "store"), "").CombinedOutput()
	if err != nil || !strings.Contains(string(output), "filled\n") {
		t.Errorf("the child failed: %v\n%s", err, output)
	}
}

func fill(t *testing.T, path string, open func(path string) (store.Driver, error)) {
	signal.Ignore(syscall.SIGXFSZ) // so that the write fails with EFBIG
	driver, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	limit := func(bytes uint64) {
		t.Helper()
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: bytes, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
	}
	s := suite{Driver: driver}
	const room = 600_000
	limit(room)
	var kept []store.Document
	for n := 0; ; n++ {
		doc := store.Document{Collection: things, ID: fmt.Sprintf("%04d", n), Parent: "p", Body: bytes.Repeat([]byte{byte(n)}, 20_000)}
		revision, err := s.Put(t.Context(), doc, store.Absent())
		if err != nil {
			class(t, "Put without room", err, fault.Transient)
			s.hasNot(t, doc.ID)
			break
		}
		if doc.Revision = revision; n*len(doc.Body) > 4*room {
			t.Fatal("the limit does not bind")
		}
		kept = append(kept, doc)
	}
	if len(kept) == 0 {
		t.Fatal("nothing fitted")
	}
	check := func(driver store.Driver) {
		t.Helper()
		s := suite{Driver: driver}
		for _, doc := range kept {
			s.has(t, doc)
		}
		s.lists(t, byParent("p"), ids(kept)...)
	}
	check(driver)
	changed := kept[0]
	changed.Body = bytes.Repeat([]byte{'x'}, store.MaxBody)
	if _, err := s.Put(t.Context(), changed, store.AtRevision(changed.Revision)); err == nil {
		t.Error("a large update was acknowledged without room")
	}
	check(driver)

	limit(old.Cur)
	kept[0] = s.put(t, changed, store.AtRevision(changed.Revision))
	check(driver)
	if err := driver.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	again, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	check(again)
	if err := again.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if !t.Failed() {
		io.WriteString(os.Stdout, "filled\n")
	}
}
