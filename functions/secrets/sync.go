package secrets

import (
	"net/url"
	"strings"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

type unchanged struct {
	HasChanges bool    `json:"hasChanges"`
	Secrets    *string `json:"secrets"`
	Object     string  `json:"object"`
}

// The texts around the secrets of a sync with changes.
const (
	beginSync = `{"hasChanges":true,"secrets":` + beginList
	endSync   = endList + `,"object":"secretsSync"}`
)

func (h *handler) sync(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	since, err := lastSynced(r.URL.Query())
	if err != nil {
		return nil, err
	}
	changed, all, err := h.secrets.Sync(r.Context(), a, since)
	if err != nil {
		return nil, err
	}
	if !changed {
		return unchanged{Object: "secretsSync"}, nil
	}
	return stream(beginSync, as(all.Read(r.Context()), answerBase), endSync), h.fits(sizeOf(all.Views, true))
}

// lastSynced reads the date of the last sync; zero: there was none.
func lastSynced(query url.Values) (time.Time, error) {
	const name = "lastSyncedDate"
	text := query.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	// A plus sign that was not escaped reads as a blank.
	date, err := time.Parse(time.RFC3339Nano, strings.ReplaceAll(text, " ", "+"))
	if err != nil {
		return time.Time{}, &machine.Problem{Class: fault.Invalid, Message: "The model state is invalid.", Fields: map[string][]string{
			name: {"The date is not one such as 2026-01-02T03:04:05.678Z."},
		}}
	}
	return date, nil
}
