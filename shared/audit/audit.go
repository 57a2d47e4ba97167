// Package audit records who did what to which key, as one JSON line an event.
// An event names people by their ids only: never a key, a token or an address
// of mail.
package audit

import (
	"context"
	"log/slog"
)

// Outcomes of an event.
const (
	Attempted = "attempted" // it begins; another event follows
	Allowed   = "allowed"   // it was done
	Refused   = "refused"   // the fault is the caller's: no right, no key yet, a bad request
	Failed    = "failed"    // it could not be done; the fault is ours
)

// Event is one access, or the attempt of one.
type Event struct {
	// Action is what was asked for: object.verb, as in "user-key.read".
	Action string
	// Actor did it: a user's id, or operator:NAME. Empty where nobody was
	// recognised.
	Actor string
	// Token is the id of the access token whose session it was done in.
	Token string
	// Subject is the id of what it was done to: of whose key it is, or of the
	// secret, project, account or token.
	Subject string
	// Outcome is one of those above.
	Outcome string
	// Reason says why it was not allowed.
	Reason string
	// RequestID joins the event with the request's log line.
	RequestID string
	// Address is where the request came from.
	Address string
}

// Log writes events. The zero value writes to slog's default logger.
type Log struct {
	logger *slog.Logger
}

// New makes a Log that writes through logger.
func New(logger *slog.Logger) Log { return Log{logger: logger} }

// Record writes one event.
func (l Log) Record(ctx context.Context, e Event) {
	logger := l.logger
	if logger == nil {
		logger = slog.Default()
	}
	attributes := []slog.Attr{slog.String("action", e.Action), slog.String("outcome", e.Outcome)}
	for _, optional := range []struct{ name, value string }{
		{"actor", e.Actor}, {"token", e.Token}, {"subject", e.Subject}, {"reason", e.Reason},
		{"requestId", e.RequestID}, {"address", e.Address},
	} {
		if optional.value != "" {
			attributes = append(attributes, slog.String(optional.name, optional.value))
		}
	}
	logger.LogAttrs(ctx, slog.LevelInfo, "audit", attributes...)
}
