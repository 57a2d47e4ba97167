package machine

import (
	"context"
	"fmt"
	"time"

	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// The bounds of MaxTokenLifetime.
const (
	leastLifetime = time.Minute
	mostLifetime  = latestEnd
)

// Organization reads what an organisation's administrators decided; where
// nothing was, the zero value.
func (m *Machines) Organization(ctx context.Context, id string) (Organization, error) {
	record, err := m.organizations.Get(ctx, id)
	if fault.Of(err) == fault.NotFound {
		return Organization{}, nil
	}
	if err != nil {
		return Organization{}, fmt.Errorf("organization: %w", err)
	}
	return record.Value, nil
}

// OrganizationEdit is a change; what is nil stays as it is.
type OrganizationEdit struct {
	KeyCheck *string // an EncString; it can be set once
	// MaxTokenLifetime: 0 is for ever.
	MaxTokenLifetime *time.Duration
	Enabled          *bool
}

// EditOrganization changes the settings of an organisation, for its
// administrators.
func (m *Machines) EditOrganization(ctx context.Context, a Access, edit OrganizationEdit) (Organization, error) {
	if !a.IsAdmin() {
		return Organization{}, NotFound()
	}
	var settings Organization
	err := store.Retry(ctx, func() error {
		now := m.now().UTC()
		record, err := m.organizations.Get(ctx, a.Organization)
		pre := store.AtRevision(record.Revision)
		if fault.Of(err) == fault.NotFound {
			pre, err = store.Absent(), nil
			record = store.Record[Organization]{ID: a.Organization, Value: Organization{Created: now}}
		}
		if err != nil {
			return err
		}
		if err := edit.apply(&record.Value, Deed{now, a.Actor()}); err != nil {
			return err
		}
		record.Value.Revised = now
		settings = record.Value
		_, err = m.organizations.Put(ctx, record, pre)
		return err
	})
	if problem, told := AsProblem(err); told {
		return Organization{}, problem
	}
	if err != nil {
		return Organization{}, fmt.Errorf("organization: %w", err)
	}
	m.Record(ctx, a, "organization.edit", a.Organization)
	return settings, nil
}

func (e OrganizationEdit) apply(to *Organization, deed Deed) error {
	if e.KeyCheck != nil {
		switch {
		case len(*e.KeyCheck) > MaxName || encstring.Check(*e.KeyCheck) != nil:
			return Invalid("keyCheck is not a valid encrypted string.")
		case to.KeyCheck != "" && to.KeyCheck != *e.KeyCheck:
			return Invalid("This organization has a key already.")
		}
		to.KeyCheck = *e.KeyCheck
	}
	if e.MaxTokenLifetime != nil {
		if d := *e.MaxTokenLifetime; d != 0 && (d < leastLifetime || d > mostLifetime) {
			return Invalid("Access tokens can be made to live for a minute to a hundred years at the most.")
		}
		to.MaxTokenLifetime = *e.MaxTokenLifetime
	}
	if e.Enabled != nil {
		switch {
		case *e.Enabled:
			to.Disabled = nil
		case to.Disabled == nil:
			to.Disabled = &deed
		}
	}
	return nil
}
