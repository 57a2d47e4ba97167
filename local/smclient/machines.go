package smclient

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/latchkey-fn/latchkey/local/apiclient"
)

// Machine is a machine account, its name decrypted.
type Machine struct {
	ID                string    `json:"id"`
	Organization      string    `json:"organizationId"`
	Name              string    `json:"name"`
	Created           time.Time `json:"creationDate"`
	Revised           time.Time `json:"revisionDate"`
	MayCreateProjects bool      `json:"mayCreateProjects"`
	// AccessToSecrets is how many secrets it reaches; lists alone tell it.
	AccessToSecrets int `json:"accessToSecrets"`
}

type machineObject struct {
	belonging
	Name              string `json:"name"`
	MayCreateProjects *bool  `json:"mayCreateProjects"` // absent from the original: every machine may
	AccessToSecrets   int    `json:"accessToSecrets"`
}

func (machineObject) required() []string {
	return []string{"id", "organizationId", "name", "creationDate", "revisionDate"}
}

func (o machineObject) open(v vault) (Machine, error) {
	name, err := v.key.Decrypt(o.Name)
	return Machine{
		ID: o.ID, Organization: o.OrganizationID, Name: name, Created: o.CreationDate, Revised: o.RevisionDate,
		MayCreateProjects: o.MayCreateProjects == nil || *o.MayCreateProjects, AccessToSecrets: o.AccessToSecrets,
	}, err
}

// machineBody is what is sent of a machine account.
type machineBody struct {
	Name              string `json:"name"`
	MayCreateProjects *bool  `json:"mayCreateProjects,omitempty"`
}

func (c *Client) machines(ctx context.Context) ([]machineObject, error) {
	organization, err := c.Organization(ctx)
	if err != nil {
		return nil, err
	}
	return getList[machineObject](ctx, c, apiclient.Request{
		Doing: "list the machine accounts",
		Path:  []string{"organizations", organization, "service-accounts"}, Query: map[string][]string{"includeAccessToSecrets": {"true"}},
	})
}

// Machines lists the machine accounts. Those that cannot be decrypted are left
// out, and are what the error is about.
func (c *Client) Machines(ctx context.Context) ([]Machine, error) {
	v, err := c.unlock(ctx)
	if err != nil {
		return nil, err
	}
	objects, err := c.machines(ctx)
	if err != nil {
		return nil, err
	}
	return openAll("machine account", objects, v)
}

// MachineIDs lists them by their ids alone, for which no key is needed.
func (c *Client) MachineIDs(ctx context.Context) ([]string, error) {
	objects, err := c.machines(ctx)
	ids := make([]string, len(objects))
	for i, o := range objects {
		ids[i] = o.ID
	}
	return ids, err
}

// Machine reads one machine account.
func (c *Client) Machine(ctx context.Context, id string) (Machine, error) {
	return getOpen[machineObject](ctx, c, apiclient.Request{
		Doing: "read machine account " + id, Path: []string{"service-accounts", id},
	})
}

// CreateMachine makes a machine account, which reaches nothing yet.
func (c *Client) CreateMachine(ctx context.Context, name string, mayCreateProjects bool) (Machine, error) {
	organization, err := c.Organization(ctx)
	if err != nil {
		return Machine{}, err
	}
	return c.putMachine(ctx, name, &mayCreateProjects, apiclient.Request{
		Doing: "create a machine account", Method: http.MethodPost, Path: []string{"organizations", organization, "service-accounts"},
	})
}

// RenameMachine gives a machine account another name.
func (c *Client) RenameMachine(ctx context.Context, id, name string) (Machine, error) {
	return c.putMachine(ctx, name, nil, apiclient.Request{
		Doing: "rename machine account " + id, Method: http.MethodPut, Path: []string{"service-accounts", id}, Again: true,
	})
}

func (c *Client) putMachine(ctx context.Context, name string, mayCreateProjects *bool, r apiclient.Request) (Machine, error) {
	name, err := trimmed("the machine account's name", name, maxName)
	if err != nil {
		return Machine{}, err
	}
	v, err := c.unlock(ctx)
	if err != nil {
		return Machine{}, err
	}
	r.Body = machineBody{v.key.Encrypt(name), mayCreateProjects}
	return getOpen[machineObject](ctx, c, r)
}

// DeleteMachines deletes machine accounts with their access tokens.
func (c *Client) DeleteMachines(ctx context.Context, ids ...string) error {
	return doEach(ctx, c, apiclient.Request{Doing: "delete machine accounts", Method: http.MethodPost, Path: []string{"service-accounts", "delete"}, Body: ids})
}

// Grant lets a machine account read a project, and perhaps write.
type Grant struct {
	Project string `json:"projectId"`
	Name    string `json:"projectName"`
	Write   bool   `json:"write"`
}

type grantsObject struct {
	Policies []struct {
		Policy struct {
			Project string `json:"grantedProjectId"`
			Name    string `json:"grantedProjectName"`
			Read    bool   `json:"read"`
			Write   bool   `json:"write"`
		} `json:"accessPolicy"`
	} `json:"grantedProjectPolicies"`
}

func (grantsObject) required() []string { return []string{"grantedProjectPolicies"} }

func (o grantsObject) open(v vault) ([]Grant, error) {
	grants := []Grant{}
	for _, p := range o.Policies {
		name, err := v.key.Decrypt(p.Policy.Name)
		if err != nil {
			return nil, fmt.Errorf("the name of project %s: %w", p.Policy.Project, err)
		}
		grants = append(grants, Grant{p.Policy.Project, name, p.Policy.Write})
	}
	return grants, nil
}

func (grantsObject) identifier() string { return "" }

// Grants lists the projects that a machine account reaches.
func (c *Client) Grants(ctx context.Context, machine string) ([]Grant, error) {
	return getOpen[grantsObject](ctx, c, apiclient.Request{
		Doing: "read what machine account " + machine + " reaches",
		Path:  []string{"service-accounts", machine, "granted-policies"},
	})
}

type grantRequest struct {
	GrantedID string `json:"grantedId"`
	Read      bool   `json:"read"`
	Write     bool   `json:"write"`
}

// SetGrants gives a machine account exactly these projects. The names are not
// looked at.
func (c *Client) SetGrants(ctx context.Context, machine string, grants []Grant) ([]Grant, error) {
	requests := []grantRequest{}
	for _, g := range grants {
		requests = append(requests, grantRequest{g.Project, true, g.Write})
	}
	return getOpen[grantsObject](ctx, c, apiclient.Request{
		Doing: "set what machine account " + machine + " reaches", Method: http.MethodPut, Again: true,
		Path: []string{"service-accounts", machine, "granted-policies"},
		Body: struct {
			Requests []grantRequest `json:"projectGrantedPolicyRequests"`
		}{requests},
	})
}

// Without gives the grants but for those of certain projects.
func Without(grants []Grant, projects ...string) []Grant {
	return slices.DeleteFunc(slices.Clone(grants), func(g Grant) bool { return slices.Contains(projects, g.Project) })
}
