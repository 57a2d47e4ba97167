package machine

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/latchkey-fn/latchkey/shared/audit"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Type is the number of an event, as Bitwarden's event log has it. Those from
// 2306 on are of access tokens, which its log leaves out.
type Type int

// Types of events.
const (
	SecretRetrieved          Type = 2100
	SecretCreated            Type = 2101
	SecretEdited             Type = 2102
	SecretDeleted            Type = 2103
	SecretPermanentlyDeleted Type = 2104
	SecretRestored           Type = 2105
	ProjectRetrieved         Type = 2200
	ProjectCreated           Type = 2201
	ProjectEdited            Type = 2202
	ProjectDeleted           Type = 2203
	AccountPeopleAdded       Type = 2300
	AccountPeopleRemoved     Type = 2301
	AccountGroupAdded        Type = 2302
	AccountGroupRemoved      Type = 2303
	AccountCreated           Type = 2304
	AccountDeleted           Type = 2305
	TokenCreated             Type = 2306
	TokenRevoked             Type = 2307
	TokenRotated             Type = 2308
)

// actions are the names of the types in the audit log.
var actions = map[Type]string{
	SecretRetrieved: "secret.read", SecretCreated: "secret.create", SecretEdited: "secret.edit",
	SecretDeleted: "secret.delete", SecretPermanentlyDeleted: "secret.purge", SecretRestored: "secret.restore",
	ProjectRetrieved: "project.read", ProjectCreated: "project.create", ProjectEdited: "project.edit", ProjectDeleted: "project.delete",
	AccountPeopleAdded: "service-account.user-add", AccountPeopleRemoved: "service-account.user-remove",
	AccountGroupAdded: "service-account.group-add", AccountGroupRemoved: "service-account.group-remove",
	AccountCreated: "service-account.create", AccountDeleted: "service-account.delete",
	TokenCreated: "access-token.create", TokenRevoked: "access-token.revoke", TokenRotated: "access-token.rotate",
}

// eventsAtOnce bounds the writes that the events of one request make at a time.
const eventsAtOnce = 8

// eventLife is how long stored events can be read; the log keeps them as long
// as it is kept.
const eventLife = 365 * 24 * time.Hour

// Event is something that was done by or to a service account, as it is stored.
// Its document's parent is the account, its look-up value the access token.
// The newest is the first in the order of the ids.
type Event struct {
	Type         Type      `json:"type"`
	Date         time.Time `json:"date"`
	Organization string    `json:"organization"`
	Account      string    `json:"account,omitempty"`
	Token        string    `json:"token,omitempty"`
	Subject      string    `json:"subject"` // the id of what it was done to
	Actor        string    `json:"actor"`
	Address      string    `json:"address,omitempty"`
}

// User is the id of the person who did it; false where it was nobody's doing.
func (e Event) User() (id string, ok bool) { return strings.CutPrefix(e.Actor, userActor) }

// eventID makes ids of which the later one is the lesser.
func eventID(at time.Time) string {
	return beforeEvents(at) + "-" + rand.Text()
}

var eventForm = regexp.MustCompile(`^[0-9a-f]{16}-[A-Z2-7]{26}$`)

// beforeEvents is less than the ids of all events of a moment or earlier, and
// greater than those of later ones.
func beforeEvents(at time.Time) string {
	return fmt.Sprintf("%016x", uint64(math.MaxInt64-at.UnixNano()))
}

// Record writes a line of the audit log for each thing that a caller did
// something to. Where that is an event too, Done is to be called instead.
func (m *Machines) Record(ctx context.Context, a Access, action string, subjects ...string) {
	m.record(ctx, a.Caller, audit.Event{Action: action, Outcome: audit.Allowed}, subjects...)
}

// Denied writes a line of the audit log for each of several things that a caller
// was not allowed to do this to.
func (m *Machines) Denied(ctx context.Context, c Caller, what Type, subjects ...string) {
	m.record(ctx, c, audit.Event{Action: actions[what], Outcome: audit.Refused, Reason: "the caller may not do this"}, subjects...)
}

func (m *Machines) record(ctx context.Context, c Caller, e audit.Event, subjects ...string) {
	e.Actor, e.Token, e.RequestID, e.Address = c.Actor(), c.Token(), c.RequestID, c.Address
	for _, e.Subject = range subjects {
		m.audit.Record(ctx, e)
		if c.Recorded != nil {
			c.Recorded.Store(true)
		}
	}
}

// Done notes what a caller did to the things with these ids: a line of the audit
// log each, and, of changes by or to a service account, an event that can be read
// back. That the event could not be stored undoes nothing; the log then says so.
//
// account is the service account that it was done to, where it was one; token
// likewise.
func (m *Machines) Done(ctx context.Context, a Access, what Type, account, token string, subjects ...string) {
	m.Record(ctx, a, actions[what], subjects...)
	if account == "" {
		account, token = a.Machine(), a.Token()
	}
	if account == "" || what == SecretRetrieved || what == ProjectRetrieved {
		return
	}
	var writes errgroup.Group
	writes.SetLimit(eventsAtOnce)
	for _, subject := range subjects {
		writes.Go(func() error {
			now := m.now().UTC()
			_, err := m.events.Put(ctx, store.Record[Event]{
				ID: eventID(now), Parent: account, Lookup: token, Expires: now.Add(eventLife),
				Value: Event{
					Type: what, Date: now, Organization: a.Organization, Account: account, Token: token,
					Subject: subject, Actor: a.Actor(), Address: a.Address,
				},
			}, store.Absent())
			if err != nil {
				m.logger.ErrorContext(ctx, "an event could not be stored", slog.Int("type", int(what)), slog.String("subject", subject), slog.String("error", err.Error()))
			}
			return nil // what was done is done
		})
	}
	_ = writes.Wait() // none returns an error
}

// EventQuery selects events of one service account.
type EventQuery struct {
	Account string
	// From and To are the first and the last moment; zero: no bound.
	From, To time.Time
	// After is the Next of the page before.
	After string
	// Most is how many events a page holds.
	Most int
}

// EventPage is part of a listing, the newest event first.
type EventPage struct {
	Events []Event
	// Next is empty where this page is the last.
	Next string
}

// Events gives a page of what was done by and to a service account, which may
// have been deleted, to a caller who may administer it.
func (m *Machines) Events(ctx context.Context, c Caller, q EventQuery) (EventPage, error) {
	if q.After != "" && !eventForm.MatchString(q.After) {
		return EventPage{}, Invalid("The continuation token is not one of this list.")
	}
	account, err := m.findAccount(ctx, q.Account)
	if err != nil {
		return EventPage{}, err
	}
	if _, err := c.over(account, ToWrite); err != nil {
		return EventPage{}, err
	}
	after := q.After
	if bound := beforeEvents(q.To); !q.To.IsZero() && after < bound {
		after = bound
	}
	page, err := m.store.List(ctx, store.Query{Collection: m.events.Name(), Parent: q.Account, After: after, Limit: q.Most})
	if err != nil {
		return EventPage{}, fmt.Errorf("events: %w", err)
	}
	answer := EventPage{Next: page.Next}
	for _, doc := range page.Documents {
		record, err := m.events.Decode(doc)
		if err != nil {
			return EventPage{}, fmt.Errorf("events: %w", err)
		}
		if record.Value.Date.Before(q.From) {
			answer.Next = "" // all others are earlier
			break
		}
		answer.Events = append(answer.Events, record.Value)
	}
	return answer, nil
}
