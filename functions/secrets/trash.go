package secrets

import (
	"context"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

func (h *handler) listTrash(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	views, err := h.secrets.Trash(r.Context(), a)
	if err != nil {
		return nil, err
	}
	return answerViews(views), h.fits(sizeOf(views, false))
}

func (h *handler) emptyTrash(r smapi.Request) (any, error) {
	return inTrash(r, h.secrets.Empty)
}

func (h *handler) restoreSecrets(r smapi.Request) (any, error) {
	return inTrash(r, h.secrets.Restore)
}

// inTrash does something to trashed secrets, and answers with nothing.
func inTrash(r smapi.Request, do func(context.Context, machine.Access, []string) error) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	ids, _, err := readIDs(r)
	if err != nil {
		return nil, err
	}
	return nil, do(r.Context(), a, ids)
}
