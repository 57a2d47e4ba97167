// Package machineaccounts is the function that manages what machines log in with:
// service accounts, their access tokens, and the policies of who and what may
// reach which project. It speaks Bitwarden's management API, so that the web vault
// works, with some members and routes added.
//
// It is for people. The one thing that a machine may do here is to give its own
// access token a new client secret.
package machineaccounts

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/signing"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// maxBody bounds a request's body: as many policies as an account can have need
// some 250 KB.
const maxBody = 512 << 10

// Parts are the outside systems, which a main chooses.
type Parts struct {
	Store    store.Driver
	Key      kms.Unwrapper
	Previous []kms.Unwrapper
	Logger   *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Function is the management of machine accounts.
type Function struct {
	http.Handler
	// Routes are what it serves below /api, "GET /secrets/{id}", for whatever is in
	// front of several functions.
	Routes []string
}

// New puts the function together. Nothing is contacted before the first
// request.
func New(c Config, p Parts) (*Function, error) {
	documents := store.New(p.Store)
	h := &handler{now: p.Now}
	if h.now == nil {
		h.now = time.Now
	}
	h.machines = machine.New(machine.Config{
		Store: documents, Logger: p.Logger, Now: p.Now,
		Ring: keyring.New(keyring.Config{
			Name: machine.Ring, Store: documents, Key: p.Key, Previous: p.Previous, MaxAge: c.DataKeyMaxAge,
		}),
	})
	h.secrets = secret.New(secret.Config{Store: documents, Machines: h.machines, Logger: p.Logger, Now: p.Now})
	callers, err := smapi.NewAuthenticator(smapi.CallersConfig{
		Machines: h.machines, Sessions: c.Sessions,
		Keys:     signing.New(signing.Config{Store: documents, Logger: p.Logger, Now: p.Now}).Published,
		Identity: c.Identity, Operators: c.Operators, Logger: p.Logger, Now: p.Now,
	})
	if err != nil {
		return nil, err
	}
	api := smapi.New(smapi.Config{
		Function: "machineaccounts", Callers: callers, Logger: p.Logger,
		Path: c.Sessions.Path(), Origins: c.WebVaultOrigins, Timeout: c.RequestTimeout, MaxBody: maxBody,
	})
	for _, r := range h.routes() {
		api.Handle(r.pattern, r.action, r.run)
	}
	return &Function{Handler: api.Handler(), Routes: api.Routes()}, nil
}

type handler struct {
	machines *machine.Machines
	secrets  *secret.Secrets
	now      func() time.Time
}

// route is a method and a path, and the action's name in the audit log.
type route struct {
	pattern, action string
	run             smapi.Operation
}

func (h *handler) routes() []route {
	return []route{
		{"GET /organizations/{org}/service-accounts", "service-account.list", ofPeople(h.listAccounts)},
		{"POST /organizations/{org}/service-accounts", "service-account.create", ofPeople(h.createAccount)},
		{"GET /service-accounts/{id}", "service-account.read", ofPeople(h.getAccount)},
		{"PUT /service-accounts/{id}", "service-account.edit", ofPeople(h.putAccount)},
		{"POST /service-accounts/delete", "service-account.delete", ofPeople(h.deleteAccounts)},

		{"GET /service-accounts/{id}/access-tokens", "access-token.list", ofPeople(h.listTokens)},
		{"POST /service-accounts/{id}/access-tokens", "access-token.create", ofPeople(h.createToken)},

		{"GET /service-accounts/{id}/access-policies/people", "service-account.read-people", ofPeople(h.getAccountPeople)},
		{"PUT /service-accounts/{id}/access-policies/people", "service-account.set-people", ofPeople(h.putAccountPeople)},
		{"GET /service-accounts/{id}/granted-policies", "service-account.read-grants", ofPeople(h.getGranted)},
		{"PUT /service-accounts/{id}/granted-policies", "service-account.grant", ofPeople(h.putGranted)},
		{"GET /projects/{id}/access-policies/people", "project.read-people", ofPeople(h.getProjectPeople)},
		{"PUT /projects/{id}/access-policies/people", "project.set-people", ofPeople(h.putProjectPeople)},
		{"GET /projects/{id}/access-policies/service-accounts", "project.read-service-accounts", ofPeople(h.getProjectAccounts)},
		{"PUT /projects/{id}/access-policies/service-accounts", "project.set-service-accounts", ofPeople(h.putProjectAccounts)},

		{"GET /organizations/{org}/access-policies/people/potential-grantees", "potential-grantee.list", ofPeople(h.potentialPeople)},
		{"GET /organizations/{org}/access-policies/service-accounts/potential-grantees", "potential-grantee.list", ofPeople(h.potentialAccounts)},
		{"GET /organizations/{org}/access-policies/projects/potential-grantees", "potential-grantee.list", ofPeople(h.potentialProjects)},

		{"GET /organizations/{org}/sm-counts", "organization.count", ofPeople(h.countOrganization)},
		{"GET /projects/{id}/sm-counts", "project.count", ofPeople(h.countProject)},
		{"GET /service-accounts/{id}/sm-counts", "service-account.count", ofPeople(h.countAccount)},

		{"GET /sm/events/service-accounts/{id}", "service-account.read-events", ofPeople(h.listEvents)},

		{"GET /organizations/{org}/secrets-manager", "organization.read", ofPeople(h.getOrganization)},
		{"PUT /organizations/{org}/secrets-manager", "organization.edit", ofPeople(h.putOrganization)},

		{"POST /access-tokens/rotate", "access-token.rotate", h.rotateToken},
	}
}

// ofPeople closes an operation to machines, for which it does not exist.
func ofPeople(run smapi.Operation) smapi.Operation {
	return func(r smapi.Request) (any, error) {
		if r.Caller.Machine() != "" {
			return nil, machine.NotFound()
		}
		return run(r)
	}
}

// optional is a date that may be missing.
func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
