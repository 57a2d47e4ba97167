// Package aws is what the functions' mains on AWS Lambda have in common. What
// those with a KMS key need besides is in package keys, so that the others link
// no KMS client.
package aws

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/latchkey-fn/latchkey/providers/awsconfig"
	"github.com/latchkey-fn/latchkey/providers/hosts/awslambda"
	"github.com/latchkey-fn/latchkey/providers/stores/dynamodb"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Main runs a function: its settings from the environment, then open, then
// Lambda's requests. It does not return.
func Main[Settings any](
	name string,
	load func(environment map[string]string) (Settings, []string, error),
	open func(settings Settings, log *slog.Logger) (http.Handler, error),
) {
	awslambda.Start(start(name, load, open))
}

// MainTick runs a function that is not asked by HTTP but called by a schedule,
// in the same way.
func MainTick[Settings any](
	name string,
	load func(environment map[string]string) (Settings, []string, error),
	open func(settings Settings, log *slog.Logger) (func(context.Context, awslambda.Tick) error, error),
) {
	awslambda.StartTick(start(name, load, open))
}

// start gives what open makes of the settings. Where that fails it ends the
// process.
func start[Settings, Served any](
	name string,
	load func(environment map[string]string) (Settings, []string, error),
	open func(settings Settings, log *slog.Logger) (Served, error),
) Served {
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	slog.SetDefault(log) // the host's lines are JSON too
	settings, warnings, err := load(config.Environment())
	for _, w := range warnings {
		log.Warn(w)
	}
	var served Served
	if err == nil {
		served, err = open(settings, log)
	}
	if err != nil {
		log.Error(name+" cannot start", "error", err.Error())
		os.Exit(1)
	}
	return served
}

// Open gives the account that a function runs with, and opens its DynamoDB table.
// It refuses any other store.
func Open(c config.AWS, s config.Store) (aws.Config, store.Driver, error) {
	account, err := awsconfig.FromEnvironment(awsconfig.Config{
		Region: c.Region, AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey.Reveal(),
	})
	if err != nil {
		return aws.Config{}, nil, err
	}
	if s.Kind != config.StoreDynamoDB {
		return account, nil, fmt.Errorf("%w: %sSTORE=%s: this binary has %s only", fault.Invalid, config.Prefix, s.Kind, config.StoreDynamoDB)
	}
	return account, dynamodb.New(account, dynamodb.Config{Table: s.DynamoDBTable, Endpoint: s.DynamoDBEndpoint}), nil
}
