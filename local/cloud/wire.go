package cloud

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
	"unicode/utf16"
)

// answer is what the server wants to say; how it gets out, a fault may decide.
type answer struct {
	status int
	header http.Header
	body   []byte
	// items are the body's, for faults that work on them; nil for other bodies.
	items []syncResult
	// closed: the connection is closed without an answer.
	closed bool
	// cut is how many bytes of the body get out; negative for all.
	cut int
}

func emptyAnswer(status int) answer { return answer{status: status, header: http.Header{}, cut: -1} }

func jsonAnswer(status int, value any) answer {
	a := emptyAnswer(status)
	body, err := json.Marshal(value)
	if err != nil {
		// Every value answered is a struct or a map of ours; see the tests.
		a.status, body = http.StatusInternalServerError, []byte(`{"object":"error","message":"The answer could not be encoded."}`)
	}
	a.body = body
	a.header.Set("Content-Type", "application/json; charset=utf-8")
	return a
}

func closedConnection() answer { return answer{closed: true} }

// errorBody is the cloud's error object; its order is that of today's servers.
type errorBody struct {
	Object                string              `json:"object"`
	Message               string              `json:"message"`
	ValidationErrors      map[string][]string `json:"validationErrors"`
	ExceptionMessage      *string             `json:"exceptionMessage"`
	ExceptionStackTrace   *string             `json:"exceptionStackTrace"`
	InnerExceptionMessage *string             `json:"innerExceptionMessage"`
}

func errorAnswer(status int, message string) answer {
	return jsonAnswer(status, errorBody{Object: "error", Message: message})
}

func refusal(message string) answer { return errorAnswer(http.StatusBadRequest, message) }

func notFound() answer { return errorAnswer(http.StatusNotFound, "Resource not found.") }

func serverError() answer {
	return errorAnswer(http.StatusInternalServerError, "An unhandled server error has occurred.")
}

// invalidModel refuses a body that cannot be bound, or a member of it.
func invalidModel(member, problem string) answer {
	return jsonAnswer(http.StatusBadRequest, errorBody{
		Object: "error", Message: "The model state is invalid.", ValidationErrors: map[string][]string{member: {problem}},
	})
}

func unauthorized(tokenGiven bool) answer {
	a := emptyAnswer(http.StatusUnauthorized)
	challenge := "Bearer"
	if tokenGiven {
		challenge = `Bearer error="invalid_token"`
	}
	a.header.Set("WWW-Authenticate", challenge)
	return a
}

// errNoBody is of a body that is missing, empty or null.
var errNoBody = errors.New("body is empty")

// decode binds a body as the cloud does: keys in any case, unknown ones ignored.
func decode(body []byte, into any) error {
	body = bytes.TrimSpace(body)
	if len(body) == 0 || bytes.Equal(body, []byte("null")) {
		return errNoBody
	}
	return json.Unmarshal(body, into)
}

func bindingError(err error) answer {
	if errors.Is(err, errNoBody) {
		return invalidModel("", "Body is empty.")
	}
	return invalidModel("$", "The JSON value could not be converted.")
}

// guid is in lower case. Only the hyphenated form binds, and null does not.
type guid string

func (g *guid) UnmarshalJSON(text []byte) error {
	if len(text) != 38 || text[0] != '"' {
		return errors.New("not a GUID")
	}
	id, ok := parseGUID(string(text[1:37]))
	if !ok {
		return errors.New("not a GUID")
	}
	*g = guid(id)
	return nil
}

const noGUID guid = "00000000-0000-0000-0000-000000000000"

// flag is a bool that null does not bind to.
type flag bool

func (f *flag) UnmarshalJSON(text []byte) error {
	switch string(text) {
	case "true":
		*f = true
	case "false":
		*f = false
	default:
		return errors.New("not a boolean")
	}
	return nil
}

// small is an enum of one byte, that neither null nor a name binds to.
type small uint8

func (s *small) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return errors.New("not a number")
	}
	return json.Unmarshal(text, (*uint8)(s))
}

// date is written in UTC with up to seven digits of a second.
type date struct{ time.Time }

const ticks = 100 * time.Nanosecond

var dateForms = []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04Z07:00", "2006-01-02T15:04", time.DateOnly}

func (d *date) UnmarshalJSON(text []byte) error {
	if len(text) < 2 || text[0] != '"' {
		return errors.New("not a date")
	}
	for _, form := range dateForms {
		if t, err := time.Parse(form, string(text[1:len(text)-1])); err == nil {
			d.Time = t.UTC()
			return nil
		}
	}
	return fmt.Errorf("not a date")
}

func (d date) MarshalJSON() ([]byte, error) {
	return d.UTC().Truncate(ticks).AppendFormat(make([]byte, 0, 32), `"2006-01-02T15:04:05.9999999Z"`), nil
}

func toDate(t *time.Time) *date {
	if t == nil {
		return nil
	}
	return &date{*t}
}

// width is the length of a text as the database counts it.
func width(text string) int {
	if len(text) <= maxColumn {
		return len(text) // at most; enough to tell that it fits
	}
	n := 0
	for _, r := range text {
		n += utf16.RuneLen(r)
	}
	return n
}
