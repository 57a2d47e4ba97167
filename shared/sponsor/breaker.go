package sponsor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor/cloud"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// refusal says that identity refused an installation, for everybody over this
// store. Another key is another revision, for which it says nothing.
type refusal struct {
	Revision string    `json:"revision"`
	Until    time.Time `json:"until"`
}

type breaker struct {
	refusals store.Collection[refusal]
	now      func() time.Time
}

var _ cloud.Breaker = (*breaker)(nil)

func newBreaker(s *store.Store, now func() time.Time) *breaker {
	return &breaker{store.NewCollection[refusal](s, "sync-refusals"), now}
}

// refusalID leaves the scope out: what identity refuses is the installation.
func refusalID(of cloud.Subject) string {
	digest := sha256.Sum256([]byte(of.IdentityURL + "\n" + of.ClientID))
	return hex.EncodeToString(digest[:])
}

// Blocked implements cloud.Breaker.
func (b *breaker) Blocked(ctx context.Context, of cloud.Subject) (time.Time, error) {
	stored, err := b.refusals.Get(ctx, refusalID(of))
	switch {
	case fault.Of(err) == fault.NotFound:
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, err
	case stored.Value.Revision != of.Revision, stored.Value.Until.Sub(b.now()) > farOff:
		return time.Time{}, nil
	}
	return stored.Value.Until, nil
}

// Trip implements cloud.Breaker.
func (b *breaker) Trip(ctx context.Context, of cloud.Subject, until time.Time) error {
	_, err := b.refusals.Put(ctx, store.Record[refusal]{ID: refusalID(of), Value: refusal{of.Revision, until}}, store.Any())
	return err
}

// clear lets identity be asked again.
func (b *breaker) clear(ctx context.Context, of cloud.Subject) error {
	err := b.refusals.Delete(ctx, refusalID(of), store.Any())
	if fault.Of(err) == fault.NotFound {
		return nil
	}
	return err
}
