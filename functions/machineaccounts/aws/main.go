// Command bootstrap is the management of machine accounts on AWS Lambda, behind an API Gateway HTTP
// API: DynamoDB keeps them, AWS KMS wraps what seals payloads.
package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/latchkey-fn/latchkey/functions/internal/aws"
	"github.com/latchkey-fn/latchkey/functions/internal/aws/keys"
	"github.com/latchkey-fn/latchkey/functions/machineaccounts"
)

func main() { aws.Main("Machine accounts", machineaccounts.LoadConfig, open) }

func open(ctx context.Context, c machineaccounts.Config, log *slog.Logger) (http.Handler, error) {
	account, err := aws.Account(ctx, c.AWS)
	if err != nil {
		return nil, err
	}
	documents, storeErr := aws.Store(account, c.Store)
	key, previous, keyErr := keys.Open(account, c.Keys, c.Previous)
	if err := errors.Join(storeErr, keyErr); err != nil {
		return nil, err
	}
	return machineaccounts.New(c, machineaccounts.Parts{Store: documents, Key: key, Previous: previous, Logger: log})
}
