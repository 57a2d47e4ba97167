package machine

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/accesstoken"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// ErrClient is an access token that does not exist or whose client secret is
// another one; which of the two is not told, nor can it be measured.
var ErrClient = fmt.Errorf("%w: the access token is not known or its client secret is wrong", fault.Unauthenticated)

// Granted is what an access token is exchanged for.
type Granted struct {
	Organization, Account, Token string
	// Generation is of the client secret (Token.Generation).
	Generation int
	// Payload is for the token's holder, who alone can open it.
	Payload string
	// Ends is when the client secret ceases to be good. Zero: never.
	Ends time.Time
}

// Actor names the account in events.
func (g Granted) Actor() string { return accountActor + g.Account }

// Exchange checks a client secret, in one read of the store. Only who has the
// right one is told what else is wrong with the token (Refused).
//
// That one read is of the token. So the exchange of a token whose organisation
// was disabled a moment ago, or whose account was deleted and its tokens are yet
// to be revoked, succeeds; each request of its session is refused with the reason
// (Session), and the session opens nothing but the payload, which its holder has
// had before.
func (m *Machines) Exchange(ctx context.Context, id, clientSecret string) (Granted, error) {
	token, err := m.claimed(ctx, id)
	if err != nil {
		return Granted{}, fmt.Errorf("exchange: %w", err)
	}
	former := token.Former
	if former == nil {
		former = &Former{}
	}
	// Both are compared always, so that how long it takes tells nothing.
	isCurrent := accesstoken.Matches(clientSecret, token.Hash)
	isFormer := accesstoken.Matches(clientSecret, former.Hash)
	if !isCurrent && !isFormer {
		return Granted{}, ErrClient
	}
	now := m.now()
	if err := token.good(now); err != nil {
		return Granted{}, err
	}
	ends, generation := token.Expires, token.Generation
	if !isCurrent {
		generation--
		if !now.Before(former.Until) {
			return Granted{}, Refused("The client secret of the access token was replaced; the former one was good until %s.", day(former.Until))
		}
		if ends.IsZero() || former.Until.Before(ends) {
			ends = former.Until
		}
	}
	parts, err := m.open(ctx, id, token.Sealed)
	if err != nil {
		return Granted{}, fmt.Errorf("exchange: %w", err)
	}
	return Granted{
		Organization: token.Organization, Account: token.Account, Token: id, Generation: generation,
		Payload: parts.Payload, Ends: ends,
	}, nil
}

// claimed reads the token that somebody says is his; the zero value, which no
// client secret matches, where there is none.
func (m *Machines) claimed(ctx context.Context, id string) (Token, error) {
	if uuid.Validate(id) != nil {
		return Token{}, nil
	}
	record, err := m.tokens.Get(ctx, id)
	if fault.Of(err) == fault.NotFound {
		return Token{}, nil
	}
	return record.Value, err
}

// Used notes the exchange of a token, at most once an hour.
func (m *Machines) Used(ctx context.Context, token, address string) {
	now := m.now().UTC()
	m.noted.Note(ctx, token, now, Use{At: now, Address: address})
}
