package secret

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Every write of a secret is: first a content, under an id of its own, which
// nobody sees; then one compare-and-swap of the head, which is when it happens;
// then what no head names any more is deleted, if that can be. What breaks off
// in between leaves contents that count for nothing, until the secret is purged.

const (
	// tidyTime bounds what is done after a request's own time is over.
	tidyTime = 5 * time.Second
	// departureSlack is how long after a request's end its last write can
	// still arrive.
	departureSlack = 5 * time.Second
	// departureTime is how long after a request's beginning that is, where
	// nothing bounds the request.
	departureTime = 30 * time.Second
	// departureLife is how long departures are kept: a machine that did not sync
	// for longer is told to anyway.
	departureLife = 90 * 24 * time.Hour
)

// Values are what a secret is made of, or made into.
type Values struct {
	Key, Value, Note string // EncStrings
	// Projects is the one that it is in, or none.
	Projects []string
	// KeepVersion tells whether the former value remains as a version. Nil: where
	// the new one is another.
	KeepVersion *bool
	// Policies are those on the secret itself. Nil: as they are.
	Policies *Policies
}

func (v Values) check() error {
	fields := machine.Fields{}
	fields.EncString("Key", v.Key, machine.MaxName)
	fields.EncString("Value", v.Value, machine.MaxValue)
	fields.EncString("Note", v.Note, machine.MaxNote)
	if err := fields.Problem(); err != nil {
		return err
	}
	if len(v.Projects) > 1 {
		return machine.Invalid("Only one project assignment is supported.")
	}
	if v.Policies != nil {
		return v.Policies.People.Check()
	}
	return nil
}

// project is the id of the one project; empty: none.
func (v Values) project() string {
	if len(v.Projects) == 0 {
		return ""
	}
	return v.Projects[0]
}

// Create makes a secret. Machines and members make it in a project that they may
// write to.
func (s *Secrets) Create(ctx context.Context, a machine.Access, v Values) (Secret, error) {
	if err := v.check(); err != nil {
		return Secret{}, err
	}
	projects := map[string]store.Record[Project]{}
	if id := v.project(); id != "" {
		project, err := s.Project(ctx, id)
		if err != nil {
			return Secret{}, err
		}
		projects[id] = project
	}
	if err := mayPlace(a, v.project(), projects); err != nil {
		return Secret{}, err
	}
	head := store.Record[Head]{ID: uuid.NewString(), Parent: a.Organization, Lookup: v.project()}
	if err := s.setPolicies(ctx, a, &head, v.Policies); err != nil {
		return Secret{}, err
	}
	head.Value.Organization, head.Value.Key, head.Value.Created = a.Organization, v.Key, s.now().UTC()
	content := s.content(a, v.Value, v.Note)
	head, err := s.write(ctx, head, &content, store.Absent())
	if err != nil {
		return Secret{}, err
	}
	s.machines.Done(ctx, a, machine.SecretCreated, "", "", head.ID)
	return Secret{see(a, head, projects), content}, nil
}

// mayPlace asks whether the caller may put a secret into a project; nowhere is
// for administrators.
func mayPlace(a machine.Access, id string, projects map[string]store.Record[Project]) error {
	if id == "" {
		if a.IsAdmin() {
			return nil
		}
		return a.WhyNot()
	}
	project, ok := projects[id]
	if !ok || project.Parent != a.Organization {
		return machine.NotFound()
	}
	return mustCover(a, seeProject(a, project).Rights, machine.ToWrite)
}

// Edit changes a secret.
func (s *Secrets) Edit(ctx context.Context, c machine.Caller, id string, v Values) (Secret, error) {
	if err := v.check(); err != nil {
		return Secret{}, err
	}
	var o opened
	err := store.Retry(ctx, func() (err error) {
		if o, err = s.open(ctx, c, id, machine.ToWrite, v.Projects...); err != nil {
			return err
		}
		return s.edit(ctx, &o, v)
	})
	if err != nil {
		return Secret{}, err
	}
	s.machines.Done(ctx, o.Access, machine.SecretEdited, "", "", id)
	return o.Secret, nil
}

func (s *Secrets) edit(ctx context.Context, o *opened, v Values) error {
	head, moves := o.Head, v.project() != o.projectID()
	if moves {
		if err := mayPlace(o.Access, v.project(), o.projects); err != nil {
			return err
		}
	}
	if err := s.setPolicies(ctx, o.Access, &head, v.Policies); err != nil {
		return err
	}
	if moves {
		if err := s.depart(ctx, head, s.latest(ctx)); err != nil {
			return err
		}
	}
	head.Lookup, head.Value.Key = v.project(), v.Key

	same := v.Value == o.Content.Value
	keep := !same
	if v.KeepVersion != nil {
		keep = *v.KeepVersion
	}
	if same && !keep && v.Note == o.Content.Note {
		return s.swap(ctx, o, head, nil, keep)
	}
	content := s.content(o.Access, v.Value, v.Note)
	if same && !keep { // who wrote the value, and when, is as before
		content.Created, content.Machine, content.User = o.Content.Created, o.Content.Machine, o.Content.User
	}
	return s.swap(ctx, o, head, &content, keep)
}

// swap replaces an opened secret, and its content where there is a new one, of
// which the one before remains as a version if it is to be kept.
func (s *Secrets) swap(ctx context.Context, o *opened, head store.Record[Head], content *Content, keep bool) error {
	var unnamed []string
	if content != nil {
		history := slices.Clone(head.Value.History)
		if keep {
			history = append(history, head.Value.Content)
		} else {
			unnamed = append(unnamed, head.Value.Content)
		}
		most := max(0, len(history)-maxHistory)
		unnamed = append(unnamed, history[:most]...)
		head.Value.History = history[most:]
	}
	head, err := s.write(ctx, head, content, store.AtRevision(head.Revision))
	if err != nil {
		return err
	}
	s.discard(ctx, unnamed)
	if content != nil {
		o.Content = *content
	}
	o.View = see(o.Access, head, o.projects)
	return nil
}

// content is a new value, by whom.
func (s *Secrets) content(a machine.Access, value, note string) Content {
	return Content{
		Organization: a.Organization, Value: value, Note: note, Created: s.now().UTC(),
		Machine: a.Machine(), User: a.Subject(),
	}
}

// write stores a head, and first its content where that is new.
func (s *Secrets) write(ctx context.Context, head store.Record[Head], content *Content, pre store.Precondition) (store.Record[Head], error) {
	if content != nil {
		head.Value.Content, head.Value.Size = uuid.NewString(), len(content.Value)+len(content.Note)
		record := store.Record[Content]{ID: head.Value.Content, Parent: head.ID, Value: *content}
		if _, err := s.contents.Put(ctx, record, store.Absent()); err != nil {
			return head, fmt.Errorf("content of a secret: %w", err)
		}
	}
	head.Value.Revised = s.now().UTC()
	revision, err := s.heads.Put(ctx, head, pre)
	if err != nil {
		if content != nil && certainlyUnwritten(err) {
			s.discard(ctx, []string{head.Value.Content})
		}
		return head, fmt.Errorf("secret: %w", err)
	}
	head.Revision = revision
	return head, nil
}

// certainlyUnwritten tells whether a failed write can not have happened, and
// will not happen yet. A content is deleted only then: of an acknowledgement
// that was lost nobody knows whether the head names it.
func certainlyUnwritten(err error) bool {
	class := fault.Of(err)
	return class == fault.Conflict || class == fault.Invalid
}

// discard deletes contents that no head names. Where that fails they go when
// the secret is purged.
func (s *Secrets) discard(ctx context.Context, contents []string) {
	if len(contents) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
	defer cancel()
	err := each(ctx, contents, func(ctx context.Context, id string) error {
		return unlessGone(s.contents.Delete(ctx, id, store.Any()))
	})
	if err != nil {
		s.logger.WarnContext(ctx, "contents that no secret names could not be deleted", slog.String("error", err.Error()))
	}
}

// depart notes that a secret leaves its project, or is certainly out of it by a
// time. It is noted before it happens, so that nobody misses it.
func (s *Secrets) depart(ctx context.Context, head store.Record[Head], until time.Time) error {
	if head.Lookup == "" {
		return nil
	}
	_, err := s.departures.Put(ctx, store.Record[Departure]{
		ID: head.Lookup + "/" + head.ID, Parent: head.Lookup, Expires: until.Add(departureLife), Value: Departure{Until: until},
	}, store.Any())
	if err != nil {
		return fmt.Errorf("departure of a secret: %w", err)
	}
	return nil
}

// latest is when whatever this request writes has been written.
func (s *Secrets) latest(ctx context.Context) time.Time {
	now := s.now().UTC()
	remaining := departureTime
	if deadline, ok := ctx.Deadline(); ok {
		remaining = time.Until(deadline)
	}
	return now.Add(remaining + departureSlack)
}
