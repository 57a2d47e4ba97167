// Package chain is awsconfig with the credentials that the SDK's default chain
// finds: environment, shared files and SSO, web identity, the container's or the
// instance's role.
package chain

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/smithy-go/logging"

	"github.com/latchkey-fn/latchkey/providers/awsconfig"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Load reads the settings around the process; it contacts nothing. Its errors
// are of class Invalid.
func Load(ctx context.Context, c awsconfig.Config) (aws.Config, error) {
	if err := c.Check(); err != nil {
		return aws.Config{}, err
	}
	options := []func(*config.LoadOptions) error{
		config.WithHTTPClient(awsconfig.HTTPClient()),
		config.WithRetryer(awsconfig.NewRetryer),
		config.WithLogger(logging.Nop{}),
	}
	if c.Region != "" {
		options = append(options, config.WithRegion(c.Region))
	}
	if c.AccessKeyID != "" {
		options = append(options, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, "")))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, fmt.Errorf("%w: AWS configuration: %w", fault.Invalid, err)
	}
	if loaded.Region == "" {
		return aws.Config{}, awsconfig.ErrNoRegion
	}
	return loaded, nil
}
