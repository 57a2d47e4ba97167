package keyconnector

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/config"
)

// Config is all that Key Connector can be told.
type Config struct {
	Store config.Store
	config.Wrapping
	AWS config.AWS
	config.Serving
	config.Pages
	Identity config.Identity

	// PathPrefix is the path of the address that clients are given, where it
	// has one: /key-connector. Requests without it are served as well, since a
	// reverse proxy may cut it.
	PathPrefix string `env:"PATH_PREFIX"`
	// AllowedOrganizations are the ids of the organisations whose members are
	// served; empty: every user of the identity server.
	AllowedOrganizations []string `env:"ALLOWED_ORGANIZATIONS"`
	// AllowLongKeys accepts keys of 64 bytes besides those of 32.
	AllowLongKeys bool `env:"ALLOW_LONG_KEYS"`
}

// LoadConfig reads the settings from an environment, under our names and under
// the official ones.
func LoadConfig(environment map[string]string) (Config, []string, error) {
	var c Config
	warnings, err := config.Load(&c, config.Source{
		Environment: environment,
		Aliases:     officialNames,
		AliasPrefix: officialPrefix,
	})
	return c, warnings, err
}

// Validate implements config.Validator.
func (c *Config) Validate() error {
	faults := []error{c.Store.Validate(), c.Wrapping.Validate(), c.AWS.Validate(), c.Serving.Validate(), c.Pages.Validate(), c.Identity.Validate()}
	if c.PathPrefix = strings.TrimRight(c.PathPrefix, "/"); !pathPrefix.MatchString(c.PathPrefix) {
		faults = append(faults, fmt.Errorf("%sPATH_PREFIX=%s: it is not a path such as /key-connector, of letters, digits and . _ ~ -", config.Prefix, c.PathPrefix))
	}
	for i, id := range c.AllowedOrganizations {
		parsed, err := uuid.Parse(strings.TrimSpace(id))
		if err != nil {
			// One that is not understood would lock its members out.
			faults = append(faults, fmt.Errorf("%sALLOWED_ORGANIZATIONS: %q is not an organisation's id, such as 3f2c2b1f-95b1-4ad5-9a5e-8d7c5f0a7f10", config.Prefix, id))
			continue
		}
		c.AllowedOrganizations[i] = parsed.String()
	}
	return errors.Join(faults...)
}

var pathPrefix = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)*$`)
