package secrets

import (
	"bufio"
	"encoding/json"
	"io"
	"iter"
	"time"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// The objects of the original's answers. Clients fail without most members.

type projectAnswer struct {
	ID             string    `json:"id"`
	OrganizationID string    `json:"organizationId"`
	Name           string    `json:"name"`
	CreationDate   time.Time `json:"creationDate"`
	RevisionDate   time.Time `json:"revisionDate"`
	Read           bool      `json:"read"`
	Write          bool      `json:"write"`
	Object         string    `json:"object"`
}

func answerProject(p secret.ProjectView) projectAnswer {
	return projectAnswer{
		ID: p.ID, OrganizationID: p.Parent, Name: p.Value.Name, CreationDate: p.Value.Created, RevisionDate: p.Value.Revised,
		Read: p.Rights.Read, Write: p.Rights.Write, Object: "project",
	}
}

type projectName struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// nameProjects gives the one project of a secret, or none.
func nameProjects(project *store.Record[secret.Project]) []projectName {
	if project == nil {
		return []projectName{}
	}
	return []projectName{{project.ID, project.Value.Name}}
}

// listedSecret is a secret as lists have it: without its value.
type listedSecret struct {
	ID             string        `json:"id"`
	OrganizationID string        `json:"organizationId"`
	Key            string        `json:"key"`
	CreationDate   time.Time     `json:"creationDate"`
	RevisionDate   time.Time     `json:"revisionDate"`
	Projects       []projectName `json:"projects"`
	Read           bool          `json:"read"`
	Write          bool          `json:"write"`
	// DeletedDate is that of a secret in the trash.
	DeletedDate *time.Time `json:"deletedDate,omitempty"`
}

type secretsAnswer struct {
	Secrets  []listedSecret `json:"secrets"`
	Projects []projectName  `json:"projects"`
	Object   string         `json:"object"`
}

func answerViews(views []secret.View) secretsAnswer {
	answer := secretsAnswer{Secrets: make([]listedSecret, len(views)), Projects: []projectName{}, Object: "SecretsWithProjectsList"}
	named := map[string]bool{}
	for i, v := range views {
		projects := nameProjects(v.Project)
		answer.Secrets[i] = listedSecret{
			ID: v.Head.ID, OrganizationID: v.Head.Value.Organization, Key: v.Head.Value.Key,
			CreationDate: v.Head.Value.Created, RevisionDate: v.Head.Value.Revised,
			Projects: projects, Read: v.Rights.Read, Write: v.Rights.Write,
		}
		if trashed := v.Head.Value.Trashed; trashed != nil {
			answer.Secrets[i].DeletedDate = &trashed.At
		}
		for _, project := range projects {
			if !named[project.ID] {
				named[project.ID] = true
				answer.Projects = append(answer.Projects, project)
			}
		}
	}
	return answer
}

// baseSecret is a secret with its value, without the caller's rights.
type baseSecret struct {
	ID             string        `json:"id"`
	OrganizationID string        `json:"organizationId"`
	Key            string        `json:"key"`
	Value          string        `json:"value"`
	Note           string        `json:"note"`
	CreationDate   time.Time     `json:"creationDate"`
	RevisionDate   time.Time     `json:"revisionDate"`
	Projects       []projectName `json:"projects"`
	Object         string        `json:"object"`
}

func answerBase(s secret.Secret) baseSecret {
	return baseSecret{
		ID: s.Head.ID, OrganizationID: s.Head.Value.Organization, Key: s.Head.Value.Key, Value: s.Content.Value, Note: s.Content.Note,
		CreationDate: s.Head.Value.Created, RevisionDate: s.Head.Value.Revised,
		Projects: nameProjects(s.Project), Object: "baseSecret",
	}
}

type secretAnswer struct {
	baseSecret
	Read  bool `json:"read"`
	Write bool `json:"write"`
}

func answerSecret(s secret.Secret) secretAnswer {
	base := answerBase(s)
	base.Object = "secret"
	return secretAnswer{base, s.Rights.Read, s.Rights.Write}
}

type versionAnswer struct {
	ID           string    `json:"id"`
	SecretID     string    `json:"secretId"`
	Value        string    `json:"value"`
	VersionDate  time.Time `json:"versionDate"`
	EditorID     *string   `json:"editorServiceAccountId"`
	EditorUserID *string   `json:"editorOrganizationUserId"`
	Object       string    `json:"object"`
}

func answerVersion(v secret.Version) versionAnswer {
	optional := func(id string) *string {
		if id == "" {
			return nil
		}
		return &id
	}
	return versionAnswer{
		ID: v.ID, SecretID: v.Parent, Value: v.Value.Value, VersionDate: v.Value.Created,
		EditorID: optional(v.Value.Machine), EditorUserID: optional(v.Value.User), Object: "secretVersion",
	}
}

// as turns what is walked into answers.
func as[From, To any](items iter.Seq2[From, error], answer func(From) To) iter.Seq2[To, error] {
	return func(yield func(To, error) bool) {
		for item, err := range items {
			if !yield(answer(item), err) || err != nil {
				return
			}
		}
	}
}

// The texts around the elements of an answer that is streamed.
const (
	beginList = `{"data":[`
	endList   = `],"continuationToken":null,"object":"list"}`
)

// stream writes the JSON of items, as they come, between two texts.
func stream[T any](before string, items iter.Seq2[T, error], after string) smapi.Stream {
	return func(w io.Writer) error {
		out := bufio.NewWriter(w)
		separator := before
		for item, err := range items {
			if err != nil {
				return err
			}
			text, err := json.Marshal(item)
			if err != nil {
				return err
			}
			_, _ = out.WriteString(separator) // Flush gives the first error
			_, _ = out.Write(text)
			separator = ","
		}
		if separator == before {
			_, _ = out.WriteString(before)
		}
		_, _ = out.WriteString(after)
		return out.Flush()
	}
}

// What the answer of one thing measures at the most besides its texts, in bytes,
// and what there is around them.
const (
	perAnswer  = 100
	perProject = 60
	perSecret  = 400
	perVersion = 300
)

// fits refuses an answer that would be too large for the host.
func (h *handler) fits(size int) error {
	if h.maxAnswer == 0 || size <= h.maxAnswer {
		return nil
	}
	const mega = 1e6
	return machine.Invalid("The answer would have some %.1f MB, and this server can send %.1f MB at once. Please ask for fewer secrets, or for those of one project.",
		float64(size)/mega, float64(h.maxAnswer)/mega)
}

// sizeOf is what the answer of secrets measures at the most, with their values or
// without.
func sizeOf(views []secret.View, values bool) int {
	size := perAnswer
	named := map[string]bool{}
	for _, v := range views {
		size += perSecret + len(v.Head.Value.Key)
		if v.Project != nil {
			size += len(v.Project.Value.Name)
			if !values && !named[v.Project.ID] {
				named[v.Project.ID] = true
				size += perProject + len(v.Project.Value.Name)
			}
		}
		if values {
			size += v.Head.Value.Size
		}
	}
	return size
}
