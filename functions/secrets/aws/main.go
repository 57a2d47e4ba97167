// Command bootstrap is projects and secrets on AWS Lambda, behind an API Gateway HTTP
// API: DynamoDB keeps them. It has no key: what it keeps is encrypted by clients.
package main

import (
	"log/slog"
	"net/http"

	"github.com/latchkey-fn/latchkey/functions/internal/aws"
	"github.com/latchkey-fn/latchkey/functions/secrets"
)

func main() { aws.Main("Secrets", secrets.LoadConfig, open) }

func open(c secrets.Config, log *slog.Logger) (http.Handler, error) {
	_, documents, err := aws.Open(c.AWS, c.Store)
	if err != nil {
		return nil, err
	}
	return secrets.New(c, secrets.Parts{Store: documents, Logger: log})
}
