package apiclient

import (
	"bytes"
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
	// tries is how often a request is sent that may be sent again.
	tries = 3
	// longestPause bounds what a server can ask for with Retry-After.
	longestPause = 20 * time.Second
)

// Request is what a server is asked for.
type Request struct {
	Doing  string   // for errors, as "list the projects"
	Method string   // empty: GET
	Path   []string // below the base URL; its parts are escaped
	Query  url.Values
	Header map[string]string
	Body   any   // becomes JSON; nil: none
	Form   *Form // instead of Body
	// Again tells that it may be sent for a second time where nothing is known of
	// the first. A GET always may.
	Again bool
	// Absent is for Config.Advise: what to do where the server only says that there
	// is no such thing. Empty: the usual.
	Absent string
}

// Form is a body that is not JSON.
type Form struct {
	Type    string
	Content []byte
}

// Do sends a request, and again where that is safe and may help. It gives the
// body of the answer, which is JSON unless it is empty. An answer that is an
// error is a *Refusal.
func (c *Client) Do(ctx context.Context, r Request) ([]byte, error) {
	if r.Method == "" {
		r.Method = http.MethodGet
	}
	if r.Body != nil {
		content, err := json.Marshal(r.Body)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.Doing, err)
		}
		r.Form = &Form{"application/json", content}
	}
	again := r.Again || r.Method == http.MethodGet
	exponential := backoff.NewExponentialBackOff()
	exponential.InitialInterval = c.config.Pause
	pause := &politePause{BackOff: exponential}
	return backoff.Retry(ctx, func() ([]byte, error) {
		content, asked, err := c.send(ctx, r)
		if err != nil && !(again && fault.Of(err) == fault.Transient) {
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

// send sends a request once. Asked is for how long the server wants to be left
// alone.
func (c *Client) send(ctx context.Context, r Request) (content []byte, asked time.Duration, err error) {
	sent, err := c.newRequest(ctx, r)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", r.Doing, err)
	}
	answer, err := c.config.HTTP.Do(sent)
	if err != nil {
		return nil, 0, c.unreachable(r.Doing, err)
	}
	defer answer.Body.Close()
	content, err = io.ReadAll(io.LimitReader(answer.Body, c.config.MaxAnswer+1))
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w: the answer broke off: %w", r.Doing, fault.Transient, err)
	}
	if int64(len(content)) > c.config.MaxAnswer {
		return nil, 0, fmt.Errorf("%s: %w: it is larger than %d bytes", r.Doing, ErrAnswer, c.config.MaxAnswer)
	}
	if answer.StatusCode >= http.StatusMultipleChoices {
		if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && seconds > 0 {
			asked = time.Duration(min(seconds, 3600)) * time.Second
		}
		return nil, asked, c.newRefusal(r, answer, content)
	}
	if kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type")); len(content) > 0 &&
		(err != nil || !strings.HasPrefix(kind, "application/") || !strings.Contains(kind, "json")) {
		return nil, 0, fmt.Errorf("%s: %w: its type is not JSON. %s", r.Doing, ErrAnswer, c.rightAddress())
	}
	return content, 0, nil
}

func (c *Client) newRequest(ctx context.Context, r Request) (*http.Request, error) {
	address := c.config.Server
	for _, part := range r.Path {
		address += "/" + url.PathEscape(part)
	}
	if len(r.Query) > 0 {
		address += "?" + r.Query.Encode()
	}
	var body io.Reader
	if r.Form != nil {
		body = bytes.NewReader(r.Form.Content)
	}
	made, err := http.NewRequestWithContext(ctx, r.Method, address, body)
	if err != nil {
		return nil, err
	}
	if r.Form != nil {
		made.Header.Set("Content-Type", r.Form.Type)
	}
	for name, value := range r.Header {
		made.Header.Set(name, value)
	}
	made.Header.Set("User-Agent", "latchkey/"+buildinfo.Version)
	return made, nil
}

func (c *Client) rightAddress() string { return "Is this the address of " + c.config.Serves + "?" }

// unreachable says what to do about a request that got no answer.
func (c *Client) unreachable(doing string, err error) error {
	if withURL, ok := errors.AsType[*url.Error](err); ok {
		err = withURL.Err // the text says what was being done, and the server is told below
	}
	server := c.config.Server
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
		return fmt.Errorf("%s: %w: %s has a certificate of an authority that is not known here; with a private one, set SSL_CERT_FILE to the file with its certificate: %w", doing, fault.Denied, server, err)
	}
	if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); untrusted {
		return fmt.Errorf("%s: %w: the certificate of %s is not right: %w", doing, fault.Denied, server, err)
	}
	return fmt.Errorf("%s: %w: %s cannot be reached: %w", doing, fault.Transient, server, err)
}
