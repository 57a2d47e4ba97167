package secret

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Project gives a project; NotFound where there is none. Who may see it is for
// the caller of this to ask.
func (s *Secrets) Project(ctx context.Context, id string) (store.Record[Project], error) {
	project, err := s.projects.Get(ctx, id)
	if err != nil {
		return project, fmt.Errorf("project: %w", err)
	}
	return project, nil
}

// Projects walks the projects of an organisation, by id.
func (s *Secrets) Projects(ctx context.Context, organization string) iter.Seq2[store.Record[Project], error] {
	return s.projects.ByParent(ctx, organization)
}

// Heads walks the heads of an organisation's secrets, by id, without those in
// the trash. A head whose project (its look-up value) is gone is in none.
func (s *Secrets) Heads(ctx context.Context, organization string) iter.Seq2[store.Record[Head], error] {
	return s.heads.ByParent(ctx, organization)
}

// SetProjectPeople replaces the policies of people on a project, for people who
// may write it.
func (s *Secrets) SetProjectPeople(ctx context.Context, c machine.Caller, id string, people machine.People) (machine.Access, error) {
	var a machine.Access
	_, err := s.projects.Update(ctx, id, func(project *store.Record[Project]) (err error) {
		if a, err = administer(c, *project); err != nil {
			return err
		}
		project.Value.People = people
		return nil
	})
	if err != nil {
		return machine.Access{}, fmt.Errorf("policies of a project: %w", err)
	}
	s.machines.Record(ctx, a, "project.set-people", id)
	return a, nil
}

// SetProjectAccounts replaces the policies of machine accounts on a project, for
// people who may write it, within what machine.SetProjectAccounts allows them.
func (s *Secrets) SetProjectAccounts(ctx context.Context, c machine.Caller, id string, want map[string]machine.Rights) (machine.Access, error) {
	project, err := s.Project(ctx, id)
	if err != nil {
		return machine.Access{}, err
	}
	a, err := administer(c, project)
	if err != nil {
		return machine.Access{}, err
	}
	if err := s.machines.SetProjectAccounts(ctx, a, id, want); err != nil {
		return machine.Access{}, err
	}
	s.machines.Record(ctx, a, "project.set-service-accounts", id)
	return a, nil
}

// administer tells what the caller may do where a project is whose policies he
// wants to change; NotFound where he may not.
func administer(c machine.Caller, project store.Record[Project]) (machine.Access, error) {
	a, err := c.In(project.Parent)
	if err != nil {
		return machine.Access{}, err
	}
	if a.IsMachine() || !seeProject(a, project).Rights.Cover(machine.ToWrite) {
		return machine.Access{}, machine.NotFound()
	}
	return a, nil
}

// ProjectView is a project as one caller sees it.
type ProjectView struct {
	store.Record[Project]
	Rights machine.Rights
}

func seeProject(a machine.Access, project store.Record[Project]) ProjectView {
	return ProjectView{project, a.Project(project.ID, project.Value.People)}
}

// ListProjects gives the projects of an organisation that a caller may read, the
// one that was revised last at the end.
func (s *Secrets) ListProjects(ctx context.Context, a machine.Access) ([]ProjectView, error) {
	all := newFound[Project]()
	if a.IsMachine() {
		reach, _ := a.Reach()
		if err := all.fetch(ctx, s.projects, reach); err != nil {
			return nil, fmt.Errorf("projects of a machine: %w", err)
		}
	} else {
		for project, err := range s.Projects(ctx, a.Organization) {
			if err != nil {
				return nil, fmt.Errorf("projects: %w", err)
			}
			all.add(project)
		}
	}
	var views []ProjectView
	for project := range maps.Values(all.records) {
		if view := seeProject(a, project); view.Rights.Read && project.Parent == a.Organization {
			views = append(views, view)
		}
	}
	slices.SortFunc(views, func(a, b ProjectView) int {
		return cmp.Or(a.Value.Revised.Compare(b.Value.Revised), cmp.Compare(a.ID, b.ID))
	})
	return views, nil
}

// reachProject gives one project to a caller who needs these rights on it.
func (s *Secrets) reachProject(ctx context.Context, c machine.Caller, id string, need machine.Rights) (machine.Access, ProjectView, error) {
	project, err := s.Project(ctx, id)
	if err != nil {
		return machine.Access{}, ProjectView{}, err
	}
	a, err := c.In(project.Parent)
	if err != nil {
		return machine.Access{}, ProjectView{}, err
	}
	view := seeProject(a, project)
	return a, view, mustCover(a, view.Rights, need)
}

// GetProject gives one project.
func (s *Secrets) GetProject(ctx context.Context, c machine.Caller, id string) (ProjectView, error) {
	a, view, err := s.reachProject(ctx, c, id, machine.ToRead)
	if err != nil {
		return ProjectView{}, err
	}
	s.machines.Done(ctx, a, machine.ProjectRetrieved, "", "", id)
	return view, nil
}

// CreateProject makes a project, which its maker may read and write.
func (s *Secrets) CreateProject(ctx context.Context, a machine.Access, name string) (ProjectView, error) {
	if err := a.CreateProject(); err != nil {
		return ProjectView{}, err
	}
	if err := checkProjectName(name); err != nil {
		return ProjectView{}, err
	}
	now := s.now().UTC()
	project := store.Record[Project]{ID: uuid.NewString(), Parent: a.Organization, Value: Project{Name: name, Created: now, Revised: now}}
	if a.IsMachine() {
		// Before the project is: one without it would be out of its maker's
		// reach for ever, while a policy on nothing grants nothing.
		if err := s.machines.GrantProject(ctx, a.Machine(), project.ID, machine.ToWrite); err != nil {
			return ProjectView{}, err
		}
	} else {
		project.Value.People.Users = map[string]machine.Rights{a.Subject(): machine.ToWrite}
	}
	var err error
	if project.Revision, err = s.projects.Put(ctx, project, store.Absent()); err != nil {
		return ProjectView{}, fmt.Errorf("project: %w", err)
	}
	s.machines.Done(ctx, a, machine.ProjectCreated, "", "", project.ID)
	// What was just granted is not in a yet.
	return ProjectView{project, machine.ToWrite}, nil
}

// EditProject gives a project another name.
func (s *Secrets) EditProject(ctx context.Context, c machine.Caller, id, name string) (ProjectView, error) {
	if err := checkProjectName(name); err != nil {
		return ProjectView{}, err
	}
	var (
		a    machine.Access
		view ProjectView
	)
	_, err := s.projects.Update(ctx, id, func(project *store.Record[Project]) (err error) {
		if a, err = c.In(project.Parent); err != nil {
			return err
		}
		if err = mustCover(a, seeProject(a, *project).Rights, machine.ToWrite); err != nil {
			return err
		}
		project.Value.Name, project.Value.Revised = name, s.now().UTC()
		view = seeProject(a, *project)
		return nil
	})
	if err != nil {
		return ProjectView{}, fmt.Errorf("project: %w", err)
	}
	s.machines.Done(ctx, a, machine.ProjectEdited, "", "", id)
	return view, nil
}

func checkProjectName(name string) error {
	fields := machine.Fields{}
	fields.EncString("Name", name, machine.MaxName)
	return fields.Problem()
}

// DeleteProjects deletes projects, whose secrets stay, in none. All exist, and
// are of one organisation; else it is NotFound and nothing is done.
func (s *Secrets) DeleteProjects(ctx context.Context, c machine.Caller, ids []string) ([]Result, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	all := newFound[Project]()
	if err := all.fetch(ctx, s.projects, ids); err != nil {
		return nil, fmt.Errorf("projects: %w", err)
	}
	first := all.records[ids[0]]
	for _, id := range ids {
		if project, ok := all.records[id]; !ok || project.Parent != first.Parent {
			return nil, machine.NotFound()
		}
	}
	a, err := c.In(first.Parent)
	if err != nil {
		return nil, err
	}
	tried, err := attempt(ctx, ids, func(ctx context.Context, id string) error {
		if !seeProject(a, all.records[id]).Rights.Cover(machine.ToWrite) {
			return fault.Forbidden
		}
		return s.deleteProject(ctx, a.Organization, id)
	})
	if err != nil {
		return nil, err
	}
	s.machines.Denied(ctx, c, machine.ProjectDeleted, tried.denied...)
	s.machines.Done(ctx, a, machine.ProjectDeleted, "", "", tried.done...)
	return tried.results, nil
}

// deleteProject can be repeated from any point where it broke off: by whoever
// still may, which is an administrator always. The policies go first, which is
// what tells machines to sync.
func (s *Secrets) deleteProject(ctx context.Context, organization, id string) error {
	if err := s.machines.ForgetProject(ctx, organization, id); err != nil {
		return err
	}
	var inside []string
	for head, err := range s.heads.ByLookup(ctx, id) {
		if err != nil {
			return fmt.Errorf("secrets of a project: %w", err)
		}
		inside = append(inside, head.ID)
	}
	err := each(ctx, inside, func(ctx context.Context, secret string) error {
		_, err := s.heads.Update(ctx, secret, func(head *store.Record[Head]) error {
			if head.Lookup != id {
				return store.ErrUnchanged
			}
			head.Lookup, head.Value.Revised = "", s.now().UTC()
			return nil
		})
		return unlessGone(err)
	})
	if err == nil {
		err = unlessGone(s.projects.Delete(ctx, id, store.Any()))
	}
	if err != nil {
		return fmt.Errorf("delete a project: %w", err)
	}
	return nil
}

// unlessGone takes it well that what was to be deleted is not there any more.
func unlessGone(err error) error {
	if fault.Of(err) == fault.NotFound {
		return nil
	}
	return err
}
