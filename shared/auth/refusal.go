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
	// genuine: the identity server did sign the token.
	genuine bool
}

func (r *refusal) Error() string { return r.class.Error() + ": " + r.reason }

func (r *refusal) Unwrap() error { return r.class }

func refuse(reason string) error {
	return &refusal{class: fault.Unauthenticated, reason: "access token: " + reason, message: "The access token is not valid."}
}

// refuseGenuine is for a token that the identity server signed.
func refuseGenuine(reason string) error {
	return &refusal{class: fault.Unauthenticated, reason: "access token: " + reason, message: "The access token is not valid.", genuine: true}
}

func forbid(reason string) error {
	return &refusal{class: fault.Forbidden, reason: "access token: " + reason, message: "The access token does not allow this.", genuine: true}
}

// Genuine tells whether the token that was refused is one of the identity
// server's, which nobody can make up: it has expired, say. Its holder has to be
// told so, to get another.
func Genuine(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.genuine
}

// Message is what a client may be told of an error of this package.
func Message(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.message
	}
	return "Access tokens cannot be checked at the moment. Please try again."
}
