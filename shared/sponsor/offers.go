package sponsor

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// The official server's texts.
const (
	toOneself          = "Cannot offer a Families Organization Sponsorship to yourself. Choose a different email."
	cannotSponsor      = "Specified Organization cannot sponsor other organizations."
	notConfirmed       = "Only confirmed users can sponsor other organizations."
	noAdminOffers      = "Sponsoring organization cannot send admin-initiated sponsorship invitations"
	onlyOne            = "Can only sponsor one organization per Organization User."
	noAutoscale        = "Cannot autoscale on self-hosted instance."
	notSponsoring      = "You are not currently sponsoring an organization."
	unknownMember      = "Unknown Organization User"
	noManagerOfMembers = "You do not have permissions to send sponsorships on behalf of the organization."
)

// Member is who offers something.
type Member struct {
	// ID is the organisation user's GUID.
	ID    string
	Email string
	// Confirmed: the member's place in the organisation is.
	Confirmed bool
	// Manager: an owner, an administrator, or somebody who manages members.
	Manager bool
}

// NewOffer is what a member offers.
type NewOffer struct {
	Organization string
	By           Member
	Plan         int
	Email        string
	// Name is the friendly name, by which clients revoke; it may be empty.
	Name string
	// Notes are encrypted by the client.
	Notes string
	// AdminInitiated offers are in the name of the organisation.
	AdminInitiated bool
}

// CreateOffer makes an offer; nothing is sent. What a member offers in the place
// of an earlier offer becomes of it: the one before is removed from the cloud by
// the next run, and the new one sent after it. The same offer again changes
// nothing.
func (s *Sync) CreateOffer(ctx context.Context, n NewOffer) (Offer, error) {
	organization, err := guid(n.Organization)
	if err != nil {
		return Offer{}, err
	}
	member, err := guid(n.By.ID)
	if err != nil {
		return Offer{}, machine.Invalid(unknownMember)
	}
	n.Organization, n.By.ID = organization, member
	wanted := particulars{Email: strings.TrimSpace(n.Email), Name: strings.TrimSpace(n.Name), Notes: n.Notes}
	if err := s.checkNew(ctx, n, wanted); err != nil {
		return Offer{}, err
	}
	key := member
	if n.AdminInitiated && s.settings.OfferKeys == config.OfferKeysPerOffer {
		key = uuid.NewString()
	}
	r, err := s.putOffer(ctx, n, key, wanted)
	if err != nil {
		return Offer{}, err
	}
	return s.view(ctx, r)
}

// checkNew refuses in the order of the official server.
func (s *Sync) checkNew(ctx context.Context, n NewOffer, wanted particulars) error {
	wrong := checkTexts(wanted)
	if n.Plan != planFamilies {
		wrong["PlanSponsorshipType"] = append(wrong["PlanSponsorshipType"], "The PlanSponsorshipType field is not a kind of sponsorship.")
	}
	if err := wrong.Problem(); err != nil {
		return err
	}
	if strings.EqualFold(wanted.Email, strings.TrimSpace(n.By.Email)) {
		return machine.Invalid(toOneself)
	}
	current, err := s.installedLicence(ctx, n.Organization)
	if err != nil {
		return err
	}
	switch {
	case current == nil || !current.Enterprise:
		return machine.Invalid(cannotSponsor)
	case !n.By.Confirmed:
		return machine.Invalid(notConfirmed)
	case !n.AdminInitiated:
		return nil
	case !n.By.Manager:
		return machine.Refused(noManagerOfMembers)
	case !current.AdminOffers:
		return machine.Invalid(noAdminOffers)
	}
	return s.checkSeat(ctx, n.Organization, current)
}

// checkSeat: an offer of an administrator takes a seat.
func (s *Sync) checkSeat(ctx context.Context, organization string, current *installed) error {
	if s.usage == nil || current.Seats == nil {
		return nil
	}
	usage, err := s.usage(ctx, organization)
	if err != nil {
		return fmt.Errorf("what the organisation uses: %w", err)
	}
	if usage.Seats >= *current.Seats {
		return machine.Invalid(noAutoscale)
	}
	return nil
}

func (s *Sync) putOffer(ctx context.Context, n NewOffer, key string, wanted particulars) (store.Record[offer], error) {
	id := offerID(n.Organization, key)
	lookup, err := s.nameLookup(ctx, n.Organization, wanted.Name)
	if err != nil {
		return store.Record[offer]{}, err
	}
	if err := s.checkName(ctx, lookup, id); err != nil {
		return store.Record[offer]{}, err
	}
	var r store.Record[offer]
	err = store.Retry(ctx, func() (err error) {
		r, err = s.offers.Get(ctx, id)
		if fault.Of(err) == fault.NotFound {
			r = store.Record[offer]{ID: id, Parent: n.Organization, Lookup: lookup, Value: offer{
				Member: n.By.ID, Key: key, Plan: n.Plan, Admin: n.AdminInitiated, State: Pending, Created: s.now().UTC(), Changed: s.now().UTC(),
			}}
			if r.Value.Sealed, err = s.sealParticulars(ctx, id, wanted); err != nil {
				return err
			}
			r.Revision, err = s.offers.Put(ctx, r, store.Absent())
			return err
		}
		if err != nil {
			return err
		}
		if r.Value.Admin != n.AdminInitiated {
			return machine.Invalid("The member's one offer key is in use: offers of an administrator are known to the cloud by the administrator, who can make one offer in all. Revoke the other one, or set %sOFFER_KEYS=%s.", config.Prefix, config.OfferKeysPerOffer)
		}
		if r.Value.State == RevokedUntilExpiry || r.Value.State == Active {
			if same, err := s.isOffered(ctx, r, wanted); err != nil || same && r.Value.State == Active {
				return err
			}
			return machine.Invalid(onlyOne)
		}
		if n.AdminInitiated && !r.Value.toDelete() {
			if same, err := s.isOffered(ctx, r, wanted); err != nil || same {
				return err
			}
			return machine.Invalid("Offers of an administrator are known to the cloud by the administrator, who can make one offer. Revoke the other one, or set %sOFFER_KEYS=%s.", config.Prefix, config.OfferKeysPerOffer)
		}
		return s.reoffer(ctx, &r, wanted, lookup)
	})
	return r, err
}

// isOffered tells whether an offer is what somebody wants to offer.
func (s *Sync) isOffered(ctx context.Context, r store.Record[offer], wanted particulars) (bool, error) {
	v, err := s.view(ctx, r)
	if err != nil {
		return false, err
	}
	return !v.ToDelete && strings.EqualFold(v.Email, wanted.Email) && v.Name == wanted.Name, nil
}

// reoffer makes of an offer that nobody redeemed another, in its place if the
// cloud cannot know it, and else after its removal there.
func (s *Sync) reoffer(ctx context.Context, r *store.Record[offer], wanted particulars, lookup string) error {
	if same, err := s.isOffered(ctx, *r, wanted); err != nil || same {
		return err
	}
	before, err := s.openParticulars(ctx, r.ID, r.Value.Sealed)
	if err != nil {
		return err
	}
	return s.putReoffer(ctx, r, before, wanted, lookup)
}

func (s *Sync) putReoffer(ctx context.Context, r *store.Record[offer], before, wanted particulars, lookup string) error {
	next := *r
	next.Lookup, next.Value.Changed = lookup, s.now().UTC()
	become := wanted
	if r.Value.FirstAttempt != nil {
		become = before
		become.Next = &wanted
		next.Value.State, next.Value.Reissue = Revoking, true
	}
	next.Value.forgive()
	var err error
	if next.Value.Sealed, err = s.sealParticulars(ctx, r.ID, become); err != nil {
		return err
	}
	if next.Revision, err = s.offers.Put(ctx, next, store.AtRevision(r.Revision)); err != nil {
		return err
	}
	*r = next
	return nil
}

// Reissue is an offer made anew: to be mailed again, or to another address.
type Reissue struct {
	Organization, ID string
	// Email and Name are those of the offer where they are empty.
	Email, Name string
}

// ReissueOffer has an offer removed from the cloud and made anew there, by one
// run. It is refused for one that was redeemed or revoked.
func (s *Sync) ReissueOffer(ctx context.Context, re Reissue) (Offer, error) {
	r, err := s.findOffer(ctx, re.Organization, re.ID)
	if err != nil {
		return Offer{}, err
	}
	err = store.Retry(ctx, func() (err error) {
		if r, err = s.offers.Get(ctx, r.ID); err != nil {
			return err
		}
		switch {
		case r.Value.ValidUntil != nil:
			return machine.Invalid("The offer was redeemed, and cannot be made anew.")
		case r.Value.State == Revoking && !r.Value.Reissue:
			return machine.Invalid("The offer was revoked. Make another one.")
		}
		before, err := s.openParticulars(ctx, r.ID, r.Value.Sealed)
		if err != nil {
			return err
		}
		wanted := before
		if before.Next != nil {
			wanted = *before.Next
		}
		before.Next, wanted.Next = nil, nil
		wanted.Email = cmp.Or(strings.TrimSpace(re.Email), wanted.Email)
		wanted.Name = cmp.Or(strings.TrimSpace(re.Name), wanted.Name)
		if err := checkTexts(wanted).Problem(); err != nil {
			return err
		}
		lookup, err := s.nameLookup(ctx, r.Parent, wanted.Name)
		if err != nil {
			return err
		}
		if err := s.checkName(ctx, lookup, r.ID); err != nil {
			return err
		}
		return s.putReoffer(ctx, &r, before, wanted, lookup)
	})
	if err != nil {
		return Offer{}, err
	}
	return s.view(ctx, r)
}

// findOffer gives an offer of an organisation.
func (s *Sync) findOffer(ctx context.Context, organization, id string) (store.Record[offer], error) {
	organization, err := guid(organization)
	if err != nil {
		return store.Record[offer]{}, err
	}
	if id, err = guid(id); err != nil {
		return store.Record[offer]{}, err
	}
	r, err := s.offers.Get(ctx, id)
	if fault.Of(err) == fault.NotFound || err == nil && r.Parent != organization {
		return store.Record[offer]{}, machine.NotFound()
	}
	return r, err
}

// Offer gives one offer.
func (s *Sync) Offer(ctx context.Context, organization, id string) (Offer, error) {
	r, err := s.findOffer(ctx, organization, id)
	if err != nil {
		return Offer{}, err
	}
	return s.view(ctx, r)
}

// Offers walks an organisation's offers, in the order of their ids. It stops at
// the first error, which it yields.
func (s *Sync) Offers(ctx context.Context, organization string) iter.Seq2[Offer, error] {
	return func(yield func(Offer, error) bool) {
		organization, err := guid(organization)
		if err != nil {
			yield(Offer{}, err)
			return
		}
		for r, err := range s.offers.ByParent(ctx, organization) {
			var v Offer
			if err == nil {
				v, err = s.view(ctx, r)
			}
			if !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// OwnOffer gives the offer that a member made; NotFound if there is none, or it
// is one of an administrator's.
func (s *Sync) OwnOffer(ctx context.Context, organization, member string) (Offer, error) {
	organization, err := guid(organization)
	if err != nil {
		return Offer{}, err
	}
	if member, err = guid(member); err != nil {
		return Offer{}, err
	}
	v, err := s.Offer(ctx, organization, offerID(organization, member))
	if err == nil && v.AdminInitiated {
		return Offer{}, machine.NotFound()
	}
	return v, err
}

// RevokeOffer takes an offer back: at once if the cloud cannot know it, else by
// the next run.
func (s *Sync) RevokeOffer(ctx context.Context, organization, id string) error {
	r, err := s.findOffer(ctx, organization, id)
	if fault.Of(err) == fault.NotFound {
		return machine.Invalid(notSponsoring)
	}
	if err != nil {
		return err
	}
	return s.revoke(ctx, r.ID)
}

// RevokeOwn takes back the offer that a member made.
func (s *Sync) RevokeOwn(ctx context.Context, organization, member string) error {
	own, err := s.OwnOffer(ctx, organization, member)
	if fault.Of(err) == fault.NotFound {
		return machine.Invalid(notSponsoring)
	}
	if err != nil {
		return err
	}
	return s.revoke(ctx, own.ID)
}

// RevokeNamed takes back the offer of that friendly name, in any case of
// letters.
func (s *Sync) RevokeNamed(ctx context.Context, organization, name string) error {
	organization, err := guid(organization)
	if err != nil {
		return err
	}
	lookup, err := s.nameLookup(ctx, organization, strings.TrimSpace(name))
	if err != nil {
		return err
	}
	if lookup == "" {
		return machine.Invalid(notSponsoring)
	}
	for r, err := range s.offers.ByLookup(ctx, lookup) {
		if err != nil {
			return err
		}
		if !r.Value.toDelete() || r.Value.Reissue {
			return s.revoke(ctx, r.ID)
		}
	}
	return machine.Invalid(notSponsoring)
}

// revoke is done again for as long as a run, or anybody, writes the same offer.
func (s *Sync) revoke(ctx context.Context, id string) error {
	return store.Retry(ctx, func() error {
		r, err := s.offers.Get(ctx, id)
		switch {
		case fault.Of(err) == fault.NotFound:
			return nil // a run was told to remove it before
		case err != nil:
			return err
		case r.Value.FirstAttempt == nil:
			err := s.offers.Delete(ctx, id, store.AtRevision(r.Revision))
			if fault.Of(err) == fault.NotFound {
				return nil
			}
			return err
		case r.Value.toDelete() && !r.Value.Reissue:
			return nil
		}
		if r.Value.Reissue {
			p, err := s.openParticulars(ctx, id, r.Value.Sealed)
			if err != nil {
				return err
			}
			p.Next = nil
			if r.Value.Sealed, err = s.sealParticulars(ctx, id, p); err != nil {
				return err
			}
		}
		r.Value.State, r.Value.Reissue, r.Value.Changed = Revoking, false, s.now().UTC()
		r.Value.forgive()
		_, err = s.offers.Put(ctx, r, store.AtRevision(r.Revision))
		return err
	})
}

// RemoveMember takes back all that a member offered who has left the
// organisation, and tells how many offers that were.
func (s *Sync) RemoveMember(ctx context.Context, organization, member string) (int, error) {
	organization, err := guid(organization)
	if err != nil {
		return 0, err
	}
	if member, err = guid(member); err != nil {
		return 0, err
	}
	removed := 0
	for r, err := range s.offers.ByParent(ctx, organization) {
		if err != nil {
			return removed, err
		}
		if r.Value.Member != member || r.Value.toDelete() && !r.Value.Reissue {
			continue
		}
		if err := s.revoke(ctx, r.ID); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// nameKey keys the digests that friendly names are found by: names are
// guessable, and are sealed elsewhere.
type nameKey struct {
	Sealed []byte `json:"sealed"`
}

// nameLookup is what an offer of that name is listed under; "" for no name.
func (s *Sync) nameLookup(ctx context.Context, organization, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	key, err := s.nameKey(ctx, organization)
	if err != nil {
		return "", fmt.Errorf("key of the names of offers: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(strings.ToLower(name)))
	return hex.EncodeToString(mac.Sum(nil)), nil
}

// maxNameKeys bounds the memory of opened keys.
const maxNameKeys = 1_000

func (s *Sync) nameKey(ctx context.Context, organization string) ([]byte, error) {
	s.mu.Lock()
	key, ok := s.names[organization]
	s.mu.Unlock()
	if ok {
		return key, nil
	}
	subject := keyring.Subject{Collection: s.nameKeys.Name(), ID: organization, Field: "key"}
	r, err := s.nameKeys.Get(ctx, organization)
	if fault.Of(err) == fault.NotFound {
		made := make([]byte, sha256.Size)
		if _, err := rand.Read(made); err != nil {
			return nil, err
		}
		r = store.Record[nameKey]{ID: organization}
		if r.Value.Sealed, err = s.ring.Seal(ctx, subject, made); err != nil {
			return nil, err
		}
		// Conflict: somebody else's came first, and is the one.
		if _, err := s.nameKeys.Put(ctx, r, store.Absent()); err != nil && fault.Of(err) != fault.Conflict {
			return nil, err
		}
		r, err = s.nameKeys.Get(ctx, organization)
		if err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	if key, err = s.ring.Open(ctx, subject, r.Value.Sealed); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.names) >= maxNameKeys {
		clear(s.names)
	}
	s.names[organization] = key
	return key, nil
}

// checkName refuses a friendly name that another offer has, which could not be
// told from it.
func (s *Sync) checkName(ctx context.Context, lookup, own string) error {
	if lookup == "" {
		return nil
	}
	for r, err := range s.offers.ByLookup(ctx, lookup) {
		if err != nil {
			return err
		}
		if r.ID != own && (!r.Value.toDelete() || r.Value.Reissue) {
			return &machine.Problem{Class: fault.Conflict, Message: "Another offer of this organization has that name. Choose a different one."}
		}
	}
	return nil
}

// LegacyOffer is a row of an official server's table of sponsorships.
type LegacyOffer struct {
	ID                   string
	OrganizationUserID   string
	FriendlyName         string
	Email                string
	Plan                 int
	LastSync, ValidUntil *time.Time
	ToDelete             bool
	AdminInitiated       bool
	Notes                string
}

// Imported tells what became of rows.
type Imported struct {
	Taken int
	// Rekeyed are those of Taken that shared their key with an older one, and
	// will be sent as new offers.
	Rekeyed int
	// Known are those that are here already, by an earlier import or otherwise.
	Known int
	// Dropped are revoked rows whose key belongs to another: there is nothing of
	// theirs to remove from the cloud.
	Dropped int
}

// Import takes over the rows of an official server. Of several with one key the
// one that was synced first keeps it. It is safe to repeat.
func (s *Sync) Import(ctx context.Context, organization string, rows []LegacyOffer) (Imported, error) {
	var done Imported
	organization, err := guid(organization)
	if err != nil {
		return done, err
	}
	byKey := map[string][]LegacyOffer{}
	for i, row := range rows {
		member, memberErr := guid(row.OrganizationUserID)
		id, idErr := guid(row.ID)
		if err := errors.Join(memberErr, idErr); err != nil {
			return done, machine.Invalid("Row %d has no GUID as its id, or as that of its member.", i)
		}
		row.OrganizationUserID, row.ID = member, id
		byKey[member] = append(byKey[member], row)
	}
	for _, member := range slices.Sorted(maps.Keys(byKey)) {
		same := byKey[member]
		slices.SortFunc(same, olderFirst)
		for i, row := range same {
			if err := s.importRow(ctx, organization, row, i > 0, &done); err != nil {
				return done, fmt.Errorf("row %s: %w", row.ID, err)
			}
		}
	}
	return done, nil
}

// olderFirst sorts by the first sync, then those that were never synced.
func olderFirst(a, b LegacyOffer) int {
	switch {
	case a.LastSync == nil && b.LastSync == nil:
		return strings.Compare(a.ID, b.ID)
	case a.LastSync == nil:
		return 1
	case b.LastSync == nil:
		return -1
	}
	return cmp.Or(a.LastSync.Compare(*b.LastSync), strings.Compare(a.ID, b.ID))
}

func (s *Sync) importRow(ctx context.Context, organization string, row LegacyOffer, rekey bool, done *Imported) error {
	now := s.now().UTC()
	o := offer{
		Member: row.OrganizationUserID, Key: row.OrganizationUserID, Plan: row.Plan, Admin: row.AdminInitiated,
		Created: now, Changed: now, LastSync: row.LastSync, ValidUntil: row.ValidUntil,
		// It may have been sent, and the answer lost: that was not noted there.
		FirstAttempt: &now,
	}
	if rekey {
		if row.ToDelete {
			done.Dropped++
			return nil
		}
		o.Key, o.LastSync, o.ValidUntil, o.FirstAttempt = uuid.NewSHA1(offerIDs, []byte("row "+row.ID)).String(), nil, nil, nil
	}
	o.settle()
	if row.ToDelete {
		o.State = Revoking
		if row.ValidUntil != nil {
			o.State = RevokedUntilExpiry
		}
	}
	r := store.Record[offer]{ID: offerID(organization, o.Key), Parent: organization, Value: o}
	var err error
	if r.Lookup, err = s.nameLookup(ctx, organization, row.FriendlyName); err != nil {
		return err
	}
	if r.Value.Sealed, err = s.sealParticulars(ctx, r.ID, particulars{Email: row.Email, Name: row.FriendlyName, Notes: row.Notes}); err != nil {
		return err
	}
	switch _, err := s.offers.Put(ctx, r, store.Absent()); {
	case fault.Of(err) == fault.Conflict:
		done.Known++
	case err != nil:
		return err
	default:
		done.Taken++
		if rekey {
			done.Rekeyed++
		}
	}
	return nil
}
