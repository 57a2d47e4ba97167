package smapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/latchkey-fn/latchkey/shared/auth"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/httpx"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/signing"
)

// What the sessions of machines say of themselves, as in the original.
const (
	// SessionType is the claim type.
	SessionType = "ServiceAccount"
	// SessionScope is the one element of the claim scope.
	SessionScope = "api.secrets"

	typeClaim         = "type"
	organizationClaim = "organization"
	emailClaim        = "email"
	sessionClaim      = "jti"
	// generationClaim is what Generation gives.
	generationClaim = "secret_generation"
)

// Generation is the claim secret_generation, which is not the original's: which
// of its token's client secrets a session was made with. Of the first it is empty,
// and left out.
func Generation(g machine.Granted) string {
	if g.Generation == 0 {
		return ""
	}
	return strconv.Itoa(g.Generation)
}

// sessionSkew is how far the clocks of two of our own servers may be apart.
const sessionSkew = 10 * time.Second

// Made-up tokens that an address is told 401 of; after that it is 429.
const (
	failuresPerMinute = 20
	failuresAtOnce    = 40
)

// Machines is what is asked of a machine.Machines; a function of people alone
// links no more of it.
type Machines interface {
	Session(ctx context.Context, c machine.Claims) (machine.Caller, error)
}

// CallersConfig says whose requests are served.
type CallersConfig struct {
	// Machines tells whether a session is still good. Nil: people alone are
	// served, and what is of sessions need not be given.
	Machines Machines
	// Sessions are the settings that sessions were made with, and Keys are those
	// they were signed with.
	Sessions config.Sessions
	Keys     func(context.Context) ([]auth.PublicKey, error)
	// Identity is the OpenID provider of people, and Operators say what they
	// are. Without a provider machines alone are served.
	Identity  config.Identity
	Operators config.Operators
	// Logger is told of keys that could not be fetched. Nil: nobody.
	Logger *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// NewAuthenticator makes the Authenticator of sessions of machines and tokens
// of people. Nothing is contacted before the first request.
//
// Its errors are of class Unauthenticated (no token, or not a valid one; of a
// session that is over with the reason), NotFound (a valid token that is for
// something else) and Transient. Of made-up tokens an address hears no more than
// 429 after a while; those who hold a genuine one always hear what is wrong.
func NewAuthenticator(c CallersConfig) (Authenticator, error) {
	sessions, err := newSessions(c)
	if err != nil {
		return nil, fmt.Errorf("sessions of machines: %w", err)
	}
	people, err := newPeople(c)
	if err != nil {
		return nil, fmt.Errorf("identity server of people: %w", err)
	}
	if sessions == nil && people == nil {
		return nil, fmt.Errorf("%w: neither machines nor people are to be served", fault.Invalid)
	}
	return &callers{
		machines: c.Machines, sessions: sessions, people: people,
		limiter: auth.NewLimiter(failuresPerMinute, failuresAtOnce, c.Now),
	}, nil
}

func newSessions(c CallersConfig) (*auth.Verifier, error) {
	if c.Machines == nil {
		return nil, nil
	}
	return auth.New(auth.Config{
		Keys:       sessionKeys(c.Keys),
		Issuer:     c.Sessions.Issuer(),
		Algorithms: []string{"RS256", "ES256"}, // sessions outlive a change of the setting
		ClockSkew:  sessionSkew,
		Claims:     []string{organizationClaim, typeClaim, sessionClaim, generationClaim},
		Log:        c.Logger,
		Now:        c.Now,
	})
}

// sessionKeys has no keys where none was made yet: a session that somebody shows
// then is none, which is not for the key source to say.
func sessionKeys(published func(context.Context) ([]auth.PublicKey, error)) func(context.Context) ([]auth.PublicKey, error) {
	if published == nil {
		return nil
	}
	return func(ctx context.Context) ([]auth.PublicKey, error) {
		keys, err := published(ctx)
		if errors.Is(err, signing.ErrNoKey) {
			err = nil
		}
		return keys, err
	}
}

type callers struct {
	machines Machines
	sessions *auth.Verifier // nil: no machine
	people   *people        // nil: nobody
	limiter  *auth.Limiter
}

// Authenticate implements Authenticator.
func (c *callers) Authenticate(r *http.Request) (machine.Caller, error) {
	raw, err := auth.Bearer(r)
	if err != nil {
		if len(r.Header.Values("Authorization")) == 0 {
			// A client whose session could not be renewed asks without one, as
			// often as it likes.
			return machine.Caller{}, explain(err, machine.Refused("%s", auth.Message(err)))
		}
		return machine.Caller{}, c.refuse(r, err, auth.Message(err))
	}
	// What nobody has verified decides no more than whose keys are tried.
	if c.sessions != nil && (c.people == nil || auth.UnverifiedClaim(raw, typeClaim) == SessionType) {
		return c.session(r, raw)
	}
	token, err := c.people.verifier.Verify(r.Context(), raw, c.people.policy)
	if err != nil {
		return machine.Caller{}, c.refuse(r, err, auth.Message(err))
	}
	return c.people.caller(token), nil
}

var sessionPolicy = auth.Policy{Scopes: []string{SessionScope}, Types: []string{signing.Type}}

func (c *callers) session(r *http.Request, raw string) (machine.Caller, error) {
	token, err := c.sessions.Verify(r.Context(), raw, sessionPolicy)
	switch {
	case err == nil:
	case auth.Genuine(err):
		return machine.Caller{}, explain(err, machine.Refused("The session has expired, or is not one of this server. Please log in again."))
	default:
		return machine.Caller{}, c.refuse(r, err, "The session is not valid.")
	}
	id, isID := parseID(token.ClientID)
	organization, inOrganization := parseID(single(token.Claims[organizationClaim]))
	generation, err := strconv.Atoi(cmp.Or(single(token.Claims[generationClaim]), "0"))
	if !isID || !inOrganization || err != nil || single(token.Claims[typeClaim]) != SessionType {
		return machine.Caller{}, machine.Refused("The session is not one of a machine account.")
	}
	caller, err := c.machines.Session(r.Context(), machine.Claims{
		Organization: organization, Account: token.Subject, Token: id,
		Session: single(token.Claims[sessionClaim]), Generation: generation,
	})
	if err != nil {
		return machine.Caller{}, fmt.Errorf("%w (access token %s of service account %s)", err, id, token.Subject)
	}
	return caller, nil
}

// refuse says what a client may know of a token that was refused.
func (c *callers) refuse(r *http.Request, err error, message string) error {
	switch fault.Of(err) {
	case fault.Unauthenticated:
		if !auth.Genuine(err) && !c.limiter.Allow(httpx.ClientAddress(r)) {
			return fmt.Errorf("%w: %w", errTooManyFailures, err)
		}
		return explain(err, machine.Refused("%s", message))
	case fault.Forbidden:
		return explain(err, machine.Hidden("%s", message))
	default:
		return err
	}
}

// explain puts what the client reads before what the log says.
func explain(err, toClient error) error { return fmt.Errorf("%w: %w", toClient, err) }

func single(values []string) string {
	if len(values) != 1 {
		return ""
	}
	return values[0]
}

// people are those whom the organisations' OpenID provider knows.
type people struct {
	verifier        *auth.Verifier
	policy          auth.Policy
	admins, members []config.Rule
	groups          string
}

func newPeople(c CallersConfig) (*people, error) {
	if c.Identity == (config.Identity{}) {
		return nil, nil
	}
	admins, members, err := c.Operators.Parse()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fault.Invalid, err)
	}
	p := &people{admins: admins, members: members, groups: c.Operators.GroupsClaim}
	p.policy = auth.Policy{Scopes: c.Operators.Scopes, AnySubject: true}
	if c.Operators.Audience != "" {
		p.policy.Audiences = []string{c.Operators.Audience}
	}
	claims := []string{p.groups, emailClaim}
	for _, rule := range slices.Concat(admins, members) {
		claims = append(claims, rule.Claim)
	}
	p.verifier, err = auth.New(auth.Config{
		IdentityURL: c.Identity.URL,
		Issuer:      c.Identity.Issuer,
		KeysFile:    c.Identity.KeysFile,
		CAFile:      c.Identity.CAFile,
		Algorithms:  c.Operators.Algorithms,
		Claims:      claims,
		Log:         c.Logger,
		Now:         c.Now,
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (p *people) caller(token auth.Token) machine.Caller {
	grants := func(rules []config.Rule, organization string) bool {
		return slices.ContainsFunc(rules, func(r config.Rule) bool { return r.Grants(token.Claims[r.Claim], organization) })
	}
	return machine.OfPerson(machine.Person{
		Subject: token.Subject,
		Email:   single(token.Claims[emailClaim]),
		Groups:  token.Claims[p.groups],
		Role: func(organization string) machine.Role {
			switch {
			case grants(p.admins, organization):
				return machine.Admin
			case grants(p.members, organization):
				return machine.Member
			default:
				return machine.NoRole
			}
		},
	})
}
