package cloud

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor/cloudtime"
)

// Offer is a sponsorship as it is sent.
type Offer struct {
	// Key is the only name that the cloud knows it by; a GUID.
	Key          string
	FriendlyName *string
	Email        *string
	// Plan is a PlanSponsorshipType; 0 is the only one there is.
	Plan int
	// LastSync has to be nil with ToDelete: otherwise a deletion that is sent
	// twice makes the offer anew, with another mail.
	LastSync   *time.Time
	ValidUntil *time.Time
	ToDelete   bool
}

// SyncRequest is one batch, at most config.MaxSyncBatch offers with different
// keys. An empty one only tells whether the key is good.
type SyncRequest struct {
	BillingSyncKey      config.Secret
	CloudOrganizationID string
	Offers              []Offer
}

// Synced is what the cloud answered about one offer. What it merely echoes is
// left out.
type Synced struct {
	// Key is as sent, in small letters. It is not checked against the request.
	Key        string
	LastSync   *time.Time
	ValidUntil *time.Time
	// Removed: a deletion took effect, or there was nothing to delete.
	Removed bool
}

// syncBody is the request as the official client writes it: every member is
// there, and null where it has no value.
type syncBody struct {
	BillingSyncKey string      `json:"billingSyncKey"`
	CloudID        string      `json:"sponsoringOrganizationCloudId"`
	Batch          []offerBody `json:"sponsorshipsBatch"`
}

type offerBody struct {
	Key          string          `json:"sponsoringOrganizationUserId"`
	FriendlyName *string         `json:"friendlyName"`
	Email        *string         `json:"offeredToEmail"`
	Plan         int             `json:"planSponsorshipType"`
	LastSync     *cloudtime.Time `json:"lastSyncDate"`
	ValidUntil   *cloudtime.Time `json:"validUntil"`
	ToDelete     bool            `json:"toDelete"`
}

type syncedBody struct {
	Key        string          `json:"sponsoringOrganizationUserId"`
	LastSync   *cloudtime.Time `json:"lastSyncDate"`
	ValidUntil *cloudtime.Time `json:"validUntil"`
	Removed    bool            `json:"cloudSponsorshipRemoved"`
}

// Sync sends one batch and gives the items of the answer in its order. Items
// may be missing, unknown or there twice; that is the caller's to judge. Errors
// are an *Error, or of class Invalid if the request must not be sent.
func (c *Client) Sync(ctx context.Context, r SyncRequest) ([]Synced, error) {
	if r.BillingSyncKey == "" {
		return nil, &Error{Code: KeyMissing, Stage: StageSync, Detail: "there is no billing sync key", Hint: "paste the one that the cloud's web vault shows"}
	}
	body, err := r.encode()
	if err != nil {
		return nil, err
	}
	var synced []Synced
	err = c.callAPI(ctx, request{
		stage: StageSync, scope: ScopeInstallation, method: http.MethodPost,
		url: c.api.JoinPath("organization", "sponsorship", "sync"), body: body,
		contentType: "application/json; charset=utf-8", secrets: []string{r.BillingSyncKey.Reveal()},
		decode: func(data []byte) (err error) {
			synced, err = decodeSynced(data, len(r.Offers)+maxUnasked)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return synced, nil
}

// encode refuses what would do harm in the cloud, however it came here.
func (r SyncRequest) encode() ([]byte, error) {
	cloudID, err := uuid.Parse(r.CloudOrganizationID)
	if err != nil || cloudID == uuid.Nil {
		return nil, fmt.Errorf("%w: the organisation's id in the cloud is no GUID", fault.Invalid)
	}
	if len(r.Offers) > config.MaxSyncBatch {
		return nil, fmt.Errorf("%w: a batch of %d offers, more than %d", fault.Invalid, len(r.Offers), config.MaxSyncBatch)
	}
	body := syncBody{BillingSyncKey: r.BillingSyncKey.Reveal(), CloudID: cloudID.String(), Batch: make([]offerBody, 0, len(r.Offers))}
	seen := make(map[uuid.UUID]bool, len(r.Offers))
	for i, o := range r.Offers {
		key, err := uuid.Parse(o.Key)
		switch {
		case err != nil || key == uuid.Nil:
			return nil, fmt.Errorf("%w: the key of offer %d of the batch is no GUID", fault.Invalid, i)
		case seen[key]:
			return nil, fmt.Errorf("%w: the key %s is twice in a batch, which no later sync could mend", fault.Invalid, key)
		case o.ToDelete && o.LastSync != nil:
			return nil, fmt.Errorf("%w: the deletion of %s has a date of sync, with which it could make the offer anew", fault.Invalid, key)
		}
		seen[key] = true
		body.Batch = append(body.Batch, offerBody{
			Key: key.String(), FriendlyName: o.FriendlyName, Email: o.Email, Plan: o.Plan,
			LastSync: inCloudTime(o.LastSync), ValidUntil: inCloudTime(o.ValidUntil), ToDelete: o.ToDelete,
		})
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("%w: encode a batch: %w", fault.Invalid, err)
	}
	return encoded, nil
}

func inCloudTime(t *time.Time) *cloudtime.Time {
	if t == nil {
		return nil
	}
	return &cloudtime.Time{Time: *t}
}

func fromCloudTime(t *cloudtime.Time) *time.Time {
	if t == nil {
		return nil
	}
	return &t.Time
}

// maxUnasked is how many items an answer can have that were not asked for. Each
// takes far more memory than its text.
const maxUnasked = 1_000

// syncedList is the list of an answer, read item by item.
type syncedList struct {
	most  int
	items []Synced
	there bool
}

// UnmarshalJSON implements json.Unmarshaler. It refuses the whole answer for one
// item that cannot be read: to leave it out would look as if the cloud had left
// it out, which means something.
func (l *syncedList) UnmarshalJSON(data []byte) error {
	l.items, l.there = nil, !bytes.Equal(data, []byte("null"))
	if !l.there {
		return nil
	}
	if data[0] != '[' {
		return errors.New("the answer's sponsorshipsBatch is no list")
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if _, err := decoder.Token(); err != nil {
		return plainJSONError(err)
	}
	for decoder.More() {
		if len(l.items) == l.most {
			return fmt.Errorf("the answer has more than %d items", l.most)
		}
		var item *syncedBody
		if err := decoder.Decode(&item); err != nil {
			return plainJSONError(err)
		}
		if item == nil || item.Key == "" {
			return fmt.Errorf("item %d of the answer has no key", len(l.items))
		}
		l.items = append(l.items, Synced{
			Key: strings.ToLower(item.Key), LastSync: fromCloudTime(item.LastSync), ValidUntil: fromCloudTime(item.ValidUntil), Removed: item.Removed,
		})
	}
	return nil
}

// decodeSynced reads an answer of at most so many items.
func decodeSynced(data []byte, most int) ([]Synced, error) {
	var body struct {
		Batch syncedList `json:"sponsorshipsBatch"`
	}
	body.Batch.most = most
	if err := decodeJSON(data, &body); err != nil {
		return nil, err
	}
	if !body.Batch.there {
		return nil, errors.New("the answer has no list sponsorshipsBatch")
	}
	return body.Batch.items, nil
}

// decodeJSON reads one JSON value and nothing after it. Keys are compared
// without regard to case, and unknown members passed over.
func decodeJSON(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(into); err != nil {
		return plainJSONError(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something after the JSON of the answer")
	}
	return nil
}

// plainJSONError says what is wrong without the text that was read, which could
// hold anything.
func plainJSONError(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("the answer is no JSON (at byte %d)", syntax.Offset)
	case errors.As(err, &kind):
		return fmt.Errorf("the answer's member %.100q is of another type than expected", kind.Field)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the answer's JSON breaks off")
	default:
		return err // of cloudtime, which repeats nothing
	}
}
