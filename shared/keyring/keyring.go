// Package keyring seals small secrets under data keys, and keeps the data keys
// wrapped under a key that never leaves its KMS or HSM.
//
// A ring is a numbered list of AES-256 data keys in the store; the one with
// the highest number seals, all of them open. Numbers make "create the next
// one" a create-if-absent: of any number of instances that start at once, one
// wins and the others take what it made.
//
// Who can write to the database, but not use the KMS key, must not be able to
// slip in a data key of his own (with an RSA key anybody can wrap). So each
// data key after the first carries a proof made with the first, which is
// checked before it is used for anything. The first is trusted as found, and a
// process that has seen a data key never takes another under the same number.
package keyring

import (
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Collection holds the wrapped data keys of all rings; a document's id is
// ring/number and its parent the ring.
const Collection = "data-keys"

const dataKeySize = 32

// defaultMaxAge is how long an unwrapped data key is kept in memory where the
// configuration does not say.
const defaultMaxAge = time.Hour

// loadTimeout bounds one loading of data keys, whoever waits for it.
const loadTimeout = 20 * time.Second

// Config is what a ring is made of.
type Config struct {
	// Name tells rings apart that share a store; a word such as "user-keys".
	Name string
	// Store keeps the wrapped data keys.
	Store *store.Store
	// Key wraps new data keys and unwraps.
	Key kms.Unwrapper
	// Previous are keys that data keys may still be wrapped under, until
	// Rewrap was run.
	Previous []kms.Unwrapper
	// MaxAge is how long an unwrapped data key stays in memory. Past four
	// fifths of it the next use asks the KMS anew; only past all of it does a
	// KMS that is down make the ring unusable. Zero: defaultMaxAge.
	MaxAge time.Duration
}

// Ring seals and opens. It is safe for concurrent use.
type Ring struct {
	name     string
	records  store.Collection[record]
	keys     []kms.Unwrapper // keys[0] wraps
	maxAge   time.Duration
	now      func() time.Time
	inFlight singleflight.Group

	mu        sync.RWMutex
	byNumber  map[uint32]store.Record[record]
	current   uint32
	listed    time.Time
	unwrapped map[uint32]*dataKey
}

// anchor is the number of the data key that proves the others.
const anchor = 1

// record is a data key as it is stored.
type record struct {
	Number  uint32    `json:"number"`
	Created time.Time `json:"created"`
	// Wraps holds the data key once per kms key that may unwrap it.
	Wraps []kms.Wrapped `json:"wraps"`
	// Check is a MAC by the data key over its own name: what was unwrapped is
	// what was wrapped.
	Check []byte `json:"check"`
	// Proof is a MAC by the first data key over name and Check.
	Proof []byte `json:"proof,omitempty"`
}

// dataKey is an unwrapped data key. The key bytes themselves are not kept.
type dataKey struct {
	aead   cipher.AEAD
	mac    []byte
	loaded time.Time
	tried  atomic.Int64 // when a renewal was last begun, Unix nanoseconds
}

// mayRenew tells one caller in every interval to begin a renewal.
func (k *dataKey) mayRenew(now time.Time, every time.Duration) bool {
	tried := k.tried.Load()
	return now.UnixNano()-tried >= int64(every) && k.tried.CompareAndSwap(tried, now.UnixNano())
}

// New makes a ring. Nothing is contacted before the first use.
func New(c Config) *Ring {
	return &Ring{
		name:      c.Name,
		records:   store.NewCollection[record](c.Store, Collection),
		keys:      append([]kms.Unwrapper{c.Key}, c.Previous...),
		maxAge:    cmp.Or(c.MaxAge, defaultMaxAge),
		now:       time.Now,
		byNumber:  map[uint32]store.Record[record]{},
		unwrapped: map[uint32]*dataKey{},
	}
}

// Seal encrypts plaintext for a subject under the current data key, which it
// makes if there is none yet.
func (r *Ring) Seal(ctx context.Context, subject Subject, plaintext []byte) ([]byte, error) {
	number, key, err := r.sealingKey(ctx)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", subject.Collection, err)
	}
	nonce := make([]byte, nonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("seal %s: %w", subject.Collection, err)
	}
	ciphertext := key.aead.Seal(nil, nonce, plaintext, additionalData(r.name, number, subject))
	return sealed{number: number, nonce: nonce, ciphertext: ciphertext}.marshal(), nil
}

// Open decrypts what Seal made for the same subject. The class of the error is
// Lost where value, subject or data key do not fit together.
func (r *Ring) Open(ctx context.Context, subject Subject, value []byte) ([]byte, error) {
	s, err := parseSealed(value)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", subject.Collection, err)
	}
	key, err := r.dataKey(ctx, s.number)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", subject.Collection, err)
	}
	plaintext, err := key.aead.Open(nil, s.nonce, s.ciphertext, additionalData(r.name, s.number, subject))
	if err != nil {
		return nil, fmt.Errorf("%w: open %s: the sealed value was changed, or belongs to another record", fault.Lost, subject.Collection)
	}
	return plaintext, nil
}

// Number tells which data key sealed a value.
func Number(value []byte) (uint32, error) {
	s, err := parseSealed(value)
	return s.number, err
}

// Check proves that the ring works now: the store answers, and the KMS really
// unwraps the current data key (or, before there is one, a random probe).
func (r *Ring) Check(ctx context.Context) error {
	if err := r.list(ctx); err != nil {
		return err
	}
	r.mu.RLock()
	current, ok := r.byNumber[r.current]
	r.mu.RUnlock()
	if ok {
		_, err := r.fetch(ctx, current.Value)
		return err
	}
	_, plain, err := r.newDataKey(ctx, 0)
	clear(plain)
	return err
}

// Current is the number of the data key that seals; 0 before there is one.
func (r *Ring) Current(ctx context.Context) (uint32, error) {
	if err := r.list(ctx); err != nil {
		return 0, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.current, nil
}

// Info is what may be known of a data key.
type Info struct {
	Number  uint32    `json:"number"`
	Created time.Time `json:"created"`
	Keys    []kms.Ref `json:"wrappedUnder"`
}

// List tells of all data keys, oldest first.
func (r *Ring) List(ctx context.Context) ([]Info, error) {
	if err := r.list(ctx); err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	infos := make([]Info, 0, len(r.byNumber))
	for _, stored := range r.byNumber {
		info := Info{Number: stored.Value.Number, Created: stored.Value.Created}
		for _, w := range stored.Value.Wraps {
			info.Keys = append(info.Keys, w.Key)
		}
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, b Info) int { return cmp.Compare(a.Number, b.Number) })
	return infos, nil
}

// Rotate makes the next data key, which seals from now on. Other instances
// follow when they next list the ring: at the latest after MaxAge, or when
// they meet a value that the new data key sealed.
func (r *Ring) Rotate(ctx context.Context) (uint32, error) {
	if err := r.list(ctx); err != nil {
		return 0, err
	}
	before, _, err := r.sealingKey(ctx)
	if err != nil {
		return 0, fmt.Errorf("rotate the data key: %w", err)
	}
	if err := r.create(ctx, before+1); err != nil {
		return 0, fmt.Errorf("rotate the data key: %w", err)
	}
	return before + 1, r.list(ctx)
}

// Rewrap wraps every data key under the ring's own key as well, or, with only,
// under nothing else. Each new wrapping is unwrapped and compared before it is
// stored. It returns how many data keys were changed, and is safe to repeat.
func (r *Ring) Rewrap(ctx context.Context, only bool) (int, error) {
	if err := r.list(ctx); err != nil {
		return 0, err
	}
	own, err := r.keys[0].Describe(ctx)
	if err != nil {
		return 0, fmt.Errorf("rewrap: %w", err)
	}
	r.mu.RLock()
	stored := make([]store.Record[record], 0, len(r.byNumber))
	for _, s := range r.byNumber {
		stored = append(stored, s)
	}
	r.mu.RUnlock()

	changed := 0
	for _, s := range stored {
		did, err := r.rewrap(ctx, s, own.Ref, only)
		if err != nil {
			return changed, fmt.Errorf("rewrap data key %d: %w", s.Value.Number, err)
		}
		if did {
			changed++
		}
	}
	return changed, r.list(ctx)
}

// rewrap gives one data key a wrapping under the ring's own key that is known
// to work, and tells whether anything had to be changed for it.
func (r *Ring) rewrap(ctx context.Context, s store.Record[record], own kms.Ref, only bool) (bool, error) {
	isOwn := func(w kms.Wrapped) bool { return w.Key == own }
	mine := record{Number: s.Value.Number, Check: s.Value.Check}
	var others []kms.Wrapped
	for _, w := range s.Value.Wraps {
		if isOwn(w) {
			mine.Wraps = append(mine.Wraps, w)
		} else {
			others = append(others, w)
		}
	}
	// A wrapping that is there is relied on only after it was undone by the own
	// key alone: with only, nothing else will be left.
	plain, err := r.unwrapWith(ctx, mine, r.keys[:1])
	clear(plain)
	works := err == nil
	if works && (!only || len(others) == 0) {
		return false, nil
	}
	if !works {
		plain, err := r.unwrap(ctx, s.Value)
		if err != nil {
			return false, err
		}
		wrapped, err := r.wrap(ctx, s.Value.Number, plain)
		clear(plain)
		if err != nil {
			return false, err
		}
		mine.Wraps = []kms.Wrapped{wrapped}
	}
	s.Value.Wraps = mine.Wraps
	if !only {
		s.Value.Wraps = append(others, mine.Wraps...)
	}
	_, err = r.records.Put(ctx, s, store.AtRevision(s.Revision))
	return err == nil, err
}

// sealingKey is the current data key.
func (r *Ring) sealingKey(ctx context.Context) (uint32, *dataKey, error) {
	r.mu.RLock()
	current, listed := r.current, r.listed
	r.mu.RUnlock()

	if current == 0 || r.now().Sub(listed) > r.maxAge {
		if err := r.list(ctx); err != nil {
			return 0, nil, err
		}
		r.mu.RLock()
		current = r.current
		r.mu.RUnlock()
	}
	if current == 0 {
		// Conflict: another instance was first, and its data key is ours too.
		if err := r.create(ctx, anchor); err != nil && fault.Of(err) != fault.Conflict {
			return 0, nil, err
		}
		if err := r.list(ctx); err != nil {
			return 0, nil, err
		}
		current = anchor
	}
	key, err := r.dataKey(ctx, current)
	return current, key, err
}

// create makes and stores the data key n; Conflict where it exists.
func (r *Ring) create(ctx context.Context, n uint32) error {
	made, plain, err := r.newDataKey(ctx, n)
	if err != nil {
		return err
	}
	defer clear(plain)
	if n != anchor {
		first, err := r.dataKey(ctx, anchor)
		if err != nil {
			return err
		}
		made.Proof = r.proof(first.mac, made)
	}
	_, err = r.records.Put(ctx, store.Record[record]{ID: r.id(n), Parent: r.name, Value: made}, store.Absent())
	return err
}

func (r *Ring) newDataKey(ctx context.Context, n uint32) (record, []byte, error) {
	plain := make([]byte, dataKeySize)
	if _, err := rand.Read(plain); err != nil {
		return record{}, nil, fmt.Errorf("make a data key: %w", err)
	}
	wrapped, err := r.wrap(ctx, n, plain)
	if err != nil {
		return record{}, nil, fmt.Errorf("make a data key: %w", err)
	}
	made := record{Number: n, Created: r.now().UTC().Truncate(time.Second), Wraps: []kms.Wrapped{wrapped}}
	made.Check = r.check(macKey(plain), n)
	return made, plain, nil
}

// wrap wraps under the ring's own key, and proves that it can be undone before
// anything relies on it: a public key that does not belong to the private one,
// or the right to encrypt without the right to decrypt, shows here and not
// after the next restart.
func (r *Ring) wrap(ctx context.Context, n uint32, plain []byte) (kms.Wrapped, error) {
	wrapped, err := kms.Wrap(ctx, r.keys[0], plain, r.binding(n))
	if err != nil {
		return kms.Wrapped{}, ours(err)
	}
	back, err := kms.Unwrap(ctx, r.keys[0], wrapped, r.binding(n))
	if err != nil {
		return kms.Wrapped{}, fmt.Errorf("a new wrapping could not be undone, so it is not used: %w", ours(err))
	}
	defer clear(back)
	if !hmac.Equal(back, plain) {
		return kms.Wrapped{}, fmt.Errorf("%w: the key %s does not give back what was wrapped to it: its public and private halves do not belong together", fault.Invalid, wrapped.Key)
	}
	return wrapped, nil
}

// unwrap asks the kms keys for a stored data key and checks what comes back.
func (r *Ring) unwrap(ctx context.Context, stored record) ([]byte, error) {
	return r.unwrapWith(ctx, stored, r.keys)
}

func (r *Ring) unwrapWith(ctx context.Context, stored record, keys []kms.Unwrapper) ([]byte, error) {
	var faults []error
	for _, w := range stored.Wraps {
		for _, key := range keys {
			plain, err := kms.Unwrap(ctx, key, w, r.binding(stored.Number))
			if err != nil {
				faults = append(faults, ours(err))
				continue
			}
			if len(plain) != dataKeySize || !hmac.Equal(stored.Check, r.check(macKey(plain), stored.Number)) {
				faults = append(faults, fmt.Errorf("%w: what %s unwrapped is not the data key that was wrapped", fault.Lost, w.Key))
				continue
			}
			return plain, nil
		}
	}
	return nil, fmt.Errorf("data key %s: %w", r.id(stored.Number), worst(faults))
}

// ours makes of a key that is not there, or of a store of keys that others
// change, what it is to the callers of the ring: a fault of the configuration.
// To them, NotFound and Conflict are of documents.
func ours(err error) error {
	switch fault.Of(err) {
	case fault.NotFound, fault.Conflict:
		return fmt.Errorf("%w: %w", fault.Invalid, err)
	}
	return err
}

// worst chooses what to tell when no key could unwrap: a fault that may pass,
// or our rights, before "made for another key", which only says that the right
// key is the one that failed otherwise.
func worst(faults []error) error {
	for _, class := range []fault.Class{fault.Transient, fault.Denied, fault.Invalid, fault.Unsupported} {
		for _, err := range faults {
			if fault.Of(err) == class {
				return err
			}
		}
	}
	if len(faults) == 0 {
		return fmt.Errorf("%w: it is wrapped under no key", fault.Lost)
	}
	return fmt.Errorf("%w: none of the configured keys unwraps it: %w", fault.Lost, faults[0])
}

// fetch unwraps a data key and checks its proof.
func (r *Ring) fetch(ctx context.Context, stored record) (*dataKey, error) {
	plain, err := r.unwrap(ctx, stored)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	if stored.Number != anchor {
		first, err := r.dataKey(ctx, anchor)
		if err != nil {
			return nil, err
		}
		if !hmac.Equal(stored.Proof, r.proof(first.mac, stored)) {
			return nil, fmt.Errorf("%w: data key %s was not made by this ring: somebody else wrote it into the store; nothing is sealed or opened with it", fault.Lost, r.id(stored.Number))
		}
	}
	return newDataKey(plain, r.now())
}

// dataKey gives an unwrapped data key from memory, or has it unwrapped. One
// that nears its age is renewed behind the caller's back, so that a KMS that
// hangs is not felt as long as there is still a good answer.
func (r *Ring) dataKey(ctx context.Context, n uint32) (*dataKey, error) {
	r.mu.RLock()
	key := r.unwrapped[n]
	r.mu.RUnlock()
	if key == nil {
		return r.load(ctx, n)
	}
	age := r.now().Sub(key.loaded)
	switch {
	case age > r.maxAge:
		return r.load(ctx, n)
	case age > r.maxAge/5*4 && key.mayRenew(r.now(), r.maxAge/50):
		r.startLoad(ctx, n)
	}
	return key, nil
}

// load unwraps a data key once for all who wait for it. It is not undone by
// the first of them giving up.
func (r *Ring) load(ctx context.Context, n uint32) (*dataKey, error) {
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("data key %s: %w", r.id(n), ctx.Err())
	case got := <-r.startLoad(ctx, n):
		if got.Err != nil {
			return nil, got.Err
		}
		return got.Val.(*dataKey), nil
	}
}

func (r *Ring) startLoad(ctx context.Context, n uint32) <-chan singleflight.Result {
	return r.inFlight.DoChan(strconv.FormatUint(uint64(n), 10), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		defer cancel()
		stored, ok := r.known(n)
		var key *dataKey
		err := fmt.Errorf("%w: data key %s is not in the store", fault.Lost, r.id(n))
		if ok {
			key, err = r.fetch(ctx, stored.Value)
		}
		if err != nil {
			// The store may know more by now: the data key itself, or a wrapping
			// under a key that took the place of another.
			if err := r.list(ctx); err != nil {
				return nil, err
			}
			if fresh, ok := r.known(n); ok && fresh.Revision != stored.Revision {
				key, err = r.fetch(ctx, fresh.Value)
			}
		}
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.unwrapped[n] = key
		time.AfterFunc(r.maxAge, func() { r.forget(n, key) })
		return key, nil
	})
}

// known gives what was last listed of a data key.
func (r *Ring) known(n uint32) (store.Record[record], bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	stored, ok := r.byNumber[n]
	return stored, ok
}

// forget drops an unwrapped data key that has reached its age, whether or not
// anybody asks for it again.
func (r *Ring) forget(n uint32, old *dataKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.unwrapped[n] == old {
		delete(r.unwrapped, n)
	}
}

// list reads the ring's records.
func (r *Ring) list(ctx context.Context) error {
	byNumber := map[uint32]store.Record[record]{}
	var current uint32
	for stored, err := range r.records.ByParent(ctx, r.name) {
		if err != nil {
			return fmt.Errorf("list the data keys: %w", err)
		}
		if stored.ID != r.id(stored.Value.Number) {
			return fmt.Errorf("%w: the data key %q says that it is number %d", fault.Lost, stored.ID, stored.Value.Number)
		}
		byNumber[stored.Value.Number] = stored
		current = max(current, stored.Value.Number)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, known := range r.byNumber {
		if seen, ok := byNumber[n]; ok && !hmac.Equal(seen.Value.Check, known.Value.Check) {
			return fmt.Errorf("%w: another data key stands in the place of %s: somebody else wrote it into the store; if it was a restore, restart", fault.Lost, r.id(n))
		}
	}
	// Data keys are never deleted, so a listing that knows fewer is one that
	// was overtaken by another.
	if current >= r.current {
		r.byNumber, r.current = byNumber, current
	}
	r.listed = r.now()
	return nil
}

func newDataKey(plain []byte, now time.Time) (*dataKey, error) {
	block, err := aes.NewCipher(plain)
	if err != nil {
		return nil, fmt.Errorf("%w: data key: %w", fault.Lost, err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("%w: data key: %w", fault.Lost, err)
	}
	return &dataKey{aead: aead, mac: macKey(plain), loaded: now}, nil
}

func (r *Ring) id(n uint32) string { return fmt.Sprintf("%s/%06d", r.name, n) }

func (r *Ring) binding(n uint32) kms.Binding {
	return kms.Binding{"latchkey:data-key": r.id(n)}
}

// macKey keeps the keys of the two MACs apart from the one that encrypts.
func macKey(plain []byte) []byte {
	return mac(plain, "latchkey data key MAC")
}

func (r *Ring) check(key []byte, n uint32) []byte {
	return mac(key, "check "+r.id(n))
}

func (r *Ring) proof(first []byte, of record) []byte {
	return mac(first, "proof "+r.id(of.Number)+" "+string(of.Check))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
