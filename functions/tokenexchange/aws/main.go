// Command bootstrap is the exchange of access tokens on AWS Lambda, behind an API Gateway HTTP
// API: DynamoDB keeps the tokens, AWS KMS wraps the keys that sign.
package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/latchkey-fn/latchkey/functions/internal/aws"
	"github.com/latchkey-fn/latchkey/functions/internal/aws/keys"
	"github.com/latchkey-fn/latchkey/functions/tokenexchange"
)

func main() { aws.Main("The token exchange", tokenexchange.LoadConfig, open) }

func open(ctx context.Context, c tokenexchange.Config, log *slog.Logger) (http.Handler, error) {
	account, err := aws.Account(ctx, c.AWS)
	if err != nil {
		return nil, err
	}
	documents, storeErr := aws.Store(account, c.Store)
	key, previous, keyErr := keys.Open(account, c.Keys, c.Previous)
	if err := errors.Join(storeErr, keyErr); err != nil {
		return nil, err
	}
	return tokenexchange.New(c, tokenexchange.Parts{Store: documents, Key: key, Previous: previous, Logger: log})
}
