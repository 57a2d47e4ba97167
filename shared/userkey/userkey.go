// Package userkey keeps the key of each member's vault, sealed. It is the
// domain behind Key Connector: one key a user, made once, replaced only when
// asked to, and never rewritten by a read.
package userkey

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/stamp"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Ring is the name of the keyring that seals user keys.
const Ring = "user-keys"

// The collections, and the parent of every user key. A note of an access has no
// parent: it is written often and listed never.
const (
	keyCollection    = "user-keys"
	accessCollection = "user-key-access"
	everyUser        = "all"
)

// Sizes of a key in bytes: what clients make, and what some keep from former
// times and can still send where the configuration allows it.
const (
	Size     = 32
	LongSize = 64
)

// Key is the key of a vault. It prints as [redacted].
type Key struct{ bytes []byte }

// ParseKey reads a key in the standard base64 of clients (RFC 4648 section 4,
// with padding). The error never quotes it.
func ParseKey(text string, allowLong bool) (Key, error) {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return Key{}, fmt.Errorf("%w: the key is not standard base64 with padding", fault.Invalid)
	}
	if len(b) != Size && !(allowLong && len(b) == LongSize) {
		return Key{}, fmt.Errorf("%w: the key has %d bytes instead of %d", fault.Invalid, len(b), Size)
	}
	return Key{b}, nil
}

// Reveal gives the key as clients want it.
func (k Key) Reveal() string { return base64.StdEncoding.EncodeToString(k.bytes) }

// Equal compares in constant time.
func (k Key) Equal(other Key) bool { return subtle.ConstantTimeCompare(k.bytes, other.bytes) == 1 }

// String, GoString, MarshalJSON and LogValue keep the key out of whatever
// prints it by mistake.
func (Key) String() string               { return "[redacted]" }
func (Key) GoString() string             { return "[redacted]" }
func (Key) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }
func (Key) LogValue() slog.Value         { return slog.StringValue("[redacted]") }

// Info is what may be known of a user's key without the key.
type Info struct {
	User    string    `json:"user"`
	Created time.Time `json:"created"`
	Revised time.Time `json:"revised,omitzero"`
	// DataKey is the number of the data key that it is sealed under.
	DataKey uint32 `json:"dataKey"`
	// Revision is the state of the record that this tells of.
	Revision int64 `json:"-"`
}

type stored struct {
	Sealed  []byte    `json:"sealed"`
	Created time.Time `json:"created"`
	Revised time.Time `json:"revised,omitzero"`
}

type access struct {
	At time.Time `json:"at"`
}

// Keys is the domain. It is safe for concurrent use.
type Keys struct {
	keys     store.Collection[stored]
	accesses store.Collection[access]
	noted    *stamp.Book[access]
	ring     *keyring.Ring
	logger   *slog.Logger
	now      func() time.Time
}

// New makes the domain over a store and the ring that seals its keys.
func New(s *store.Store, ring *keyring.Ring, logger *slog.Logger) *Keys {
	accesses := store.NewCollection[access](s, accessCollection)
	return &Keys{
		keys:     store.NewCollection[stored](s, keyCollection),
		accesses: accesses,
		noted:    stamp.NewBook(accesses, logger),
		ring:     ring,
		logger:   logger,
		now:      time.Now,
	}
}

// Get returns the key of a user, or NotFound. It costs one read of the store,
// and at most once an hour and user a small write beside it.
func (k *Keys) Get(ctx context.Context, user string) (Key, error) {
	record, err := k.keys.Get(ctx, user)
	if err != nil {
		return Key{}, fmt.Errorf("user key: %w", err)
	}
	plain, err := k.ring.Open(ctx, subject(user), record.Value.Sealed)
	if err != nil {
		return Key{}, fmt.Errorf("user key: %w", err)
	}
	now := k.time()
	k.noted.Note(ctx, user, now, access{At: now})
	return Key{plain}, nil
}

// Create stores the first key of a user; Conflict where there is one already,
// which then stays as it is.
func (k *Keys) Create(ctx context.Context, user string, key Key) error {
	return k.write(ctx, user, key, stored{Created: k.time()}, store.Absent())
}

// Put stores a user's key whether or not there was one.
func (k *Keys) Put(ctx context.Context, user string, key Key) error {
	return store.Retry(ctx, func() error {
		before, err := k.keys.Get(ctx, user)
		if fault.Of(err) == fault.NotFound {
			return k.Create(ctx, user, key)
		}
		if err != nil {
			return fmt.Errorf("user key: %w", err)
		}
		value := stored{Created: before.Value.Created, Revised: k.time()}
		return k.write(ctx, user, key, value, store.AtRevision(before.Revision))
	})
}

// Delete frees a user: the next first login makes a new key. What the old one
// protected is lost with it, so it is deleted only as it was described;
// Conflict where it was written since.
func (k *Keys) Delete(ctx context.Context, described Info) error {
	if err := k.keys.Delete(ctx, described.User, store.AtRevision(described.Revision)); err != nil {
		return fmt.Errorf("user key: %w", err)
	}
	if err := k.accesses.Delete(ctx, described.User, store.Any()); err != nil && fault.Of(err) != fault.NotFound {
		k.logger.WarnContext(ctx, "the key is deleted, but not the note of its last access", "user", described.User, "error", err)
	}
	return nil
}

// Describe tells of one user's key, or NotFound.
func (k *Keys) Describe(ctx context.Context, user string) (Info, error) {
	record, err := k.keys.Get(ctx, user)
	if err != nil {
		return Info{}, fmt.Errorf("user key: %w", err)
	}
	return info(record)
}

// LastAccess is when the key was last read, to the hour; the zero time where
// that was never noted.
func (k *Keys) LastAccess(ctx context.Context, user string) (time.Time, error) {
	record, err := k.accesses.Get(ctx, user)
	if fault.Of(err) == fault.NotFound {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("last access: %w", err)
	}
	return record.Value.At, nil
}

// All walks all keys, page by page, in the order of the users' ids.
func (k *Keys) All(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for record, err := range k.keys.ByParent(ctx, everyUser) {
			if err != nil {
				yield(Info{}, fmt.Errorf("user keys: %w", err))
				return
			}
			if !yield(info(record)) {
				return
			}
		}
	}
}

// Reseal seals one user's key anew where another data key than the current one
// (keyring.Ring.Current) sealed it, and tells whether it did. The new value is
// opened and compared before it is stored.
func (k *Keys) Reseal(ctx context.Context, user string, current uint32) (bool, error) {
	changed := false
	err := store.Retry(ctx, func() error {
		record, err := k.keys.Get(ctx, user)
		if err != nil {
			return fmt.Errorf("user key: %w", err)
		}
		number, err := keyring.Number(record.Value.Sealed)
		if err != nil {
			return fmt.Errorf("user key: %w", err)
		}
		if number == current {
			return nil
		}
		plain, err := k.ring.Open(ctx, subject(user), record.Value.Sealed)
		if err != nil {
			return fmt.Errorf("user key: %w", err)
		}
		err = k.write(ctx, user, Key{plain}, record.Value, store.AtRevision(record.Revision))
		changed = err == nil
		return err
	})
	return changed, err
}

// write seals and stores. What was sealed is opened and compared first: a key
// that cannot be had back must not be acknowledged.
func (k *Keys) write(ctx context.Context, user string, key Key, value stored, pre store.Precondition) error {
	sealed, err := k.ring.Seal(ctx, subject(user), key.bytes)
	if err != nil {
		return fmt.Errorf("user key: %w", err)
	}
	back, err := k.ring.Open(ctx, subject(user), sealed)
	if err != nil {
		return fmt.Errorf("user key: %w", err)
	}
	if !key.Equal(Key{back}) {
		return fmt.Errorf("%w: the sealed user key does not open to itself", fault.Lost)
	}
	value.Sealed = sealed
	_, err = k.keys.Put(ctx, store.Record[stored]{ID: user, Parent: everyUser, Value: value}, pre)
	if err != nil {
		return fmt.Errorf("user key: %w", err)
	}
	return nil
}

func (k *Keys) time() time.Time { return k.now().UTC().Truncate(time.Second) }

func info(record store.Record[stored]) (Info, error) {
	number, err := keyring.Number(record.Value.Sealed)
	if err != nil {
		return Info{}, fmt.Errorf("key of user %s: %w", record.ID, err)
	}
	return Info{User: record.ID, Created: record.Value.Created, Revised: record.Value.Revised, DataKey: number, Revision: record.Revision}, nil
}

func subject(user string) keyring.Subject {
	return keyring.Subject{Collection: keyCollection, ID: user, Field: "key"}
}
