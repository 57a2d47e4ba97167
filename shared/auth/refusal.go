package auth

import (
	"errors"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// refusal is an error that says one thing to the log and less to the client.
// Neither text holds the token, nor what it tells of a person.
type refusal struct {
	class   fault.Class
	reason  string
	message string
}

func (r *refusal) Error() string { return r.class.Error() + ": " + r.reason }

func (r *refusal) Unwrap() error { return r.class }

func refuse(reason string) error {
	return &refusal{fault.Unauthenticated, "access token: " + reason, "The access token is not valid."}
}

func forbid(reason string) error {
	return &refusal{fault.Forbidden, "access token: " + reason, "The access token does not allow this."}
}

// Message is what a client may be told of an error of this package.
func Message(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.message
	}
	return "Access tokens cannot be checked at the moment. Please try again."
}
