package cloud

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// host is one of the two names that the cloud answers to.
type host int

const (
	identityHost host = iota
	apiHost
)

func (h host) String() string {
	if h == identityHost {
		return "identity"
	}
	return "api"
}

// maxBody is what the cloud's web server reads of a request.
const maxBody = 30_000_000

// Route names a route of the real surface.
type Route string

// Routes.
const (
	RouteToken           Route = "token"
	RouteDiscovery       Route = "discovery"
	RouteKeySet          Route = "jwks"
	RouteSync            Route = "sync"
	RouteLicense         Route = "license"
	RouteLicenseDownload Route = "license-download"
	RouteAPIKey          Route = "api-key"
	RouteRotateAPIKey    Route = "rotate-api-key"
	RouteKeyInformation  Route = "api-key-information"
	RouteSyncStatus      Route = "sync-status"
	RouteValidateToken   Route = "validate-token"
	RouteRedeem          Route = "redeem"
	RouteRegister        Route = "register-installation"
	RouteInstallation    Route = "installation"
)

type route struct {
	name   Route
	host   host
	method string
	// path has a part in braces for a value, and one that ends in "?" may be
	// missing.
	path string
	// scope of the token that it takes; empty for none.
	scope string
	serve func(*job) answer
}

var routes = []route{
	{RouteToken, identityHost, http.MethodPost, "connect/token", "", (*job).token},
	{RouteDiscovery, identityHost, http.MethodGet, ".well-known/openid-configuration", "", (*job).discovery},
	{RouteKeySet, identityHost, http.MethodGet, ".well-known/openid-configuration/jwks", "", (*job).keySet},
	{RouteSync, apiHost, http.MethodPost, "organization/sponsorship/sync", installationScope, (*job).sync},
	{RouteLicense, apiHost, http.MethodGet, "licenses/organization/{id}", licensingScope, (*job).license},
	{RouteLicenseDownload, apiHost, http.MethodGet, "organizations/{id}/license", userScope, (*job).downloadLicense},
	{RouteAPIKey, apiHost, http.MethodPost, "organizations/{id}/api-key", userScope, (*job).readAPIKey},
	{RouteRotateAPIKey, apiHost, http.MethodPost, "organizations/{id}/rotate-api-key", userScope, (*job).rotateAPIKey},
	{RouteKeyInformation, apiHost, http.MethodGet, "organizations/{id}/api-key-information/{type?}", userScope, (*job).keyInformation},
	{RouteSyncStatus, apiHost, http.MethodGet, "organization/sponsorship/{id}/sync-status", userScope, (*job).syncStatus},
	{RouteValidateToken, apiHost, http.MethodPost, "organization/sponsorship/validate-token", userScope, (*job).validateToken},
	{RouteRedeem, apiHost, http.MethodPost, "organization/sponsorship/redeem", userScope, (*job).redeem},
	{RouteRegister, apiHost, http.MethodPost, "installations", "", (*job).register},
	{RouteInstallation, apiHost, http.MethodGet, "installations/{id}", "", (*job).showInstallation},
}

// match gives the values of a path, by name; letters of any case match.
func (r route) match(path []string) (map[string]string, bool) {
	pattern := strings.Split(r.path, "/")
	if len(path) > len(pattern) {
		return nil, false
	}
	values := map[string]string{}
	for i, part := range pattern {
		name, isValue := strings.CutPrefix(part, "{")
		name, optional := strings.CutSuffix(strings.TrimSuffix(name, "}"), "?")
		switch {
		case i >= len(path):
			if !optional {
				return nil, false
			}
		case isValue:
			values[name] = path[i]
		case !strings.EqualFold(part, path[i]):
			return nil, false
		}
	}
	return values, true
}

// find gives the route of a request; otherwise whether the path has another
// method.
func find(h host, method, path string) (found *route, values map[string]string, otherMethod bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i := range routes {
		if routes[i].host != h {
			continue
		}
		values, ok := routes[i].match(parts)
		if !ok {
			continue
		}
		if routes[i].method == method {
			return &routes[i], values, false
		}
		otherMethod = true
	}
	return nil, nil, otherMethod
}

// errClosing is given to what waits when the emulator is closed.
var errClosing = errors.New("the emulator is closing")

// job is the server's work on one request. It goes on when its client has left.
type job struct {
	cloud  *Cloud
	http   *http.Request
	body   []byte
	tooBig bool
	// wait lets time pass for this request.
	wait func(time.Duration) error

	route       *route
	values      map[string]string
	otherMethod bool
	record      *Request // shared: see note
	// fault is the one that this request suffers; nil for none.
	fault *Fault
	// stopped: nothing more is done for the request. mute: it gets no answer.
	stopped, mute bool
	caller        claims

	form      url.Values
	batch     *syncRequest
	bindError error
}

// exchange does all that a request brings about.
func (c *Cloud) exchange(h host, r *http.Request, wait func(time.Duration) error) answer {
	j := &job{cloud: c, http: r, wait: wait}
	if err := j.read(); err != nil {
		// The client went away before it had said what it wants.
		return closedConnection()
	}
	c.arrive(h, j)
	a := j.work()
	if j.mute {
		a = closedConnection()
	}
	c.leave(j, a)
	return a
}

func (j *job) read() error {
	if j.http.Body == nil {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(j.http.Body, maxBody+1))
	if err != nil {
		return err
	}
	if len(body) > maxBody {
		j.tooBig = true
		return nil
	}
	j.body = body
	return nil
}

// bind reads the parts of the request that rules and checks look at.
func (j *job) bind(h host) {
	j.route, j.values, j.otherMethod = find(h, j.http.Method, j.http.URL.Path)
	if j.route == nil {
		return
	}
	switch j.route.name {
	case RouteToken:
		if !hasType(j.http, "application/x-www-form-urlencoded") {
			return
		}
		if form, err := url.ParseQuery(string(j.body)); err == nil {
			j.form = form
		}
	case RouteSync:
		request := syncRequest{Organization: noGUID}
		j.bindError = decode(j.body, &request)
		for _, item := range request.Batch {
			if item != nil && item.OfferKey == "" {
				item.OfferKey = noGUID
			}
		}
		j.batch = &request
	}
}

func hasType(r *http.Request, want string) bool {
	given, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(given), want)
}

// work gives what the client would get if it waited.
func (j *job) work() answer {
	if a, ended := j.reach(Before); ended {
		return a
	}
	if a, over := j.limited(); over {
		return a
	}
	a := j.serve()
	if late, ended := j.reach(AfterMail); ended {
		return late
	}
	return j.shape(a)
}

func (j *job) serve() answer {
	switch {
	case j.route == nil && j.otherMethod:
		return emptyAnswer(http.StatusMethodNotAllowed)
	case j.route == nil || j.isRemoved():
		return emptyAnswer(http.StatusNotFound)
	case j.tooBig:
		return emptyAnswer(http.StatusRequestEntityTooLarge)
	}
	if refusal := j.authorize(); refusal != nil {
		return *refusal
	}
	if j.route.host == apiHost && len(j.body) > 0 && !hasType(j.http, "application/json") {
		return emptyAnswer(http.StatusUnsupportedMediaType)
	}
	return j.route.serve(j)
}

func (j *job) isRemoved() bool {
	j.cloud.mu.Lock()
	defer j.cloud.mu.Unlock()
	return j.cloud.removed[j.route.name]
}

// authorize refuses a request whose token is not the route's.
func (j *job) authorize() *answer {
	if j.route.scope == "" {
		return nil
	}
	raw, ok := bearer(j.http)
	if !ok {
		return refused(unauthorized(false))
	}
	caller, ok := j.cloud.tokens.check(raw, j.cloud.Now())
	if !ok {
		return refused(unauthorized(true))
	}
	j.note(func(r *Request) {
		r.TokenID, r.Client = caller.ID, caller.ClientID
	})
	for _, scope := range caller.Scope {
		if scope == j.route.scope {
			j.caller = caller
			return nil
		}
	}
	return refused(emptyAnswer(http.StatusForbidden))
}

func bearer(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", false
	}
	return token, true
}

// note adds to what is recorded of the request.
func (j *job) note(add func(*Request)) {
	j.cloud.mu.Lock()
	defer j.cloud.mu.Unlock()
	add(j.record)
}
