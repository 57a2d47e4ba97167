package syncclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/cenkalti/backoff/v5"

	"github.com/latchkey-fn/latchkey/local/smclient"
	"github.com/latchkey-fn/latchkey/shared/buildinfo"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

const (
	// maxAnswer bounds an answer, in bytes: ten thousand offers are some 10 MB.
	maxAnswer = 64 << 20
	// tries is how often a request is sent that may be sent again.
	tries = 3
	// longestPause bounds what a server can ask for with Retry-After.
	longestPause = 20 * time.Second
	// longestMessage bounds what is shown of a server's message, in characters.
	longestMessage = 900
)

// codeHeader names the failure that an answer is of, for programs.
const codeHeader = "X-Latchkey-Code"

// errAnswer is an answer that this client does not know.
var errAnswer = errors.New("the server's answer is not the one that is expected here")

// call is one request.
type call struct {
	doing  string // for errors, as "list the runs"
	method string // empty: GET
	path   []string
	query  url.Values
	body   any   // becomes JSON; nil: none
	form   *form // instead of body
	// again tells that it may be sent for a second time where nothing is known of
	// the first.
	again bool
}

// form is a body of several parts.
type form struct {
	kind    string
	content []byte
}

// licenceForm is a licence as the official web vault uploads it.
func licenceForm(document []byte) (*form, error) {
	var buffer bytes.Buffer
	w := multipart.NewWriter(&buffer)
	part, err := w.CreateFormFile("License", "license.json")
	if err == nil {
		_, err = part.Write(document)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("upload the license: %w", err)
	}
	return &form{w.FormDataContentType(), buffer.Bytes()}, nil
}

// do gives the body of the answer, and sends again where that is safe and may
// help.
func (c *Client) do(ctx context.Context, k call) ([]byte, error) {
	address := c.api
	for _, part := range k.path {
		address += "/" + url.PathEscape(part)
	}
	if len(k.query) > 0 {
		address += "?" + k.query.Encode()
	}
	if k.method == "" {
		k.method, k.again = http.MethodGet, true
	}
	if k.body != nil {
		content, err := json.Marshal(k.body)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.doing, err)
		}
		k.form = &form{"application/json", content}
	}
	exponential := backoff.NewExponentialBackOff()
	exponential.InitialInterval = c.pause
	pause := &politePause{BackOff: exponential}
	return backoff.Retry(ctx, func() ([]byte, error) {
		content, asked, err := c.sendOnce(ctx, k, address)
		if err != nil && !(k.again && fault.Of(err) == fault.Transient) {
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

func (c *Client) sendOnce(ctx context.Context, k call, address string) (content []byte, asked time.Duration, err error) {
	var body io.Reader
	if k.form != nil {
		body = bytes.NewReader(k.form.content)
	}
	r, err := http.NewRequestWithContext(ctx, k.method, address, body)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", k.doing, err)
	}
	if k.form != nil {
		r.Header.Set("Content-Type", k.form.kind)
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Authorization", "Bearer "+c.bearer.Reveal())
	r.Header.Set("User-Agent", "latchkey/"+buildinfo.Version)
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, 0, c.unreachable(k.doing, err)
	}
	defer answer.Body.Close()
	content, err = io.ReadAll(io.LimitReader(answer.Body, c.mostBytes+1))
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w: the answer broke off: %w", k.doing, fault.Transient, err)
	}
	if int64(len(content)) > c.mostBytes {
		return nil, 0, fmt.Errorf("%s: %w: it is larger than %d bytes", k.doing, errAnswer, c.mostBytes)
	}
	if answer.StatusCode >= http.StatusMultipleChoices {
		if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && seconds > 0 {
			asked = time.Duration(min(seconds, 3600)) * time.Second
		}
		return nil, asked, newRefusal(k.doing, answer, content)
	}
	if kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type")); len(content) > 0 && (err != nil || kind != "application/json") {
		return nil, 0, fmt.Errorf("%s: %w: its type is not JSON. %s", k.doing, errAnswer, rightAddress)
	}
	return content, 0, nil
}

const rightAddress = "Is this the address of a Latchkey that serves Billing sync?"

// unreachable says what to do about a request that got no answer.
func (c *Client) unreachable(doing string, err error) error {
	if withURL, ok := errors.AsType[*url.Error](err); ok {
		err = withURL.Err // the text says what was being done, and the host is told below
	}
	host := strings.TrimSuffix(c.api, "/api")
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
		return fmt.Errorf("%s: %w: %s has a certificate of an authority that is not known here; with a private one, set SSL_CERT_FILE to the file with its certificate: %w", doing, fault.Denied, host, err)
	}
	if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); untrusted {
		return fmt.Errorf("%s: %w: the certificate of %s is not right: %w", doing, fault.Denied, host, err)
	}
	return fmt.Errorf("%s: %w: %s cannot be reached: %w", doing, fault.Transient, host, err)
}

// newRefusal makes an error of an answer that is one.
func newRefusal(doing string, answer *http.Response, content []byte) error {
	var body struct {
		Message          string              `json:"message"`
		ValidationErrors map[string][]string `json:"validationErrors"`
	}
	known := json.Unmarshal(content, &body) == nil
	for _, member := range slices.Sorted(maps.Keys(body.ValidationErrors)) {
		body.Message += " " + member + ": " + strings.Join(body.ValidationErrors[member], " ")
	}
	if code := answer.Header.Get(codeHeader); code != "" {
		body.Message += " (" + code + ")"
	}
	status := answer.StatusCode
	r := &smclient.Refusal{Doing: doing, Status: status, Message: printable(body.Message)}
	switch {
	case status < http.StatusBadRequest:
		r.Advice = "Redirects are not followed, since the request is secret: give the address that it leads to."
	case status == http.StatusUnauthorized:
		r.Advice = "Get a new operator's token: set LATCHKEY_OPERATOR_TOKEN or --operator-token-file."
	case status == http.StatusNotFound && !known:
		r.Advice = rightAddress
	case status == http.StatusNotFound:
		r.Advice = "It does not exist, or you may not reach it: are you an owner or administrator of this organization?"
	case status == http.StatusTooManyRequests:
		r.Advice = "Wait a minute."
	}
	return r
}

// printable keeps a server from writing to the terminal what is not text.
func printable(text string) string {
	clean := []rune(strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text))
	if len(clean) > longestMessage {
		return string(clean[:longestMessage]) + "…"
	}
	return string(clean)
}

// object is a JSON object that the server answers with.
type object interface {
	// required are the members without which it says nothing.
	required() []string
}

// decode reads an object. An error quotes nothing of the answer, which can hold
// addresses of people.
func decode[T object](content []byte) (T, error) {
	var value, none T
	var members map[string]json.RawMessage
	if json.Unmarshal(content, &members) != nil {
		return none, fmt.Errorf("%w: it is not a JSON object", errAnswer)
	}
	for _, name := range value.required() {
		if member, ok := members[name]; !ok || string(member) == "null" {
			return none, fmt.Errorf("%w: %s is missing", errAnswer, name)
		}
	}
	if err := json.Unmarshal(content, &value); err != nil {
		if mistyped, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return none, fmt.Errorf("%w: %s has another type", errAnswer, mistyped.Field)
		}
		return none, fmt.Errorf("%w: a member has another form", errAnswer)
	}
	return value, nil
}
