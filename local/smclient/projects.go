package smclient

import (
	"context"
	"net/http"
	"time"

	"github.com/latchkey-fn/latchkey/local/apiclient"
)

// Project is a project, its name decrypted.
type Project struct {
	ID           string    `json:"id"`
	Organization string    `json:"organizationId"`
	Name         string    `json:"name"`
	Created      time.Time `json:"creationDate"`
	Revised      time.Time `json:"revisionDate"`
	Read         bool      `json:"read"`
	Write        bool      `json:"write"`
}

type projectObject struct {
	belonging
	Name  string `json:"name"`
	Read  bool   `json:"read"`
	Write bool   `json:"write"`
}

func (projectObject) required() []string {
	return []string{"id", "organizationId", "name", "creationDate", "revisionDate"}
}

func (o projectObject) open(v vault) (Project, error) {
	name, err := v.key.Decrypt(o.Name)
	return Project{
		ID: o.ID, Organization: o.OrganizationID, Name: name,
		Created: o.CreationDate, Revised: o.RevisionDate, Read: o.Read, Write: o.Write,
	}, err
}

// named is the body of whatever has only a name.
type named struct {
	Name string `json:"name"`
}

// Projects lists the projects that can be reached. Those that cannot be
// decrypted are left out, and are what the error is about.
func (c *Client) Projects(ctx context.Context) ([]Project, error) {
	v, err := c.unlock(ctx)
	if err != nil {
		return nil, err
	}
	objects, err := getList[projectObject](ctx, c, apiclient.Request{
		Doing: "list the projects", Path: []string{"organizations", v.organization, "projects"},
	})
	if err != nil {
		return nil, err
	}
	return openAll("project", objects, v)
}

// Project reads one project.
func (c *Client) Project(ctx context.Context, id string) (Project, error) {
	return getOpen[projectObject](ctx, c, apiclient.Request{
		Doing: "read project " + id, Path: []string{"projects", id},
	})
}

// CreateProject makes a project.
func (c *Client) CreateProject(ctx context.Context, name string) (Project, error) {
	return c.putProject(ctx, name, func(v vault) apiclient.Request {
		return apiclient.Request{Doing: "create a project", Method: http.MethodPost, Path: []string{"organizations", v.organization, "projects"}}
	})
}

// RenameProject gives a project another name.
func (c *Client) RenameProject(ctx context.Context, id, name string) (Project, error) {
	return c.putProject(ctx, name, func(vault) apiclient.Request {
		return apiclient.Request{Doing: "rename project " + id, Method: http.MethodPut, Path: []string{"projects", id}, Again: true}
	})
}

func (c *Client) putProject(ctx context.Context, name string, request func(vault) apiclient.Request) (Project, error) {
	name, err := trimmed("the project's name", name, maxName)
	if err != nil {
		return Project{}, err
	}
	v, err := c.unlock(ctx)
	if err != nil {
		return Project{}, err
	}
	r := request(v)
	r.Body = named{v.key.Encrypt(name)}
	return getOpen[projectObject](ctx, c, r)
}

// DeleteProjects deletes projects for ever; their secrets stay.
func (c *Client) DeleteProjects(ctx context.Context, ids ...string) error {
	return doEach(ctx, c, apiclient.Request{Doing: "delete projects", Method: http.MethodPost, Path: []string{"projects", "delete"}, Body: ids})
}
