package syncclient

import (
	"context"
	"net/http"
	"time"

	"github.com/latchkey-fn/latchkey/local/apiclient"
)

// Usage is what the organisation uses, which a licence has to allow.
type Usage struct {
	Seats             int  `json:"seats"`
	Collections       int  `json:"collections"`
	Groups            int  `json:"groups"`
	EnabledPolicies   int  `json:"enabledPolicies"`
	SSO               bool `json:"sso"`
	KeyConnector      bool `json:"keyConnector"`
	SCIM              bool `json:"scim"`
	CustomPermissions bool `json:"customPermissions"`
	AccountRecovery   bool `json:"accountRecovery"`
	// Told is when somebody said so; nil in what is to be told.
	Told *time.Time `json:"told,omitempty"`
}

func (Usage) required() []string { return []string{"seats", "told"} }

// SetUsage tells what the organisation uses, in the place of what was told
// before.
func (c *Client) SetUsage(ctx context.Context, u Usage) (Usage, error) {
	return get[Usage](ctx, c, apiclient.Request{
		Doing: "tell what the organization uses", Method: http.MethodPut, Path: c.own("usage"), Body: u, Again: true,
	})
}
