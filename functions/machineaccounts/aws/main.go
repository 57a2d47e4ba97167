// Command bootstrap is the management of machine accounts on AWS Lambda, behind an API Gateway HTTP
// API: DynamoDB keeps them, AWS KMS wraps what seals payloads.
package main

import (
	"log/slog"
	"net/http"

	"github.com/latchkey-fn/latchkey/functions/internal/aws"
	"github.com/latchkey-fn/latchkey/functions/internal/aws/keys"
	"github.com/latchkey-fn/latchkey/functions/machineaccounts"
)

func main() { aws.Main("Machine accounts", machineaccounts.LoadConfig, open) }

func open(c machineaccounts.Config, log *slog.Logger) (http.Handler, error) {
	p, err := keys.Open(c.AWS, c.Store, c.Wrapping)
	if err != nil {
		return nil, err
	}
	return machineaccounts.New(c, machineaccounts.Parts{Store: p.Store, Key: p.Key, Previous: p.Previous, Logger: log})
}
