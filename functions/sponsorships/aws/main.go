// Command bootstrap is the HTTP side of Billing sync on AWS Lambda, behind an API
// Gateway HTTP API: DynamoDB keeps what is synced, AWS KMS wraps what seals it,
// and the scheduled function is invoked for what somebody wants at once.
package main

import (
	"log/slog"
	"net/http"

	"github.com/latchkey-fn/latchkey/functions/internal/aws"
	"github.com/latchkey-fn/latchkey/functions/internal/aws/keys"
	"github.com/latchkey-fn/latchkey/functions/sponsorships"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

func main() { aws.Main("Sponsorships", sponsorships.LoadConfig, open) }

func open(c sponsorships.Config, log *slog.Logger) (http.Handler, error) {
	p, err := keys.Open(c.AWS, c.Store, c.Wrapping)
	if err != nil {
		return nil, err
	}
	parts := sponsorships.Parts{
		Store: p.Store, Key: p.Key, Previous: p.Previous, Logger: log, Metrics: sponsor.LogMetrics{Logger: log},
	}
	if c.SyncFunction == "" {
		log.Warn(config.Prefix + "SYNC_FUNCTION is not set: a sync that somebody asks for begins with the schedule's next tick")
	} else {
		i, err := newInvoker(p.Account, c.SyncFunction, c.LambdaEndpoint)
		if err != nil {
			return nil, err
		}
		parts.Kick = i.kick
	}
	return sponsorships.New(c, parts)
}
