// Command bootstrap is the scheduled side of Billing sync on AWS Lambda, called by
// EventBridge Scheduler and by the HTTP side: DynamoDB keeps what is synced, AWS
// KMS wraps what seals it.
package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/latchkey-fn/latchkey/functions/billingsync"
	"github.com/latchkey-fn/latchkey/functions/internal/aws"
	"github.com/latchkey-fn/latchkey/functions/internal/aws/keys"
	"github.com/latchkey-fn/latchkey/providers/hosts/awslambda"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

func main() { aws.MainTick("Billing sync", billingsync.LoadConfig, open) }

func open(ctx context.Context, c billingsync.Config, log *slog.Logger) (func(context.Context, awslambda.Tick) error, error) {
	account, err := aws.Account(ctx, c.AWS)
	if err != nil {
		return nil, err
	}
	documents, storeErr := aws.Store(account, c.Store)
	key, previous, keyErr := keys.Open(account, c.Keys, c.Previous)
	if err := errors.Join(storeErr, keyErr); err != nil {
		return nil, err
	}
	function, err := billingsync.New(c, billingsync.Parts{
		Store: documents, Key: key, Previous: previous, Logger: log, Metrics: sponsor.LogMetrics{Logger: log},
	})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, tick awslambda.Tick) error {
		if tick.Organization != "" {
			return function.Sync(ctx, tick.Organization)
		}
		return function.Run(ctx, billingsync.Tick{At: tick.At, ID: tick.ID})
	}, nil
}
