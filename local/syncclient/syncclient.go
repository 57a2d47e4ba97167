// Package syncclient is the operators' client of Billing sync: the connection
// with the cloud, sponsorship offers, runs of the sync, and the licence of one
// organisation. It speaks as an operator, who has a token of the organisation's
// OpenID provider.
//
// What has an official route is asked for there; runs, offers by id and the
// state of the sync are at Latchkey's own, below billing-sync.
package syncclient

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/latchkey-fn/latchkey/local/apiclient"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

const (
	// requestTimeout bounds one request with its answer. A sync of the licence asks
	// the cloud twice meanwhile.
	requestTimeout = 150 * time.Second
	// maxAnswer bounds an answer, in bytes: ten thousand offers are some 10 MB.
	maxAnswer = 64 << 20
)

// Config says where the server is, and who asks for which organisation.
type Config struct {
	// Server is the base URL; the API is below it, at /api. It is https, but for
	// this machine's own addresses.
	Server string
	// Bearer is a token of the OpenID provider.
	Bearer config.Secret
	// Organization is the organisation's id.
	Organization string
	// HTTP sends the requests. Nil: a client that follows no redirect, since what
	// it would carry along is secret.
	HTTP *http.Client
	// Pause is how long the client waits before it sends a request for the second
	// time, and at least between two looks at a run. Zero: half a second.
	Pause time.Duration
}

// Client speaks to one server about one organisation. It is safe for concurrent
// use.
type Client struct {
	server       *apiclient.Client
	organization string
	bearer       config.Secret
	pause        time.Duration // between two looks at a run
}

// New makes a client; nothing is sent.
func New(c Config) (*Client, error) {
	id, err := apiclient.CheckOperator(c.Bearer, c.Organization)
	if err != nil {
		return nil, err
	}
	server, err := apiclient.New(apiclient.Config{
		Server: c.Server, Serves: "a Latchkey that serves Billing sync", Example: "https://latchkey.example.org",
		Timeout: requestTimeout, MaxAnswer: maxAnswer, HTTP: c.HTTP, Pause: c.Pause, Advise: advise,
	})
	if err != nil {
		return nil, err
	}
	return &Client{server: server, organization: id, bearer: c.Bearer, pause: cmp.Or(c.Pause, apiclient.DefaultPause)}, nil
}

// own is a path below the organisation's billing-sync.
func (c *Client) own(path ...string) []string {
	return append([]string{"organizations", c.organization, "billing-sync"}, path...)
}

// Status tells how the organisation's sync is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, apiclient.Request{Doing: "read the state of the sync", Path: c.own()})
}

// Start asks for a run and gives it, or the one that there is.
func (c *Client) Start(ctx context.Context) (Run, error) {
	return get[Run](ctx, c, apiclient.Request{Doing: "start a sync", Method: http.MethodPost, Path: c.own("sync"), Again: true})
}

// Run is one run. With a wait the server answers when the run is finished, or
// when that time is over.
func (c *Client) Run(ctx context.Context, id string, wait time.Duration) (Run, error) {
	r := apiclient.Request{Doing: "read run " + id, Path: c.own("runs", id)}
	if wait > 0 {
		r.Query = url.Values{"wait": {strconv.Itoa(int(wait / time.Second))}}
	}
	return get[Run](ctx, c, r)
}

// Runs are the newest runs, newest first.
func (c *Client) Runs(ctx context.Context) ([]Run, error) {
	return getList[Run](ctx, c, apiclient.Request{Doing: "list the runs", Path: c.own("runs")})
}

// longestWait is for how long a server is asked to hold an answer back; look is
// how often somebody who watches sees something new.
const (
	longestWait = 20 * time.Second
	look        = time.Second
)

// Follow looks at a run until it is finished, and shows each state to watch,
// which may be nil.
func (c *Client) Follow(ctx context.Context, run Run, watch func(Run) error) (Run, error) {
	wait := longestWait
	if watch != nil {
		wait = look
	}
	for {
		if watch != nil {
			if err := watch(run); err != nil {
				return run, err
			}
		}
		if run.Finished() {
			return run, nil
		}
		soonest := time.NewTimer(c.pause)
		next, err := c.Run(ctx, run.ID, wait)
		if err != nil {
			soonest.Stop()
			return run, err
		}
		run = next
		if run.Finished() {
			soonest.Stop()
			continue
		}
		// A server that does not wait is not asked all the time.
		select {
		case <-soonest.C:
		case <-ctx.Done():
			soonest.Stop()
			return run, ctx.Err()
		}
	}
}

// Offers are all that the organisation has.
func (c *Client) Offers(ctx context.Context) ([]Offer, error) {
	return getList[Offer](ctx, c, apiclient.Request{Doing: "list the offers", Path: c.own("offers")})
}

// planFamilies is the official number of the one kind of sponsorship.
const planFamilies = 0

// NewOffer is what somebody offers.
type NewOffer struct {
	Email string
	// Name is what the member calls it; it may be empty.
	Name string
	// AdminInitiated offers are the organisation's; the others are the member's own,
	// who has one.
	AdminInitiated bool
}

// CreateOffer makes an offer, which the next run sends. The original's route does
// not give it unless it is asked to.
func (c *Client) CreateOffer(ctx context.Context, o NewOffer) (Offer, error) {
	body := map[string]any{"planSponsorshipType": planFamilies, "sponsoredEmail": o.Email, "isAdminInitiated": o.AdminInitiated}
	if o.Name != "" {
		body["friendlyName"] = o.Name
	}
	return get[Offer](ctx, c, apiclient.Request{
		Doing: "create an offer", Method: http.MethodPost, Body: body,
		Path:   []string{"organization", "sponsorship", "self-hosted", c.organization, "families-for-enterprise"},
		Header: map[string]string{"Prefer": "return=representation"},
	})
}

// RevokeOffer revokes one. What the cloud may have is removed there by the next
// run.
func (c *Client) RevokeOffer(ctx context.Context, id string) error {
	_, err := c.do(ctx, apiclient.Request{Doing: "revoke offer " + id, Method: http.MethodPost, Path: c.own("offers", id, "revoke")})
	return err
}

// RevokeOffersOf revokes those of a member who is no more, and tells how many
// they were.
func (c *Client) RevokeOffersOf(ctx context.Context, member string) (int, error) {
	removed, err := get[removedMember](ctx, c, apiclient.Request{
		Doing: "revoke the offers of member " + member, Method: http.MethodPost, Path: c.own("members", member, "removed"),
	})
	return removed.Revoked, err
}

// ReissueOffer has the cloud mail an offer anew: to another address or by
// another name where they are not empty.
func (c *Client) ReissueOffer(ctx context.Context, id, email, name string) (Offer, error) {
	body := map[string]string{}
	if email != "" {
		body["sponsoredEmail"] = email
	}
	if name != "" {
		body["friendlyName"] = name
	}
	return get[Offer](ctx, c, apiclient.Request{Doing: "reissue offer " + id, Method: http.MethodPost, Path: c.own("offers", id, "reissue"), Body: body})
}

// connectionType is the official number of a connection for Billing sync.
const connectionType = 1

// Connect makes the connection, or gives it another key, and enables it.
func (c *Client) Connect(ctx context.Context, key config.Secret) (Connection, error) {
	before, err := c.connection(ctx)
	if err != nil {
		return Connection{}, err
	}
	r := apiclient.Request{Doing: "connect", Method: http.MethodPost, Path: []string{"organizations", "connections"}, Body: c.connectionBody(true, key)}
	if before.ID != "" {
		r.Method, r.Path, r.Again = http.MethodPut, append(r.Path, before.ID), true
	}
	after, err := get[officialConnection](ctx, c, r)
	return after.connection(), err
}

// Enable enables or disables the connection, whose key stays. Without one it is
// a *NoConnection.
func (c *Client) Enable(ctx context.Context, enabled bool) (Connection, error) {
	before, err := c.existing(ctx)
	if err != nil {
		return Connection{}, err
	}
	after, err := get[officialConnection](ctx, c, apiclient.Request{
		Doing: "change the connection", Method: http.MethodPut, Again: true,
		Path: []string{"organizations", "connections", before.ID}, Body: c.connectionBody(enabled, ""),
	})
	return after.connection(), err
}

// connection gives the one that there is; its id is empty where there is none.
func (c *Client) connection(ctx context.Context) (officialConnection, error) {
	return get[officialConnection](ctx, c, apiclient.Request{
		Doing: "read the connection", Path: []string{"organizations", "connections", c.organization, strconv.Itoa(connectionType)},
	})
}

func (c *Client) connectionBody(enabled bool, key config.Secret) any {
	settings := map[string]string{}
	if key != "" {
		settings["billingSyncKey"] = key.Reveal()
	}
	return map[string]any{"type": connectionType, "organizationId": c.organization, "enabled": enabled, "config": settings}
}

// Disconnect removes the connection with its key. Without one it is a
// *NoConnection.
func (c *Client) Disconnect(ctx context.Context) error {
	before, err := c.existing(ctx)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, apiclient.Request{Doing: "remove the connection", Method: http.MethodDelete, Path: []string{"organizations", "connections", before.ID}})
	return err
}

func (c *Client) existing(ctx context.Context) (officialConnection, error) {
	connection, err := c.connection(ctx)
	if err == nil && connection.ID == "" {
		err = &NoConnection{Organization: c.organization}
	}
	return connection, err
}

// NoConnection is that an organisation is not connected with the cloud.
type NoConnection struct{ Organization string }

// Error implements error.
func (n *NoConnection) Error() string {
	return "organization " + n.Organization + " has no connection with the cloud"
}

// Unwrap gives the class of the failure.
func (n *NoConnection) Unwrap() error { return fault.NotFound }

// NoLicence is that an organisation has no licence installed.
type NoLicence struct{ Organization string }

// Error implements error.
func (n *NoLicence) Error() string {
	return "organization " + n.Organization + " has no license installed"
}

// Unwrap gives the class of the failure.
func (n *NoLicence) Unwrap() error { return fault.NotFound }

// Licence is the installed one. Without one it is a *NoLicence.
func (c *Client) Licence(ctx context.Context) (Licence, error) {
	l, err := get[Licence](ctx, c, apiclient.Request{Doing: "read the license", Path: c.own("license")})
	if !isNotFound(err) {
		return l, err
	}
	// To whom may not ask the server says the same, and of the sync as well.
	if _, statusErr := c.Status(ctx); statusErr == nil {
		err = &NoLicence{Organization: c.organization}
	}
	return l, err
}

// unlessConnected gives, of something that needs a connection and was not found,
// the *NoConnection that it is for want of.
func (c *Client) unlessConnected(ctx context.Context, err error) error {
	if !isNotFound(err) {
		return err
	}
	_, connectionErr := c.existing(ctx)
	if none, ok := errors.AsType[*NoConnection](connectionErr); ok {
		return none
	}
	return err
}

func isNotFound(err error) bool {
	refusal, ok := errors.AsType[*apiclient.Refusal](err)
	return ok && refusal.Status == http.StatusNotFound
}

// CheckLicence compares the installed licence with the cloud's, and installs
// nothing. Without a connection it is a *NoConnection.
func (c *Client) CheckLicence(ctx context.Context) (LicenceCheck, error) {
	check, err := get[LicenceCheck](ctx, c, apiclient.Request{Doing: "check the license", Method: http.MethodPost, Path: c.own("license", "check"), Again: true})
	return check, c.unlessConnected(ctx, err)
}

// licences is the official path of what a self-hosted server does with them.
func (c *Client) licences(path ...string) []string {
	return append([]string{"organizations", "licenses", "self-hosted", c.organization}, path...)
}

// SyncLicence installs the cloud's. Without a connection it is a *NoConnection.
func (c *Client) SyncLicence(ctx context.Context) error {
	_, err := c.do(ctx, apiclient.Request{Doing: "sync the license", Method: http.MethodPost, Path: c.licences("sync")})
	return c.unlessConnected(ctx, err)
}

// UploadLicence installs a document. Force: one that is older than the
// installed one, or of another of the cloud's organisations, too.
func (c *Client) UploadLicence(ctx context.Context, document []byte, force bool) error {
	form, err := licenceForm(document)
	if err != nil {
		return err
	}
	r := apiclient.Request{Doing: "upload the license", Method: http.MethodPost, Path: c.licences(), Form: form}
	if force {
		r.Query = url.Values{"force": {"true"}}
	}
	_, err = c.do(ctx, r)
	return err
}

// get does a call that answers with one object.
func get[T object](ctx context.Context, c *Client, r apiclient.Request) (T, error) {
	var none T
	content, err := c.do(ctx, r)
	if err != nil {
		return none, err
	}
	value, err := decode[T](content)
	if err != nil {
		return none, fmt.Errorf("%s: %w", r.Doing, err)
	}
	return value, nil
}

// getList does a call that answers with a list, over all of its pages.
func getList[T object](ctx context.Context, c *Client, r apiclient.Request) ([]T, error) {
	values := []T{}
	for {
		page, err := get[list](ctx, c, r)
		if err != nil {
			return nil, err
		}
		for i, content := range page.Data {
			value, err := decode[T](content)
			if err != nil {
				return nil, fmt.Errorf("%s: number %d of the list: %w", r.Doing, i+1, err)
			}
			values = append(values, value)
		}
		if page.Next == nil || *page.Next == "" {
			return values, nil
		}
		if len(page.Data) == 0 || r.Query.Get(continuation) == *page.Next {
			return nil, fmt.Errorf("%s: %w: the list does not end", r.Doing, apiclient.ErrAnswer)
		}
		r.Query = url.Values{continuation: {*page.Next}}
	}
}

const continuation = "continuationToken"

// list is a page of several objects.
type list struct {
	Data []json.RawMessage `json:"data"`
	Next *string           `json:"continuationToken"`
}

func (list) required() []string { return []string{"data"} }
