package machine

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"

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

// eventLife is how long stored events can be read; the log keeps them as long
// as it is kept.
const eventLife = 365 * 24 * time.Hour

// Event is something that was done by or to a service account, as it is stored.
// Its document's parent is the account, its look-up value the access token.
// Documents are in the order of time.
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

// Done notes what a caller did to the things with these ids: a line of the audit
// log each, and, of changes by or to a service account, an event that can be read
// back. That the event could not be stored undoes nothing; the log then says so.
//
// account is the service account that it was done to, where it was one; token
// likewise.
func (m *Machines) Done(ctx context.Context, a Access, what Type, account, token string, subjects ...string) {
	if account == "" {
		account, token = a.Machine(), a.Token()
	}
	for _, subject := range subjects {
		m.audit.Record(ctx, audit.Event{
			Action: actions[what], Actor: a.Actor(), Token: a.Token(), Subject: subject, Outcome: audit.Allowed,
			RequestID: a.RequestID, Address: a.Address,
		})
		if account == "" || what == SecretRetrieved || what == ProjectRetrieved {
			continue
		}
		id, err := uuid.NewV7()
		if err == nil {
			_, err = m.events.Put(ctx, store.Record[Event]{
				ID: id.String(), Parent: account, Lookup: token, Expires: m.now().Add(eventLife),
				Value: Event{
					Type: what, Date: m.now().UTC(), Organization: a.Organization, Account: account, Token: token,
					Subject: subject, Actor: a.Actor(), Address: a.Address,
				},
			}, store.Absent())
		}
		if err != nil {
			m.logger.ErrorContext(ctx, "an event could not be stored", slog.Int("type", int(what)), slog.String("subject", subject), slog.String("error", err.Error()))
		}
	}
}
