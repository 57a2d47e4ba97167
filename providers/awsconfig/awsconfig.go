// Package awsconfig decides, in one place for every AWS provider, how long a call
// may hang and how often it is repeated. Mains hand its aws.Config to the
// providers: one with the credentials that Lambda puts into the environment. The
// SDK's default chain is in package chain, so that a function does not carry the
// clients that it consists of: they are a sixth of a binary.
package awsconfig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/smithy-go/logging"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Config is where to and as whom.
type Config struct {
	// Region, for example eu-central-1. Empty: AWS_REGION or the profile's.
	Region string
	// AccessKeyID and SecretAccessKey are given together or not at all. Prefer a
	// role.
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

// Check finds half of a pair of credentials. Its error is of class Invalid.
func (c Config) Check() error {
	if (c.AccessKeyID == "") == (c.SecretAccessKey == "") {
		return nil
	}
	given, missing := "an access key id", "its secret"
	if c.AccessKeyID == "" {
		given, missing = "a secret access key", "its id"
	}
	return fmt.Errorf("%w: AWS credentials: %s is set without %s: set both, or neither", fault.Invalid, given, missing)
}

// ErrNoRegion is of class Invalid.
var ErrNoRegion = fmt.Errorf("%w: AWS configuration: no region: set one, or AWS_REGION", fault.Invalid)

// FromEnvironment is the configuration of a function: what is not given it takes
// from the environment, where Lambda puts region and credentials. They are good
// for as long as Lambda keeps the process. It contacts nothing; its errors are of
// class Invalid.
func FromEnvironment(c Config) (aws.Config, error) {
	if err := c.Check(); err != nil {
		return aws.Config{}, err
	}
	token := ""
	if c.AccessKeyID == "" {
		c.AccessKeyID, c.SecretAccessKey, token = os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), os.Getenv("AWS_SESSION_TOKEN")
	}
	if c.AccessKeyID == "" || c.SecretAccessKey == "" {
		return aws.Config{}, fmt.Errorf("%w: AWS credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set: Lambda sets them", fault.Invalid)
	}
	region := cmp.Or(c.Region, os.Getenv("AWS_REGION"))
	if region == "" {
		return aws.Config{}, ErrNoRegion
	}
	fips, fipsErr := enabled("AWS_USE_FIPS_ENDPOINT")
	dualStack, dualStackErr := enabled("AWS_USE_DUALSTACK_ENDPOINT")
	if err := errors.Join(fipsErr, dualStackErr); err != nil {
		return aws.Config{}, err
	}
	return aws.Config{
		Region:        region,
		Credentials:   credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, token),
		HTTPClient:    HTTPClient(),
		Retryer:       NewRetryer,
		Logger:        logging.Nop{},
		ConfigSources: []any{endpoints{fips, dualStack}},
	}, nil
}

// endpoints chooses among a region's addresses, as the SDK's own variables ask.
type endpoints struct{ fips, dualStack bool }

// GetUseFIPSEndpoint is asked by the SDK.
func (e endpoints) GetUseFIPSEndpoint(context.Context) (aws.FIPSEndpointState, bool, error) {
	return aws.FIPSEndpointStateEnabled, e.fips, nil
}

// GetUseDualStackEndpoint is asked by the SDK.
func (e endpoints) GetUseDualStackEndpoint(context.Context) (aws.DualStackEndpointState, bool, error) {
	return aws.DualStackEndpointStateEnabled, e.dualStack, nil
}

func enabled(variable string) (bool, error) {
	value := os.Getenv(variable)
	if value == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("%w: %s=%s: choose true or false", fault.Invalid, variable, value)
	}
	return on, nil
}

// HTTPClient is the SDK's own, so that its rules about redirects go on to hold,
// and AWS_CA_BUNDLE where the chain is used.
func HTTPClient() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialTimeout }).
		WithTransportOptions(func(t *http.Transport) {
			t.TLSHandshakeTimeout = handshakeTimeout
			t.ResponseHeaderTimeout = responseTimeout
			t.IdleConnTimeout = idleTimeout
		}).
		WithTimeout(attemptTimeout)
}

// NewRetryer is one call's.
func NewRetryer() aws.Retryer {
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
