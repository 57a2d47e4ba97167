package machine

import (
	"context"
	"fmt"
	"time"

	"github.com/latchkey-fn/latchkey/shared/store"
)

// Claims are what a machine's session token says, its signature verified.
type Claims struct {
	Organization, Account, Token string
	// Session is the session's own id.
	Session string
	// Generation is of the client secret that the session was made with.
	Generation int
}

// Session finds out whose request this is, in one read of the store. What was
// revoked, deleted, disabled, replaced or has expired is Refused with the reason.
func (m *Machines) Session(ctx context.Context, c Claims) (Caller, error) {
	docs, err := m.store.GetMany(ctx, []store.Key{
		m.tokens.Key(c.Token), m.accounts.Key(c.Account), m.organizations.Key(c.Organization),
	})
	if err != nil {
		return Caller{}, fmt.Errorf("session: %w", err)
	}
	var (
		token        *store.Record[Token]
		account      *store.Record[Account]
		organization Organization
	)
	for _, doc := range docs {
		switch doc.Collection {
		case m.tokens.Name():
			found, err := m.tokens.Decode(doc)
			if err != nil {
				return Caller{}, fmt.Errorf("session: %w", err)
			}
			token = &found
		case m.accounts.Name():
			found, err := m.accounts.Decode(doc)
			if err != nil {
				return Caller{}, fmt.Errorf("session: %w", err)
			}
			account = &found
		case m.organizations.Name():
			found, err := m.organizations.Decode(doc)
			if err != nil {
				return Caller{}, fmt.Errorf("session: %w", err)
			}
			organization = found.Value
		}
	}
	switch {
	case token == nil || token.Value.Account != c.Account || token.Value.Organization != c.Organization:
		return Caller{}, Refused("The access token does not exist.")
	case account == nil:
		return Caller{}, Refused("The machine account does not exist.")
	case organization.Disabled != nil:
		return Caller{}, Refused("Secrets Manager was disabled for this organization on %s.", day(organization.Disabled.At))
	case account.Value.Deleted != nil:
		return Caller{}, Refused("The machine account was deleted by %s on %s.", account.Value.Deleted.By, day(account.Value.Deleted.At))
	}
	now := m.now()
	if err := token.Value.good(now); err != nil {
		return Caller{}, err
	}
	over := token.Value.inForce(c.Generation, now)
	if over != nil && !token.Value.Former.repeats(c.Session, now) {
		return Caller{}, over
	}
	return Caller{machine: &session{Claims: c, state: account.Value, limits: token.Value, over: over}}, nil
}

// good tells whether the token can be used at a time, and if not why.
func (t Token) good(now time.Time) error {
	switch {
	case t.Revoked != nil:
		return Refused("The access token was revoked by %s on %s.", t.Revoked.By, day(t.Revoked.At))
	case !t.Expires.IsZero() && !now.Before(t.Expires):
		return Refused("The access token expired on %s.", day(t.Expires))
	}
	return nil
}

// inForce tells whether what was made with the client secret of a generation is
// still good, and if not why.
func (t Token) inForce(generation int, now time.Time) error {
	isFormer := t.Former != nil && generation == t.Generation-1
	if generation == t.Generation || isFormer && now.Before(t.Former.Until) {
		return nil
	}
	return Refused("The client secret that this session was made with was replaced, and is no longer valid. Please log in with the new one.")
}

// repeats tells whether a session can be one that rotated this client secret
// away and waits for the answer.
func (f *Former) repeats(session string, now time.Time) bool {
	return f != nil && session != "" && session == f.Session && now.Before(f.Replaced.Add(repeatTime))
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }
