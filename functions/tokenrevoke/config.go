package tokenrevoke

import (
	"errors"

	"github.com/latchkey-fn/latchkey/shared/config"
)

// Config is all that the revocation can be told.
type Config struct {
	Store config.Store
	AWS   config.AWS
	config.Serving
	config.Pages
	Identity  config.Identity
	Operators config.Operators
	Sessions  config.Sessions
}

// LoadConfig reads the settings from an environment.
func LoadConfig(environment map[string]string) (Config, []string, error) {
	var c Config
	warnings, err := config.Load(&c, config.Source{Environment: environment})
	return c, warnings, err
}

// Validate implements config.Validator.
func (c *Config) Validate() error {
	return errors.Join(
		c.Store.Validate(), c.AWS.Validate(), c.Serving.Validate(), c.Pages.Validate(), c.Identity.Validate(), c.Operators.Validate(), c.Sessions.Validate(),
	)
}
