package cloud

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Installation is a self-hosted server as the cloud knows it.
type Installation struct {
	ID           string     `json:"id"`
	Key          string     `json:"key"`
	Email        string     `json:"email"`
	Disabled     bool       `json:"disabled"`
	Created      time.Time  `json:"creationDate"`
	LastActivity *time.Time `json:"lastActivityDate"`
}

// PlanType is an organisation's plan, by the cloud's number.
type PlanType int

// Plans of each tier. There are more.
const (
	Free               PlanType = 0
	FamiliesAnnually   PlanType = 7
	TeamsAnnually      PlanType = 18
	EnterpriseAnnually PlanType = 20
)

type tier int

const (
	freeTier tier = iota
	familiesTier
	teamsTier
	enterpriseTier
	otherTier
)

var tiers = []tier{
	0: freeTier, 1: familiesTier, 2: teamsTier, 3: teamsTier, 4: enterpriseTier, 5: enterpriseTier, 6: otherTier,
	7: familiesTier, 8: teamsTier, 9: teamsTier, 10: enterpriseTier, 11: enterpriseTier, 12: teamsTier, 13: teamsTier,
	14: enterpriseTier, 15: enterpriseTier, 16: otherTier, 17: teamsTier, 18: teamsTier, 19: enterpriseTier, 20: enterpriseTier,
	21: otherTier, 22: familiesTier,
}

func (p PlanType) tier() tier {
	if p < 0 || int(p) >= len(tiers) {
		return otherTier
	}
	return tiers[p]
}

// Organization is a customer of the cloud.
type Organization struct {
	ID           string   `json:"id"`
	Name         string   `json:"name"`
	LicenseKey   string   `json:"licenseKey"`
	BillingEmail string   `json:"billingEmail"`
	BusinessName string   `json:"businessName"`
	PlanType     PlanType `json:"planType"`
	Disabled     bool     `json:"disabled"`
	// Expiration is when what was paid for ends; nil for never.
	Expiration *time.Time `json:"expirationDate"`
	// Subscription is the payment provider's word for its state: "active",
	// "canceled", "incomplete" …; "none" where there is no subscription.
	Subscription string `json:"subscription"`
	// Owners are the e-mail addresses of users.
	Owners []string `json:"owners"`
	// BillingSyncKey is empty while none was generated.
	BillingSyncKey string    `json:"billingSyncKey"`
	KeyRevision    time.Time `json:"billingSyncKeyRevisionDate"`
	// License says what licences of this organisation look like.
	License LicenseSettings `json:"license"`
}

// NoSubscription is the Subscription of an organisation that has none.
const NoSubscription = "none"

// User is somebody with an account on the cloud.
type User struct {
	Email              string `json:"email"`
	MasterPasswordHash string `json:"masterPasswordHash"`
}

// Sponsorship is a row of the cloud.
type Sponsorship struct {
	ID string `json:"id"`
	// SponsoringOrganizationID is the organisation's, of the cloud.
	SponsoringOrganizationID string `json:"sponsoringOrganizationId"`
	// OfferKey is the opaque id that the self-hosted server sent.
	OfferKey string `json:"sponsoringOrganizationUserId"`
	// SponsoredOrganizationID is empty until the offer is redeemed.
	SponsoredOrganizationID string     `json:"sponsoredOrganizationId"`
	FriendlyName            *string    `json:"friendlyName"`
	OfferedToEmail          *string    `json:"offeredToEmail"`
	PlanSponsorshipType     int        `json:"planSponsorshipType"`
	LastSyncDate            *time.Time `json:"lastSyncDate"`
	ValidUntil              *time.Time `json:"validUntil"`
	ToDelete                bool       `json:"toDelete"`
}

// Mail is a mail that the cloud would have sent.
type Mail struct {
	To            string    `json:"to"`
	Template      string    `json:"template"`
	Link          string    `json:"link"`
	SponsorshipID string    `json:"sponsorshipId"`
	OfferKey      string    `json:"offerKey"`
	Organization  string    `json:"organizationId"`
	At            time.Time `json:"at"`
	// Request is the Number of the request that caused it.
	Request int `json:"request"`
}

// Templates of mails.
const (
	OfferToExistingAccount = "FamiliesForEnterpriseOfferExistingAccount"
	OfferToNewAccount      = "FamiliesForEnterpriseOfferNewAccount"
)

// Event is an entry of an organisation's event log.
type Event struct {
	Organization string    `json:"organizationId"`
	Type         int       `json:"type"`
	At           time.Time `json:"at"`
}

// SponsorshipsSynced is the type of the event of a sync request.
const SponsorshipsSynced = 1608

// row is a stored sponsorship, and its place in the order of insertion.
type row struct {
	Sponsorship
	order int
}

// organization is an Organization with what hangs on it.
type organization struct {
	Organization
	// keys are the API keys of other types than billing sync.
	keys  map[keyType]apiKey
	rows  map[string]*row   // by id
	keyed map[string][]*row // by offer key
	// doubled counts the offer keys that several rows have.
	doubled int
}

func (o *organization) add(r *row) {
	o.rows[r.ID] = r
	o.keyed[r.OfferKey] = append(o.keyed[r.OfferKey], r)
	if len(o.keyed[r.OfferKey]) == 2 {
		o.doubled++
	}
}

func (o *organization) remove(id string) {
	r, ok := o.rows[id]
	if !ok {
		return
	}
	delete(o.rows, id)
	left := slices.DeleteFunc(o.keyed[r.OfferKey], func(other *row) bool { return other == r })
	switch len(left) {
	case 0:
		delete(o.keyed, r.OfferKey)
		return
	case 1:
		o.doubled--
	}
	o.keyed[r.OfferKey] = left
}

type data struct {
	installations map[string]*Installation
	organizations map[string]*organization
	users         map[string]User // by address in lower case
	inserted      int
}

func newData() data {
	return data{map[string]*Installation{}, map[string]*organization{}, map[string]User{}, 0}
}

// insert stores a new row, and gives it its id.
func (c *Cloud) insert(o *organization, s Sponsorship) *row {
	if s.ID == "" {
		s.ID = c.newID()
	}
	c.data.inserted++
	r := &row{s, c.data.inserted}
	o.add(r)
	return r
}

// AddInstallation stores an installation, with id and key drawn where it has
// none, and gives it as stored.
func (c *Cloud) AddInstallation(i Installation) (Installation, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addInstallation(i)
}

func (c *Cloud) addInstallation(i Installation) (Installation, error) {
	if err := c.identify(&i.ID); err != nil {
		return Installation{}, fmt.Errorf("installation: %w", err)
	}
	if c.data.installations[i.ID] != nil {
		return Installation{}, fmt.Errorf("%w: installation %s exists", fault.Conflict, i.ID)
	}
	if i.Key == "" {
		i.Key = c.newKeyText(20)
	}
	if i.Created.IsZero() {
		i.Created = c.Now()
	}
	c.data.installations[i.ID] = &i
	return i, nil
}

// identify draws an id where there is none, and makes another lower-case.
func (c *Cloud) identify(id *string) error {
	if *id == "" {
		*id = c.newID()
		return nil
	}
	parsed, ok := parseGUID(*id)
	if !ok {
		return fmt.Errorf("%w: id %q is not a GUID", fault.Invalid, *id)
	}
	*id = parsed
	return nil
}

// parseGUID takes the one form that the cloud takes, and gives it in lower case.
func parseGUID(text string) (string, bool) {
	if len(text) != 36 || uuid.Validate(text) != nil {
		return "", false
	}
	return strings.ToLower(text), true
}

// Installation gives an installation; NotFound where there is none.
func (c *Cloud) Installation(id string) (Installation, error) {
	var found Installation
	err := c.changeInstallation(id, func(i *Installation) { found = *i })
	return found, err
}

// DisableInstallation and EnableInstallation decide whether it gets tokens and
// licences.
func (c *Cloud) DisableInstallation(id string) error {
	return c.changeInstallation(id, func(i *Installation) { i.Disabled = true })
}

// EnableInstallation: see DisableInstallation.
func (c *Cloud) EnableInstallation(id string) error {
	return c.changeInstallation(id, func(i *Installation) { i.Disabled = false })
}

// SetInstallationKey replaces an installation's key.
func (c *Cloud) SetInstallationKey(id, key string) error {
	return c.changeInstallation(id, func(i *Installation) { i.Key = key })
}

func (c *Cloud) changeInstallation(id string, change func(*Installation)) error {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.data.installations[strings.ToLower(id)]
	if i == nil {
		return fmt.Errorf("%w: installation %s", fault.NotFound, id)
	}
	change(i)
	return nil
}

// AddOrganization stores an organisation and gives it as stored. Where it says
// nothing, it has an id, a licence key, an active Enterprise plan (Free is 0, so
// it takes ChangeOrganization), and a year that is paid for. It has no billing
// sync key unless it says so: see RotateKey.
func (c *Cloud) AddOrganization(o Organization) (Organization, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.PlanType == Free {
		o.PlanType = EnterpriseAnnually
	}
	if o.Expiration == nil && o.Subscription == "" {
		end := c.Now().AddDate(1, 0, 0)
		o.Expiration = &end
	}
	return c.addOrganization(o)
}

func (c *Cloud) addOrganization(o Organization) (Organization, error) {
	if err := c.identify(&o.ID); err != nil {
		return Organization{}, fmt.Errorf("organization: %w", err)
	}
	if c.data.organizations[o.ID] != nil {
		return Organization{}, fmt.Errorf("%w: organization %s exists", fault.Conflict, o.ID)
	}
	if err := o.License.check(); err != nil {
		return Organization{}, fmt.Errorf("organization: %w", err)
	}
	if o.LicenseKey == "" {
		o.LicenseKey = c.newKeyText(20)
	}
	setDefault(&o.Name, "Organization "+o.ID[:8])
	setDefault(&o.BillingEmail, "billing@example.test")
	setDefault(&o.Subscription, "active")
	if o.BillingSyncKey != "" && o.KeyRevision.IsZero() {
		o.KeyRevision = c.Now()
	}
	c.data.organizations[o.ID] = &organization{
		Organization: o, keys: map[keyType]apiKey{}, rows: map[string]*row{}, keyed: map[string][]*row{},
	}
	return o, nil
}

// Organization gives an organisation; NotFound where there is none.
func (c *Cloud) Organization(id string) (Organization, error) {
	var found Organization
	err := c.inOrganization(id, func(o *organization) error {
		found = o.clone()
		return nil
	})
	return found, err
}

// clone shares nothing that can be changed.
func (o Organization) clone() Organization {
	o.Owners = slices.Clone(o.Owners)
	o.License.Set, o.License.Claims = maps.Clone(o.License.Set), maps.Clone(o.License.Claims)
	return o
}

// ChangeOrganization changes anything of an organisation but its id.
func (c *Cloud) ChangeOrganization(id string, change func(*Organization)) error {
	return c.inOrganization(id, func(o *organization) error {
		changed := o.clone()
		change(&changed)
		changed.ID = o.ID
		if err := changed.License.check(); err != nil {
			return fmt.Errorf("organization: %w", err)
		}
		o.Organization = changed
		return nil
	})
}

// inOrganization does something with an organisation under the lock; NotFound
// where there is none.
func (c *Cloud) inOrganization(id string, do func(*organization) error) error {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.data.organizations[strings.ToLower(id)]
	if o == nil {
		return fmt.Errorf("%w: organization %s", fault.NotFound, id)
	}
	return do(o)
}

// DisableOrganization disables an organisation whose Expiration is at the given
// time; the zero time leaves that.
func (c *Cloud) DisableOrganization(id string, expired time.Time) error {
	return c.ChangeOrganization(id, func(o *Organization) {
		o.Disabled = true
		if !expired.IsZero() {
			o.Expiration = &expired
		}
	})
}

// EnableOrganization undoes DisableOrganization.
func (c *Cloud) EnableOrganization(id string) error {
	return c.ChangeOrganization(id, func(o *Organization) { o.Disabled = false })
}

// SetPlan changes an organisation's plan.
func (c *Cloud) SetPlan(id string, plan PlanType) error {
	return c.ChangeOrganization(id, func(o *Organization) { o.PlanType = plan })
}

// RotateKey gives the organisation a new billing sync key. The old one dies at
// once.
func (c *Cloud) RotateKey(id string) (string, error) {
	var key string
	err := c.inOrganization(id, func(o *organization) error {
		key = c.rotate(o)
		return nil
	})
	return key, err
}

func (c *Cloud) rotate(o *organization) string {
	o.BillingSyncKey, o.KeyRevision = c.newKeyText(30), c.Now()
	return o.BillingSyncKey
}

// AddUser stores a user; offers to his address are for existing accounts.
func (c *Cloud) AddUser(u User) error {
	if u.Email == "" {
		return fmt.Errorf("%w: a user without an e-mail address", fault.Invalid)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data.users[strings.ToLower(u.Email)] = u
	return nil
}

// Sponsorships are the rows of an organisation in the order of their insertion.
func (c *Cloud) Sponsorships(organizationID string) []Sponsorship {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.data.organizations[strings.ToLower(organizationID)]
	if o == nil {
		return nil
	}
	return o.sponsorships()
}

func (o *organization) sponsorships() []Sponsorship {
	rows := slices.SortedFunc(maps.Values(o.rows), func(a, b *row) int { return cmp.Compare(a.order, b.order) })
	list := make([]Sponsorship, len(rows))
	for i, r := range rows {
		list[i] = r.Sponsorship
	}
	return list
}

// AddSponsorship stores a row as it is, without a mail.
func (c *Cloud) AddSponsorship(s Sponsorship) (Sponsorship, error) {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addSponsorship(s)
}

func (c *Cloud) addSponsorship(s Sponsorship) (Sponsorship, error) {
	o := c.data.organizations[strings.ToLower(s.SponsoringOrganizationID)]
	if o == nil {
		return Sponsorship{}, fmt.Errorf("%w: a sponsorship of organization %q", fault.Invalid, s.SponsoringOrganizationID)
	}
	key, ok := parseGUID(s.OfferKey)
	if !ok {
		return Sponsorship{}, fmt.Errorf("%w: offer key %q is not a GUID", fault.Invalid, s.OfferKey)
	}
	if err := c.identify(&s.ID); err != nil {
		return Sponsorship{}, fmt.Errorf("sponsorship: %w", err)
	}
	if o.rows[s.ID] != nil {
		return Sponsorship{}, fmt.Errorf("%w: sponsorship %s exists", fault.Conflict, s.ID)
	}
	s.OfferKey, s.SponsoringOrganizationID = key, o.ID
	return c.insert(o, s).Sponsorship, nil
}

// Mails are those that would have been sent, in order.
func (c *Cloud) Mails() []Mail {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.mails)
}

// Events are the entries of all organisations' logs, in order.
func (c *Cloud) Events() []Event {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

// State is all of an emulator's data, secrets too: they are nobody's.
type State struct {
	Installations []Installation `json:"installations"`
	Organizations []Organization `json:"organizations"`
	Users         []User         `json:"users"`
	Sponsorships  []Sponsorship  `json:"sponsorships"`
}

// State gives the data, in a fixed order.
func (c *Cloud) State() State {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	// Lists are never null.
	state := State{[]Installation{}, []Organization{}, []User{}, []Sponsorship{}}
	for _, id := range slices.Sorted(maps.Keys(c.data.installations)) {
		state.Installations = append(state.Installations, *c.data.installations[id])
	}
	for _, id := range slices.Sorted(maps.Keys(c.data.organizations)) {
		o := c.data.organizations[id]
		state.Organizations = append(state.Organizations, o.Organization)
		state.Sponsorships = append(state.Sponsorships, o.sponsorships()...)
	}
	for _, email := range slices.Sorted(maps.Keys(c.data.users)) {
		state.Users = append(state.Users, c.data.users[email])
	}
	return state
}

// SetState replaces the data, all or nothing. Ids that are missing are drawn;
// what was recorded stays.
func (c *Cloud) SetState(s State) (err error) {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.data
	c.data = newData()
	c.cached = map[string]cachedInstallation{}
	defer func() {
		if err != nil {
			c.data = before
		}
	}()
	for _, i := range s.Installations {
		if _, err := c.addInstallation(i); err != nil {
			return err
		}
	}
	for _, o := range s.Organizations {
		if _, err := c.addOrganization(o); err != nil {
			return err
		}
	}
	for _, u := range s.Users {
		c.data.users[strings.ToLower(u.Email)] = u
	}
	for _, sponsorship := range s.Sponsorships {
		if _, err := c.addSponsorship(sponsorship); err != nil {
			return err
		}
	}
	return nil
}
