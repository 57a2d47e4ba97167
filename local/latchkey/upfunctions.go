package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/latchkey-fn/latchkey/local/house"
)

// openHere opens the functions in this process.
func (f upFlags) openHere(ctx context.Context, _ *terminal, parts *house.Closers, s upSettings, log *slog.Logger) (http.Handler, error) {
	kc, err := house.OpenKeyConnector(ctx, s.keyConnector, log)
	if err != nil {
		return nil, err
	}
	parts.Add(kc)
	if err := kc.Ring.Check(ctx); err != nil {
		return nil, fmt.Errorf("%s was made with another --keys, or is damaged; give another --data, or the same --keys: %w", f.data, err)
	}
	list, err := s.secretsManager.Functions(kc.Parts, log)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", kc)
	s.secretsManager.Gather(mux, list)
	syncing, err := s.billingSync.Open(kc.Parts, log, house.SyncingOptions{})
	if err != nil {
		return nil, err
	}
	parts.Add(syncing)
	return syncing.Mount(mux), syncing.Start(ctx)
}
