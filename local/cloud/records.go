package cloud

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Request is what is recorded of a request to the real surface. Secrets are
// masked.
type Request struct {
	// Number counts from 1, over both hosts.
	Number int       `json:"number"`
	At     time.Time `json:"at"`
	// Host is "identity" or "api".
	Host string `json:"host"`
	// Route is empty where there is none.
	Route   Route       `json:"route"`
	Method  string      `json:"method"`
	Path    string      `json:"path"`
	Header  http.Header `json:"header"`
	Address string      `json:"address"`
	// Body is at most the first 4 KiB, and Size the length of all of it.
	Body string `json:"body"`
	Size int    `json:"size"`

	// Client is the client id, and Scope what it asked for at the token endpoint.
	Client string `json:"client,omitempty"`
	Scope  string `json:"scope,omitempty"`
	// TokenID is the claim jti of the token that was issued or used.
	TokenID string `json:"tokenId,omitempty"`
	// Organization is the cloud's id in a sync, or in the path.
	Organization string `json:"organizationId,omitempty"`
	// Keys are the offer keys of a sync, in order; Deletes counts its deletes.
	Keys    []string `json:"keys,omitempty"`
	Deletes int      `json:"deletes,omitempty"`

	// Fault is what the request suffered, such as "close afterCommit".
	Fault string `json:"fault,omitempty"`
	// Done is when the server was through with it: nil while it works. The client
	// may have left before.
	Done *time.Time `json:"done"`
	// Status is what was answered; 0 for nothing.
	Status int `json:"status"`
}

// maxRecordedBody is how much of a body is recorded.
const maxRecordedBody = 4096

const mask = "***"

var (
	secretMembers = regexp.MustCompile(`(?i)("(?:billingSyncKey|licenseKey|masterPasswordHash|otp|secret)"\s*:\s*")[^"]*`)
	secretFields  = []string{"client_secret", "password", "sponsorshiptoken"}
)

// Requests are those that arrived, in order.
func (c *Cloud) Requests() []Request {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]Request, len(c.records))
	for i, r := range c.records {
		list[i] = *r
	}
	return list
}

// Count tells how many requests for a route arrived; the empty one is all.
func (c *Cloud) Count(name Route) int {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, r := range c.records {
		if name == "" || r.Route == name {
			n++
		}
	}
	return n
}

// CountStatus tells how many requests were answered with a status, 0 for those
// that were not answered.
func (c *Cloud) CountStatus(status int) int {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, r := range c.records {
		if r.Status == status && r.Done != nil {
			n++
		}
	}
	return n
}

// Forget drops what was recorded: requests, mails, events. Checks go on as if
// nothing had been dropped.
func (c *Cloud) Forget() {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records, c.mails, c.events = nil, nil, nil
}

// arrive records a request, checks it, and finds its fault.
func (c *Cloud) arrive(h host, j *job) {
	j.bind(h)
	now := c.Now()
	r := &Request{
		At: now, Host: h.String(), Method: j.http.Method, Path: maskPath(j.http.URL), Header: maskHeader(j.http.Header),
		Address: address(j.http), Body: j.maskedBody(), Size: len(j.body), Organization: j.values["id"],
	}
	if j.route != nil {
		r.Route = j.route.name
	}
	if j.form != nil {
		r.Client, r.Scope = j.form.Get("client_id"), j.form.Get("scope")
	}
	if j.batch != nil {
		r.Organization = string(j.batch.Organization)
		r.Keys = make([]string, 0, len(j.batch.Batch))
		for _, item := range j.batch.Batch {
			if item == nil {
				continue
			}
			r.Keys = append(r.Keys, string(item.OfferKey))
			if item.ToDelete {
				r.Deletes++
			}
		}
	}
	j.record = r
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checks.arrived++
	r.Number = c.checks.arrived
	c.records = append(c.records, r)
	c.checkArrival(j)
	if j.fault = c.suffer(r); j.fault != nil {
		r.Fault = string(j.fault.Action) + " " + string(j.fault.When)
	}
}

// leave records how a request ended.
func (c *Cloud) leave(j *job, a answer) {
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	j.record.Done, j.record.Status = &now, a.status
	c.checkDeparture(j)
}

// address is the client's, without its port.
func address(r *http.Request) string {
	i := strings.LastIndexByte(r.RemoteAddr, ':')
	if i < 0 {
		return r.RemoteAddr
	}
	return r.RemoteAddr[:i]
}

func (j *job) maskedBody() string {
	if j.form != nil {
		form := url.Values{}
		for name, values := range j.form {
			if slices.Contains(secretFields, strings.ToLower(name)) {
				values = []string{mask}
			}
			form[name] = values
		}
		return form.Encode()
	}
	text := string(j.body[:min(len(j.body), maxRecordedBody)])
	if j.route == nil || j.route.host == identityHost {
		return "" // who knows what it is
	}
	return secretMembers.ReplaceAllString(text, "${1}"+mask)
}

func maskHeader(h http.Header) http.Header {
	masked := h.Clone()
	for name, values := range masked {
		if name == "Authorization" || name == "Cookie" {
			for i, value := range values {
				scheme, _, _ := strings.Cut(value, " ")
				values[i] = scheme + " " + mask
			}
		}
	}
	return masked
}

func maskPath(u *url.URL) string {
	if u.RawQuery == "" {
		return u.Path
	}
	query := u.Query()
	for name := range query {
		if slices.Contains(secretFields, strings.ToLower(name)) {
			query.Set(name, mask)
		}
	}
	return u.Path + "?" + query.Encode()
}
