// Package fault names the classes of failure that a caller can act on.
//
// A class is itself an error, so it is attached with %w and asked for with
// errors.Is; the text around it says what was being done:
//
//	return fmt.Errorf("%w: get item: %w", fault.Transient, err)
//
// Providers classify what their system said, the portable types of shared/kms
// and shared/store add what was being done, and each function turns the class
// into its clients' dialect at one place. Nothing in between looks inside.
package fault

import (
	"context"
	"errors"
)

// Class is a kind of failure. Its text is the beginning of an error's text.
type Class string

// Error makes a class usable with errors.Is and %w.
func (c Class) Error() string { return string(c) }

const (
	// NotFound: the thing named does not exist.
	NotFound Class = "not found"
	// Conflict: a precondition did not hold (it exists already, or was changed
	// by somebody else). Nothing was written.
	Conflict Class = "conflict"
	// Denied: the outside system refused our credentials or our rights. Asking
	// again with the same ones does not help, and may lock a token.
	Denied Class = "denied"
	// Unauthenticated: who is calling is not known: no token, or one that is not
	// valid. Nothing to do with our own credentials, which is Denied.
	Unauthenticated Class = "not authenticated"
	// Forbidden: who is calling is known, and may not do this.
	Forbidden Class = "forbidden"
	// Invalid: the caller's input or the configuration is wrong.
	Invalid Class = "invalid"
	// Unsupported: the provider cannot do this at all.
	Unsupported Class = "unsupported"
	// Transient: asking again later may help; nothing is known to be broken.
	Transient Class = "temporarily unavailable"
	// Lost: stored bytes are damaged, or the key that opens them is gone.
	// Nothing was overwritten; somebody has to look.
	Lost Class = "lost"
)

// Of gives the class of err: the outermost, and of those side by side the
// first, so that whoever wraps an error can say what it is to the caller.
// Transient for a context that ended; "" for nil and for an error that nobody
// classified.
func Of(err error) Class {
	if class, ok := outermost(err); ok {
		return class
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return Transient
	}
	return ""
}

func outermost(err error) (Class, bool) {
	switch e := err.(type) { //nolint:errorlint // this is the walk that errors.As would do
	case Class:
		return e, true
	case interface{ Unwrap() error }:
		return outermost(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			if class, ok := outermost(inner); ok {
				return class, true
			}
		}
	}
	return "", false
}
