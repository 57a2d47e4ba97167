package cloud

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

const (
	installation    = "5d2f5b0e-7a11-4b57-9a2e-0c64f3a9d101"
	installationKey = "InstallationKey12345"
	syncKey         = "AbC0123456789AbC0123456789AbCd"
	licenseKey      = "LicenseKey1234567890"
	organization    = "8d3fb0de-44a7-4b9a-8f0c-97a1b2c3d4e5"
	offerKey        = "1f0cb0de-44a7-4b9a-8f0c-97a1b2c3d4e5"
	noOffers        = `{"sponsorshipsBatch":[]}`
)

// received is a request as a server saw it.
type received struct {
	method, path, body string
	header             http.Header
	length             int64
}

// servers are identity and API, which record what they are asked and answer as
// they are told.
type servers struct {
	identity, api *httptest.Server

	mu            sync.Mutex
	tokens, calls []received
	now           time.Time
	lifetime      int
	onToken       http.HandlerFunc // nil: a new token
	onCall        http.HandlerFunc // nil: an empty batch
}

func startServers(t *testing.T) *servers {
	t.Helper()
	s := &servers{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), lifetime: 86400}
	record := func(r *http.Request, into *[]received) int {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		*into = append(*into, received{r.Method, r.URL.Path, string(body), r.Header, r.ContentLength})
		return len(*into)
	}
	s.identity = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := record(r, &s.tokens)
		if s.onToken != nil {
			s.onToken(w, r)
			return
		}
		fmt.Fprintf(w, `{"access_token":"token-number-%d","expires_in":%d,"token_type":"Bearer","scope":"x"}`, n, s.lifetime)
	}))
	t.Cleanup(s.identity.Close)
	s.api = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		record(r, &s.calls)
		if s.onCall != nil {
			s.onCall(w, r)
			return
		}
		fmt.Fprint(w, noOffers)
	}))
	t.Cleanup(s.api.Close)
	return s
}

func (s *servers) config() Config {
	return Config{
		Enabled: true, Region: "EU", IdentityURL: s.identity.URL, APIURL: s.api.URL,
		InstallationID: installation, InstallationKey: installationKey,
		Now: func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.now },
	}
}

func (s *servers) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

func (s *servers) counts() (tokens, calls int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tokens), len(s.calls)
}

func newClient(t *testing.T, c Config) *Client {
	t.Helper()
	client, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (s *servers) client(t *testing.T) *Client { return newClient(t, s.config()) }

func ptr[T any](v T) *T { return &v }

func batch(offers ...Offer) SyncRequest {
	return SyncRequest{BillingSyncKey: syncKey, CloudOrganizationID: organization, Offers: offers}
}

func syncOnce(t *testing.T, c *Client) error {
	t.Helper()
	_, err := c.Sync(t.Context(), batch(Offer{Key: offerKey, Email: ptr("me@home.example")}))
	return err
}

// failure checks that err is an *Error without anything secret.
func failure(t *testing.T, err error) *Error {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("%v is no *Error", err)
	}
	for _, text := range []string{err.Error(), fmt.Sprintf("%+v", *e)} {
		for _, secret := range []string{installationKey, syncKey, licenseKey, "token-number", "me@home.example"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s is in %s", secret, text)
			}
		}
	}
	return e
}

func answer(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

func model(message string) string {
	return fmt.Sprintf(`{"object":"error","message":%q,"validationErrors":null,"exceptionMessage":null,"exceptionStackTrace":null,"innerExceptionMessage":null}`, message)
}

func breakOff(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

const page = "<html><body>somebody's page, not for logs</body></html>"

// The rows of sections 2.3 and 8.3 of the protocol's description.
func TestAnswersOfTheSync(t *testing.T) {
	for name, c := range map[string]struct {
		answer     http.HandlerFunc
		code       Code
		class      fault.Class
		ambiguous  bool
		message    string
		retryAfter time.Duration
		mentions   string
	}{
		"an unknown organisation":  {answer: answer(400, model("Invalid organization")), code: OrgUnknown, class: fault.Denied, message: "Invalid organization", mentions: "region"},
		"a wrong key":              {answer: answer(400, model("Invalid Billing Sync Key")), code: KeyInvalid, class: fault.Denied, message: "Invalid Billing Sync Key", mentions: "rotated"},
		"members in another order": {answer: answer(400, `{"Message":"Invalid Billing Sync Key","Object":"error"}`), code: KeyInvalid, class: fault.Denied, message: "Invalid Billing Sync Key"},
		"a body that was not understood": {
			answer: answer(400, `{"object":"error","message":"The model state is invalid.","validationErrors":{"$.sponsorshipsBatch[3].planSponsorshipType":["The value me@home.example is wrong."]}}`),
			code:   RequestInvalid, class: fault.Invalid, message: "The model state is invalid.", mentions: "sponsorshipsBatch[3].planSponsorshipType",
		},
		"an empty 400":                     {answer: answer(400, ""), code: RequestInvalid, class: fault.Invalid, mentions: "empty"},
		"a proxy's 413":                    {answer: answer(413, page), code: RequestInvalid, class: fault.Invalid},
		"a route that is gone":             {answer: answer(404, ""), code: RequestInvalid, class: fault.Invalid},
		"a token without the scope":        {answer: answer(403, ""), code: ForbiddenScope, class: fault.Denied, mentions: "firewall"},
		"a firewall's page":                {answer: answer(403, page, "Content-Type", "text/html"), code: ForbiddenScope, class: fault.Denied, mentions: "text/html"},
		"a refused token":                  {answer: answer(401, "", "WWW-Authenticate", `Bearer error="invalid_token"`), code: TokenRejected, class: fault.Denied, mentions: "invalid_token"},
		"too many requests, in seconds":    {answer: answer(429, model("Slow down! Too many requests. Try again in 1m."), "Retry-After", "7"), code: RateLimited, class: fault.Transient, retryAfter: 7 * time.Second},
		"too many requests, as a date":     {answer: answer(429, "", "Retry-After", "Sun, 01 Mar 2026 12:00:09 GMT", "Date", "Sun, 01 Mar 2026 12:00:00 GMT"), code: RateLimited, class: fault.Transient, retryAfter: 9 * time.Second},
		"too many requests, a date gone":   {answer: answer(429, "", "Retry-After", "Sun, 01 Mar 2026 11:00:00 GMT", "Date", "Sun, 01 Mar 2026 12:00:00 GMT"), code: RateLimited, class: fault.Transient},
		"too many requests, without sense": {answer: answer(429, "", "Retry-After", "-soon"), code: RateLimited, class: fault.Transient},
		"too many requests, for ever":      {answer: answer(429, "", "Retry-After", "2000000000"), code: RateLimited, class: fault.Transient, retryAfter: maxRetryAfter},
		"a fault of the cloud":             {answer: answer(500, model("An unhandled server error has occurred.")), code: CloudError, class: fault.Transient, ambiguous: true, message: "An unhandled server error has occurred."},
		"a gateway's page":                 {answer: answer(502, page, "Content-Type", "text/html; charset=utf-8"), code: CloudError, class: fault.Transient, ambiguous: true, mentions: "bytes of text/html"},
		"a cloud that is closed":           {answer: answer(503, "", "Retry-After", "30"), code: CloudError, class: fault.Transient, ambiguous: true, retryAfter: 30 * time.Second},
		"a proxy's timeout":                {answer: answer(408, ""), code: Timeout, class: fault.Transient, ambiguous: true},
		"an error with a long text":        {answer: answer(500, model(strings.Repeat("x", 5000))), code: CloudError, class: fault.Transient, ambiguous: true, mentions: "xxx…"},
		"an error with an endless body":    {answer: answer(500, strings.Repeat("x", 1<<20)), code: CloudError, class: fault.Transient, ambiguous: true},
		"a redirect":                       {answer: answer(302, "", "Location", "https://portal.example/login?secret-in-url"), code: BadResponse, class: fault.Transient, ambiguous: true, mentions: "portal.example"},
		"a redirect that keeps the method": {answer: answer(308, "", "Location", "/elsewhere"), code: BadResponse, class: fault.Transient, ambiguous: true},
		"a captive portal":                 {answer: answer(200, page, "Content-Type", "text/html"), code: BadResponse, class: fault.Transient, ambiguous: true, mentions: "captive portal"},
		"no content":                       {answer: answer(204, ""), code: BadResponse, class: fault.Transient, ambiguous: true},
		"an empty answer":                  {answer: answer(200, ""), code: BadResponse, class: fault.Transient, ambiguous: true},
		"a list that is null":              {answer: answer(200, `{"sponsorshipsBatch":null}`), code: BadResponse, class: fault.Transient, ambiguous: true, mentions: "no list"},
		"no list":                          {answer: answer(200, `{}`), code: BadResponse, class: fault.Transient, ambiguous: true},
		"another kind of list":             {answer: answer(200, `{"sponsorshipsBatch":{}}`), code: BadResponse, class: fault.Transient, ambiguous: true},
		"JSON that is none":                {answer: answer(200, `{"sponsorshipsBatch":[}`), code: BadResponse, class: fault.Transient, ambiguous: true, mentions: "no JSON"},
		"JSON that breaks off":             {answer: answer(200, `{"sponsorshipsBatch":[`), code: BadResponse, class: fault.Transient, ambiguous: true},
		"something after the JSON":         {answer: answer(200, noOffers+"<!-- -->"), code: BadResponse, class: fault.Transient, ambiguous: true},
		"an item that is null":             {answer: answer(200, `{"sponsorshipsBatch":[null]}`), code: BadResponse, class: fault.Transient, ambiguous: true},
		"an item without a key":            {answer: answer(200, `{"sponsorshipsBatch":[{"lastSyncDate":null}]}`), code: BadResponse, class: fault.Transient, ambiguous: true},
		"an item with an odd date":         {answer: answer(200, `{"sponsorshipsBatch":[{"sponsoringOrganizationUserId":"x","lastSyncDate":"me@home.example"}]}`), code: BadResponse, class: fault.Transient, ambiguous: true},
		"an answer that breaks off":        {answer: answer(200, `{"spons`, "Content-Length", "5000"), code: BadResponse, class: fault.Transient, ambiguous: true, mentions: "breaks off"},
		"an answer that is too long":       {answer: answer(200, noOffers+strings.Repeat(" ", maxBody)), code: BadResponse, class: fault.Transient, ambiguous: true, mentions: "more than 8388608"},
		"a connection that breaks off":     {answer: breakOff, code: NetworkMid, class: fault.Transient, ambiguous: true},
		"an error that echoes secrets": {
			answer: func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(500)
				text, _ := json.Marshal(r.Header.Get("Authorization") + " " + syncKey + "\n" + installationKey + " to me@home.example")
				fmt.Fprintf(w, `{"message":%s}`, text)
			},
			code: CloudError, class: fault.Transient, ambiguous: true, message: "Bearer [redacted] [redacted] [redacted] to [address]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServers(t)
			s.onCall = c.answer
			e := failure(t, syncOnce(t, s.client(t)))
			if e.Code != c.code || e.Stage != StageSync || e.Ambiguous != c.ambiguous || e.RetryAfter != c.retryAfter || fault.Of(e) != c.class || e.Retryable() != (c.class == fault.Transient) {
				t.Errorf("%+v of class %q", *e, fault.Of(e))
			}
			if c.message != "" && e.Message != c.message {
				t.Errorf("the message is %q", e.Message)
			}
			if text := e.Error(); !strings.Contains(text, c.mentions) || strings.Contains(text, "not for logs") || strings.Contains(text, "secret-in-url") || len(text) > 1500 {
				t.Errorf("the text is %s", text)
			}
			want := 1
			if c.code == TokenRejected {
				want = 2
			}
			if tokens, calls := s.counts(); tokens != want || calls != want {
				t.Errorf("%d tokens, %d calls", tokens, calls)
			}
		})
	}
}

// The rows of section 1.3. Whatever happens there, nothing was synced.
func TestAnswersToTheWishForAToken(t *testing.T) {
	for name, c := range map[string]struct {
		answer     http.HandlerFunc
		code       Code
		retryAfter time.Duration
		mentions   string
	}{
		"a refused installation":  {answer: answer(400, `{"error":"invalid_client"}`), code: IdentityInvalidClient, mentions: "(EU)"},
		"the same as 401":         {answer: answer(401, `{"error":"invalid_client"}`), code: IdentityInvalidClient},
		"a refused scope":         {answer: answer(400, `{"error":"invalid_scope"}`), code: IdentityInvalidScope, mentions: ScopeInstallation},
		"a wrong grant":           {answer: answer(400, `{"error":"unsupported_grant_type"}`), code: RequestInvalid, mentions: "unsupported_grant_type"},
		"another host":            {answer: answer(404, page), code: RequestInvalid},
		"too many":                {answer: answer(429, model("Slow down!"), "Retry-After", "60"), code: RateLimited, retryAfter: time.Minute},
		"a fault":                 {answer: answer(500, page), code: CloudError},
		"a connection broken off": {answer: breakOff, code: NetworkMid},
		"a page":                  {answer: answer(200, page), code: BadResponse},
		"no token":                {answer: answer(200, `{"expires_in":86400}`), code: BadResponse},
		"another kind of token":   {answer: answer(200, `{"access_token":"x","token_type":"mac"}`), code: BadResponse},
		"a token with a line end": {answer: answer(200, `{"access_token":"x\r\nX-Header: y","token_type":"Bearer"}`), code: BadResponse},
		"a redirect":              {answer: answer(307, "", "Location", "https://elsewhere.example/connect/token"), code: BadResponse, mentions: "elsewhere.example"},
		"an echo of the key":      {answer: answer(400, `{"error":"`+installationKey+`"}`), code: RequestInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServers(t)
			s.onToken = c.answer
			e := failure(t, syncOnce(t, s.client(t)))
			if e.Code != c.code || e.Stage != StageToken || e.Ambiguous || e.RetryAfter != c.retryAfter || !strings.Contains(e.Error(), c.mentions) {
				t.Errorf("%+v", *e)
			}
			if tokens, calls := s.counts(); tokens != 1 || calls != 0 {
				t.Errorf("%d tokens, %d calls", tokens, calls)
			}
		})
	}
}

// Section 4.3.
func TestAnswersToTheWishForALicence(t *testing.T) {
	const payment = "Unable to generate license due to a payment issue. Please update your billing information or contact support for assistance."
	for name, c := range map[string]struct {
		answer   http.HandlerFunc
		code     Code
		message  string
		mentions string
	}{
		"an unknown organisation": {answer(404, model("Resource not found.")), LicenseOrgUnknown, "Resource not found.", ""},
		"a route that is gone":    {answer(404, ""), LicenseRouteGone, "", "no longer offers"},
		"a page that is not":      {answer(404, page), LicenseRouteGone, "", "no longer offers"},
		"another license key":     {answer(400, model("Invalid license key.")), LicenseKeyInvalid, "Invalid license key.", ""},
		"a wrong sync key":        {answer(400, model("Invalid Billing Sync Key")), KeyInvalid, "Invalid Billing Sync Key", "rotated"},
		"a wrong installation":    {answer(400, model("Invalid installation id")), LicenseInstallation, "Invalid installation id", ""},
		"no subscription":         {answer(400, model("No active subscription found.")), LicenseNoSubscription, "No active subscription found.", ""},
		"an unpaid one":           {answer(400, model(payment)), LicensePayment, payment, ""},
		"something new":           {answer(400, model("Not on Sundays.")), LicenseRefused, "Not on Sundays.", ""},
		"a body taken away":       {answer(400, `{"message":"The model state is invalid.","validationErrors":{"":["Body is empty."]}}`), LicenseBodyLost, "The model state is invalid.", "takes the body away"},
		"a proxy's 400":           {answer(400, page), LicenseBodyLost, "", "takes the body away"},
		"a proxy's 405":           {answer(405, page), LicenseRefused, "", ""},
		"an echo of the key":      {answer(400, model("wrong: "+licenseKey)), LicenseRefused, "wrong: [redacted]", ""},
		"a fault":                 {answer(500, ""), CloudError, "", ""},
		"a page":                  {answer(200, page), BadResponse, "", ""},
		"null":                    {answer(200, "null"), BadResponse, "", ""},
		"a list":                  {answer(200, "[]"), BadResponse, "", ""},
		"too many requests":       {answer(429, ""), RateLimited, "", ""},
		"a broken connection":     {breakOff, NetworkMid, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServers(t)
			s.onCall = c.answer
			_, err := s.client(t).License(t.Context(), LicenseRequest{CloudOrganizationID: organization, LicenseKey: licenseKey, BillingSyncKey: syncKey})
			e := failure(t, err)
			if e.Code != c.code || e.Stage != StageLicense || e.Ambiguous || e.Message != c.message || !strings.Contains(e.Error(), c.mentions) {
				t.Errorf("%+v", *e)
			}
		})
	}
}

func TestARequestOfTheSyncIsWrittenAsTheOfficialOne(t *testing.T) {
	s := startServers(t)
	c := s.config()
	c.IdentityURL, c.APIURL = c.IdentityURL+"/identity/", c.APIURL+"/api"
	run := uuid.MustParse("0af76519-16cd-43dd-8448-eb211c80319c")
	at := time.Date(2026, 1, 31, 11, 20, 30, 123456700, time.FixedZone("", 3600))
	_, err := newClient(t, c).Sync(WithTrace(t.Context(), run), SyncRequest{
		BillingSyncKey: syncKey, CloudOrganizationID: strings.ToUpper(organization),
		Offers: []Offer{
			{Key: strings.ToUpper(offerKey), FriendlyName: ptr("me"), Email: ptr("me@home.example"), LastSync: &at, ValidUntil: &at},
			{Key: "2f0cb0de-44a7-4b9a-8f0c-97a1b2c3d4e5", ToDelete: true},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	call := s.calls[0]
	want := `{"billingSyncKey":"` + syncKey + `","sponsoringOrganizationCloudId":"` + organization + `","sponsorshipsBatch":[` +
		`{"sponsoringOrganizationUserId":"` + offerKey + `","friendlyName":"me","offeredToEmail":"me@home.example","planSponsorshipType":0,"lastSyncDate":"2026-01-31T10:20:30.1234567Z","validUntil":"2026-01-31T10:20:30.1234567Z","toDelete":false},` +
		`{"sponsoringOrganizationUserId":"2f0cb0de-44a7-4b9a-8f0c-97a1b2c3d4e5","friendlyName":null,"offeredToEmail":null,"planSponsorshipType":0,"lastSyncDate":null,"validUntil":null,"toDelete":true}]}`
	if call.body != want || call.method != "POST" || call.path != "/api/organization/sponsorship/sync" || call.length != int64(len(want)) {
		t.Errorf("%s %s %d\n%s\nwant\n%s", call.method, call.path, call.length, call.body, want)
	}
	token := s.tokens[0]
	if token.path != "/identity/connect/token" || token.method != "POST" ||
		token.body != "client_id=installation."+installation+"&client_secret="+installationKey+"&grant_type=client_credentials&scope=api.installation" {
		t.Errorf("%+v", token)
	}
	for name, r := range map[string]struct {
		received
		kind, authorization string
	}{
		"token": {token, "application/x-www-form-urlencoded", ""},
		"sync":  {call, "application/json; charset=utf-8", "Bearer token-number-1"},
	} {
		h := r.header
		if h.Get("Accept") != "application/json" || h.Get("Content-Type") != r.kind || h.Get("Authorization") != r.authorization || !strings.HasPrefix(h.Get("User-Agent"), "latchkey-billing-sync/") {
			t.Errorf("%s: %v", name, h)
		}
		if !regexp.MustCompile(`^00-0af7651916cd43dd8448eb211c80319c-[0-9a-f]{16}-01$`).MatchString(h.Get("Traceparent")) {
			t.Errorf("%s: %s", name, h.Get("Traceparent"))
		}
		for _, absent := range []string{"Device-Type", "Bitwarden-Client-Name", "Bitwarden-Client-Version", "Cookie"} {
			if h.Get(absent) != "" {
				t.Errorf("%s has %s", name, absent)
			}
		}
	}
}

func TestAnEmptyBatchIsAListOfNothing(t *testing.T) {
	s := startServers(t)
	synced, err := s.client(t).Sync(t.Context(), batch())
	if err != nil || len(synced) != 0 || !strings.HasSuffix(s.calls[0].body, `"sponsorshipsBatch":[]}`) {
		t.Errorf("%v %v %s", synced, err, s.calls[0].body)
	}
	if trace := s.calls[0].header.Get("Traceparent"); strings.Contains(trace, strings.Repeat("0", 32)) {
		t.Errorf("without a run the trace is %s", trace)
	}
}

func TestAnAnswerOfTheSyncIsReadWithTolerance(t *testing.T) {
	s := startServers(t)
	s.onCall = answer(200, "\n"+`{"SponsorshipsBatch":[
		{"SponsoringOrganizationUserId":"`+strings.ToUpper(offerKey)+`","lastSyncDate":"2026-01-31T10:20:30.1234567Z","validUntil":"0001-01-01T00:00:00","toDelete":true,"cloudSponsorshipRemoved":true,"new":{"x":[1]}},
		{"sponsoringOrganizationUserId":"unknown","offeredToEmail":null,"validUntil":null}]}`+"\n")
	synced, err := s.client(t).Sync(t.Context(), batch())
	if err != nil || len(synced) != 2 {
		t.Fatal(synced, err)
	}
	first, second := synced[0], synced[1]
	if first.Key != offerKey || !first.LastSync.Equal(time.Date(2026, 1, 31, 10, 20, 30, 123456700, time.UTC)) || !first.ValidUntil.IsZero() || !first.Removed {
		t.Errorf("%+v", first)
	}
	if second.Key != "unknown" || second.LastSync != nil || second.ValidUntil != nil || second.Removed {
		t.Errorf("%+v", second)
	}
}

func TestTheWishForALicenceIsAGetWithABody(t *testing.T) {
	s := startServers(t)
	s.onCall = answer(200, `{"licenseKey":"x"}`)
	license, err := s.client(t).License(t.Context(), LicenseRequest{CloudOrganizationID: strings.ToUpper(organization), LicenseKey: licenseKey, BillingSyncKey: syncKey})
	if err != nil || string(license) != `{"licenseKey":"x"}` {
		t.Fatalf("%s %v", license, err)
	}
	call := s.calls[0]
	if call.method != "GET" || call.path != "/licenses/organization/"+organization || call.header.Get("Content-Type") != "application/json" ||
		call.body != `{"licenseKey":"`+licenseKey+`","billingSyncKey":"`+syncKey+`"}` {
		t.Errorf("%+v", call)
	}
	if !strings.HasSuffix(s.tokens[0].body, "scope=api.licensing") {
		t.Errorf("%s", s.tokens[0].body)
	}
}

func TestWhatWouldDoHarmIsNotSent(t *testing.T) {
	now := time.Now()
	s := startServers(t)
	client := s.client(t)
	for name, r := range map[string]SyncRequest{
		"a deletion with a date":     batch(Offer{Key: offerKey, ToDelete: true, LastSync: &now}),
		"a key twice":                batch(Offer{Key: offerKey}, Offer{Key: strings.ToUpper(offerKey)}),
		"a key that is no GUID":      batch(Offer{Key: "x"}),
		"a key of zeros":             batch(Offer{Key: uuid.Nil.String()}),
		"more than the official one": batch(make([]Offer, config.MaxSyncBatch+1)...),
		"no organisation":            {BillingSyncKey: syncKey},
	} {
		if _, err := client.Sync(t.Context(), r); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, r := range map[string]SyncRequest{"no key": {CloudOrganizationID: organization}} {
		if _, err := client.Sync(t.Context(), r); failure(t, err).Code != KeyMissing {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := client.License(t.Context(), LicenseRequest{CloudOrganizationID: organization}); failure(t, err).Code != KeyMissing {
		t.Error(err)
	}
	if _, err := client.License(t.Context(), LicenseRequest{CloudOrganizationID: "../..", BillingSyncKey: syncKey}); !errors.Is(err, fault.Invalid) {
		t.Error(err)
	}
	if tokens, calls := s.counts(); tokens != 0 || calls != 0 {
		t.Errorf("%d tokens, %d calls", tokens, calls)
	}
}

// T43.
func TestNoByteLeavesWhileCommunicationIsOff(t *testing.T) {
	s := startServers(t)
	c := s.config()
	c.Enabled, c.InstallationID, c.InstallationKey = false, "", ""
	client := newClient(t, c)
	if e := failure(t, syncOnce(t, client)); e.Code != CommDisabled || fault.Of(e) != fault.Invalid || !strings.Contains(e.Error(), "enableCloudCommunication") {
		t.Error(e)
	}
	if _, err := client.License(t.Context(), LicenseRequest{CloudOrganizationID: organization, BillingSyncKey: syncKey}); failure(t, err).Code != CommDisabled {
		t.Error(err)
	}
	if tokens, calls := s.counts(); tokens != 0 || calls != 0 {
		t.Errorf("%d tokens, %d calls", tokens, calls)
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	s := startServers(t)
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no address":         func(c *Config) { c.APIURL = "" },
		"another scheme":     func(c *Config) { c.IdentityURL = "ftp://x" },
		"a password":         func(c *Config) { c.IdentityURL = "https://u:hunter2@x" },
		"no installation":    func(c *Config) { c.InstallationID = "x" },
		"no key":             func(c *Config) { c.InstallationKey = "" },
		"no file":            func(c *Config) { c.CAFile = empty + "x" },
		"no certificates":    func(c *Config) { c.CAFile = empty },
		"a file that is not": func(c *Config) { c.CAFile = t.TempDir() },
	} {
		c := s.config()
		change(&c)
		if _, err := New(c); !errors.Is(err, fault.Invalid) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), installationKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSettingsBecomeAClient(t *testing.T) {
	settings := config.Billing{
		CloudCommunication: true, Region: "EU", InstallationID: installation, InstallationKey: installationKey,
		SyncBatch: 1, SyncParallel: 1, RequestTimeout: time.Minute, OfferKeys: "member", LicenseCheck: "off",
	}
	if err := settings.Validate(); err != nil {
		t.Fatal(err)
	}
	client := newClient(t, FromSettings(settings))
	if hosts := client.Hosts(); hosts[0] != "identity.bitwarden.eu" || hosts[1] != "api.bitwarden.eu" {
		t.Error(hosts)
	}
}

type dial func(context.Context, string, string) (net.Conn, error)

// T26.
func TestNothingWasSentWhereThereIsNoConnection(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	strangers := httptest.NewUnstartedServer(http.NotFoundHandler())
	strangers.Config.ErrorLog = log.New(io.Discard, "", 0)
	strangers.StartTLS()
	defer strangers.Close()
	for name, change := range map[string]func(*Config){
		"nobody listens":       func(c *Config) { c.APIURL = closed.URL },
		"a stranger's answers": func(c *Config) { c.APIURL = strangers.URL },
		"no such name": func(c *Config) {
			c.Transport = failing(c.APIURL, func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.DNSError{Err: "no such host", Name: "api.bitwarden.eu", IsNotFound: true}
			})
		},
		"no answer to the connection": func(c *Config) {
			c.RequestTimeout = 50 * time.Millisecond
			c.Transport = failing(c.APIURL, func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
		},
		"a proxy address with a password": func(c *Config) {
			c.Transport = failing(c.APIURL, func(context.Context, string, string) (net.Conn, error) {
				return nil, errors.New(`invalid proxy address "http://user:` + installationKey + `@proxy"`)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServers(t)
			c := s.config()
			change(&c)
			e := failure(t, syncOnce(t, newClient(t, c)))
			if e.Code != NetworkPre || e.Ambiguous || e.Status != 0 || fault.Of(e) != fault.Transient || !strings.Contains(e.Hint, newClient(t, c).Hosts()[1]) {
				t.Errorf("%+v", *e)
			}
			if _, calls := s.counts(); calls != 0 {
				t.Errorf("%d calls", calls)
			}
		})
	}
}

// failing dials one address by a function of the test's.
func failing(address string, f dial) http.RoundTripper {
	return &http.Transport{DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
		if "http://"+to == address {
			return f(ctx, network, to)
		}
		return (&net.Dialer{}).DialContext(ctx, network, to)
	}}
}

// T25.
func TestARequestWithoutAnAnswerIsAmbiguous(t *testing.T) {
	s := startServers(t)
	release := make(chan struct{})
	s.onCall = func(http.ResponseWriter, *http.Request) { <-release }
	defer close(release)
	c := s.config()
	c.RequestTimeout = 100 * time.Millisecond
	client := newClient(t, c)
	if e := failure(t, syncOnce(t, client)); e.Code != Timeout || !e.Ambiguous || !strings.Contains(e.Detail, "100ms") {
		t.Errorf("%+v", *e)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for _, calls := s.counts(); calls < 2; _, calls = s.counts() {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	c.RequestTimeout = time.Minute
	_, err := newClient(t, c).Sync(ctx, batch())
	if e := failure(t, err); e.Code != Timeout || !e.Ambiguous || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v", *e)
	}
	_, err = newClient(t, c).Sync(ctx, batch())
	if e := failure(t, err); e.Code != NetworkPre || e.Ambiguous || !errors.Is(err, context.Canceled) {
		t.Errorf("one that ended before: %+v", *e)
	}
}

func TestABodyThatStopsIsATimeout(t *testing.T) {
	s := startServers(t)
	release := make(chan struct{})
	s.onCall = func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"spons`)
		w.(http.Flusher).Flush()
		<-release
	}
	defer close(release)
	c := s.config()
	c.RequestTimeout = 100 * time.Millisecond
	if e := failure(t, syncOnce(t, newClient(t, c))); e.Code != Timeout || !e.Ambiguous || e.Status != 0 {
		t.Errorf("%+v", *e)
	}
}

type fake func(*http.Request) (*http.Response, error)

func (f fake) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A transport that tells nothing of what it does is not believed to have sent
// nothing once it has read the body.
func TestABodyThatWasReadMayHaveBeenSent(t *testing.T) {
	s := startServers(t)
	for name, c := range map[string]struct {
		read bool
		want Code
	}{"read": {true, NetworkMid}, "not read": {false, NetworkPre}} {
		config := s.config()
		config.Transport = fake(func(r *http.Request) (*http.Response, error) {
			if "http://"+r.URL.Host == s.identity.URL {
				return http.DefaultTransport.RoundTrip(r)
			}
			if c.read {
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					return nil, err
				}
			}
			return nil, errors.New("connection reset by peer")
		})
		if e := failure(t, syncOnce(t, newClient(t, config))); e.Code != c.want || e.Ambiguous != c.read {
			t.Errorf("%s: %+v", name, *e)
		}
	}
}

func TestCertificatesOfAFileAreTrustedBesidesTheSystems(t *testing.T) {
	s := startServers(t)
	secure := httptest.NewTLSServer(answer(200, noOffers))
	defer secure.Close()
	path := filepath.Join(t.TempDir(), "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(path, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	c := s.config()
	c.APIURL, c.CAFile = secure.URL, path
	if err := syncOnce(t, newClient(t, c)); err != nil {
		t.Error(err)
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	var reached bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	s := startServers(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		s.onCall = answer(status, "", "Location", elsewhere.URL)
		if e := failure(t, syncOnce(t, s.client(t))); e.Code != BadResponse || e.Status != status {
			t.Errorf("%d: %+v", status, *e)
		}
	}
	elsewhere.Close()
	if reached {
		t.Error("a key went elsewhere")
	}
}

// T15.
func TestTheSkewOfTheClocksIsKnown(t *testing.T) {
	s := startServers(t)
	c := s.config()
	var calls []Call
	c.Observe = func(_ context.Context, call Call) { calls = append(calls, call) }
	client := newClient(t, c)
	if _, known := client.Skew(); known {
		t.Error("a skew is known before the first answer")
	}
	s.onToken = answer(200, `{"access_token":"t","expires_in":86400}`, "Date", "not a date")
	s.onCall = answer(200, noOffers, "Date", "Sun, 01 Mar 2026 12:10:00 GMT")
	if err := syncOnce(t, client); err != nil {
		t.Fatal(err)
	}
	if skew, known := client.Skew(); !known || skew != 10*time.Minute {
		t.Error(skew, known)
	}
	s.onCall = answer(400, model("Invalid organization"), "Date", "Sun, 01 Mar 2026 11:50:00 GMT")
	if e := failure(t, syncOnce(t, client)); e.Code != OrgUnknown {
		t.Error(e)
	}
	if skew, _ := client.Skew(); skew != -10*time.Minute {
		t.Error(skew)
	}
	want := []struct {
		stage  Stage
		status int
		code   Code
		skew   bool
	}{{StageToken, 200, "", false}, {StageSync, 200, "", true}, {StageSync, 400, OrgUnknown, true}}
	if len(calls) != len(want) {
		t.Fatalf("%+v", calls)
	}
	for i, w := range want {
		if got := calls[i]; got.Stage != w.stage || got.Status != w.status || got.Code != w.code || (got.Skew != nil) != w.skew {
			t.Errorf("%d: %+v", i, got)
		}
	}
}
