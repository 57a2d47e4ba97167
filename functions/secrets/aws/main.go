// Command bootstrap is projects and secrets on AWS Lambda, behind an API Gateway HTTP
// API: DynamoDB keeps them. It has no key: what it keeps is encrypted by clients.
package main

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/latchkey-fn/latchkey/functions/internal/aws"
	"github.com/latchkey-fn/latchkey/functions/secrets"
)

func main() { aws.Main("Secrets", secrets.LoadConfig, open) }

func open(ctx context.Context, c secrets.Config, log *slog.Logger) (http.Handler, error) {
	account, err := aws.Account(ctx, c.AWS)
	if err != nil {
		return nil, err
	}
	documents, err := aws.Store(account, c.Store)
	if err != nil {
		return nil, err
	}
	return secrets.New(c, secrets.Parts{Store: documents, Logger: log})
}
