package cloud

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

const (
	// staleAfter is when an offer that was not synced can no longer be redeemed.
	staleAfter = 4380 * time.Hour // 182.5 days
	// purgedAfter is how long a row outlives its ValidUntil.
	purgedAfter = 90 * 24 * time.Hour
)

const staleOffer = "This sponsorship offer is more than 6 months old and has expired."

// find gives the row with this id, or else the first with this offer key, under
// the lock.
func (o *organization) find(what string) (*row, error) {
	what = strings.ToLower(what)
	if r := o.rows[what]; r != nil {
		return r, nil
	}
	if rows := o.keyed[what]; len(rows) > 0 {
		return rows[0], nil
	}
	return nil, fmt.Errorf("%w: sponsorship %s", fault.NotFound, what)
}

// OrganizationOf gives the id of the organisation that has a row with this id or
// offer key: NotFound where none has, Conflict where several have.
func (c *Cloud) OrganizationOf(what string) (string, error) {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for id, o := range c.data.organizations {
		if _, err := o.find(what); err == nil {
			ids = append(ids, id)
		}
	}
	switch len(ids) {
	case 0:
		return "", fmt.Errorf("%w: sponsorship %s", fault.NotFound, what)
	case 1:
		return ids[0], nil
	default:
		return "", fmt.Errorf("%w: several organizations have a sponsorship %s", fault.Conflict, what)
	}
}

// redeemRow does what a redemption does to a row; false where the offer was too
// old, and is gone now.
func (c *Cloud) redeemRow(o *organization, r *row, sponsored string, until time.Time) bool {
	if r.LastSyncDate == nil || c.Now().Sub(*r.LastSyncDate) > staleAfter {
		o.remove(r.ID)
		return false
	}
	r.SponsoredOrganizationID, r.ValidUntil, r.OfferedToEmail = sponsored, &until, nil
	return true
}

// Redeem redeems an offer, by offer key or id of the sponsorship, as somebody
// would who followed the link. The zero time is a year from now. An offer that
// was not synced for half a year is deleted, and the error is Conflict; so it is
// for one that was redeemed.
func (c *Cloud) Redeem(organizationID, what string, until time.Time) error {
	return c.inOrganization(organizationID, func(o *organization) error {
		r, err := o.find(what)
		if err != nil {
			return err
		}
		if r.SponsoredOrganizationID != "" {
			return fmt.Errorf("%w: redeemed already", fault.Conflict)
		}
		if until.IsZero() {
			until = c.Now().AddDate(1, 0, 0)
		}
		if !c.redeemRow(o, r, c.newID(), until.UTC()) {
			return fmt.Errorf("%w: %s", fault.Conflict, staleOffer)
		}
		return nil
	})
}

// Renew moves the end of a redeemed sponsorship.
func (c *Cloud) Renew(organizationID, what string, until time.Time) error {
	return c.inOrganization(organizationID, func(o *organization) error {
		r, err := o.find(what)
		if err != nil {
			return err
		}
		if r.SponsoredOrganizationID == "" {
			return fmt.Errorf("%w: not redeemed", fault.Conflict)
		}
		until = until.UTC()
		r.ValidUntil = &until
		return nil
	})
}

// Drop gives a sponsorship up, as the sponsored organisation's owner can.
func (c *Cloud) Drop(organizationID, what string) error {
	return c.inOrganization(organizationID, func(o *organization) error {
		r, err := o.find(what)
		if err != nil {
			return err
		}
		r.ToDelete = true
		return nil
	})
}

// Purge does the weekly job: it deletes the rows of all organisations whose
// ValidUntil is more than 90 days ago, and tells how many.
func (c *Cloud) Purge() int {
	c.settle()
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	purged := 0
	for _, o := range c.data.organizations {
		for id, r := range o.rows {
			if r.ValidUntil != nil && now.Sub(*r.ValidUntil) > purgedAfter {
				o.remove(id)
				purged++
			}
		}
	}
	return purged
}

// Remove deletes a row without a trace.
func (c *Cloud) Remove(organizationID, what string) error {
	return c.inOrganization(organizationID, func(o *organization) error {
		r, err := o.find(what)
		if err != nil {
			return err
		}
		o.remove(r.ID)
		return nil
	})
}

// Poison doubles a row, so that two have its offer key and every sync of the
// organisation fails that is not empty.
func (c *Cloud) Poison(organizationID, what string) error {
	return c.inOrganization(organizationID, func(o *organization) error {
		r, err := o.find(what)
		if err != nil {
			return err
		}
		twin := r.Sponsorship
		twin.ID = ""
		c.insert(o, twin)
		return nil
	})
}

// invited gives the row that a link's token is for, if it is for the caller.
func (j *job) invited(token string) (*organization, *row, bool) {
	offered, ok := j.cloud.readOffer(token)
	if !ok || !strings.EqualFold(offered.Email, j.caller.Subject) {
		return nil, nil, false
	}
	for _, o := range j.cloud.data.organizations {
		if r := o.rows[offered.SponsorshipID]; r != nil {
			matches := r.OfferedToEmail != nil && strings.EqualFold(*r.OfferedToEmail, offered.Email) && r.PlanSponsorshipType == offered.Plan
			return o, r, matches
		}
	}
	return nil, nil, false
}

func (j *job) validateToken() answer {
	c := j.cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _, ok := j.invited(j.http.URL.Query().Get("sponsorshipToken"))
	return jsonAnswer(http.StatusOK, struct {
		IsTokenValid              bool `json:"isTokenValid"`
		IsFreeFamilyPolicyEnabled bool `json:"isFreeFamilyPolicyEnabled"`
	}{ok, false})
}

func (j *job) redeem() answer {
	var request struct {
		Plan      small `json:"planSponsorshipType"`
		Sponsored guid  `json:"sponsoredOrganizationId"`
	}
	if err := decode(j.body, &request); err != nil {
		return bindingError(err)
	}
	c := j.cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	o, r, ok := j.invited(j.http.URL.Query().Get("sponsorshipToken"))
	if !ok || int(request.Plan) != r.PlanSponsorshipType {
		return refusal("Failed to parse sponsorship token.")
	}
	j.values = map[string]string{"id": string(request.Sponsored)}
	sponsored := j.owned()
	switch {
	case sponsored == nil:
		return refusal("Can only redeem sponsorship for an organization you own.")
	case sponsored.PlanType.tier() != familiesTier:
		return refusal("Can only redeem sponsorship offer on families organizations.")
	case c.isSponsored(sponsored.ID):
		return refusal("Cannot redeem a sponsorship offer for an organization that is already sponsored. Revoke existing sponsorship first.")
	}
	until := c.Now().AddDate(1, 0, 0)
	if sponsored.Expiration != nil {
		until = *sponsored.Expiration
	}
	if !c.redeemRow(o, r, sponsored.ID, until) {
		return refusal(staleOffer)
	}
	return emptyAnswer(http.StatusOK)
}

func (c *Cloud) isSponsored(id string) bool {
	for _, o := range c.data.organizations {
		for _, r := range o.rows {
			if r.SponsoredOrganizationID == id {
				return true
			}
		}
	}
	return false
}
