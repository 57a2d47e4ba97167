package cloud

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/latchkey-fn/latchkey/shared/buildinfo"
)

const (
	// maxBody bounds an answer; one of 1000 offers has some 400 KB.
	maxBody      = 8 << 20
	maxErrorBody = 64 << 10
)

// request is one HTTP request.
type request struct {
	stage       Stage
	method      string
	url         *url.URL
	body        []byte
	contentType string
	bearer      string
	// scope is that of the token of an API request.
	scope string
	// secrets must not show in a message.
	secrets []string
	// decode reads the body of an answer 200.
	decode func([]byte) error
}

// response is what classify looks at.
type response struct {
	status int
	header http.Header
	body   []byte
	// asOf is the time that a Retry-After date is counted from.
	asOf time.Time
}

// callAPI sends a request with a token, and once more with a new one if the
// token is refused.
func (c *Client) callAPI(ctx context.Context, r request) error {
	if !c.enabled {
		return &Error{Code: CommDisabled, Stage: r.stage, Detail: "communication with the cloud is switched off", Hint: "set globalSettings__enableCloudCommunication or LATCHKEY_CLOUD_COMMUNICATION to true"}
	}
	for refused := ""; ; {
		token, err := c.token(ctx, r.scope, refused)
		if err != nil {
			return err
		}
		r.bearer = token
		e := c.send(ctx, r)
		switch {
		case e == nil:
			return nil
		case e.Code == TokenRejected && refused == "":
			refused = token
		default:
			return e
		}
	}
}

// send sends a request once and reports it.
func (c *Client) send(ctx context.Context, r request) *Error {
	began := c.now()
	status, skew, e := c.exchange(ctx, r)
	call := Call{Stage: r.stage, Status: status, Duration: c.now().Sub(began), Skew: skew}
	if e != nil {
		call.Code = e.Code
	}
	if skew != nil {
		c.mu.Lock()
		c.skew = skew
		c.mu.Unlock()
	}
	c.observe(ctx, call)
	return e
}

func (c *Client) exchange(ctx context.Context, r request) (status int, skew *time.Duration, e *Error) {
	attempt, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var sent atomic.Bool
	req, err := c.newRequest(attempt, r, &sent)
	if err != nil {
		return 0, nil, c.unreached(r, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, c.brokenOff(ctx, r, err, sent.Load())
	}
	defer resp.Body.Close()
	limit := int64(maxErrorBody)
	if resp.StatusCode == http.StatusOK {
		limit = maxBody
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	received := response{status: resp.StatusCode, header: resp.Header, body: body, asOf: c.now()}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		ahead := date.Sub(received.asOf).Truncate(time.Second)
		received.asOf, skew = date, &ahead
	}
	if received.status != http.StatusOK {
		// What was read of the body is enough; the status says the rest.
		return received.status, skew, c.classify(r, received)
	}
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("the answer breaks off")
	case err != nil:
		return received.status, skew, c.brokenOff(ctx, r, err, true)
	case len(body) > maxBody:
		err = fmt.Errorf("the answer has more than %d bytes", maxBody)
	default:
		err = r.decode(body)
	}
	if err != nil {
		return received.status, skew, c.unreadable(r, received, err)
	}
	return received.status, skew, nil
}

// newRequest notes in sent that a byte of the request may have gone out.
func (c *Client) newRequest(ctx context.Context, r request, sent *atomic.Bool) (*http.Request, error) {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	open := func() (io.ReadCloser, error) {
		return io.NopCloser(&watched{Reader: bytes.NewReader(r.body), read: sent}), nil
	}
	body, err := open()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url.String(), body)
	if err != nil {
		return nil, err
	}
	req.ContentLength, req.GetBody = int64(len(r.body)), open
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", r.contentType)
	req.Header.Set("User-Agent", "latchkey-billing-sync/"+buildinfo.Version)
	req.Header.Set("Traceparent", traceparent(ctx))
	if r.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+r.bearer)
	}
	return req, nil
}

// watched notes that it was read: a transport reads a body when it sends it.
type watched struct {
	io.Reader
	read *atomic.Bool
}

func (w *watched) Read(p []byte) (int, error) {
	w.read.Store(true)
	return w.Reader.Read(p)
}
