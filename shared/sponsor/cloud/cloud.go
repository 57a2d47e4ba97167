// Package cloud is the client of the vendor's cloud: tokens for an
// installation, the sync of sponsorships, and the fetching of licences.
//
// It sends what it is told to, once. The only thing it does again is a request
// whose token was refused, with a new token; whether and when to try again is
// the caller's to say, from what an *Error tells of the failure. The billing
// sync key, the installation's key and tokens are in no error, log line or URL.
package cloud

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// What a Config leaves empty.
const (
	defaultRequestTimeout = 60 * time.Second
	defaultConnectTimeout = 5 * time.Second
)

// Config says which cloud, as whom.
type Config struct {
	// Enabled is the master switch: without it every call fails with
	// CommDisabled before a byte leaves.
	Enabled bool
	// Region is named in messages.
	Region string
	// IdentityURL and APIURL are base addresses, perhaps with a path.
	IdentityURL, APIURL string
	InstallationID      string
	InstallationKey     config.Secret
	// CAFile is a PEM file of certificates that are trusted besides the
	// system's.
	CAFile string
	// RequestTimeout bounds one request with its answer. Zero: 60 s.
	RequestTimeout time.Duration
	// ConnectTimeout bounds the connecting. Zero: 5 s.
	ConnectTimeout time.Duration
	// Breaker remembers refusals beyond this process. Nil: nothing does.
	Breaker Breaker
	// Observe, unless nil, is told of every request that was sent or tried.
	Observe func(context.Context, Call)
	// Transport takes the place of the client's own; CAFile and ConnectTimeout
	// have no effect then.
	Transport http.RoundTripper
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// FromSettings is the Config of settings that were validated.
func FromSettings(b config.Billing) Config {
	return Config{
		Enabled: b.CloudCommunication, Region: b.Region, IdentityURL: b.IdentityURL, APIURL: b.APIURL,
		InstallationID: b.InstallationID, InstallationKey: b.InstallationKey,
		CAFile: b.CAFile, RequestTimeout: b.RequestTimeout,
	}
}

// Subject is what identity refuses or not: one client with one scope at one
// host. Revision changes with the installation's key, so that a refusal does
// not outlive the configuration that it was of.
type Subject struct {
	IdentityURL, ClientID, Scope string
	Revision                     string
}

// Breaker remembers that identity refused an installation, so that it is not
// asked again and again. It is called from several goroutines.
type Breaker interface {
	// Blocked gives the time until which no token may be asked for; the zero
	// time, or one gone by, if it may.
	Blocked(context.Context, Subject) (time.Time, error)
	// Trip blocks until then. An error is reported beside the refusal.
	Trip(ctx context.Context, of Subject, until time.Time) error
}

// BreakerPeriod is how long a refused installation is not tried again.
const BreakerPeriod = 24 * time.Hour

// Call is one request, for metrics.
type Call struct {
	Stage    Stage
	Status   int // 0: there was no answer
	Duration time.Duration
	// Code is empty if the request succeeded.
	Code Code
	// Skew is how far the cloud's clock is ahead of ours; nil if the answer
	// does not tell.
	Skew *time.Duration
}

// Client speaks with one cloud as one installation. It is safe for concurrent
// use; requests for one organisation must not overlap, which the caller sees
// to.
type Client struct {
	enabled       bool
	region        string
	identity, api *url.URL
	clientID      string
	key           config.Secret
	revision      string
	timeout       time.Duration
	breaker       Breaker
	observe       func(context.Context, Call)
	http          *http.Client
	now           func() time.Time

	pace *rate.Limiter

	mu         sync.Mutex
	tokens     map[string]*tokenSlot
	holdTokens time.Time
	skew       *time.Duration
}

// New checks a configuration, reports all that is wrong with it as errors of
// class Invalid, and sends nothing.
func New(c Config) (*Client, error) {
	identity, identityErr := baseURL("identity", c.IdentityURL)
	api, apiErr := baseURL("API", c.APIURL)
	transport, transportErr := c.Transport, error(nil)
	if transport == nil {
		transport, transportErr = newTransport(c.CAFile, orDefault(c.ConnectTimeout, defaultConnectTimeout))
	}
	var installationErr error
	id, err := uuid.Parse(c.InstallationID)
	if c.Enabled && (err != nil || c.InstallationKey == "") {
		installationErr = fmt.Errorf("%w: the installation's id is no GUID, or its key is missing", fault.Invalid)
	}
	if err := errors.Join(identityErr, apiErr, transportErr, installationErr); err != nil {
		return nil, fmt.Errorf("client of the cloud: %w", err)
	}
	now := c.Now
	if now == nil {
		now = time.Now
	}
	observe := c.Observe
	if observe == nil {
		observe = func(context.Context, Call) {}
	}
	digest := sha256.Sum256([]byte(id.String() + "\n" + c.InstallationKey.Reveal()))
	return &Client{
		enabled: c.Enabled, region: c.Region, identity: identity, api: api,
		clientID: "installation." + id.String(), key: c.InstallationKey, revision: hex.EncodeToString(digest[:8]),
		timeout: orDefault(c.RequestTimeout, defaultRequestTimeout), breaker: c.Breaker, observe: observe,
		http: &http.Client{
			Transport: transport,
			// Neither a key nor a token goes where a redirect points.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		now: now, tokens: map[string]*tokenSlot{}, pace: rate.NewLimiter(rate.Every(tokenEvery), tokenBurst),
	}, nil
}

// Skew is how far the cloud's clock was ahead of ours at the last answer, to
// the second; false if there was none that told.
func (c *Client) Skew() (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.skew == nil {
		return 0, false
	}
	return *c.skew, true
}

// Subject is what a Breaker knows the tokens of a scope by.
func (c *Client) Subject(scope string) Subject {
	return Subject{IdentityURL: c.identity.String(), ClientID: c.clientID, Scope: scope, Revision: c.revision}
}

// Hosts are the two that have to be reachable.
func (c *Client) Hosts() []string { return []string{c.identity.Host, c.api.Host} }

func orDefault(value, byDefault time.Duration) time.Duration {
	if value <= 0 {
		return byDefault
	}
	return value
}

func baseURL(what, address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		// It is not repeated: it can hold a password.
		return nil, fmt.Errorf("%w: the address of the cloud's %s is not of the form https://host[:port][/path]", fault.Invalid, what)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = ""
	return u, nil
}

type traceKey struct{}

// WithTrace makes all requests of a run one trace: id is the run's GUID, whose
// 32 digits are a W3C trace id.
func WithTrace(ctx context.Context, id uuid.UUID) context.Context {
	return context.WithValue(ctx, traceKey{}, id)
}

// traceparent is the header of that name (W3C Trace Context, section 3.2).
func traceparent(ctx context.Context) string {
	id, ok := ctx.Value(traceKey{}).(uuid.UUID)
	if !ok || id == uuid.Nil {
		id = uuid.New()
	}
	span := uuid.New()
	return "00-" + hex.EncodeToString(id[:]) + "-" + hex.EncodeToString(span[:8]) + "-01"
}
