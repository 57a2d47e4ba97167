package cloud

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/latchkey-fn/latchkey/shared/config"
)

const (
	maxMessage = 300
	// maxRetryAfter is more than any caller waits, and no overflow.
	maxRetryAfter = 24 * time.Hour
)

// errorModel is the body of a refusal: that of the API, and that of the token
// endpoint (RFC 6749, section 5.2).
type errorModel struct {
	Message          string          `json:"message"`
	ValidationErrors json.RawMessage `json:"validationErrors"`
	Error            string          `json:"error"`
}

const modelStateInvalid = "The model state is invalid."

// classify makes an error of any answer but 200.
func (c *Client) classify(r request, received response) *Error {
	e := &Error{Stage: r.stage, Status: received.status, RetryAfter: retryAfter(received)}
	var model errorModel
	if err := decodeJSON(received.body, &model); err != nil {
		e.Detail = describe(received)
	}
	e.Message = c.shown(r, model.Message)
	switch status := received.status; {
	case status == http.StatusTooManyRequests:
		e.Code = RateLimited
	case status >= http.StatusInternalServerError:
		e.Code = CloudError
		e.Ambiguous = r.stage == StageSync
	case status < http.StatusBadRequest:
		return c.unreadable(r, received, redirection(received))
	case r.stage == StageToken:
		c.classifyToken(e, r, model)
	case status == http.StatusUnauthorized:
		e.Code = TokenRejected
		e.Detail = c.shown(r, strings.TrimSpace(e.Detail+" "+received.header.Get("WWW-Authenticate")))
		e.Hint = "the API refuses what identity has just issued: check that " + c.identity.Host + " and " + c.api.Host + " are of one region" + c.inRegion() + ", and the clock"
	case status == http.StatusForbidden:
		e.Code = ForbiddenScope
		e.Hint = "the token does not allow this; an answer that is no JSON is of a firewall or proxy before the cloud"
	case status == http.StatusRequestTimeout:
		e.Code = Timeout
		e.Ambiguous = r.stage == StageSync
	case r.stage == StageLicense:
		classifyLicense(e, model)
	default:
		classifySync(e, model)
	}
	if e.Code == RequestInvalid {
		e.Hint = reportHint
		if e.Detail == "" {
			e.Detail = c.shown(r, invalidMembers(model))
		}
	}
	return e
}

func (c *Client) classifyToken(e *Error, r request, model errorModel) {
	if e.Message == "" {
		e.Message = c.shown(r, model.Error)
	}
	switch model.Error {
	case "invalid_client":
		e.Code = IdentityInvalidClient
		e.Hint = "check the installation's id and key, that the installation is enabled, and that it belongs to the region of " + c.identity.Host + c.inRegion()
	case "invalid_scope":
		e.Code = IdentityInvalidScope
		e.Hint = "identity does not allow this installation the scope " + r.scope
	default:
		e.Code = RequestInvalid
	}
}

const reportHint = "this is most likely a fault of this version of Latchkey: update it, or report it with the run's id"

func (c *Client) inRegion() string {
	if c.region == "" {
		return ""
	}
	return " (" + c.region + ")"
}

const badKeyHint = "copy the key anew from the cloud's web vault; it changes when it is rotated there"

func classifySync(e *Error, model errorModel) {
	switch {
	case e.Status == http.StatusBadRequest && model.Message == "Invalid organization":
		e.Code = OrgUnknown
		e.Hint = "the cloud does not know the organisation: the region or the installed licence is another's"
	case e.Status == http.StatusBadRequest && model.Message == "Invalid Billing Sync Key":
		e.Code = KeyInvalid
		e.Hint = badKeyHint
	default:
		e.Code = RequestInvalid
	}
}

func classifyLicense(e *Error, model errorModel) {
	if e.Status == http.StatusNotFound {
		if model.Message == "Resource not found." {
			e.Code = LicenseOrgUnknown
			e.Hint = "the cloud does not know the organisation: the region or the installed licence is another's"
			return
		}
		e.Code = LicenseRouteGone
		e.Hint = "the cloud no longer offers licences on this route; download the licence in its web vault and upload it"
		return
	}
	e.Code = LicenseRefused
	if e.Status != http.StatusBadRequest {
		return
	}
	switch model.Message {
	case "Invalid license key.":
		e.Code = LicenseKeyInvalid
		e.Hint = "the installed licence is of another organisation, or was replaced; download it in the cloud's web vault and upload it"
	case "Invalid Billing Sync Key":
		e.Code = KeyInvalid
		e.Hint = badKeyHint
	case "Invalid installation id":
		e.Code = LicenseInstallation
	case "No active subscription found.":
		e.Code = LicenseNoSubscription
	case "Unable to generate license due to a payment issue. Please update your billing information or contact support for assistance.":
		e.Code = LicensePayment
	case modelStateInvalid, "":
		e.Code = LicenseBodyLost
		e.Hint = "the request is a GET with a body; a proxy that takes the body away gives this answer: let the request pass it unchanged, or download the licence in the cloud's web vault and upload it"
	}
}

// unreadable is an answer that says success, or points elsewhere, and cannot be
// used.
func (c *Client) unreadable(r request, received response, why error) *Error {
	return &Error{
		Code: BadResponse, Stage: r.stage, Status: received.status, Ambiguous: r.stage == StageSync,
		Detail: c.shown(r, why.Error()+"; "+describe(received)),
		Hint:   "a captive portal or a proxy may have answered in the cloud's place",
	}
}

// unreached is a request of which nothing was sent.
func (c *Client) unreached(r request, why error) *Error {
	e := &Error{
		Code: NetworkPre, Stage: r.stage, Detail: c.shown(r, why.Error()), cause: ended(why),
		Hint: "let " + strings.Join(slices.Compact(c.Hosts()), " and ") + " be reached from here, directly or through the proxy of HTTPS_PROXY",
	}
	if _, untrusted := errors.AsType[*tls.CertificateVerificationError](why); untrusted {
		e.Hint = "the certificate of " + r.url.Host + " is not trusted: where a proxy inspects TLS, give the certificate of its authority with " +
			config.Prefix + "CLOUD_CA_FILE"
	}
	return e
}

// brokenOff is a request without a whole answer. ctx is the caller's, without
// the limit of one request.
func (c *Client) brokenOff(ctx context.Context, r request, why error, sent bool) *Error {
	var wrapped *url.Error
	if errors.As(why, &wrapped) {
		why = wrapped.Err // the URL is known
	}
	if !sent {
		return c.unreached(r, why)
	}
	e := &Error{Code: NetworkMid, Stage: r.stage, Ambiguous: r.stage == StageSync, Detail: c.shown(r, why.Error()), cause: ended(why)}
	switch {
	case ctx.Err() != nil:
		e.Code, e.Detail = Timeout, "the request was given up before its answer came"
	case errors.Is(why, context.DeadlineExceeded):
		e.Code, e.Detail = Timeout, fmt.Sprintf("there was no whole answer within %s", c.timeout)
	}
	return e
}

// ended keeps of an error only that a context ended, which callers ask for.
func ended(err error) error {
	for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, end) {
			return end
		}
	}
	return nil
}

func redirection(received response) error {
	target, err := url.Parse(received.header.Get("Location"))
	if received.status < http.StatusMultipleChoices || err != nil || target.Host == "" {
		return fmt.Errorf("an answer %d is not expected", received.status)
	}
	return fmt.Errorf("the answer is a redirect to %.100s, which is not followed", target.Host)
}

// describe says what came in place of JSON, without showing it.
func describe(received response) string {
	kind, _, err := mime.ParseMediaType(received.header.Get("Content-Type"))
	if err != nil {
		kind = "an unknown kind"
	}
	if len(received.body) == 0 {
		return "the answer is empty"
	}
	return fmt.Sprintf("the answer is %d bytes of %.60s", len(received.body), kind)
}

// invalidMembers names what the API found wrong, without its values.
func invalidMembers(model errorModel) string {
	var members map[string]json.RawMessage
	if json.Unmarshal(model.ValidationErrors, &members) != nil || len(members) == 0 {
		return ""
	}
	names := slices.Sorted(maps.Keys(members))
	names = slices.DeleteFunc(names, func(name string) bool { return !memberName.MatchString(name) })
	if len(names) == 0 {
		return ""
	}
	return "members: " + strings.Join(names, ", ")
}

// memberName is what can be the path of a member, and is no text that was sent.
var memberName = regexp.MustCompile(`^[A-Za-z$][\w.$\[\]]{0,99}$`)

var address = regexp.MustCompile(`\S*@\S*`)

// shown makes a foreign text fit to be shown: short, printable, and without
// what is secret.
func (c *Client) shown(r request, text string) string {
	for _, secret := range append([]string{c.key.Reveal(), r.bearer}, r.secrets...) {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, config.Secret(secret).String())
		}
	}
	text = address.ReplaceAllString(text, "[address]")
	text = strings.Map(func(char rune) rune {
		if !unicode.IsPrint(char) {
			return ' '
		}
		return char
	}, text)
	if runes := []rune(text); len(runes) > maxMessage {
		text = string(runes[:maxMessage]) + "…"
	}
	return strings.TrimSpace(text)
}

// retryAfter reads the header of that name (RFC 9110, section 10.2.3): seconds
// or a date.
func retryAfter(received response) time.Duration {
	value := strings.TrimSpace(received.header.Get("Retry-After"))
	var wait time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		wait = date.Sub(received.asOf)
	}
	return min(max(wait, 0), maxRetryAfter)
}
