// Command bootstrap is the HTTP side of Billing sync on AWS Lambda, behind an API
// Gateway HTTP API: DynamoDB keeps what is synced, AWS KMS wraps what seals it,
// and the scheduled function is invoked for what somebody wants at once.
package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/latchkey-fn/latchkey/functions/internal/aws"
	"github.com/latchkey-fn/latchkey/functions/internal/aws/keys"
	"github.com/latchkey-fn/latchkey/functions/sponsorships"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

func main() { aws.Main("Sponsorships", sponsorships.LoadConfig, open) }

func open(ctx context.Context, c sponsorships.Config, log *slog.Logger) (http.Handler, error) {
	account, err := aws.Account(ctx, c.AWS)
	if err != nil {
		return nil, err
	}
	documents, storeErr := aws.Store(account, c.Store)
	key, previous, keyErr := keys.Open(account, c.Keys, c.Previous)
	if err := errors.Join(storeErr, keyErr); err != nil {
		return nil, err
	}
	parts := sponsorships.Parts{
		Store: documents, Key: key, Previous: previous, Logger: log, Metrics: sponsor.LogMetrics{Logger: log},
	}
	if c.SyncFunction == "" {
		log.Warn(config.Prefix + "SYNC_FUNCTION is not set: a sync that somebody asks for begins with the schedule's next tick")
	} else {
		i, err := newInvoker(account, c.SyncFunction, c.LambdaEndpoint)
		if err != nil {
			return nil, err
		}
		parts.Kick = i.kick
	}
	return sponsorships.New(c, parts)
}
