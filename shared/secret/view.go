package secret

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// View is a secret without its value, as one caller sees it.
type View struct {
	Head store.Record[Head]
	// Project is nil where the secret is in none, or in one that is gone.
	Project *store.Record[Project]
	Rights  machine.Rights
}

// Secret is a secret with its value.
type Secret struct {
	View
	Content Content
}

// see is the one place that asks what a caller may do with a secret. projects
// holds the secret's, if there is one.
func see(a machine.Access, head store.Record[Head], projects map[string]store.Record[Project]) View {
	v := View{Head: head}
	var onProject machine.Rights
	if project, ok := projects[head.Lookup]; ok && project.Parent == a.Organization {
		v.Project = &project
		onProject = a.Project(project.ID, project.Value.People)
	}
	v.Rights = a.Secret(head.ID, v.projectID(), onProject, head.Value.People)
	return v
}

// listed is the view as lists show it, in which, as in the original, policies
// on the secret itself do not count for writing.
func (v View) listed(a machine.Access) View {
	v.Rights.Write = a.IsAdmin()
	if v.Project != nil {
		v.Rights.Write = a.Project(v.Project.ID, v.Project.Value.People).Write
	}
	return v
}

func (v View) projectID() string {
	if v.Project == nil {
		return ""
	}
	return v.Project.ID
}

// mustCover is nil where rights are enough; otherwise what a caller who has
// them is told.
func mustCover(a machine.Access, has, need machine.Rights) error {
	switch {
	case has.Cover(need):
		return nil
	case has.Read:
		return a.WhyNot()
	default:
		return machine.NotFound()
	}
}

// List gives the secrets of an organisation that a caller may read, the one
// that was revised last at the end.
func (s *Secrets) List(ctx context.Context, a machine.Access) ([]View, error) {
	found, err := s.survey(ctx, a)
	if err != nil {
		return nil, err
	}
	views := found.readable(a)
	for i := range views {
		views[i] = views[i].listed(a)
	}
	return views, nil
}

// ListIn gives the secrets of one project likewise.
func (s *Secrets) ListIn(ctx context.Context, c machine.Caller, project string) ([]View, error) {
	a, in, err := s.reachProject(ctx, c, project, machine.ToRead)
	if err != nil {
		return nil, err
	}
	found := survey{projects: map[string]store.Record[Project]{in.ID: in.Record}}
	for head, err := range s.heads.ByLookup(ctx, project) {
		if err != nil {
			return nil, fmt.Errorf("secrets of a project: %w", err)
		}
		found.heads = append(found.heads, head)
	}
	views := found.readable(a)
	for i := range views {
		views[i] = views[i].listed(a)
	}
	return views, nil
}

// survey is what there is for a caller to see: heads, of a machine those in the
// trash as well, and the projects that they and the caller's policies name.
type survey struct {
	heads    []store.Record[Head]
	projects map[string]store.Record[Project]
}

// survey looks where the caller's policies point. Of people only administrators
// have none, and members' policies are in what they are about, so for both it is
// the whole organisation.
func (s *Secrets) survey(ctx context.Context, a machine.Access) (survey, error) {
	if a.IsMachine() {
		return s.surveyReach(ctx, a)
	}
	found := survey{projects: map[string]store.Record[Project]{}}
	err := each(ctx, []func(context.Context) error{
		func(ctx context.Context) error {
			for project, err := range s.Projects(ctx, a.Organization) {
				if err != nil {
					return err
				}
				found.projects[project.ID] = project
			}
			return nil
		},
		func(ctx context.Context) error {
			for head, err := range s.Heads(ctx, a.Organization) {
				if err != nil {
					return err
				}
				found.heads = append(found.heads, head)
			}
			return nil
		},
	}, func(ctx context.Context, walk func(context.Context) error) error { return walk(ctx) })
	if err != nil {
		return survey{}, fmt.Errorf("secrets of an organisation: %w", err)
	}
	return found, nil
}

func (s *Secrets) surveyReach(ctx context.Context, a machine.Access) (survey, error) {
	inProjects, direct := a.Reach()
	projects, heads := newFound[Project](), newFound[Head]()
	err := projects.fetch(ctx, s.projects, inProjects)
	if err == nil {
		err = each(ctx, inProjects, func(ctx context.Context, id string) error {
			for head, err := range s.heads.ByLookup(ctx, id) {
				if err != nil {
					return err
				}
				heads.add(head)
			}
			return nil
		})
	}
	if err == nil {
		err = heads.fetch(ctx, s.heads, direct)
	}
	if err != nil {
		return survey{}, fmt.Errorf("secrets of a machine: %w", err)
	}
	var found survey
	for _, head := range heads.records {
		found.heads = append(found.heads, head)
	}
	if found.projects, err = s.projectsOf(ctx, found.heads, projects.records); err != nil {
		return survey{}, err
	}
	return found, nil
}

// readable gives what of a survey the caller may read.
func (f survey) readable(a machine.Access) []View {
	var views []View
	for _, head := range f.heads {
		if head.Value.Organization != a.Organization || head.Value.Trashed != nil {
			continue
		}
		if view := see(a, head, f.projects); view.Rights.Read {
			views = append(views, view)
		}
	}
	sortByRevision(views)
	return views
}

func sortByRevision(views []View) {
	slices.SortFunc(views, func(a, b View) int {
		return cmp.Or(a.Head.Value.Revised.Compare(b.Head.Value.Revised), cmp.Compare(a.Head.ID, b.Head.ID))
	})
}

// pick gives the secrets with these ids, in their order, to a caller who need
// not have any right on them. All exist, and all are of one organisation; else
// it is NotFound.
func (s *Secrets) pick(ctx context.Context, c machine.Caller, ids []string) (machine.Access, []View, error) {
	heads := newFound[Head]()
	if err := heads.fetch(ctx, s.heads, ids); err != nil {
		return machine.Access{}, nil, fmt.Errorf("secrets: %w", err)
	}
	ordered := make([]store.Record[Head], len(ids))
	for i, id := range ids {
		head, ok := heads.records[id]
		if !ok || head.Value.Trashed != nil || head.Value.Organization != heads.records[ids[0]].Value.Organization {
			return machine.Access{}, nil, machine.NotFound()
		}
		ordered[i] = head
	}
	a, err := c.In(ordered[0].Value.Organization)
	if err != nil {
		return machine.Access{}, nil, err
	}
	projects, err := s.projectsOf(ctx, ordered, nil)
	if err != nil {
		return machine.Access{}, nil, err
	}
	views := make([]View, len(ids))
	for i, head := range ordered {
		views[i] = see(a, head, projects)
	}
	return a, views, nil
}

// reach gives one secret without its value, to a caller who needs these rights
// on it.
func (s *Secrets) reach(ctx context.Context, c machine.Caller, id string, need machine.Rights) (machine.Access, View, error) {
	a, views, err := s.pick(ctx, c, []string{id})
	if err == nil {
		err = mustCover(a, views[0].Rights, need)
	}
	if err != nil {
		return machine.Access{}, View{}, err
	}
	return a, views[0], nil
}

// opened is a secret with what belongs to it, read together.
type opened struct {
	machine.Access
	Secret
	// projects holds the secret's and the others that were asked for.
	projects map[string]store.Record[Project]
}

// open reads a secret in two calls of the store, for a caller who needs these
// rights on it. Somebody's write may come between the two, which is a Conflict:
// it is called by store.Retry.
func (s *Secrets) open(ctx context.Context, c machine.Caller, id string, need machine.Rights, projects ...string) (opened, error) {
	head, err := s.heads.Get(ctx, id)
	if err != nil {
		return opened{}, fmt.Errorf("secret: %w", err)
	}
	if head.Value.Trashed != nil {
		return opened{}, machine.NotFound()
	}
	o := opened{projects: map[string]store.Record[Project]{}}
	if o.Access, err = c.In(head.Value.Organization); err != nil {
		return opened{}, err
	}
	keys := []store.Key{s.contents.Key(head.Value.Content)}
	for _, project := range slices.Concat(projects, []string{head.Lookup}) {
		if key := s.projects.Key(project); project != "" && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	docs, err := s.store.GetMany(ctx, keys)
	if err != nil {
		return opened{}, fmt.Errorf("secret: %w", err)
	}
	var content *Content
	for _, doc := range docs {
		if doc.Collection == s.contents.Name() {
			record, err := s.contents.Decode(doc)
			if err != nil {
				return opened{}, fmt.Errorf("secret: %w", err)
			}
			content = &record.Value
			continue
		}
		record, err := s.projects.Decode(doc)
		if err != nil {
			return opened{}, fmt.Errorf("secret: %w", err)
		}
		if record.Parent == o.Organization {
			o.projects[record.ID] = record
		}
	}
	o.View = see(o.Access, head, o.projects)
	if err := mustCover(o.Access, o.Rights, need); err != nil {
		return opened{}, err
	}
	if content == nil {
		return opened{}, s.withoutContent(ctx, head)
	}
	o.Content = *content
	return o, nil
}

// withoutContent says what it means that a head names a content that is not
// there: mostly that the secret was changed or deleted just now.
func (s *Secrets) withoutContent(ctx context.Context, head store.Record[Head]) error {
	again, err := s.heads.Get(ctx, head.ID)
	switch {
	case err != nil:
		return fmt.Errorf("secret: %w", err)
	case again.Revision != head.Revision:
		return fmt.Errorf("secret: %w: it was changed while it was read", fault.Conflict)
	default:
		return fmt.Errorf("secret: %w: the content that %s names is not there", fault.Lost, head.ID)
	}
}

// Get gives one secret.
func (s *Secrets) Get(ctx context.Context, c machine.Caller, id string) (Secret, error) {
	o, err := s.get(ctx, c, id)
	if err != nil {
		return Secret{}, err
	}
	s.machines.Done(ctx, o.Access, machine.SecretRetrieved, "", "", id)
	return o.Secret, nil
}

func (s *Secrets) get(ctx context.Context, c machine.Caller, id string) (o opened, err error) {
	err = store.Retry(ctx, func() error {
		o, err = s.open(ctx, c, id, machine.ToRead)
		return err
	})
	return o, err
}
