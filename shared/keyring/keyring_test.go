package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

var subject = Subject{Collection: "user-keys", ID: "8d7c5f0a-95b1-4ad5-9a5e-3f2c2b1f7f10", Field: "key"}

// surroundings is a ring's surroundings: a store and a key that fail on demand, and a
// clock that is set.
type surroundings struct {
	driver *storetest.Faults
	key    *kmstest.Key
	mu     sync.Mutex
	clock  time.Time
}

func newSurroundings(t *testing.T) *surroundings {
	return &surroundings{
		driver: storetest.NewFaults(store.NewTable()), key: kmstest.NewKey(t),
		clock: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC),
	}
}

func (s *surroundings) ring(previous ...kms.Unwrapper) *Ring {
	return s.ringUnder(s.key, previous...)
}

func (s *surroundings) ringUnder(key kms.Unwrapper, previous ...kms.Unwrapper) *Ring {
	r := New(Config{Name: "user-keys", Store: store.New(s.driver), Key: key, Previous: previous, MaxAge: time.Hour})
	r.now = func() time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.clock
	}
	return r
}

func (s *surroundings) wait(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = s.clock.Add(d)
}

func (s *surroundings) records(t *testing.T) []store.Record[record] {
	t.Helper()
	var all []store.Record[record]
	for r, err := range store.NewCollection[record](store.New(s.driver), Collection).ByParent(t.Context(), "user-keys") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func seal(t *testing.T, r *Ring, plaintext string) []byte {
	t.Helper()
	sealed, err := r.Seal(t.Context(), subject, []byte(plaintext))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func wantOpen(t *testing.T, r *Ring, sealed []byte, want string) {
	t.Helper()
	got, err := r.Open(t.Context(), subject, sealed)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Fatalf("opened %q, want %q", got, want)
	}
}

func wantClass(t *testing.T, err error, want fault.Class) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("the error is %v, want one of class %q", err, want)
	}
}

func TestASealedValueOpensOnlyWhereItWasPut(t *testing.T) {
	s := newSurroundings(t)
	r := s.ring()
	sealed := seal(t, r, "secret")
	wantOpen(t, r, sealed, "secret")

	for name, other := range map[string]Subject{
		"another record":     {subject.Collection, "another", subject.Field},
		"another collection": {"secrets", subject.ID, subject.Field},
		"another field":      {subject.Collection, subject.ID, "note"},
		"shifted parts":      {subject.Collection + subject.ID[:1], subject.ID[1:], subject.Field},
	} {
		if _, err := r.Open(t.Context(), other, sealed); !errors.Is(err, fault.Lost) {
			t.Errorf("%s: %v, want Lost", name, err)
		}
	}
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1
		if _, err := r.Open(t.Context(), subject, damaged); !errors.Is(err, fault.Lost) {
			t.Fatalf("byte %d changed: %v, want Lost", i, err)
		}
	}
	if bytes.Equal(sealed, seal(t, r, "secret")) {
		t.Error("sealing twice gave the same bytes")
	}
}

func TestAHundredInstancesThatStartAtOnceShareOneDataKey(t *testing.T) {
	s := newSurroundings(t)
	const instances = 100
	var (
		wait   sync.WaitGroup
		rings  [instances]*Ring
		sealed [instances][]byte
		faults [instances]error
	)
	for i := range instances {
		rings[i] = s.ring()
		wait.Go(func() { sealed[i], faults[i] = rings[i].Seal(t.Context(), subject, fmt.Append(nil, i)) })
	}
	wait.Wait()
	if err := errors.Join(faults[:]...); err != nil {
		t.Fatal(err)
	}
	if n := len(s.records(t)); n != 1 {
		t.Fatalf("there are %d data keys, want 1", n)
	}
	for i := range instances {
		wantOpen(t, rings[(i*37+11)%instances], sealed[i], fmt.Sprint(i))
	}
	wantOpen(t, s.ring(), sealed[0], "0")
}

func TestAKeyThatDoesNotGiveBackWhatWasWrappedIsNeverUsed(t *testing.T) {
	for name, faults := range map[string]kmstest.Faults{
		"a public key of another key":     {WrongPublic: true},
		"an unwrap that answers nonsense": {WrongPlaintext: true},
		"no right to decrypt":             {Err: fault.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSurroundings(t)
			s.key.Set(faults)
			r := s.ring()
			if _, err := r.Seal(t.Context(), subject, []byte("secret")); err == nil {
				t.Fatal("sealed under a data key that cannot be had back")
			}
			if n := len(s.records(t)); n != 0 {
				t.Fatalf("%d data keys were stored", n)
			}
			if err := r.Check(t.Context()); err == nil {
				t.Error("the check passes")
			}
			s.key.Set(kmstest.Faults{})
			wantOpen(t, r, seal(t, r, "secret"), "secret")
		})
	}
}

func TestACreationWhoseAnswerWasLostLeavesOneWorkingDataKey(t *testing.T) {
	s := newSurroundings(t)
	s.driver.Inject(storetest.Fault{Method: storetest.Put, When: storetest.After})
	r := s.ring()
	if _, err := r.Seal(t.Context(), subject, []byte("secret")); err == nil {
		t.Fatal("the lost answer was not reported")
	}
	wantOpen(t, r, seal(t, r, "secret"), "secret")
	if n := len(s.records(t)); n != 1 {
		t.Fatalf("there are %d data keys, want 1", n)
	}
}

func TestWarmUseAsksNobody(t *testing.T) {
	s := newSurroundings(t)
	r := s.ring()
	sealed := seal(t, r, "secret")

	cold := s.ring()
	unwraps, lists := s.key.Calls().Unwrap, s.driver.Calls(storetest.List)
	wantOpen(t, cold, sealed, "secret")
	if n := s.key.Calls().Unwrap - unwraps; n != 1 {
		t.Errorf("a cold open unwrapped %d times, want 1", n)
	}
	if n := s.driver.Calls(storetest.List) - lists; n != 1 {
		t.Errorf("a cold open listed %d times, want 1", n)
	}

	calls, storeCalls := s.key.Calls(), s.driver.Calls()
	for range 1000 {
		wantOpen(t, cold, sealed, "secret")
		seal(t, r, "secret")
	}
	if s.key.Calls() != calls || s.driver.Calls() != storeCalls {
		t.Errorf("warm use called the KMS %v times and the store %d times", s.key.Calls(), s.driver.Calls()-storeCalls)
	}
}

func TestConcurrentColdOpensUnwrapOnce(t *testing.T) {
	s := newSurroundings(t)
	sealed := seal(t, s.ring(), "secret")
	cold, before := s.ring(), s.key.Calls().Unwrap
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			if _, err := cold.Open(t.Context(), subject, sealed); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	// Two, if one caller came after the first flight had landed and before it
	// was seen.
	if n := s.key.Calls().Unwrap - before; n > 2 {
		t.Errorf("unwrapped %d times", n)
	}
}

func TestAWaitingCallerGivesUpAloneAndTheOthersAreServed(t *testing.T) {
	s := newSurroundings(t)
	sealed := seal(t, s.ring(), "secret")
	cold := s.ring()
	s.key.Set(kmstest.Faults{Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := cold.Open(ctx, subject, sealed)
	wantTransient(t, err)
}

func wantTransient(t *testing.T, err error) {
	t.Helper()
	if fault.Of(err) != fault.Transient {
		t.Fatalf("the error is %v, want Transient", err)
	}
}

func TestTheKMSMayBeDownForAWhile(t *testing.T) {
	s := newSurroundings(t)
	r := s.ring()
	sealed := seal(t, r, "secret")
	s.key.Set(kmstest.Faults{Err: fault.Transient})

	s.wait(55 * time.Minute)
	wantOpen(t, r, sealed, "secret") // past four fifths: asked for anew, in vain
	s.wait(10 * time.Minute)
	_, err := r.Open(t.Context(), subject, sealed)
	wantTransient(t, err)
	_, err = s.ring().Open(t.Context(), subject, sealed)
	wantTransient(t, err)

	s.key.Set(kmstest.Faults{})
	wantOpen(t, r, sealed, "secret") // without a restart
}

func TestADataKeyIsUnwrappedAnewBeforeItsAge(t *testing.T) {
	s := newSurroundings(t)
	r := s.ring()
	sealed := seal(t, r, "secret")
	for hours := range 10 {
		before := s.key.Calls().Unwrap
		s.wait(50 * time.Minute)
		wantOpen(t, r, sealed, "secret")
		// The renewal happens beside the call; the next one is for it to land.
		for range 20_000 {
			if r.unwrappedSince(1).Equal(s.clock) {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if n := s.key.Calls().Unwrap - before; n != 1 {
			t.Fatalf("round %d: unwrapped %d times, want 1", hours, n)
		}
	}
}

func (r *Ring) unwrappedSince(n uint32) time.Time {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.unwrapped[n].loaded
}

func TestRotationHappensWhileServing(t *testing.T) {
	s := newSurroundings(t)
	first, second := s.ring(), s.ring()
	old := seal(t, first, "old")
	wantOpen(t, second, old, "old")

	number, err := first.Rotate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fresh := seal(t, first, "new")
	if got, err := Number(fresh); err != nil || got != number || number != 2 {
		t.Fatalf("sealed under data key %d (%v), want %d", got, err, number)
	}
	wantOpen(t, second, fresh, "new") // which had not heard of it
	wantOpen(t, second, old, "old")

	s.wait(2 * time.Hour)
	if got, err := Number(seal(t, second, "later")); err != nil || got != 2 {
		t.Fatalf("another instance seals under data key %d (%v) two hours later, want 2", got, err)
	}
	infos, err := second.List(t.Context())
	if err != nil || len(infos) != 2 || infos[0].Number != 1 || infos[1].Number != 2 {
		t.Fatalf("the list is %v (%v)", infos, err)
	}
}

func TestTwoRotationsAtOnceMakeOneDataKey(t *testing.T) {
	s := newSurroundings(t)
	first, second := s.ring(), s.ring()
	seal(t, first, "old")
	if _, err := first.Current(t.Context()); err != nil {
		t.Fatal(err)
	}
	var (
		wait   sync.WaitGroup
		faults [2]error
	)
	for i, r := range []*Ring{first, second} {
		wait.Go(func() { _, faults[i] = r.Rotate(t.Context()) })
	}
	wait.Wait()
	for _, err := range faults {
		if err != nil && !errors.Is(err, fault.Conflict) {
			t.Fatal(err)
		}
	}
	wantOpen(t, second, seal(t, first, "new"), "new")
}

// Whoever can write to the database, and knows the public key, must not be
// able to have users' keys sealed under a data key of his own.
func TestAForgedDataKeySealsNothing(t *testing.T) {
	s := newSurroundings(t)
	sealed := seal(t, s.ring(), "secret")

	plain := bytes.Repeat([]byte{7}, dataKeySize)
	forger := s.ring()
	wrapped, err := kms.Wrap(t.Context(), s.key, plain, forger.binding(2))
	if err != nil {
		t.Fatal(err)
	}
	forged := record{Number: 2, Created: s.clock, Wraps: []kms.Wrapped{wrapped}, Check: forger.check(macKey(plain), 2)}
	for name, proof := range map[string][]byte{
		"no proof":                   nil,
		"a proof of its own":         forger.proof(macKey(plain), forged),
		"the proof of another value": s.records(t)[0].Value.Check,
	} {
		t.Run(name, func(t *testing.T) {
			forged.Proof = proof
			r := s.ring()
			if _, err := r.records.Put(t.Context(), store.Record[record]{ID: r.id(2), Parent: "user-keys", Value: forged}, store.Any()); err != nil {
				t.Fatal(err)
			}
			_, err := r.Seal(t.Context(), subject, []byte("secret"))
			wantClass(t, err, fault.Lost)
			wantOpen(t, r, sealed, "secret")

			// Nor is a value of the forger's taken for a user's.
			key, err := newDataKey(plain, s.clock)
			if err != nil {
				t.Fatal(err)
			}
			nonce := make([]byte, nonceSize)
			planted := sealedBy(key, 2, nonce, additionalData("user-keys", 2, subject))
			for _, r := range []*Ring{r, s.ring()} {
				_, err = r.Open(t.Context(), subject, planted)
				wantClass(t, err, fault.Lost)
			}
			wantClass(t, r.Check(t.Context()), fault.Lost)
		})
	}
}

func sealedBy(key *dataKey, number uint32, nonce, additional []byte) []byte {
	return sealed{number: number, nonce: nonce, ciphertext: key.aead.Seal(nil, nonce, []byte("planted"), additional)}.marshal()
}

// What a process has seen is not replaced under its hands, the first data key
// included, which has no proof.
func TestADataKeyThatIsReplacedInPlaceIsNotTaken(t *testing.T) {
	s := newSurroundings(t)
	r := s.ring()
	sealed := seal(t, r, "secret")
	forger := s.ring()
	plain := bytes.Repeat([]byte{7}, dataKeySize)
	wrapped, err := kms.Wrap(t.Context(), s.key, plain, forger.binding(1))
	if err != nil {
		t.Fatal(err)
	}
	forged := s.records(t)[0]
	forged.Value.Wraps, forged.Value.Check = []kms.Wrapped{wrapped}, forger.check(macKey(plain), 1)
	if _, err := r.records.Put(t.Context(), forged, store.Any()); err != nil {
		t.Fatal(err)
	}
	wantOpen(t, r, sealed, "secret")
	s.wait(2 * time.Hour)
	_, err = r.Seal(t.Context(), subject, []byte("secret"))
	wantClass(t, err, fault.Lost)
}

func TestAnUnwrappedDataKeyIsForgottenAtItsAge(t *testing.T) {
	s := newSurroundings(t)
	r := New(Config{Name: "user-keys", Store: store.New(s.driver), Key: s.key, MaxAge: 30 * time.Millisecond})
	seal(t, r, "secret")
	for range 2000 {
		r.mu.RLock()
		left := len(r.unwrapped)
		r.mu.RUnlock()
		if left == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("nobody asked any more, and the data key stayed in memory")
}

func TestAColdOpenAfterARotationUnwrapsTwice(t *testing.T) {
	s := newSurroundings(t)
	r := s.ring()
	seal(t, r, "old")
	for range 5 {
		if _, err := r.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sealed, before := seal(t, r, "new"), s.key.Calls().Unwrap
	wantOpen(t, s.ring(), sealed, "new")
	if n := s.key.Calls().Unwrap - before; n != 2 {
		t.Errorf("unwrapped %d times, want 2: the data key and the one that proves it", n)
	}
}

// To the ring's callers, "not found" is said of documents only.
func TestAKeyThatIsNotThereIsAFaultOfTheConfiguration(t *testing.T) {
	for _, class := range []fault.Class{fault.NotFound, fault.Conflict} {
		s := newSurroundings(t)
		s.key.Set(kmstest.Faults{Err: class, DescribeToo: true})
		_, err := s.ring().Seal(t.Context(), subject, []byte("secret"))
		if fault.Of(err) != fault.Invalid {
			t.Errorf("sealing with a %q key: %v", string(class), err)
		}
		s.key.Set(kmstest.Faults{})
		sealed := seal(t, s.ring(), "secret")
		s.key.Set(kmstest.Faults{Err: class})
		if _, err := s.ring().Open(t.Context(), subject, sealed); fault.Of(err) != fault.Invalid {
			t.Errorf("opening with a %q key: %v", string(class), err)
		}
	}
}

func TestADataKeyThatWasChangedInTheStoreIsLost(t *testing.T) {
	for name, change := range map[string]func(*record){
		"another data key under the same name": func(r *record) { r.Check[0] ^= 1 },
		"a damaged wrapping":                   func(r *record) { r.Wraps[0].Ciphertext[9] ^= 1 },
		"no wrapping":                          func(r *record) { r.Wraps = nil },
		"another number":                       func(r *record) { r.Number = 9 },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSurroundings(t)
			r := s.ring()
			sealed := seal(t, r, "secret")
			stored := s.records(t)[0]
			change(&stored.Value)
			if _, err := r.records.Put(t.Context(), stored, store.Any()); err != nil {
				t.Fatal(err)
			}
			_, err := s.ring().Open(t.Context(), subject, sealed)
			wantClass(t, err, fault.Lost)
			wantOpen(t, r, sealed, "secret") // still in memory
		})
	}
}

func TestMovingToAnotherKeyHappensWhileServing(t *testing.T) {
	s := newSurroundings(t)
	other := kmstest.NewOtherKey(t)
	old := s.ring()
	sealed := seal(t, old, "secret")
	if _, err := old.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}

	moving := s.ringUnder(other, s.key)
	wantOpen(t, moving, sealed, "secret")
	for _, want := range []int{2, 0} { // repeating it changes nothing
		if changed, err := moving.Rewrap(t.Context(), false); err != nil || changed != want {
			t.Fatalf("%d data keys were rewrapped (%v), want %d", changed, err, want)
		}
	}
	wantOpen(t, s.ring(), sealed, "secret")           // an instance that has only the old key
	wantOpen(t, s.ringUnder(other), sealed, "secret") // and one that has only the new

	if changed, err := moving.Rewrap(t.Context(), true); err != nil || changed != 2 {
		t.Fatalf("the old wrapping of %d data keys was removed (%v), want 2", changed, err)
	}
	wantOpen(t, s.ringUnder(other), sealed, "secret")
	_, err := s.ring().Open(t.Context(), subject, sealed)
	wantClass(t, err, fault.Lost)
	wantOpen(t, s.ringUnder(other), seal(t, s.ringUnder(other), "new"), "new") // the proof holds under the new key
}

// An instance that runs on while the wrappings are moved under it needs no
// restart when the old key goes.
func TestAnInstanceFollowsAMoveToAnotherKey(t *testing.T) {
	s := newSurroundings(t)
	other := kmstest.NewOtherKey(t)
	sealed := seal(t, s.ring(), "secret")
	running := s.ringUnder(other, s.key)
	wantOpen(t, running, sealed, "secret")

	if _, err := s.ringUnder(other, s.key).Rewrap(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	s.key.Set(kmstest.Faults{Err: fault.Denied})
	s.wait(2 * time.Hour)
	wantOpen(t, running, sealed, "secret")
}

// Nothing is taken away on the strength of a name: the wrapping that will be
// the only one must be known to work.
func TestTheOldWrappingStaysUntilTheNewOneWorks(t *testing.T) {
	s := newSurroundings(t)
	other := kmstest.NewOtherKey(t)
	sealed := seal(t, s.ring(), "secret")
	moving := s.ringUnder(other, s.key)
	if _, err := moving.Rewrap(t.Context(), false); err != nil {
		t.Fatal(err)
	}

	other.Set(kmstest.Faults{Err: fault.Denied})
	if changed, err := moving.Rewrap(t.Context(), true); fault.Of(err) != fault.Denied || changed != 0 {
		t.Fatalf("%d changed, %v; want none, and Denied", changed, err)
	}
	wantOpen(t, s.ring(), sealed, "secret")
	other.Set(kmstest.Faults{})

	stored := s.records(t)[0] // an own wrapping that was damaged is made anew
	stored.Value.Wraps[1].Ciphertext[9] ^= 1
	if _, err := moving.records.Put(t.Context(), stored, store.Any()); err != nil {
		t.Fatal(err)
	}
	if changed, err := s.ringUnder(other, s.key).Rewrap(t.Context(), true); err != nil || changed != 1 {
		t.Fatalf("%d changed, %v", changed, err)
	}
	wantOpen(t, s.ringUnder(other), sealed, "secret")
}

func TestAStoreThatIsDownIsTransientAndRecovers(t *testing.T) {
	s := newSurroundings(t)
	sealed := seal(t, s.ring(), "secret")
	r := s.ring()
	s.driver.Inject(storetest.Fault{Method: storetest.List, When: storetest.Before})
	_, err := r.Open(t.Context(), subject, sealed)
	wantTransient(t, err)
	wantOpen(t, r, sealed, "secret")
}

func FuzzOpen(f *testing.F) {
	r := New(Config{Name: "user-keys", Store: store.New(store.NewTable()), Key: kmstest.NewKey(f)})
	sealed, err := r.Seal(f.Context(), subject, []byte("secret"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(sealed[:sealedMin-1])
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{1}, sealedMin))
	f.Fuzz(func(t *testing.T, value []byte) {
		plain, err := r.Open(t.Context(), subject, value)
		if err == nil && !bytes.Equal(value, sealed) {
			t.Fatalf("opened %x, which nobody sealed, to %x", value, plain)
		}
		if err != nil && fault.Of(err) != fault.Lost {
			t.Fatalf("%v is not of class Lost", err)
		}
		if parsed, err := parseSealed(value); err == nil && !bytes.Equal(parsed.marshal(), value) {
			t.Fatal("parsing and writing it again changed it")
		}
	})
}
