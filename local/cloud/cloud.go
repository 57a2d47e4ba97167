// Package cloud is an emulator of the part of Bitwarden's billing cloud that
// self-hosted servers talk to: tokens for installations, the sync of Families
// sponsorships, licences. One Cloud is one region. It sends no mail, holds
// everything in memory, and listens on loopback only.
//
// By default it has the real cloud's defects: a delete that is repeated with a
// lastSyncDate makes the offer again, an offer key sent twice poisons the
// organisation, a failure after the commit loses the mails. A test that passes
// here passes because the client avoids them.
//
// Tests use a Cloud in process, by its methods and through a Transport. The same
// methods are reachable over HTTP under /__emu, on a listener of their own.
package cloud

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Fidelity says whether the cloud's defects are emulated.
type Fidelity string

// Fidelities.
const (
	// Real has the defects.
	Real Fidelity = "real"
	// Fixed stores all of a batch or nothing, forgets the batch when it dies
	// before its mails, deletes idempotently, and takes an offer key once. It
	// shows that a test fails for the right reason.
	Fixed Fidelity = "fixed"
)

// Config describes an emulator. The zero value is a US cloud in real time.
type Config struct {
	// Region decides the names of the hosts. Empty: US.
	Region Region
	// IdentityURL and APIURL are how a Transport's clients name the hosts. Empty:
	// the region's own, such as https://identity.bitwarden.com.
	IdentityURL, APIURL string
	// VaultURL begins the links in mails. Empty: the region's own.
	VaultURL string
	// Now is the clock that the emulator's own runs along with. Nil: time.Now.
	Now func() time.Time
	// Sleep makes time pass on that clock, for faults and delays; it returns the
	// context's error where that ends first. Nil: real timers (those of
	// testing/synctest too). With Sleep a Transport is synchronous: see there.
	Sleep func(context.Context, time.Duration) error
	// Seed makes ids, keys and whatever else is drawn repeatable.
	Seed uint64
	// Fidelity is Real if empty.
	Fidelity Fidelity
	// Limits are the published rate limits: off if zero.
	Limits Limits
	// ClientCache is for how long the token endpoint may go on with what it read
	// of an installation; the real one has five minutes. Zero: not at all.
	ClientCache time.Duration
	// IdentityKey signs tokens, and LicenceSigningKey licences. Nil: the throw-away keys
	// that everybody has; the certificate of the latter is LicenceCertificate.
	IdentityKey, LicenceSigningKey *rsa.PrivateKey
}

// Cloud is the emulator of one region. It is safe for concurrent use.
type Cloud struct {
	config Config
	clock  *clock
	tokens *tokens
	// licences is the key that signs them.
	licences *rsa.PrivateKey

	closing chan struct{}
	close   sync.Once
	working sync.WaitGroup
	parking parking

	// What follows is under mu, which nobody holds while waiting.
	mu       sync.Mutex
	source   *rand.ChaCha8
	random   *rand.Rand
	fidelity Fidelity
	limits   *limiter
	caching  time.Duration
	cached   map[string]cachedInstallation
	data     data
	faults   []*armed
	removed  map[Route]bool
	records  []*Request
	mails    []Mail
	events   []Event
	checks   checks
}

// New makes an emulator without data.
func New(config Config) (*Cloud, error) {
	if config.Region == "" {
		config.Region = US
	}
	names, ok := regions[config.Region]
	if !ok {
		return nil, fmt.Errorf("%w: no region %q", fault.Invalid, config.Region)
	}
	setDefault(&config.IdentityURL, names.identity)
	setDefault(&config.APIURL, names.api)
	setDefault(&config.VaultURL, names.vault)
	setDefault(&config.Fidelity, Real)
	if config.Fidelity != Real && config.Fidelity != Fixed {
		return nil, fmt.Errorf("%w: no fidelity %q", fault.Invalid, config.Fidelity)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	var err error
	if config.IdentityKey == nil {
		if config.IdentityKey, err = readKey(identityKeyPEM); err != nil {
			return nil, fmt.Errorf("key of the identity server: %w", err)
		}
	}
	if config.LicenceSigningKey == nil {
		if config.LicenceSigningKey, err = readKey(licenceKeyPEM); err != nil {
			return nil, fmt.Errorf("key of licences: %w", err)
		}
	}
	signing, err := newTokens(names.identity, config.IdentityKey)
	if err != nil {
		return nil, err
	}
	c := &Cloud{
		config: config, clock: &clock{base: config.Now}, tokens: signing,
		licences: config.LicenceSigningKey, closing: make(chan struct{}),
	}
	c.Reset()
	return c, nil
}

func setDefault[T ~string](value *T, otherwise T) {
	if *value == "" {
		*value = otherwise
	}
}

// Reset forgets everything, and makes clock, limits, fidelity and what will be
// drawn those of the Config.
func (c *Cloud) Reset() {
	c.clock.reset()
	c.mu.Lock()
	defer c.mu.Unlock()
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], c.config.Seed)
	// Two regions of one seed have no id in common.
	seed = sha256.Sum256(append(seed[:], c.config.Region...))
	c.source = rand.NewChaCha8(seed)
	c.random = rand.New(c.source)
	c.fidelity = c.config.Fidelity
	c.limits = newLimiter(c.config.Limits)
	c.caching = c.config.ClientCache
	c.cached = map[string]cachedInstallation{}
	c.data = newData()
	c.faults, c.removed = nil, map[Route]bool{}
	c.records, c.mails, c.events = nil, nil, nil
	c.checks = newChecks()
}

// Close ends what still waits, and waits for it. Nothing may be sent afterwards.
func (c *Cloud) Close() {
	c.close.Do(func() { close(c.closing) })
	c.parking.abandon()
	c.working.Wait()
}

// Region tells which region this is.
func (c *Cloud) Region() Region { return c.config.Region }

// IdentityURL and APIURL are how a Transport's clients name the hosts.
func (c *Cloud) IdentityURL() string { return c.config.IdentityURL }

// APIURL: see IdentityURL.
func (c *Cloud) APIURL() string { return c.config.APIURL }

// SetFidelity switches the defects on or off.
func (c *Cloud) SetFidelity(f Fidelity) error {
	if f != Real && f != Fixed {
		return fmt.Errorf("%w: no fidelity %q", fault.Invalid, f)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fidelity = f
	return nil
}

// SetLimits replaces the rate limits, and forgets what was counted.
func (c *Cloud) SetLimits(l Limits) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limits = newLimiter(l)
}

// SetClientCache says for how long the token endpoint may go on with what it
// read of an installation, and forgets what it had read.
func (c *Cloud) SetClientCache(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.caching, c.cached = d, map[string]cachedInstallation{}
}

// RemoveRoute makes a route answer 404 without a body, as one that this version
// of the cloud does not have.
func (c *Cloud) RemoveRoute(name Route) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removed[name] = true
}

// RestoreRoute undoes RemoveRoute.
func (c *Cloud) RestoreRoute(name Route) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.removed, name)
}

// Settings are what can be switched while a Cloud runs.
type Settings struct {
	Fidelity Fidelity `json:"fidelity"`
	Limits   Limits   `json:"limits"`
	// ClientCacheSeconds: see Config.ClientCache.
	ClientCacheSeconds int     `json:"clientCacheSeconds"`
	RemovedRoutes      []Route `json:"removedRoutes"`
}

// Settings are those now.
func (c *Cloud) Settings() Settings {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Settings{
		c.fidelity, c.limits.Limits, int(c.caching / time.Second), append([]Route{}, slices.Sorted(maps.Keys(c.removed))...),
	}
}

// Apply switches to these settings.
func (c *Cloud) Apply(s Settings) error {
	for _, name := range s.RemovedRoutes {
		if !slices.ContainsFunc(routes, func(r route) bool { return r.name == name }) {
			return fmt.Errorf("%w: no route %q", fault.Invalid, name)
		}
	}
	if err := c.SetFidelity(s.Fidelity); err != nil {
		return err
	}
	c.SetLimits(s.Limits)
	c.SetClientCache(time.Duration(s.ClientCacheSeconds) * time.Second)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removed = map[Route]bool{}
	for _, name := range s.RemovedRoutes {
		c.removed[name] = true
	}
	return nil
}

// newID draws a GUID.
func (c *Cloud) newID() string {
	id, _ := uuid.NewRandomFromReader(c.source) // ChaCha8 reads without an error
	return id.String()
}

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// newKeyText draws a secret of letters and digits.
func (c *Cloud) newKeyText(length int) string {
	text := make([]byte, length)
	for i := range text {
		text[i] = alphanumeric[c.random.IntN(len(alphanumeric))]
	}
	return string(text)
}

// IdentityHandler serves the identity host's real routes.
func (c *Cloud) IdentityHandler() http.Handler { return c.handler(identityHost) }

// APIHandler serves the API host's real routes.
func (c *Cloud) APIHandler() http.Handler { return c.handler(apiHost) }

// signer makes RS256 tokens whose header has this type.
func signer(key *rsa.PrivateKey, id, typ string) (jose.Signer, error) {
	signingKey := jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: id}}
	return jose.NewSigner(signingKey, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
}
