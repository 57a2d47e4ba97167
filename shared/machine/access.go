package machine

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/latchkey-fn/latchkey/shared/store"
)

// Caller is who sent a request: one session of a machine, or a person. The zero
// value is nobody, who may do nothing.
type Caller struct {
	machine *session
	person  *Person
	// Address and RequestID are the request's, for events.
	Address, RequestID string
	// Recorded is set, where there is one, when the audit log is told something of
	// the request.
	Recorded *atomic.Bool
}

// session is a machine's, as it was found when the request began.
type session struct {
	Claims
	state  Account
	limits Token
	// over is why the session may do nothing any more but repeat the rotation that
	// ended it; nil where it has not ended.
	over error
}

// Role is what a person is in an organisation.
type Role int

// Roles.
const (
	NoRole Role = iota
	Member      // has what policies grant
	Admin       // has everything
)

// Person is somebody whom the organisation's OpenID provider knows.
type Person struct {
	Subject string
	// Email is empty where the provider does not tell it. It decides nothing.
	Email  string
	Groups []string
	Role   func(organization string) Role
}

// OfPerson makes the caller of a person's request.
func OfPerson(p Person) Caller { return Caller{person: &p} }

// How actors are written in events: this, and the id.
const (
	accountActor = "service-account:"
	userActor    = "user:"
)

// Actor names the caller in events.
func (c Caller) Actor() string {
	switch {
	case c.machine != nil:
		return accountActor + c.machine.Account
	case c.person != nil:
		return userActor + c.person.Subject
	default:
		return ""
	}
}

// Token is the id of the access token whose session this is; empty for people.
func (c Caller) Token() string {
	if c.machine == nil {
		return ""
	}
	return c.machine.Token
}

// Machine is the id of the calling service account; empty for people.
func (c Caller) Machine() string {
	if c.machine == nil {
		return ""
	}
	return c.machine.Account
}

// In tells what the caller may do in an organisation; NotFound where that is
// nothing at all, and Refused where the caller's session is over.
func (c Caller) In(organization string) (Access, error) {
	if c.machine != nil {
		if c.machine.over != nil {
			return Access{}, c.machine.over
		}
		if c.machine.Organization != organization {
			return Access{}, NotFound()
		}
		return Access{Caller: c, Organization: organization}, nil
	}
	if c.person == nil {
		return Access{}, NotFound()
	}
	role := c.person.Role(organization)
	if role == NoRole {
		return Access{}, NotFound()
	}
	return Access{Caller: c, Organization: organization, admin: role == Admin}, nil
}

// over tells what the caller may do where a service account belongs; NotFound
// where he has not these rights on it.
func (c Caller) over(account store.Record[Account], need Rights) (Access, error) {
	a, err := c.In(organizationOf(account))
	if err != nil {
		return Access{}, err
	}
	if !a.Account(account.Value.People).Cover(need) {
		return Access{}, NotFound()
	}
	return a, nil
}

// Access is what one caller may do in one organisation.
type Access struct {
	Caller
	Organization string
	admin        bool
}

// IsAdmin tells whether there is no access check.
func (a Access) IsAdmin() bool { return a.admin }

// IsMachine tells whether a machine asks, to which management is closed.
func (a Access) IsMachine() bool { return a.machine != nil }

// Subject is the calling person's id; empty for machines.
func (a Access) Subject() string {
	if a.person == nil {
		return ""
	}
	return a.person.Subject
}

// Email is the calling person's address; empty where it is not known.
func (a Access) Email() string {
	if a.person == nil {
		return ""
	}
	return a.person.Email
}

// Groups are the calling person's.
func (a Access) Groups() []string {
	if a.person == nil {
		return nil
	}
	return a.person.Groups
}

// Project tells the rights on a project with these policies of people.
func (a Access) Project(id string, people People) Rights {
	switch {
	case a.machine != nil:
		return a.machine.project(id)
	case a.admin:
		return ToWrite
	default:
		return a.person.of(people)
	}
}

// Secret tells the rights on a secret, given those on its project and the
// secret's own policies of people.
func (a Access) Secret(id string, project string, onProject Rights, people People) Rights {
	switch {
	case a.machine != nil:
		return onProject.Or(a.machine.secret(id, project))
	case a.admin:
		return ToWrite
	default:
		return onProject.Or(a.person.of(people))
	}
}

// Account tells the rights on a service account. Machines have none.
func (a Access) Account(people People) Rights {
	switch {
	case a.machine != nil:
		return Rights{}
	case a.admin:
		return ToWrite
	default:
		return a.person.of(people)
	}
}

// Reach is where to look for what a machine may read: the projects, and the
// single secrets, of its policies. Of those secrets a token that is limited to
// certain projects may read fewer; Secret tells.
func (a Access) Reach() (projects, secrets []string) {
	if a.machine == nil {
		return nil, nil
	}
	for id := range a.machine.state.Projects {
		if a.machine.project(id).Read {
			projects = append(projects, id)
		}
	}
	for id, rights := range a.machine.state.Secrets {
		if rights.Read {
			secrets = append(secrets, id)
		}
	}
	slices.Sort(projects)
	slices.Sort(secrets)
	return projects, secrets
}

// Reached is when what a machine may reach last changed.
func (a Access) Reached() time.Time {
	if a.machine == nil {
		return time.Time{}
	}
	return a.machine.state.Reached
}

// CreateProject tells whether the caller may create a project.
func (a Access) CreateProject() error {
	switch {
	case a.machine == nil:
		return nil
	case a.machine.limits.ReadOnly:
		return Hidden("This access token is read-only.")
	case len(a.machine.limits.Projects) > 0:
		return Hidden("This access token is limited to certain projects.")
	case a.machine.state.NoNewProjects:
		return Hidden("This machine account may not create projects.")
	}
	return nil
}

// WhyNot says what of the token itself stands in the way of a write that its
// account might be allowed; the plain NotFound where that is not the reason.
func (a Access) WhyNot() error {
	if a.machine != nil && a.machine.limits.ReadOnly {
		return Hidden("This access token is read-only.")
	}
	return NotFound()
}

// project gives the session's rights on a project.
func (s *session) project(id string) Rights {
	if len(s.limits.Projects) > 0 && !slices.Contains(s.limits.Projects, id) {
		return Rights{}
	}
	return s.limit(s.state.Projects[id])
}

// secret gives the session's rights by a policy on the secret itself.
func (s *session) secret(id, project string) Rights {
	if len(s.limits.Projects) > 0 && !slices.Contains(s.limits.Projects, project) {
		return Rights{}
	}
	return s.limit(s.state.Secrets[id])
}

func (s *session) limit(r Rights) Rights {
	return r.And(Rights{Read: true, Write: !s.limits.ReadOnly})
}

// of gives a person's rights by the policies.
func (p *Person) of(people People) Rights {
	rights := people.Users[p.Subject]
	for _, group := range p.Groups {
		rights = rights.Or(people.Groups[group])
	}
	return rights
}
