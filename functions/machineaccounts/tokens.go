package machineaccounts

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// defaultGrace is how long a client secret stays good after its rotation where
// the request does not say.
const defaultGrace = 24 * time.Hour

// tokenAnswer is an access token as it is listed: from revokedDate on, the
// members are not the original's.
type tokenAnswer struct {
	ID              string     `json:"id"`
	Name            string     `json:"name"`
	Scopes          []string   `json:"scopes"`
	ExpireAt        *time.Time `json:"expireAt"`
	CreationDate    time.Time  `json:"creationDate"`
	RevisionDate    time.Time  `json:"revisionDate"`
	RevokedDate     *time.Time `json:"revokedDate"`
	RevokedBy       *string    `json:"revokedBy"`
	LastUsedDate    *time.Time `json:"lastUsedDate"`
	LastUsedAddress *string    `json:"lastUsedAddress"`
	CreatedBy       string     `json:"createdBy"`
	ReadOnly        bool       `json:"readOnly"`
	ProjectIDs      []string   `json:"projectIds"`
	Object          string     `json:"object"`
}

func answerToken(r store.Record[machine.Token], used map[string]machine.Use) tokenAnswer {
	t := r.Value
	answer := tokenAnswer{
		ID: r.ID, Name: t.Name, Scopes: []string{smapi.SessionScope}, ExpireAt: optional(t.Expires),
		CreationDate: t.Created, RevisionDate: t.Revised, CreatedBy: t.CreatedBy,
		ReadOnly: t.ReadOnly, ProjectIDs: append([]string{}, t.Projects...), Object: "accessToken",
	}
	if t.Revoked != nil {
		answer.RevokedDate, answer.RevokedBy = optional(t.Revoked.At), &t.Revoked.By
	}
	if use, ok := used[r.ID]; ok {
		answer.LastUsedDate, answer.LastUsedAddress = optional(use.At), &use.Address
	}
	return answer
}

// listTokens leaves out what was revoked, which the original would have deleted,
// unless it is asked for.
func (h *handler) listTokens(r smapi.Request) (any, error) {
	_, account, err := h.account(r, machine.ToRead)
	if err != nil {
		return nil, err
	}
	revokedToo := r.URL.Query().Get("includeRevoked") == "true"
	var tokens []store.Record[machine.Token]
	var ids []string
	for token, err := range h.machines.Tokens(r.Context(), account.ID) {
		if err != nil {
			return nil, err
		}
		if revokedToo || token.Value.Revoked == nil {
			tokens, ids = append(tokens, token), append(ids, token.ID)
		}
	}
	used, err := h.machines.Uses(r.Context(), ids)
	if err != nil {
		return nil, err
	}
	var answers []tokenAnswer
	for _, token := range tokens {
		answers = append(answers, answerToken(token, used))
	}
	return smapi.NewList(answers), nil
}

type tokenRequest struct {
	Name             string   `json:"name"`
	EncryptedPayload string   `json:"encryptedPayload"`
	Key              string   `json:"key"`
	ExpireAt         *string  `json:"expireAt"`
	ReadOnly         bool     `json:"readOnly"`
	ProjectIDs       []string `json:"projectIds"`
}

// tokenCreation is the one answer with a client secret in it.
type tokenCreation struct {
	ID           string     `json:"id"`
	Name         string     `json:"name"`
	ClientSecret string     `json:"clientSecret"`
	ExpireAt     *time.Time `json:"expireAt"`
	CreationDate time.Time  `json:"creationDate"`
	RevisionDate time.Time  `json:"revisionDate"`
	Object       string     `json:"object"`
}

func answerCreation(r store.Record[machine.Token], clientSecret string) tokenCreation {
	return tokenCreation{
		ID: r.ID, Name: r.Value.Name, ClientSecret: clientSecret, ExpireAt: optional(r.Value.Expires),
		CreationDate: r.Value.Created, RevisionDate: r.Value.Revised, Object: "accessTokenCreation",
	}
}

func (h *handler) createToken(r smapi.Request) (any, error) {
	a, account, err := h.account(r, machine.ToWrite)
	if err != nil {
		return nil, err
	}
	var body tokenRequest
	if err := r.Read(&body); err != nil {
		return nil, err
	}
	fields := machine.Fields{}
	fields.EncString("name", body.Name, machine.MaxName)
	fields.EncString("encryptedPayload", body.EncryptedPayload, machine.MaxPayload)
	fields.EncString("key", body.Key, machine.MaxPayload)
	var expires *time.Time
	if body.ExpireAt != nil {
		at, err := time.Parse(time.RFC3339, *body.ExpireAt)
		if err != nil {
			fields["expireAt"] = []string{"The expireAt field is not a date such as 2027-01-31T12:00:00Z."}
		}
		expires = &at
	}
	if err := fields.Problem(); err != nil {
		return nil, err
	}
	limits, err := h.limits(r.Context(), a, body.ProjectIDs)
	if err != nil {
		return nil, err
	}
	token, clientSecret, err := h.machines.CreateToken(r.Context(), r.Caller, account.ID, machine.NewToken{
		Name: body.Name, Payload: body.EncryptedPayload, Key: body.Key, Expires: expires, ReadOnly: body.ReadOnly, Projects: limits,
	})
	if err != nil {
		return nil, err
	}
	return answerCreation(token, clientSecret), nil
}

// limits are the projects that a token is to be limited to. A misspelt one must
// not go unnoticed: it would make of the token one that reaches nothing.
func (h *handler) limits(ctx context.Context, a machine.Access, texts []string) ([]string, error) {
	ids, err := smapi.IDs(texts)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != len(texts) {
		return nil, machine.Invalid("Resources must be unique")
	}
	projects, err := h.projects(ctx, a)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if !projects[id].Read {
			return nil, machine.Invalid("There is no project %s in this organization.", id)
		}
	}
	return ids, nil
}

type rotateRequest struct {
	ClientSecret string `json:"clientSecret"`
	GraceSeconds *int64 `json:"graceSeconds"`
}

func (h *handler) rotateToken(r smapi.Request) (any, error) {
	var body rotateRequest
	if err := r.Read(&body); err != nil {
		return nil, err
	}
	grace := defaultGrace
	if body.GraceSeconds != nil {
		grace = seconds(*body.GraceSeconds)
	}
	token, clientSecret, err := h.machines.Rotate(r.Context(), r.Caller, body.ClientSecret, grace)
	if err != nil {
		return nil, err
	}
	return answerCreation(token, clientSecret), nil
}

// seconds makes a duration of a number of seconds, however great.
func seconds(n int64) time.Duration {
	const most = math.MaxInt64 / int64(time.Second)
	return time.Duration(max(-most, min(n, most))) * time.Second
}
