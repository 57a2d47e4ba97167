// Command bootstrap is Key Connector on AWS Lambda, behind an API Gateway HTTP
// API: DynamoDB keeps the keys, AWS KMS wraps them.
package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/latchkey-fn/latchkey/functions/internal/aws"
	"github.com/latchkey-fn/latchkey/functions/internal/aws/keys"
	"github.com/latchkey-fn/latchkey/functions/keyconnector"
)

func main() { aws.Main("Key Connector", keyconnector.LoadConfig, open) }

func open(ctx context.Context, c keyconnector.Config, log *slog.Logger) (http.Handler, error) {
	account, err := aws.Account(ctx, c.AWS)
	if err != nil {
		return nil, err
	}
	documents, storeErr := aws.Store(account, c.Store)
	key, previous, keyErr := keys.Open(account, c.Keys, c.Previous)
	if err := errors.Join(storeErr, keyErr); err != nil {
		return nil, err
	}
	return keyconnector.New(c, keyconnector.Parts{Store: documents, Key: key, Previous: previous, Logger: log})
}
