package apiclient

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/httpx"
)

// InvalidClient is OAuth's code of credentials that are not good, or not good
// any more (RFC 6749, section 5.2).
const InvalidClient = "invalid_client"

// longestMessage bounds what is shown of a server's message, in characters.
const longestMessage = 900

// Refusal is an answer that is an error.
type Refusal struct {
	Doing  string // what was being done
	Status int
	// Message is the server's, for people; it may be empty.
	Message string
	// Advice is what to do about it; it may be empty.
	Advice string
	// Code is that of httpx.CodeHeader, or OAuth's where that was the form of the
	// answer.
	Code string
}

// Error implements error.
func (r *Refusal) Error() string {
	text := fmt.Sprintf("%s: the server answers %d %s", r.Doing, r.Status, http.StatusText(r.Status))
	if r.Message != "" {
		text += ": " + r.Message
	}
	if r.Advice != "" {
		text += "\n" + r.Advice
	}
	return text
}

// Unwrap gives the class of the failure.
func (r *Refusal) Unwrap() error {
	switch r.Status {
	case http.StatusUnauthorized:
		return fault.Unauthenticated
	case http.StatusBadRequest:
		if r.Code == InvalidClient {
			return fault.Unauthenticated
		}
		return fault.Invalid
	case http.StatusForbidden:
		return fault.Forbidden
	case http.StatusNotFound:
		return fault.NotFound
	case http.StatusConflict:
		return fault.Conflict
	case http.StatusRequestEntityTooLarge:
		return fault.Invalid
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fault.Transient
	}
	return nil
}

func (c *Client) newRefusal(r Request, answer *http.Response, content []byte) *Refusal {
	var body errorBody
	known := json.Unmarshal(content, &body) == nil
	message, code := body.text(), answer.Header.Get(httpx.CodeHeader)
	if code != "" {
		message += " (" + code + ")"
	}
	refusal := &Refusal{Doing: r.Doing, Status: answer.StatusCode, Message: Printable(message), Code: cmp.Or(code, body.Code)}
	switch {
	case refusal.Status < http.StatusBadRequest:
		refusal.Advice = "Redirects are not followed, since the request is secret: give the address that it leads to."
	case refusal.Status == http.StatusNotFound && (!known || refusal.Message == ""):
		refusal.Advice = c.rightAddress()
	case refusal.Status == http.StatusTooManyRequests:
		refusal.Advice = "Wait a minute."
	default:
		refusal.Advice = c.config.Advise(r, refusal)
	}
	return refusal
}

// errorBody is every form that a server's errors have: the API's object, and
// OAuth's with a model for people beside it.
type errorBody struct {
	Message          string              `json:"message"`
	ValidationErrors map[string][]string `json:"validationErrors"`

	Code        string `json:"error"`
	Description string `json:"error_description"`
	ErrorModel  struct {
		Message string `json:"message"`
	} `json:"ErrorModel"`
	ErrorModelSnake struct {
		Message string `json:"message"`
	} `json:"error_model"`
}

// text is the message for people. Without one it begins with OAuth's code.
func (b errorBody) text() string {
	for _, message := range []string{b.ErrorModel.Message, b.ErrorModelSnake.Message} {
		if message != "" {
			return message
		}
	}
	text := b.Message
	for _, member := range slices.Sorted(maps.Keys(b.ValidationErrors)) {
		text += " " + member + ": " + strings.Join(b.ValidationErrors[member], " ")
	}
	if text == "" && b.Code != "" {
		text = strings.TrimSuffix(b.Code+": "+b.Description, ": ")
	}
	return text
}

// Printable keeps a server from writing to the terminal what is not text, and
// more than anybody reads.
func Printable(text string) string {
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
