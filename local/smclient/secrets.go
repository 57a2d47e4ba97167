package smclient

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/latchkey-fn/latchkey/local/apiclient"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// batch is how many secrets are asked for at once. Where the host bounds what a
// function answers, the server refuses so many large ones.
const batch = 250

// Head is a secret without its value, as lists show it.
type Head struct {
	ID           string       `json:"id"`
	Organization string       `json:"organizationId"`
	Key          string       `json:"key"`
	Projects     []ProjectRef `json:"projects"`
	Created      time.Time    `json:"creationDate"`
	Revised      time.Time    `json:"revisionDate"`
	// Deleted is when it came into the trash, where the server tells it.
	Deleted *time.Time `json:"deletedDate,omitempty"`
	Read    bool       `json:"read"`
	Write   bool       `json:"write"`
}

// ProjectRef is a project that a secret is in.
type ProjectRef struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Secret is a secret with its value.
type Secret struct {
	Head
	Value config.Secret
	Note  config.Secret
}

type projectRefObject struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

type headObject struct {
	belonging
	Key      string             `json:"key"`
	Projects []projectRefObject `json:"projects"`
	Deleted  *time.Time         `json:"deletedDate"`
	Read     bool               `json:"read"`
	Write    bool               `json:"write"`
}

func (headObject) required() []string { return []string{"id", "organizationId", "key"} }

func (o headObject) open(v vault) (Head, error) {
	h := Head{
		ID: o.ID, Organization: o.OrganizationID, Created: o.CreationDate, Revised: o.RevisionDate,
		Deleted: o.Deleted, Read: o.Read, Write: o.Write, Projects: []ProjectRef{},
	}
	var err error
	if h.Key, err = v.key.Decrypt(o.Key); err != nil {
		return Head{}, fmt.Errorf("its key: %w", err)
	}
	for _, p := range o.Projects {
		name, err := v.key.Decrypt(p.Name)
		if err != nil {
			return Head{}, fmt.Errorf("the name of its project %s: %w", p.ID, err)
		}
		h.Projects = append(h.Projects, ProjectRef{p.ID, name})
	}
	return h, nil
}

type secretObject struct {
	headObject
	Value string `json:"value"`
	Note  string `json:"note"`
}

func (secretObject) required() []string {
	return []string{"id", "organizationId", "key", "value", "note", "creationDate", "revisionDate"}
}

func (o secretObject) open(v vault) (Secret, error) {
	head, err := o.headObject.open(v)
	if err != nil {
		return Secret{}, err
	}
	value, err := v.key.Decrypt(o.Value)
	if err != nil {
		return Secret{}, fmt.Errorf("its value: %w", err)
	}
	noteText, err := v.key.Decrypt(o.Note)
	if err != nil {
		return Secret{}, fmt.Errorf("its note: %w", err)
	}
	return Secret{Head: head, Value: config.Secret(value), Note: config.Secret(noteText)}, nil
}

// headList is the answer to lists of secrets.
type headList struct {
	Secrets  []json.RawMessage  `json:"secrets"`
	Projects []projectRefObject `json:"projects"`
}

func (headList) required() []string { return []string{"secrets", "projects"} }

// Secrets lists the secrets that can be reached, without their values. Those
// that cannot be decrypted are left out, and are what the error is about.
func (c *Client) Secrets(ctx context.Context) ([]Head, error) {
	organization, err := c.Organization(ctx)
	if err != nil {
		return nil, err
	}
	return c.heads(ctx, "list the secrets", "organizations", organization, "secrets")
}

// SecretsOf lists those of one project.
func (c *Client) SecretsOf(ctx context.Context, project string) ([]Head, error) {
	return c.heads(ctx, "list the secrets of project "+project, "projects", project, "secrets")
}

// Trash lists the secrets that were deleted and can be restored.
func (c *Client) Trash(ctx context.Context) ([]Head, error) {
	organization, err := c.Organization(ctx)
	if err != nil {
		return nil, err
	}
	return c.heads(ctx, "list the trash", "secrets", organization, "trash")
}

func (c *Client) heads(ctx context.Context, doing string, path ...string) ([]Head, error) {
	v, err := c.unlock(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := get[headList](ctx, c, apiclient.Request{Doing: doing, Path: path})
	if err != nil {
		return nil, err
	}
	objects, err := decodeAll[headObject](answer.Secrets, v.organization)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return openAll("secret", objects, v)
}

// Secret reads one secret.
func (c *Client) Secret(ctx context.Context, id string) (Secret, error) {
	return getOpen[secretObject](ctx, c, apiclient.Request{
		Doing: "read secret " + id, Path: []string{"secrets", id},
	})
}

// SecretsByIDs reads several secrets, in the order of their ids. It is NotFound
// where one of them cannot be reached.
func (c *Client) SecretsByIDs(ctx context.Context, ids []string) ([]Secret, error) {
	v, err := c.unlock(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]Secret, 0, len(ids))
	for part := range slices.Chunk(ids, batch) {
		secrets, err := c.part(ctx, v, part)
		if err != nil {
			return nil, err
		}
		all = append(all, secrets...)
	}
	return all, nil
}

// part reads secrets with one request, or, where the server refuses so many at
// once, with several.
func (c *Client) part(ctx context.Context, v vault, ids []string) ([]Secret, error) {
	const doing = "read secrets"
	objects, err := getList[secretObject](ctx, c, apiclient.Request{
		Doing: doing, Method: http.MethodPost, Path: []string{"secrets", "get-by-ids"}, Body: idList{ids}, Again: true,
	})
	if fault.Of(err) == fault.Invalid && len(ids) > 1 {
		first, err := c.part(ctx, v, ids[:len(ids)/2])
		if err != nil {
			return nil, err
		}
		second, err := c.part(ctx, v, ids[len(ids)/2:])
		return append(first, second...), err
	}
	if err != nil {
		return nil, err
	}
	secrets, err := openAll("secret", objects, v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	byID := map[string]Secret{}
	for _, s := range secrets {
		byID[s.ID] = s
	}
	ordered := make([]Secret, len(ids))
	for i, id := range ids {
		s, ok := byID[id]
		if !ok {
			return nil, fmt.Errorf("%s: %w: secret %s was left out", doing, apiclient.ErrAnswer, id)
		}
		ordered[i] = s
	}
	return ordered, nil
}

type idList struct {
	IDs []string `json:"ids"`
}

// Written is what a secret is to be.
type Written struct {
	Key, Value, Note string
	Project          string // its id; empty: none
}

func (w Written) check() (Written, error) {
	var err error
	if w.Key, err = trimmed("the secret's name", w.Key, maxName); err != nil {
		return w, err
	}
	if w.Value == "" {
		return w, fmt.Errorf("%w: the secret's value is empty", fault.Invalid)
	}
	w.Note = strings.TrimSpace(w.Note)
	if err := fits("the secret's value", w.Value, maxValue); err != nil {
		return w, err
	}
	return w, fits("the secret's note", w.Note, maxNote)
}

// secretBody is what is sent of a secret.
type secretBody struct {
	Key        string   `json:"key"`
	Value      string   `json:"value"`
	Note       string   `json:"note"`
	ProjectIDs []string `json:"projectIds,omitempty"`
	// ValueChanged keeps the former value as a version.
	ValueChanged *bool `json:"valueChanged,omitempty"`
}

func (w Written) seal(v vault) secretBody {
	b := secretBody{Key: v.key.Encrypt(w.Key), Value: v.key.Encrypt(w.Value), Note: v.key.Encrypt(w.Note)}
	if w.Project != "" {
		b.ProjectIDs = []string{w.Project}
	}
	return b
}

// CreateSecret makes a secret.
func (c *Client) CreateSecret(ctx context.Context, w Written) (Secret, error) {
	w, err := w.check()
	if err != nil {
		return Secret{}, err
	}
	v, err := c.unlock(ctx)
	if err != nil {
		return Secret{}, err
	}
	r := apiclient.Request{Doing: "create a secret", Method: http.MethodPost, Path: []string{"organizations", v.organization, "secrets"}, Body: w.seal(v)}
	if c.token != nil && w.Project == "" {
		r.Absent = "Machines create secrets in a project: --project."
	}
	return getOpen[secretObject](ctx, c, r)
}

// UpdateSecret makes a secret what is written; valueChanged tells that its value
// is another than before.
func (c *Client) UpdateSecret(ctx context.Context, id string, w Written, valueChanged bool) (Secret, error) {
	w, err := w.check()
	if err != nil {
		return Secret{}, err
	}
	v, err := c.unlock(ctx)
	if err != nil {
		return Secret{}, err
	}
	body := w.seal(v)
	body.ValueChanged = &valueChanged
	return getOpen[secretObject](ctx, c, apiclient.Request{
		Doing: "change secret " + id, Method: http.MethodPut, Path: []string{"secrets", id}, Body: body,
	})
}

// DeleteSecrets moves secrets into the trash.
func (c *Client) DeleteSecrets(ctx context.Context, ids ...string) error {
	return doEach(ctx, c, apiclient.Request{Doing: "delete secrets", Method: http.MethodPost, Path: []string{"secrets", "delete"}, Body: ids})
}

// RestoreSecrets takes secrets out of the trash.
func (c *Client) RestoreSecrets(ctx context.Context, ids ...string) error {
	return c.trash(ctx, "restore secrets", "restore", ids)
}

// PurgeSecrets deletes secrets in the trash for ever.
func (c *Client) PurgeSecrets(ctx context.Context, ids ...string) error {
	return c.trash(ctx, "purge secrets", "empty", ids)
}

func (c *Client) trash(ctx context.Context, doing, what string, ids []string) error {
	organization, err := c.Organization(ctx)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, apiclient.Request{Doing: doing, Method: http.MethodPost, Path: []string{"secrets", organization, "trash", what}, Body: ids})
	return err
}

// Version is a value that a secret had.
type Version struct {
	ID      string
	Value   config.Secret
	Date    time.Time
	Machine string // the service account that wrote it, or
	User    string // the person
}

type versionObject struct {
	ID       string    `json:"id"`
	SecretID string    `json:"secretId"`
	Value    string    `json:"value"`
	Date     time.Time `json:"versionDate"`
	Machine  *string   `json:"editorServiceAccountId"`
	User     *string   `json:"editorOrganizationUserId"`
}

func (versionObject) required() []string { return []string{"id", "secretId", "value", "versionDate"} }

func (o versionObject) identifier() string { return o.ID }

func (o versionObject) open(v vault) (Version, error) {
	value, err := v.key.Decrypt(o.Value)
	version := Version{ID: o.ID, Value: config.Secret(value), Date: o.Date}
	if o.Machine != nil {
		version.Machine = *o.Machine
	}
	if o.User != nil {
		version.User = *o.User
	}
	return version, err
}

// Versions lists the values that a secret had.
func (c *Client) Versions(ctx context.Context, secret string) ([]Version, error) {
	v, err := c.unlock(ctx)
	if err != nil {
		return nil, err
	}
	objects, err := getList[versionObject](ctx, c, apiclient.Request{
		Doing: "list the versions of secret " + secret, Path: []string{"secrets", secret, "versions"},
	})
	if err != nil {
		return nil, err
	}
	return openAll("version", objects, v)
}

// RestoreVersion gives a secret a value back that it had.
func (c *Client) RestoreVersion(ctx context.Context, secret, version string) error {
	_, err := c.do(ctx, apiclient.Request{
		Doing: "restore version " + version, Method: http.MethodPut, Path: []string{"secrets", secret, "versions", "restore"},
		Body: struct {
			VersionID string `json:"versionId"`
		}{version},
	})
	return err
}
