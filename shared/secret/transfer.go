package secret

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// The most that one import holds, as in the original.
const (
	MaxImportProjects = 1_000
	MaxImportSecrets  = 6_000
)

// importAtOnce is how many things one import writes side by side.
const importAtOnce = 32

// maxTold is how many bad texts of an import are told of.
const maxTold = 20

// Export gives the projects and secrets of an organisation, without its trash,
// to its administrators.
func (s *Secrets) Export(ctx context.Context, a machine.Access) ([]ProjectView, Selection, error) {
	if !a.IsAdmin() {
		return nil, Selection{}, machine.NotFound()
	}
	found, err := s.survey(ctx, a)
	if err != nil {
		return nil, Selection{}, err
	}
	projects := make([]ProjectView, 0, len(found.projects))
	for _, id := range slices.Sorted(maps.Keys(found.projects)) {
		projects = append(projects, seeProject(a, found.projects[id]))
	}
	s.machines.Record(ctx, a, "organization.export", a.Organization)
	return projects, Selection{Views: found.readable(a), access: a, secrets: s}, nil
}

// Archive is what is imported. Its ids only say which secret is in which
// project: others are given.
type Archive struct {
	Projects []ArchivedProject
	Secrets  []ArchivedSecret
}

// ArchivedProject is a project of an Archive.
type ArchivedProject struct{ ID, Name string }

// ArchivedSecret is a secret of an Archive.
type ArchivedSecret struct {
	ID string
	Values
}

// check finds everything that could stand in the way of an import.
func (archive Archive) check() error {
	if len(archive.Projects) > MaxImportProjects || len(archive.Secrets) > MaxImportSecrets {
		return machine.Invalid("You cannot import this much data at once, the limit is %d projects and %d secrets.", MaxImportProjects, MaxImportSecrets)
	}
	fields, projects, secrets := machine.Fields{}, map[string]bool{}, map[string]bool{}
	for i, p := range archive.Projects {
		if p.ID == "" || projects[p.ID] {
			return machine.Invalid("Each project of an import needs an id of its own.")
		}
		projects[p.ID] = true
		fields.EncString(fmt.Sprintf("Projects[%d].Name", i), p.Name, machine.MaxName)
		if len(fields) > maxTold {
			break
		}
	}
	for i, secret := range archive.Secrets {
		if secret.ID != "" && secrets[secret.ID] {
			return machine.Invalid("Each secret of an import needs an id of its own.")
		}
		secrets[secret.ID] = true
		fields.EncString(fmt.Sprintf("Secrets[%d].Key", i), secret.Key, machine.MaxName)
		fields.EncString(fmt.Sprintf("Secrets[%d].Value", i), secret.Value, machine.MaxValue)
		fields.EncString(fmt.Sprintf("Secrets[%d].Note", i), secret.Note, machine.MaxNote)
		if len(fields) > maxTold {
			break
		}
		if len(secret.Projects) > 1 {
			return machine.Invalid("Only one project assignment is supported.")
		}
		if id := secret.project(); id != "" && !projects[id] {
			return machine.Invalid("A secret of an import names a project that the import does not hold.")
		}
	}
	return fields.Problem()
}

// importing is an import under way: what of it is to be written, under which ids.
type importing struct {
	projects []store.Record[Project]
	secrets  []newSecret
	Imported
}

// newSecret is a secret that is to be written.
type newSecret struct {
	head    store.Record[Head]
	content Content
}

// Imported is how much of an archive was there already: of an import of the same
// that broke off, or of one that did not.
type Imported struct{ ExistingProjects, ExistingSecrets int }

// errBrokeOff is what is told of an import that some of was written.
var errBrokeOff = &machine.Problem{
	Class: fault.Transient,
	Message: "The import broke off, and what was written by then remains. " +
		"Please send the same encrypted file again: that continues where it stopped.",
}

// Import makes projects and secrets, for administrators. The ids that they get
// are always the same for the same archive in the same organisation, texts
// included, and what is there already is left as it is: an import that broke off
// is gone on with when it is called again.
func (s *Secrets) Import(ctx context.Context, a machine.Access, archive Archive) (Imported, error) {
	if !a.IsAdmin() {
		return Imported{}, machine.NotFound()
	}
	if err := archive.check(); err != nil {
		return Imported{}, err
	}
	missing, err := s.prepareImport(ctx, a, archive)
	if err != nil {
		return Imported{}, err
	}
	projects, secrets := newFound[Project](), newFound[Head]()
	err = eachOf(ctx, importAtOnce, missing.projects, func(ctx context.Context, project store.Record[Project]) error {
		_, err := s.projects.Put(ctx, project, store.Absent())
		return projects.added(project, err)
	})
	if err == nil {
		err = eachOf(ctx, importAtOnce, missing.secrets, func(ctx context.Context, secret newSecret) error {
			head, err := s.write(ctx, secret.head, &secret.content, store.Absent())
			return secrets.added(head, err)
		})
	}
	s.machines.Done(ctx, a, machine.ProjectCreated, "", "", slices.Collect(maps.Keys(projects.records))...)
	s.machines.Done(ctx, a, machine.SecretCreated, "", "", slices.Collect(maps.Keys(secrets.records))...)
	if err != nil {
		return Imported{}, fmt.Errorf("%w: import: %w", errBrokeOff, err)
	}
	s.machines.Record(ctx, a, "organization.import", a.Organization)
	return missing.Imported, nil
}

// prepareImport finds what of an archive is not there yet. What is in the trash
// was deleted by somebody, and is not passed over in silence.
func (s *Secrets) prepareImport(ctx context.Context, a machine.Access, archive Archive) (importing, error) {
	projectIDs, secretIDs, err := archive.ids(a.Organization)
	if err != nil {
		return importing{}, fmt.Errorf("import: %w", err)
	}
	projects, heads := newFound[Project](), newFound[Head]()
	if err = projects.fetch(ctx, s.projects, projectIDs); err == nil {
		err = heads.fetch(ctx, s.heads, secretIDs)
	}
	if err != nil {
		return importing{}, fmt.Errorf("import: %w", err)
	}
	for _, head := range heads.records {
		if head.Value.Trashed != nil {
			return importing{}, machine.Invalid("Secrets of an earlier import of the same file are in the trash. Please restore them, or empty the trash first.")
		}
	}
	missing := importing{Imported: Imported{len(projects.records), len(heads.records)}}
	now, renamed := s.now().UTC(), map[string]string{"": ""}
	for i, p := range archive.Projects {
		renamed[p.ID] = projectIDs[i]
		if _, ok := projects.records[projectIDs[i]]; !ok {
			missing.projects = append(missing.projects, store.Record[Project]{
				ID: projectIDs[i], Parent: a.Organization, Value: Project{Name: p.Name, Created: now, Revised: now},
			})
		}
	}
	for i, archived := range archive.Secrets {
		if _, ok := heads.records[secretIDs[i]]; !ok {
			missing.secrets = append(missing.secrets, newSecret{store.Record[Head]{
				ID: secretIDs[i], Parent: a.Organization, Lookup: renamed[archived.project()],
				Value: Head{Organization: a.Organization, Key: archived.Key, Created: now},
			}, s.content(a, archived.Value, archived.Note)})
		}
	}
	return missing, nil
}

// importSpace is the name space of the ids of what is imported (RFC 9562, section
// 5.5).
var importSpace = uuid.MustParse("d2b0a1f4-3c59-4a71-9f0e-8f6c2b7d5e13")

// ids gives what the projects and secrets of an archive are called in an
// organisation.
func (archive Archive) ids(organization string) (projects, secrets []string, err error) {
	digest := sha256.New()
	encoder := json.NewEncoder(digest)
	for _, p := range archive.Projects {
		err = errors.Join(err, encoder.Encode(p))
	}
	for _, s := range archive.Secrets {
		err = errors.Join(err, encoder.Encode(s))
	}
	if err != nil {
		return nil, nil, err
	}
	whole := digest.Sum(nil)
	id := func(kind string, i int) string {
		return uuid.NewSHA1(importSpace, fmt.Appendf(nil, "%s/%x/%s/%d", organization, whole, kind, i)).String()
	}
	for i := range archive.Projects {
		projects = append(projects, id("project", i))
	}
	for i := range archive.Secrets {
		secrets = append(secrets, id("secret", i))
	}
	return projects, secrets, nil
}
