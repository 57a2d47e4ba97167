package smapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

func TestErrorsAreWrittenAsClientsKnowThem(t *testing.T) {
	const unavailable = "Secrets Manager is not available at the moment. Please try again."
	said := func(class fault.Class) error { return &machine.Problem{Class: class, Message: "Said."} }
	cases := []struct {
		name    string
		err     error
		status  int
		message string
	}{
		{"something that is not there", machine.NotFound(), 404, "Resource not found."},
		{"something that is hidden, and why", machine.Hidden("Read-only."), 404, "Resource not found. Read-only."},
		{"something that the store has not", fmt.Errorf("get: %w", fault.NotFound), 404, "Resource not found."},
		{"something that is forbidden", fmt.Errorf("hidden detail: %w", fault.Forbidden), 404, "Resource not found."},
		{"a request that cannot be met", machine.Invalid("The %s is wrong.", "name"), 400, "The name is wrong."},
		{"the same, wrapped", fmt.Errorf("hidden detail: %w", machine.Invalid("Wrong.")), 400, "Wrong."},
		{"a conflict that is told", said(fault.Conflict), 400, "Said."},
		{"a conflict that is not", fmt.Errorf("hidden detail: %w", fault.Conflict), 409, "It was changed by another request at the same time. Please try again."},
		{"a session that is over", machine.Refused("Revoked."), 401, "Revoked."},
		{"nobody", fmt.Errorf("hidden detail: %w", fault.Unauthenticated), 401, "Access tokens cannot be checked at the moment. Please try again."},
		{"a store that is down", fmt.Errorf("hidden detail: %w", fault.Transient), 503, unavailable},
		{"a store that is down in the middle", said(fault.Transient), 503, "Said."},
		{"a store that refuses us", fmt.Errorf("hidden detail: %w", fault.Denied), 503, unavailable},
		{"time that is up", fmt.Errorf("hidden detail: %w", context.DeadlineExceeded), 503, unavailable},
		{"what was stored is lost", fmt.Errorf("hidden detail: %w", fault.Lost), 500, "What is stored here cannot be read. Please tell your administrator."},
		{"a mistake of ours", fmt.Errorf("hidden detail: %w", fault.Invalid), 500, "An unexpected error has occurred."},
		{"what cannot be done", fmt.Errorf("hidden detail: %w", fault.Unsupported), 500, "An unexpected error has occurred."},
		{"what nobody classified", errors.New("hidden detail"), 500, "An unexpected error has occurred."},
	}
	e := newEdge(t)
	api := e.api()
	for i, c := range cases {
		api.Handle(fmt.Sprintf("GET /errors/%d", i), "test.fail", func(smapi.Request) (any, error) { return nil, c.err })
	}
	asks := e.serve(api)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := asks.get(fmt.Sprintf("/api/errors/%d", i))
			if p := got.fails(t, c.status); p.Message != c.message || p.ValidationErrors != nil {
				t.Errorf("it says %s", got.body)
			}
			if (got.Header.Get("Retry-After") != "") != (c.status == 503) {
				t.Errorf("Retry-After is %q", got.Header.Get("Retry-After"))
			}
			event := e.audited()[i]
			want := map[bool]string{true: "refused", false: "failed"}[c.status < 500]
			if event["action"] != "test.fail" || event["outcome"] != want || event["reason"] != c.err.Error() ||
				event["actor"] != "service-account:"+account || event["token"] != token || event["address"] != "127.0.0.1" {
				t.Errorf("the audit event is %v", event)
			}
			if line := e.requests()[i]; line["error"] != c.err.Error() || line["requestId"] != event["requestId"] || line["status"] != float64(c.status) {
				t.Errorf("the log line is %v", line)
			}
		})
	}
}

func TestFaultsOfSingleMembersAreToldByTheirNames(t *testing.T) {
	e := newEdge(t)
	api := e.api()
	api.Handle("POST /things", "thing.create", func(smapi.Request) (any, error) {
		f := machine.Fields{}
		f.EncString("name", "", machine.MaxName)
		return nil, f.Problem()
	})
	p := e.serve(api).do("POST", "/api/things", "{}").fails(t, 400)
	if p.Message != "The model state is invalid." || !slices.Equal(p.ValidationErrors["name"], []string{"The name field is required."}) {
		t.Errorf("%+v", p)
	}
}

func TestAnswers(t *testing.T) {
	e := newEdge(t)
	api := e.api()
	for path, value := range map[string]any{
		"list":       smapi.NewList([]string{"a"}),
		"empty-list": smapi.NewList[string](nil),
		"bulk":       []smapi.BulkResult{smapi.NewBulkResult("a", ""), smapi.NewBulkResult("b", smapi.AccessDenied)},
		"nothing":    nil,
		"none-json":  func() {},
	} {
		api.Handle("GET /"+path, "test", func(smapi.Request) (any, error) { return value, nil })
	}
	asks := e.serve(api)
	for path, want := range map[string]string{
		"list":       `{"data":["a"],"continuationToken":null,"object":"list"}`,
		"empty-list": `{"data":[],"continuationToken":null,"object":"list"}`,
		"bulk":       `[{"id":"a","error":null,"object":"BulkDeleteResponseModel"},{"id":"b","error":"access denied","object":"BulkDeleteResponseModel"}]`,
		"nothing":    "",
	} {
		got := asks.get("/api/" + path)
		if got.StatusCode != 200 || got.body != want || got.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v %q", path, got.StatusCode, got.Header, got.body)
		}
		if want != "" && got.Header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("%s is %q", path, got.Header.Get("Content-Type"))
		}
	}
	if got := asks.get("/api/none-json"); got.StatusCode != 500 {
		t.Errorf("what is no JSON: %d %q", got.StatusCode, got.body)
	}
}

func TestARequestLeavesALineOfItsOwnWhereTheDomainLeavesNone(t *testing.T) {
	e := newEdge(t)
	api := e.api()
	machines := machine.New(machine.Config{Store: e.store, Logger: e.logger, Now: e.clock.now})
	quiet := func(smapi.Request) (any, error) { return nil, nil }
	api.Handle("GET /things/{id}", "thing.read", quiet)
	api.Handle("GET /organizations/{org}/things", "thing.list", quiet)
	api.Handle("POST /things", "thing.count", quiet)
	api.Handle("GET /said/{id}", "thing.read", func(r smapi.Request) (any, error) {
		a, err := r.Caller.In(organization)
		machines.Record(r.Context(), a, "part.read", "1", "2")
		return nil, err
	})
	api.Handle("GET /streamed/{id}", "thing.read", func(r smapi.Request) (any, error) {
		return smapi.Stream(func(io.Writer) error {
			a, err := r.Caller.In(organization)
			machines.Record(r.Context(), a, "part.read", "3")
			return err
		}), nil
	})
	api.Handle("GET /denied/{id}", "thing.delete", func(r smapi.Request) (any, error) {
		machines.Denied(r.Context(), r.Caller, machine.SecretDeleted, "4")
		return nil, nil
	})
	api.Handle("GET /fails/{id}", "thing.read", func(r smapi.Request) (any, error) {
		a, err := r.Caller.In(organization)
		machines.Record(r.Context(), a, "part.read", "5")
		return nil, errors.Join(err, fault.Transient)
	})
	asks := e.serve(api)
	for _, path := range []string{
		"/things/" + token, "/things/" + strings.ToUpper(token), "/things/hunter2", "/organizations/" + organization + "/things",
		"/said/" + token, "/streamed/" + token, "/denied/" + token, "/fails/" + token,
	} {
		asks.get(path)
	}
	asks.do("POST", "/things", "{}")
	var lines []string
	for _, line := range e.audited() {
		lines = append(lines, fmt.Sprint(line["action"], " ", line["outcome"], " ", line["subject"]))
		if line["actor"] != "service-account:"+account || line["token"] != token || line["requestId"] == nil || line["address"] == nil ||
			(line["reason"] == nil) != (line["outcome"] == "allowed") {
			t.Errorf("%v", line)
		}
	}
	want := []string{
		"thing.read allowed " + token, "thing.read allowed " + token, "thing.read allowed <nil>", "thing.list allowed " + organization,
		"part.read allowed 1", "part.read allowed 2", "part.read allowed 3", "secret.delete refused 4",
		"part.read allowed 5", "thing.read failed " + token, "thing.count allowed <nil>",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("the audit log is\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

func TestAnswersThatAreStreamed(t *testing.T) {
	e := newEdge(t)
	api := e.api()
	large := strings.Repeat("x", 1<<20)
	for path, stream := range map[string]smapi.Stream{
		"whole": func(w io.Writer) error { _, err := io.WriteString(w, `"`+large+`"`); return err },
		"empty": func(io.Writer) error { return nil },
		"fails": func(io.Writer) error { return fmt.Errorf("list: %w", fault.Transient) },
		"refused": func(io.Writer) error {
			return machine.NotFound()
		},
		"breaks": func(w io.Writer) error {
			if _, err := io.WriteString(w, `["`+large); err != nil {
				return err
			}
			return fmt.Errorf("list: %w", fault.Transient)
		},
		"breaks-early": func(w io.Writer) error {
			if _, err := io.WriteString(w, `["`); err != nil {
				return err
			}
			return errors.New("early")
		},
	} {
		api.Handle("GET /"+path, "test."+path, func(smapi.Request) (any, error) { return stream, nil })
	}
	asks := e.serve(api)
	if got := asks.get("/whole"); got.StatusCode != 200 || len(got.body) != len(large)+2 || got.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("%d %v, %d bytes", got.StatusCode, got.Header, len(got.body))
	}
	if got := asks.get("/empty"); got.StatusCode != 200 || got.body != "" {
		t.Errorf("%d %q", got.StatusCode, got.body)
	}
	asks.get("/fails").fails(t, 503)
	asks.get("/refused").fails(t, 404)
	for _, path := range []string{"/breaks", "/breaks-early"} {
		if got := asks.get(path); got.failure == nil {
			t.Errorf("%s: an answer that was cut short looks whole: %d, %d bytes", path, got.StatusCode, len(got.body))
		}
	}
	var actions []string
	for _, event := range e.audited() {
		actions = append(actions, fmt.Sprint(event["action"], " ", event["outcome"]))
	}
	if want := []string{"test.whole allowed", "test.empty allowed", "test.fails failed", "test.refused refused", "test.breaks failed", "test.breaks-early failed"}; !slices.Equal(actions, want) {
		t.Errorf("audit events are %q", actions)
	}
}

func TestAPanicIsA500AndAnEvent(t *testing.T) {
	e := newEdge(t)
	api := e.api()
	api.Handle("GET /panic", "test.panic", func(smapi.Request) (any, error) { panic("hunter2") })
	e.serve(api).get("/api/panic").fails(t, 500)
	events := e.audited()
	if len(events) != 1 || events[0]["outcome"] != "failed" || events[0]["reason"] != "the request broke off" || events[0]["actor"] != "service-account:"+account {
		t.Errorf("audit events are %v", events)
	}
	if strings.Contains(e.log.String(), "hunter2") {
		t.Error("the log holds what was thrown")
	}
}

func TestRoutesAreServedWithTheirPrefixesAndWithout(t *testing.T) {
	e := newEdge(t)
	api := e.api()
	api.Handle("GET /things/{id}", "thing.read", func(r smapi.Request) (any, error) { return r.PathValue("id"), nil })
	api.Handle("GET /things/{id}/parts", "part.list", func(smapi.Request) (any, error) { return "parts", nil })
	asks := e.serve(api)
	for path, want := range map[string]string{
		"/api/things/1": `"1"`, "/things/1": `"1"`, "/sm/api/things/1": `"1"`, "/sm/things/1": `"1"`, "/api/things/1?x=/api/": `"1"`,
		"/api/things/1/parts": `"parts"`, "/api/things/a%2Fparts": `"a/parts"`, "/api/things/%61": `"a"`, "/things/api": `"api"`,
		"/api/things/..%2f..": `"../.."`,
		// These have no route, and no redirect either.
		"/api/api/things/1": "", "/api/sm/things/1": "", "/apithings/1": "", "/api": "", "/api/": "", "/": "", "/sm": "", "/API/things/1": "",
		"/api/things": "", "/api/things/": "", "/api/things/1/": "", "/api//things/1": "", "//api/things/1": "", "/api/./things/1": "",
		"/api/x/../things/1": "", "/%61pi/things/1": "", "/api%2Fthings/1": "",
	} {
		got := asks.get(path)
		if want == "" {
			if p := got.fails(t, 404); p.Message != "Resource not found." {
				t.Errorf("%s: %s", path, got.body)
			}
			continue
		}
		if got.StatusCode != 200 || got.body != want {
			t.Errorf("%s: %d %s", path, got.StatusCode, got.body)
		}
	}
	if line := e.requests()[0]; !strings.Contains(line["path"].(string), "/") {
		t.Errorf("%v", line)
	}
	for _, event := range e.audited() { // what has no route has none
		if event["outcome"] != "allowed" {
			t.Errorf("%v", event)
		}
	}
	before := len(e.requests())
	asks.get("/sm/api/things/1?secret=hunter2")
	if line := e.requests()[before]; line["path"] != "/sm/api/things/1" || strings.Contains(e.log.String(), "hunter2") {
		t.Errorf("the log does not have the path that was asked for: %v", line)
	}
}

func TestMethodsThatARouteHasNot(t *testing.T) {
	e := newEdge(t)
	api := e.api()
	api.Handle("GET /things", "thing.list", func(smapi.Request) (any, error) { return "list", nil })
	api.Handle("POST /things", "thing.create", func(smapi.Request) (any, error) { return nil, nil })
	api.Handle("PUT /things/{id}", "thing.edit", func(smapi.Request) (any, error) { return nil, nil })
	if routes := api.Routes; !slices.Equal(routes, []string{"GET /things", "POST /things", "PUT /things/{id}"}) {
		t.Errorf("routes are %q", routes)
	}
	asks := e.serve(api)
	for _, c := range []struct{ method, path, allow string }{
		{"DELETE", "/api/things", "GET,POST"}, {"PUT", "/things", "GET,POST"}, {"PATCH", "/api/things", "GET,POST"},
		{"GET", "/api/things/1", "PUT"}, {"DELETE", "/sm/api/things/1", "PUT"},
	} {
		got := asks.do(c.method, c.path, "")
		if p := got.fails(t, 405); p.Message != "The method is not allowed here." || strings.Join(got.Header.Values("Allow"), ",") != c.allow {
			t.Errorf("%s %s: %v %s", c.method, c.path, got.Header, got.body)
		}
	}
	if got := asks.do("HEAD", "/api/things", ""); got.StatusCode != 200 || got.body != "" || got.Header.Get("Content-Length") != "6" {
		t.Errorf("HEAD: %d %v %q", got.StatusCode, got.Header, got.body)
	}
	if got := asks.do("POST", "/api/nothing", ""); got.StatusCode != 404 || got.Header.Get("Allow") != "" {
		t.Errorf("%d %v", got.StatusCode, got.Header)
	}
}

func TestPagesOfTheWebVaultMayCall(t *testing.T) {
	e := newEdge(t)
	api := e.api()
	api.Handle("GET /things", "thing.list", func(smapi.Request) (any, error) { return "list", nil })
	asks := e.serve(api)
	for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
		for origin, allowed := range map[string]bool{webVault: true, "bw-desktop-file://bundle": true, "https://evil.example.org": false, "null": false} {
			got := client{e: e, url: asks.url}.do("OPTIONS", "/api/things", "", "Origin", origin,
				"Access-Control-Request-Method", method, "Access-Control-Request-Headers", "authorization,content-type,device-type")
			if (got.Header.Get("Access-Control-Allow-Origin") == origin) != allowed || allowed && got.Header.Get("Access-Control-Allow-Methods") != method {
				t.Errorf("%s from %s: %d %v", method, origin, got.StatusCode, got.Header)
			}
		}
	}
	// Errors can be read as well, that of a wrong path included.
	for path, status := range map[string]int{"/api/things": 200, "/api/nothing": 404} {
		got := asks.do("GET", path, "", "Origin", webVault)
		if got.StatusCode != status || got.Header.Get("Access-Control-Allow-Origin") != webVault {
			t.Errorf("%s: %d %v", path, got.StatusCode, got.Header)
		}
	}
	got := client{e: e, url: asks.url}.do("GET", "/api/things", "", "Origin", webVault)
	if got.fails(t, 401); got.Header.Get("Access-Control-Allow-Origin") != webVault {
		t.Errorf("%v", got.Header)
	}
}

func TestBodiesThatAreNoGoodAreNeverRepeated(t *testing.T) {
	type part struct {
		Kind string `json:"kind"`
	}
	type thing struct {
		Name  string   `json:"name"`
		Count int8     `json:"count"`
		Parts []part   `json:"parts"`
		IDs   []string `json:"ids"`
	}
	e := newEdge(t)
	api := e.api()
	api.Handle("POST /things", "thing.create", func(r smapi.Request) (any, error) {
		var body thing
		err := r.Read(&body)
		return body, err
	})
	api.Handle("POST /ids", "thing.delete", func(r smapi.Request) (any, error) {
		var body []string
		if err := r.Read(&body); err != nil {
			return nil, err
		}
		return smapi.IDs(body)
	})
	asks := e.serve(api)

	for name, c := range map[string]struct{ body, message, member, said string }{
		"nothing":             {body: ""},
		"blanks":              {body: "  "},
		"no JSON":             {body: "hunter2"},
		"half of it":          {body: `{"name":"hunter2`},
		"a form":              {body: "name=hunter2"},
		"more than one value": {body: `{"name":"x"} {"hunter2":1}`},
		"something after it":  {body: `{"name":"x"}hunter2`},
		"a text":              {body: `"hunter2"`},
		"a list":              {body: `["hunter2"]`},
		"depth":               {body: strings.Repeat("[", 900)},
		"a number for a text": {body: `{"name":1234567}`, member: "name", said: "A JSON number cannot be used here."},
		"a list for a text":   {body: `{"name":["hunter2"]}`, member: "name", said: "A JSON array cannot be used here."},
		"a text for a number": {body: `{"count":"hunter2"}`, member: "count", said: "A JSON string cannot be used here."},
		"too large a number":  {body: `{"count":1234567}`, member: "count", said: "A JSON number cannot be used here."},
		"deeper in":           {body: `{"parts":[{"kind":true}]}`, member: "parts.kind", said: "A JSON bool cannot be used here."},
		"an object for a list": {
			body: `{"ids":{"hunter2":1}}`, member: "ids", said: "A JSON object cannot be used here."},
	} {
		t.Run(name, func(t *testing.T) {
			got := asks.do("POST", "/api/things", c.body)
			p := got.fails(t, 400)
			if c.member == "" && (p.Message != "The request body is not the JSON that is expected here." || p.ValidationErrors != nil) {
				t.Errorf("it says %s", got.body)
			}
			if c.member != "" && (p.Message != "The model state is invalid." || !slices.Equal(p.ValidationErrors[c.member], []string{c.said})) {
				t.Errorf("it says %s", got.body)
			}
			if everything := got.body + e.log.String(); strings.Contains(everything, "hunter2") || strings.Contains(everything, "1234567") {
				t.Errorf("what was sent is repeated: %s", everything)
			}
		})
	}
	for body, number := range map[string]string{
		`["hunter2"]`:                             "1",
		`["` + token + `",""]`:                    "2",
		`["{` + token + `}"]`:                     "1",
		`["urn:uuid:` + token + `"]`:              "1",
		`["` + account + `","` + token + `","x"]`: "3",
	} {
		got := asks.do("POST", "/api/ids", body)
		if p := got.fails(t, 400); p.Message != "Number "+number+" of the ids is not an id." || strings.Contains(e.log.String(), "hunter2") {
			t.Errorf("%s: %s", body, got.body)
		}
	}
	if got := asks.do("POST", "/api/ids", `["`+strings.ToUpper(token)+`"]`); got.body != `["`+token+`"]` {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	if got := asks.do("POST", "/api/things", `{"name":"x","else":[1,2],"NAME":"y"}`); got.StatusCode != 200 || !strings.Contains(got.body, `"name":"y"`) {
		t.Errorf("members that are not known: %d %s", got.StatusCode, got.body)
	}
}

func TestABodyThatIsTooLarge(t *testing.T) {
	e := newEdge(t)
	api := e.api()
	api.Handle("POST /things", "thing.create", func(r smapi.Request) (any, error) {
		var body string
		return nil, r.Read(&body)
	})
	asks := e.serve(api)
	fits, err := json.Marshal(strings.Repeat("x", maxBody-2))
	if err != nil {
		t.Fatal(err)
	}
	if got := asks.do("POST", "/api/things", string(fits)); got.StatusCode != 200 || got.body != "" {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	if p := asks.do("POST", "/api/things", string(fits)+" ").fails(t, 413); p.Message != "The request body is larger than 1000 bytes." {
		t.Errorf("it says %q", p.Message)
	}
	if event := e.audited()[1]; event["outcome"] != "refused" {
		t.Errorf("the audit event is %v", event)
	}
}

func TestIDsOfThePath(t *testing.T) {
	e := newEdge(t)
	api := e.api()
	api.Handle("GET /things/{id}", "thing.read", func(r smapi.Request) (any, error) { return r.ID("id") })
	asks := e.serve(api)
	for path, want := range map[string]string{
		"/api/things/" + token:                               token,
		"/api/things/" + strings.ToUpper(token):              token,
		"/api/things/" + strings.ReplaceAll(token, "-", ""):  "",
		"/api/things/%7B" + token + "%7D":                    "",
		"/api/things/urn:uuid:" + token:                      "",
		"/api/things/" + token + "%2Fparts":                  "",
		"/api/things/hunter2":                                "",
		"/api/things/" + strings.Replace(token, "7", "g", 1): "",
		"/api/things/" + token + "%00":                       "",
	} {
		got := asks.get(path)
		if want == "" {
			got.fails(t, 404)
		} else if got.StatusCode != 200 || got.body != `"`+want+`"` {
			t.Errorf("%s: %d %s", path, got.StatusCode, got.body)
		}
	}
}

func TestWhoseTimeIsUpIsTold(t *testing.T) {
	e := newEdge(t)
	api := smapi.New(smapi.Config{Function: "test", Callers: e.authenticator(), Logger: e.logger, Timeout: 1, MaxBody: maxBody})
	api.Handle("GET /slow", "test.slow", func(smapi.Request) (any, error) { return nil, nil })
	// A nanosecond is over before it is known who asks.
	e.serve(api).get("/slow").fails(t, http.StatusServiceUnavailable)
}
