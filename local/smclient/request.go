package smclient

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/latchkey-fn/latchkey/shared/buildinfo"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

const (
	// maxAnswer bounds an answer, in bytes. An export holds 6 000 secrets.
	maxAnswer = 256 << 20
	// tries is how often a request is sent that may be sent again.
	tries = 3
	// longestPause bounds what a server can ask for with Retry-After.
	longestPause = 20 * time.Second
	// deviceType is what SDKs call themselves.
	deviceType = "21"
)

// call is one operation of the API.
type call struct {
	doing  string // for errors, as "list the projects"
	method string
	path   []string // its parts are escaped
	query  url.Values
	body   any // becomes JSON; nil: none
	// again tells that it may be sent for a second time where nothing is known
	// of the first.
	again bool
	// absent is the advice where the server only says that there is no such thing;
	// empty: the usual one.
	absent string
}

// do gives the body of the answer, which is JSON unless it is empty.
func (c *Client) do(ctx context.Context, k call) ([]byte, error) {
	bearer, err := c.authorization(ctx)
	if err != nil {
		return nil, err
	}
	address := c.api
	for _, part := range k.path {
		address += "/" + url.PathEscape(part)
	}
	if len(k.query) > 0 {
		address += "?" + k.query.Encode()
	}
	o := outgoing{
		doing: k.doing, method: k.method, url: address, again: k.again || k.method == http.MethodGet,
		advice: advice{session: c.newSession(), absent: cmp.Or(k.absent, "It does not exist, or you may not reach it.")},
		header: map[string]string{"Accept": "*/*", "Authorization": "Bearer " + bearer},
	}
	if k.body != nil {
		if o.body, err = json.Marshal(k.body); err != nil {
			return nil, fmt.Errorf("%s: %w", k.doing, err)
		}
		o.header["Content-Type"] = "application/json"
	}
	return c.send(ctx, o)
}

// outgoing is a request.
type outgoing struct {
	doing, method, url string
	header             map[string]string
	body               []byte
	again              bool
	advice             advice
}

// advice is what to do about refusals that say too little by themselves.
type advice struct {
	session string // that is not accepted
	absent  string // is what was asked for
}

// newSession is what an operator does whose session is not accepted. A machine's
// client gets its own.
func (c *Client) newSession() string {
	if c.token == nil {
		return "Get a new LATCHKEY_OPERATOR_TOKEN."
	}
	return ""
}

// send sends a request, and again where that is safe and may help.
func (c *Client) send(ctx context.Context, o outgoing) ([]byte, error) {
	exponential := backoff.NewExponentialBackOff()
	exponential.InitialInterval = c.pause
	pause := &politePause{BackOff: exponential}
	return backoff.Retry(ctx, func() ([]byte, error) {
		content, asked, err := c.sendOnce(ctx, o)
		if err != nil && !(o.again && fault.Of(err) == fault.Transient) {
			err = backoff.Permanent(err)
		}
		pause.asked = asked
		return content, err
	}, backoff.WithBackOff(pause), backoff.WithMaxTries(tries))
}

// politePause waits for as long as the server asked, where that is longer.
type politePause struct {
	backoff.BackOff
	asked time.Duration
}

func (p *politePause) NextBackOff() time.Duration {
	return max(p.BackOff.NextBackOff(), min(p.asked, longestPause))
}

func (c *Client) sendOnce(ctx context.Context, o outgoing) (content []byte, asked time.Duration, err error) {
	r, err := http.NewRequestWithContext(ctx, o.method, o.url, bytes.NewReader(o.body))
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", o.doing, err)
	}
	for name, value := range o.header {
		r.Header.Set(name, value)
	}
	r.Header.Set("Device-Type", deviceType)
	r.Header.Set("User-Agent", "latchkey/"+buildinfo.Version)
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, 0, unreachable(o, err)
	}
	defer answer.Body.Close()
	content, err = io.ReadAll(io.LimitReader(answer.Body, c.mostBytes+1))
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w: the answer broke off: %w", o.doing, fault.Transient, err)
	}
	if int64(len(content)) > c.mostBytes {
		return nil, 0, fmt.Errorf("%s: %w: it is larger than %d bytes", o.doing, errAnswer, c.mostBytes)
	}
	if answer.StatusCode >= http.StatusMultipleChoices {
		if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && seconds > 0 {
			asked = time.Duration(min(seconds, 3600)) * time.Second
		}
		return nil, asked, newRefusal(o, answer, content)
	}
	if kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type")); len(content) > 0 &&
		(err != nil || !strings.HasPrefix(kind, "application/") || !strings.Contains(kind, "json")) {
		return nil, 0, fmt.Errorf("%s: %w: its type is not JSON. Is this the address of a Secrets Manager?", o.doing, errAnswer)
	}
	return content, 0, nil
}

// unreachable says what to do about a request that got no answer.
func unreachable(o outgoing, err error) error {
	var noURL *url.Error
	if errors.As(err, &noURL) {
		err = noURL.Err // the text says what was being done, and the host is told below
	}
	host := o.url
	if u, parseErr := url.Parse(o.url); parseErr == nil {
		host = u.Scheme + "://" + u.Host
	}
	var unknown x509.UnknownAuthorityError
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%s: %w: %s has a certificate of an authority that is not known here; with a private one, set SSL_CERT_FILE to the file with its certificate: %w", o.doing, fault.Denied, host, err)
	case errors.As(err, &untrusted):
		return fmt.Errorf("%s: %w: the certificate of %s is not right: %w", o.doing, fault.Denied, host, err)
	}
	return fmt.Errorf("%s: %w: %s cannot be reached: %w", o.doing, fault.Transient, host, err)
}
