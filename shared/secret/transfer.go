package secret

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// The most that one import holds, as in the original.
const (
	MaxImportProjects = 1_000
	MaxImportSecrets  = 6_000
)

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
	return projects, Selection{Views: found.readable(a), access: a, secrets: s}, nil
}

// Archive is what is imported. Its ids only say which secret is in which
// project: new ones are given.
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

// Import makes projects and secrets, for administrators. What cannot be written
// as a whole is taken back, as far as that can be.
func (s *Secrets) Import(ctx context.Context, a machine.Access, archive Archive) error {
	if !a.IsAdmin() {
		return machine.NotFound()
	}
	if err := archive.check(); err != nil {
		return err
	}
	renamed := map[string]string{"": ""}
	var projects, secrets []string
	for _, p := range archive.Projects {
		renamed[p.ID] = uuid.NewString()
		projects = append(projects, renamed[p.ID])
	}
	now := s.now().UTC()
	err := each(ctx, archive.Projects, func(ctx context.Context, p ArchivedProject) error {
		_, err := s.projects.Put(ctx, store.Record[Project]{
			ID: renamed[p.ID], Parent: a.Organization, Value: Project{Name: p.Name, Created: now, Revised: now},
		}, store.Absent())
		return err
	})
	heads := newFound[Head]()
	if err == nil {
		err = each(ctx, archive.Secrets, func(ctx context.Context, archived ArchivedSecret) error {
			head := store.Record[Head]{
				ID: uuid.NewString(), Parent: a.Organization, Lookup: renamed[archived.project()],
				Value: Head{Organization: a.Organization, Key: archived.Key, Created: now},
			}
			content := s.content(a, archived.Value, archived.Note)
			head, err := s.write(ctx, head, &content, store.Absent())
			heads.add(head) // also where its acknowledgement was lost
			return err
		})
	}
	secrets = slices.Collect(maps.Keys(heads.records))
	if err != nil {
		s.takeBack(ctx, projects, slices.Collect(maps.Values(heads.records)))
		return fmt.Errorf("import: %w", err)
	}
	s.machines.Done(ctx, a, machine.ProjectCreated, "", "", projects...)
	s.machines.Done(ctx, a, machine.SecretCreated, "", "", secrets...)
	return nil
}

// takeBack deletes what an import that failed has written. Only the import knows
// these ids, and whoever asked for it has all of it still.
func (s *Secrets) takeBack(ctx context.Context, projects []string, heads []store.Record[Head]) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
	defer cancel()
	err := each(ctx, heads, func(ctx context.Context, head store.Record[Head]) error {
		if err := unlessGone(s.heads.Delete(ctx, head.ID, store.Any())); err != nil {
			return err
		}
		return unlessGone(s.contents.Delete(ctx, head.Value.Content, store.Any()))
	})
	if err == nil {
		err = each(ctx, projects, func(ctx context.Context, id string) error {
			return unlessGone(s.projects.Delete(ctx, id, store.Any()))
		})
	}
	if err != nil {
		s.logger.WarnContext(ctx, "an import that failed could not be taken back as a whole", slog.String("error", err.Error()))
	}
}
