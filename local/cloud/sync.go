package cloud

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// maxColumn is how long names and addresses may be.
	maxColumn = 256
	// disabledGrace is how long a disabled organisation may still make offers
	// after it expired.
	disabledGrace = 93 * 24 * time.Hour
)

type syncRequest struct {
	BillingSyncKey *string     `json:"billingSyncKey"`
	Organization   guid        `json:"sponsoringOrganizationCloudId"`
	Batch          []*syncItem `json:"sponsorshipsBatch"`
}

type syncItem struct {
	OfferKey       guid    `json:"sponsoringOrganizationUserId"`
	FriendlyName   *string `json:"friendlyName"`
	OfferedToEmail *string `json:"offeredToEmail"`
	Plan           small   `json:"planSponsorshipType"`
	LastSyncDate   *date   `json:"lastSyncDate"`
	ValidUntil     *date   `json:"validUntil"`
	ToDelete       flag    `json:"toDelete"`
}

// syncResult is an item of the response. Names, plan and toDelete are echoes.
type syncResult struct {
	OfferKey         guid    `json:"sponsoringOrganizationUserId"`
	FriendlyName     *string `json:"friendlyName"`
	OfferedToEmail   *string `json:"offeredToEmail"`
	Plan             int     `json:"planSponsorshipType"`
	LastSyncDate     *date   `json:"lastSyncDate"`
	ValidUntil       *date   `json:"validUntil"`
	ToDelete         flag    `json:"toDelete"`
	Removed          bool    `json:"cloudSponsorshipRemoved"`
	IsAdminInitiated bool    `json:"isAdminInitiated"`
}

type syncResponse struct {
	Batch []syncResult `json:"sponsorshipsBatch"`
}

// plan is what a request is going to do to the rows.
type plan struct {
	organization *organization
	upserts      []upsert
	// deletes are ids of rows; an empty one is of a row that is yet to have one.
	deletes []string
	results []syncResult
}

// upsert is a row as it will be written, whole.
type upsert struct {
	Sponsorship
	byDelete bool
}

// sync is the sync of sponsorships, by the steps of §2.4.
func (j *job) sync() answer {
	if j.bindError != nil {
		return bindingError(j.bindError)
	}
	p, refused := j.planSync()
	if refused != nil {
		return *refused
	}
	if a, ended := j.reach(BeforeCommit); ended {
		return a
	}
	if j.cloud.isFixed() {
		return j.finishFixed(p)
	}
	stored, ok := j.commit(p)
	if !ok {
		return serverError()
	}
	if a, ended := j.reach(AfterCommit); ended || j.stopped {
		return orResults(a, ended, p)
	}
	j.logEvent(p)
	if !j.mail(p, stored) {
		return serverError()
	}
	return results(p)
}

// finishFixed stores nothing where the request is going to fail.
func (j *job) finishFixed(p *plan) answer {
	for _, u := range p.upserts {
		if !u.fits() || blank(u.OfferedToEmail) && u.ID == "" {
			return serverError()
		}
	}
	if a, ended := j.reach(AfterCommit); ended || j.stopped {
		return orResults(a, ended, p)
	}
	stored, _ := j.commit(p) // everything fits
	j.logEvent(p)
	j.mail(p, stored)
	return results(p)
}

func orResults(a answer, ended bool, p *plan) answer {
	if ended {
		return a
	}
	return results(p)
}

func results(p *plan) answer { return itemsAnswer(p.results) }

func itemsAnswer(items []syncResult) answer {
	a := jsonAnswer(http.StatusOK, syncResponse{items})
	a.items = items
	return a
}

func (c *Cloud) isFixed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fidelity == Fixed
}

// planSync reads the rows and decides; the statuses are those of §2.3, in order.
func (j *job) planSync() (*plan, *answer) {
	c := j.cloud
	request := j.batch
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.data.organizations[string(request.Organization)]
	if o == nil {
		return nil, refused(refusal("Invalid organization"))
	}
	if refusal := o.checkSyncKey(request.BillingSyncKey); refusal != nil {
		return nil, refusal
	}
	if request.Batch == nil {
		return nil, refused(serverError())
	}
	p := &plan{organization: o, results: make([]syncResult, 0, len(request.Batch))}
	if len(request.Batch) == 0 {
		return p, nil
	}
	if o.doubled > 0 && c.fidelity == Real {
		return nil, refused(serverError())
	}
	// An item that repeats a key works on the same row, where there is one.
	found := map[guid]*upsert{}
	for _, item := range request.Batch {
		if item == nil || item.Plan != 0 {
			return nil, refused(serverError())
		}
		if o.PlanType.tier() == enterpriseTier {
			c.planItem(p, found, item, now)
		}
	}
	return p, nil
}

func refused(a answer) *answer { return &a }

// checkSyncKey refuses what is not the organisation's billing sync key.
func (o *organization) checkSyncKey(key *string) *answer {
	switch {
	case blank(key):
	case o.BillingSyncKey == "":
		// The validator dereferences a key that is not there.
		return refused(serverError())
	case *key == o.BillingSyncKey:
		return nil
	}
	return refused(refusal("Invalid Billing Sync Key"))
}

func (c *Cloud) planItem(p *plan, found map[guid]*upsert, item *syncItem, now time.Time) {
	o := p.organization
	var u upsert
	switch rows := o.keyed[string(item.OfferKey)]; {
	case len(rows) == 0 && bool(item.ToDelete) && (item.LastSyncDate == nil || c.fidelity == Fixed):
		return
	case found[item.OfferKey] != nil:
		u = *found[item.OfferKey]
	case len(rows) > 0:
		u = upsert{Sponsorship: rows[0].Sponsorship}
	case o.Disabled && (o.Expiration == nil || now.Sub(*o.Expiration) > disabledGrace):
		return
	default:
		u = upsert{Sponsorship: Sponsorship{
			SponsoringOrganizationID: o.ID, OfferKey: string(item.OfferKey),
			FriendlyName: item.FriendlyName, OfferedToEmail: item.OfferedToEmail, PlanSponsorshipType: int(item.Plan),
		}}
	}
	u.LastSyncDate = &now
	result := syncResult{
		OfferKey: item.OfferKey, FriendlyName: item.FriendlyName, OfferedToEmail: item.OfferedToEmail, Plan: int(item.Plan),
		LastSyncDate: &date{now}, ValidUntil: toDate(u.ValidUntil), ToDelete: item.ToDelete,
	}
	if item.ToDelete {
		u.byDelete = true
		if u.SponsoredOrganizationID == "" {
			// Of a new row this is no id yet, and deletes nothing.
			p.deletes = append(p.deletes, u.ID)
			result.Removed = true
		} else {
			u.ToDelete = true
		}
	}
	if u.ID != "" || c.fidelity == Fixed {
		found[item.OfferKey] = &u
	}
	p.upserts = append(p.upserts, u)
	p.results = append(p.results, result)
}

func (u upsert) fits() bool {
	if u.ID != "" {
		return true // its texts are those of the row
	}
	return (u.FriendlyName == nil || width(*u.FriendlyName) <= maxColumn) &&
		(u.OfferedToEmail == nil || width(*u.OfferedToEmail) <= maxColumn)
}

// commit writes the rows, whole, and then deletes. It gives the new ones; false
// where a text does not fit, and nothing was written.
func (j *job) commit(p *plan) (created []upsert, ok bool) {
	for _, u := range p.upserts {
		if !u.fits() {
			return nil, false
		}
	}
	c := j.cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	o := p.organization
	made := map[string]bool{}
	for _, u := range p.upserts {
		if u.ID != "" {
			// Whatever happened to it since it was read is overwritten; a row that is
			// gone stays gone.
			if stored := o.rows[u.ID]; stored != nil {
				stored.Sponsorship = u.Sponsorship
			}
			continue
		}
		if c.fidelity == Fixed && (made[u.OfferKey] || len(o.keyed[u.OfferKey]) > 0) {
			continue
		}
		made[u.OfferKey] = true
		stored := c.insert(o, u.Sponsorship)
		if len(o.keyed[u.OfferKey]) == 2 {
			c.violate(Violation{Kind: DuplicateKey, Request: j.record.Number, Organization: o.ID, Subject: u.OfferKey})
		}
		created = append(created, upsert{stored.Sponsorship, u.byDelete})
	}
	for _, id := range p.deletes {
		o.remove(id)
	}
	return created, true
}

func (j *job) logEvent(p *plan) {
	c := j.cloud
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, Event{p.organization.ID, SponsorshipsSynced, c.Now()})
}

// mail mails the new offers. One without an address fails, and none is mailed.
func (j *job) mail(p *plan, created []upsert) bool {
	for _, u := range created {
		if blank(u.OfferedToEmail) {
			return false
		}
	}
	c := j.cloud
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range created {
		m := c.offerMail(u.Sponsorship)
		m.At, m.Request = now, j.record.Number
		c.mails = append(c.mails, m)
		c.noteMail(m, u.byDelete)
	}
	return true
}

func (c *Cloud) offerMail(s Sponsorship) Mail {
	to := *s.OfferedToEmail
	m := Mail{
		To: to, Template: OfferToNewAccount, SponsorshipID: s.ID, OfferKey: s.OfferKey, Organization: s.SponsoringOrganizationID,
		Link: c.config.VaultURL + "/#/accept-families-for-enterprise?token=" + url.QueryEscape(c.offerToken(s)) + "&email=" + url.QueryEscape(to),
	}
	if _, known := c.data.users[strings.ToLower(to)]; known {
		m.Template = OfferToExistingAccount
	} else {
		m.Link += "&register=true"
	}
	return m
}

// offer is what a mail's link proves.
type offer struct {
	SponsorshipID string `json:"sponsorshipId"`
	Email         string `json:"email"`
	Plan          int    `json:"plan"`
}

func (c *Cloud) offerToken(s Sponsorship) string {
	text, _ := json.Marshal(offer{s.ID, *s.OfferedToEmail, s.PlanSponsorshipType}) // strings and an int
	return base64.RawURLEncoding.EncodeToString(append(text, c.offerMAC(text)...))
}

func (c *Cloud) offerMAC(text []byte) []byte {
	key := binary.LittleEndian.AppendUint64([]byte(c.config.Region), c.config.Seed)
	mac := hmac.New(sha256.New, key)
	mac.Write(text)
	return mac.Sum(nil)
}

// readOffer gives what a link's token says; false where it is not of this cloud.
func (c *Cloud) readOffer(token string) (offer, bool) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) < sha256.Size {
		return offer{}, false
	}
	text, mac := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	var o offer
	if !hmac.Equal(mac, c.offerMAC(text)) || json.Unmarshal(text, &o) != nil {
		return offer{}, false
	}
	return o, true
}

func blank(text *string) bool { return text == nil || strings.TrimSpace(*text) == "" }
