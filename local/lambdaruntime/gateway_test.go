package lambdaruntime

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
)

type response struct {
	status int
	header http.Header
	body   string
}

// request sends one through a real HTTP server in front of the function.
func request(t *testing.T, f *Function, method, target string, header http.Header, body []byte) response {
	t.Helper()
	server := httptest.NewServer(f.Handler())
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), method, server.URL+target, bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return response{}
	}
	if header != nil {
		r.Header = header
	}
	answer, err := server.Client().Do(r)
	if err != nil {
		t.Error(err)
		return response{}
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Error(err)
	}
	return response{answer.StatusCode, answer.Header, string(got)}
}

func decode(t *testing.T, r response) report {
	t.Helper()
	var got report
	if err := json.Unmarshal([]byte(r.body), &got); err != nil || r.status != http.StatusOK {
		t.Fatalf("got %d %s: %v", r.status, r.body, err)
	}
	return got
}

func TestARequestArrivesAsItWasSent(t *testing.T) {
	f := run(t, "http", nil)
	t.Run("headers", func(t *testing.T) {
		got := decode(t, request(t, f, http.MethodOptions, "/user-keys", http.Header{
			"Origin":                         {"bw-desktop-file://bundle"},
			"Access-Control-Request-Headers": {"authorization,bitwarden-client-name,pragma"},
			"Authorization":                  {"Bearer TOKEN"},
			"Cookie":                         {"a=1; b=2"},
			"X-Forwarded-For":                {"203.0.113.9"},
			"X-Twice":                        {"1", "2"},
		}, nil))
		for name, want := range map[string]string{
			"Origin":                         "bw-desktop-file://bundle",
			"Access-Control-Request-Headers": "authorization,bitwarden-client-name,pragma",
			"Authorization":                  "Bearer TOKEN",
			"Cookie":                         "a=1; b=2",
			"X-Forwarded-For":                "203.0.113.9, 127.0.0.1",
			"X-Twice":                        "1,2",
		} {
			if values := got.Headers.Values(name); len(values) != 1 || values[0] != want {
				t.Errorf("%s: %q", name, values)
			}
		}
		if got.Method != http.MethodOptions || got.RemoteAddr != "127.0.0.1:0" || !strings.HasPrefix(got.Host, "127.0.0.1:") {
			t.Errorf("method %s, remote address %s, host %s", got.Method, got.RemoteAddr, got.Host)
		}
		if !strings.HasPrefix(got.Headers.Get("X-Amzn-Trace-Id"), "Root=1-") || got.Headers.Get("X-Request-Id") == "" {
			t.Errorf("ids: %v", got.Headers)
		}
	})
	for path, want := range map[string]string{
		"/user-keys":              "/user-keys",
		"/sch%C3%BCssel/a%20b":    "/schüssel/a b",
		"/a%3Fb%23c":              "/a?b#c",
		"/100%25":                 "/100%",
		"/%F0%9F%94%91?q=%C3%BC":  "/🔑",
		"/key-connector//alive":   "", // net/http's mux redirects to the clean path
		"/a?x=1&x=2&y=%2B+%26&z=": "/a",
	} {
		t.Run(path, func(t *testing.T) {
			if want == "" {
				want = "/key-connector/alive"
			}
			got := decode(t, request(t, f, http.MethodGet, path, nil, nil))
			_, query, _ := strings.Cut(path, "?")
			if got.Path != want || got.Query != query {
				t.Errorf("got path %q, query %q", got.Path, got.Query)
			}
		})
	}
	binary := []byte{0, 0xff, 0x80, '\n'}
	large := bytes.Repeat([]byte("ü"), 1<<19)
	for name, c := range map[string]struct {
		contentType string
		body        []byte
	}{
		"JSON":                   {"application/json; charset=utf-8", []byte(`{"key":"ü"}`)},
		"a form":                 {"application/x-www-form-urlencoded", []byte("grant_type=client_credentials")},
		"binary":                 {"application/octet-stream", binary},
		"binary said to be text": {"text/plain", binary},
		"without a type":         {"", []byte("x")},
		"large":                  {"text/plain", large},
		"none":                   {"", nil},
	} {
		t.Run("a body: "+name, func(t *testing.T) {
			header := http.Header{}
			if c.contentType != "" {
				header.Set("Content-Type", c.contentType)
			}
			got := decode(t, request(t, f, http.MethodPost, "/user-keys", header, c.body))
			if !bytes.Equal(got.Body, c.body) || got.Headers.Get("Content-Length") != fmt.Sprint(len(c.body)) {
				t.Errorf("%d bytes arrived as %d, content length %s", len(c.body), len(got.Body), got.Headers.Get("Content-Length"))
			}
		})
	}
}

func TestAnAnswerArrivesAsItWasGiven(t *testing.T) {
	f := run(t, "http", nil)
	binary := []byte{0, 0xff, 0x80}
	got := request(t, f, http.MethodPost, "/binary", nil, binary)
	if got.status != http.StatusCreated || got.body != string(binary) || got.header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("got %d %q %v", got.status, got.body, got.header)
	}
	if cookies := got.header.Values("Set-Cookie"); len(cookies) != 2 {
		t.Errorf("cookies %q", cookies)
	}
	if got.header.Get("Apigw-Requestid") == "" {
		t.Error("no request id of the gateway's")
	}
	if got := request(t, f, http.MethodGet, "/nothing", nil, nil); got.status != http.StatusOK || got.body != "" {
		t.Errorf("nothing written: got %d %q", got.status, got.body)
	}
	if got := request(t, f, http.MethodHead, "/slow", nil, nil); got.status != http.StatusOK || got.body != "" {
		t.Errorf("HEAD: got %d %q", got.status, got.body)
	}
	if got := request(t, f, http.MethodGet, "/panic", nil, nil); got.status != http.StatusInternalServerError || strings.Contains(got.body, "secret") {
		t.Errorf("a panic: got %d %q", got.status, got.body)
	}
}

func TestTheGatewaySaysLittleOfFailures(t *testing.T) {
	large := bytes.Repeat([]byte{0xff}, 5<<20) // more than 6 MB in base64
	for name, c := range map[string]struct {
		target string
		header http.Header
		body   []byte
		status int
		want   string
	}{
		"a crash":                    {"/exit", nil, nil, http.StatusBadGateway, "Internal Server Error"},
		"a hang":                     {"/hang", nil, nil, http.StatusBadGateway, "Internal Server Error"},
		"a body beyond the gateway":  {"/", nil, make([]byte, maxRequest+1), http.StatusRequestEntityTooLarge, "Request Entity Too Large"},
		"a body beyond Lambda":       {"/", nil, large, http.StatusRequestEntityTooLarge, "Request Entity Too Large"},
		"headers beyond the gateway": {"/", http.Header{"Authorization": {strings.Repeat("x", maxHeaders)}}, nil, http.StatusRequestHeaderFieldsTooLarge, "Request Header Fields Too Large"},
	} {
		t.Run(name, func(t *testing.T) {
			f := run(t, "http", func(c *Config) { c.Timeout = 2 * time.Second })
			got := request(t, f, http.MethodPost, c.target, c.header, c.body)
			if got.status != c.status || got.body != `{"message":"`+c.want+`"}` {
				t.Errorf("got %d %q", got.status, got.body)
			}
		})
	}
	t.Run("a closed runtime", func(t *testing.T) {
		f := run(t, "http", nil)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		got := request(t, f, http.MethodGet, "/", nil, nil)
		if got.status != http.StatusServiceUnavailable || got.body != `{"message":"Service Unavailable"}` {
			t.Errorf("got %d %q", got.status, got.body)
		}
	})
}

func TestAnswersInOtherForms(t *testing.T) {
	f := run(t, "raw", nil)
	for name, c := range map[string]struct {
		answer     string
		status     int
		body, kind string
	}{
		"JSON without a status is the body":      {`{"a":1}`, 200, `{"a":1}`, "application/json"},
		"so is a list":                           {`[1]`, 200, `[1]`, "application/json"},
		"a body without a type":                  {`{"statusCode":200,"body":"x"}`, 200, "x", "text/plain;charset=UTF-8"},
		"an empty body":                          {`{"statusCode":204}`, 204, "", ""},
		"base64":                                 {`{"statusCode":200,"body":"eA==","isBase64Encoded":true}`, 200, "x", "text/plain;charset=UTF-8"},
		"not JSON":                               {`hello`, 502, `{"message":"Internal Server Error"}`, "application/json"},
		"broken base64":                          {`{"statusCode":200,"body":"%","isBase64Encoded":true}`, 502, `{"message":"Internal Server Error"}`, "application/json"},
		"a status that is none":                  {`{"statusCode":99}`, 502, `{"message":"Internal Server Error"}`, "application/json"},
		"a status that is text":                  {`{"statusCode":"ok"}`, 502, `{"message":"Internal Server Error"}`, "application/json"},
		"a header that is no text":               {`{"statusCode":200,"headers":{"a":[1]}}`, 502, `{"message":"Internal Server Error"}`, "application/json"},
		"a content length that is wrong is lost": {`{"statusCode":200,"headers":{"content-length":"99"},"body":"x"}`, 200, "x", "text/plain;charset=UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			recorder := httptest.NewRecorder()
			payload, err := json.Marshal(map[string]string{"do": "answer with", "answer": c.answer})
			if err != nil {
				t.Fatal(err)
			}
			f.answer(recorder, t.Context(), payload)
			if recorder.Code != c.status || recorder.Body.String() != c.body || recorder.Header().Get("Content-Type") != c.kind {
				t.Errorf("got %d %q %q", recorder.Code, recorder.Body, recorder.Header().Get("Content-Type"))
			}
		})
	}
}

// The form is that of AWS's own documentation of payload format 2.0.
func TestAnEventHasTheGatewaysForm(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "https://kc.example.org/key%20s?a=1&a=2&b=%C3%BC", strings.NewReader("x"))
	r.Header.Add("Cookie", "c=1; d=2")
	r.Header.Set("User-Agent", "Bitwarden_CLI/2026.9.0 (LINUX)")
	r.RemoteAddr = "[2001:db8::1]:4711"
	encoded, err := json.Marshal(toEvent(r, []byte("x"), "the-id"))
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.DisallowUnknownFields()
	var event events.APIGatewayV2HTTPRequest
	if err := decoder.Decode(&event); err != nil {
		t.Fatal(err)
	}
	context := event.RequestContext
	for what, pair := range map[string][2]string{
		"version":     {event.Version, "2.0"},
		"route":       {event.RouteKey + context.RouteKey, "$default$default"},
		"path":        {event.RawPath + context.HTTP.Path, "/key s/key s"},
		"query":       {event.RawQueryString, "a=1&a=2&b=%C3%BC"},
		"parameters":  {fmt.Sprint(event.QueryStringParameters), "map[a:1,2 b:ü]"},
		"cookies":     {fmt.Sprint(event.Cookies), "[c=1 d=2]"},
		"cookie":      {event.Headers["cookie"], ""},
		"agent":       {event.Headers["user-agent"], context.HTTP.UserAgent},
		"source":      {context.HTTP.SourceIP, "2001:db8::1"},
		"domain":      {context.DomainName + context.DomainPrefix, "kc.example.orgkc"},
		"stage":       {context.Stage, "$default"},
		"request id":  {context.RequestID, "the-id"},
		"method":      {context.HTTP.Method + context.HTTP.Protocol, "POSTHTTP/1.1"},
		"body":        {fmt.Sprint(event.Body, event.IsBase64Encoded), "eA==true"},
		"forwarded":   {event.Headers["x-forwarded-for"] + event.Headers["x-forwarded-proto"], "2001:db8::1https"},
		"host header": {event.Headers["host"], "kc.example.org"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %q, want %q", what, pair[0], pair[1])
		}
	}
	if at, err := time.Parse("02/Jan/2006:15:04:05 -0700", context.Time); err != nil || at.Unix() != context.TimeEpoch/1000 {
		t.Errorf("time %q, epoch %d: %v", context.Time, context.TimeEpoch, err)
	}
}
