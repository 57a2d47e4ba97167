package sponsor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
)

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

// maxAhead is how far ahead of the clock a row may have been synced: clocks
// differ. A date of the future would stay, as no answer of the cloud is newer.
const maxAhead = 5 * time.Minute

// CheckRow tells what is wrong with a row, in sentences that quote nothing of it;
// empty if nothing is. What it finds wrong besides the ids and the date, Import
// takes all the same, and no run sends it.
func (s *Sync) CheckRow(l LegacyOffer) string {
	var wrong []string
	if s.isAhead(l.LastSync) {
		wrong = append(wrong, "Its LastSyncDate is in the future.")
	}
	if _, err := guid(l.ID); err != nil {
		wrong = append(wrong, "Its Id is not a GUID.")
	}
	if _, err := guid(l.OrganizationUserID); err != nil {
		wrong = append(wrong, "Its SponsoringOrganizationUserId is not a GUID.")
	}
	if width(l.Notes) > maxNotes {
		wrong = append(wrong, "Its notes have more than 512 characters.")
	}
	o := offer{Key: uuid.Max.String(), Plan: l.Plan}
	if why := o.unfit(particulars{Email: l.Email, Name: l.FriendlyName}, l.ToDelete); why != "" {
		wrong = append(wrong, quarantineTexts[why])
	}
	return strings.Join(wrong, " ")
}

func (s *Sync) isAhead(t *time.Time) bool { return t != nil && t.Sub(s.now()) > maxAhead }

// Import is what is to be taken over from an official server.
type Import struct {
	Organization string
	Rows         []LegacyOffer
	// Unsent: rows that were never synced are wanted, too, which the cloud mails as
	// new offers.
	Unsent bool
	// DryRun: only tell what would be done.
	DryRun bool
}

// Imported tells what became of rows.
type Imported struct {
	Taken int
	// Rekeyed are those of Taken that shared their key with an older one, and
	// will be sent as new offers.
	Rekeyed int
	// Known are those that are here already, by an earlier import or otherwise,
	// and those of an earlier import that are gone since.
	Known int
	// Dropped are revoked rows whose key belongs to another: there is nothing of
	// theirs to remove from the cloud.
	Dropped int
	// Unsent are those that were never synced. They are of Taken if they were
	// wanted, and otherwise not taken.
	Unsent int
}

// importedRow says that a row was taken over, so that it does not come back by
// another import after it was revoked. Its id is the organisation's and the
// row's.
type importedRow struct {
	At time.Time `json:"at"`
}

// importing is an import under way.
type importing struct {
	*Sync
	Import
	done Imported
}

// Import takes over the rows of an official server. Of several with one key the
// one that was synced first keeps it; where they do not all come at once, the
// one that comes first. It is safe to repeat.
func (s *Sync) Import(ctx context.Context, in Import) (Imported, error) {
	organization, err := guid(in.Organization)
	if err != nil {
		return Imported{}, err
	}
	in.Organization = organization
	if _, err := s.sponsoring(ctx, organization); err != nil {
		return Imported{}, err
	}
	byKey := map[string][]LegacyOffer{}
	for n, row := range in.Rows {
		member, memberErr := guid(row.OrganizationUserID)
		id, idErr := guid(row.ID)
		if err := errors.Join(memberErr, idErr); err != nil {
			return Imported{}, machine.Invalid("Row %d has no GUID as its id, or as that of its member.", n)
		}
		if s.isAhead(row.LastSync) {
			return Imported{}, machine.Invalid("Row %d was synced in the future.", n)
		}
		row.OrganizationUserID, row.ID = member, id
		byKey[member] = append(byKey[member], row)
	}
	i := &importing{Sync: s, Import: in}
	for _, member := range slices.Sorted(maps.Keys(byKey)) {
		same := byKey[member]
		slices.SortFunc(same, olderFirst)
		held := false
		for _, row := range same {
			here, err := i.take(ctx, row, held)
			if err != nil {
				return i.done, fmt.Errorf("row %s: %w", row.ID, err)
			}
			held = held || here
		}
	}
	return i.done, nil
}

// errKeyTaken is of a key that another row has.
var errKeyTaken = errors.New("another row has the key")

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

// take takes over one row, unless that was done before, and tells whether it is
// taken over. held: an older row has its key.
func (i *importing) take(ctx context.Context, row LegacyOffer, held bool) (here bool, err error) {
	mark := store.Record[importedRow]{ID: i.Organization + "/" + row.ID, Parent: i.Organization, Value: importedRow{i.now().UTC()}}
	switch _, err := i.imports.Get(ctx, mark.ID); {
	case err == nil:
		i.done.Known++
		return true, nil
	case fault.Of(err) != fault.NotFound:
		return false, err
	}
	err = store.Retry(ctx, func() (err error) {
		here, err = i.offer(ctx, row, held)
		if errors.Is(err, errKeyTaken) {
			// By a row of an import before this one.
			here, err = i.offer(ctx, row, true)
		}
		return err
	})
	if err != nil || i.DryRun || !here {
		return here, err
	}
	_, err = i.imports.Put(ctx, mark, store.Any())
	return here, err
}

// offer makes an offer of a row, with its own key or with one that no other row
// has, and tells whether there is one.
func (i *importing) offer(ctx context.Context, row LegacyOffer, rekey bool) (bool, error) {
	now := i.now().UTC()
	o := offer{
		Member: row.OrganizationUserID, Key: row.OrganizationUserID, Plan: row.Plan, Admin: row.AdminInitiated, Row: row.ID,
		Created: now, Changed: now, LastSync: row.LastSync, ValidUntil: row.ValidUntil,
		// It may have been sent, and the answer lost: that was not noted there.
		FirstAttempt: &now,
	}
	if rekey {
		if row.ToDelete {
			i.done.Dropped++
			return false, nil
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
	r := store.Record[offer]{ID: offerID(i.Organization, o.Key), Parent: i.Organization, Value: o}
	switch before, err := i.offers.Get(ctx, r.ID); {
	case err == nil && before.Value.Row != "" && before.Value.Row != row.ID:
		return false, errKeyTaken
	case err == nil:
		i.done.Known++
		return true, nil
	case fault.Of(err) != fault.NotFound:
		return false, err
	}
	unsent := row.LastSync == nil && !row.ToDelete
	if unsent && !i.Unsent {
		i.done.Unsent++
		return false, nil
	}
	if err := i.put(ctx, r, row); err != nil {
		return false, err
	}
	i.done.Taken++
	if unsent {
		i.done.Unsent++
	}
	if rekey {
		i.done.Rekeyed++
	}
	return true, nil
}

func (i *importing) put(ctx context.Context, r store.Record[offer], row LegacyOffer) (err error) {
	if i.DryRun {
		return nil
	}
	p := particulars{Email: row.Email, Name: row.FriendlyName, Notes: row.Notes}
	if r.Lookup, err = i.listing(ctx, r, p); err != nil {
		return err
	}
	if r.Value.Sealed, err = i.sealParticulars(ctx, r.ID, p); err != nil {
		return err
	}
	_, err = i.offers.Put(ctx, r, store.Absent())
	return err
}
