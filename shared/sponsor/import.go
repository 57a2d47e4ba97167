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

// Check tells what is wrong with a row, in sentences that quote nothing of it;
// empty if nothing is. What Check finds wrong besides the ids, Import takes all
// the same, and no run sends it.
func (l *LegacyOffer) Check() string {
	var wrong []string
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
}

// importedRow says that a row was taken over, so that it does not come back by
// another import after it was revoked. Its id is the organisation's and the
// row's.
type importedRow struct {
	At time.Time `json:"at"`
}

// Import takes over the rows of an official server. Of several with one key the
// one that was synced first keeps it; where they do not all come at once, the
// one that comes first. It is safe to repeat.
func (s *Sync) Import(ctx context.Context, organization string, rows []LegacyOffer) (Imported, error) {
	return s.importRows(ctx, organization, rows, false)
}

// TryImport tells what Import would do, and does nothing.
func (s *Sync) TryImport(ctx context.Context, organization string, rows []LegacyOffer) (Imported, error) {
	return s.importRows(ctx, organization, rows, true)
}

// importing is an import under way.
type importing struct {
	*Sync
	organization string
	dry          bool
	done         Imported
}

func (s *Sync) importRows(ctx context.Context, organization string, rows []LegacyOffer, dry bool) (Imported, error) {
	organization, err := guid(organization)
	if err != nil {
		return Imported{}, err
	}
	byKey := map[string][]LegacyOffer{}
	for n, row := range rows {
		member, memberErr := guid(row.OrganizationUserID)
		id, idErr := guid(row.ID)
		if err := errors.Join(memberErr, idErr); err != nil {
			return Imported{}, machine.Invalid("Row %d has no GUID as its id, or as that of its member.", n)
		}
		row.OrganizationUserID, row.ID = member, id
		byKey[member] = append(byKey[member], row)
	}
	i := &importing{Sync: s, organization: organization, dry: dry}
	for _, member := range slices.Sorted(maps.Keys(byKey)) {
		same := byKey[member]
		slices.SortFunc(same, olderFirst)
		for n, row := range same {
			if err := i.take(ctx, row, n > 0); err != nil {
				return i.done, fmt.Errorf("row %s: %w", row.ID, err)
			}
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

// take takes over one row, unless that was done before.
func (i *importing) take(ctx context.Context, row LegacyOffer, rekey bool) error {
	mark := store.Record[importedRow]{ID: i.organization + "/" + row.ID, Parent: i.organization, Value: importedRow{i.now().UTC()}}
	switch _, err := i.imports.Get(ctx, mark.ID); {
	case err == nil:
		i.done.Known++
		return nil
	case fault.Of(err) != fault.NotFound:
		return err
	}
	dropped := i.done.Dropped
	err := store.Retry(ctx, func() error {
		err := i.offer(ctx, row, rekey)
		if errors.Is(err, errKeyTaken) {
			// By a row of an import before this one.
			err = i.offer(ctx, row, true)
		}
		return err
	})
	if err != nil || i.dry || i.done.Dropped > dropped {
		return err
	}
	_, err = i.imports.Put(ctx, mark, store.Any())
	return err
}

// offer makes an offer of a row, with its own key or with one that no other row
// has.
func (i *importing) offer(ctx context.Context, row LegacyOffer, rekey bool) error {
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
	r := store.Record[offer]{ID: offerID(i.organization, o.Key), Parent: i.organization, Value: o}
	switch before, err := i.offers.Get(ctx, r.ID); {
	case fault.Of(err) == fault.NotFound:
		if err := i.put(ctx, r, row); err != nil {
			return err
		}
		i.done.Taken++
		if rekey {
			i.done.Rekeyed++
		}
	case err != nil:
		return err
	case before.Value.Row != "" && before.Value.Row != row.ID:
		return errKeyTaken
	default:
		i.done.Known++
	}
	return nil
}

func (i *importing) put(ctx context.Context, r store.Record[offer], row LegacyOffer) (err error) {
	if i.dry {
		return nil
	}
	if r.Lookup, err = i.nameLookup(ctx, i.organization, row.FriendlyName); err != nil {
		return err
	}
	if r.Value.Sealed, err = i.sealParticulars(ctx, r.ID, particulars{Email: row.Email, Name: row.FriendlyName, Notes: row.Notes}); err != nil {
		return err
	}
	_, err = i.offers.Put(ctx, r, store.Absent())
	return err
}
