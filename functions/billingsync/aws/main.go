// Command bootstrap is the scheduled side of Billing sync on AWS Lambda, called by
// EventBridge Scheduler and by the HTTP side: DynamoDB keeps what is synced, AWS
// KMS wraps what seals it.
package main

import (
	"context"
	"log/slog"

	"github.com/latchkey-fn/latchkey/functions/billingsync"
	"github.com/latchkey-fn/latchkey/functions/internal/aws"
	"github.com/latchkey-fn/latchkey/functions/internal/aws/keys"
	"github.com/latchkey-fn/latchkey/providers/hosts/awslambda"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

func main() { aws.MainTick("Billing sync", billingsync.LoadConfig, open) }

func open(c billingsync.Config, log *slog.Logger) (func(context.Context, awslambda.Tick) error, error) {
	p, err := keys.Open(c.AWS, c.Store, c.Wrapping)
	if err != nil {
		return nil, err
	}
	function, err := billingsync.New(c, billingsync.Parts{
		Store: p.Store, Key: p.Key, Previous: p.Previous, Logger: log, Metrics: sponsor.LogMetrics{Logger: log},
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
