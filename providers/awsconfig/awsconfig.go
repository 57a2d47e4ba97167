// Package awsconfig decides, in one place for every AWS provider, where
// credentials come from, how long a call may hang and how often it is repeated.
// Mains call it and hand its aws.Config to the providers.
package awsconfig

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/smithy-go/logging"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Config is where to and as whom.
type Config struct {
	// Region, for example eu-central-1. Empty: AWS_REGION or the profile's.
	Region string
	// AccessKeyID and SecretAccessKey are given together or not at all. Without
	// them the default chain applies: environment, shared files and SSO, web
	// identity, the container's or the instance's role. Prefer a role.
	AccessKeyID     string
	SecretAccessKey string
}

// String leaves the credentials out.
func (c Config) String() string { return "region " + c.Region }

// GoString leaves the credentials out.
func (c Config) GoString() string { return c.String() }

// LogValue leaves the credentials out.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// One attempt of a call. KMS and DynamoDB answer in milliseconds; what has not
// begun to answer after responseTimeout hangs.
const (
	dialTimeout      = time.Second
	handshakeTimeout = 2 * time.Second
	responseTimeout  = 2 * time.Second
	attemptTimeout   = 8 * time.Second // with the bodies
	// idleTimeout is shorter than the services keep an idle connection, so that
	// the first call after a pause rarely meets a closed one
	// (aws-sdk-go-v2 issue 3423: the SDK's own 90 s is longer).
	idleTimeout = 20 * time.Second
)

// The attempts of a call. Throttling passes within seconds (many instances
// that start at once), so it is waited for; a service that hangs is given one
// more chance and then reported, within some five seconds.
const (
	maxAttempts    = 6
	maxHangs       = 2
	firstBackoff   = 5 * time.Millisecond
	maxBackoff     = 200 * time.Millisecond
	firstThrottled = 100 * time.Millisecond
	maxThrottled   = 2 * time.Second
)

// Load reads the settings around the process; it contacts nothing. Its errors
// are of class Invalid.
func Load(ctx context.Context, c Config) (aws.Config, error) {
	if (c.AccessKeyID == "") != (c.SecretAccessKey == "") {
		given, missing := "an access key id", "its secret"
		if c.AccessKeyID == "" {
			given, missing = "a secret access key", "its id"
		}
		return aws.Config{}, fmt.Errorf("%w: AWS credentials: %s is set without %s: set both, or neither to use the default credential chain", fault.Invalid, given, missing)
	}
	options := []func(*config.LoadOptions) error{
		config.WithHTTPClient(httpClient()),
		config.WithRetryer(newRetryer),
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
		return aws.Config{}, fmt.Errorf("%w: AWS configuration: no region: set one, or AWS_REGION", fault.Invalid)
	}
	return loaded, nil
}

// httpClient is the SDK's own, so that AWS_CA_BUNDLE and its rules about
// redirects go on to hold.
func httpClient() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialTimeout }).
		WithTransportOptions(func(t *http.Transport) {
			t.TLSHandshakeTimeout = handshakeTimeout
			t.ResponseHeaderTimeout = responseTimeout
			t.IdleConnTimeout = idleTimeout
		}).
		WithTimeout(attemptTimeout)
}

func newRetryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = maxAttempts
		o.Backoff = retry.BackoffDelayerFunc(backoff)
	})
}

// backoff is the wait before another attempt after the one of that number
// failed. The first repeat after a broken connection comes almost at once: it
// is what a thawed function meets.
func backoff(attempt int, err error) (time.Duration, error) {
	if retry.IsErrorThrottles(retry.DefaultThrottles).IsErrorThrottle(err) == aws.TrueTernary {
		return jitter(firstThrottled, maxThrottled, attempt), nil
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() && attempt >= maxHangs {
		return 0, fmt.Errorf("no answer in %d attempts: %w", attempt, err)
	}
	return jitter(firstBackoff, maxBackoff, attempt), nil
}

// jitter is random, up to first doubled with each attempt, at most limit.
func jitter(first, limit time.Duration, attempt int) time.Duration {
	ceiling := min(limit, first<<min(max(attempt-1, 0), 16))
	return rand.N(ceiling) + 1 //nolint:gosec // a wait, not a secret
}
