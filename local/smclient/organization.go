package smclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/latchkey-fn/latchkey/local/apiclient"
	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Settings are what an organisation's administrators decided.
type Settings struct {
	Organization string
	// KeyCheck is the organisation's id under its key; empty where the
	// organisation has no key yet.
	KeyCheck string
	// MaxTokenLifetime is how long new access tokens may live; zero: for ever.
	MaxTokenLifetime time.Duration
	Enabled          bool
}

// MadeWith tells whether a key is the organisation's.
func (s Settings) MadeWith(key encstring.Key) bool {
	text, err := key.Decrypt(s.KeyCheck)
	return err == nil && text == s.Organization
}

type settingsObject struct {
	OrganizationID          string  `json:"organizationId"`
	KeyCheck                *string `json:"keyCheck"`
	MaxTokenLifetimeSeconds *int64  `json:"maxTokenLifetimeSeconds"`
	Enabled                 bool    `json:"enabled"`
}

func (settingsObject) required() []string { return []string{"organizationId", "enabled"} }

func (o settingsObject) settings() Settings {
	s := Settings{Organization: o.OrganizationID, Enabled: o.Enabled}
	if o.KeyCheck != nil {
		s.KeyCheck = *o.KeyCheck
	}
	if o.MaxTokenLifetimeSeconds != nil {
		s.MaxTokenLifetime = time.Duration(*o.MaxTokenLifetimeSeconds) * time.Second
	}
	return s
}

func (c *Client) settingsPath() []string {
	return []string{"organizations", c.operator.Organization, "secrets-manager"}
}

// notTheirs is the advice where the settings are not there: whoever operates the
// organisation has some.
func (c *Client) notTheirs() string {
	return fmt.Sprintf("Does your token make you an operator of %s, and is %s the base URL, without /api?", c.operator.Organization, c.server.Server())
}

// Settings reads an operator's organisation's settings.
func (c *Client) Settings(ctx context.Context) (Settings, error) {
	o, err := get[settingsObject](ctx, c, apiclient.Request{
		Doing: "read the organization's settings", Path: c.settingsPath(), Absent: c.notTheirs(),
	})
	return o.settings(), err
}

// ErrOtherKey is that an organisation has another key: what says so was read,
// and could not be opened.
var ErrOtherKey = errors.New("this is another key")

// RegisterKey makes a key the organisation's. It is ErrOtherKey where the
// organisation has another; after any other error it may be this one.
func (c *Client) RegisterKey(ctx context.Context, key encstring.Key) (Settings, error) {
	settings, err := c.Settings(ctx)
	switch {
	case err != nil:
		return settings, err
	case settings.MadeWith(key):
		return settings, nil
	case settings.KeyCheck != "":
		return settings, fmt.Errorf("%w: organization %s has a key already: %w", fault.Conflict, settings.Organization, ErrOtherKey)
	}
	check := key.Encrypt(settings.Organization)
	o, err := c.putSettings(ctx, "register the organization's key", struct {
		KeyCheck string `json:"keyCheck"`
	}{check})
	if err != nil {
		// Another operator may have been first, or this is the answer to a second
		// try; whose key it is now tells.
		if now, readErr := c.Settings(ctx); readErr == nil && now.KeyCheck != "" {
			if now.MadeWith(key) {
				return now, nil
			}
			return now, fmt.Errorf("%w: organization %s was given a key by somebody else just now: %w", fault.Conflict, settings.Organization, ErrOtherKey)
		}
	}
	return o, err
}

// Policy is what of the settings is to be changed; nil: not.
type Policy struct {
	// MaxTokenLifetime: zero takes the limit away.
	MaxTokenLifetime *time.Duration
	Enabled          *bool
}

// SetPolicy changes the settings.
func (c *Client) SetPolicy(ctx context.Context, p Policy) (Settings, error) {
	body := map[string]any{}
	if p.MaxTokenLifetime != nil {
		body["maxTokenLifetimeSeconds"] = int64(*p.MaxTokenLifetime / time.Second)
	}
	if p.Enabled != nil {
		body["enabled"] = *p.Enabled
	}
	return c.putSettings(ctx, "change the organization's settings", body)
}

func (c *Client) putSettings(ctx context.Context, doing string, body any) (Settings, error) {
	o, err := get[settingsObject](ctx, c, apiclient.Request{Doing: doing, Method: http.MethodPut, Path: c.settingsPath(), Body: body, Again: true, Absent: c.notTheirs()})
	return o.settings(), err
}
