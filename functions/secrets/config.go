package secrets

import (
	"errors"
	"fmt"

	"github.com/latchkey-fn/latchkey/shared/config"
)

// Config is all that projects and secrets can be told.
type Config struct {
	// Of it, Identity can be left out: then machines alone are served.
	config.API
	// MaxAnswer is how many bytes an answer can have where the host bounds that,
	// as AWS Lambda does; 0: any number. What would be larger is refused before
	// it begins.
	MaxAnswer int `env:"MAX_ANSWER"`
}

// minMaxAnswer is more than one secret of the greatest size.
const minMaxAnswer = 256 << 10

// LoadConfig reads the settings from an environment.
func LoadConfig(environment map[string]string) (Config, []string, error) {
	var c Config
	warnings, err := config.Load(&c, config.Source{Environment: environment})
	return c, warnings, err
}

// Validate implements config.Validator.
func (c *Config) Validate() error {
	faults := []error{c.API.Validate(), c.Identity.ValidateOptional()}
	if c.MaxAnswer != 0 && c.MaxAnswer < minMaxAnswer {
		faults = append(faults, fmt.Errorf("%sMAX_ANSWER=%d: a single secret can need %d bytes; 0 is no limit", config.Prefix, c.MaxAnswer, minMaxAnswer))
	}
	return errors.Join(faults...)
}
