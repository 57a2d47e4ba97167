package secrets

import (
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

func (h *handler) listSecrets(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	views, err := h.secrets.List(r.Context(), a)
	if err != nil {
		return nil, err
	}
	return answerViews(views), h.fits(sizeOf(views, false))
}

func (h *handler) listSecretsOfProject(r smapi.Request) (any, error) {
	id, err := r.ID("id")
	if err != nil {
		return nil, err
	}
	views, err := h.secrets.ListIn(r.Context(), r.Caller, id)
	if err != nil {
		return nil, err
	}
	return answerViews(views), h.fits(sizeOf(views, false))
}

func (h *handler) getSecret(r smapi.Request) (any, error) {
	id, err := r.ID("id")
	if err != nil {
		return nil, err
	}
	found, err := h.secrets.Get(r.Context(), r.Caller, id)
	if err != nil {
		return nil, err
	}
	return answerSecret(found), nil
}

// getSecrets answers an empty list with an empty list, where the original has
// 404: it is what clients ask for where there is no secret.
func (h *handler) getSecrets(r smapi.Request) (any, error) {
	ids, err := readDifferentIDs(r)
	if err != nil {
		return nil, err
	}
	selection, err := h.secrets.Select(r.Context(), r.Caller, ids)
	if err != nil {
		return nil, err
	}
	return stream(beginList, as(selection.Read(r.Context()), answerBase), endList), h.fits(sizeOf(selection.Views, true))
}

// secretRequest creates or changes a secret.
type secretRequest struct {
	Key          string         `json:"key"`
	Value        string         `json:"value"`
	Note         string         `json:"note"`
	ProjectIDs   []string       `json:"projectIds"`
	ValueChanged *bool          `json:"valueChanged"`
	Policies     *policyRequest `json:"accessPoliciesRequests"`
}

func readSecret(r smapi.Request) (secret.Values, error) {
	var body secretRequest
	if err := read(r, maxSecret, &body); err != nil {
		return secret.Values{}, err
	}
	projects, err := smapi.IDs(body.ProjectIDs)
	if err != nil {
		return secret.Values{}, err
	}
	policies, err := body.Policies.parse()
	if err != nil {
		return secret.Values{}, err
	}
	return secret.Values{
		Key: body.Key, Value: body.Value, Note: body.Note, Projects: projects,
		KeepVersion: body.ValueChanged, Policies: policies,
	}, nil
}

func (h *handler) createSecret(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	values, err := readSecret(r)
	if err != nil {
		return nil, err
	}
	created, err := h.secrets.Create(r.Context(), a, values)
	if err != nil {
		return nil, err
	}
	return answerSecret(created), nil
}

func (h *handler) putSecret(r smapi.Request) (any, error) {
	id, err := r.ID("id")
	if err != nil {
		return nil, err
	}
	values, err := readSecret(r)
	if err != nil {
		return nil, err
	}
	edited, err := h.secrets.Edit(r.Context(), r.Caller, id, values)
	if err != nil {
		return nil, err
	}
	return answerSecret(edited), nil
}

func (h *handler) deleteSecrets(r smapi.Request) (any, error) {
	ids, _, err := readIDs(r)
	if err != nil {
		return nil, err
	}
	results, err := h.secrets.Delete(r.Context(), r.Caller, ids)
	if err != nil {
		return nil, err
	}
	return answerResults(r, results), nil
}
