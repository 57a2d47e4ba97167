package sponsor

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// The official server's texts.
const (
	cannotSponsor      = "Specified Organization cannot sponsor other organizations."
	notConfirmed       = "Only confirmed users can sponsor other organizations."
	noAdminOffers      = "Sponsoring organization cannot send admin-initiated sponsorship invitations"
	onlyOne            = "Can only sponsor one organization per Organization User."
	noAutoscale        = "Cannot autoscale on self-hosted instance."
	notSponsoring      = "You are not currently sponsoring an organization."
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

// CreateOffer makes an offer; nothing is sent. Offering again replaces the
// member's earlier offer: that one is removed from the cloud by the next run, and
// the new one is sent after it. The same offer again changes nothing.
func (s *Sync) CreateOffer(ctx context.Context, n NewOffer) (Offer, error) {
	organization, err := guid(n.Organization)
	if err != nil {
		return Offer{}, err
	}
	member, err := guid(n.By.ID)
	if err != nil {
		return Offer{}, machine.Invalid(UnknownMember)
	}
	n.Organization, n.By.ID = organization, member
	wanted := particulars{Email: strings.TrimSpace(n.Email), Name: strings.TrimSpace(n.Name), Notes: n.Notes}
	if err := s.checkNew(ctx, n, wanted); err != nil {
		return Offer{}, err
	}
	var r store.Record[offer]
	if n.AdminInitiated && s.settings.OfferKeys == config.OfferKeysPerOffer {
		r, err = s.putKeyed(ctx, n, wanted)
	} else {
		r, err = s.putOffer(ctx, n, member, wanted)
	}
	if err != nil {
		return Offer{}, err
	}
	return s.view(ctx, r)
}

// maxNamesakes is how many offers can have been the same when they were made.
const maxNamesakes = 16

// putKeyed makes an offer that has a key of its own.
func (s *Sync) putKeyed(ctx context.Context, n NewOffer, wanted particulars) (store.Record[offer], error) {
	key, err := s.findKeyed(ctx, n, wanted)
	if err == nil && key == "" {
		key, err = s.newKey(ctx, n, wanted)
	}
	if err != nil {
		return store.Record[offer]{}, err
	}
	return s.putOffer(ctx, n, key, wanted)
}

// findKeyed gives the key of the offer that is the wanted one, whatever it was
// when it was made; "" if there is none.
func (s *Sync) findKeyed(ctx context.Context, n NewOffer, wanted particulars) (string, error) {
	lookup, err := s.listing(ctx, n.record(), wanted)
	if err != nil {
		return "", err
	}
	for r, err := range s.offers.ByLookup(ctx, lookup) {
		if err != nil {
			return "", err
		}
		if !r.Value.Admin || r.Value.Member != n.By.ID {
			continue
		}
		if same, err := s.isOffered(ctx, r, wanted); err != nil || same {
			return r.Value.Key, err
		}
	}
	return "", nil
}

// newKey gives the key of an offer that there is not: that of the same one which
// is being removed, and else the first one that is free.
func (s *Sync) newKey(ctx context.Context, n NewOffer, wanted particulars) (string, error) {
	free := ""
	for namesake := range maxNamesakes {
		key, err := s.offerKey(ctx, n, wanted, namesake)
		if err != nil {
			return "", err
		}
		r, err := s.offers.Get(ctx, offerID(n.Organization, key))
		switch {
		case fault.Of(err) == fault.NotFound:
			free = cmp.Or(free, key)
			continue
		case err != nil:
			return "", err
		case r.Value.toDelete() && r.Value.redeemed():
			continue // it lasts
		}
		before, err := s.view(ctx, r)
		if err != nil {
			return "", err
		}
		if before.offers(wanted) {
			return key, nil
		}
		// That one was made anew to another address.
	}
	if free == "" {
		return "", machine.Invalid("This offer was made anew to other addresses, or redeemed and revoked, too often. Revoke one that was made anew, or wait until one expires.")
	}
	return free, nil
}

// record is what there is of an offer before it is made.
func (n *NewOffer) record() store.Record[offer] {
	return store.Record[offer]{Parent: n.Organization, Value: offer{Member: n.By.ID, Admin: n.AdminInitiated, Plan: n.Plan}}
}

// offerKey is the key of an administrator's offer where each has its own: always
// the same for the same offer, so that of two requests the store lets one
// through. It is keyed, since who knows an address could look for it otherwise.
func (s *Sync) offerKey(ctx context.Context, n NewOffer, wanted particulars, namesake int) (string, error) {
	key, err := s.nameKey(ctx, n.Organization)
	if err != nil {
		return "", fmt.Errorf("key of the names of offers: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	// No address and no id has a line's end.
	fmt.Fprintf(mac, "offer\n%s\n%s\n%d\n%s", n.By.ID, strings.ToLower(wanted.Email), namesake, wanted.Name)
	return uuid.NewSHA1(offerIDs, mac.Sum(nil)).String(), nil
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
		return machine.Invalid(ToOneself)
	}
	current, err := s.sponsoring(ctx, n.Organization)
	if err != nil {
		return err
	}
	switch {
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

// sponsoring gives the licence of an organisation that may sponsor others by it.
func (s *Sync) sponsoring(ctx context.Context, organization string) (*installed, error) {
	current, err := s.installedLicence(ctx, organization)
	if err != nil {
		return nil, err
	}
	if current == nil || !current.Enterprise {
		return nil, machine.Invalid(cannotSponsor)
	}
	return current, nil
}

// putOffer makes an offer of a key, or makes of the one that there is what is
// wanted.
func (s *Sync) putOffer(ctx context.Context, n NewOffer, key string, wanted particulars) (store.Record[offer], error) {
	id := offerID(n.Organization, key)
	lookup, err := s.listing(ctx, n.record(), wanted)
	if err != nil {
		return store.Record[offer]{}, err
	}
	if err := s.checkListing(ctx, lookup, id); err != nil {
		return store.Record[offer]{}, err
	}
	var r store.Record[offer]
	err = store.Retry(ctx, func() (err error) {
		r, err = s.offers.Get(ctx, id)
		if fault.Of(err) == fault.NotFound {
			r = n.record()
			r.ID, r.Lookup, r.Value.Key, r.Value.State = id, lookup, key, Pending
			r.Value.Created, r.Value.Changed = s.now().UTC(), s.now().UTC()
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
		if r.Value.Refused != nil {
			if same, err := s.isOffered(ctx, r, wanted); err != nil {
				return err
			} else if same {
				return s.tryAgain(ctx, &r)
			}
		}
		if r.Value.redeemed() {
			if same, err := s.isOffered(ctx, r, wanted); err != nil || same {
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
	return !v.ToDelete && v.offers(wanted), nil
}

// offers tells whether it is of that name, and to that address.
func (o *Offer) offers(wanted particulars) bool {
	return strings.EqualFold(o.Email, wanted.Email) && o.Name == wanted.Name
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
		if !r.Value.Reissue {
			next.Value.LookupBefore = r.Lookup
		}
		next.Value.State, next.Value.Reissue = Revoking, true
		// The deletion of one that was revoked may have been sent.
		next.Value.DeleteSent = r.Value.DeleteSent || r.Value.State == Revoking && !r.Value.Reissue
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
	var taken error // of class Conflict, which is not to be tried again
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
		lookup, err := s.listing(ctx, r, wanted)
		if err != nil {
			return err
		}
		if taken = s.checkListing(ctx, lookup, r.ID); taken != nil {
			return nil
		}
		return s.putReoffer(ctx, &r, before, wanted, lookup)
	})
	if err := cmp.Or(taken, err); err != nil {
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

// Offers walks an organisation's offers, in the order of their ids: those whose
// ids are after one; all where it is empty. It stops at the first error, which it
// yields.
func (s *Sync) Offers(ctx context.Context, organization, after string) iter.Seq2[Offer, error] {
	return func(yield func(Offer, error) bool) {
		organization, err := guid(organization)
		if err != nil {
			yield(Offer{}, err)
			return
		}
		query := store.Query{Collection: s.offers.Name(), Parent: organization, After: after}
		for {
			page, err := s.documents.List(ctx, query)
			if err != nil {
				yield(Offer{}, err)
				return
			}
			for _, document := range page.Documents {
				v, err := s.viewDocument(ctx, document)
				if !yield(v, err) || err != nil {
					return
				}
			}
			if page.Next == "" {
				return
			}
			query.After = page.Next
		}
	}
}

func (s *Sync) viewDocument(ctx context.Context, document store.Document) (Offer, error) {
	r, err := s.offers.Decode(document)
	if err != nil {
		return Offer{}, err
	}
	return s.view(ctx, r)
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
// the next run. One whose removal waits for another organisation of the cloud to
// be connected is forgotten.
func (s *Sync) RevokeOffer(ctx context.Context, organization, id string) error {
	r, err := s.findOffer(ctx, organization, id)
	if fault.Of(err) == fault.NotFound {
		return machine.Invalid(notSponsoring)
	}
	if err != nil {
		return err
	}
	if r.Value.Quarantined == quarantinedElsewhere && !r.Value.Reissue {
		return s.forget(ctx, r)
	}
	return s.revoke(ctx, r.ID)
}

// RevokeOwn takes back the offer that a member made, and gives its id.
func (s *Sync) RevokeOwn(ctx context.Context, organization, member string) (string, error) {
	own, err := s.OwnOffer(ctx, organization, member)
	if fault.Of(err) == fault.NotFound {
		return "", machine.Invalid(notSponsoring)
	}
	if err != nil {
		return "", err
	}
	return own.ID, s.revoke(ctx, own.ID)
}

// RevokeNamed takes back the offer of that friendly name, in any case of
// letters, and gives its id.
func (s *Sync) RevokeNamed(ctx context.Context, organization, name string) (string, error) {
	organization, err := guid(organization)
	if err != nil {
		return "", err
	}
	lookup, err := s.nameLookup(ctx, organization, strings.TrimSpace(name))
	if err != nil {
		return "", err
	}
	if lookup == "" {
		return "", machine.Invalid(notSponsoring)
	}
	for r, err := range s.offers.ByLookup(ctx, lookup) {
		if err != nil {
			return "", err
		}
		if !r.Value.toDelete() || r.Value.Reissue {
			return r.ID, s.revoke(ctx, r.ID)
		}
	}
	return "", machine.Invalid(notSponsoring)
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
			if err := s.dropNext(ctx, &r); err != nil {
				return err
			}
		}
		r.Value.State, r.Value.Reissue, r.Value.Changed = Revoking, false, s.now().UTC()
		r.Value.forgive()
		_, err = s.offers.Put(ctx, r, store.AtRevision(r.Revision))
		return err
	})
}

// dropNext forgets the offer that waited, and what that is listed under.
func (s *Sync) dropNext(ctx context.Context, r *store.Record[offer]) error {
	r.Lookup = r.Value.LookupBefore
	p, err := s.openParticulars(ctx, r.ID, r.Value.Sealed)
	if fault.Of(err) == fault.Lost {
		return nil // nobody reads it any more
	}
	if err != nil {
		return err
	}
	p.Next = nil
	r.Value.Sealed, err = s.sealParticulars(ctx, r.ID, p)
	return err
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

// unnamed begins what offers are listed under that have no name.
const unnamed = "to "

// listing is what an offer is listed under: its name, or, where an
// administrator's has none, who offers it to whom. "": it is not listed.
func (s *Sync) listing(ctx context.Context, r store.Record[offer], p particulars) (string, error) {
	if p.Name != "" || p.Email == "" || !r.Value.Admin {
		return s.nameLookup(ctx, r.Parent, p.Name)
	}
	digest, err := s.nameLookup(ctx, r.Parent, r.Value.Member+" "+p.Email)
	return unnamed + digest, err
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

// checkListing refuses an offer that could not be told from another one.
func (s *Sync) checkListing(ctx context.Context, lookup, own string) error {
	if lookup == "" {
		return nil
	}
	for r, err := range s.offers.ByLookup(ctx, lookup) {
		if err != nil {
			return err
		}
		if r.ID == own || r.Value.toDelete() && !r.Value.Reissue {
			continue
		}
		text := "Another offer of this organization has that name. Choose a different one."
		if strings.HasPrefix(lookup, unnamed) {
			text = "Another offer of the same administrator goes to that address."
		}
		return &machine.Problem{Class: fault.Conflict, Message: text}
	}
	return nil
}
