package config

import (
	"errors"
	"fmt"
	"time"

	"github.com/latchkey-fn/latchkey/shared/httpx"
)

// Serving bounds the requests of a function.
type Serving struct {
	// RequestTimeout bounds one request.
	RequestTimeout time.Duration `env:"REQUEST_TIMEOUT" envDefault:"25s"`
}

// Validate implements Validator.
func (s *Serving) Validate() error {
	if s.RequestTimeout < time.Second {
		return fmt.Errorf("%sREQUEST_TIMEOUT=%s: less than a second is too short to ask store and KMS", Prefix, s.RequestTimeout)
	}
	return nil
}

// Pages are what browsers may call from.
type Pages struct {
	// WebVaultOrigins are the sites of web vaults; browsers let their pages
	// call.
	WebVaultOrigins []string `env:"WEB_VAULT_ORIGINS"`
}

// Validate implements Validator. It makes origins of addresses.
func (p *Pages) Validate() error {
	var faults []error
	for i, address := range p.WebVaultOrigins {
		origin, err := httpx.Origin(address)
		if err != nil {
			faults = append(faults, fmt.Errorf("%sWEB_VAULT_ORIGINS: %w", Prefix, err))
			continue
		}
		p.WebVaultOrigins[i] = origin
	}
	return errors.Join(faults...)
}

// Wrapping is what data keys are wrapped under.
type Wrapping struct {
	Keys Keys
	// Previous is the key that data keys may still be wrapped under, until
	// `latchkey data-keys rewrap` was run.
	Previous Keys `envPrefix:"PREVIOUS_"`
	// DataKeyMaxAge is how long an unwrapped data key stays in memory.
	DataKeyMaxAge time.Duration `env:"DATA_KEY_MAX_AGE" envDefault:"1h"`
}

// Validate implements Validator.
func (w *Wrapping) Validate() error {
	var tooShort error
	if w.DataKeyMaxAge < time.Minute {
		tooShort = fmt.Errorf("%sDATA_KEY_MAX_AGE=%s: less than a minute would ask the KMS at nearly every request", Prefix, w.DataKeyMaxAge)
	}
	return errors.Join(w.Keys.Validate(), w.Previous.ValidatePrevious(), tooShort)
}

// HasPrevious tells whether there is a previous key.
func (w *Wrapping) HasPrevious() bool { return w.Previous.Kind != "" }
