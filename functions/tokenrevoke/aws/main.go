// Command bootstrap is the revocation of access tokens on AWS Lambda, behind an API Gateway HTTP
// API: DynamoDB keeps the tokens. It has no key, so it cannot read them.
package main

import (
	"log/slog"
	"net/http"

	"github.com/latchkey-fn/latchkey/functions/internal/aws"
	"github.com/latchkey-fn/latchkey/functions/tokenrevoke"
)

func main() { aws.Main("Token revocation", tokenrevoke.LoadConfig, open) }

func open(c tokenrevoke.Config, log *slog.Logger) (http.Handler, error) {
	_, documents, err := aws.Open(c.AWS, c.Store)
	if err != nil {
		return nil, err
	}
	return tokenrevoke.New(c, tokenrevoke.Parts{Store: documents, Logger: log})
}
