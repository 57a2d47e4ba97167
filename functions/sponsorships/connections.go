package sponsorships

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

// The official server's texts.
const (
	noPermission = "You do not have permission to %s a connection of type CloudBillingSync."
	typeIsFixed  = "The connection type cannot be changed."
)

// connectionType is the original's enum of connections.
type connectionType int

const (
	cloudBillingSync connectionType = 1
	scim             connectionType = 2
)

// connectionTypeNames are how a path can name a type.
var connectionTypeNames = []string{"1", "CloudBillingSync", "cloudbillingsync", "cloudBillingSync", "2", "Scim", "scim"}

// UnmarshalJSON reads a number or a name.
func (t *connectionType) UnmarshalJSON(text []byte) error {
	name := strings.Trim(string(text), `"`)
	switch {
	case strings.EqualFold(name, "CloudBillingSync"):
		*t = cloudBillingSync
		return nil
	case strings.EqualFold(name, "Scim"):
		*t = scim
		return nil
	}
	n, err := strconv.ParseInt(name, 10, 32)
	if err != nil {
		return fmt.Errorf("%w: not a type of connections", fault.Invalid)
	}
	*t = connectionType(n)
	return nil
}

type connectionRequest struct {
	Type           connectionType  `json:"type"`
	OrganizationID string          `json:"organizationId"`
	Enabled        bool            `json:"enabled"`
	Config         json.RawMessage `json:"config"`
}

// key reads the billing sync key of the configuration.
func (c *connectionRequest) key() (config.Secret, error) {
	var configuration *struct {
		BillingSyncKey config.Secret `json:"billingSyncKey"`
	}
	if len(c.Config) == 0 || json.Unmarshal(c.Config, &configuration) != nil || configuration == nil {
		// The error's text could quote the key.
		return "", machine.Invalid(sponsor.MalformedConfig)
	}
	return configuration.BillingSyncKey, nil
}

// connectionAnswer is the original's, with what the cloud said to the key.
type connectionAnswer struct {
	ID             *string           `json:"id"`
	Type           connectionType    `json:"type"`
	OrganizationID string            `json:"organizationId"`
	Enabled        bool              `json:"enabled"`
	Config         *connectionConfig `json:"config"`
	Probe          *probeAnswer      `json:"probe,omitempty"`
}

// connectionConfig has the names of the original's stored form. In the key's
// place are its last four characters.
type connectionConfig struct {
	BillingSyncKey      string
	CloudOrganizationId string
	LastLicenseSync     *time.Time
}

type probeAnswer struct {
	Good bool `json:"good"`
	// Date is null where the cloud was not asked.
	Date    *time.Time `json:"date"`
	Code    *string    `json:"code"`
	Message *string    `json:"message"`
	Hint    *string    `json:"hint"`
}

func answerProbe(p sponsor.Probe) *probeAnswer {
	return &probeAnswer{p.Good(), p.At, optional(p.Code), optional(p.Message), optional(p.Hint)}
}

// optional is null where a text is empty.
func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func (h *handler) answerConnection(r smapi.Request, c sponsor.Connection) (any, error) {
	lastLicenseSync, err := h.sync.LastLicenseSync(r.Context(), c.Organization)
	if err != nil {
		return nil, err
	}
	return connectionAnswer{
		ID: &c.Organization, Type: cloudBillingSync, OrganizationID: c.Organization, Enabled: c.Enabled, Probe: answerProbe(c.Probe),
		Config: &connectionConfig{c.KeyEnd, c.CloudOrganization, lastLicenseSync},
	}, nil
}

// connecting gives the id of an organisation to those of the billing rules, and
// to everybody else the original's refusal, which does not tell what there is.
func (h *handler) connecting(r smapi.Request, organization, verb string) (string, error) {
	id, err := h.owner(r, organization)
	if fault.Of(err) == fault.NotFound {
		return "", machine.Invalid(noPermission, verb)
	}
	return id, err
}

func (h *handler) enabled(smapi.Request) (any, error) { return h.communicates, nil }

func (h *handler) createConnection(r smapi.Request) (string, any, error) {
	var body connectionRequest
	if err := r.Read(&body); err != nil {
		return "", nil, err
	}
	organization, err := h.connecting(r, body.OrganizationID, "create")
	if err != nil {
		return "", nil, err
	}
	if body.Type != cloudBillingSync {
		return "", nil, machine.Invalid("Connections of type CloudBillingSync are all that this server has.")
	}
	key, err := body.key()
	if err != nil {
		return "", nil, err
	}
	made, err := h.sync.CreateConnection(r.Context(), sponsor.Connect{Organization: organization, Enabled: body.Enabled, Key: key})
	if err != nil {
		return "", nil, err
	}
	answer, err := h.answerConnection(r, made)
	return organization, answer, err
}

// putConnection takes the last four characters of the key, which is all that a
// client was given, for the key that is there.
func (h *handler) putConnection(r smapi.Request) (string, any, error) {
	organization, err := h.connecting(r, r.PathValue("id"), "update")
	if err != nil {
		return "", nil, err
	}
	var body connectionRequest
	if err := r.Read(&body); err != nil {
		return "", nil, err
	}
	before, err := h.sync.Connection(r.Context(), organization)
	if err != nil {
		return "", nil, err
	}
	switch {
	case body.Type != cloudBillingSync:
		return "", nil, machine.Invalid(typeIsFixed)
	case !strings.EqualFold(body.OrganizationID, organization):
		return "", nil, machine.Invalid("The connection's organization cannot be changed.")
	}
	key, err := body.key()
	if err != nil {
		return "", nil, err
	}
	if before.KeyEnd != "" && key.Reveal() == before.KeyEnd {
		key = ""
	}
	changed, err := h.sync.UpdateConnection(r.Context(), sponsor.Connect{Organization: organization, Enabled: body.Enabled, Key: key})
	if err != nil {
		return "", nil, err
	}
	if changed.KeyRevision != before.KeyRevision {
		h.record(r, "sync-connection.key", organization)
	}
	switch {
	case changed.Enabled && !before.Enabled:
		h.record(r, "sync-connection.enable", organization)
	case before.Enabled && !changed.Enabled:
		h.record(r, "sync-connection.disable", organization)
	}
	answer, err := h.answerConnection(r, changed)
	return organization, answer, err
}

func (h *handler) deleteConnection(r smapi.Request) (string, any, error) {
	organization, err := h.connecting(r, r.PathValue("id"), "remove")
	if err != nil {
		return "", nil, err
	}
	return organization, nil, h.sync.RemoveConnection(r.Context(), organization)
}

// getConnection answers for a type that the path names.
func (h *handler) getConnection(typeName string) smapi.Operation {
	none := connectionAnswer{OrganizationID: uuid.Nil.String()}
	return func(r smapi.Request) (any, error) {
		organization, err := h.connecting(r, r.PathValue("org"), "retrieve")
		if err != nil {
			return nil, err
		}
		var asked connectionType
		if err := asked.UnmarshalJSON([]byte(typeName)); err != nil {
			return nil, err
		}
		if asked != cloudBillingSync {
			return none, nil
		}
		c, err := h.sync.Connection(r.Context(), organization)
		if fault.Of(err) == fault.NotFound {
			return none, nil
		}
		if err != nil {
			return nil, err
		}
		return h.answerConnection(r, c)
	}
}
