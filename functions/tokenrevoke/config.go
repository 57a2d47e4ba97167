package tokenrevoke

import (
	"errors"

	"github.com/latchkey-fn/latchkey/shared/config"
)

// Config is all that the revocation can be told.
type Config struct {
	config.API
}

// LoadConfig reads the settings from an environment.
func LoadConfig(environment map[string]string) (Config, []string, error) {
	var c Config
	warnings, err := config.Load(&c, config.Source{Environment: environment})
	return c, warnings, err
}

// Validate implements config.Validator.
func (c *Config) Validate() error {
	return errors.Join(c.API.Validate(), c.Identity.Validate())
}
