package syncclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/apiclient"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

const (
	organization = "5a1b0e52-7f3c-4f0d-9a57-3f2c2b1f7f10"
	bearer       = "header.claims.signature"
	runID        = "0b7d6c1e-52a5-4a8e-8b53-2f6a3d0d9c11"
)

// server answers with what stands for a path, and notes the requests.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	bodies   []string
}

func (s *server) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func start(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, number int)) (*server, *Client) {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		s.requests = append(s.requests, r.Method+" "+r.URL.RequestURI())
		s.bodies = append(s.bodies, string(body))
		number := len(s.requests)
		s.mu.Unlock()
		if got := r.Header.Get("Authorization"); got != "Bearer "+bearer {
			t.Errorf("authorization is %q", got)
		}
		w.Header().Set("Content-Type", "application/json")
		answer(w, r, number)
	}))
	t.Cleanup(s.Close)
	return s, clientOf(t, Config{Server: s.URL})
}

func clientOf(t *testing.T, c Config) *Client {
	t.Helper()
	c.Bearer, c.Organization, c.Pause = bearer, organization, time.Millisecond
	client, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func always(text string) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, _ *http.Request, _ int) { fmt.Fprint(w, text) }
}

func problem(w http.ResponseWriter, status int, message string) {
	quoted, err := json.Marshal(message)
	if err != nil {
		panic(err) // a text cannot fail
	}
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"object":"error","message":%s,"validationErrors":null}`, quoted)
}

func TestItIsToldWhatIsWrongWithTheSettings(t *testing.T) {
	right := Config{Server: "https://latchkey.example.org", Bearer: bearer, Organization: organization}
	for name, spoil := range map[string]func(*Config){
		"http to another machine": func(c *Config) { c.Server = "http://latchkey.example.org" },
		"no address":              func(c *Config) { c.Server = "latchkey" },
		"a password in it":        func(c *Config) { c.Server = "https://me:secret@latchkey.example.org" },
		"no id":                   func(c *Config) { c.Organization = "acme" },
		"no token":                func(c *Config) { c.Bearer = "" },
		"a token of two lines":    func(c *Config) { c.Bearer = "a\nb" },
	} {
		t.Run(name, func(t *testing.T) {
			c := right
			spoil(&c)
			if _, err := New(c); fault.Of(err) != fault.Invalid || strings.Contains(err.Error(), "secret") {
				t.Errorf("the error is %v", err)
			}
		})
	}
	if _, err := New(right); err != nil {
		t.Error(err)
	}
}

// tries is how often a request is sent that may be sent again.
const tries = 3

func TestAnAnswerThatIsAnErrorSaysWhatToDo(t *testing.T) {
	const rightAddress = "Is this the address of a Latchkey that serves Billing sync?"
	unknown := fault.Of(apiclient.ErrAnswer)
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request, int)
		class  fault.Class
		told   string
		tries  int
	}{
		"401": {func(w http.ResponseWriter, _ *http.Request, _ int) { problem(w, 401, "The token has expired.") }, fault.Unauthenticated, "LATCHKEY_OPERATOR_TOKEN", 1},
		"400": {func(w http.ResponseWriter, _ *http.Request, _ int) { problem(w, 400, "Invalid Billing Sync Key") }, fault.Invalid, "Invalid Billing Sync Key", 1},
		"404": {func(w http.ResponseWriter, _ *http.Request, _ int) { problem(w, 404, "Resource not found.") }, fault.NotFound, "owner or administrator", 1},
		"404 of another server": {func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.WriteHeader(404)
			fmt.Fprint(w, "<html>")
		}, fault.NotFound, rightAddress, 1},
		"a page": {func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<html>")
		}, unknown, rightAddress, 1},
		"a code": {func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("X-Latchkey-Code", "license_missing")
			problem(w, 400, "There is no license.")
		}, fault.Invalid, "There is no license. (license_missing)", 1},
		"503, three times": {func(w http.ResponseWriter, _ *http.Request, _ int) { problem(w, 503, "Later.") }, fault.Transient, "Later.", tries},
		"no object":        {always(`[]`), unknown, "it is not a JSON object", 1},
		"no organization":  {always(`{}`), unknown, "organizationId is missing", 1},
		"another type":     {always(`{"organizationId":"x","cloudCommunication":true,"failures":"many"}`), unknown, "failures has another type", 1},
		"a broken date":    {always(`{"organizationId":"x","cloudCommunication":true,"lastAttempt":"yesterday, someone@example.org"}`), unknown, "another form", 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := start(t, c.answer)
			_, err := client.Status(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.told) || !strings.HasPrefix(err.Error(), "read the state of the sync: ") {
				t.Fatalf("the error is %v", err)
			}
			if fault.Of(err) != c.class {
				t.Errorf("its class is %v", fault.Of(err))
			}
			if strings.Contains(err.Error(), "someone@") || strings.Contains(err.Error(), bearer) {
				t.Errorf("it tells too much: %q", err)
			}
			if got := len(s.asked()); got != c.tries {
				t.Errorf("it was sent %d times", got)
			}
		})
	}
}

func TestOnlyWhatMayBeSentTwiceIs(t *testing.T) {
	for name, c := range map[string]struct {
		do    func(*Client) error
		tries int
	}{
		"start a run":     {func(c *Client) error { _, err := c.Start(t.Context()); return err }, tries},
		"list the offers": {func(c *Client) error { _, err := c.Offers(t.Context()); return err }, tries},
		"check":           {func(c *Client) error { _, err := c.CheckLicence(t.Context()); return err }, tries},
		"create an offer": {func(c *Client) error {
			_, err := c.CreateOffer(t.Context(), NewOffer{Email: "a@example.org"})
			return err
		}, 1},
		"of a member":    {func(c *Client) error { _, err := c.RevokeOffersOf(t.Context(), runID); return err }, 1},
		"revoke":         {func(c *Client) error { return c.RevokeOffer(t.Context(), runID) }, 1},
		"reissue":        {func(c *Client) error { _, err := c.ReissueOffer(t.Context(), runID, "", ""); return err }, 1},
		"sync a license": {func(c *Client) error { return c.SyncLicence(t.Context()) }, 1},
		"upload one":     {func(c *Client) error { return c.UploadLicence(t.Context(), []byte("{}"), false) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := start(t, func(w http.ResponseWriter, _ *http.Request, _ int) { problem(w, 503, "Later.") })
			if err := c.do(client); fault.Of(err) != fault.Transient {
				t.Errorf("the error is %v", err)
			}
			if got := len(s.asked()); got != c.tries {
				t.Errorf("it was sent %d times, want %d", got, c.tries)
			}
		})
	}
}

func TestAListIsReadOverAllOfItsPages(t *testing.T) {
	s, client := start(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.URL.Query().Get(continuation) == "" {
			fmt.Fprint(w, `{"data":[{"id":"1","status":{}},{"id":"2","status":{}}],"continuationToken":"a b"}`)
			return
		}
		fmt.Fprint(w, `{"data":[{"id":"3","status":{}}],"continuationToken":null}`)
	})
	offers, err := client.Offers(t.Context())
	if err != nil || len(offers) != 3 || offers[2].ID != "3" {
		t.Errorf("%v %v", offers, err)
	}
	path := "GET /api/organizations/" + organization + "/billing-sync/offers"
	if got := s.asked(); !slices.Equal(got, []string{path, path + "?continuationToken=a+b"}) {
		t.Errorf("asked %q", got)
	}
}

func TestAListWithoutAnEndIsAnError(t *testing.T) {
	for _, page := range []string{`{"data":[{"id":"1","status":{}}],"continuationToken":"same"}`, `{"data":[],"continuationToken":"more"}`} {
		_, client := start(t, always(page))
		if _, err := client.Offers(t.Context()); !errors.Is(err, apiclient.ErrAnswer) {
			t.Errorf("%s: the error is %v", page, err)
		}
	}
	_, client := start(t, always(`{"data":[{"id":"1","status":{}},{}]}`))
	if _, err := client.Offers(t.Context()); err == nil || !strings.Contains(err.Error(), "number 2 of the list: ") {
		t.Errorf("the error is %v", err)
	}
}

func TestARunIsFollowedToItsEnd(t *testing.T) {
	states := []string{"queued", "running", "running", CompletedWithWarnings}
	s, client := start(t, func(w http.ResponseWriter, _ *http.Request, number int) {
		fmt.Fprintf(w, `{"id":%q,"status":%q,"counts":{"sent":%d}}`, runID, states[number-1], number)
	})
	run, err := client.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	run, err = client.Follow(t.Context(), run, func(r Run) error {
		seen = append(seen, r.Status)
		return nil
	})
	if err != nil || run.Status != CompletedWithWarnings || run.Counts.Offers() != 4 {
		t.Errorf("%+v %v", run, err)
	}
	if !slices.Equal(seen, states) {
		t.Errorf("saw %q", seen)
	}
	if got := s.asked(); got[1] != "GET /api/organizations/"+organization+"/billing-sync/runs/"+runID+"?wait=1" {
		t.Errorf("asked %q", got)
	}
}

func TestWhoStopsWaitingForARunIsToldSo(t *testing.T) {
	running := fmt.Sprintf(`{"id":%q,"status":"running"}`, runID)
	_, client := start(t, always(running))
	ctx, stop := context.WithCancel(t.Context())
	looks := 0
	_, err := client.Follow(ctx, Run{ID: runID, Status: "queued"}, func(Run) error {
		if looks++; looks == 3 {
			stop()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	broken := errors.New("the terminal is gone")
	if _, err := client.Follow(t.Context(), Run{ID: runID}, func(Run) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
}

func TestConnectingMakesOrChangesTheConnection(t *testing.T) {
	const none = `{"id":null,"type":0,"organizationId":"00000000-0000-0000-0000-000000000000","enabled":false,"config":null}`
	there := fmt.Sprintf(`{"id":%q,"type":1,"organizationId":%[1]q,"enabled":true,"config":{"BillingSyncKey":"AbCd","CloudOrganizationId":"c"}}`, organization)
	path := "/api/organizations/connections"
	const key = config.Secret("AbC0123456789AbC0123456789AbCd")
	for name, c := range map[string]struct {
		before string
		do     func(*Client) error
		want   []string
		body   string
	}{
		"a first key": {
			none, func(c *Client) error { _, err := c.Connect(t.Context(), key); return err },
			[]string{"GET " + path + "/" + organization + "/1", "POST " + path}, `{"config":{"billingSyncKey":"AbC0123456789AbC0123456789AbCd"},"enabled":true,"organizationId":"` + organization + `","type":1}`,
		},
		"another key": {
			there, func(c *Client) error { _, err := c.Connect(t.Context(), key); return err },
			[]string{"GET " + path + "/" + organization + "/1", "PUT " + path + "/" + organization}, `{"config":{"billingSyncKey":"AbC0123456789AbC0123456789AbCd"},"enabled":true,"organizationId":"` + organization + `","type":1}`,
		},
		"disable": {
			there, func(c *Client) error { _, err := c.Enable(t.Context(), false); return err },
			[]string{"GET " + path + "/" + organization + "/1", "PUT " + path + "/" + organization}, `{"config":{},"enabled":false,"organizationId":"` + organization + `","type":1}`,
		},
		"disconnect": {
			there, func(c *Client) error { return c.Disconnect(t.Context()) },
			[]string{"GET " + path + "/" + organization + "/1", "DELETE " + path + "/" + organization}, ``,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := start(t, func(w http.ResponseWriter, r *http.Request, number int) {
				switch {
				case number == 1:
					fmt.Fprint(w, c.before)
				case r.Method != http.MethodDelete:
					fmt.Fprint(w, there)
				}
			})
			if err := c.do(client); err != nil {
				t.Fatal(err)
			}
			if got := s.asked(); !slices.Equal(got, c.want) {
				t.Errorf("asked %q", got)
			}
			if s.bodies[1] != c.body {
				t.Errorf("sent %s", s.bodies[1])
			}
		})
	}
	_, client := start(t, always(none))
	if _, err := client.Enable(t.Context(), true); fault.Of(err) != fault.NotFound {
		t.Errorf("the error is %v", err)
	}
	if err := client.Disconnect(t.Context()); fault.Of(err) != fault.NotFound {
		t.Errorf("the error is %v", err)
	}
}

func TestALicenceIsUploadedAsTheWebVaultDoes(t *testing.T) {
	document := `{"licenseKey":"k"}`
	for _, force := range []bool{false, true} {
		var query url.Values
		var content string
		seen := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			query = r.URL.Query()
			file, _, err := r.FormFile("License")
			if err != nil {
				t.Error(err)
				return
			}
			defer file.Close()
			b, err := io.ReadAll(file)
			if err != nil {
				t.Error(err)
			}
			content = string(b)
		}))
		defer seen.Close()
		if err := clientOf(t, Config{Server: seen.URL}).UploadLicence(t.Context(), []byte(document), force); err != nil {
			t.Fatal(err)
		}
		if content != document || query.Has("force") != force {
			t.Errorf("sent %q with %v", content, query)
		}
	}
}

func TestOffersAreSentByTheirOfficialNames(t *testing.T) {
	s, client := start(t, func(w http.ResponseWriter, r *http.Request, number int) {
		// The original's route says nothing of what it made, unless it is asked to.
		if number == 2 || r.Header.Get("Prefer") == "return=representation" {
			fmt.Fprintf(w, `{"id":%q,"status":{"key":"requested","label":"Requested"}}`, runID)
		}
	})
	if o, err := client.CreateOffer(t.Context(), NewOffer{Email: "a@example.org", Name: "n", AdminInitiated: true}); err != nil || o.ID != runID {
		t.Fatal(o, err)
	}
	if o, err := client.ReissueOffer(t.Context(), runID, "b@example.org", ""); err != nil || o.ID != runID {
		t.Errorf("%v %v", o, err)
	}
	var created map[string]any
	if err := json.Unmarshal([]byte(s.bodies[0]), &created); err != nil {
		t.Fatal(err)
	}
	if created["planSponsorshipType"] != 0.0 || created["sponsoredEmail"] != "a@example.org" || created["friendlyName"] != "n" || created["isAdminInitiated"] != true {
		t.Errorf("sent %s", s.bodies[0])
	}
	if s.asked()[0] != "POST /api/organization/sponsorship/self-hosted/"+organization+"/families-for-enterprise" {
		t.Errorf("asked %q", s.asked())
	}
}

// A server says "not found" of what is not there and of what may not be reached.
func TestWhatIsMissingIsToldFromWhatMayNotBeReached(t *testing.T) {
	calls := map[string]func(*Client) error{
		"read":  func(c *Client) error { _, err := c.Licence(t.Context()); return err },
		"sync":  func(c *Client) error { return c.SyncLicence(t.Context()) },
		"check": func(c *Client) error { _, err := c.CheckLicence(t.Context()); return err },
	}
	for name, call := range calls {
		for _, mayAsk := range []bool{true, false} {
			_, client := start(t, func(w http.ResponseWriter, r *http.Request, _ int) {
				switch path := r.URL.Path; {
				case mayAsk && strings.HasSuffix(path, "/billing-sync"):
					fmt.Fprintf(w, `{"organizationId":%q,"cloudCommunication":true}`, organization)
				case mayAsk && strings.HasSuffix(path, "/connections/"+organization+"/1"):
					fmt.Fprint(w, `{"id":null,"enabled":false,"config":null}`)
				default:
					problem(w, 404, "Resource not found.")
				}
			})
			err := call(client)
			_, noLicence := errors.AsType[*NoLicence](err)
			_, noConnection := errors.AsType[*NoConnection](err)
			if noLicence != (mayAsk && name == "read") || noConnection != (mayAsk && name != "read") || fault.Of(err) != fault.NotFound {
				t.Errorf("%s, allowed %v: %v", name, mayAsk, err)
			}
			if told := strings.Contains(err.Error(), "you may not reach it"); told == mayAsk {
				t.Errorf("%s, allowed %v: it tells %v", name, mayAsk, err)
			}
		}
	}
}

func TestTheOriginalsTextsAreAdvisedOn(t *testing.T) {
	for code, advice := range map[string]string{
		"license_missing":             "latchkey sync licence upload FILE",
		"license_certificate_missing": "LATCHKEY_LICENSE_CERTIFICATE_FILE",
		"license_other":               "",
	} {
		_, client := start(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("X-Latchkey-Code", code)
			problem(w, 400, "Cannot verify license file.")
		})
		_, err := client.Start(t.Context())
		refusal, ok := errors.AsType[*apiclient.Refusal](err)
		if !ok || !strings.Contains(refusal.Advice, advice) || (advice == "") != (refusal.Advice == "") {
			t.Errorf("%s: %v", code, err)
		}
	}
}
