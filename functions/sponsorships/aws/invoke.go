package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// invoker invokes one Lambda function asynchronously. The one call does not need
// the SDK's client for it.
type invoker struct {
	url, region string
	credentials aws.CredentialsProvider
	client      aws.HTTPClient
	signer      *v4.Signer
}

const (
	// invokeTimeout bounds the call, which Lambda answers before the function
	// begins.
	invokeTimeout = 5 * time.Second
	// maxRefusal is how much of a refusal goes into the log.
	maxRefusal = 300
)

// newInvoker makes the invoker of a function, by its name or its ARN. An empty
// endpoint is the region's.
func newInvoker(account aws.Config, function, endpoint string) (*invoker, error) {
	domain := "amazonaws.com"
	if strings.HasPrefix(account.Region, "cn-") {
		domain += ".cn"
	}
	endpoint = cmp.Or(endpoint, aws.ToString(account.BaseEndpoint), "https://lambda."+account.Region+"."+domain)
	if u, err := url.Parse(endpoint); err != nil || u.Host == "" {
		return nil, fmt.Errorf("%w: the endpoint of Lambda is not a web address", fault.Invalid)
	}
	if account.Credentials == nil {
		return nil, fmt.Errorf("%w: there are no AWS credentials to invoke a function with", fault.Invalid)
	}
	i := &invoker{
		url:    strings.TrimSuffix(endpoint, "/") + "/2015-03-31/functions/" + url.PathEscape(function) + "/invocations",
		region: account.Region, credentials: account.Credentials, client: account.HTTPClient, signer: v4.NewSigner(),
	}
	if i.client == nil {
		i.client = http.DefaultClient
	}
	return i, nil
}

// kick has the function sync an organisation, and does not wait for it.
func (i *invoker) kick(ctx context.Context, organization string) error {
	ctx, cancel := context.WithTimeout(ctx, invokeTimeout)
	defer cancel()
	payload, err := json.Marshal(map[string]string{"organization": organization})
	if err != nil {
		return fmt.Errorf("%w: encode an event: %w", fault.Invalid, err)
	}
	request, err := i.request(ctx, payload)
	if err != nil {
		return err
	}
	response, err := i.client.Do(request)
	if err != nil {
		return fmt.Errorf("%w: invoke the scheduled function: %w", fault.Transient, err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusAccepted {
		return nil
	}
	refusal, err := io.ReadAll(io.LimitReader(response.Body, maxRefusal))
	if err != nil {
		refusal = nil // the status says enough
	}
	return fmt.Errorf("%w: invoke the scheduled function: Lambda answers %s: %s", classOf(response.StatusCode), response.Status, refusal)
}

func (i *invoker) request(ctx context.Context, payload []byte) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, i.url, bytes.NewReader(payload))
	if err != nil {
		return nil, fmt.Errorf("%w: invoke the scheduled function: %w", fault.Invalid, err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Amz-Invocation-Type", "Event")
	credentials, err := i.credentials.Retrieve(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: AWS credentials: %w", fault.Transient, err)
	}
	digest := sha256.Sum256(payload)
	if err := i.signer.SignHTTP(ctx, credentials, request, hex.EncodeToString(digest[:]), "lambda", i.region, time.Now()); err != nil {
		return nil, fmt.Errorf("%w: sign an invocation: %w", fault.Invalid, err)
	}
	return request, nil
}

func classOf(status int) fault.Class {
	switch {
	case status == http.StatusTooManyRequests, status >= http.StatusInternalServerError:
		return fault.Transient
	case status == http.StatusNotFound:
		return fault.NotFound
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return fault.Denied
	default:
		return fault.Invalid
	}
}
