// Command bootstrap is Key Connector on AWS Lambda, behind an API Gateway HTTP
// API: DynamoDB keeps the keys, AWS KMS wraps them.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/latchkey-fn/latchkey/functions/keyconnector"
	"github.com/latchkey-fn/latchkey/providers/awsconfig"
	"github.com/latchkey-fn/latchkey/providers/hosts/awslambda"
	"github.com/latchkey-fn/latchkey/providers/keys/awskms"
	"github.com/latchkey-fn/latchkey/providers/stores/dynamodb"
	"github.com/latchkey-fn/latchkey/shared/config"
)

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	slog.SetDefault(log) // the host's lines are JSON too
	function, err := open(context.Background(), log)
	if err != nil {
		log.Error("Key Connector cannot start", "error", err.Error())
		os.Exit(1)
	}
	awslambda.Start(function)
}

func open(ctx context.Context, log *slog.Logger) (*keyconnector.Function, error) {
	settings, warnings, err := keyconnector.LoadConfig(config.Environment())
	for _, w := range warnings {
		log.Warn(w)
	}
	if err == nil {
		err = settings.Only(config.StoreDynamoDB, config.KeysAWSKMS)
	}
	if err != nil {
		return nil, err
	}
	aws, err := awsconfig.Load(ctx, awsconfig.Config{
		Region: settings.AWS.Region, AccessKeyID: settings.AWS.AccessKeyID, SecretAccessKey: settings.AWS.SecretAccessKey.Reveal(),
	})
	if err != nil {
		return nil, err
	}
	kms := func(k config.Keys) *awskms.Key {
		return awskms.New(aws, awskms.Config{KeyID: k.AWSKMSKeyID, Endpoint: k.AWSKMSEndpoint, Symmetric: k.AWSKMSSymmetric})
	}
	parts := keyconnector.Parts{
		Store:  dynamodb.New(aws, dynamodb.Config{Table: settings.Store.DynamoDBTable, Endpoint: settings.Store.DynamoDBEndpoint}),
		Key:    kms(settings.Keys),
		Logger: log,
	}
	if settings.HasPrevious() {
		parts.Previous = append(parts.Previous, kms(settings.Previous))
	}
	return keyconnector.New(settings, parts)
}
