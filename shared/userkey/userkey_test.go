package userkey

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/stamp"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

const user = "8d7c5f0a-95b1-4ad5-9a5e-3f2c2b1f7f10"

func open(t *testing.T, driver store.Driver) (*Keys, *keyring.Ring) {
	t.Helper()
	documents := store.New(driver)
	ring := keyring.New(keyring.Config{Name: Ring, Store: documents, Key: kmstest.NewKey(t)})
	return New(documents, ring, slog.New(slog.NewTextHandler(io.Discard, nil))), ring
}

func key(t *testing.T, fill byte) Key {
	t.Helper()
	k, err := ParseKey(base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(rune(fill)), Size))), false)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wantKey(t *testing.T, keys *Keys, want Key) {
	t.Helper()
	got, err := keys.Get(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Equal(want) {
		t.Fatal("the key is not the one that was stored last")
	}
}

func TestCreateNeverReplaces(t *testing.T) {
	keys, _ := open(t, store.NewTable())
	if err := keys.Create(t.Context(), user, key(t, 'a')); err != nil {
		t.Fatal(err)
	}
	if err := keys.Create(t.Context(), user, key(t, 'b')); !errors.Is(err, fault.Conflict) {
		t.Fatalf("%v, want Conflict", err)
	}
	wantKey(t, keys, key(t, 'a'))
}

func TestPutKeepsTheDateOfCreation(t *testing.T) {
	keys, _ := open(t, store.NewTable())
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	keys.now = func() time.Time { return created }
	if err := keys.Put(t.Context(), user, key(t, 'a')); err != nil {
		t.Fatal(err)
	}
	keys.now = func() time.Time { return created.Add(time.Hour) }
	if err := keys.Put(t.Context(), user, key(t, 'b')); err != nil {
		t.Fatal(err)
	}
	wantKey(t, keys, key(t, 'b'))
	info, err := keys.Describe(t.Context(), user)
	if err != nil || !info.Created.Equal(created) || !info.Revised.Equal(created.Add(time.Hour)) {
		t.Fatalf("%+v, %v", info, err)
	}
}

func TestPutsOfManyAllSucceedAndTheLastOneStays(t *testing.T) {
	driver := store.NewTable()
	const writers = 16
	var wait sync.WaitGroup
	for i := range writers {
		keys, _ := open(t, driver)
		wait.Go(func() {
			if err := keys.Put(t.Context(), user, key(t, 'a'+byte(i))); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	keys, _ := open(t, driver)
	if err := keys.Put(t.Context(), user, key(t, 'z')); err != nil {
		t.Fatal(err)
	}
	wantKey(t, keys, key(t, 'z'))
}

func TestAWriteThatOthersKeepOvertakingIsTransientAndEndsWithItsContext(t *testing.T) {
	driver := storetest.NewFaults(store.NewTable())
	keys, _ := open(t, driver)
	if err := keys.Create(t.Context(), user, key(t, 'a')); err != nil {
		t.Fatal(err)
	}
	for range 10_000 {
		driver.Inject(storetest.Fault{Method: storetest.Put, Err: fault.Conflict})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := keys.Put(ctx, user, key(t, 'b')); fault.Of(err) != fault.Transient {
		t.Fatalf("%v, want Transient", err)
	}
	if tries := 10_000 - driver.Pending(); tries < 3 {
		t.Errorf("it was tried %d times", tries)
	}
	driver.Reset()
	wantKey(t, keys, key(t, 'a'))
}

func describe(t *testing.T, keys *Keys) Info {
	t.Helper()
	info, err := keys.Describe(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestDeletingFreesTheUser(t *testing.T) {
	keys, _ := open(t, store.NewTable())
	if err := keys.Delete(t.Context(), Info{User: user, Revision: 1}); fault.Of(err) != fault.NotFound {
		t.Fatalf("%v, want NotFound", err)
	}
	if err := keys.Create(t.Context(), user, key(t, 'a')); err != nil {
		t.Fatal(err)
	}
	wantKey(t, keys, key(t, 'a'))
	if err := keys.Delete(t.Context(), describe(t, keys)); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Get(t.Context(), user); fault.Of(err) != fault.NotFound {
		t.Fatalf("%v, want NotFound", err)
	}
	if at, err := keys.LastAccess(t.Context(), user); err != nil || !at.IsZero() {
		t.Fatalf("the note of the last access stayed: %v %v", at, err)
	}
	if err := keys.Create(t.Context(), user, key(t, 'b')); err != nil {
		t.Fatal(err)
	}
	wantKey(t, keys, key(t, 'b'))
}

// While an operator thinks the question over, the user may get in after all.
func TestAKeyThatWasWrittenSinceItWasDescribedIsNotDeleted(t *testing.T) {
	keys, _ := open(t, store.NewTable())
	if err := keys.Create(t.Context(), user, key(t, 'a')); err != nil {
		t.Fatal(err)
	}
	described := describe(t, keys)
	if err := keys.Put(t.Context(), user, key(t, 'b')); err != nil {
		t.Fatal(err)
	}
	if err := keys.Delete(t.Context(), described); fault.Of(err) != fault.Conflict {
		t.Fatalf("%v, want Conflict", err)
	}
	wantKey(t, keys, key(t, 'b'))
}

func TestANoteThatCannotBeDeletedDoesNotUndoTheDeletion(t *testing.T) {
	driver := storetest.NewFaults(store.NewTable())
	keys, _ := open(t, driver)
	if err := keys.Create(t.Context(), user, key(t, 'a')); err != nil {
		t.Fatal(err)
	}
	driver.Inject(storetest.Fault{Method: storetest.Delete, Collection: accessCollection})
	if err := keys.Delete(t.Context(), describe(t, keys)); err != nil {
		t.Fatal(err)
	}
}

func TestAnAccessIsNotedOnceAnHourByAllInstancesTogether(t *testing.T) {
	inner := store.NewTable()
	first, _ := open(t, inner)
	second, _ := open(t, inner)
	if err := first.Create(t.Context(), user, key(t, 'a')); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, keys := range []*Keys{first, second} {
		keys.now = func() time.Time { return now }
	}
	notes := store.NewCollection[access](store.New(inner), accessCollection)
	revision := func() int64 {
		record, err := notes.Get(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		return record.Revision
	}
	wantKey(t, first, key(t, 'a'))
	noted := revision()
	wantKey(t, first, key(t, 'a'))
	wantKey(t, second, key(t, 'a'))
	if revision() != noted {
		t.Error("a second instance noted the same hour again")
	}
	now = now.Add(stamp.Every + time.Minute)
	wantKey(t, second, key(t, 'a'))
	if at, err := first.LastAccess(t.Context(), user); err != nil || !at.Equal(now.UTC().Truncate(time.Second)) {
		t.Errorf("the last access is %v (%v), want %v", at, err, now)
	}
}

func TestRotationSealsEveryKeyAnewAndLosesNone(t *testing.T) {
	keys, ring := open(t, store.NewTable())
	const users = 30
	name := func(i int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", i) }
	for i := range users {
		if err := keys.Create(t.Context(), name(i), key(t, 'A'+byte(i))); err != nil {
			t.Fatal(err)
		}
	}
	current, err := ring.Rotate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} { // repeating it changes nothing
		for i := range users {
			if changed, err := keys.Reseal(t.Context(), name(i), current); err != nil || changed != want {
				t.Fatalf("user %d: changed %v (%v), want %v", i, changed, err, want)
			}
		}
	}
	seen := 0
	for info, err := range keys.All(t.Context()) {
		if err != nil || info.DataKey != 2 || info.User != name(seen) {
			t.Fatalf("%+v, %v", info, err)
		}
		got, err := keys.Get(t.Context(), info.User)
		if err != nil || !got.Equal(key(t, 'A'+byte(seen))) {
			t.Fatalf("user %d: %v", seen, err)
		}
		seen++
	}
	if seen != users {
		t.Fatalf("%d of %d keys are left", seen, users)
	}
}

// Resealing runs while users replace their keys: it must not bring an old key
// back.
func TestResealingDoesNotUndoAReplacement(t *testing.T) {
	driver := store.NewTable()
	keys, ring := open(t, driver)
	if err := keys.Create(t.Context(), user, key(t, 'a')); err != nil {
		t.Fatal(err)
	}
	for round := range 20 {
		current, err := ring.Rotate(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		fresh := key(t, 'b'+byte(round))
		var wait sync.WaitGroup
		wait.Go(func() {
			if err := keys.Put(t.Context(), user, fresh); err != nil {
				t.Error(err)
			}
		})
		wait.Go(func() {
			if _, err := keys.Reseal(t.Context(), user, current); err != nil {
				t.Error(err)
			}
		})
		wait.Wait()
		wantKey(t, keys, fresh)
	}
}

// Whatever fails in between, a key that was acknowledged is the one that is
// read, and one that was not acknowledged never replaces it by a creation.
func TestNoAcknowledgedKeyIsLostUnderFaults(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	driver := storetest.NewFaults(store.NewTable())
	keys, _ := open(t, driver)
	var possible []Key // the last acknowledged, and what was tried since
	for i := range 400 {
		driver.Reset()
		if random.IntN(2) == 0 {
			driver.Inject(storetest.Fault{Method: storetest.Put, Collection: keyCollection, When: storetest.When(random.IntN(2))})
		}
		k := key(t, byte(random.IntN(64)+'0'))
		write := keys.Put
		if random.IntN(3) == 0 {
			write = keys.Create
		}
		err := write(t.Context(), user, k)
		switch {
		case err == nil:
			possible = []Key{k}
		case !errors.Is(err, fault.Conflict):
			possible = append(possible, k)
		}
		driver.Reset()
		got, err := keys.Get(t.Context(), user)
		if errors.Is(err, fault.NotFound) && i < 20 {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, p := range possible {
			found = found || got.Equal(p)
		}
		if !found {
			t.Fatalf("after write %d a key is read that was replaced, or never written", i)
		}
	}
}

func TestAKeyDoesNotPrintItself(t *testing.T) {
	k := key(t, 'a')
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k, "in", struct{ K Key }{k})
	encoded, err := json.Marshal(struct{ K Key }{k})
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s %q", k, k, k, k, k), string(encoded), log.String()} {
		if strings.Contains(printed, "aaaa") || strings.Contains(printed, k.Reveal()[:8]) || strings.Contains(printed, "97 97") || strings.Contains(printed, "0x61, 0x61") {
			t.Errorf("the key is printed: %s", printed)
		}
	}
}

func TestParseKeyTakesExactlyTheSizesOfClients(t *testing.T) {
	for size := range 70 {
		text := base64.StdEncoding.EncodeToString(make([]byte, size))
		for _, allowLong := range []bool{false, true} {
			_, err := ParseKey(text, allowLong)
			want := size == Size || (allowLong && size == LongSize)
			if (err == nil) != want {
				t.Errorf("%d bytes, long keys allowed %v: %v", size, allowLong, err)
			}
		}
	}
}
