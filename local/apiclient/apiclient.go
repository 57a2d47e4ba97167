// Package apiclient is how Latchkey's own clients speak to a server: it sends
// requests over https, again where that is safe, reads bounded answers, and
// makes of refusals and of a server that cannot be reached errors that say what
// to do. What the requests mean is the business of the packages above it.
package apiclient

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// DefaultPause is how long a client waits where nobody says it.
const DefaultPause = 500 * time.Millisecond

// Config says which server a client speaks to. All but HTTP, Pause and Advise
// has to be given.
type Config struct {
	// Server is the base URL. It is https, but for this machine's own addresses.
	Server string
	// Serves is what is at that address, and Example is such an address. Both are
	// for errors.
	Serves, Example string
	// Timeout bounds one request with its answer.
	Timeout time.Duration
	// MaxAnswer bounds an answer, in bytes.
	MaxAnswer int64
	// HTTP sends the requests. Nil: a client that follows no redirect, since what
	// it would carry along is secret.
	HTTP *http.Client
	// Pause is how long the client waits before it sends a request for the second
	// time. Zero: DefaultPause.
	Pause time.Duration
	// Advise tells what to do about a refusal that says too little by itself, and
	// that is not one of those that are the same for all servers. Nil, and the
	// empty text: nothing is known.
	Advise func(Request, *Refusal) string
}

// Client speaks to one server. It is safe for concurrent use.
type Client struct{ config Config }

// New makes a client; nothing is sent.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.Server)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%w: the server is the address of %s, such as %s", fault.Invalid, c.Serves, c.Example)
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		return nil, fmt.Errorf("%w: %s: the server's address begins with https://; http:// is for this machine's own addresses", fault.Invalid, u)
	}
	c.Server = strings.TrimRight(u.String(), "/")
	if c.HTTP == nil {
		c.HTTP = newHTTP(c.Timeout)
	}
	c.Pause = cmp.Or(c.Pause, DefaultPause)
	if c.Advise == nil {
		c.Advise = func(Request, *Refusal) string { return "" }
	}
	return &Client{c}, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// newHTTP speaks HTTP/1.1 uncompressed, as the released clients of Secrets
// Manager do. The authorities that it trusts are the system's; SSL_CERT_FILE
// names others.
func newHTTP(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: 10 * time.Second,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true,
		},
	}
}

// Server is the base URL, without a slash at its end.
func (c *Client) Server() string { return c.config.Server }

// CheckOperator checks how a person of an organisation is known, and gives the
// organisation's id in its usual form.
func CheckOperator(bearer config.Secret, organization string) (id string, err error) {
	parsed, err := uuid.Parse(organization)
	if err != nil {
		return "", fmt.Errorf("%w: the organization's id is not a UUID", fault.Invalid)
	}
	if bearer == "" || strings.ContainsAny(bearer.Reveal(), " \t\r\n") {
		return "", fmt.Errorf("%w: the operator's token is not a bearer token", fault.Invalid)
	}
	return parsed.String(), nil
}
