package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/latchkey-fn/latchkey/shared/accesstoken"
	"github.com/latchkey-fn/latchkey/shared/audit"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

const (
	// MaxRevoked is how many tokens can be revoked at once.
	MaxRevoked = 1_000
	// maxLimitedTo is how many projects a token can be limited to.
	maxLimitedTo = 500
	// latestEnd bounds the lives of tokens: there are dates that clients cannot
	// write down.
	latestEnd = 100 * 365 * 24 * time.Hour
	// maxGrace is how long a client secret may stay good after its rotation.
	maxGrace = 7 * 24 * time.Hour
	// repeatTime is how long the session that rotated a client secret away can ask
	// for the new one again.
	repeatTime = 5 * time.Minute
	// tidyTime bounds what is done after a request's own time is over.
	tidyTime = 5 * time.Second
	// revokeAtOnce is how many tokens of a batch are being revoked at a time.
	revokeAtOnce = 8
)

// NewToken is what a token is made of. The members that are EncStrings have been
// checked.
type NewToken struct {
	Name, Payload, Key string // EncStrings
	// Expires: nil is never.
	Expires  *time.Time
	ReadOnly bool
	// Projects limits the token to these; empty: to none.
	Projects []string
}

// CreateToken makes a token of an account, and gives its client secret, which
// is not kept.
func (m *Machines) CreateToken(ctx context.Context, c Caller, account string, t NewToken) (token store.Record[Token], clientSecret string, err error) {
	a, _, err := m.AccountFor(ctx, c, account, ToWrite)
	if err != nil {
		return store.Record[Token]{}, "", err
	}
	if err := m.checkNew(ctx, a.Organization, t); err != nil {
		return store.Record[Token]{}, "", err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return store.Record[Token]{}, "", fmt.Errorf("access token: %w", err)
	}
	sealed, err := m.seal(ctx, id.String(), sealedParts{t.Payload, t.Key})
	if err != nil {
		return store.Record[Token]{}, "", err
	}
	clientSecret = accesstoken.NewSecret()
	now := m.now().UTC()
	token = store.Record[Token]{ID: id.String(), Parent: account, Value: Token{
		Organization: a.Organization, Account: account, Name: t.Name,
		Created: now, CreatedBy: a.Actor(), Revised: now,
		Hash: accesstoken.Hash(clientSecret), Sealed: sealed, ReadOnly: t.ReadOnly, Projects: t.Projects,
	}}
	if t.Expires != nil {
		token.Value.Expires = t.Expires.UTC()
	}
	if token.Revision, err = m.tokens.Put(ctx, token, store.Absent()); err != nil {
		return store.Record[Token]{}, "", fmt.Errorf("access token: %w", err)
	}
	m.Done(ctx, a, TokenCreated, account, token.ID, token.ID)
	// An account that was deleted since it was read above has had its tokens
	// revoked, perhaps before there was this one. Where that cannot be known, the
	// token goes as well: nobody is given its client secret.
	if _, gone := m.Account(ctx, account); gone != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
		defer cancel()
		return store.Record[Token]{}, "", cmp.Or(m.revoke(ctx, a, account, []string{token.ID}), gone)
	}
	return token, clientSecret, nil
}

func (m *Machines) checkNew(ctx context.Context, organization string, t NewToken) error {
	now := m.now()
	if t.Expires != nil && !t.Expires.After(now) {
		return Invalid("Please select an expiration date that is in the future.")
	}
	if t.Expires != nil && t.Expires.After(now.Add(latestEnd)) {
		return Invalid("Please select an expiration date within the next hundred years, or none.")
	}
	if len(t.Projects) > maxLimitedTo {
		return Invalid("An access token can be limited to %d projects at the most.", maxLimitedTo)
	}
	settings, err := m.Organization(ctx, organization)
	if err != nil {
		return err
	}
	if most := settings.MaxTokenLifetime; most > 0 && (t.Expires == nil || t.Expires.After(now.Add(most))) {
		return Invalid("Access tokens of this organization may be valid for %s at the most: please select an expiration date no later than %s.", lifetime(most), day(now.Add(most)))
	}
	return nil
}

// lifetime writes a duration in days, where it is some.
func lifetime(d time.Duration) string {
	const aDay = 24 * time.Hour
	switch {
	case d == aDay:
		return "1 day"
	case d%aDay == 0:
		return fmt.Sprintf("%d days", d/aDay)
	default:
		return d.String()
	}
}

// Tokens walks the tokens of an account in the order of their making, with
// those that were revoked.
func (m *Machines) Tokens(ctx context.Context, account string) iter.Seq2[store.Record[Token], error] {
	return func(yield func(store.Record[Token], error) bool) {
		for record, err := range m.tokens.ByParent(ctx, account) {
			if err != nil {
				err = fmt.Errorf("access tokens: %w", err)
			}
			if !yield(record, err) || err != nil {
				return
			}
		}
	}
}

// Uses gives the last uses of those tokens that were used at all, by their ids.
func (m *Machines) Uses(ctx context.Context, tokens []string) (map[string]Use, error) {
	uses := make(map[string]Use, len(tokens))
	for record, err := range m.uses.GetMany(ctx, tokens) {
		if err != nil {
			return nil, fmt.Errorf("uses of access tokens: %w", err)
		}
		uses[record.ID] = record.Value
	}
	return uses, nil
}

// Revoke ends every session of these tokens of an account at its next request.
// Ids that are not of its tokens are let be. Each token is revoked or it is not;
// where some could not be, the error says which were and which were not, and the
// call can be repeated. A token keeps who revoked it first.
func (m *Machines) Revoke(ctx context.Context, c Caller, account string, tokens []string) error {
	if len(tokens) > MaxRevoked {
		return Invalid("At most %d access tokens can be revoked at once.", MaxRevoked)
	}
	a, _, err := m.AccountFor(ctx, c, account, ToWrite)
	if err != nil {
		return err
	}
	tokens = slices.Clone(tokens)
	slices.Sort(tokens)
	return m.revoke(ctx, a, account, slices.Compact(tokens))
}

func (m *Machines) revoke(ctx context.Context, a Access, account string, tokens []string) error {
	results := make([]revocation, len(tokens))
	var group errgroup.Group
	group.SetLimit(revokeAtOnce)
	for i, token := range tokens {
		group.Go(func() error {
			results[i] = m.revokeOne(ctx, a, account, token)
			m.noteRevocation(ctx, a, account, token, results[i])
			return nil
		})
	}
	_ = group.Wait() // nothing in it fails: each token has its own result
	var revoked, not []string
	var faults []error
	for i, token := range tokens {
		switch result := results[i]; {
		case result.err != nil:
			not, faults = append(not, token), append(faults, result.err)
		case result.known:
			revoked = append(revoked, token)
		}
	}
	if len(not) == 0 {
		return nil
	}
	message := "These access tokens could not be revoked: " + strings.Join(not, ", ") + "."
	if len(revoked) > 0 {
		message += " These are revoked: " + strings.Join(revoked, ", ") + "."
	}
	return fmt.Errorf("%w: %w", &Problem{Class: fault.Transient, Message: message + " Please try again."}, errors.Join(faults...))
}

// revocation is what came of one token: whether there is such a one, and
// whether it was revoked just now.
type revocation struct {
	known, fresh bool
	err          error
}

func (m *Machines) noteRevocation(ctx context.Context, a Access, account, token string, result revocation) {
	switch {
	case result.fresh:
		m.Done(ctx, a, TokenRevoked, account, token, token)
	case result.err != nil:
		// It may have happened all the same, and then is no news when it is repeated.
		m.record(ctx, a.Caller, audit.Event{Action: actions[TokenRevoked], Outcome: audit.Failed, Reason: result.err.Error()}, token)
	}
}

func (m *Machines) revokeOne(ctx context.Context, a Access, account, id string) (result revocation) {
	_, err := m.tokens.Update(ctx, id, func(r *store.Record[Token]) error {
		result.known, result.fresh = r.Parent == account, false
		if !result.known || r.Value.Revoked != nil {
			return store.ErrUnchanged
		}
		now := m.now().UTC()
		r.Value.Revoked, r.Value.Revised = &Deed{now, a.Actor()}, now
		result.fresh = true
		return nil
	})
	switch {
	case fault.Of(err) == fault.NotFound:
		return revocation{}
	case err != nil:
		return revocation{err: fmt.Errorf("revoke access token %s: %w", id, err)}
	}
	return result
}

// Rotate gives the calling machine's own token a new client secret, for the one
// that it has. That one stays good for the grace, within which it can be rotated
// again: whoever asks with it, because the answer was lost or because several
// have the same token, is given the same new one. So at any time two client
// secrets are good at the most, and who holds either holds the token; one that
// leaked is to be rotated without a grace, or its token revoked.
//
// After the grace, or where there was none, the former is of no use to anybody
// but the session that rotated it: for repeatTime that one, and no other that
// was made with the same client secret, is given the new one again. Who merely
// stole the former cannot have it, and who was given it was so once already.
func (m *Machines) Rotate(ctx context.Context, c Caller, clientSecret string, grace time.Duration) (token store.Record[Token], fresh string, err error) {
	if c.machine == nil {
		return store.Record[Token]{}, "", NotFound()
	}
	if grace < 0 || grace > maxGrace {
		return store.Record[Token]{}, "", Invalid("The old client secret can stay valid for %s at the most.", lifetime(maxGrace))
	}
	id := c.Token()
	changed := false
	token, err = m.tokens.Update(ctx, id, func(r *store.Record[Token]) (err error) {
		now := m.now().UTC()
		if err := r.Value.good(now); err != nil {
			return err
		}
		changed = accesstoken.Matches(clientSecret, r.Value.Hash)
		if !changed {
			if fresh, err = m.successor(ctx, c, r.Value.Former, clientSecret); err != nil {
				return err
			}
			return store.ErrUnchanged
		}
		if err := r.Value.inForce(c.machine.Generation, now); err != nil {
			return err
		}
		fresh = accesstoken.NewSecret()
		sealed, err := m.sealField(ctx, m.subject(id, successorField), []byte(fresh))
		if err != nil {
			return err
		}
		until := now.Add(grace)
		if ends := r.Value.Expires; !ends.IsZero() && until.After(ends) {
			until = ends
		}
		r.Value.Former = &Former{Hash: r.Value.Hash, Until: until, Replaced: now, Session: c.machine.Session, Successor: sealed}
		r.Value.Hash, r.Value.Revised = accesstoken.Hash(fresh), now
		r.Value.Generation++
		return nil
	})
	if err != nil {
		return store.Record[Token]{}, "", absentIsNotFound("rotate access token", err)
	}
	if changed {
		m.Done(ctx, Access{Caller: c, Organization: c.machine.Organization}, TokenRotated, c.Machine(), id, id)
	}
	return token, fresh, nil
}

// successor gives a caller the client secret that took the place of a former
// one.
func (m *Machines) successor(ctx context.Context, c Caller, former *Former, clientSecret string) (string, error) {
	if former == nil {
		former = &Former{} // which nothing matches, in the same time
	}
	now := m.now()
	may := now.Before(former.Until) || former.repeats(c.machine.Session, now)
	if !accesstoken.Matches(clientSecret, former.Hash) || !may {
		return "", Invalid("The client secret is not the one that is valid for this access token.")
	}
	plain, err := m.ring.Open(ctx, m.subject(c.Token(), successorField), former.Successor)
	if err != nil {
		return "", fmt.Errorf("access token: %w", err)
	}
	return string(plain), nil
}
