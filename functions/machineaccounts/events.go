package machineaccounts

import (
	"net/url"
	"time"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

// eventsOfPage is how many events an answer holds.
const eventsOfPage = 50

// eventAnswer is an event as the web vault reads it; actor, accessTokenId and
// subjectId are not the original's.
type eventAnswer struct {
	Type             machine.Type `json:"type"`
	Date             time.Time    `json:"date"`
	OrganizationID   string       `json:"organizationId"`
	ServiceAccountID string       `json:"serviceAccountId"`
	ActingUserID     *string      `json:"actingUserId"`
	SecretID         *string      `json:"secretId"`
	ProjectID        *string      `json:"projectId"`
	IPAddress        string       `json:"ipAddress"`
	DeviceType       *int         `json:"deviceType"`
	Actor            string       `json:"actor"`
	AccessTokenID    *string      `json:"accessTokenId"`
	SubjectID        string       `json:"subjectId"`
	Object           string       `json:"object"`
}

func answerEvent(e machine.Event) eventAnswer {
	answer := eventAnswer{
		Type: e.Type, Date: e.Date, OrganizationID: e.Organization, ServiceAccountID: e.Account, IPAddress: e.Address,
		Actor: e.Actor, SubjectID: e.Subject, Object: "event",
	}
	if user, ok := e.User(); ok {
		answer.ActingUserID = &user
	}
	if e.Token != "" {
		answer.AccessTokenID = &e.Token
	}
	switch {
	case e.Type >= machine.SecretRetrieved && e.Type <= machine.SecretRestored:
		answer.SecretID = &e.Subject
	case e.Type >= machine.ProjectRetrieved && e.Type <= machine.ProjectDeleted:
		answer.ProjectID = &e.Subject
	}
	return answer
}

func (h *handler) listEvents(r smapi.Request) (any, error) {
	account, err := r.ID("id")
	if err != nil {
		return nil, err
	}
	values := r.URL.Query()
	from, err := moment(values, "start")
	if err != nil {
		return nil, err
	}
	to, err := moment(values, "end")
	if err != nil {
		return nil, err
	}
	page, err := h.machines.Events(r.Context(), r.Caller, machine.EventQuery{
		Account: account, From: from, To: to, After: values.Get("continuationToken"), Most: eventsOfPage,
	})
	if err != nil {
		return nil, err
	}
	var answers []eventAnswer
	for _, event := range page.Events {
		answers = append(answers, answerEvent(event))
	}
	list := smapi.NewList(answers)
	if page.Next != "" {
		list.ContinuationToken = &page.Next
	}
	return list, nil
}

// moment reads a date of the query; the zero time where it is not given.
func moment(values url.Values, name string) (time.Time, error) {
	text := values.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, machine.Invalid("%s is not a date such as 2027-01-31T12:00:00Z.", name)
	}
	return t, nil
}
