package tokenexchange

import (
	"errors"
	"fmt"
	"time"

	"github.com/latchkey-fn/latchkey/shared/config"
)

// Config is all that the exchange can be told.
type Config struct {
	Store config.Store
	Keys  config.Keys
	// Previous is the key that data keys may still be wrapped under, until
	// `latchkey data-keys rewrap` was run.
	Previous config.Keys `envPrefix:"PREVIOUS_"`
	AWS      config.AWS
	Sessions config.Sessions

	// DataKeyMaxAge is how long an unwrapped data key stays in memory.
	DataKeyMaxAge time.Duration `env:"DATA_KEY_MAX_AGE" envDefault:"1h"`
	// RequestTimeout bounds one request.
	RequestTimeout time.Duration `env:"REQUEST_TIMEOUT" envDefault:"25s"`
}

// LoadConfig reads the settings from an environment.
func LoadConfig(environment map[string]string) (Config, []string, error) {
	var c Config
	warnings, err := config.Load(&c, config.Source{Environment: environment})
	return c, warnings, err
}

// Validate implements config.Validator.
func (c *Config) Validate() error {
	faults := []error{c.Store.Validate(), c.Keys.Validate(), c.Previous.ValidatePrevious(), c.AWS.Validate(), c.Sessions.Validate()}
	if c.DataKeyMaxAge < time.Minute {
		faults = append(faults, fmt.Errorf("%sDATA_KEY_MAX_AGE=%s: less than a minute would ask the KMS at nearly every request", config.Prefix, c.DataKeyMaxAge))
	}
	if c.RequestTimeout < time.Second {
		faults = append(faults, fmt.Errorf("%sREQUEST_TIMEOUT=%s: less than a second is too short to unwrap a data key", config.Prefix, c.RequestTimeout))
	}
	return errors.Join(faults...)
}
