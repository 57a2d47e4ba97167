// Package store keeps documents: small records with a revision, found by id,
// by parent or by a look-up value.
//
// A Driver is what a provider implements; Store is what the domains hold. The
// Store checks every input once, so that a driver never sees a bad one, and
// says in each error what was being done. storetest.Run holds every driver to
// the contract written here.
package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Limits of a document. They are those of the strictest store (a DynamoDB item
// is at most 400 KB and is kept twice when it is listed), so that moving from
// one store to another never meets a document that does not fit.
const (
	MaxName = 512        // bytes of an id, a parent or a look-up value
	MaxBody = 256 * 1024 // bytes of a body
	MaxPage = 250        // documents of a page
	MaxKeys = 100        // documents that GetMany gives at once
)

// Document is one stored record.
type Document struct {
	// Collection is the kind of record, [a-z][a-z0-9-]{0,62}.
	Collection string
	// ID is unique in its collection: 1 to MaxName bytes of UTF-8 without
	// control characters.
	ID string
	// Parent groups documents for List. A document with an empty parent is in
	// no listing, which makes it cheaper to write.
	Parent string
	// Lookup is a second value to List by; it need not be unique. Empty: none.
	Lookup string
	// Revision is set by the store at each write. It grows with every write of
	// this id, and is not used again when a document is deleted and made anew:
	// it is the time of the write in Unix microseconds, or one more than the
	// revision before where that would not be larger.
	Revision int64
	// Expires is when the document ceases to exist, to the second. Zero: never.
	Expires time.Time
	// Body is opaque, at most MaxBody bytes.
	Body []byte
}

// Precondition is what must be true of the stored document for a write to
// happen. An expired document counts as absent.
type Precondition struct {
	kind     preconditionKind
	revision int64
}

type preconditionKind int

const (
	anyRevision preconditionKind = iota
	mustBeAbsent
	atRevision
	before
)

// Any writes whatever is there.
func Any() Precondition { return Precondition{kind: anyRevision} }

// Absent writes only where there is no document.
func Absent() Precondition { return Precondition{kind: mustBeAbsent} }

// AtRevision writes only over exactly this revision.
func AtRevision(n int64) Precondition { return Precondition{kind: atRevision, revision: n} }

// Before writes where there is no document or its last write was earlier than
// t. It makes "at most once an hour" a single conditional write.
func Before(t time.Time) Precondition {
	return Precondition{kind: before, revision: t.UnixMicro()}
}

// Bounds gives the precondition as what a driver can say in one condition: a
// write may happen over a document whose revision is from least to most (over
// none where least is more than most), and with absent where there is none.
func (p Precondition) Bounds() (least, most int64, absent bool) {
	switch p.kind {
	case mustBeAbsent:
		return 1, 0, true
	case atRevision:
		return p.revision, p.revision, false
	case before:
		return 1, p.revision - 1, true
	default:
		return 1, math.MaxInt64, true
	}
}

// Holds tells whether a write may happen, given the revision of the document
// that is there (0: none, or an expired one).
func (p Precondition) Holds(current int64) bool {
	least, most, absent := p.Bounds()
	if current == 0 {
		return absent
	}
	return least <= current && current <= most
}

// String names the precondition, for errors and tests.
func (p Precondition) String() string {
	switch p.kind {
	case mustBeAbsent:
		return "absent"
	case atRevision:
		return fmt.Sprintf("at revision %d", p.revision)
	case before:
		return fmt.Sprintf("before revision %d", p.revision)
	default:
		return "any"
	}
}

// NextRevision is the revision of a write made now over the revision current
// (0: none).
func NextRevision(current int64, now time.Time) int64 {
	return max(current+1, now.UnixMicro())
}

// Query selects documents of one collection. Exactly one of Parent and Lookup
// is given.
type Query struct {
	Collection string
	Parent     string
	Lookup     string
	// After is the id after which the page begins; empty: from the start.
	After string
	// Limit is how many documents a page holds at the most, 1 to MaxPage.
	Limit int
}

// Page is part of a listing, in the byte order of the ids.
type Page struct {
	Documents []Document
	// Next is the After of the next page; empty when this page is the last.
	Next string
}

// Key names one document.
type Key struct{ Collection, ID string }

// Driver is what a store provider implements. It is safe for concurrent use by
// many goroutines, and its data by many processes unless its documentation
// says that there can be only one.
//
// Every read sees every write that was acknowledged before it began. A write
// that was acknowledged survives the death of the process. A call whose
// context ends may have happened or not, but never in part.
//
// Errors carry a class of shared/fault: NotFound and Conflict as said below,
// Denied, Transient, and Lost for stored bytes that cannot be understood.
type Driver interface {
	// Get returns one document, or NotFound.
	Get(ctx context.Context, collection, id string) (Document, error)
	// GetMany returns those of the documents that exist, in the order of the
	// keys, which are 1 to MaxKeys and different from one another. Each is read
	// as Get would, but not all at the same moment.
	GetMany(ctx context.Context, keys []Key) ([]Document, error)
	// Put writes a whole document where the precondition holds, and returns
	// its new revision; otherwise Conflict and nothing is changed. A write that
	// the driver itself repeats after a lost answer is acknowledged once.
	Put(ctx context.Context, doc Document, pre Precondition) (int64, error)
	// Delete removes one document where the precondition holds. NotFound where
	// there is none, Conflict where the precondition does not hold.
	Delete(ctx context.Context, collection, id string, pre Precondition) error
	// List returns a page.
	List(ctx context.Context, q Query) (Page, error)
	// Close gives everything back. No call follows it.
	Close() error
}

// Store is a driver that has been given checked input only.
type Store struct{ driver Driver }

// New makes a Store of a driver.
func New(driver Driver) *Store { return &Store{driver: driver} }

// Get returns one document.
func (s *Store) Get(ctx context.Context, collection, id string) (Document, error) {
	if err := errors.Join(checkCollection(collection), checkName("id", id)); err != nil {
		return Document{}, fmt.Errorf("get %s: %w", collection, err)
	}
	doc, err := s.driver.Get(ctx, collection, id)
	if err != nil {
		return Document{}, fmt.Errorf("get %s: %w", collection, err)
	}
	return doc, nil
}

// GetMany returns those of the documents that exist, in the order of the keys.
// It is one call of the driver.
func (s *Store) GetMany(ctx context.Context, keys []Key) ([]Document, error) {
	if err := checkKeys(keys); err != nil {
		return nil, fmt.Errorf("get %d documents: %w", len(keys), err)
	}
	docs, err := s.driver.GetMany(ctx, keys)
	if err != nil {
		return nil, fmt.Errorf("get %d documents of %s: %w", len(keys), keys[0].Collection, err)
	}
	return docs, nil
}

// Put writes one document and returns its new revision.
func (s *Store) Put(ctx context.Context, doc Document, pre Precondition) (int64, error) {
	if err := check(doc); err != nil {
		return 0, fmt.Errorf("put %s: %w", doc.Collection, err)
	}
	if !doc.Expires.IsZero() {
		doc.Expires = doc.Expires.Truncate(time.Second)
	}
	revision, err := s.driver.Put(ctx, doc, pre)
	if err != nil {
		return 0, fmt.Errorf("put %s (%s): %w", doc.Collection, pre, err)
	}
	return revision, nil
}

// Delete removes one document.
func (s *Store) Delete(ctx context.Context, collection, id string, pre Precondition) error {
	if err := errors.Join(checkCollection(collection), checkName("id", id)); err != nil {
		return fmt.Errorf("delete %s: %w", collection, err)
	}
	if err := s.driver.Delete(ctx, collection, id, pre); err != nil {
		return fmt.Errorf("delete %s (%s): %w", collection, pre, err)
	}
	return nil
}

// List returns a page; a Limit of 0 is MaxPage.
func (s *Store) List(ctx context.Context, q Query) (Page, error) {
	if q.Limit == 0 {
		q.Limit = MaxPage
	}
	if err := checkQuery(q); err != nil {
		return Page{}, fmt.Errorf("list %s: %w", q.Collection, err)
	}
	page, err := s.driver.List(ctx, q)
	if err != nil {
		return Page{}, fmt.Errorf("list %s: %w", q.Collection, err)
	}
	return page, nil
}

// Close gives back what the driver holds.
func (s *Store) Close() error { return s.driver.Close() }

var collectionName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

func checkCollection(name string) error {
	if !collectionName.MatchString(name) {
		return fmt.Errorf("%w: collection %q is not a lower-case word", fault.Invalid, name)
	}
	return nil
}

func checkName(what, name string) error {
	if name == "" {
		return fmt.Errorf("%w: the %s is empty", fault.Invalid, what)
	}
	return checkOptional(what, name)
}

func checkOptional(what, name string) error {
	switch {
	case len(name) > MaxName:
		return fmt.Errorf("%w: the %s has %d bytes, more than %d", fault.Invalid, what, len(name), MaxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: the %s is not UTF-8", fault.Invalid, what)
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("%w: the %s holds a control character", fault.Invalid, what)
	}
	return nil
}

func checkKeys(keys []Key) error {
	if len(keys) < 1 || len(keys) > MaxKeys {
		return fmt.Errorf("%w: 1 to %d documents can be had at once", fault.Invalid, MaxKeys)
	}
	seen := make(map[Key]bool, len(keys))
	for _, k := range keys {
		if err := errors.Join(checkCollection(k.Collection), checkName("id", k.ID)); err != nil {
			return err
		}
		if seen[k] {
			return fmt.Errorf("%w: a document is asked for twice", fault.Invalid)
		}
		seen[k] = true
	}
	return nil
}

func check(doc Document) error {
	var tooLarge error
	if len(doc.Body) > MaxBody {
		tooLarge = fmt.Errorf("%w: the body has %d bytes, more than %d", fault.Invalid, len(doc.Body), MaxBody)
	}
	return errors.Join(checkCollection(doc.Collection), checkName("id", doc.ID),
		checkOptional("parent", doc.Parent), checkOptional("lookup", doc.Lookup), tooLarge)
}

func checkQuery(q Query) error {
	if (q.Parent == "") == (q.Lookup == "") {
		return fmt.Errorf("%w: a listing is by parent or by look-up value", fault.Invalid)
	}
	if q.Limit < 1 || q.Limit > MaxPage {
		return fmt.Errorf("%w: a page holds 1 to %d documents, not %d", fault.Invalid, MaxPage, q.Limit)
	}
	return errors.Join(checkCollection(q.Collection), checkOptional("parent", q.Parent),
		checkOptional("lookup", q.Lookup), checkOptional("cursor", q.After))
}
