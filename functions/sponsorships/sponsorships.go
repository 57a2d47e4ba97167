// Package sponsorships is the HTTP side of Billing sync: the connection to the
// vendor's cloud, the offers of free Families organisations, runs by hand, and
// the organisation's licence. It speaks Bitwarden's API of a self-hosted server,
// so that the web vault works, with some members and routes added.
//
// It is for people: an organisation's owners for the connection, the licence, an
// import and a sync by hand, its administrators for offers, and its members for
// what they themselves offer. The billing sync key is taken and never given back.
package sponsorships

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/latchkey-fn/latchkey/shared/audit"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/httpx"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/sponsor/licence"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// maxBody bounds a request's body, in bytes: a licence's, as in the original.
const maxBody = 51_200

// Parts are the outside systems, which a main chooses.
type Parts struct {
	Store    store.Driver
	Key      kms.Unwrapper
	Previous []kms.Unwrapper
	Logger   *slog.Logger
	// Kick has the scheduled function begin a run that was asked for, and does not
	// wait for it. Nil, or an error: the run begins with the next tick.
	Kick func(ctx context.Context, organization string) error
	// Metrics may be nil.
	Metrics sponsor.Metrics
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Transport takes the place of the connection to the cloud. Nil: TLS.
	Transport http.RoundTripper
}

// Function is the HTTP side of Billing sync.
type Function struct {
	http.Handler
	// Routes are what it serves below /api, for whatever is in front of several
	// functions.
	Routes []string
}

// New puts the function together. Nothing is contacted before the first
// request.
func New(c Config, p Parts) (*Function, error) {
	documents := store.New(p.Store)
	trust, err := sponsor.LoadTrust(c.Billing)
	if err != nil {
		return nil, err
	}
	settings := c.Billing
	settings.RequestTimeout = min(settings.RequestTimeout, cloudTime(c.RequestTimeout))
	domain, err := sponsor.New(sponsor.Config{
		Store: documents, Settings: settings, Trust: trust, Logger: p.Logger, Metrics: p.Metrics, Now: p.Now, Transport: p.Transport,
		Ring: keyring.New(keyring.Config{
			Name: sponsor.RingName, Store: documents, Key: p.Key, Previous: p.Previous, MaxAge: c.DataKeyMaxAge,
		}),
	})
	if err != nil {
		return nil, err
	}
	operators := c.Operators
	operators.MemberRules = c.SponsorRules
	callers, err := smapi.NewAuthenticator(smapi.CallersConfig{Identity: c.Identity, Operators: operators, Logger: p.Logger, Now: p.Now})
	if err != nil {
		return nil, err
	}
	operators.Rules, operators.MemberRules = c.BillingRules, nil
	owners, err := smapi.NewAuthenticator(smapi.CallersConfig{Identity: c.Identity, Operators: operators, Logger: p.Logger, Now: p.Now})
	if err != nil {
		return nil, err
	}
	h := &handler{sync: domain, audit: audit.New(p.Logger), owners: owners, kick: p.Kick, communicates: settings.CloudCommunication}
	api := smapi.New(smapi.Config{
		Function: "sponsorships", Service: "Billing sync", Callers: callers, Logger: p.Logger,
		Path: c.Sessions.Path(), Origins: c.WebVaultOrigins, Timeout: c.RequestTimeout, MaxBody: maxBody,
	})
	for _, r := range h.routes() {
		api.Handle(r.pattern, r.action, h.operation(r))
	}
	open := newOpen(h, c.Sessions.Path(), httpx.Options{Function: "sponsorships", Logger: p.Logger, Timeout: c.RequestTimeout, MaxBody: maxBody})
	return &Function{Handler: open.before(hideNames(api)), Routes: append(api.Routes, open.routes()...)}, nil
}

// cloudTime bounds a request to the cloud so that a token, what it is for, and
// the writing down of what came of it fit into one request of ours.
func cloudTime(ours time.Duration) time.Duration { return max((ours-ours/5)/2, time.Second/2) }

type handler struct {
	sync  *sponsor.Sync
	audit audit.Log
	// owners are those of the billing rules: to it administrators are nobody else.
	owners smapi.Authenticator
	kick   func(context.Context, string) error
	// communicates: requests to the cloud are allowed at all.
	communicates bool
}

// route is a method and a path, and the action's name in the audit log. It reads
// or it changes something.
type route struct {
	pattern, action string
	read            smapi.Operation
	change          change
}

// change is an operation that changes something, and tells the id of what it
// changed.
type change func(r smapi.Request) (subject string, answer any, err error)

func (h *handler) routes() []route {
	routes := []route{
		{"GET /organizations/connections/enabled", "sync-connection.read-enabled", h.enabled, nil},
		{"POST /organizations/connections", "sync-connection.create", nil, h.createConnection},
		{"PUT /organizations/connections/{id}", "sync-connection.edit", nil, h.putConnection},
		{"DELETE /organizations/connections/{id}", "sync-connection.delete", nil, h.deleteConnection},

		{"POST /organizations/licenses/self-hosted/{id}", "license.upload", nil, h.uploadLicence},
		{"POST /organizations/licenses/self-hosted/{id}/sync", "license.sync", nil, h.syncLicence},

		{"POST /organization/sponsorship/self-hosted/{org}/families-for-enterprise", "offer.create", nil, h.createOffer},
		{"DELETE /organization/sponsorship/self-hosted/{org}", "offer.revoke", nil, h.revokeOwn},
		{"POST /organization/sponsorship/self-hosted/{org}/delete", "offer.revoke", nil, h.revokeOwn},
		{"DELETE /organization/sponsorship/self-hosted/{org}/{friendlyName}/revoke", "offer.revoke", nil, h.revokeNamed},
		{"GET /organization/sponsorship/self-hosted/{org}/sponsored", "offer.list", h.listSponsored, nil},
		{"GET /organization/sponsorship/{org}/sync-status", "billing-sync.read", h.syncStatus, nil},
		{"POST /organization/sponsorship/validate-token", "offer.redeem", cloudOnly, nil},
		{"POST /organization/sponsorship/redeem", "offer.redeem", cloudOnly, nil},
		{"POST /organization/sponsorship/{org}/families-for-enterprise/resend", "offer.resend", cloudOnly, nil},
		{"DELETE /organization/sponsorship/sponsored/{org}", "offer.redeem", cloudOnly, nil},
		{"POST /organization/sponsorship/sponsored/{org}/remove", "offer.redeem", cloudOnly, nil},

		{"GET /organizations/{org}/billing-sync", "billing-sync.read", h.status, nil},
		{"POST /organizations/{org}/billing-sync/sync", "billing-sync.run", nil, h.trigger},
		{"GET /organizations/{org}/billing-sync/runs", "billing-sync.read-runs", h.listRuns, nil},
		{"GET /organizations/{org}/billing-sync/runs/{id}", "billing-sync.read-runs", h.getRun, nil},
		{"GET /organizations/{org}/billing-sync/offers", "offer.list", h.listOffers, nil},
		{"POST /organizations/{org}/billing-sync/offers/import", "offer.import", nil, h.importOffers},
		{"POST /organizations/{org}/billing-sync/offers/{id}/revoke", "offer.revoke", nil, h.revokeOffer},
		{"POST /organizations/{org}/billing-sync/offers/{id}/reissue", "offer.reissue", nil, h.reissueOffer},
		{"POST /organizations/{org}/billing-sync/members/{id}/removed", "offer.revoke-of-member", nil, h.memberRemoved},
		{"GET /organizations/{org}/billing-sync/license", "license.read", h.getLicence, nil},
		{"POST /organizations/{org}/billing-sync/license/check", "license.check", nil, h.checkLicence},
		{"GET /organizations/{org}/billing-sync/usage", "license-usage.read", h.getUsage, nil},
		{"PUT /organizations/{org}/billing-sync/usage", "license-usage.edit", nil, h.putUsage},
	}
	// The type is not one of the path's variables: the mux could not tell
	// /organizations/connections/{org}/{type} from /organizations/{org}/billing-sync/runs.
	for _, name := range connectionTypeNames {
		routes = append(routes, route{"GET /organizations/connections/{org}/" + name, "sync-connection.read", h.getConnection(name), nil})
	}
	return routes
}

// operation records what a route changed, and what clients are told of a
// failure.
func (h *handler) operation(of route) smapi.Operation {
	return func(r smapi.Request) (answer any, err error) {
		if of.change == nil {
			answer, err = of.read(r)
		} else {
			var subject string
			// What has recorded itself has told more than the route's action.
			if subject, answer, err = of.change(r); err == nil && !r.Caller.Recorded.Load() {
				h.record(r, of.action, subject)
			}
		}
		if f, ok := sponsor.AsFailure(err); ok {
			r.Answer.Set(httpx.CodeHeader, f.Code)
			if f.Code == string(licence.VersionUnsupported) {
				// Clients know this text as it is; the log has the hint.
				err = fmt.Errorf("%w: %w", &machine.Problem{Class: f.Class, Message: f.Message}, err)
			}
		}
		return answer, err
	}
}

// record tells the audit log of a change. The event is in the place of the
// request's.
func (h *handler) record(r smapi.Request, action, subject string) {
	h.audit.Record(r.Context(), audit.Event{
		Action: action, Outcome: audit.Allowed, Actor: r.Caller.Actor(), Subject: subject,
		RequestID: r.Caller.RequestID, Address: r.Caller.Address,
	})
	r.Caller.Recorded.Store(true)
}

// admin gives the organisation that the path names, to its administrators.
func (h *handler) admin(r smapi.Request) (string, error) {
	a, err := r.Access("org")
	if err != nil {
		return "", err
	}
	if !a.IsAdmin() {
		return "", machine.NotFound()
	}
	return a.Organization, nil
}

// codeRight is in httpx.CodeHeader where an administrator may not do what the billing
// rules reserve.
const codeRight = "billing_right_missing"

// owner gives the organisation of an id to those of the billing rules. To all
// others it does not exist, of whom administrators are told the reason.
func (h *handler) owner(r smapi.Request, id string) (string, error) {
	ids, err := smapi.IDs([]string{id})
	if err != nil {
		return "", machine.NotFound()
	}
	caller, err := h.owners.Authenticate(r.Request)
	if err != nil {
		return "", err
	}
	if a, err := caller.In(ids[0]); err == nil && a.IsAdmin() {
		return ids[0], nil
	}
	if a, err := r.Caller.In(ids[0]); err != nil || !a.IsAdmin() {
		return "", machine.NotFound()
	}
	r.Answer.Set(httpx.CodeHeader, codeRight)
	return "", machine.Hidden("This is for those of %sBILLING_RULES: the owners, where nothing else is set.", config.Prefix)
}

// begin asks for a run at once. One that cannot be begun now is begun by the
// next tick, so that a failure is no more than a line in the log.
func (h *handler) begin(ctx context.Context, organization string) {
	if h.kick == nil {
		return
	}
	if err := h.kick(ctx, organization); err != nil {
		httpx.Note(ctx, slog.String("kick", err.Error()))
	}
}
