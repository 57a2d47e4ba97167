package machine

import (
	"errors"
	"fmt"

	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Problem is an error whose message is for whoever asked. Other errors are told
// to clients by their class alone.
type Problem struct {
	Class   fault.Class
	Message string
	// Fields are the messages about single members of a request, by name.
	Fields map[string][]string
}

// Error implements error.
func (p *Problem) Error() string {
	if len(p.Fields) > 0 {
		return fmt.Sprintf("%s: %s %v", p.Class.Error(), p.Message, p.Fields)
	}
	return p.Class.Error() + ": " + p.Message
}

// Unwrap gives the class.
func (p *Problem) Unwrap() error { return p.Class }

// Invalid is a request that cannot be met as it is.
func Invalid(format string, args ...any) error {
	return &Problem{Class: fault.Invalid, Message: fmt.Sprintf(format, args...)}
}

// Refused is a session that is over, with the reason.
func Refused(format string, args ...any) error {
	return &Problem{Class: fault.Unauthenticated, Message: fmt.Sprintf(format, args...)}
}

// notFound is what is not there and what nobody here may see: the two are not
// told apart.
const notFound = "Resource not found."

// NotFound is the answer to whatever does not exist or may not be reached.
func NotFound() error { return &Problem{Class: fault.NotFound, Message: notFound} }

// Hidden is the same to a client's program, with a reason for its user, who may
// know of the thing.
func Hidden(format string, args ...any) error {
	return &Problem{Class: fault.NotFound, Message: notFound + " " + fmt.Sprintf(format, args...)}
}

// The greatest lengths of EncStrings in bytes. They hold whatever clients let
// their users type (500, 25 000 and 7 000 characters of four bytes each).
const (
	MaxName    = 2_800
	MaxValue   = 135_000
	MaxNote    = 38_000
	MaxPayload = 4_000
)

// Fields collects what is wrong with the members of a request.
type Fields map[string][]string

// EncString checks one member.
func (f Fields) EncString(name, value string, most int) {
	switch {
	case value == "":
		f[name] = append(f[name], fmt.Sprintf("The %s field is required.", name))
	case len(value) > most:
		f[name] = append(f[name], fmt.Sprintf("The field %s exceeds the maximum encrypted value length of %d characters.", name, most))
	case encstring.Check(value) != nil:
		f[name] = append(f[name], fmt.Sprintf("%s is not a valid encrypted string.", name))
	}
}

// Problem is nil where nothing is wrong.
func (f Fields) Problem() error {
	if len(f) == 0 {
		return nil
	}
	return &Problem{Class: fault.Invalid, Message: "The model state is invalid.", Fields: f}
}

// AsProblem gives the problem in an error's chain.
func AsProblem(err error) (*Problem, bool) { return errors.AsType[*Problem](err) }
