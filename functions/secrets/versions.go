package secrets

import (
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

func (h *handler) listVersions(r smapi.Request) (any, error) {
	id, err := r.ID("id")
	if err != nil {
		return nil, err
	}
	versions, err := h.secrets.Versions(r.Context(), r.Caller, id)
	if err != nil {
		return nil, err
	}
	answers, size := make([]versionAnswer, len(versions)), 0
	for i, v := range versions {
		answers[i] = answerVersion(v)
		size += perVersion + len(v.Value.Value)
	}
	return smapi.NewList(answers), h.fits(size)
}

func (h *handler) getVersion(r smapi.Request) (any, error) {
	id, err := r.ID("id")
	if err != nil {
		return nil, err
	}
	selection, err := h.secrets.SelectVersions(r.Context(), r.Caller, []string{id})
	if err != nil {
		return nil, err
	}
	for version, err := range selection.Read(r.Context()) {
		return answerVersion(version), err
	}
	return nil, machine.NotFound() // deleted just now
}

func (h *handler) getVersions(r smapi.Request) (any, error) {
	ids, err := readDifferentIDs(r)
	if err != nil {
		return nil, err
	}
	selection, err := h.secrets.SelectVersions(r.Context(), r.Caller, ids)
	if err != nil {
		return nil, err
	}
	size := selection.Len()*perVersion + selection.Size()
	return stream(beginList, as(selection.Read(r.Context()), answerVersion), endList), h.fits(size)
}

type restoreRequest struct {
	VersionID string `json:"versionId"`
}

func (h *handler) restoreVersion(r smapi.Request) (any, error) {
	id, err := r.ID("id")
	if err != nil {
		return nil, err
	}
	var body restoreRequest
	if err := read(r, maxSecret, &body); err != nil {
		return nil, err
	}
	version, err := smapi.IDs([]string{body.VersionID})
	if err != nil {
		return nil, err
	}
	var restored secret.Secret
	if restored, err = h.secrets.RestoreVersion(r.Context(), r.Caller, id, version[0]); err != nil {
		return nil, err
	}
	return answerSecret(restored), nil
}

func (h *handler) deleteVersions(r smapi.Request) (any, error) {
	ids, _, err := readIDs(r)
	if err != nil {
		return nil, err
	}
	results, err := h.secrets.DeleteVersions(r.Context(), r.Caller, ids)
	if err != nil {
		return nil, err
	}
	return answerResults(r, results), nil
}
