package sponsor

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor/cloud"
	"github.com/latchkey-fn/latchkey/shared/store"
)

const (
	// writers bounds the writes of offers that a run has under way.
	writers = 8
	// ApplyTime is what applying a batch may take, with which a run calculates, and
	// whoever calls one.
	ApplyTime = 15 * time.Second
	// maxRetried bounds the quarantined offers that a phase sends once more: each
	// that still fails takes some requests.
	maxRetried = 10
)

// worker does a run while it has the lease.
type worker struct {
	*Sync
	lease *lease
	at    target
	run   store.Record[Run]
	// quietUntil is when the cloud can no longer be at work on a request whose
	// answer did not come.
	quietUntil time.Time
	// records are those of the batch that is being sent, in the order of its
	// items; the ones of another process's batch are not there.
	records []store.Record[offer]
	// quarantined counts offers that planning left out since the last batch.
	quarantined int
	// retried counts quarantined offers that the phase sent once more.
	retried int
}

// perform goes on with the run from where the store says it is.
func (w *worker) perform(ctx context.Context) error {
	id, err := uuid.Parse(w.run.ID)
	if err != nil {
		return fmt.Errorf("%w: the run's id: %w", fault.Lost, err)
	}
	ctx = cloud.WithTrace(ctx, id)
	if w.run.Value.Status.Finished() {
		return w.ended(ctx)
	}
	if w.run.Value.Fence > w.lease.token() {
		return ErrFenced
	}
	if before := w.run.Value.CloudOrganization; before != "" && !strings.EqualFold(before, w.at.cloudOrganization) {
		// What one organisation of the cloud has answered, and asked for, says nothing
		// of another.
		return w.fail(ctx, &Failure{
			Code: CodeOrganizationChanged, Message: "The organization of the cloud is another than the one that the run began with.",
			Hint: "the next run begins anew, with the one that is connected now", Class: fault.Conflict,
		})
	}
	if wait := w.run.Value.NotBefore.Sub(w.now()); wait > 0 && wait <= farOff {
		if err := w.wait(ctx, wait); err != nil {
			return err
		}
	}
	if err := w.begin(ctx); err != nil {
		return err
	}
	for {
		b, err := w.nextBatch(ctx)
		if err != nil {
			return err
		}
		if b == nil {
			return w.complete(ctx)
		}
		if err := w.process(ctx, b); err != nil {
			return err
		}
	}
}

// ended gives a finished run its place in the schedule, and its error.
func (w *worker) ended(ctx context.Context) error {
	if err := w.conclude(ctx, &w.run.Value); err != nil {
		return err
	}
	run := w.run.Value
	if run.Status != Failed {
		return nil
	}
	return &Failure{Code: run.ErrorCode, Message: run.Message, Hint: run.Hint, Class: fault.Invalid}
}

// begin claims the run: from here on whoever had it before cannot write it.
func (w *worker) begin(ctx context.Context) error {
	run := w.run.Value
	run.Fence, run.Status, run.NotBefore, run.WaitUntil = w.lease.token(), Running, time.Time{}, time.Time{}
	if run.Started == nil {
		run.Started, run.KeyFingerprint = pointer(w.now().UTC()), w.at.keyFingerprint
	}
	run.CloudOrganization = w.at.cloudOrganization // not known of a run that an older version began
	return w.save(ctx, run)
}

// save writes the run. Somebody else's write means that the lease was lost.
func (w *worker) save(ctx context.Context, run Run) error {
	next := w.run
	next.Value, next.Expires = run, time.Now().Add(keepRuns)
	pre := store.AtRevision(w.run.Revision)
	if w.run.Revision == 0 {
		pre = store.Absent()
	}
	revision, err := w.runs.Put(ctx, next, pre)
	if fault.Of(err) == fault.Conflict {
		return ErrFenced
	}
	if err != nil {
		return fmt.Errorf("note the run: %w", err)
	}
	next.Revision = revision
	w.run = next
	return nil
}

// complete ends a run that has nothing more to send.
func (w *worker) complete(ctx context.Context) error {
	run := w.run.Value
	run.Counts.Quarantined += w.quarantined
	run.Status, run.Phase = Completed, PhaseDone
	if run.Counts.warn() {
		run.Status = CompletedWithWarnings
	}
	run.Finished = pointer(w.now().UTC())
	if err := w.save(ctx, run); err != nil {
		return err
	}
	return w.ended(ctx)
}

// fail ends a run that failed.
func (w *worker) fail(ctx context.Context, why *Failure) error {
	run := w.run.Value
	run.Status, run.ErrorCode, run.Message, run.Hint = Failed, why.Code, why.Message, why.Hint
	run.Finished = pointer(w.now().UTC())
	if err := w.save(ctx, run); err != nil {
		return err
	}
	err := w.ended(ctx)
	if _, ok := AsFailure(err); ok {
		return why
	}
	return err
}

// spare tells whether there is time for d and a request after it before the
// context's deadline.
func (w *worker) spare(ctx context.Context, d time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return !ok || deadline.Sub(w.now()) >= d+w.settings.RequestTimeout+ApplyTime
}

// maxWait is how long a run waits at the most; what takes longer is for another
// invocation.
const maxWait = 10 * time.Minute

// longWait is a wait that whoever watches the run is told of.
const longWait = 10 * time.Second

// wait lets time pass before a request, under the lease, or leaves the run to
// another invocation.
func (w *worker) wait(ctx context.Context, d time.Duration) error {
	if d > maxWait || !w.spare(ctx, d) {
		until := w.now().Add(max(d, 0)).UTC()
		run := w.run.Value
		run.NotBefore = until
		if err := w.save(ctx, run); err != nil {
			return err
		}
		return &ContinueError{until}
	}
	if err := w.hold(ctx, w.lease, max(d, 0)+w.leaseMin()); err != nil {
		return err
	}
	if d <= 0 {
		return nil
	}
	if d >= longWait {
		run := w.run.Value
		run.WaitUntil = w.now().Add(d).UTC()
		if err := w.save(ctx, run); err != nil {
			return err
		}
	}
	return w.waiter.Wait(ctx, d)
}

// nextBatch gives the batch that somebody was stopped in, or plans one; nil when
// there is nothing more to send.
func (w *worker) nextBatch(ctx context.Context) (*store.Record[batch], error) {
	w.records = nil
	number := w.run.Value.Batch + 1
	r, err := w.batches.Get(ctx, batchID(w.run.ID, number))
	switch {
	case err == nil:
		return &r, w.claim(ctx, &r)
	case fault.Of(err) != fault.NotFound:
		return nil, fmt.Errorf("find the batch: %w", err)
	}
	b, err := w.plan(ctx)
	if b == nil || err != nil {
		return nil, err
	}
	b.Organization, b.Number, b.Status, b.Fence = w.run.Value.Organization, number, sending, w.lease.token()
	b.Parts = []span{{0, len(b.Items)}}
	b.Counts.Quarantined, w.quarantined = w.quarantined, 0
	return &store.Record[batch]{ID: batchID(w.run.ID, number), Parent: w.run.ID, Value: *b}, nil
}

// claim makes a batch that was found this worker's, and waits until the cloud
// cannot be at work on it.
func (w *worker) claim(ctx context.Context, r *store.Record[batch]) error {
	if r.Value.Fence > w.lease.token() {
		return ErrFenced
	}
	if r.Value.Fence == w.lease.token() {
		return nil
	}
	r.Value.Fence = w.lease.token()
	if r.Value.Status == sending && r.Value.Open {
		r.Value.Ambiguous = true
		w.quietUntil = maxTime(w.quietUntil, w.quiet(r.Value.RequestAt.Add(quietTime)))
	}
	return w.saveBatch(ctx, r)
}

func (w *worker) saveBatch(ctx context.Context, r *store.Record[batch]) error {
	next := *r
	next.Expires = time.Now().Add(keepBatches)
	pre := store.AtRevision(r.Revision)
	if r.Revision == 0 {
		pre = store.Absent()
	}
	revision, err := w.batches.Put(ctx, next, pre)
	if fault.Of(err) == fault.Conflict {
		return ErrFenced
	}
	if err != nil {
		return fmt.Errorf("note the batch: %w", err)
	}
	next.Revision = revision
	*r = next
	return nil
}

// plan takes the next offers after the run's cursor that belong to its phase,
// and goes on to the next phase where there are none. Nil is the end.
func (w *worker) plan(ctx context.Context) (*batch, error) {
	run := w.run.Value
	b := &batch{Phase: run.Phase, Next: run.Cursor}
	for b.Phase == PhaseDeletes || b.Phase == PhaseOffers {
		if err := w.gather(ctx, b); err != nil {
			return nil, fmt.Errorf("plan a batch: %w", err)
		}
		if len(b.Items) > 0 {
			return b, nil
		}
		b.Phase, b.Next = map[Phase]Phase{PhaseDeletes: PhaseOffers, PhaseOffers: PhaseProbe}[b.Phase], ""
		w.retried = 0
	}
	if b.Phase == PhaseProbe && run.Counts.Requests == 0 && w.settings.SyncProbe {
		return b, nil
	}
	return nil, nil
}

// gather walks the offers after a batch's cursor, page by page, until the batch
// is full or they end.
//
// Offers that are to be replaced are asked after in a batch of their own, after
// which the same offers are planned again. One that the cloud failed for is tried
// again alone, so that it does not fail others.
func (w *worker) gather(ctx context.Context, b *batch) error {
	counted := w.quarantined
	var checks []store.Record[offer]
	var records []store.Record[offer]
pages:
	for {
		page, err := w.documents.List(ctx, store.Query{Collection: w.offers.Name(), Parent: w.run.Value.Organization, After: b.Next})
		if err != nil {
			return err
		}
		for _, document := range page.Documents {
			r, err := w.offers.Decode(document)
			if err != nil {
				return err
			}
			alone := false
			switch {
			case r.Value.toDelete() != (b.Phase == PhaseDeletes), b.Phase == PhaseOffers && r.Value.Checked == w.run.ID:
			case w.leftOut(&r.Value):
				w.quarantined++
			default:
				if alone = r.Value.Quarantined == quarantinedCloud; alone && len(records) > 0 {
					break pages
				}
				if alone {
					w.retried++
				}
				records = append(records, r)
				if r.Value.toCheck(w.run.ID, w.now()) {
					checks = append(checks, r)
				}
			}
			b.Next = r.ID
			if alone || len(records) == w.settings.SyncBatch {
				break pages
			}
		}
		if page.Next == "" {
			break
		}
	}
	if len(checks) > 0 {
		records, b.Again, w.quarantined = checks, true, counted
	}
	w.records, b.Items = records, make([]item, len(records))
	for i, r := range records {
		b.Items[i].Offer = r.ID
	}
	return nil
}

// leftOut tells whether planning leaves an offer out.
func (w *worker) leftOut(o *offer) bool {
	return o.heldBack(w.now()) || o.Quarantined == quarantinedCloud && w.retried >= maxRetried
}

// process sends a batch, keeps what became of it, and applies that.
func (w *worker) process(ctx context.Context, r *store.Record[batch]) error {
	if r.Value.Status == sending {
		if err := w.send(ctx, r); err != nil {
			return err
		}
	}
	if r.Value.Status == received {
		if err := w.apply(ctx, r); err != nil {
			return err
		}
	}
	return w.advance(ctx, &r.Value)
}

// load reads the offers of a batch that somebody else planned, or whose offers
// may have changed since they were read. Those that are gone have no revision.
func (w *worker) load(ctx context.Context, b *batch) error {
	ids := make([]string, len(b.Items))
	for i := range b.Items {
		ids[i] = b.Items[i].Offer
	}
	byID := make(map[string]store.Record[offer], len(ids))
	for r, err := range w.offers.GetMany(ctx, ids) {
		if err != nil {
			return fmt.Errorf("read the offers of a batch: %w", err)
		}
		byID[r.ID] = r
	}
	w.records = make([]store.Record[offer], len(ids))
	for i, id := range ids {
		w.records[i] = byID[id]
	}
	return nil
}

// mark notes on the offers that the cloud may come to know them. What must not
// be sent is quarantined instead.
func (w *worker) mark(ctx context.Context, of *store.Record[batch], part span) ([]cloud.Offer, error) {
	b := &of.Value
	if w.records == nil {
		if err := w.load(ctx, b); err != nil {
			return nil, err
		}
	}
	offers := make([]cloud.Offer, part.size())
	group, grouped := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for i := part.From; i < part.To; i++ {
		group.Go(func() error {
			composed, err := w.markOne(grouped, of, i)
			offers[i-part.From] = composed
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("note that offers are sent: %w", err)
	}
	// An answer can have become too old while its deletion waited. A run that goes
	// on for so long leaves such offers to the next one at last.
	asks := slices.ContainsFunc(b.Items[part.From:part.To], func(i item) bool { return i.Check })
	if asks && b.Phase == PhaseDeletes && !b.Again && w.now().Sub(*w.run.Value.Started) < day {
		b.Again, b.Counts.Quarantined = true, 0
	}
	return offers, nil
}

// markOne gives an offer of a batch as it is to be sent; one without a key is not
// sent.
func (w *worker) markOne(ctx context.Context, of *store.Record[batch], n int) (cloud.Offer, error) {
	r, i := &w.records[n], &of.Value.Items[n]
	var composed cloud.Offer
	// The item tells of what is sent now.
	*i = item{Offer: i.Offer}
	err := store.Retry(ctx, func() error {
		composed = cloud.Offer{}
		if r.Revision == 0 {
			fresh, err := w.offers.Get(ctx, i.Offer)
			if fault.Of(err) == fault.NotFound {
				return nil
			}
			if err != nil {
				return err
			}
			*r = fresh
		}
		if r.Value.Fence > w.lease.token() {
			return ErrFenced
		}
		p, err := w.openParticulars(ctx, r.ID, r.Value.Sealed)
		unreadable := fault.Of(err) == fault.Lost
		if err != nil && !unreadable {
			return err
		}
		changed := *r
		o := &changed.Value
		if o.elsewhere(w.at.cloudOrganization) && !o.toDelete() {
			o.move(w.at.cloudOrganization)
		}
		if !of.Value.Ambiguous {
			o.unsend(of.ID)
		}
		i.describe(o, w.run.ID, w.now())
		if i.Check && p.Next != nil {
			// If the cloud has it no more, the asking makes it anew and mails it: not to
			// an address that is given up. What it has it does not change.
			p = *p.Next
		}
		if i.Check && !unreadable && o.unfit(p, false) != "" {
			i.Check, i.Delete = false, true // only a deletion of it can be sent
		}
		if why := w.unsendable(o, i, p, unreadable); why != "" {
			i.Outcome = OutcomeQuarantined
			if o.Quarantined == why && !i.Check {
				return nil
			}
			o.quarantine(why)
			if i.Check {
				o.check(w.run.ID, i.Asked) // as far as it goes
			}
		} else {
			composed = compose(o, i.Delete, p)
			o.noteSending(of.ID, i.Delete, w.at.cloudOrganization, w.now().UTC())
			if o.tellsOfSending(&r.Value) {
				return nil
			}
		}
		o.Fence = w.lease.token()
		revision, err := w.offers.Put(ctx, changed, store.AtRevision(r.Revision))
		if err != nil {
			r.Revision = 0 // read it anew
			return err
		}
		changed.Revision = revision
		*r = changed
		return nil
	})
	return composed, err
}

// describe says how an offer is to be sent as it is now.
func (i *item) describe(o *offer, run string, now time.Time) {
	check := o.toCheck(run, now)
	*i = item{
		Offer: i.Offer, Generation: o.Generation, Delete: o.toDelete() && !check, Check: check, Replace: o.Reissue,
		New: o.LastSync == nil, Doubt: o.MailUncertain,
	}
	if check {
		i.Asked = now.UTC()
	}
}

// unsendable tells why an offer must not be sent as an item says; "" if it may
// be. A deletion needs nothing that is sealed, but what follows upon it does.
func (w *worker) unsendable(o *offer, i *item, p particulars, unreadable bool) string {
	switch {
	case o.elsewhere(w.at.cloudOrganization):
		return quarantinedElsewhere
	case unreadable && (!i.Delete || o.Reissue):
		return quarantinedUnreadable
	case !o.toDelete() && o.heldBack(w.now()):
		return o.Quarantined
	}
	return o.unfit(p, i.Delete)
}

// noteSending notes what has to be known of an offer before a batch sends it.
func (o *offer) noteSending(batch string, deletion bool, cloudOrganization string, now time.Time) {
	if o.FirstAttempt == nil {
		o.FirstAttempt = &now
	}
	o.CloudOrganization = cloudOrganization
	if deletion && o.Reissue && !o.DeleteSent {
		o.DeleteSent, o.DeletedBy = true, batch
	}
	if o.Quarantined == quarantinedUnreadable || o.Quarantined == quarantinedElsewhere {
		o.Quarantined, o.Problem = "", ""
	}
}

// tellsOfSending tells whether an offer as it is stored is as noteSending made it.
func (o *offer) tellsOfSending(stored *offer) bool {
	return o.FirstAttempt == stored.FirstAttempt && o.CloudOrganization == stored.CloudOrganization && o.DeleteSent == stored.DeleteSent &&
		o.DeletedBy == stored.DeletedBy && o.Quarantined == stored.Quarantined
}

// compose is an offer in the words of the protocol.
func compose(o *offer, deletion bool, p particulars) cloud.Offer {
	composed := cloud.Offer{Key: o.Key, Plan: o.Plan, ToDelete: deletion, ValidUntil: o.ValidUntil}
	if p.Name != "" && width(p.Name) <= maxText {
		composed.FriendlyName = &p.Name
	}
	if p.Email != "" && width(p.Email) <= maxText {
		composed.Email = &p.Email
	}
	if deletion {
		// A deletion is idempotent only without a date.
		composed.Plan, composed.ValidUntil = planFamilies, nil
		return composed
	}
	composed.LastSync = o.LastSync
	return composed
}

// apply writes what became of a batch onto its offers.
func (w *worker) apply(ctx context.Context, r *store.Record[batch]) error {
	if err := w.applyItems(ctx, &r.Value); err != nil {
		return err
	}
	next := *r
	next.Value.Status, next.Value.Items = applied, nil
	if err := w.saveBatch(ctx, &next); err != nil {
		return err
	}
	*r = next
	return nil
}

// applyItems applies the items of which something is known. The lease is looked
// at first: who was taken for dead has no more to say.
func (w *worker) applyItems(ctx context.Context, b *batch) error {
	if !slices.ContainsFunc(b.Items, func(i item) bool { return i.Outcome != "" }) {
		return nil
	}
	if err := w.check(ctx, w.lease); err != nil {
		return err
	}
	if w.records == nil {
		if err := w.load(ctx, b); err != nil {
			return err
		}
	}
	limited, cancel := context.WithTimeout(ctx, w.leaseMin())
	defer cancel()
	group, grouped := errgroup.WithContext(limited)
	group.SetLimit(writers)
	for i, item := range b.Items {
		if item.Outcome == "" || w.records[i].Revision == 0 || item.Outcome == OutcomeQuarantined && !item.Refused {
			continue // of the latter the offer tells already
		}
		group.Go(func() error { return w.applyItem(grouped, item, b.Ambiguous, w.records[i]) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("apply a batch: %w", err)
	}
	return nil
}

// advance makes the run go on after a batch.
func (w *worker) advance(ctx context.Context, b *batch) error {
	run := w.run.Value
	run.Batch, run.Phase = b.Number, b.Phase
	if !b.Again {
		run.Cursor = b.Next
	}
	run.Returned = run.Returned || b.Returned
	run.Counts.add(b.Counts)
	if b.Phase == PhaseProbe {
		run.Phase = PhaseDone
	}
	return w.save(ctx, run)
}

// logBatch writes one line for each request; e is nil for a success.
func (w *worker) logBatch(ctx context.Context, b *batch, part span, e *cloud.Error) {
	outcome, detail := "ok", ""
	if e != nil {
		outcome, detail = string(e.Code), e.Detail
	}
	w.logger.LogAttrs(ctx, slog.LevelInfo, "sync batch", slog.String("runId", w.run.ID), slog.String("organization", w.run.Value.Organization),
		slog.Int("batch", b.Number), slog.String("phase", string(b.Phase)), slog.Int("n", part.size()), slog.Int("deletes", b.deletes()),
		slog.Int("attempt", b.Attempts), slog.Int("http", b.HTTPStatus), slog.Int64("ms", w.now().Sub(b.RequestAt).Milliseconds()), slog.String("outcome", outcome),
		slog.String("detail", detail))
}
