package secret

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Version is a former value of a secret: the record's parent. Its id is the
// content's.
type Version = store.Record[Content]

// Versions gives the former values of a secret, the newest first.
func (s *Secrets) Versions(ctx context.Context, c machine.Caller, id string) ([]Version, error) {
	a, view, err := s.reach(ctx, c, id, machine.ToRead)
	if err != nil {
		return nil, err
	}
	contents := newFound[Content]()
	if err := contents.fetch(ctx, s.contents, view.Head.Value.History); err != nil {
		return nil, fmt.Errorf("versions: %w", err)
	}
	var versions []Version
	for _, version := range slices.Backward(view.Head.Value.History) {
		if content, ok := contents.records[version]; ok { // unless it was deleted just now
			versions = append(versions, content)
		}
	}
	s.machines.Done(ctx, a, machine.SecretRetrieved, "", "", id)
	return versions, nil
}

// VersionSelection is versions that a caller may read, whose values are still
// where they are.
type VersionSelection struct {
	ids, of []string
	size    int
	access  machine.Access
	secrets *Secrets
}

// Len is how many there are, and Size what their texts measure, in bytes.
func (sel VersionSelection) Len() int  { return len(sel.ids) }
func (sel VersionSelection) Size() int { return sel.size }

// SelectVersions gives versions, for a caller who may read their secrets. All
// exist, and are of one organisation; else it is NotFound.
func (s *Secrets) SelectVersions(ctx context.Context, c machine.Caller, ids []string) (VersionSelection, error) {
	if len(ids) == 0 {
		return VersionSelection{}, nil
	}
	sel := VersionSelection{ids: ids, secrets: s}
	a, found, err := s.pickVersions(ctx, c, ids)
	if err != nil {
		return VersionSelection{}, err
	}
	sel.access = a
	for _, id := range ids {
		version := found[id]
		if !version.secret.Rights.Read {
			return VersionSelection{}, machine.NotFound()
		}
		sel.size += version.size
		sel.of = append(sel.of, version.secret.Head.ID)
	}
	slices.Sort(sel.of)
	sel.of = slices.Compact(sel.of)
	return sel, nil
}

// Read walks the versions, of which it holds store.MaxKeys at a time.
func (sel VersionSelection) Read(ctx context.Context) iter.Seq2[Version, error] {
	return func(yield func(Version, error) bool) {
		if len(sel.ids) == 0 {
			return
		}
		sel.secrets.machines.Done(ctx, sel.access, machine.SecretRetrieved, "", "", sel.of...)
		for version, err := range sel.secrets.contents.GetMany(ctx, sel.ids) {
			if err != nil {
				err = fmt.Errorf("versions: %w", err)
			}
			if !yield(version, err) || err != nil {
				return
			}
		}
	}
}

// pickedVersion is a version without its value.
type pickedVersion struct {
	secret View
	size   int
}

// pickVersions finds the secrets of versions, whatever the caller's rights on
// them.
func (s *Secrets) pickVersions(ctx context.Context, c machine.Caller, ids []string) (machine.Access, map[string]pickedVersion, error) {
	var (
		secrets []string
		parents = map[string]string{}
		sizes   = map[string]int{}
	)
	for content, err := range s.contents.GetMany(ctx, ids) {
		if err != nil {
			return machine.Access{}, nil, fmt.Errorf("versions: %w", err)
		}
		parents[content.ID], sizes[content.ID] = content.Parent, len(content.Value.Value)
		secrets = append(secrets, content.Parent)
	}
	if len(parents) != len(ids) {
		return machine.Access{}, nil, machine.NotFound()
	}
	slices.Sort(secrets)
	a, views, err := s.pick(ctx, c, slices.Compact(secrets))
	if err != nil {
		return machine.Access{}, nil, err
	}
	bySecret := map[string]View{}
	for _, view := range views {
		bySecret[view.Head.ID] = view
	}
	found := map[string]pickedVersion{}
	for _, id := range ids {
		view := bySecret[parents[id]]
		// A content that is no version is the valid one, or nobody's.
		if !slices.Contains(view.Head.Value.History, id) {
			return machine.Access{}, nil, machine.NotFound()
		}
		found[id] = pickedVersion{view, sizes[id]}
	}
	return a, found, nil
}

// RestoreVersion makes a former value the valid one again. That which it takes
// the place of becomes a version.
func (s *Secrets) RestoreVersion(ctx context.Context, c machine.Caller, id, version string) (Secret, error) {
	var o opened
	err := store.Retry(ctx, func() (err error) {
		if o, err = s.open(ctx, c, id, machine.ToWrite); err != nil {
			return err
		}
		if !slices.Contains(o.Head.Value.History, version) {
			return machine.NotFound()
		}
		former, err := s.contents.Get(ctx, version)
		if err != nil {
			return fmt.Errorf("version: %w", err)
		}
		content := s.content(o.Access, former.Value.Value, o.Content.Note)
		return s.swap(ctx, &o, o.Head, &content, true)
	})
	if err != nil {
		return Secret{}, err
	}
	s.machines.Done(ctx, o.Access, machine.SecretEdited, "", "", id)
	return o.Secret, nil
}

// DeleteVersions deletes versions for good. All exist, and are of one
// organisation; else it is NotFound and nothing is done.
func (s *Secrets) DeleteVersions(ctx context.Context, c machine.Caller, ids []string) ([]Result, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	a, picked, err := s.pickVersions(ctx, c, ids)
	if err != nil {
		return nil, err
	}
	tried, err := attempt(ctx, ids, func(ctx context.Context, id string) error {
		return s.deleteVersion(ctx, c, picked[id].secret.Head.ID, id)
	})
	if err != nil {
		return nil, err
	}
	secretsOf := func(versions []string) []string {
		var secrets []string
		for _, id := range versions {
			secrets = append(secrets, picked[id].secret.Head.ID)
		}
		slices.Sort(secrets)
		return slices.Compact(secrets)
	}
	s.machines.Denied(ctx, c, machine.SecretEdited, secretsOf(tried.denied)...)
	s.machines.Done(ctx, a, machine.SecretEdited, "", "", secretsOf(tried.done)...)
	return tried.results, nil
}

func (s *Secrets) deleteVersion(ctx context.Context, c machine.Caller, secret, id string) error {
	err := store.Retry(ctx, func() error {
		_, view, err := s.reach(ctx, c, secret, machine.ToWrite)
		if err != nil {
			return err
		}
		head := view.Head
		head.Value.History = slices.DeleteFunc(slices.Clone(head.Value.History), func(other string) bool { return other == id })
		_, err = s.heads.Put(ctx, head, store.AtRevision(head.Revision))
		return err
	})
	switch {
	case fault.Of(err) == fault.NotFound:
		return fmt.Errorf("%w: %w", fault.Forbidden, err)
	case err != nil:
		return fmt.Errorf("delete a version: %w", err)
	}
	s.discard(ctx, []string{id})
	return nil
}
