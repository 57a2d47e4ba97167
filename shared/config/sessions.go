package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Sessions are the settings of what machines exchange their access tokens for.
// Every function of Secrets Manager has to be given the same ones.
type Sessions struct {
	// PublicURL is the address that clients are given, such as
	// https://sm.example.org, perhaps with a path.
	PublicURL string `env:"PUBLIC_URL"`
	// Algorithm signs new sessions: RS256 or ES256.
	Algorithm string `env:"SIGNING_ALGORITHM" envDefault:"RS256"`
	// SigningKeyAge is how long a key signs before the next one does.
	SigningKeyAge time.Duration `env:"SIGNING_KEY_AGE" envDefault:"2160h"`
}

// Limits of SigningKeyAge. A key younger than a day would be replaced while the
// one before it is still wanted; one older than two years is as good as kept for
// ever.
const (
	minSigningKeyAge = 24 * time.Hour
	maxSigningKeyAge = 2 * 365 * 24 * time.Hour
)

var publicPath = regexp.MustCompile(`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$`)

// Validate implements Validator. It brings the address into one form.
func (s *Sessions) Validate() error {
	faults := []error{s.checkPublicURL()}
	if s.Algorithm != "RS256" && s.Algorithm != "ES256" {
		faults = append(faults, fmt.Errorf("%sSIGNING_ALGORITHM=%s: choose RS256 or ES256", Prefix, s.Algorithm))
	}
	if s.SigningKeyAge < minSigningKeyAge || s.SigningKeyAge > maxSigningKeyAge {
		faults = append(faults, fmt.Errorf("%sSIGNING_KEY_AGE=%s: choose from %s to %s", Prefix, s.SigningKeyAge, minSigningKeyAge, maxSigningKeyAge))
	}
	return errors.Join(faults...)
}

func (s *Sessions) checkPublicURL() error {
	const example = "such as https://sm.example.org: scheme, host and perhaps a port and a path"
	if s.PublicURL == "" {
		return fmt.Errorf("%sPUBLIC_URL is not set: the address that clients are given, %s", Prefix, example)
	}
	u, err := url.Parse(s.PublicURL)
	switch {
	case err != nil, u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "", strings.ContainsAny(u.Host, " ,"),
		u.User != nil, u.RawQuery != "", u.ForceQuery, u.Fragment != "", u.RawPath != "":
		// It is not repeated: it could hold a password.
		return fmt.Errorf("%sPUBLIC_URL is not an address %s", Prefix, example)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	if !publicPath.MatchString(u.Path) {
		return fmt.Errorf("%sPUBLIC_URL: its path is not of letters, digits and . _ ~ -", Prefix)
	}
	u.Host = strings.ToLower(u.Host)
	s.PublicURL = u.String()
	return nil
}

// parts takes apart the address, which Validate has accepted.
func (s *Sessions) parts() url.URL {
	u, err := url.Parse(s.PublicURL)
	if err != nil {
		return url.URL{}
	}
	return *u
}

// Issuer is the claim iss of sessions: as in the original the address without
// port and path.
func (s *Sessions) Issuer() string {
	u := s.parts()
	host := u.Hostname()
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		host = "[" + host + "]"
	}
	return u.Scheme + "://" + host
}

// Path is that of the address, without a slash at its end; most have none.
func (s *Sessions) Path() string { return s.parts().Path }

// IdentityURL is where access tokens are exchanged, below /connect/token.
func (s *Sessions) IdentityURL() string { return s.PublicURL + "/identity" }

// APIURL is where everything else is.
func (s *Sessions) APIURL() string { return s.PublicURL + "/api" }
