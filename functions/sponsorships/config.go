package sponsorships

import (
	"errors"
	"fmt"

	"github.com/latchkey-fn/latchkey/shared/config"
)

// Config is all that the HTTP side of Billing sync can be told.
type Config struct {
	Store config.Store
	config.Wrapping
	AWS config.AWS
	config.Serving
	config.Pages
	Identity config.Identity
	// Operators make administrators. Its MemberRules are for other functions: who
	// is a member here is told by SponsorRules.
	Operators config.Operators
	// SponsorRules make members, who may offer something, in the form of
	// config.Operators.Rules. "none": administrators alone.
	SponsorRules []string `env:"SPONSOR_RULES" envDefault:"orguser,orgcustom"`
	// BillingRules make those who connect the organisation with the cloud, install
	// its licence, and start a sync, in the form of config.Operators.Rules. In the
	// original that is the owner alone.
	BillingRules []string `env:"BILLING_RULES" envDefault:"orgowner"`
	// Sessions need not be given. Of their PublicURL the path is served, too.
	Sessions config.Sessions
	Billing  config.Billing

	// SyncFunction is the name or the ARN of the scheduled function on AWS Lambda,
	// which is asked to begin what somebody wants at once. Without it that waits
	// for the next tick.
	SyncFunction string `env:"SYNC_FUNCTION"`
	// LambdaEndpoint takes the place of Lambda's own address.
	LambdaEndpoint string `env:"LAMBDA_ENDPOINT"`
}

// LoadConfig reads the settings from an environment.
func LoadConfig(environment map[string]string) (Config, []string, error) {
	var c Config
	warnings, err := config.Load(&c, config.Source{Environment: environment, Aliases: config.BillingAliases()})
	return c, warnings, err
}

// Validate implements config.Validator.
func (c *Config) Validate() error {
	faults := []error{
		c.Store.Validate(), c.Wrapping.Validate(), c.AWS.Validate(), c.Serving.Validate(), c.Pages.Validate(),
		c.Identity.Validate(), c.Operators.Validate(), c.Billing.Validate(),
	}
	if c.Sessions.PublicURL != "" {
		faults = append(faults, c.Sessions.Validate())
	}
	_, sponsorErr := config.ParseRules("SPONSOR_RULES", c.SponsorRules)
	billing, billingErr := config.ParseRules("BILLING_RULES", c.BillingRules)
	if billingErr == nil && len(billing) == 0 {
		billingErr = fmt.Errorf("%sBILLING_RULES: without a rule nobody could connect an organisation", config.Prefix)
	}
	return errors.Join(append(faults, sponsorErr, billingErr)...)
}
