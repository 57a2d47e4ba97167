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
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/latchkey-fn/latchkey/local/apiclient"
	"github.com/latchkey-fn/latchkey/shared/accesstoken"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

const (
	// requestTimeout bounds one request with its answer.
	requestTimeout = 60 * time.Second
	// maxAnswer bounds an answer, in bytes. An export holds 6 000 secrets.
	maxAnswer = 256 << 20
)

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
	server *apiclient.Client
	now    func() time.Time

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
	id, err := apiclient.CheckOperator(o.Bearer, o.Organization)
	if err != nil {
		return nil, err
	}
	o.Organization = id
	client, err := newClient(c)
	if err != nil {
		return nil, err
	}
	client.operator = o
	return client, nil
}

func newClient(c Config) (*Client, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	client := &Client{now: c.Now}
	var err error
	client.server, err = apiclient.New(apiclient.Config{
		Server: c.Server, Serves: "a Secrets Manager", Example: "https://sm.example.org",
		Timeout: requestTimeout, MaxAnswer: maxAnswer, HTTP: c.HTTP, Pause: c.Pause, Advise: client.advise,
	})
	return client, err
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
