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
	"time"

	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/secret"
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

// New puts the function together. Nothing is contacted before the first
// request.
func New(c Config, p Parts) (*smapi.API, error) {
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
	api, err := smapi.Open(smapi.FunctionConfig{
		Name: "machineaccounts", Settings: c.API, Store: documents, Machines: h.machines, Logger: p.Logger, Now: p.Now, MaxBody: maxBody,
	})
	if err != nil {
		return nil, err
	}
	h.addRoutes(api)
	return api, nil
}

type handler struct {
	machines *machine.Machines
	secrets  *secret.Secrets
	now      func() time.Time
}

func (h *handler) addRoutes(api *smapi.API) {
	api.Handle("GET /organizations/{org}/service-accounts", "service-account.list", ofPeople(h.listAccounts))
	api.Handle("POST /organizations/{org}/service-accounts", "service-account.create", ofPeople(h.createAccount))
	api.Handle("GET /service-accounts/{id}", "service-account.read", ofPeople(h.getAccount))
	api.Handle("PUT /service-accounts/{id}", "service-account.edit", ofPeople(h.putAccount))
	api.Handle("POST /service-accounts/delete", "service-account.delete", ofPeople(h.deleteAccounts))

	api.Handle("GET /service-accounts/{id}/access-tokens", "access-token.list", ofPeople(h.listTokens))
	api.Handle("POST /service-accounts/{id}/access-tokens", "access-token.create", ofPeople(h.createToken))

	api.Handle("GET /service-accounts/{id}/access-policies/people", "service-account.read-people", ofPeople(h.getAccountPeople))
	api.Handle("PUT /service-accounts/{id}/access-policies/people", "service-account.set-people", ofPeople(h.putAccountPeople))
	api.Handle("GET /service-accounts/{id}/granted-policies", "service-account.read-grants", ofPeople(h.getGranted))
	api.Handle("PUT /service-accounts/{id}/granted-policies", "service-account.grant", ofPeople(h.putGranted))
	api.Handle("GET /projects/{id}/access-policies/people", "project.read-people", ofPeople(h.getProjectPeople))
	api.Handle("PUT /projects/{id}/access-policies/people", "project.set-people", ofPeople(h.putProjectPeople))
	api.Handle("GET /projects/{id}/access-policies/service-accounts", "project.read-service-accounts", ofPeople(h.getProjectAccounts))
	api.Handle("PUT /projects/{id}/access-policies/service-accounts", "project.set-service-accounts", ofPeople(h.putProjectAccounts))

	api.Handle("GET /organizations/{org}/access-policies/people/potential-grantees", "potential-grantee.list", ofPeople(h.potentialPeople))
	api.Handle("GET /organizations/{org}/access-policies/service-accounts/potential-grantees", "potential-grantee.list", ofPeople(h.potentialAccounts))
	api.Handle("GET /organizations/{org}/access-policies/projects/potential-grantees", "potential-grantee.list", ofPeople(h.potentialProjects))

	api.Handle("GET /organizations/{org}/sm-counts", "organization.count", ofPeople(h.countOrganization))
	api.Handle("GET /projects/{id}/sm-counts", "project.count", ofPeople(h.countProject))
	api.Handle("GET /service-accounts/{id}/sm-counts", "service-account.count", ofPeople(h.countAccount))

	api.Handle("GET /sm/events/service-accounts/{id}", "service-account.read-events", ofPeople(h.listEvents))

	api.Handle("GET /organizations/{org}/secrets-manager", "organization.read", ofPeople(h.getOrganization))
	api.Handle("PUT /organizations/{org}/secrets-manager", "organization.edit", ofPeople(h.putOrganization))

	api.Handle("POST /access-tokens/rotate", "access-token.rotate", h.rotateToken)
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
