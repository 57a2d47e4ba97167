package smclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// errAnswer is an answer that the protocol does not have.
var errAnswer = errors.New("the server's answer is not the one that is expected here")

// invalidClient is the code of an access token that is not good, or not good any
// more.
const invalidClient = "invalid_client"

// notFound is the message of a server that does not tell what is not there from
// what may not be reached.
const notFound = "Resource not found."

// longestMessage bounds what is shown of a server's message, in characters.
const longestMessage = 600

// Refusal is an answer that is an error.
type Refusal struct {
	Doing  string // what was being done
	Status int
	// Message is the server's, for people; it may be empty.
	Message string
	// Advice is what to do about it; it may be empty.
	Advice string

	code string // OAuth's, of an exchange
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
		if r.code == invalidClient {
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

func newRefusal(o outgoing, answer *http.Response, content []byte) *Refusal {
	r := &Refusal{Doing: o.doing, Status: answer.StatusCode}
	var body errorBody
	known := json.Unmarshal(content, &body) == nil
	r.Message, r.code = printable(body.text()), body.Code
	switch {
	case answer.StatusCode < http.StatusBadRequest:
		r.Advice = "Redirects are not followed, since the request is secret: give the address that it leads to."
	case body.Code == invalidClient && body.ErrorModel.Message+body.ErrorModelSnake.Message == "":
		r.Advice = "Either the access token is not one of this server, or it was mistyped or replaced: check LATCHKEY_ACCESS_TOKEN and the server's address."
	case answer.StatusCode == http.StatusUnauthorized && o.advice.session != "":
		r.Advice = o.advice.session
	case answer.StatusCode == http.StatusUnauthorized && r.Message == "":
		r.Advice = "The session is not accepted: get a new token."
	case answer.StatusCode == http.StatusNotFound && (!known || r.Message == ""):
		r.Advice = "Is this the address of a Secrets Manager?"
	case answer.StatusCode == http.StatusNotFound && r.Message == notFound:
		r.Advice = o.advice.absent
	case answer.StatusCode == http.StatusTooManyRequests:
		r.Advice = "Wait a minute."
	}
	return r
}

// text is the message for people.
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
