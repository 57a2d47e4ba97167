package secret

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/latchkey-fn/latchkey/shared/audit"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Result tells what came of one of several things that were to be deleted.
type Result struct {
	ID string
	// Err is nil where it was done; of class Forbidden where the caller may not.
	Err error
}

// attempted is what came of all of them, and to which it was done and to which
// the caller may not do it.
type attempted struct {
	results      []Result
	done, denied []string
}

// attempt does something to each of several things. It fails only where the
// store, or whatever else of ours, let nothing be done.
func attempt(ctx context.Context, ids []string, do func(context.Context, string) error) (attempted, error) {
	tried := attempted{results: make([]Result, len(ids))}
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, id := range ids {
		group.Go(func() error {
			tried.results[i] = Result{id, do(ctx, id)}
			return nil // the others are tried all the same
		})
	}
	_ = group.Wait() // none has an error
	var err error
	for _, r := range tried.results {
		switch {
		case r.Err == nil:
			tried.done = append(tried.done, r.ID)
		case fault.Of(r.Err) == fault.Forbidden:
			tried.denied = append(tried.denied, r.ID)
		default:
			err = r.Err
		}
	}
	if len(tried.done) > 0 {
		err = nil
	}
	return tried, err
}

// Delete puts secrets into the trash. All exist, and are of one organisation;
// else it is NotFound and nothing is done.
func (s *Secrets) Delete(ctx context.Context, c machine.Caller, ids []string) ([]Result, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	a, views, err := s.pick(ctx, c, ids)
	if err != nil {
		return nil, err
	}
	picked := map[string]View{}
	for _, view := range views {
		picked[view.Head.ID] = view
	}
	tried, err := attempt(ctx, ids, func(ctx context.Context, id string) error {
		return s.trash(ctx, a, picked[id])
	})
	if err != nil {
		return nil, err
	}
	s.machines.Denied(ctx, c, machine.SecretDeleted, tried.denied...)
	s.machines.Done(ctx, a, machine.SecretDeleted, "", "", tried.done...)
	s.sweep(ctx, a.Organization)
	return tried.results, nil
}

// trash puts one secret into the trash, as it was when its rights were looked
// at, or as it is by now.
func (s *Secrets) trash(ctx context.Context, a machine.Access, view View) error {
	return store.Retry(ctx, func() error {
		if !view.Rights.Cover(machine.ToWrite) {
			return fault.Forbidden
		}
		head := view.Head
		head.Parent = trashOf(a.Organization)
		head.Value.Trashed = &machine.Deed{At: s.now().UTC(), By: a.Actor()}
		_, err := s.heads.Put(ctx, head, store.AtRevision(head.Revision))
		if fault.Of(err) != fault.Conflict {
			return err
		}
		_, views, again := s.pick(ctx, a.Caller, []string{head.ID})
		switch {
		case fault.Of(again) == fault.NotFound:
			return nil // somebody else was first
		case again != nil:
			return again
		}
		view = views[0]
		return err
	})
}

// Trash gives the secrets of an organisation that were deleted, to its
// administrators.
func (s *Secrets) Trash(ctx context.Context, a machine.Access) ([]View, error) {
	if !a.IsAdmin() {
		return nil, machine.NotFound()
	}
	s.sweep(ctx, a.Organization)
	var heads []store.Record[Head]
	for head, err := range s.heads.ByParent(ctx, trashOf(a.Organization)) {
		if err != nil {
			return nil, fmt.Errorf("trash: %w", err)
		}
		if !head.Value.Purging {
			heads = append(heads, head)
		}
	}
	projects, err := s.projectsOf(ctx, heads, nil)
	if err != nil {
		return nil, err
	}
	views := make([]View, len(heads))
	for i, head := range heads {
		views[i] = see(a, head, projects)
	}
	sortByRevision(views)
	return views, nil
}

// trashed gives heads that are in an organisation's trash; NotFound if one of
// the ids is not.
func (s *Secrets) trashed(ctx context.Context, a machine.Access, ids []string) ([]store.Record[Head], error) {
	if !a.IsAdmin() {
		return nil, machine.NotFound()
	}
	all := newFound[Head]()
	if err := all.fetch(ctx, s.heads, ids); err != nil {
		return nil, fmt.Errorf("trash: %w", err)
	}
	heads := make([]store.Record[Head], len(ids))
	for i, id := range ids {
		head, ok := all.records[id]
		if !ok || !restorable(head, a.Organization) {
			return nil, machine.NotFound()
		}
		heads[i] = head
	}
	return heads, nil
}

func restorable(head store.Record[Head], organization string) bool {
	return head.Value.Organization == organization && head.Value.Trashed != nil && !head.Value.Purging
}

// Restore takes secrets out of the trash, for administrators.
func (s *Secrets) Restore(ctx context.Context, a machine.Access, ids []string) error {
	heads, err := s.trashed(ctx, a, ids)
	if err != nil {
		return err
	}
	projects, err := s.projectsOf(ctx, heads, nil)
	if err != nil {
		return err
	}
	err = each(ctx, ids, func(ctx context.Context, id string) error {
		_, err := s.heads.Update(ctx, id, func(head *store.Record[Head]) error {
			switch {
			case head.Value.Trashed == nil:
				return store.ErrUnchanged // somebody else was first
			case head.Value.Purging:
				return machine.NotFound()
			}
			head.Parent, head.Value.Trashed, head.Value.Revised = a.Organization, nil, s.now().UTC()
			if _, ok := projects[head.Lookup]; !ok {
				head.Lookup = ""
			}
			return nil
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	s.machines.Done(ctx, a, machine.SecretRestored, "", "", ids...)
	return nil
}

// Empty deletes secrets of the trash for good, for administrators.
func (s *Secrets) Empty(ctx context.Context, a machine.Access, ids []string) error {
	heads, err := s.trashed(ctx, a, ids)
	if err != nil {
		return err
	}
	purged, err := s.purge(ctx, a.Organization, heads)
	s.machines.Done(ctx, a, machine.SecretPermanentlyDeleted, "", "", purged...)
	return err
}

// purge deletes trashed secrets with every content they had, and says which.
// What breaks off is gone on with by a later sweep.
func (s *Secrets) purge(ctx context.Context, organization string, heads []store.Record[Head]) ([]string, error) {
	if len(heads) == 0 {
		return nil, nil
	}
	marked := newFound[Head]()
	err := each(ctx, heads, func(ctx context.Context, head store.Record[Head]) error {
		head, err := s.heads.Update(ctx, head.ID, func(head *store.Record[Head]) error {
			switch {
			case head.Value.Trashed == nil:
				return machine.NotFound() // it was restored meanwhile
			case head.Value.Purging:
				return store.ErrUnchanged
			}
			head.Value.Purging = true
			return nil
		})
		if err == nil {
			marked.add(head)
		}
		return unlessGone(err)
	})
	var ids []string
	for id := range marked.records {
		ids = append(ids, id)
	}
	if err == nil && len(ids) > 0 {
		err = s.machines.ForgetSecrets(ctx, organization, ids)
	}
	if err != nil {
		return nil, fmt.Errorf("purge: %w", err)
	}
	var (
		mu     sync.Mutex
		purged []string
	)
	err = each(ctx, ids, func(ctx context.Context, id string) error {
		if err := s.purgeMarked(ctx, marked.records[id]); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		purged = append(purged, id)
		return nil
	})
	if err != nil {
		return purged, fmt.Errorf("purge: %w", err)
	}
	return purged, nil
}

// purgeMarked deletes the contents by their parent, which finds those as well
// that no head names, and then the head. Somebody else may have done so already,
// and an import have made a secret of the same id since: only what was there
// while the marked head was still is of that.
func (s *Secrets) purgeMarked(ctx context.Context, head store.Record[Head]) error {
	if err := s.depart(ctx, head, s.latest(ctx)); err != nil {
		return err
	}
	var contents []string
	for content, err := range s.contents.ByParent(ctx, head.ID) {
		if err != nil {
			return err
		}
		contents = append(contents, content.ID)
	}
	still, err := s.heads.Get(ctx, head.ID)
	if err != nil || still.Revision != head.Revision {
		return unlessGone(err)
	}
	for _, content := range contents {
		if err := unlessGone(s.contents.Delete(ctx, content, store.Any())); err != nil {
			return err
		}
	}
	err = s.heads.Delete(ctx, head.ID, store.AtRevision(head.Revision))
	if fault.Of(err) == fault.Conflict {
		return nil
	}
	return unlessGone(err)
}

// Of each organisation the trash is swept at most once in sweepEvery by one
// instance, and not for longer than sweepTime of somebody's request.
const (
	sweepEvery = time.Hour
	sweepTime  = 5 * time.Second
)

// sweeps is when which organisation's trash was last swept by this instance.
type sweeps struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// due tells whether it is time, and notes that it is done.
func (w *sweeps) due(organization string, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if last, ok := w.last[organization]; ok && now.Sub(last) < sweepEvery {
		return false
	}
	if w.last == nil {
		w.last = map[string]time.Time{}
	}
	w.last[organization] = now
	return true
}

// unfinished has the next request sweep again.
func (w *sweeps) unfinished(organization string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.last, organization)
}

// sweep purges what was in the trash for trashLife, and what somebody began to
// purge. That it fails is no fault of the request that it is part of.
func (s *Secrets) sweep(ctx context.Context, organization string) {
	now := s.now()
	if !s.sweeps.due(organization, now) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	var old []store.Record[Head]
	for head, err := range s.heads.ByParent(ctx, trashOf(organization)) {
		if err != nil {
			s.unswept(ctx, organization, err)
			return
		}
		if head.Value.Purging || now.Sub(head.Value.Trashed.At) >= trashLife {
			old = append(old, head)
		}
	}
	var failures []error
	for some := range slices.Chunk(old, store.MaxKeys) {
		purged, err := s.purge(ctx, organization, some)
		for _, id := range purged {
			s.audit.Record(ctx, audit.Event{Action: "secret.purge", Actor: "sweep", Subject: id, Outcome: audit.Allowed})
		}
		failures = append(failures, err)
	}
	if err := errors.Join(failures...); err != nil {
		s.unswept(ctx, organization, err)
	}
}

func (s *Secrets) unswept(ctx context.Context, organization string, err error) {
	s.sweeps.unfinished(organization)
	s.logger.WarnContext(ctx, "the trash could not be swept", slog.String("organization", organization), slog.String("error", err.Error()))
}
