// Package auth tells who is calling: it verifies the bearer tokens that a
// Bitwarden or Vaultwarden identity server signed.
//
// A caller can tell three outcomes apart by their class (shared/fault):
//
//   - Unauthenticated (401): there is no token, or it is not valid.
//   - Forbidden (403): the token is valid and does not allow this.
//   - Transient (503): it cannot be known, because the identity server's keys
//     cannot be had. This is never answered as 401 or 403, at which Bitwarden's
//     clients log their user out.
//
// The compact form of a JWS (RFC 7515, section 7.1) is taken apart here and its
// signature checked by the standard library, because a general JOSE parser
// costs more than half of an RSA verification on top of it. Key sets are read
// by go-jose, and the fuzz tests hold what is accepted here against it.
package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// What a Config leaves empty.
const (
	defaultClockSkew    = 5 * time.Minute
	defaultRefreshAfter = 15 * time.Minute
	defaultFetchTimeout = 5 * time.Second
)

// Config says whose tokens are accepted.
type Config struct {
	// IdentityURL is the base URL of the identity server, whose discovery
	// document gives the issuer and the keys. It may be plain http (an internal
	// network: whoever can change what is read there can sign tokens) and may
	// have a path.
	IdentityURL string
	// Issuer replaces the issuer of the discovery document. It is compared with
	// the claim byte for byte, and is not an address: Bitwarden leaves the port
	// out ("http://identity"), Vaultwarden adds to it
	// ("https://vault.example.com|login").
	Issuer string
	// KeysFile is a PEM file of 1 to 16 public keys or certificates, used
	// instead of discovery; Issuer is required then. The file is read again as a
	// key set would be fetched again. The dates of a certificate do not matter.
	KeysFile string
	// Keys gives the keys of tokens that we sign ourselves, used instead of the
	// two before; Issuer is required then. It is asked when a key set would be
	// fetched. There may be none yet, and not more than 16. A key is there for
	// longer than RefreshAfter before it signs, except the first: a token of a key
	// that is not among those at hand is then not valid, and is no reason to ask
	// again and again.
	Keys func(context.Context) ([]PublicKey, error)
	// CAFile is a PEM file of certificates that the identity server's is checked
	// against, besides the system's. It is for when there is no Client.
	CAFile string
	// Claims are the names of further claims for Token.Claims. Reading any costs
	// a second look at each token.
	Claims []string
	// Algorithms that are accepted, of RS256, RS384, RS512, PS256, PS384,
	// PS512, ES256 and ES384. Empty: RS256.
	Algorithms []string
	// ClockSkew is how far the clocks of the two servers may be apart, at most
	// an hour. Zero: 5 minutes, as in Bitwarden's own servers.
	ClockSkew time.Duration
	// RefreshAfter is the age at which the keys are fetched again. It is how
	// long the tokens of a key that was withdrawn are still accepted. Zero: 15
	// minutes.
	RefreshAfter time.Duration
	// FetchTimeout bounds the whole of one fetch. Zero: 5 seconds.
	FetchTimeout time.Duration
	// Client makes the requests; its redirect policy is replaced. Nil: one that
	// honours the proxy settings of the environment, and CAFile.
	Client *http.Client
	// Log is told of fetches that failed while keys were at hand. Nil: nobody.
	Log *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	keys       *keyCache
	algorithms map[string]algorithm
	claims     []string
	discovers  bool // the issuer is whatever the identity server says
	skew       time.Duration
	now        func() time.Time
}

// New checks a configuration and reports all that is wrong with it, as errors
// of class Invalid. It does not contact the identity server, which may be
// started later than we are; it does read the KeysFile.
func New(c Config) (*Verifier, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	source, sourceErr := newSource(c)
	accepted, algorithmsErr := acceptedAlgorithms(c.Algorithms)
	err := errors.Join(sourceErr, algorithmsErr,
		checkDuration("clock skew", &c.ClockSkew, defaultClockSkew, time.Hour),
		checkDuration("age at which keys are fetched again", &c.RefreshAfter, defaultRefreshAfter, maxAge),
		checkDuration("time limit of a fetch", &c.FetchTimeout, defaultFetchTimeout, time.Minute))
	if err != nil {
		return nil, err
	}
	completeFor := justLoaded
	if c.Keys != nil {
		completeFor = c.RefreshAfter
	}
	return &Verifier{
		keys: &keyCache{
			source:       source,
			refreshAfter: c.RefreshAfter,
			completeFor:  completeFor,
			timeout:      c.FetchTimeout,
			log:          c.Log,
			now:          c.Now,
			onDemand:     rate.NewLimiter(rate.Every(onDemandEvery), 1),
		},
		algorithms: accepted,
		claims:     c.Claims,
		discovers:  c.Issuer == "",
		skew:       c.ClockSkew,
		now:        c.Now,
	}, nil
}

func newSource(c Config) (source, error) {
	var issuerErr error
	if c.Issuer == "" {
		issuerErr = fmt.Errorf("%w: keys without discovery do not tell whose they are; the issuer has to be given too", fault.Invalid)
	}
	if c.Keys != nil {
		return ownKeys{published: c.Keys, issuer: c.Issuer}, issuerErr
	}
	if c.KeysFile != "" {
		file := keysFile{path: c.KeysFile, issuer: c.Issuer}
		_, err := file.read()
		if err != nil {
			err = fmt.Errorf("%w: %w", fault.Invalid, err)
		}
		return file, errors.Join(issuerErr, err)
	}
	base, err := url.Parse(c.IdentityURL)
	switch {
	case c.IdentityURL == "":
		return nil, fmt.Errorf("%w: neither the URL of the identity server nor a file of its keys is given", fault.Invalid)
	case err != nil, base.Scheme != "http" && base.Scheme != "https", base.Host == "",
		base.User != nil, base.RawQuery != "", base.Fragment != "":
		// The URL is not repeated: it can hold a password.
		return nil, fmt.Errorf("%w: the URL of the identity server is not of the form https://host[:port][/path]", fault.Invalid)
	}
	base.Path = strings.TrimRight(base.Path, "/")
	base.RawPath = ""
	client := c.Client
	if client == nil {
		if client, err = newClient(c.CAFile); err != nil {
			return nil, err
		}
	}
	return newDiscovery(base, c.Issuer, client), nil
}

func checkDuration(what string, value *time.Duration, byDefault, most time.Duration) error {
	if *value == 0 {
		*value = byDefault
	}
	if *value < 0 || *value > most {
		return fmt.Errorf("%w: the %s is %s, not between 0 and %s", fault.Invalid, what, *value, most)
	}
	return nil
}

// Authenticate verifies the bearer token of a request.
func (v *Verifier) Authenticate(r *http.Request, p Policy) (Token, error) {
	raw, err := Bearer(r)
	if err != nil {
		return Token{}, err
	}
	return v.Verify(r.Context(), raw, p)
}

// Verify checks the signature, issuer and dates of a token in compact form, and
// that the policy allows it.
func (v *Verifier) Verify(ctx context.Context, raw string, p Policy) (Token, error) {
	signed, err := v.parse(raw)
	if err != nil {
		return Token{}, err
	}
	set, err := v.keys.current(ctx)
	if err != nil {
		return Token{}, fmt.Errorf("verify token: %w", err)
	}
	if !set.verifies(signed) {
		if set.names(signed.kid) {
			return Token{}, refuse("its signature is wrong")
		}
		newer, err := v.keys.newerThan(ctx, set)
		if err != nil {
			return Token{}, fmt.Errorf("verify token: %w", err)
		}
		if newer == set || !newer.verifies(signed) {
			return Token{}, refuse("no key of the identity server made its signature")
		}
		set = newer
	}
	claims, err := parseClaims(signed.payload)
	if err != nil {
		return Token{}, err
	}
	if v.discovers && text(claims.Issuer) != set.issuer {
		// The identity server may have got another name since.
		if set, err = v.keys.newerThan(ctx, set); err != nil {
			return Token{}, fmt.Errorf("verify token: %w", err)
		}
	}
	token, err := claims.check(set.issuer, v.now(), v.skew)
	if err != nil {
		return Token{}, err
	}
	token.Type = signed.typ
	if p.AnySubject && token.Subject == "" {
		token.Subject = anySubject(text(claims.Subject))
	}
	if err := p.check(token); err != nil {
		return Token{}, err
	}
	if len(v.claims) > 0 {
		if token.Claims, err = furtherClaims(signed.payload, v.claims); err != nil {
			return Token{}, err
		}
	}
	return token, nil
}

// Ready tells whether tokens can be verified, fetching the keys where there are
// none yet. An error is of class Transient.
func (v *Verifier) Ready(ctx context.Context) error {
	if _, err := v.keys.current(ctx); err != nil {
		return fmt.Errorf("keys of the identity server: %w", err)
	}
	return nil
}

func acceptedAlgorithms(names []string) (map[string]algorithm, error) {
	if len(names) == 0 {
		names = []string{"RS256"}
	}
	accepted := make(map[string]algorithm, len(names))
	for _, name := range names {
		i := slices.IndexFunc(algorithms, func(a algorithm) bool { return a.name == name })
		if i < 0 {
			return nil, fmt.Errorf("%w: %q is not an algorithm that tokens can be signed with here", fault.Invalid, name)
		}
		accepted[name] = algorithms[i]
	}
	return accepted, nil
}
