package smapi

import (
	"log/slog"
	"time"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/signing"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// FunctionConfig is what a function of Secrets Manager stands on.
type FunctionConfig struct {
	// Name is the function's, in the log lines.
	Name     string
	Settings config.API
	// Store holds the keys that sessions were signed with.
	Store    *store.Store
	Machines Machines
	Logger   *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// MaxBody bounds a request's body, in bytes.
	MaxBody int64
}

// Open makes the API of a function of Secrets Manager, without routes: for
// machines with a session, and for the people of the identity server, if there is
// one. Nothing is contacted before the first request.
func Open(c FunctionConfig) (*API, error) {
	s := c.Settings
	callers, err := NewAuthenticator(CallersConfig{
		Machines: c.Machines, Sessions: s.Sessions,
		Keys:     signing.New(signing.Config{Store: c.Store, Logger: c.Logger, Now: c.Now}).Published,
		Identity: s.Identity, Operators: s.Operators, Logger: c.Logger, Now: c.Now,
	})
	if err != nil {
		return nil, err
	}
	return New(Config{
		Function: c.Name, Service: "Secrets Manager", Callers: callers, Logger: c.Logger,
		Path: s.Sessions.Path(), Origins: s.WebVaultOrigins, Timeout: s.RequestTimeout, MaxBody: c.MaxBody,
	}), nil
}
