package secret

import (
	"context"
	"fmt"
	"iter"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Selection is secrets that a caller may read, whose values are still where
// they are.
type Selection struct {
	Views   []View
	access  machine.Access
	secrets *Secrets
}

// Select gives the secrets with these ids, which are different from one another;
// NotFound if one of them does not exist or may not be read.
func (s *Secrets) Select(ctx context.Context, c machine.Caller, ids []string) (Selection, error) {
	if len(ids) == 0 {
		return Selection{}, nil
	}
	a, views, err := s.pick(ctx, c, ids)
	if err != nil {
		return Selection{}, err
	}
	for _, view := range views {
		if !view.Rights.Read {
			return Selection{}, machine.NotFound()
		}
	}
	return Selection{Views: views, access: a, secrets: s}, nil
}

// Read walks the secrets with their values, of which it holds store.PageBytes
// at a time and not much more. It stops at the first error, which it yields.
func (sel Selection) Read(ctx context.Context) iter.Seq2[Secret, error] {
	return func(yield func(Secret, error) bool) {
		if len(sel.Views) == 0 {
			return
		}
		sel.secrets.machines.Done(ctx, sel.access, machine.SecretRetrieved, "", "", idsOf(sel.Views)...)
		for views := range sel.portions() {
			contents := newFound[Content]()
			ids := make([]string, len(views))
			for i, view := range views {
				ids[i] = view.Head.Value.Content
			}
			if err := contents.fetch(ctx, sel.secrets.contents, ids); err != nil {
				yield(Secret{}, fmt.Errorf("contents of secrets: %w", err))
				return
			}
			for _, view := range views {
				secret, err := sel.complete(ctx, view, contents.records)
				if !yield(secret, err) || err != nil {
					return
				}
			}
		}
	}
}

// complete gives a secret its value. Where somebody has changed it meanwhile,
// it is read anew.
func (sel Selection) complete(ctx context.Context, view View, contents map[string]store.Record[Content]) (Secret, error) {
	if content, ok := contents[view.Head.Value.Content]; ok {
		return Secret{view, content.Value}, nil
	}
	o, err := sel.secrets.get(ctx, sel.access.Caller, view.Head.ID)
	return o.Secret, err
}

// portions are as many secrets as are read at once.
func (sel Selection) portions() iter.Seq[[]View] {
	return func(yield func([]View) bool) {
		start, size := 0, 0
		for i, view := range sel.Views {
			if i > start && (size+view.Head.Value.Size > store.PageBytes || i-start == store.MaxKeys) {
				if !yield(sel.Views[start:i]) {
					return
				}
				start, size = i, 0
			}
			size += view.Head.Value.Size
		}
		yield(sel.Views[start:])
	}
}

func idsOf(views []View) []string {
	ids := make([]string, len(views))
	for i, view := range views {
		ids[i] = view.Head.ID
	}
	return ids
}
