package smclient

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/latchkey-fn/latchkey/local/apiclient"
	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Transfer is all projects and secrets of an organisation, as they are exported
// and imported. Its texts are all encrypted, or all not.
type Transfer struct {
	Projects []TransferProject `json:"projects"`
	Secrets  []TransferSecret  `json:"secrets"`
}

// TransferProject is a project in a Transfer.
type TransferProject struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// TransferSecret is a secret in a Transfer.
type TransferSecret struct {
	ID         string   `json:"id"`
	Key        string   `json:"key"`
	Value      string   `json:"value"`
	Note       string   `json:"note"`
	ProjectIDs []string `json:"projectIds"`
}

func (Transfer) required() []string { return []string{"projects", "secrets"} }

// each gives the transfer with every text as the function makes it.
func (t Transfer) each(change func(string) (string, error)) (Transfer, error) {
	changed := Transfer{Projects: []TransferProject{}, Secrets: []TransferSecret{}}
	for _, p := range t.Projects {
		name, err := change(p.Name)
		if err != nil {
			return Transfer{}, fmt.Errorf("project %s: %w", p.ID, err)
		}
		changed.Projects = append(changed.Projects, TransferProject{p.ID, name})
	}
	for _, s := range t.Secrets {
		for _, text := range []*string{&s.Key, &s.Value, &s.Note} {
			var err error
			if *text, err = change(*text); err != nil {
				return Transfer{}, fmt.Errorf("secret %s: %w", s.ID, err)
			}
		}
		if s.ProjectIDs == nil {
			s.ProjectIDs = []string{}
		}
		changed.Secrets = append(changed.Secrets, s)
	}
	return changed, nil
}

// Decrypt gives a transfer of readable texts.
func (t Transfer) Decrypt(key encstring.Key) (Transfer, error) { return t.each(key.Decrypt) }

// Encrypt gives a transfer of encrypted texts.
func (t Transfer) Encrypt(key encstring.Key) (Transfer, error) {
	return t.each(func(text string) (string, error) {
		if encstring.Check(text) == nil {
			return "", fmt.Errorf("%w: its texts are encrypted already", fault.Invalid)
		}
		return key.Encrypt(text), nil
	})
}

// Export reads everything, encrypted as it is stored, and with decrypt set
// readable.
func (c *Client) Export(ctx context.Context, decrypt bool) (Transfer, error) {
	organization, err := c.Organization(ctx)
	if err != nil {
		return Transfer{}, err
	}
	const doing = "export"
	t, err := get[Transfer](ctx, c, apiclient.Request{Doing: doing, Path: []string{"sm", organization, "export"}})
	if err != nil || !decrypt {
		return t, err
	}
	v, err := c.unlock(ctx)
	if err != nil {
		return Transfer{}, err
	}
	t, err = t.Decrypt(v.key)
	if err != nil {
		return Transfer{}, fmt.Errorf("%s: %w", doing, err)
	}
	return t, nil
}

// ReadTransfer reads what Export gave, or Bitwarden's web vault. Its errors
// quote nothing.
func ReadTransfer(content []byte) (Transfer, error) {
	if !json.Valid(content) {
		return Transfer{}, fmt.Errorf("%w: it is not JSON", fault.Invalid)
	}
	t, err := decode[Transfer](content, "")
	if err != nil {
		return Transfer{}, fmt.Errorf("%w: it is not an export of projects and secrets", fault.Invalid)
	}
	return t, nil
}

// Imported is how much an import holds, and how much of that was there before: an
// import of the same encrypted file made it, or an earlier try of this one.
type Imported struct {
	Projects         int `json:"projects"`
	Secrets          int `json:"secrets"`
	ExistingProjects int `json:"existingProjects"`
	ExistingSecrets  int `json:"existingSecrets"`
}

func (Imported) required() []string {
	return []string{"projects", "secrets", "existingProjects", "existingSecrets"}
}

// Import adds projects and secrets. Of encrypted ones each text has to be under
// the organisation's key; readable ones are encrypted first.
//
// Of what is encrypted the server makes the same thing once: its ids come from
// the ciphertexts. So the request may be sent again, and so may an encrypted
// file; a readable one is encrypted anew by each call, and adds everything anew.
func (c *Client) Import(ctx context.Context, t Transfer, readable bool) (Imported, error) {
	_, sealed, err := c.bothForms(ctx, t, readable)
	if err != nil {
		return Imported{}, err
	}
	organization, err := c.Organization(ctx)
	if err != nil {
		return Imported{}, err
	}
	return get[Imported](ctx, c, apiclient.Request{
		Doing: doingImport, Method: http.MethodPost, Path: []string{"sm", organization, "import"}, Body: sealed, Again: true,
	})
}

// Namesakes counts the projects and the secrets of a transfer whose names exist
// already. An import makes a second one of each, but for those that an import of
// the same encrypted file made.
func (c *Client) Namesakes(ctx context.Context, t Transfer, readable bool) (projects, secrets int, err error) {
	plain, _, err := c.bothForms(ctx, t, readable)
	if err != nil {
		return 0, 0, err
	}
	thereProjects, err := c.Projects(ctx)
	if err != nil {
		return 0, 0, err
	}
	thereSecrets, err := c.Secrets(ctx)
	if err != nil {
		return 0, 0, err
	}
	projectNames, secretNames := map[string]bool{}, map[string]bool{}
	for _, p := range thereProjects {
		projectNames[p.Name] = true
	}
	for _, s := range thereSecrets {
		secretNames[s.Key] = true
	}
	for _, p := range plain.Projects {
		if projectNames[p.Name] {
			projects++
		}
	}
	for _, s := range plain.Secrets {
		if secretNames[s.Key] {
			secrets++
		}
	}
	return projects, secrets, nil
}

const doingImport = "import"

// bothForms gives a transfer readable and encrypted.
func (c *Client) bothForms(ctx context.Context, t Transfer, readable bool) (plain, sealed Transfer, err error) {
	v, err := c.unlock(ctx)
	if err != nil {
		return Transfer{}, Transfer{}, err
	}
	plain, sealed = t, t
	if readable {
		sealed, err = t.Encrypt(v.key)
	} else {
		plain, err = t.Decrypt(v.key)
	}
	if err != nil {
		return Transfer{}, Transfer{}, fmt.Errorf("%s: %w: %w", doingImport, fault.Invalid, err)
	}
	return plain, sealed, nil
}
