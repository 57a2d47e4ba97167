package smclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/apiclient"
)

// object is a JSON object of the protocol.
type object interface {
	// required are the members without which released clients fail.
	required() []string
}

// belonging is what the objects of an organisation have.
type belonging struct {
	ID             string    `json:"id"`
	OrganizationID string    `json:"organizationId"`
	CreationDate   time.Time `json:"creationDate"`
	RevisionDate   time.Time `json:"revisionDate"`
}

// decode reads an object strictly: every required member is there under exactly
// its name and is not null, ids are UUIDs, and the organisation is the client's.
// An error quotes nothing of the answer.
func decode[T object](content []byte, organization string) (T, error) {
	var value T
	members, err := apiclient.Decode(content, &value, value.required()...)
	if err != nil {
		return value, err
	}
	for _, name := range value.required() {
		if name != "id" && name != "organizationId" {
			continue
		}
		var text string
		if json.Unmarshal(members[name], &text) != nil || uuid.Validate(text) != nil {
			return value, fmt.Errorf("%w: %s is not an id", apiclient.ErrAnswer, name)
		}
		if name == "organizationId" && text != organization {
			return value, fmt.Errorf("%w: it belongs to another organization", apiclient.ErrAnswer)
		}
	}
	return value, nil
}

// list is an answer of several objects.
type list struct {
	Data []json.RawMessage `json:"data"`
}

func (list) required() []string { return []string{"data"} }

func decodeAll[T object](contents []json.RawMessage, organization string) ([]T, error) {
	values := make([]T, len(contents))
	for i, content := range contents {
		var err error
		if values[i], err = decode[T](content, organization); err != nil {
			return nil, fmt.Errorf("number %d of the list: %w", i+1, err)
		}
	}
	return values, nil
}

// get does a call that answers with one object.
func get[T object](ctx context.Context, c *Client, r apiclient.Request) (T, error) {
	var none T
	organization, err := c.Organization(ctx)
	if err != nil {
		return none, err
	}
	content, err := c.do(ctx, r)
	if err != nil {
		return none, err
	}
	value, err := decode[T](content, organization)
	if err != nil {
		return none, fmt.Errorf("%s: %w", r.Doing, err)
	}
	return value, nil
}

// getList does a call that answers with a list.
func getList[T object](ctx context.Context, c *Client, r apiclient.Request) ([]T, error) {
	answer, err := get[list](ctx, c, r)
	if err != nil {
		return nil, err
	}
	organization, err := c.Organization(ctx)
	if err != nil {
		return nil, err
	}
	values, err := decodeAll[T](answer.Data, organization)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.Doing, err)
	}
	return values, nil
}

// bulkResult tells of one of several things that were to be deleted.
type bulkResult struct {
	ID    string  `json:"id"`
	Error *string `json:"error"`
}

func (bulkResult) required() []string { return []string{"id"} }

// doEach does a call for several things at once, and names those that it was
// not done to.
func doEach(ctx context.Context, c *Client, r apiclient.Request) error {
	results, err := getList[bulkResult](ctx, c, r)
	if err != nil {
		return err
	}
	var faults []error
	for _, one := range results {
		if one.Error != nil {
			faults = append(faults, &Refused{Doing: r.Doing, ID: one.ID, Reason: apiclient.Printable(*one.Error)})
		}
	}
	return errors.Join(faults...)
}

// Refused is one of several things to which something was not done.
type Refused struct{ Doing, ID, Reason string }

// Error implements error.
func (r *Refused) Error() string { return fmt.Sprintf("%s: %s: %s", r.Doing, r.ID, r.Reason) }

// most is how many of the texts that cannot be read are named.
const most = 5

// unreadable are the things whose texts could not be decrypted.
type unreadable struct {
	faults []error
	count  int
}

func (u *unreadable) add(what, id string, err error) {
	u.count++
	if u.count <= most {
		u.faults = append(u.faults, fmt.Errorf("%s %s cannot be read: %w", what, id, err))
	}
}

func (u *unreadable) err() error {
	if u.count > most {
		u.faults = append(u.faults, fmt.Errorf("and %d more cannot be read", u.count-most))
	}
	return errors.Join(u.faults...)
}
