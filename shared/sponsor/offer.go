package sponsor

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/mail"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// State is what an offer is here. What the cloud confirmed to have removed has
// no document any more.
type State string

// States.
const (
	// Pending: the cloud has not confirmed it.
	Pending State = "pending"
	// Sent: the cloud has it.
	Sent State = "sent"
	// Active: it was redeemed.
	Active State = "active"
	// Revoking: it is to be removed from the cloud, or to be replaced there.
	Revoking State = "revoking"
	// RevokedUntilExpiry: it was revoked after it had been redeemed, and lasts as
	// long as it was paid for.
	RevokedUntilExpiry State = "revokedUntilExpiry"
)

// planFamilies is the only kind of sponsorship there is.
const planFamilies = 0

// Limits of texts, in UTF-16 units as the official server counts them.
const (
	maxText  = 256
	maxNotes = 512
)

// Offer is an offer of a free Families organisation, as its members see it.
type Offer struct {
	ID           string
	Organization string
	// Member is who offers: an organisation user's GUID. For offers of
	// administrators it is that administrator.
	Member string
	// Key is what the cloud knows the offer by.
	Key            string
	Plan           int
	AdminInitiated bool
	Email          string
	Name           string
	Notes          string
	State          State
	// ToDelete is what clients are told: false for one that is being replaced.
	ToDelete bool
	// Reissue: the one before it is yet to be removed from the cloud, after which
	// this one is sent.
	Reissue bool
	// LastSync is the cloud's time.
	LastSync   *time.Time
	ValidUntil *time.Time
	Created    time.Time
	// Changed is when it became what it is by somebody's wish.
	Changed time.Time
	// Attempted is when it was first sent; nil if it never was.
	Attempted *time.Time
	// Outcome is of the last sync that it took part in, and Problem what is wrong
	// with it.
	Outcome Outcome
	Problem string
	// Quarantined is why it is not sent; empty if it is.
	Quarantined string
	// MailUncertain: the cloud may have stored it without mailing it. Reissuing it
	// heals that.
	MailUncertain bool
}

// Outcome is what became of an offer in a sync.
type Outcome string

// Outcomes.
const (
	OutcomeSent        Outcome = "sent"
	OutcomeRefreshed   Outcome = "refreshed"
	OutcomeRemoved     Outcome = "removed"
	OutcomeKept        Outcome = "kept"        // revoked, and redeemed: it lasts
	OutcomeNotAccepted Outcome = "notAccepted" // the cloud left it out
	OutcomeQuarantined Outcome = "quarantined"
	OutcomeAnomaly     Outcome = "anomaly" // the cloud says to have removed what nobody revoked
)

// Status is how clients show an offer.
type Status struct{ Key, Label string }

// StatusFacts is what a status is derived from.
type StatusFacts struct {
	SelfHosted, ToDelete bool
	LastSync, ValidUntil *time.Time
}

// Status derives it as the web vault does.
func (f StatusFacts) Status() Status {
	switch {
	case f.ToDelete && f.ValidUntil != nil:
		return Status{"revokeWhenExpired", "Expires " + f.ValidUntil.UTC().Format("01/02/2006")}
	case f.ToDelete:
		return Status{"requestRemoved", "Removed (awaiting sync)"}
	case f.ValidUntil != nil:
		return Status{"active", "Active"}
	case f.LastSync != nil || !f.SelfHosted:
		return Status{"sent", "Sent"}
	default:
		return Status{"requested", "Requested"}
	}
}

// Status is how clients show the offer.
func (o Offer) Status() Status {
	return StatusFacts{SelfHosted: true, ToDelete: o.ToDelete, LastSync: o.LastSync, ValidUntil: o.ValidUntil}.Status()
}

// offer is an Offer as it is stored. Its id is made of organisation and key, so
// that there can be no two of one key.
type offer struct {
	Member string `json:"member"`
	Key    string `json:"key"`
	Plan   int    `json:"plan,omitempty"`
	Admin  bool   `json:"admin,omitempty"`
	State  State  `json:"state"`
	// Generation grows with each replacement, so that what was said of the one
	// before is not taken for the one after.
	Generation   int        `json:"generation,omitempty"`
	Created      time.Time  `json:"created"`
	Changed      time.Time  `json:"changed"`
	FirstAttempt *time.Time `json:"firstAttempt,omitempty"`
	// CloudOrganization is whom it was sent to; empty where that is not known of
	// one that was taken over.
	CloudOrganization string     `json:"cloudOrganization,omitempty"`
	LastSync          *time.Time `json:"lastSync,omitempty"`
	ValidUntil        *time.Time `json:"validUntil,omitempty"`
	Outcome           Outcome    `json:"outcome,omitempty"`
	Problem           string     `json:"problem,omitempty"`
	Quarantined       string     `json:"quarantined,omitempty"`
	MailUncertain     bool       `json:"mailUncertain,omitempty"`
	Reissue           bool       `json:"reissue,omitempty"`
	// Refused is when the cloud was last found to fail for it; nil has the next
	// run try it.
	Refused *time.Time `json:"refused,omitempty"`
	// Checked is the run that asked, of one to be replaced, whether somebody had
	// redeemed it, and CheckedAt when that was.
	Checked   string    `json:"checked,omitempty"`
	CheckedAt time.Time `json:"checkedAt,omitzero"`
	// DeleteSent: its deletion may have been carried out, so that asking after it
	// could make it anew. DeletedBy is the batch that was the first to send one.
	DeleteSent bool   `json:"deleteSent,omitempty"`
	DeletedBy  string `json:"deletedBy,omitempty"`
	// Left are the organisations of the cloud that had it before, with what Changed
	// was then; the zero time where it is not known what they have.
	Left map[string]time.Time `json:"left,omitempty"`
	// LookupBefore is what one to be replaced was listed under, since the runs have
	// no access to the key that this is made with.
	LookupBefore string `json:"lookupBefore,omitempty"`
	// Row is the id of the official server's row that it was taken over from.
	Row string `json:"row,omitempty"`
	// Fence is the token of the last run that wrote.
	Fence  int64  `json:"fence,omitempty"`
	Sealed []byte `json:"sealed"`
}

// particulars are what is sealed of an offer.
type particulars struct {
	Email string `json:"email"`
	Name  string `json:"name,omitempty"`
	Notes string `json:"notes,omitempty"`
	// Next is what it will be replaced by.
	Next *particulars `json:"next,omitempty"`
}

// toDelete tells whether a run sends it as a deletion.
func (o *offer) toDelete() bool { return o.State == Revoking || o.State == RevokedUntilExpiry }

// redeemed tells whether the cloud says so, revoked or not.
func (o *offer) redeemed() bool { return o.ValidUntil != nil || o.State == RevokedUntilExpiry }

// settle derives the state of an offer that nobody revoked.
func (o *offer) settle() {
	switch {
	case o.toDelete():
	case o.ValidUntil != nil:
		o.State = Active
	case o.LastSync != nil:
		o.State = Sent
	default:
		o.State = Pending
	}
}

// replace makes it the offer that waited for its removal.
func (o *offer) replace() {
	o.State, o.Reissue, o.Generation = Pending, false, o.Generation+1
	o.FirstAttempt, o.LastSync, o.ValidUntil = nil, nil, nil
	o.CloudOrganization, o.Checked, o.CheckedAt, o.DeleteSent, o.DeletedBy = "", "", time.Time{}, false, ""
	o.LookupBefore = ""
	o.forgive()
}

// move makes it a new offer to another organisation of the cloud. One that had it
// before may have it still, in the place of what it has become since, of which
// nobody is told then.
func (o *offer) move(cloudOrganization string) {
	as := o.Changed
	if o.MailUncertain {
		as = time.Time{}
	}
	left := map[string]time.Time{}
	maps.Copy(left, o.Left)
	left[strings.ToLower(o.CloudOrganization)] = as
	known, was := left[strings.ToLower(cloudOrganization)]
	o.replace()
	o.Left, o.MailUncertain = left, was && !known.Equal(o.Changed)
}

// elsewhere tells whether it was sent to another organisation of the cloud.
func (o *offer) elsewhere(cloudOrganization string) bool {
	return o.FirstAttempt != nil && o.CloudOrganization != "" && !strings.EqualFold(o.CloudOrganization, cloudOrganization)
}

// checkGood is how long the answer holds that nobody has redeemed an offer: a
// run may wait for hours between the question and the deletion.
const checkGood = time.Hour

// toCheck tells whether a run has to ask after it before it is replaced: the
// deletion of one that was redeemed meanwhile could not be taken back. Of one
// that the cloud never confirmed the asking could be its first mail.
func (o *offer) toCheck(run string, now time.Time) bool {
	if !o.Reissue || o.LastSync == nil || o.DeleteSent || o.Quarantined == quarantinedCloud {
		return false
	}
	return o.Checked != run || now.Sub(o.CheckedAt).Abs() >= checkGood
}

// check notes that a run has asked after it.
func (o *offer) check(run string, at time.Time) { o.Checked, o.CheckedAt = run, at }

// unsend takes back that its deletion was sent, where that was by a batch of
// which the cloud has done nothing.
func (o *offer) unsend(batch string) {
	if o.DeletedBy == batch {
		o.DeleteSent, o.DeletedBy = false, ""
	}
}

// refusedFor is how long an offer is left out that the cloud fails for: until
// the daily run of a week later.
const refusedFor = 7*day - time.Hour

// heldBack tells whether it is left out of what is sent: a deletion only if the
// cloud fails for it.
func (o *offer) heldBack(now time.Time) bool {
	switch o.Quarantined {
	case "", quarantinedUnreadable, quarantinedElsewhere:
		return false // what is so now shows when it is to be sent
	case quarantinedCloud:
		return o.Refused != nil && !o.Refused.After(now) && now.Sub(*o.Refused) < refusedFor
	}
	return !o.toDelete()
}

// quarantine notes why it is not sent.
func (o *offer) quarantine(why string) {
	o.Quarantined, o.Problem, o.Outcome = why, quarantineTexts[why], OutcomeQuarantined
	if why == quarantinedElsewhere {
		o.Problem = fmt.Sprintf(o.Problem, o.CloudOrganization)
	}
}

// forgive forgets what was found wrong with what it was before.
func (o *offer) forgive() {
	o.Outcome, o.Problem, o.Quarantined, o.MailUncertain, o.Refused = "", "", "", false, nil
}

// offerIDs is the name space of offers' ids.
var offerIDs = uuid.MustParse("6f0d5a0e-5a86-4d0c-9a52-3f6b1c1f6a57")

func offerID(organization, key string) string {
	return uuid.NewSHA1(offerIDs, []byte(organization+"/"+key)).String()
}

func particularsOf(id string) keyring.Subject {
	return keyring.Subject{Collection: "offers", ID: id, Field: "particulars"}
}

func (s *Sync) sealParticulars(ctx context.Context, id string, p particulars) ([]byte, error) {
	plain, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("%w: encode an offer: %w", fault.Invalid, err)
	}
	return s.ring.Seal(ctx, particularsOf(id), plain)
}

func (s *Sync) openParticulars(ctx context.Context, id string, sealed []byte) (particulars, error) {
	plain, err := s.ring.Open(ctx, particularsOf(id), sealed)
	if err != nil {
		return particulars{}, err
	}
	var p particulars
	if json.Unmarshal(plain, &p) != nil {
		// The text of a JSON error could quote what was sealed.
		return particulars{}, fmt.Errorf("%w: what is sealed of an offer is not the JSON of its kind", fault.Lost)
	}
	return p, nil
}

// view is an offer as its members see it; without its texts where they cannot be
// read, so that it can be found and revoked.
func (s *Sync) view(ctx context.Context, r store.Record[offer]) (Offer, error) {
	o := r.Value
	p, err := s.openParticulars(ctx, r.ID, o.Sealed)
	switch {
	case fault.Of(err) == fault.Lost:
		o.quarantine(quarantinedUnreadable)
	case err != nil:
		return Offer{}, fmt.Errorf("offer %s: %w", r.ID, err)
	}
	v := Offer{
		ID: r.ID, Organization: r.Parent, Member: o.Member, Key: o.Key, Plan: o.Plan, AdminInitiated: o.Admin,
		Email: p.Email, Name: p.Name, Notes: p.Notes, State: o.State, ToDelete: o.toDelete(), Reissue: o.Reissue,
		LastSync: o.LastSync, ValidUntil: o.ValidUntil, Created: o.Created, Changed: o.Changed, Attempted: o.FirstAttempt,
		Outcome: o.Outcome, Problem: o.Problem, Quarantined: o.Quarantined, MailUncertain: o.MailUncertain,
	}
	if o.Reissue && p.Next != nil {
		v.Email, v.Name, v.Notes, v.ToDelete, v.LastSync = p.Next.Email, p.Next.Name, p.Next.Notes, false, nil
	}
	return v, nil
}

// width is a text's length as the official server counts it.
func width(text string) int { return len(utf16.Encode([]rune(text))) }

var domainEnd = regexp.MustCompile(`@.+\.[A-Za-z0-9]+$`)

// isAddress tells whether a text is an address of mail and nothing besides.
func isAddress(text string) bool {
	parsed, err := mail.ParseAddress(text)
	return err == nil && parsed.Address == text && domainEnd.MatchString(text) && !strings.ContainsFunc(text, func(r rune) bool {
		return unicode.IsControl(r) || unicode.IsSpace(r)
	})
}

// checkTexts checks what somebody offers, by the names of the official request.
func checkTexts(p particulars) machine.Fields {
	wrong := machine.Fields{}
	add := func(name, text string) { wrong[name] = append(wrong[name], text) }
	switch {
	case strings.TrimSpace(p.Email) == "":
		add("SponsoredEmail", "The SponsoredEmail field is required.")
	case width(p.Email) > maxText:
		add("SponsoredEmail", "The field SponsoredEmail must be a string with a maximum length of 256.")
	case !isAddress(p.Email):
		add("SponsoredEmail", "The SponsoredEmail field is not a supported e-mail address format.")
	}
	if width(p.Name) > maxText {
		add("FriendlyName", "The field FriendlyName must be a string with a maximum length of 256.")
	}
	if width(p.Notes) > maxNotes {
		add("Notes", "The field Notes must be a string with a maximum length of 512.")
	}
	return wrong
}

// Why an offer is not sent.
const (
	quarantinedPlan  = "plan_invalid"
	quarantinedEmail = "email_invalid"
	quarantinedName  = "name_too_long"
	quarantinedKey   = "key_invalid_guid"
	// quarantinedCloud: the cloud failed for it, and for it alone.
	quarantinedCloud = "refused_by_cloud"
	// quarantinedUnreadable: what is sealed of it cannot be opened.
	quarantinedUnreadable = "unreadable"
	// quarantinedElsewhere: it is to be removed from another organisation of the
	// cloud than the one that is connected.
	quarantinedElsewhere = "other_cloud_organization"
)

// unfit tells why an offer must not be sent, so that one that was taken over
// from elsewhere does not fail all that would be sent with it; "" if it may be.
func (o *offer) unfit(p particulars, deletion bool) string {
	key, err := uuid.Parse(o.Key)
	switch {
	case err != nil || key == uuid.Nil:
		return quarantinedKey
	case deletion:
		return ""
	case o.Plan != planFamilies:
		return quarantinedPlan
	case width(p.Email) > maxText || !isAddress(p.Email):
		return quarantinedEmail
	case width(p.Name) > maxText:
		return quarantinedName
	}
	return ""
}

var quarantineTexts = map[string]string{
	quarantinedPlan:       "Its kind of sponsorship is not known to the cloud.",
	quarantinedEmail:      "Its e-mail address is missing or not valid.",
	quarantinedName:       "Its name has more than 256 characters.",
	quarantinedKey:        "Its key is not a GUID.",
	quarantinedCloud:      "The cloud fails when it is sent; it is tried again once a week, and as soon as the same offer is made again.",
	quarantinedUnreadable: "What is stored of it cannot be decrypted; it can be revoked, or restored from a backup.",
	quarantinedElsewhere:  "It is revoked, but was sent to the organization %s of the cloud, which is not the one that is connected. It is removed there when that one is connected again; revoke it once more to forget it here and leave it there.",
}

// tryAgain has the next run send an offer that the cloud was found to fail for.
func (s *Sync) tryAgain(ctx context.Context, r *store.Record[offer]) error {
	next := *r
	next.Value.Refused = nil
	var err error
	if next.Revision, err = s.offers.Put(ctx, next, store.AtRevision(r.Revision)); err != nil {
		return err
	}
	*r = next
	return nil
}

// forget drops an offer whose removal waits for another organisation of the
// cloud to be connected, unless that one is.
func (s *Sync) forget(ctx context.Context, r store.Record[offer]) error {
	c, err := s.connections.Get(ctx, r.Parent)
	switch {
	case err == nil && !r.Value.elsewhere(c.Value.CloudOrganization):
		return nil
	case err != nil && fault.Of(err) != fault.NotFound:
		return err
	}
	if err := s.offers.Delete(ctx, r.ID, store.AtRevision(r.Revision)); fault.Of(err) != fault.NotFound {
		return err
	}
	return nil
}
