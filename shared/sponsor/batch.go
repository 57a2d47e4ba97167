package sponsor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor/cloud"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// batchStatus is how far a batch is. There is no document before anything could
// have been sent: a plan that was not carried out is made anew.
type batchStatus string

const (
	// sending: something of it is still to be sent.
	sending batchStatus = "sending"
	// received: what became of every item stands in the document, to be applied.
	received batchStatus = "received"
	applied  batchStatus = "applied"
)

// batch is offers that are sent together, and what became of them. It holds
// nothing about people.
type batch struct {
	Organization string      `json:"organization"`
	Number       int         `json:"number"`
	Phase        Phase       `json:"phase"`
	Status       batchStatus `json:"status"`
	Items        []item      `json:"items,omitempty"`
	// Parts are what is still to be sent, the next one last: usually all items,
	// and halves of them where a bad one is looked for.
	Parts []span `json:"parts,omitempty"`
	// Next is the run's cursor after this batch. Again: it stays where it is, since
	// what was asked after is yet to be deleted.
	Next  string `json:"next,omitempty"`
	Again bool   `json:"again,omitempty"`
	// Attempts are those of the part that is next, and Same how many of them in a
	// row failed with LastCode.
	Attempts int    `json:"attempts,omitempty"`
	Same     int    `json:"same,omitempty"`
	LastCode string `json:"lastCode,omitempty"`
	// Open: a request may be under way. Ambiguous: one may have been carried out
	// without an answer.
	Open      bool `json:"open,omitempty"`
	Ambiguous bool `json:"ambiguous,omitempty"`
	// Diagnosed: it was found out why the cloud fails, and Bisecting: one of the
	// items is to blame. Cleared: since the part that is next began to fail, the
	// cloud has taken something else.
	Diagnosed  bool      `json:"diagnosed,omitempty"`
	Bisecting  bool      `json:"bisecting,omitempty"`
	Cleared    bool      `json:"cleared,omitempty"`
	RequestAt  time.Time `json:"requestAt"`
	ResponseAt time.Time `json:"responseAt,omitzero"`
	HTTPStatus int       `json:"httpStatus,omitempty"`
	// Returned: the cloud gave an item back.
	Returned bool   `json:"returned,omitempty"`
	Counts   Counts `json:"counts"`
	Fence    int64  `json:"fence"`
}

// span is a range of items.
type span struct{ From, To int }

func (s span) size() int { return s.To - s.From }

// item is an offer as it was last sent.
type item struct {
	Offer      string `json:"o"`
	Generation int    `json:"g,omitempty"`
	Delete     bool   `json:"d,omitempty"`
	// Check: it was asked after, to be deleted if nobody has redeemed it, and Asked
	// when. Replace: its deletion makes room for another offer.
	Check   bool      `json:"c,omitempty"`
	Asked   time.Time `json:"t,omitzero"`
	Replace bool      `json:"p,omitempty"`
	// New: the cloud had never confirmed it.
	New bool `json:"n,omitempty"`
	// Doubt: it may have been stored by an earlier run, and not mailed.
	Doubt   bool    `json:"u,omitempty"`
	Outcome Outcome `json:"r,omitempty"`
	// Refused: the cloud failed for it, and for it alone.
	Refused bool `json:"f,omitempty"`
	// Absent: it was left out of the answer.
	Absent     bool       `json:"a,omitempty"`
	LastSync   *time.Time `json:"l,omitempty"`
	ValidUntil *time.Time `json:"v,omitempty"`
}

func batchID(run string, number int) string { return fmt.Sprintf("%s/%06d", run, number) }

// match notes what an answer says of the items of a part, whose keys are given.
func (b *batch) match(part span, keys []string, answer []cloud.Synced, at time.Time) {
	index := make(map[string]int, len(keys))
	for i, key := range keys {
		if key != "" {
			index[strings.ToLower(key)] = part.From + i
		}
	}
	seen := make(map[string]bool, len(answer))
	for _, synced := range answer {
		i, known := index[synced.Key]
		if !known || seen[synced.Key] {
			b.Counts.Anomalies++
			continue
		}
		seen[synced.Key] = true
		b.Returned = true
		b.Items[i].note(synced, at)
	}
	for key, i := range index {
		if !seen[key] {
			b.Items[i].Absent = true
		}
	}
}

func (i *item) note(synced cloud.Synced, at time.Time) {
	i.LastSync, i.ValidUntil = synced.LastSync, synced.ValidUntil
	if i.LastSync == nil {
		i.LastSync = &at
	}
	switch {
	case i.Delete && synced.Removed:
		i.Outcome = OutcomeRemoved
	case i.Delete:
		i.Outcome = OutcomeKept
	case synced.Removed:
		i.Outcome = OutcomeAnomaly
	case i.New:
		i.Outcome = OutcomeSent
	default:
		i.Outcome = OutcomeRefreshed
	}
}

// judge decides about the items that were left out: a deletion of what is not
// there is left out, and so is everything where the cloud takes no offers from
// the organisation, which accepts tells.
func (b *batch) judge(accepts bool) {
	for i := range b.Items {
		item := &b.Items[i]
		switch {
		case !item.Absent:
		case item.Delete && accepts:
			item.Outcome = OutcomeRemoved
		default:
			item.Outcome = OutcomeNotAccepted
		}
	}
}

// unjudged tells whether there are deletions that were left out.
func (b *batch) unjudged() bool {
	for _, i := range b.Items {
		if i.Absent && i.Delete {
			return true
		}
	}
	return false
}

// tally counts the outcomes.
func (b *batch) tally() {
	c := &b.Counts
	c.Batches = 1
	for _, i := range b.Items {
		if i.Check && i.ValidUntil == nil && i.Outcome != OutcomeAnomaly {
			continue // what becomes of it is yet to come
		}
		if i.overtaken() {
			c.Overtaken++
		}
		if b.Again && (i.Outcome == OutcomeKept || i.Outcome == OutcomeNotAccepted || i.Outcome == OutcomeQuarantined) {
			continue // it comes again
		}
		switch i.Outcome {
		case OutcomeSent:
			c.Sent++
			if b.Ambiguous || i.Doubt {
				c.MailUncertain++
			}
		case OutcomeRefreshed:
			c.Refreshed++
		case OutcomeRemoved:
			c.Removed++
		case OutcomeKept:
			c.Kept++
		case OutcomeNotAccepted:
			c.NotAccepted++
		case OutcomeQuarantined:
			c.Quarantined++
		case OutcomeAnomaly:
			c.Anomalies++
		}
	}
}

// overtaken tells whether somebody redeemed it before its deletion, which nobody
// would have wished then.
func (i *item) overtaken() bool {
	return i.Replace && i.Delete && i.Outcome == OutcomeKept && i.ValidUntil != nil
}

// deletes counts the deletions.
func (b *batch) deletes() int {
	n := 0
	for _, i := range b.Items {
		if i.Delete {
			n++
		}
	}
	return n
}

// applyItem writes onto an offer what the cloud said of it, and nothing else:
// what somebody wishes of it meanwhile stays. Repeating it changes nothing.
func (w *worker) applyItem(ctx context.Context, i item, ambiguous bool, known store.Record[offer]) error {
	return store.Retry(ctx, func() error {
		r := known
		known = store.Record[offer]{}
		if r.Revision == 0 {
			var err error
			if r, err = w.offers.Get(ctx, i.Offer); fault.Of(err) == fault.NotFound {
				return nil
			} else if err != nil {
				return err
			}
		}
		if r.Value.Fence > w.lease.token() {
			return ErrFenced
		}
		if r.Value.Generation != i.Generation {
			return nil // what the answer is about is gone, and another in its place
		}
		r.Value.Fence = w.lease.token()
		if i.Outcome == OutcomeRemoved && !r.Value.Reissue {
			if err := w.offers.Delete(ctx, r.ID, store.AtRevision(r.Revision)); fault.Of(err) != fault.NotFound {
				return err
			}
			return nil
		}
		if err := w.change(ctx, &r, i, ambiguous); err != nil {
			return err
		}
		_, err := w.offers.Put(ctx, r, store.AtRevision(r.Revision))
		return err
	})
}

func (w *worker) change(ctx context.Context, r *store.Record[offer], i item, ambiguous bool) error {
	o := &r.Value
	if o.Outcome != i.Outcome {
		o.Outcome, o.Problem = i.Outcome, ""
	}
	if i.Check {
		o.check(w.run.ID, i.Asked)
	}
	if i.LastSync != nil && i.Outcome != OutcomeRemoved {
		if o.LastSync == nil || i.LastSync.After(*o.LastSync) {
			o.LastSync = i.LastSync
		}
		o.ValidUntil = i.ValidUntil
	}
	switch i.Outcome {
	case OutcomeRemoved: // of one that is replaced
		return w.turnOver(ctx, r)
	case OutcomeKept:
		o.Quarantined, o.Refused = "", nil
		if o.ValidUntil == nil {
			return nil
		}
		o.State = RevokedUntilExpiry
		if o.Reissue {
			o.Reissue = false
			o.Problem = "It was redeemed before it could be replaced, and is revoked now."
			return w.dropNext(ctx, r)
		}
	case OutcomeSent, OutcomeRefreshed, OutcomeAnomaly:
		if i.Outcome == OutcomeAnomaly {
			o.Problem = "The cloud says that it was removed, which nobody asked for."
		}
		o.MailUncertain = o.ValidUntil == nil && (o.MailUncertain || i.New && ambiguous)
		o.Quarantined, o.Refused = "", nil
		if o.Reissue && o.ValidUntil != nil {
			o.State, o.Reissue = Active, false
			o.Problem = "It was redeemed before it could be replaced, and stays as it is."
			return w.dropNext(ctx, r)
		}
		o.settle()
	case OutcomeNotAccepted:
		o.Problem = "The cloud left it out of its answer."
	case OutcomeQuarantined:
		o.quarantine(quarantinedCloud)
		if o.Refused = pointer(w.now().UTC()); i.Check {
			o.Refused = nil // its deletion is another matter
		}
	}
	return nil
}

// turnOver puts the offer that waited in the place of the one that is gone. One
// that cannot be read goes on waiting.
func (w *worker) turnOver(ctx context.Context, r *store.Record[offer]) error {
	p, err := w.openParticulars(ctx, r.ID, r.Value.Sealed)
	if fault.Of(err) == fault.Lost || err == nil && p.Next == nil {
		r.Value.quarantine(quarantinedUnreadable)
		return nil
	}
	if err != nil {
		return err
	}
	if r.Value.Sealed, err = w.sealParticulars(ctx, r.ID, *p.Next); err != nil {
		return err
	}
	r.Value.replace()
	return nil
}
