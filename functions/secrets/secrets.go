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
	"time"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/secret"
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

// New puts the function together. Nothing is contacted before the first
// request.
func New(c Config, p Parts) (*smapi.API, error) {
	documents := store.New(p.Store)
	machines := machine.New(machine.Config{Store: documents, Logger: p.Logger, Now: p.Now})
	api, err := smapi.Open(smapi.FunctionConfig{
		Name: "secrets", Settings: c.API, Store: documents, Machines: machines, Logger: p.Logger, Now: p.Now, MaxBody: maxImport,
	})
	if err != nil {
		return nil, err
	}
	h := &handler{
		secrets:   secret.New(secret.Config{Store: documents, Machines: machines, Logger: p.Logger, Now: p.Now}),
		maxAnswer: c.MaxAnswer,
	}
	h.addRoutes(api)
	return api, nil
}

type handler struct {
	secrets   *secret.Secrets
	maxAnswer int
}

func (h *handler) addRoutes(api *smapi.API) {
	api.Handle("GET /organizations/{org}/projects", "project.list", h.listProjects)
	api.Handle("POST /organizations/{org}/projects", "project.create", h.createProject)
	api.Handle("GET /projects/{id}", "project.read", h.getProject)
	api.Handle("PUT /projects/{id}", "project.edit", h.putProject)
	api.Handle("POST /projects/delete", "project.delete", h.deleteProjects)

	api.Handle("GET /organizations/{org}/secrets", "secret.list", h.listSecrets)
	api.Handle("GET /projects/{id}/secrets", "secret.list", h.listSecretsOfProject)
	api.Handle("GET /organizations/{org}/secrets/sync", "secret.sync", h.sync)
	api.Handle("POST /secrets/get-by-ids", "secret.read", h.getSecrets)
	api.Handle("GET /secrets/{id}", "secret.read", h.getSecret)
	api.Handle("POST /organizations/{org}/secrets", "secret.create", h.createSecret)
	api.Handle("PUT /secrets/{id}", "secret.edit", h.putSecret)
	api.Handle("POST /secrets/delete", "secret.delete", h.deleteSecrets)
	api.Handle("GET /secrets/{id}/access-policies", "secret.read-policies", h.getPolicies)

	api.Handle("GET /secrets/{id}/versions", "secret.read-versions", h.listVersions)
	api.Handle("PUT /secrets/{id}/versions/restore", "secret.restore-version", h.restoreVersion)
	api.Handle("GET /secret-versions/{id}", "secret.read-versions", h.getVersion)
	api.Handle("POST /secret-versions/get-by-ids", "secret.read-versions", h.getVersions)
	api.Handle("POST /secret-versions/delete", "secret.delete-versions", h.deleteVersions)

	api.Handle("GET /secrets/{org}/trash", "trash.list", h.listTrash)
	api.Handle("POST /secrets/{org}/trash/empty", "secret.purge", h.emptyTrash)
	api.Handle("POST /secrets/{org}/trash/restore", "secret.restore", h.restoreSecrets)

	api.Handle("GET /sm/{org}/export", "organization.export", h.export)
	api.Handle("POST /sm/{org}/import", "organization.import", h.importArchive)
}
