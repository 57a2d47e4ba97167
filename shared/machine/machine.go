// Package machine is the domain of machine accounts: the service accounts of an
// organisation, the access tokens that machines log in with, and what each may
// reach. Names and keys are EncStrings of the organisation's members; nothing
// here can read them.
//
// What may be done is decided in one place, Access, for machines and people
// alike. Who asks is found out for every request anew (Machines.Session), so that
// what was revoked is refused at the next request.
package machine

import (
	"log/slog"
	"time"

	"github.com/latchkey-fn/latchkey/shared/audit"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/stamp"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Ring is the name of the keyring that seals the payloads of access tokens, so
// that revoking needs no right to read them.
const Ring = "access-tokens"

// Config is what the domain stands on.
type Config struct {
	Store *store.Store
	// Ring seals payloads. Nil where a function neither makes nor exchanges
	// tokens.
	Ring   *keyring.Ring
	Logger *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Machines is the domain. It is safe for concurrent use.
type Machines struct {
	store         *store.Store
	accounts      store.Collection[Account]
	tokens        store.Collection[Token]
	uses          store.Collection[Use]
	noted         *stamp.Book[Use]
	organizations store.Collection[Organization]
	events        store.Collection[Event]
	ring          *keyring.Ring
	audit         audit.Log
	logger        *slog.Logger
	now           func() time.Time
}

// New makes the domain. Nothing is contacted before the first use.
func New(c Config) *Machines {
	if c.Now == nil {
		c.Now = time.Now
	}
	uses := store.NewCollection[Use](c.Store, "access-token-uses")
	return &Machines{
		store:         c.Store,
		accounts:      store.NewCollection[Account](c.Store, "service-accounts"),
		tokens:        store.NewCollection[Token](c.Store, "access-tokens"),
		uses:          uses,
		noted:         stamp.NewBook(uses, c.Logger),
		organizations: store.NewCollection[Organization](c.Store, "organizations"),
		events:        store.NewCollection[Event](c.Store, "events"),
		ring:          c.Ring,
		audit:         audit.New(c.Logger),
		logger:        c.Logger,
		now:           c.Now,
	}
}

// Account is a service account. Its document's parent is the organisation.
type Account struct {
	Name    string    `json:"name"` // an EncString
	Created time.Time `json:"created"`
	Revised time.Time `json:"revised"`
	// Reached is when what it may reach last changed, for sync.
	Reached time.Time `json:"reached"`
	// Projects and Secrets are what it may reach, by id.
	Projects map[string]Rights `json:"projects,omitempty"`
	Secrets  map[string]Rights `json:"secrets,omitempty"`
	// People may administer it.
	People People `json:"people,omitzero"`
	// NoNewProjects takes from it the right to create projects, which every
	// account of the original has.
	NoNewProjects bool `json:"noNewProjects,omitempty"`
	// Deleted is set while its tokens are being revoked and afterwards: the
	// record stays, so that they can be told why. Such a document has no parent.
	Deleted *Deletion `json:"deleted,omitempty"`
}

// Deletion is a Deed that took a document out of its organisation.
type Deletion struct {
	Deed
	Organization string `json:"organization"`
}

// organizationOf is the one that an account belongs, or belonged, to.
func organizationOf(r store.Record[Account]) string {
	if r.Value.Deleted != nil {
		return r.Value.Deleted.Organization
	}
	return r.Parent
}

// Rights are what a policy grants.
type Rights struct {
	Read  bool `json:"read"`
	Write bool `json:"write"`
}

// The rights that something needs.
var (
	ToRead  = Rights{Read: true}
	ToWrite = Rights{Read: true, Write: true}
)

// Cover tells whether these rights are enough for what is needed.
func (r Rights) Cover(need Rights) bool { return r.And(need) == need }

// And gives what both grant.
func (r Rights) And(other Rights) Rights {
	return Rights{Read: r.Read && other.Read, Write: r.Write && other.Write}
}

// Or gives what one of the two grants.
func (r Rights) Or(other Rights) Rights {
	return Rights{Read: r.Read || other.Read, Write: r.Write || other.Write}
}

// People are the policies of users and groups, by their ids: a user's is the
// subject of the tokens, a group's what the tokens' claim of groups says.
type People struct {
	Users  map[string]Rights `json:"users,omitempty"`
	Groups map[string]Rights `json:"groups,omitempty"`
}

// IsZero tells whether there is no policy.
func (p People) IsZero() bool { return len(p.Users) == 0 && len(p.Groups) == 0 }

// Deed is who did something, and when.
type Deed struct {
	At time.Time `json:"at"`
	By string    `json:"by"` // an actor, as in audit events
}

// Token is an access token. Its document's parent is the service account, and
// revoking it deletes nothing.
type Token struct {
	Organization string    `json:"organization"`
	Account      string    `json:"account"`
	Name         string    `json:"name"` // an EncString
	Created      time.Time `json:"created"`
	CreatedBy    string    `json:"createdBy"`
	Revised      time.Time `json:"revised"`
	// Expires: zero is never.
	Expires time.Time `json:"expires,omitzero"`
	// Hash is accesstoken.Hash of the client secret, and Generation how many
	// there were before it.
	Hash       string `json:"hash"`
	Generation int    `json:"generation,omitempty"`
	// Former is the client secret of the generation before.
	Former *Former `json:"former,omitempty"`
	// Sealed is the EncStrings of sealedParts under the keyring.
	Sealed []byte `json:"sealed"`
	// ReadOnly takes from its sessions every right to write.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Projects limits its sessions to these of the account's projects; empty:
	// not limited.
	Projects []string `json:"limitedTo,omitempty"`
	Revoked  *Deed    `json:"revoked,omitempty"`
}

// Former is a client secret that was rotated away.
type Former struct {
	Hash string `json:"hash"`
	// Until is when it ceases, or ceased, to be good.
	Until time.Time `json:"until"`
	// Replaced is when it was rotated away, and Session in which session.
	Replaced time.Time `json:"replaced"`
	Session  string    `json:"session"`
	// Successor is the client secret that took its place, sealed under the
	// keyring: whoever may rotate the former again, since the answer was lost or
	// another holder was faster, gets the same.
	Successor []byte `json:"successor"`
}

// Use is the last exchange of a token, to the hour.
type Use struct {
	At      time.Time `json:"at"`
	Address string    `json:"address"`
}

// Organization is what an organisation's administrators decided. Where there is
// no such document, nothing was.
type Organization struct {
	// KeyCheck is an EncString under the organisation's key, by which clients
	// know the key again. It is set once.
	KeyCheck string `json:"keyCheck,omitempty"`
	// MaxTokenLifetime is how long new tokens may live; 0: for ever.
	MaxTokenLifetime time.Duration `json:"maxTokenLifetime,omitempty"`
	// Disabled refuses every machine.
	Disabled *Deed     `json:"disabled,omitempty"`
	Created  time.Time `json:"created"`
	Revised  time.Time `json:"revised"`
}
