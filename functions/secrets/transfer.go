package secrets

import (
	"encoding/json"
	"fmt"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

// The format of exports and imports, as Bitwarden documents it.

type transferredProject struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

type transferredSecret struct {
	Key        string   `json:"key"`
	Value      string   `json:"value"`
	Note       string   `json:"note"`
	ProjectIDs []string `json:"projectIds"`
	ID         string   `json:"id"`
}

func (h *handler) export(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	projects, all, err := h.secrets.Export(r.Context(), a)
	if err != nil {
		return nil, err
	}
	named := make([]transferredProject, len(projects))
	for i, p := range projects {
		named[i] = transferredProject{p.ID, p.Value.Name}
	}
	text, err := json.Marshal(named)
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	secrets := as(all.Read(r.Context()), func(s secret.Secret) transferredSecret {
		ids := []string{}
		if s.Project != nil {
			ids = append(ids, s.Project.ID)
		}
		return transferredSecret{s.Head.Value.Key, s.Content.Value, s.Content.Note, ids, s.Head.ID}
	})
	return stream(`{"projects":`+string(text)+`,"secrets":[`, secrets, `]}`), h.fits(len(text) + sizeOf(all.Views, true))
}

type importRequest struct {
	Projects first[transferredProject] `json:"projects"`
	Secrets  first[transferredSecret]  `json:"secrets"`
}

// imported is how much an archive holds, and how much of that was there before.
type imported struct {
	Projects         int    `json:"projects"`
	Secrets          int    `json:"secrets"`
	ExistingProjects int    `json:"existingProjects"`
	ExistingSecrets  int    `json:"existingSecrets"`
	Object           string `json:"object"`
}

func (h *handler) importArchive(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	if !a.IsAdmin() { // before a body of that size is read
		return nil, machine.NotFound()
	}
	body := importRequest{
		Projects: first[transferredProject]{most: secret.MaxImportProjects + 1},
		Secrets:  first[transferredSecret]{most: secret.MaxImportSecrets + 1},
	}
	if err := read(r, maxImport, &body); err != nil {
		return nil, err
	}
	var archive secret.Archive
	for _, p := range body.Projects.elements {
		archive.Projects = append(archive.Projects, secret.ArchivedProject{ID: p.ID, Name: p.Name})
	}
	for _, s := range body.Secrets.elements {
		archive.Secrets = append(archive.Secrets, secret.ArchivedSecret{ID: s.ID, Values: secret.Values{
			Key: s.Key, Value: s.Value, Note: s.Note, Projects: s.ProjectIDs,
		}})
	}
	before, err := h.secrets.Import(r.Context(), a, archive)
	if err != nil {
		return nil, err
	}
	return imported{
		len(archive.Projects), len(archive.Secrets), before.ExistingProjects, before.ExistingSecrets, "secretsManagerImport",
	}, nil
}
