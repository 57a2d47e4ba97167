package sponsorships

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/sponsor/cloudtime"
)

// importRequest has rows of an official server's table OrganizationSponsorship.
type importRequest struct {
	Rows []json.RawMessage `json:"rows"`
	// Unsent: rows that were never synced are to be taken, too.
	Unsent bool `json:"unsent"`
	DryRun bool `json:"dryRun"`
}

// legacyRow has the table's columns, in any case of letters.
type legacyRow struct {
	ID             string          `json:"Id"`
	Organization   *string         `json:"SponsoringOrganizationId"`
	Member         string          `json:"SponsoringOrganizationUserId"`
	FriendlyName   *string         `json:"FriendlyName"`
	Email          *string         `json:"OfferedToEmail"`
	Plan           *int            `json:"PlanSponsorshipType"`
	LastSync       *cloudtime.Time `json:"LastSyncDate"`
	ValidUntil     *cloudtime.Time `json:"ValidUntil"`
	ToDelete       bit             `json:"ToDelete"`
	AdminInitiated bit             `json:"IsAdminInitiated"`
	Notes          *string         `json:"Notes"`
}

// bit is a truth value, which some databases export as a number.
type bit bool

// UnmarshalJSON reads true, false, 1 and 0; null is false.
func (b *bit) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return nil
	}
	value, err := strconv.ParseBool(string(text))
	if err != nil {
		return errors.New("neither true nor false") // the error of strconv quotes it
	}
	*b = bit(value)
	return nil
}

// readRow reads a row, or tells what is wrong with it, quoting nothing of it.
func (h *handler) readRow(organization string, text json.RawMessage) (sponsor.LegacyOffer, string) {
	var row legacyRow
	if err := json.Unmarshal(text, &row); err != nil {
		if mistyped, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && mistyped.Field != "" {
			return sponsor.LegacyOffer{}, "Its " + mistyped.Field + " is of another type."
		}
		return sponsor.LegacyOffer{}, "It is not a JSON object of a row, or one of its dates or truth values is none."
	}
	if row.Organization != nil && !strings.EqualFold(*row.Organization, organization) {
		return sponsor.LegacyOffer{}, "Its SponsoringOrganizationId is that of another organization."
	}
	legacy := sponsor.LegacyOffer{
		ID: row.ID, OrganizationUserID: row.Member, FriendlyName: given(row.FriendlyName), Email: given(row.Email),
		LastSync: moment(row.LastSync), ValidUntil: moment(row.ValidUntil),
		ToDelete: bool(row.ToDelete), AdminInitiated: bool(row.AdminInitiated), Notes: given(row.Notes),
	}
	if row.Plan != nil {
		legacy.Plan = *row.Plan
	} else if !legacy.ToDelete {
		return sponsor.LegacyOffer{}, "Its PlanSponsorshipType is missing."
	}
	return legacy, h.sync.CheckRow(legacy)
}

// given is empty for null.
func given(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

func moment(t *cloudtime.Time) *time.Time {
	if t == nil || t.IsZero() {
		return nil
	}
	return &t.Time
}

// importAnswer counts the rows. Those that are bad are not taken, and are told by
// their place in the request, from 0 on.
type importAnswer struct {
	Object  string `json:"object"`
	DryRun  bool   `json:"dryRun"`
	Taken   int    `json:"taken"`
	Rekeyed int    `json:"rekeyed"`
	Known   int    `json:"known"`
	Dropped int    `json:"dropped"`
	// Unsent are those that were never synced. Message tells what is to be known
	// of them; null if there are none.
	Unsent  int      `json:"unsent"`
	Message *string  `json:"message"`
	Bad     []badRow `json:"bad"`
}

// unsentMessage tells of rows that the cloud would mail.
func unsentMessage(n int, wanted bool) *string {
	text := ""
	switch {
	case n > 0 && wanted:
		text = fmt.Sprintf("%d rows were never synced: the cloud mails them as new offers.", n)
	case n > 0:
		text = fmt.Sprintf(`%d rows were never synced, and are not taken: the cloud would mail them as new offers. With "unsent": true they are taken, too.`, n)
	}
	return optional(text)
}

type badRow struct {
	Row     int    `json:"row"`
	Problem string `json:"problem"`
}

// importOffers is for owners: whoever imports can have the cloud mail anybody.
func (h *handler) importOffers(r smapi.Request) (string, any, error) {
	organization, err := h.owner(r, r.PathValue("org"))
	if err != nil {
		return "", nil, err
	}
	var body importRequest
	if err := r.Read(&body); err != nil {
		return "", nil, err
	}
	if body.Rows == nil {
		return "", nil, machine.Fields{"Rows": {"The Rows field is required."}}.Problem()
	}
	answer := importAnswer{Object: "importedOffers", DryRun: body.DryRun, Bad: []badRow{}}
	rows := make([]sponsor.LegacyOffer, 0, len(body.Rows))
	for i, text := range body.Rows {
		row, wrong := h.readRow(organization, text)
		if wrong != "" {
			answer.Bad = append(answer.Bad, badRow{i, wrong})
			continue
		}
		rows = append(rows, row)
	}
	done, err := h.sync.Import(r.Context(), sponsor.Import{Organization: organization, Rows: rows, Unsent: body.Unsent, DryRun: body.DryRun})
	answer.Taken, answer.Rekeyed, answer.Known, answer.Dropped = done.Taken, done.Rekeyed, done.Known, done.Dropped
	answer.Unsent, answer.Message = done.Unsent, unsentMessage(done.Unsent, body.Unsent)
	return organization, answer, err
}
