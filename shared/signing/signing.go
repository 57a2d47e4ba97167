// Package signing keeps the keys that sign the sessions of machines: made here,
// stored sealed, rotated on a schedule, and the same in every instance.
//
// The keys are a numbered list in the store. Numbers make "create the next one" a
// create-if-absent, so that any number of instances agree, and each key says
// from when it signs: the one that began last does, whatever its algorithm. The
// next is made, and published, an hour before that, which is longer than anybody
// keeps a key set. A key that no longer signs stays published until the last
// session that it can have signed has ended; then its document is deleted.
//
// The private half is sealed under the ring. The public half stands beside it in
// the clear, so that the functions that verify sessions need no KMS: they trust
// whoever may write to this collection.
package signing

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/latchkey-fn/latchkey/shared/auth"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Ring is the name of the keyring that seals the private keys, so that what
// signs needs no right to open anything else.
const Ring = "signing-keys"

// collection holds the keys; it is their documents' parent as well.
const collection = "signing-keys"

// MaxSession is the longest that anything signed here may be valid.
const MaxSession = time.Hour

// CacheAge is how long others may keep what Published gives.
const CacheAge = 5 * time.Minute

const (
	// defaultRotateEvery is how long a key signs where the configuration does
	// not say.
	defaultRotateEvery = 90 * 24 * time.Hour
	// ahead is how long a key is published before it signs.
	ahead = time.Hour
	// maxAge is how long keys at hand are used where the store or the KMS
	// cannot be asked again.
	maxAge = time.Hour
	// clockSkew is how far the clocks of instances may be apart.
	clockSkew = 10 * time.Minute
	// retention is how long a key stays published after the next one began.
	retention = maxAge + MaxSession + clockSkew
	// signerReadsEvery and verifiersReadEvery are how often the list is read
	// again. The second is when a verifier asks, who has a cache of his own and
	// may be looking for a key that he does not know.
	signerReadsEvery   = 5 * time.Minute
	verifiersReadEvery = 10 * time.Second
	// reopenEvery is how often a private key is opened again: that its data key
	// cannot be had any more shows while there is time to mend it.
	reopenEvery = 15 * time.Minute
)

// Config is what the keys stand on.
type Config struct {
	Store *store.Store
	// Ring seals private keys. Nil where nothing is signed.
	Ring *keyring.Ring
	// Algorithm is of the keys that are made from now on, RS256 or ES256. Empty:
	// RS256.
	Algorithm string
	// RotateEvery is how long a key signs. Zero: 90 days.
	RotateEvery time.Duration
	Logger      *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Keys signs and publishes. It is safe for concurrent use.
type Keys struct {
	records     store.Collection[document]
	ring        *keyring.Ring
	algorithm   string
	rotateEvery time.Duration
	logger      *slog.Logger
	now         func() time.Time

	list   *kept[list]
	signer *kept[*signer]
}

// New makes the keys. Nothing is contacted before the first use.
func New(c Config) *Keys {
	if c.Now == nil {
		c.Now = time.Now
	}
	k := &Keys{
		records:     store.NewCollection[document](c.Store, collection),
		ring:        c.Ring,
		algorithm:   cmp.Or(c.Algorithm, RS256),
		rotateEvery: cmp.Or(c.RotateEvery, defaultRotateEvery),
		logger:      c.Logger,
		now:         c.Now,
	}
	k.list = newKept(c.Now, k.read)
	k.signer = newKept(c.Now, k.openDue)
	return k
}

// Type is what the header of a session says that it is (RFC 9068).
const Type = "at+jwt"

// Sign gives claims as a JSON Web Token of that Type. The first
// use ever makes the first key.
func (k *Keys) Sign(ctx context.Context, claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	// A list that cannot be had has no say while there is a signer.
	keys, unknown := k.list.get(ctx, freshFor(signerReadsEvery))
	signer, err := k.signer.get(ctx, func(s *signer, age time.Duration) bool {
		return age < reopenEvery && (unknown != nil || keys.due(k.now()).Value.Public.KeyID == s.kid)
	})
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	token, err := signer.sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return token, nil
}

// ErrNoKey is that nothing was signed yet. It is of class Transient.
var ErrNoKey = fmt.Errorf("%w: nothing was signed yet, so there is no key", fault.Transient)

// Published gives the public keys of all sessions that may not have ended, and
// of those that will begin soon, the newest first; ErrNoKey where there is none
// yet.
func (k *Keys) Published(ctx context.Context) ([]auth.PublicKey, error) {
	keys, err := k.list.get(ctx, freshFor(verifiersReadEvery))
	if err == nil && len(keys) == 0 {
		// The first may have been made since, and signs already.
		if keys, err = k.reread(ctx); err == nil && len(keys) == 0 {
			err = ErrNoKey
		}
	}
	if err != nil {
		return nil, fmt.Errorf("published keys: %w", err)
	}
	published := make([]auth.PublicKey, 0, len(keys))
	for _, record := range slices.Backward(keys[keys.retired(k.now()):]) {
		public := record.Value.Public
		published = append(published, auth.PublicKey{ID: public.KeyID, Algorithm: public.Algorithm, Key: public.Key})
	}
	return published, nil
}

// list is the keys, oldest first.
type list []store.Record[document]

// freshFor tells of a list whether it need not be read again. One without keys
// is never fresh: the first may be made at any moment.
func freshFor(most time.Duration) func(list, time.Duration) bool {
	return func(l list, age time.Duration) bool { return len(l) > 0 && age < most }
}

// due is the key that signs at a time: the one that began last. The first signs
// even before it began, on a clock that is slow. Without keys it is the zero
// record.
func (l list) due(now time.Time) store.Record[document] {
	for _, record := range slices.Backward(l) {
		if !now.Before(record.Value.Begins) {
			return record
		}
	}
	if len(l) > 0 {
		return l[0]
	}
	return store.Record[document]{}
}

// retired is how many keys no session can be of any more.
func (l list) retired(now time.Time) int {
	n := 0
	for n+1 < len(l) && now.After(l[n+1].Value.Begins.Add(retention)) {
		n++
	}
	return n
}

// read lists the keys.
func (k *Keys) read(ctx context.Context) (list, error) {
	var keys list
	for record, err := range k.records.ByParent(ctx, collection) {
		if err == nil {
			err = record.Value.check()
		}
		if err != nil {
			return nil, fmt.Errorf("signing keys: %w", err)
		}
		keys = append(keys, record)
	}
	return keys, nil
}

// openDue gives what signs now, and sees to the schedule while it is at it.
func (k *Keys) openDue(ctx context.Context) (*signer, error) {
	if k.ring == nil {
		return nil, fmt.Errorf("%w: this function only verifies", fault.Unsupported)
	}
	keys, err := k.reread(ctx)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		// Conflict: another instance was first, and its key is ours too.
		if err := k.create(ctx, 1, k.now()); err != nil && fault.Of(err) != fault.Conflict {
			return nil, err
		}
		if keys, err = k.reread(ctx); err != nil {
			return nil, err
		}
		if len(keys) == 0 {
			return nil, fmt.Errorf("%w: the signing key that was just made is not in the store", fault.Transient)
		}
	}
	opened, err := k.open(ctx, keys.due(k.now()))
	if err != nil {
		return nil, err
	}
	if err := k.rotate(ctx, keys); err != nil {
		// There is a key that signs, and the next opening tries again.
		k.logger.ErrorContext(ctx, "the signing keys could not be rotated", slog.String("error", err.Error()))
	}
	return opened, nil
}

// rotate makes the next key when it is time, and deletes those that are retired.
func (k *Keys) rotate(ctx context.Context, keys list) error {
	now, newest := k.now(), keys[len(keys)-1]
	ends := newest.Value.Begins.Add(k.rotateEvery)
	if newest.Value.Public.Algorithm != k.algorithm {
		ends = now
	}
	changed := false
	// One that has not begun yet is the next already.
	if !now.Before(newest.Value.Begins) && !now.Before(ends.Add(-ahead)) {
		begins := ends
		if soonest := now.Add(ahead); begins.Before(soonest) {
			begins = soonest
		}
		number, err := numberOf(newest.ID)
		if err != nil {
			return err
		}
		if err := k.create(ctx, number+1, begins); err != nil && fault.Of(err) != fault.Conflict {
			return err
		}
		changed = true
	}
	for _, record := range keys[:keys.retired(now)] {
		err := k.records.Delete(ctx, record.ID, store.AtRevision(record.Revision))
		if err != nil && fault.Of(err) != fault.NotFound {
			return fmt.Errorf("retired signing key: %w", err)
		}
		k.logger.InfoContext(ctx, "a retired signing key was deleted", slog.String("kid", record.Value.Public.KeyID))
		changed = true
	}
	if !changed {
		return nil
	}
	_, err := k.reread(ctx)
	return err
}

// reread lists the keys for everybody, whatever listing is under way: that one
// may have begun before the latest key was made.
func (k *Keys) reread(ctx context.Context) (list, error) {
	begin := k.now()
	keys, err := k.read(ctx)
	if err == nil {
		k.list.keep(keys, begin)
	}
	return keys, err
}
