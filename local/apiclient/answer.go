package apiclient

import (
	"encoding/json"
	"errors"
	"fmt"
)

// ErrAnswer is an answer that the protocol does not have.
var ErrAnswer = errors.New("the server's answer is not the one that is expected here")

// Decode reads a JSON object, in which every required member is there under
// exactly its name and is not null. It gives the members as they came. An error
// quotes nothing of the answer, which can hold what is secret.
func Decode(content []byte, into any, required ...string) (members map[string]json.RawMessage, err error) {
	if json.Unmarshal(content, &members) != nil {
		return nil, fmt.Errorf("%w: it is not a JSON object", ErrAnswer)
	}
	for _, name := range required {
		if member, ok := members[name]; !ok || string(member) == "null" {
			return nil, fmt.Errorf("%w: %s is missing", ErrAnswer, name)
		}
	}
	if err := json.Unmarshal(content, into); err != nil {
		if mistyped, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return nil, fmt.Errorf("%w: %s has another type", ErrAnswer, mistyped.Field)
		}
		return nil, fmt.Errorf("%w: a member has another form, such as a date without an offset", ErrAnswer)
	}
	return members, nil
}
