// Command bootstrap is the exchange of access tokens on AWS Lambda, behind an API Gateway HTTP
// API: DynamoDB keeps the tokens, AWS KMS wraps the keys that sign.
package main

import (
	"log/slog"
	"net/http"

	"github.com/latchkey-fn/latchkey/functions/internal/aws"
	"github.com/latchkey-fn/latchkey/functions/internal/aws/keys"
	"github.com/latchkey-fn/latchkey/functions/tokenexchange"
)

func main() { aws.Main("The token exchange", tokenexchange.LoadConfig, open) }

func open(c tokenexchange.Config, log *slog.Logger) (http.Handler, error) {
	p, err := keys.Open(c.AWS, c.Store, c.Wrapping)
	if err != nil {
		return nil, err
	}
	return tokenexchange.New(c, tokenexchange.Parts{Store: p.Store, Key: p.Key, Previous: p.Previous, Logger: log})
}
