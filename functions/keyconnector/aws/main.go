// Command bootstrap is Key Connector on AWS Lambda, behind an API Gateway HTTP
// API: DynamoDB keeps the keys, AWS KMS wraps them.
package main

import (
	"log/slog"
	"net/http"

	"github.com/latchkey-fn/latchkey/functions/internal/aws"
	"github.com/latchkey-fn/latchkey/functions/internal/aws/keys"
	"github.com/latchkey-fn/latchkey/functions/keyconnector"
)

func main() { aws.Main("Key Connector", keyconnector.LoadConfig, open) }

func open(c keyconnector.Config, log *slog.Logger) (http.Handler, error) {
	p, err := keys.Open(c.AWS, c.Store, c.Wrapping)
	if err != nil {
		return nil, err
	}
	return keyconnector.New(c, keyconnector.Parts{Store: p.Store, Key: p.Key, Previous: p.Previous, Logger: log})
}
