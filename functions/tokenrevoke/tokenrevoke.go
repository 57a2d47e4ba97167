// Package tokenrevoke is the function that revokes access tokens: each of their
// sessions is refused at its next request. It stands apart so that it needs no
// key: it cannot open what it takes away.
package tokenrevoke

import (
	"log/slog"
	"time"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// maxBody bounds a request's body: machine.MaxRevoked ids need some 40 KB.
const maxBody = 64 << 10

// Parts are the outside systems, which a main chooses.
type Parts struct {
	Store  store.Driver
	Logger *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// New puts the function together. Nothing is contacted before the first
// request.
func New(c Config, p Parts) (*smapi.API, error) {
	documents := store.New(p.Store)
	h := &handler{machine.New(machine.Config{Store: documents, Logger: p.Logger, Now: p.Now})}
	api, err := smapi.Open(smapi.FunctionConfig{
		Name: "tokenrevoke", Settings: c.API, Store: documents, Machines: h.machines, Logger: p.Logger, Now: p.Now, MaxBody: maxBody,
	})
	if err != nil {
		return nil, err
	}
	api.Handle("POST /service-accounts/{id}/access-tokens/revoke", "access-token.revoke", h.revoke)
	return api, nil
}

type handler struct {
	machines *machine.Machines
}

type request struct {
	IDs []string `json:"ids"`
}

// revoke answers 200 without a body, whatever the ids are of: those that are not
// of this account's tokens change nothing.
func (h *handler) revoke(r smapi.Request) (any, error) {
	account, err := r.ID("id")
	if err != nil {
		return nil, err
	}
	var body request
	if err := r.Read(&body); err != nil {
		return nil, err
	}
	if body.IDs == nil {
		// A misspelt name must not look like a revocation.
		return nil, machine.Fields{"ids": {"The ids field is required."}}.Problem()
	}
	ids, err := smapi.IDs(body.IDs)
	if err != nil {
		return nil, err
	}
	return nil, h.machines.Revoke(r.Context(), r.Caller, account, ids)
}
