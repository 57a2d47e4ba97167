package smapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
)

// Request is a request whose sender is known.
type Request struct {
	*http.Request
	Caller machine.Caller
	// Answer is the header of the answer.
	Answer http.Header
}

// ID reads an id of the path. One that is no UUID does not exist.
func (r Request) ID(name string) (string, error) {
	id, ok := parseID(r.PathValue(name))
	if !ok {
		return "", machine.NotFound()
	}
	return id, nil
}

// Access is what the caller may do in the organisation that the path names.
func (r Request) Access(name string) (machine.Access, error) {
	organization, err := r.ID(name)
	if err != nil {
		return machine.Access{}, err
	}
	return r.Caller.In(organization)
}

// Read decodes the body, which is one JSON value. Members that are not known
// are let be, as in the original. No error tells what was sent: it could be a
// secret in the wrong place, and errors are logged.
func (r Request) Read(into any) error {
	content, err := io.ReadAll(r.Body)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return &statusError{http.StatusRequestEntityTooLarge, fmt.Sprintf("The request body is larger than %d bytes.", tooLarge.Limit)}
	}
	if err != nil {
		return machine.Invalid("The request body could not be read.")
	}
	err = json.Unmarshal(content, into)
	if mistyped := (*json.UnmarshalTypeError)(nil); errors.As(err, &mistyped) && mistyped.Field != "" {
		// Value is the kind of JSON, and of a number the number, too.
		kind, _, _ := strings.Cut(mistyped.Value, " ")
		return &machine.Problem{
			Class: fault.Invalid, Message: "The model state is invalid.",
			Fields: map[string][]string{mistyped.Field: {fmt.Sprintf("A JSON %s cannot be used here.", kind)}},
		}
	}
	if err != nil {
		return machine.Invalid("The request body is not the JSON that is expected here.")
	}
	return nil
}

// IDs checks ids of a body: UUIDs, which it gives in lower case.
func IDs(texts []string) ([]string, error) {
	ids := make([]string, len(texts))
	for i, text := range texts {
		id, ok := parseID(text)
		if !ok {
			return nil, machine.Invalid("Number %d of the ids is not an id.", i+1)
		}
		ids[i] = id
	}
	return ids, nil
}

// parseID reads a UUID in its plain form and gives it in lower case.
func parseID(text string) (id string, ok bool) {
	const plainForm = 36
	parsed, err := uuid.Parse(text)
	if err != nil || len(text) != plainForm {
		return "", false
	}
	return parsed.String(), true
}
