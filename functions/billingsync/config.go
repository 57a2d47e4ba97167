package billingsync

import (
	"errors"

	"github.com/latchkey-fn/latchkey/shared/config"
)

// Config is all that the scheduled side of Billing sync can be told.
type Config struct {
	Store config.Store
	config.Wrapping
	AWS     config.AWS
	Billing config.Billing
}

// LoadConfig reads the settings from an environment.
func LoadConfig(environment map[string]string) (Config, []string, error) {
	var c Config
	warnings, err := config.Load(&c, config.Source{Environment: environment, Aliases: config.BillingAliases()})
	return c, warnings, err
}

// Validate implements config.Validator.
func (c *Config) Validate() error {
	return errors.Join(c.Store.Validate(), c.Wrapping.Validate(), c.AWS.Validate(), c.Billing.Validate())
}
