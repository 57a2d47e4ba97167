package secrets

import (
	"log/slog"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/httpx"
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

func (h *handler) listProjects(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	projects, err := h.secrets.ListProjects(r.Context(), a)
	if err != nil {
		return nil, err
	}
	answers := make([]projectAnswer, len(projects))
	for i, p := range projects {
		answers[i] = answerProject(p)
	}
	return smapi.NewList(answers), nil
}

type projectRequest struct {
	Name string `json:"name"`
}

func (h *handler) createProject(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	var body projectRequest
	if err := read(r, maxSecret, &body); err != nil {
		return nil, err
	}
	project, err := h.secrets.CreateProject(r.Context(), a, body.Name)
	if err != nil {
		return nil, err
	}
	return answerProject(project), nil
}

func (h *handler) getProject(r smapi.Request) (any, error) {
	id, err := r.ID("id")
	if err != nil {
		return nil, err
	}
	project, err := h.secrets.GetProject(r.Context(), r.Caller, id)
	if err != nil {
		return nil, err
	}
	return answerProject(project), nil
}

func (h *handler) putProject(r smapi.Request) (any, error) {
	id, err := r.ID("id")
	if err != nil {
		return nil, err
	}
	var body projectRequest
	if err := read(r, maxSecret, &body); err != nil {
		return nil, err
	}
	project, err := h.secrets.EditProject(r.Context(), r.Caller, id, body.Name)
	if err != nil {
		return nil, err
	}
	return answerProject(project), nil
}

func (h *handler) deleteProjects(r smapi.Request) (any, error) {
	ids, _, err := readIDs(r)
	if err != nil {
		return nil, err
	}
	results, err := h.secrets.DeleteProjects(r.Context(), r.Caller, ids)
	if err != nil {
		return nil, err
	}
	return answerResults(r, results), nil
}

// answerResults says of each thing whether it was deleted. What could not be for
// a fault of ours can be tried again, by itself.
func answerResults(r smapi.Request, results []secret.Result) smapi.List[smapi.BulkResult] {
	answers := make([]smapi.BulkResult, len(results))
	for i, result := range results {
		problem := ""
		switch {
		case fault.Of(result.Err) == fault.Forbidden:
			problem = smapi.AccessDenied
		case result.Err != nil:
			problem = "It could not be deleted at the moment. Please try again."
			httpx.Note(r.Context(), slog.String("failed", result.ID), slog.String("error", result.Err.Error()))
		}
		answers[i] = smapi.NewBulkResult(result.ID, problem)
	}
	return smapi.NewList(answers)
}
