package keyconnector

import (
	"context"
	"log/slog"
	"net/http"
	"sync"

	"github.com/latchkey-fn/latchkey/shared/httpx"
)

type check struct {
	name string
	run  func(context.Context) error
}

// readiness is whether a request would succeed now.
type readiness []check

type healthDocument struct {
	Status string            `json:"status"`
	Checks map[string]string `json:"checks"`
}

func (r readiness) look(ctx context.Context) httpx.Finding {
	var (
		wait    sync.WaitGroup
		results = make([]error, len(r))
	)
	for i, c := range r {
		wait.Go(func() { results[i] = c.run(ctx) })
	}
	wait.Wait()

	document := healthDocument{"healthy", map[string]string{}}
	found := httpx.Finding{Healthy: true, Status: http.StatusOK}
	for i, c := range r {
		document.Checks[c.name] = "ok"
		if results[i] != nil {
			// What is wrong is for the log: the answer is for everybody.
			document.Checks[c.name], document.Status = "failed", "unhealthy"
			found.Healthy, found.Status = false, http.StatusServiceUnavailable
			httpx.Note(ctx, slog.String("health."+c.name, results[i].Error()))
		}
	}
	found.Answer = document
	return found
}
