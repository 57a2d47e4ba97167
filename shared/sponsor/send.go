package sponsor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor/cloud"
	"github.com/latchkey-fn/latchkey/shared/store"
)

const (
	// quietTime is how long after a request without an answer the cloud may still
	// be at work on it.
	quietTime = 120 * time.Second
	// maxTries is how often one part of a batch is sent.
	maxTries = 6
	// diagnoseAfter is how many equal failures of the cloud call for finding out
	// why.
	diagnoseAfter = 3
	// bisectTries is how often a part is sent while a bad item is looked for, so
	// that a single hiccup is not taken for one.
	bisectTries = 2
	// maxRequests bounds what is spent on one batch.
	maxRequests = 100

	backoffBase = 2 * time.Second
	backoffMost = 5 * time.Minute
)

// backoff is how long to wait after the n-th failure: anything up to a limit
// that doubles.
func (s *Sync) backoff(n int) time.Duration {
	limit := backoffMost
	if n < 9 {
		limit = min(backoffMost, backoffBase<<(n-1))
	}
	return time.Duration(s.random() * float64(limit))
}

// mayStillWork tells whether the cloud can be at work on a request that failed:
// when nothing answered, or something in between did.
func mayStillWork(e *cloud.Error) bool {
	if !e.Ambiguous {
		return false
	}
	switch e.Code {
	case cloud.NetworkMid, cloud.Timeout:
		return true
	case cloud.CloudError:
		return e.Status != http.StatusInternalServerError || e.Message == ""
	default:
		return false
	}
}

// reachedSync tells whether it came to a request for a sync, which a token comes
// before; e is nil for a success.
func reachedSync(e *cloud.Error) bool { return e == nil || e.Stage == cloud.StageSync }

// heldBack tells whether nothing was sent, because this client itself has asked
// for too many tokens lately.
func heldBack(e *cloud.Error) bool { return e.Code == cloud.RateLimited && e.Status == 0 }

// send sends what of a batch is still to be sent, and keeps what became of it.
func (w *worker) send(ctx context.Context, r *store.Record[batch]) error {
	for len(r.Value.Parts) > 0 {
		if err := w.sendPart(ctx, r); err != nil {
			return err
		}
	}
	accepts, err := w.accepts(ctx, &r.Value)
	if err != nil {
		return w.giveUp(ctx, r, err)
	}
	next := *r
	next.Value.judge(accepts)
	next.Value.tally()
	next.Value.Status = received
	if err := w.saveBatch(ctx, &next); err != nil {
		return err
	}
	*r = next
	return nil
}

// sendPart sends the part of a batch that is next, once.
func (w *worker) sendPart(ctx context.Context, r *store.Record[batch]) error {
	b := &r.Value
	part := b.Parts[len(b.Parts)-1]
	marked, err := w.mark(ctx, r, part)
	if err != nil {
		return err
	}
	offers, keys := make([]cloud.Offer, 0, len(marked)), make([]string, len(marked))
	for i, offer := range marked {
		if keys[i] = offer.Key; offer.Key != "" {
			offers = append(offers, offer)
		}
	}
	if len(offers) == 0 && b.Phase != PhaseProbe {
		b.pop()
		return nil
	}
	if err := w.turn(ctx); err != nil {
		return err
	}
	b.Attempts++
	b.Counts.Requests++
	b.RequestAt, b.Open = w.now().UTC(), true
	if err := w.saveBatch(ctx, r); err != nil {
		return err
	}
	answer, err := w.request(ctx, offers)
	b.ResponseAt = w.now().UTC()
	e, ok := errors.AsType[*cloud.Error](err)
	if err != nil && !ok {
		return err
	}
	b.Open = ok && mayStillWork(e)
	if ok {
		b.HTTPStatus = e.Status
		w.logBatch(ctx, b, part, e)
		if !reachedSync(e) {
			b.Counts.Requests--
		}
		return w.react(ctx, r, e)
	}
	b.HTTPStatus = http.StatusOK
	b.match(part, keys, answer, b.ResponseAt)
	w.logBatch(ctx, b, part, nil)
	b.pop()
	return nil
}

// pop is done with the part that was next.
func (b *batch) pop() {
	b.Parts = b.Parts[:len(b.Parts)-1]
	b.Attempts, b.Same, b.LastCode, b.Cleared = 0, 0, "", false
}

// turn waits for this process's turn, and until the cloud is through with what
// was sent before.
func (w *worker) turn(ctx context.Context) error {
	if err := w.wait(ctx, max(0, w.quietUntil.Sub(w.now()))); err != nil {
		return err
	}
	for wait := w.pace.take(w.now()); wait > 0; wait = w.pace.take(w.now()) {
		if err := w.wait(ctx, wait); err != nil {
			return err
		}
	}
	return nil
}

// request sends offers once. Turn comes before it.
func (w *worker) request(ctx context.Context, offers []cloud.Offer) ([]cloud.Synced, error) {
	// The last thing before the request: nothing stops one that is under way when
	// the lease ends.
	if err := w.hold(ctx, w.lease, w.callLimit()); err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, w.callLimit())
	defer cancel()
	at := w.now()
	answer, err := w.cloud.Sync(limited, cloud.SyncRequest{
		BillingSyncKey: w.at.key, CloudOrganizationID: w.at.cloudOrganization, Offers: offers,
	})
	if e, ok := errors.AsType[*cloud.Error](err); ok && mayStillWork(e) {
		// Counted from the end: a token may have come before.
		w.quietUntil = maxTime(at, w.now().Add(-w.settings.RequestTimeout)).Add(quietTime)
		if err := ctx.Err(); err != nil {
			w.quietUntil = w.now().Add(quietTime)
		}
	}
	return answer, err
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// blamesOffers tells whether an offer that was sent can be why the cloud failed.
func blamesOffers(e *cloud.Error) bool {
	return e.Stage == cloud.StageSync && (e.Code == cloud.RequestInvalid || e.Code == cloud.CloudError)
}

// react decides what follows from a failure: another try after a while, a search
// for what causes it, or the run's end.
func (w *worker) react(ctx context.Context, r *store.Record[batch], e *cloud.Error) error {
	b := &r.Value
	w.records = nil // what anybody wishes of the offers may have changed
	if heldBack(e) {
		b.Attempts-- // it is no try, and not what the run fails for
		return w.pause(ctx, r, e.RetryAfter)
	}
	b.Ambiguous = b.Ambiguous || e.Ambiguous
	if b.LastCode != string(e.Code) {
		b.LastCode, b.Same = string(e.Code), 0
	}
	b.Same++
	if err := ctx.Err(); err != nil {
		return w.leave(ctx, r, err)
	}
	blames := blamesOffers(e)
	switch {
	case blames && b.Phase != PhaseProbe && !b.Diagnosed && (e.Code == cloud.RequestInvalid || b.Same >= diagnoseAfter):
		if why := w.diagnose(ctx, r, e); why != nil {
			return w.giveUp(ctx, r, why)
		}
	case blames && b.Bisecting && (e.Code == cloud.RequestInvalid || b.Same >= bisectTries):
		if e.Code == cloud.RequestInvalid || b.Cleared || b.Parts[len(b.Parts)-1].size() > 1 {
			return w.split(ctx, r, e)
		}
		if why := w.clear(ctx, b); why != nil {
			return w.giveUp(ctx, r, why)
		}
	case !e.Retryable():
		return w.giveUp(ctx, r, e)
	}
	if b.Attempts >= maxTries || b.Counts.Requests >= maxRequests {
		return w.giveUp(ctx, r, w.explained(b, e))
	}
	b.Counts.Retries++
	w.count(ctx, MetricRetries, 1, map[string]string{"code": string(e.Code)})
	wait := w.backoff(b.Attempts)
	if e.RetryAfter > 0 {
		wait = e.RetryAfter + time.Duration(w.random()*float64(backoffBase))
	}
	return w.pause(ctx, r, wait)
}

// pause waits until a batch is gone on with. The batch as it stands says with
// what.
func (w *worker) pause(ctx context.Context, r *store.Record[batch], d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return w.leave(ctx, r, err)
	}
	if err := w.saveBatch(ctx, r); err != nil {
		return err
	}
	return w.wait(ctx, d)
}

// leave keeps what is known of a batch whose context ended.
func (w *worker) leave(ctx context.Context, r *store.Record[batch], cause error) error {
	kept, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if err := w.saveBatch(kept, r); err != nil {
		return err
	}
	return cause
}

// giveUp ends the run for a failure of the cloud; other errors leave it to be
// gone on with.
func (w *worker) giveUp(ctx context.Context, r *store.Record[batch], err error) error {
	f, ok := AsFailure(err)
	if !ok {
		if f = fromCloud(err); f == nil {
			return err
		}
	}
	if err := w.regret(ctx, r); err != nil {
		return err
	}
	// What is known of the parts before is not lost, nor what was found to blame.
	if err := w.applyItems(ctx, &r.Value); err != nil {
		return err
	}
	w.run.Value.Counts.Requests += r.Value.Counts.Requests
	w.run.Value.Counts.Retries += r.Value.Counts.Retries
	return w.fail(ctx, f)
}

// regret notes on the offers of a batch that is given up what a later run could
// not know. If the cloud may have carried something out, it may have stored new
// ones without mailing them. If it has not, no deletion was carried out that this
// batch was the first to send, and what was to be replaced can be asked after
// again.
func (w *worker) regret(ctx context.Context, of *store.Record[batch]) error {
	group, grouped := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for _, i := range of.Value.Items {
		doubted := of.Value.Ambiguous && i.New && !i.Delete && !i.Doubt
		unsent := !of.Value.Ambiguous && i.Replace && i.Delete && !i.Absent && (i.Outcome == "" || i.Refused)
		if !doubted && !unsent {
			continue
		}
		group.Go(func() error {
			_, err := w.offers.Update(grouped, i.Offer, func(r *store.Record[offer]) error {
				if r.Value.Fence > w.lease.token() {
					return ErrFenced
				}
				if r.Value.Generation != i.Generation {
					return store.ErrUnchanged
				}
				if r.Value.Fence = w.lease.token(); doubted {
					r.Value.MailUncertain = true
				} else {
					r.Value.unsend(of.ID)
				}
				return nil
			})
			if fault.Of(err) == fault.NotFound {
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("note what a run that failed leaves open: %w", err)
	}
	return nil
}

// generateKey is what an empty batch that fails points to.
const generateKey = "the cloud fails for an empty batch, too: either it is down, or the organisation has no billing sync key there; generate one in the cloud's web vault and paste it"

// explained adds to a failure what the diagnosis found.
func (w *worker) explained(b *batch, e *cloud.Error) error {
	f := fromCloud(e)
	if e.Code == cloud.CloudError && e.Stage == cloud.StageSync && (b.Diagnosed && !b.Bisecting || b.Phase == PhaseProbe) {
		f.Hint = generateKey
	}
	return f
}

// diagnose finds out why the cloud fails for a batch. It asks with an empty
// batch, which the cloud takes from whom it knows; and with the deletion of an
// offer that never was, which changes nothing and yet has the cloud read the
// organisation's rows. If it takes both, an item of the batch is to blame. What
// it returns ends the run.
func (w *worker) diagnose(ctx context.Context, r *store.Record[batch], e *cloud.Error) error {
	b := &r.Value
	failed, err := w.ask(ctx, b)
	if err != nil {
		return err
	}
	if failed == nil {
		if failed, err = w.ask(ctx, b, nothing()); err != nil {
			return err
		}
		if failed != nil && failed.Code == cloud.CloudError {
			w.logger.ErrorContext(ctx, "diagnosis: the cloud fails for any offer of the organisation", slog.String("runId", w.run.ID))
			return &Failure{
				Code: string(cloud.CloudStateConflict), Message: texts[cloud.CloudStateConflict], Class: fault.Invalid, cause: failed,
				Hint: "the cloud takes an empty batch and fails for any offer: it most likely holds one offer twice, which only the vendor's support can mend; tell them the organisation's id in the cloud and that POST /organization/sponsorship/sync answers 500",
			}
		}
		if failed == nil {
			w.logger.WarnContext(ctx, "diagnosis: an offer of the batch is to blame", slog.String("runId", w.run.ID), slog.Int("batch", b.Number))
			// Or the cloud is just back, which the next tries show.
			b.Diagnosed, b.Bisecting, b.Cleared, b.Same = true, true, true, 0
			return nil
		}
	}
	switch {
	case e.Code == cloud.RequestInvalid && failed.Code == cloud.RequestInvalid:
		return e // it is not about the items
	case failed.Code == cloud.CloudError:
		w.logger.WarnContext(ctx, "diagnosis: the cloud fails for an empty batch", slog.String("runId", w.run.ID))
		b.Diagnosed = true
	case !failed.Retryable():
		return failed
	}
	return nil
}

// nothing is the deletion of an offer that never was.
func nothing() cloud.Offer { return cloud.Offer{Key: uuid.NewString(), ToDelete: true} }

// ask sends offers that are not of the batch, and gives the cloud's failure.
func (w *worker) ask(ctx context.Context, b *batch, offers ...cloud.Offer) (*cloud.Error, error) {
	if err := w.turn(ctx); err != nil {
		return nil, err
	}
	_, err := w.request(ctx, offers)
	failed, ok := errors.AsType[*cloud.Error](err)
	if err != nil && !ok {
		return nil, err
	}
	if reachedSync(failed) {
		b.Counts.Requests++
	}
	return failed, nil
}

// clear finds out, before an offer is blamed, whether the cloud fails for
// anything at the moment. What it returns ends the run.
func (w *worker) clear(ctx context.Context, b *batch) error {
	failed, err := w.ask(ctx, b, nothing())
	switch {
	case err != nil:
		return err
	case failed == nil:
		b.Cleared = true
	case !failed.Retryable():
		return failed
	default:
		b.Same = 0
	}
	return nil
}

// split halves the part that failed, or, where it is one item, has found what is
// to blame.
func (w *worker) split(ctx context.Context, r *store.Record[batch], e *cloud.Error) error {
	b := &r.Value
	if b.Counts.Requests >= maxRequests {
		return w.giveUp(ctx, r, e)
	}
	part := b.Parts[len(b.Parts)-1]
	b.pop()
	if part.size() == 1 {
		w.logger.WarnContext(ctx, "an offer is quarantined that the cloud fails for", slog.String("runId", w.run.ID),
			slog.String("offer", b.Items[part.From].Offer), slog.String("code", string(e.Code)))
		b.Items[part.From].Outcome, b.Items[part.From].Refused = OutcomeQuarantined, true
	} else {
		middle := part.From + part.size()/2
		b.Parts = append(b.Parts, span{middle, part.To}, span{part.From, middle})
	}
	return w.saveBatch(ctx, r)
}

// accepts tells whether the cloud takes offers from the organisation, where the
// answer leaves that open: nothing came back, and deletions were left out, which
// can mean that they are done or that the organisation's plan has no offers. An
// offer that the cloud is known to have tells; where there is none, the licence.
func (w *worker) accepts(ctx context.Context, b *batch) (bool, error) {
	if b.Returned || w.run.Value.Returned {
		return true, nil
	}
	if !b.unjudged() {
		return false, nil
	}
	for known, err := range w.offers.ByParent(ctx, w.run.Value.Organization) {
		if err != nil {
			return false, err
		}
		if known.Value.toDelete() || known.Value.LastSync == nil || known.Value.Quarantined != "" || known.Value.elsewhere(w.at.cloudOrganization) {
			continue
		}
		p, err := w.openParticulars(ctx, known.ID, known.Value.Sealed)
		if fault.Of(err) == fault.Lost {
			continue
		}
		if err != nil {
			return false, err
		}
		return w.witness(ctx, b, compose(&known.Value, false, p))
	}
	return w.at.enterprise, nil
}

// witness refreshes an offer that the cloud is known to have.
func (w *worker) witness(ctx context.Context, b *batch, known cloud.Offer) (bool, error) {
	for try := 1; ; try++ {
		if err := w.turn(ctx); err != nil {
			return false, err
		}
		answer, err := w.request(ctx, []cloud.Offer{known})
		e, ok := errors.AsType[*cloud.Error](err)
		if reachedSync(e) {
			b.Counts.Requests++
		}
		switch {
		case err == nil:
			b.Returned = len(answer) > 0
			return b.Returned, nil
		case ok && heldBack(e):
			try--
		case ok && blamesOffers(e) && (!e.Retryable() || try == maxTries):
			return false, nil // its own phase finds out whether it is to blame
		case !ok || !e.Retryable() || try == maxTries:
			return false, err
		}
		if err := w.wait(ctx, max(w.backoff(max(try, 1)), e.RetryAfter)); err != nil {
			return false, err
		}
	}
}
