// Package smclient is Latchkey's own client of Bitwarden Secrets Manager's
// protocol, for machines, which have an access token, and for operators, who
// have a token of the organisation's OpenID provider and the organisation's key.
//
// On the wire it is as the released clients are; everything that it sends to be
// kept is encrypted here, and what comes back is decrypted here. Answers are
// read strictly: without a member that the released clients insist on, there
// is an error.
package smclient

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/accesstoken"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// requestTimeout bounds one request with its answer.
const requestTimeout = 60 * time.Second

// Config says which server a client speaks to.
type Config struct {
	// Server is the base URL; identity and API are below it, at /identity and
	// /api. It is https, but for this machine's own addresses.
	Server string
	// HTTP sends the requests. Nil: a client that follows no redirect, since what
	// it would carry along is secret.
	HTTP *http.Client
	// Pause is how long the client waits before it sends a request for the second
	// time. Zero: half a second.
	Pause time.Duration
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Operator is how a person of an organisation is known.
type Operator struct {
	// Bearer is a token of the OpenID provider.
	Bearer config.Secret
	// Organization is the organisation's id.
	Organization string
	// Key gives the organisation's key. It is asked once, by the first call that
	// encrypts or decrypts; others work without the key. Nil: there is none.
	Key func(context.Context) (encstring.Key, error)
}

// Client speaks to one server for one machine or one operator. It is safe for
// concurrent use.
type Client struct {
	server        string // the base URL
	identity, api string
	http          *http.Client
	pause         time.Duration
	mostBytes     int64 // of an answer
	now           func() time.Time

	token    *accesstoken.Token // of a machine
	operator Operator

	mu      sync.Mutex
	session *session // of a machine
	vault   *vault
}

// vault is an organisation's key.
type vault struct {
	organization string
	key          encstring.Key
}

// ForMachine makes the client of whoever has an access token.
func ForMachine(c Config, token accesstoken.Token) (*Client, error) {
	client, err := newClient(c)
	if err != nil {
		return nil, err
	}
	client.token = &token
	return client, nil
}

// ForOperator makes the client of a person.
func ForOperator(c Config, o Operator) (*Client, error) {
	id, err := uuid.Parse(o.Organization)
	if err != nil {
		return nil, fmt.Errorf("%w: the organization's id is not a UUID", fault.Invalid)
	}
	o.Organization = id.String()
	if o.Bearer == "" || strings.ContainsAny(o.Bearer.Reveal(), " \t\r\n") {
		return nil, fmt.Errorf("%w: the operator's token is not a bearer token", fault.Invalid)
	}
	client, err := newClient(c)
	if err != nil {
		return nil, err
	}
	client.operator = o
	return client, nil
}

func newClient(c Config) (*Client, error) {
	base, err := baseURL(c.Server)
	if err != nil {
		return nil, err
	}
	if c.HTTP == nil {
		c.HTTP = newHTTP()
	}
	if c.Pause == 0 {
		c.Pause = 500 * time.Millisecond
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Client{server: base, identity: base + "/identity", api: base + "/api", http: c.HTTP, pause: c.Pause, mostBytes: maxAnswer, now: c.Now}, nil
}

func baseURL(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", fmt.Errorf("%w: the server is the address of a Secrets Manager, such as https://sm.example.org", fault.Invalid)
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		return "", fmt.Errorf("%w: %s: the server's address begins with https://; http:// is for this machine's own addresses", fault.Invalid, u)
	}
	return strings.TrimRight(u.String(), "/"), nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// newHTTP speaks HTTP/1.1 uncompressed, as the released clients do. The
// authorities that it trusts are the system's; SSL_CERT_FILE names others.
func newHTTP() *http.Client {
	return &http.Client{
		Timeout:       requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: requestTimeout,
			IdleConnTimeout:       time.Minute,
			DisableCompression:    true,
		},
	}
}

// Organization is the id of the organisation; a machine's client asks the
// server for it.
func (c *Client) Organization(ctx context.Context) (string, error) {
	if c.token == nil {
		return c.operator.Organization, nil
	}
	v, err := c.unlock(ctx)
	return v.organization, err
}

// unlock gives the organisation's key: of a machine the one in the answer to
// its token, of an operator the one that they have, which is compared with the
// one that the organisation was made with. Another would leave behind what
// nobody can read.
func (c *Client) unlock(ctx context.Context) (vault, error) {
	if c.token != nil {
		if _, err := c.authorization(ctx); err != nil {
			return vault{}, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.vault != nil {
		return *c.vault, nil
	}
	if c.operator.Key == nil {
		return vault{}, fmt.Errorf("%w: this needs the organization's key", fault.Invalid)
	}
	key, err := c.operator.Key(ctx)
	if err != nil {
		return vault{}, err
	}
	settings, err := c.Settings(ctx)
	if err != nil {
		return vault{}, err
	}
	if settings.KeyCheck != "" && !settings.MadeWith(key) {
		return vault{}, fmt.Errorf("%w: this is not the key that organization %s was made with", fault.Invalid, c.operator.Organization)
	}
	c.vault = &vault{c.operator.Organization, key}
	return *c.vault, nil
}
