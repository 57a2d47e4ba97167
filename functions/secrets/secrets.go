// Package secrets is the function that keeps projects and secrets: what machines
// read and write with Bitwarden's Secrets Manager clients, and what people
// manage in its web vault. Every text is encrypted by clients; nothing here has a
// key.
//
// Clients do not page. Lists hold no values, and what does is streamed, so that
// memory is bounded whatever is asked for.
package secrets

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/signing"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Parts are the outside systems, which a main chooses.
type Parts struct {
	Store  store.Driver
	Logger *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Function is projects and secrets.
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
	machines := machine.New(machine.Config{Store: documents, Logger: p.Logger, Now: p.Now})
	callers, err := smapi.NewAuthenticator(smapi.CallersConfig{
		Machines: machines, Sessions: c.Sessions,
		Keys:     signing.New(signing.Config{Store: documents, Logger: p.Logger, Now: p.Now}).Published,
		Identity: c.Identity, Operators: c.Operators, Logger: p.Logger, Now: p.Now,
	})
	if err != nil {
		return nil, err
	}
	h := &handler{
		secrets:   secret.New(secret.Config{Store: documents, Machines: machines, Logger: p.Logger, Now: p.Now}),
		maxAnswer: c.MaxAnswer,
	}
	api := h.api(c, p.Logger, callers)
	return &Function{Handler: api.Handler(), Routes: api.Routes()}, nil
}

type handler struct {
	secrets   *secret.Secrets
	maxAnswer int
}

func (h *handler) api(c Config, logger *slog.Logger, callers smapi.Authenticator) *smapi.API {
	api := smapi.New(smapi.Config{
		Function: "secrets", Callers: callers, Logger: logger, Path: c.Sessions.Path(),
		Origins: c.WebVaultOrigins, Timeout: c.RequestTimeout, MaxBody: maxImport,
	})
	for _, r := range []struct {
		route, action string
		run           smapi.Operation
	}{
		{"GET /organizations/{org}/projects", "project.list", h.listProjects},
		{"POST /organizations/{org}/projects", "project.create", h.createProject},
		{"GET /projects/{id}", "project.read", h.getProject},
		{"PUT /projects/{id}", "project.edit", h.putProject},
		{"POST /projects/delete", "project.delete", h.deleteProjects},

		{"GET /organizations/{org}/secrets", "secret.list", h.listSecrets},
		{"GET /projects/{id}/secrets", "secret.list", h.listSecretsOfProject},
		{"GET /organizations/{org}/secrets/sync", "secret.sync", h.sync},
		{"POST /secrets/get-by-ids", "secret.read", h.getSecrets},
		{"GET /secrets/{id}", "secret.read", h.getSecret},
		{"POST /organizations/{org}/secrets", "secret.create", h.createSecret},
		{"PUT /secrets/{id}", "secret.edit", h.putSecret},
		{"POST /secrets/delete", "secret.delete", h.deleteSecrets},
		{"GET /secrets/{id}/access-policies", "secret.read-policies", h.getPolicies},

		{"GET /secrets/{id}/versions", "secret.read-versions", h.listVersions},
		{"PUT /secrets/{id}/versions/restore", "secret.restore-version", h.restoreVersion},
		{"GET /secret-versions/{id}", "secret.read-versions", h.getVersion},
		{"POST /secret-versions/get-by-ids", "secret.read-versions", h.getVersions},
		{"POST /secret-versions/delete", "secret.delete-versions", h.deleteVersions},

		{"GET /secrets/{org}/trash", "trash.list", h.listTrash},
		{"POST /secrets/{org}/trash/empty", "secret.purge", h.emptyTrash},
		{"POST /secrets/{org}/trash/restore", "secret.restore", h.restoreSecrets},

		{"GET /sm/{org}/export", "organization.export", h.export},
		{"POST /sm/{org}/import", "organization.import", h.importArchive},
	} {
		api.Handle(r.route, r.action, r.run)
	}
	return api
}
