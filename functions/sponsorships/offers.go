package sponsorships

import (
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

// notSelfHosted is the official server's text.
const notSelfHosted = "Only allowed when not self hosted."

// cloudOnly is a route of the vendor's cloud.
func cloudOnly(smapi.Request) (any, error) { return nil, machine.Invalid(notSelfHosted) }

type offerRequest struct {
	Plan           *int   `json:"planSponsorshipType"`
	Email          string `json:"sponsoredEmail"`
	FriendlyName   string `json:"friendlyName"`
	AdminInitiated bool   `json:"isAdminInitiated"`
	Notes          string `json:"notes"`
}

// createOffer offers in the name of the caller, whose token's subject is the id
// of the organisation user. A member whom the provider tells of is a confirmed
// one.
func (h *handler) createOffer(r smapi.Request) (string, any, error) {
	a, err := r.Access("org")
	if err != nil {
		return "", nil, machine.Invalid(sponsor.ToOneself) // the original's word to strangers, too
	}
	var body offerRequest
	if err := r.Read(&body); err != nil {
		return "", nil, err
	}
	if body.Plan == nil {
		return "", nil, machine.Fields{"PlanSponsorshipType": {"The PlanSponsorshipType field is required."}}.Problem()
	}
	made, err := h.sync.CreateOffer(r.Context(), sponsor.NewOffer{
		Organization: a.Organization, Plan: *body.Plan, Email: body.Email, Name: body.FriendlyName, Notes: body.Notes,
		AdminInitiated: body.AdminInitiated,
		By:             sponsor.Member{ID: a.Subject(), Email: a.Email(), Confirmed: true, Manager: a.IsAdmin()},
	})
	if err != nil || !preferred(r.Header, "return=representation") {
		return made.ID, nil, err // the original's answer is empty
	}
	r.Answer.Set("Preference-Applied", "return=representation")
	return made.ID, answerOffer(made), nil
}

// preferred tells whether a request has a preference (RFC 7240, section 2).
func preferred(header http.Header, preference string) bool {
	for _, line := range header.Values("Prefer") {
		for one := range strings.SplitSeq(line, ",") {
			one, _, _ = strings.Cut(one, ";")
			if strings.EqualFold(strings.TrimSpace(one), preference) {
				return true
			}
		}
	}
	return false
}

func (h *handler) revokeOwn(r smapi.Request) (string, any, error) {
	a, err := r.Access("org")
	if err != nil {
		return "", nil, machine.Invalid(sponsor.UnknownMember)
	}
	id, err := h.sync.RevokeOwn(r.Context(), a.Organization, a.Subject())
	return id, nil, err
}

func (h *handler) revokeNamed(r smapi.Request) (string, any, error) {
	organization, err := h.admin(r)
	if err != nil {
		return "", nil, err
	}
	id, err := h.sync.RevokeNamed(r.Context(), organization, friendlyName(r.Context()))
	return id, nil, err
}

// sponsoredAnswer is an offer in the original's form.
type sponsoredAnswer struct {
	Object                  string     `json:"object"`
	OrganizationUserID      string     `json:"sponsoringOrganizationUserId"`
	FriendlyName            *string    `json:"friendlyName"`
	Email                   *string    `json:"offeredToEmail"`
	Plan                    int        `json:"planSponsorshipType"`
	LastSync                *time.Time `json:"lastSyncDate"`
	ValidUntil              *time.Time `json:"validUntil"`
	ToDelete                bool       `json:"toDelete"`
	AdminInitiated          bool       `json:"isAdminInitiated"`
	Notes                   *string    `json:"notes"`
	CloudSponsorshipRemoved bool       `json:"cloudSponsorshipRemoved"`
}

func answerSponsored(o sponsor.Offer) sponsoredAnswer {
	return sponsoredAnswer{
		Object: "organizationSponsorship", OrganizationUserID: o.Member, FriendlyName: optional(o.Name), Email: optional(o.Email),
		Plan: o.Plan, LastSync: o.LastSync, ValidUntil: o.ValidUntil, ToDelete: o.ToDelete, AdminInitiated: o.AdminInitiated, Notes: optional(o.Notes),
	}
}

func (h *handler) listSponsored(r smapi.Request) (any, error) {
	organization, err := h.admin(r)
	if err != nil {
		return nil, err
	}
	all := smapi.NewList([]sponsoredAnswer(nil))
	for o, err := range h.sync.Offers(r.Context(), organization, "") {
		if err != nil {
			return nil, err
		}
		if o.AdminInitiated {
			all.Data = append(all.Data, answerSponsored(o))
		}
	}
	return all, nil
}

// offerAnswer adds to the original's form how the offer is, in its words and in
// ours.
type offerAnswer struct {
	sponsoredAnswer
	ID     string       `json:"id"`
	Key    string       `json:"offerKey"`
	Status statusAnswer `json:"status"`
	State  string       `json:"state"`
	// PendingSince is null where nothing is waiting for a sync.
	PendingSince *time.Time `json:"pendingSince"`
	// FirstAttempt is when it was first sent.
	FirstAttempt  *time.Time `json:"firstAttemptDate"`
	Reissue       bool       `json:"reissue"`
	Outcome       *string    `json:"lastOutcome"`
	Problem       *string    `json:"lastError"`
	Quarantined   *string    `json:"quarantined"`
	MailUncertain bool       `json:"mailUncertain"`
	Created       time.Time  `json:"creationDate"`
	Changed       time.Time  `json:"revisionDate"`
}

// statusAnswer is the key and the English text of the web vault's label.
type statusAnswer struct {
	Key   string `json:"key"`
	Label string `json:"label"`
}

func answerOffer(o sponsor.Offer) offerAnswer {
	status := o.Status()
	answer := offerAnswer{
		sponsoredAnswer: answerSponsored(o), ID: o.ID, Key: o.Key, Status: statusAnswer{status.Key, status.Label}, State: string(o.State),
		FirstAttempt: o.Attempted, Reissue: o.Reissue, Outcome: optional(string(o.Outcome)), Problem: optional(o.Problem),
		Quarantined: optional(o.Quarantined), MailUncertain: o.MailUncertain, Created: o.Created, Changed: o.Changed,
	}
	if o.State == sponsor.Pending || o.State == sponsor.Revoking {
		answer.PendingSince = &o.Changed
	}
	return answer
}

// maxOffers bounds an answer, which hosts do: one offer has 2 KB at the most.
const maxOffers = 2_500

// listOffers gives administrators all offers, and members their own. Where there
// are more than fit, the answer's continuationToken goes into the query of the
// next request.
func (h *handler) listOffers(r smapi.Request) (any, error) {
	a, err := r.Access("org")
	if err != nil {
		return nil, err
	}
	page := smapi.NewList([]offerAnswer(nil))
	if !a.IsAdmin() {
		own, err := h.sync.OwnOffer(r.Context(), a.Organization, a.Subject())
		if err == nil {
			page.Data = append(page.Data, answerOffer(own))
		} else if fault.Of(err) != fault.NotFound {
			return nil, err
		}
		return page, nil
	}
	after := r.URL.Query().Get("continuationToken")
	if after != "" && uuid.Validate(after) != nil {
		return nil, machine.Invalid("The continuationToken of the query is not one of an answer.")
	}
	for o, err := range h.sync.Offers(r.Context(), a.Organization, after) {
		if err != nil {
			return nil, err
		}
		if len(page.Data) == maxOffers {
			last := page.Data[maxOffers-1].ID
			page.ContinuationToken = &last
			break
		}
		page.Data = append(page.Data, answerOffer(o))
	}
	return page, nil
}

// mayRevoke tells whether an offer is the caller's business.
func mayRevoke(a machine.Access, o sponsor.Offer) bool {
	return a.IsAdmin() || !o.AdminInitiated && o.Member == a.Subject()
}

func (h *handler) revokeOffer(r smapi.Request) (string, any, error) {
	a, err := r.Access("org")
	if err != nil {
		return "", nil, err
	}
	o, err := h.sync.Offer(r.Context(), a.Organization, r.PathValue("id"))
	if err != nil {
		return "", nil, err
	}
	if !mayRevoke(a, o) {
		return "", nil, machine.NotFound()
	}
	return o.ID, nil, h.sync.RevokeOffer(r.Context(), a.Organization, o.ID)
}

type reissueRequest struct {
	Email        string `json:"sponsoredEmail"`
	FriendlyName string `json:"friendlyName"`
}

func (h *handler) reissueOffer(r smapi.Request) (string, any, error) {
	organization, err := h.admin(r)
	if err != nil {
		return "", nil, err
	}
	var body reissueRequest
	if err := readOptional(r, &body); err != nil {
		return "", nil, err
	}
	o, err := h.sync.ReissueOffer(r.Context(), sponsor.Reissue{
		Organization: organization, ID: r.PathValue("id"), Email: body.Email, Name: body.FriendlyName,
	})
	if err != nil {
		return "", nil, err
	}
	return o.ID, answerOffer(o), nil
}

type removedAnswer struct {
	Object  string `json:"object"`
	Revoked int    `json:"revokedOffers"`
}

func (h *handler) memberRemoved(r smapi.Request) (string, any, error) {
	organization, err := h.admin(r)
	if err != nil {
		return "", nil, err
	}
	id, err := r.ID("id")
	if err != nil {
		return "", nil, err
	}
	revoked, err := h.sync.RemoveMember(r.Context(), organization, id)
	return id, removedAnswer{"removedMember", revoked}, err
}

// readOptional reads a body that may be left out.
func readOptional(r smapi.Request, into any) error {
	if r.ContentLength == 0 {
		return nil
	}
	return r.Read(into)
}
