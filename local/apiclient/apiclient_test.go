package apiclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/httpx"
)

const bearer = "header.claims.signature"

// server answers its requests with what stands first in answers, the last of
// them for ever, and remembers the requests.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	answers  []answer
	requests []request
}

type answer struct {
	status int
	header map[string]string
	body   string
	cut    bool // the connection breaks before the answer
}

type request struct {
	line, body string
	header     http.Header
}

func start(t *testing.T, answers ...answer) *server {
	t.Helper()
	s := &server{answers: answers}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		s.requests = append(s.requests, request{r.Method + " " + r.URL.RequestURI(), string(body), r.Header})
		a := s.answers[0]
		if len(s.answers) > 1 {
			s.answers = s.answers[1:]
		}
		s.mu.Unlock()
		if a.cut {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		for name, value := range a.header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(a.status)
		if _, err := io.WriteString(w, a.body); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) seen() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func settings(address string) Config {
	return Config{
		Server: address, Serves: "a Teapot", Example: "https://tea.example.org",
		Timeout: time.Minute, MaxAnswer: 5000, Pause: time.Millisecond,
	}
}

func client(t *testing.T, c Config) *Client {
	t.Helper()
	made, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestWhatIsNoServerIsTold(t *testing.T) {
	for _, address := range []string{"", "tea.example.org", "https://user:hunter2@tea.example.org", "https://tea.example.org/?a=b", "https:///x", "https://tea.example.org/#x"} {
		_, err := New(settings(address))
		if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "the address of a Teapot, such as https://tea.example.org") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, address := range []string{"ftp://tea.example.org", "http://tea.example.org", "http://10.0.0.1"} {
		if _, err := New(settings(address)); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "begins with https://") {
			t.Errorf("%q: %v", address, err)
		}
	}
	for address, want := range map[string]string{
		"https://tea.example.org/": "https://tea.example.org", "https://example.org/tea//": "https://example.org/tea",
		"http://127.0.0.1:8600": "http://127.0.0.1:8600", "http://[::1]:1": "http://[::1]:1", "http://localhost": "http://localhost",
	} {
		if c, err := New(settings(address)); err != nil || c.Server() != want {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestWhoIsNoOperatorIsTold(t *testing.T) {
	const organization = "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"
	for name, c := range map[string]struct {
		bearer       config.Secret
		organization string
	}{
		"no organisation": {bearer, ""}, "an odd organisation": {bearer, "acme"},
		"no token": {"", organization}, "two lines": {"x\ny: z", organization}, "a space": {"x y", organization},
	} {
		if _, err := CheckOperator(c.bearer, c.organization); fault.Of(err) != fault.Invalid || strings.Contains(err.Error(), "y: z") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if id, err := CheckOperator(bearer, strings.ToUpper(organization)); err != nil || id != organization {
		t.Errorf("%s %v", id, err)
	}
}

func TestARequestIsSentAsItIsDescribed(t *testing.T) {
	s := start(t, answer{status: 200, body: `{"a":1}`})
	c := client(t, settings(s.URL+"/base/"))
	for want, r := range map[string]Request{
		"GET /base/api/a%2Fb%3Fc?q=x+y":                        {Path: []string{"api", "a/b?c"}, Query: url.Values{"q": {"x y"}}, Header: map[string]string{"Accept": "*/*"}},
		`POST /base/api application/json {"name":"n"}`:         {Method: http.MethodPost, Path: []string{"api"}, Body: map[string]string{"name": "n"}},
		"POST /base/token application/x-www-form-urlencoded a": {Method: http.MethodPost, Path: []string{"token"}, Form: &Form{"application/x-www-form-urlencoded", []byte("a")}},
	} {
		if content, err := c.Do(t.Context(), r); err != nil || string(content) != `{"a":1}` {
			t.Fatalf("%s: %s %v", want, content, err)
		}
		all := s.seen()
		got := all[len(all)-1]
		if line := strings.TrimSpace(got.line + " " + got.header.Get("Content-Type") + " " + got.body); line != want {
			t.Errorf("sent %q, want %q", line, want)
		}
		header := map[string]string{}
		for name := range got.header {
			header[name] = got.header.Get(name)
		}
		delete(header, "Content-Length")
		delete(header, "Content-Type")
		expected := map[string]string{"User-Agent": "latchkey/0.0.0-dev"}
		maps.Copy(expected, r.Header)
		if !maps.Equal(header, expected) {
			t.Errorf("%s: the headers are %v", want, header)
		}
	}
	if _, err := c.Do(t.Context(), Request{Doing: "send", Body: make(chan int)}); err == nil || !strings.HasPrefix(err.Error(), "send: ") {
		t.Errorf("what is no JSON: %v", err)
	}
}

func TestARefusalTellsTheServersMessageAndWhatToDo(t *testing.T) {
	const rightAddress = "\nIs this the address of a Teapot?"
	for name, c := range map[string]struct {
		is    answer
		class fault.Class
		want  string // behind the status
	}{
		"a message":            {answer{status: 400, body: `{"message":"No tea.","object":"error"}`}, fault.Invalid, ": No tea.\nadvised"},
		"a code for programs":  {answer{status: 400, header: map[string]string{httpx.CodeHeader: "no_tea"}, body: `{"message":"No tea."}`}, fault.Invalid, ": No tea. (no_tea)\nadvised"},
		"validation":           {answer{status: 400, body: `{"message":"Invalid.","validationErrors":{"Value":["too long"],"Key":["a","b"]}}`}, fault.Invalid, ": Invalid. Key: a b Value: too long\nadvised"},
		"OAuth's code":         {answer{status: 400, body: `{"error":"invalid_client"}`}, fault.Unauthenticated, ": invalid_client\nadvised"},
		"OAuth's description":  {answer{status: 400, body: `{"error":"invalid_scope","error_description":"no such"}`}, fault.Invalid, ": invalid_scope: no such\nadvised"},
		"a model":              {answer{status: 400, body: `{"error":"invalid_client","ErrorModel":{"Message":"Revoked."}}`}, fault.Unauthenticated, ": Revoked.\nadvised"},
		"the lower-case model": {answer{status: 400, body: `{"error":"x","error_model":{"message":"Expired."}}`}, fault.Invalid, ": Expired.\nadvised"},
		"no session":           {answer{status: 401}, fault.Unauthenticated, "\nadvised"},
		"not allowed":          {answer{status: 403, body: `{"message":"No."}`}, fault.Forbidden, ": No.\nadvised"},
		"not there":            {answer{status: 404, body: `{"message":"Gone."}`}, fault.NotFound, ": Gone.\nadvised"},
		"not even a message":   {answer{status: 404, body: `{}`}, fault.NotFound, rightAddress},
		"another server":       {answer{status: 404, body: `<h1>nginx</h1>`}, fault.NotFound, rightAddress},
		"a conflict":           {answer{status: 409, body: `{}`}, fault.Conflict, "\nadvised"},
		"too large":            {answer{status: 413, body: `{}`}, fault.Invalid, "\nadvised"},
		"too often":            {answer{status: 429, body: `{"message":"Slow down!"}`}, fault.Transient, ": Slow down!\nWait a minute."},
		"down":                 {answer{status: 503, body: `{"message":"Later."}`}, fault.Transient, ": Later.\nadvised"},
		"broken":               {answer{status: 500, body: `{"message":"Unexpected."}`}, "", ": Unexpected.\nadvised"},
		"a redirect": {answer{status: 302, header: map[string]string{"Location": "http://127.0.0.1:1/"}}, "",
			"\nRedirects are not followed, since the request is secret: give the address that it leads to."},
		"escape codes": {answer{status: 400, body: `{"message":"a\u001b[31mb\u0007\nc"}`}, fault.Invalid, ": a[31mb c\nadvised"},
		"a long story": {answer{status: 400, body: `{"message":"` + strings.Repeat("ü", 2000) + `"}`}, fault.Invalid, ": " + strings.Repeat("ü", longestMessage) + "…\nadvised"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, c.is)
			config := settings(s.URL)
			config.Advise = func(r Request, refusal *Refusal) string {
				if r.Absent != "absent" || refusal.Status != c.is.status {
					t.Errorf("asked for advice about %+v %+v", r, refusal)
				}
				return "advised"
			}
			_, err := client(t, config).Do(t.Context(), Request{Doing: "make tea", Absent: "absent", Header: map[string]string{"Authorization": "Bearer " + bearer}})
			refusal, ok := errors.AsType[*Refusal](err)
			if !ok || refusal.Status != c.is.status || fault.Of(err) != c.class {
				t.Fatalf("the error is %v of class %q", err, fault.Of(err))
			}
			want := fmt.Sprintf("make tea: the server answers %d %s%s", c.is.status, http.StatusText(c.is.status), c.want)
			if err.Error() != want {
				t.Errorf("it tells %q, want %q", err, want)
			}
		})
	}
	s := start(t, answer{status: 400, body: `{"message":"No tea."}`})
	if _, err := client(t, settings(s.URL)).Do(t.Context(), Request{}); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("without anybody who advises: %v", err)
	}
}

func TestOnlyWhatIsSafeIsSentAgain(t *testing.T) {
	safe := map[string]Request{
		"a read": {}, "an explicit read": {Method: http.MethodGet}, "what says so": {Method: http.MethodPost, Again: true, Body: "the same"},
	}
	unsafe := map[string]Request{"a change": {Method: http.MethodPost, Body: "x"}, "a deletion": {Method: http.MethodDelete}}
	passing := map[string]answer{
		"503": {status: 503, body: "{}"}, "429": {status: 429, body: "{}"}, "502": {status: 502, body: "bad gateway"}, "no answer": {cut: true},
		"half an answer": {status: 200, header: map[string]string{"Content-Length": "100"}, body: "{"},
	}
	for how, failure := range passing {
		for name, r := range safe {
			s := start(t, failure, failure, answer{status: 200, body: "{}"})
			if _, err := client(t, settings(s.URL)).Do(t.Context(), r); err != nil || len(s.seen()) != 3 {
				t.Errorf("%s, %s: sent %d times, %v", name, how, len(s.seen()), err)
			}
			for _, sent := range s.seen() {
				if sent.body != s.seen()[0].body {
					t.Errorf("%s, %s: the second time %q was sent", name, how, sent.body)
				}
			}
			s = start(t, failure)
			_, err := client(t, settings(s.URL)).Do(t.Context(), r)
			// net/http sends a GET once more by itself where a kept connection broke.
			if n := len(s.seen()); n < tries || n > 2*tries || fault.Of(err) != fault.Transient {
				t.Errorf("%s, always %s: sent %d times, %v", name, how, n, err)
			}
		}
		for name, r := range unsafe {
			s := start(t, failure)
			if _, err := client(t, settings(s.URL)).Do(t.Context(), r); fault.Of(err) != fault.Transient || len(s.seen()) != 1 {
				t.Errorf("%s, %s: sent %d times, %v", name, how, len(s.seen()), err)
			}
		}
	}
	for _, status := range []int{400, 401, 404, 500} {
		s := start(t, answer{status: status, body: "{}"})
		if _, err := client(t, settings(s.URL)).Do(t.Context(), Request{}); err == nil || len(s.seen()) != 1 {
			t.Errorf("%d: sent %d times, %v", status, len(s.seen()), err)
		}
	}
}

func TestAServerCanAskForAPauseButNotForAnyLength(t *testing.T) {
	p := &politePause{BackOff: fixed(time.Millisecond)}
	for asked, want := range map[time.Duration]time.Duration{0: time.Millisecond, 2 * time.Second: 2 * time.Second, time.Hour: longestPause} {
		p.asked = asked
		if got := p.NextBackOff(); got != want {
			t.Errorf("asked for %s it waits %s", asked, got)
		}
	}
	for header, want := range map[string]time.Duration{"2": 2 * time.Second, "86400": time.Hour, "-1": 0, "soon": 0} {
		s := start(t, answer{status: 503, header: map[string]string{"Retry-After": header}, body: "{}"})
		if _, asked, err := client(t, settings(s.URL)).send(t.Context(), Request{Method: http.MethodGet}); asked != want || err == nil {
			t.Errorf("Retry-After: %s asks for %s, %v", header, asked, err)
		}
	}
}

type fixed time.Duration

func (f fixed) NextBackOff() time.Duration { return time.Duration(f) }
func (fixed) Reset()                       {}

func TestAnAnswerIsBounded(t *testing.T) {
	for length, fits := range map[int]bool{4998: true, 4999: false} {
		s := start(t, answer{status: 200, body: "{}" + strings.Repeat(" ", length)})
		_, err := client(t, settings(s.URL)).Do(t.Context(), Request{Doing: "make tea"})
		if fits != (err == nil) || !fits && (!errors.Is(err, ErrAnswer) || !strings.HasSuffix(err.Error(), "larger than 5000 bytes")) {
			t.Errorf("of %d bytes: %v", length+2, err)
		}
	}
	s := start(t, answer{status: 400, body: `{"message":"` + strings.Repeat(" ", 5000) + `"}`})
	if _, err := client(t, settings(s.URL)).Do(t.Context(), Request{}); !errors.Is(err, ErrAnswer) {
		t.Errorf("a large refusal: %v", err)
	}
}

func TestAnAnswerIsJSONOrNothing(t *testing.T) {
	for kind, good := range map[string]bool{"application/json": true, "application/problem+json; charset=utf-8": true, "text/html": false, "text/json": false, "application/octet-stream": false, ";": false} {
		s := start(t, answer{status: 200, header: map[string]string{"Content-Type": kind}, body: "{}"}, answer{status: 200, header: map[string]string{"Content-Type": kind}})
		c := client(t, settings(s.URL))
		_, err := c.Do(t.Context(), Request{})
		if good != (err == nil) || !good && (!errors.Is(err, ErrAnswer) || !strings.HasSuffix(err.Error(), "Is this the address of a Teapot?")) {
			t.Errorf("%s: %v", kind, err)
		}
		if content, err := c.Do(t.Context(), Request{}); err != nil || len(content) > 0 {
			t.Errorf("%s of nothing: %q, %v", kind, content, err)
		}
	}
}

// A redirect would carry what is secret to wherever it says.
func TestARedirectGetsNothing(t *testing.T) {
	elsewhere := start(t, answer{status: 200})
	for _, r := range []Request{{}, {Method: http.MethodPost, Again: true, Form: &Form{"application/x-www-form-urlencoded", []byte("client_secret=x")}}} {
		s := start(t, answer{status: http.StatusTemporaryRedirect, header: map[string]string{"Location": elsewhere.URL}})
		if _, err := client(t, settings(s.URL)).Do(t.Context(), r); err == nil || len(s.seen()) != 1 {
			t.Errorf("%s: sent %d times, %v", r.Method, len(s.seen()), err)
		}
	}
	if got := elsewhere.seen(); len(got) > 0 {
		t.Errorf("the other server was asked for %s", got[0].line)
	}
}

func TestWhoCannotBeReachedIsTold(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	ask := func(c Config) error {
		t.Helper()
		_, err := client(t, c).Do(t.Context(), Request{Doing: "make tea", Path: []string{"secret-path"}, Query: url.Values{"secret": {"query"}}})
		if err == nil || !strings.HasPrefix(err.Error(), "make tea: ") || strings.Contains(err.Error(), "secret") {
			t.Errorf("the error is %v", err)
		}
		return err
	}
	if err := ask(settings(s.URL)); fault.Of(err) != fault.Denied || !strings.Contains(err.Error(), s.URL+" has a certificate of an authority that is not known here") || !strings.Contains(err.Error(), "SSL_CERT_FILE") {
		t.Errorf("an unknown authority: %v", err)
	}
	trusting := settings(strings.Replace(s.URL, "127.0.0.1", "localhost", 1))
	trusting.HTTP = s.Client()
	if err := ask(trusting); fault.Of(err) != fault.Denied || !strings.Contains(err.Error(), "the certificate of "+trusting.Server+" is not right") {
		t.Errorf("a certificate of another name: %v", err)
	}
	s.Close()
	if err := ask(settings(s.URL)); fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), s.URL+" cannot be reached") {
		t.Errorf("nobody: %v", err)
	}
}

func TestARequestEndsWithItsContext(t *testing.T) {
	s := start(t, answer{status: 503, header: map[string]string{"Retry-After": "3600"}, body: "{}"})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client(t, settings(s.URL)).Do(ctx, Request{}); fault.Of(err) != fault.Transient || len(s.seen()) > 1 {
		t.Errorf("sent %d times, %v", len(s.seen()), err)
	}
}

func TestAnObjectIsReadStrictly(t *testing.T) {
	type object struct {
		ID   string    `json:"id"`
		Date time.Time `json:"date"`
	}
	const good = `{"id":"secret","date":"2026-01-02T03:04:05Z","more":[1]}`
	for text, told := range map[string]string{
		"":                                    "it is not a JSON object",
		"[]":                                  "it is not a JSON object",
		good[:20]:                             "it is not a JSON object",
		"null":                                "id is missing",
		`{"ID":"secret"}`:                     "id is missing",
		`{"id":null}`:                         "id is missing",
		`{"id":["secret"]}`:                   "id has another type",
		`{"id":"x","date":"secret 2026"}`:     "a member has another form",
		`{"id":"x","date":"2026-01-02T03:0"}`: "a member has another form",
	} {
		var o object
		if _, err := Decode([]byte(text), &o, "id"); !errors.Is(err, ErrAnswer) || !strings.Contains(err.Error(), told) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", text, err)
		}
	}
	var o object
	members, err := Decode([]byte(good), &o, "id", "date")
	if err != nil || o.ID != "secret" || o.Date.Year() != 2026 || string(members["more"]) != "[1]" {
		t.Errorf("%+v %s %v", o, members, err)
	}
}
