package keyconnector

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/httpx"
)

// Config is all that Key Connector can be told.
type Config struct {
	Store config.Store
	Keys  config.Keys
	// Previous is the key that data keys may still be wrapped under, until
	// `latchkey data-keys rewrap` was run.
	Previous config.Keys `envPrefix:"PREVIOUS_"`
	AWS      config.AWS
	Identity config.Identity

	// WebVaultOrigins are the sites of web vaults; browsers let their pages
	// call.
	WebVaultOrigins []string `env:"WEB_VAULT_ORIGINS"`
	// PathPrefix is the path of the address that clients are given, where it
	// has one: /key-connector. Requests without it are served as well, since a
	// reverse proxy may cut it.
	PathPrefix string `env:"PATH_PREFIX"`
	// AllowedOrganizations are the ids of the organisations whose members are
	// served; empty: every user of the identity server.
	AllowedOrganizations []string `env:"ALLOWED_ORGANIZATIONS"`
	// AllowLongKeys accepts keys of 64 bytes besides those of 32.
	AllowLongKeys bool `env:"ALLOW_LONG_KEYS"`
	// DataKeyMaxAge is how long an unwrapped data key stays in memory.
	DataKeyMaxAge time.Duration `env:"DATA_KEY_MAX_AGE" envDefault:"1h"`
	// RequestTimeout bounds one request.
	RequestTimeout time.Duration `env:"REQUEST_TIMEOUT" envDefault:"25s"`
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

// LoadOperatorConfig reads a part of the settings, for an operator's command
// that runs in the environment of the function and needs no more of it.
func LoadOperatorConfig(into any, environment map[string]string) error {
	_, err := config.Load(into, config.Source{Environment: environment, Aliases: officialNames})
	return err
}

// Validate implements config.Validator.
func (c *Config) Validate() error {
	faults := []error{c.Store.Validate(), c.Keys.Validate(), c.Previous.ValidatePrevious(), c.AWS.Validate(), c.Identity.Validate()}
	for i, address := range c.WebVaultOrigins {
		origin, err := httpx.Origin(address)
		if err != nil {
			faults = append(faults, fmt.Errorf("%sWEB_VAULT_ORIGINS: %w", config.Prefix, err))
			continue
		}
		c.WebVaultOrigins[i] = origin
	}
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
	if c.DataKeyMaxAge < time.Minute {
		faults = append(faults, fmt.Errorf("%sDATA_KEY_MAX_AGE=%s: less than a minute would ask the KMS at nearly every request", config.Prefix, c.DataKeyMaxAge))
	}
	if c.RequestTimeout < time.Second {
		faults = append(faults, fmt.Errorf("%sREQUEST_TIMEOUT=%s: less than a second is too short to unwrap a data key", config.Prefix, c.RequestTimeout))
	}
	return errors.Join(faults...)
}

var pathPrefix = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)*$`)

// HasPrevious tells whether there is a previous key.
func (c *Config) HasPrevious() bool { return c.Previous.Kind != "" }
