package awslambda

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/httpx"
)

func get(path string) events.APIGatewayV2HTTPRequest {
	return events.APIGatewayV2HTTPRequest{
		Version: "2.0", RouteKey: "$default", RawPath: path,
		Headers: map[string]string{"host": "kc.example.org"},
		RequestContext: events.APIGatewayV2HTTPRequestContext{
			Stage: "$default", DomainName: "kc.example.org", RequestID: "gateway-request",
			HTTP: events.APIGatewayV2HTTPRequestContextHTTPDescription{Method: "GET", Path: path, SourceIP: "198.51.100.7"},
		},
	}
}

func with(event events.APIGatewayV2HTTPRequest, change func(*events.APIGatewayV2HTTPRequest)) events.APIGatewayV2HTTPRequest {
	change(&event)
	return event
}

// seen is what a handler gets to see of an event.
type seen struct {
	*http.Request
	body string
}

func serveOne(t *testing.T, ctx context.Context, event events.APIGatewayV2HTTPRequest) (seen, events.APIGatewayV2HTTPResponse) {
	t.Helper()
	var got seen
	response, err := Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = seen{Request: r, body: string(body)}
		w.WriteHeader(http.StatusOK)
	}))(ctx, event)
	if err != nil {
		t.Fatal(err)
	}
	return got, response
}

func TestAHandlerSeesTheHeadersAsTheyWereSent(t *testing.T) {
	headers := map[string]string{
		"host":                           "kc.example.org",
		"authorization":                  "Bearer a,b",
		"accept":                         "text/html,application/json;q=0.9",
		"access-control-request-headers": "authorization,bitwarden-client-name,cache-control,pragma",
		"x-forwarded-for":                "203.0.113.9, 198.51.100.7",
		"if-modified-since":              "Sun, 22 Nov 2026 10:00:00 GMT",
	}
	got, _ := serveOne(t, t.Context(), with(get("/user-keys"), func(e *events.APIGatewayV2HTTPRequest) {
		e.Headers = headers
		e.Cookies = []string{"a=1", "b=2"}
	}))
	for name, want := range headers {
		if name == "host" {
			continue
		}
		if values := got.Header.Values(name); len(values) != 1 || values[0] != want {
			t.Errorf("%s: got %q, want one value %q", name, values, want)
		}
	}
	if got.Host != "kc.example.org" || got.Header.Get("Host") != "" {
		t.Errorf("host %q, in the header map %q", got.Host, got.Header.Get("Host"))
	}
	if cookies := got.Cookies(); len(cookies) != 2 || cookies[1].Value != "2" {
		t.Errorf("cookies: %v", cookies)
	}
}

func TestAHandlerSeesAServersRequest(t *testing.T) {
	ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: "lambda-request"})
	//lint:ignore SA1029 the key is aws-lambda-go's own
	ctx = context.WithValue(ctx, "x-amzn-trace-id", "Root=1-5759e988-bd862e3fe1be46a994272793") //nolint:staticcheck // likewise
	got, _ := serveOne(t, ctx, with(get("/user-keys"), func(e *events.APIGatewayV2HTTPRequest) {
		e.RawQueryString = "a=1&b=%20x"
		e.RequestContext.HTTP.SourceIP = "2001:db8::1"
	}))
	if got.RemoteAddr != "[2001:db8::1]:0" {
		t.Errorf("remote address %q", got.RemoteAddr)
	}
	if got.URL.String() != "/user-keys?a=1&b=%20x" || got.RequestURI != got.URL.String() {
		t.Errorf("url %q, request URI %q", got.URL, got.RequestURI)
	}
	if id := got.Header.Get("X-Request-Id"); id != "lambda-request" {
		t.Errorf("request id %q", id)
	}
	if trace := got.Header.Get("X-Amzn-Trace-Id"); trace != "Root=1-5759e988-bd862e3fe1be46a994272793" {
		t.Errorf("trace id %q", trace)
	}
}

func TestTheCallersRequestIDIsKept(t *testing.T) {
	got, _ := serveOne(t, t.Context(), with(get("/"), func(e *events.APIGatewayV2HTTPRequest) {
		e.Headers["x-request-id"] = "from-the-caller"
	}))
	if id := got.Header.Get("X-Request-Id"); id != "from-the-caller" {
		t.Errorf("request id %q", id)
	}
	got, _ = serveOne(t, t.Context(), get("/"))
	if id := got.Header.Get("X-Request-Id"); id != "gateway-request" {
		t.Errorf("without Lambda: request id %q", id)
	}
}

func TestPaths(t *testing.T) {
	for name, c := range map[string]struct{ raw, stage, want string }{
		"a plain one":                      {"/user-keys", "$default", "/user-keys"},
		"the stage is cut off":             {"/prod/user-keys", "prod", "/user-keys"},
		"the stage alone is the root":      {"/prod", "prod", "/"},
		"the stage with a slash":           {"/prod/", "prod", "/"},
		"a route that begins like a stage": {"/production", "prod", "/production"},
		"a stage that is hidden":           {"/user-keys", "prod", "/user-keys"},
		"encoded, as function URLs send":   {"/a%20b/%C3%BC", "$default", "/a b/ü"},
		"decoded, as HTTP APIs send":       {"/a b/ü", "$default", "/a b/ü"},
		"a decoded question mark":          {"/a?b", "$default", "/a?b"},
		"a decoded hash":                   {"/a#b", "$default", "/a#b"},
		"a bare percent sign":              {"/100%", "$default", "/100%"},
		"a control character":              {"/a\x01\n", "$default", "/a\x01\n"},
		"an empty one":                     {"", "$default", "/"},
		"two slashes":                      {"//evil.example/x", "$default", "//evil.example/x"},
	} {
		t.Run(name, func(t *testing.T) {
			got, _ := serveOne(t, t.Context(), with(get(c.raw), func(e *events.APIGatewayV2HTTPRequest) {
				e.RequestContext.Stage = c.stage
			}))
			if got.URL.Path != c.want || got.URL.RawQuery != "" || got.URL.Host != "" {
				t.Errorf("got path %q, query %q, host %q", got.URL.Path, got.URL.RawQuery, got.URL.Host)
			}
		})
	}
}

func TestAQueryWithWhatNoURLHoldsIsEscaped(t *testing.T) {
	got, _ := serveOne(t, t.Context(), with(get("/"), func(e *events.APIGatewayV2HTTPRequest) {
		e.RawQueryString = "name=Zoë x#y\n&n=%41"
	}))
	if name := got.URL.Query().Get("name"); name != "Zoë x#y\n" {
		t.Errorf("name %q", name)
	}
	if n := got.URL.Query().Get("n"); n != "A" {
		t.Errorf("n %q", n)
	}
}

func TestBodies(t *testing.T) {
	binary := string([]byte{0, 0xff, 0xfe, '\n'})
	full := strings.Repeat("x", MaxBody)
	for name, c := range map[string]struct {
		body   string
		base64 bool
		status int
		want   string
	}{
		"text":                     {`{"key":"ü"}`, false, 200, `{"key":"ü"}`},
		"none":                     {"", false, 200, ""},
		"base64":                   {base64.StdEncoding.EncodeToString([]byte(binary)), true, 200, binary},
		"broken base64":            {"%%%", true, 400, ""},
		"as large as allowed":      {full, false, 200, full},
		"larger than allowed":      {full + "x", false, 413, ""},
		"base64, as large":         {base64.StdEncoding.EncodeToString([]byte(full)), true, 200, full},
		"base64, one byte too big": {base64.StdEncoding.EncodeToString([]byte(full + "x")), true, 413, ""},
		"base64, far too large":    {strings.Repeat("A", 4*MaxBody), true, 413, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, response := serveOne(t, t.Context(), with(get("/user-keys"), func(e *events.APIGatewayV2HTTPRequest) {
				e.RequestContext.HTTP.Method = "POST"
				e.Body, e.IsBase64Encoded = c.body, c.base64
			}))
			if response.StatusCode != c.status || got.body != c.want {
				t.Fatalf("status %d, body of %d bytes", response.StatusCode, len(got.body))
			}
			if got.Request != nil && got.ContentLength != int64(len(c.want)) {
				t.Errorf("content length %d", got.ContentLength)
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	write := func(w http.ResponseWriter, text string) {
		if _, err := io.WriteString(w, text); err != nil {
			t.Errorf("write: %v", err)
		}
	}
	for name, c := range map[string]struct {
		method  string
		handler http.HandlerFunc
		status  int
		body    string
		headers map[string]string
	}{
		"nothing written is an empty 200": {
			handler: func(http.ResponseWriter, *http.Request) {}, status: 200},
		"a 204 stays a 204": {
			handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, status: 204},
		"a 204 has no body": {
			handler: func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(204)
				if _, err := w.Write([]byte("x")); !errors.Is(err, http.ErrBodyNotAllowed) {
					t.Errorf("got %v", err)
				}
			}, status: 204},
		"the first status counts": {
			handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404); w.WriteHeader(200); write(w, "no") },
			status:  404, body: "no"},
		"a status after the body is too late": {
			handler: func(w http.ResponseWriter, _ *http.Request) { write(w, "yes"); w.WriteHeader(500) },
			status:  200, body: "yes"},
		"an interim status is not the answer": {
			handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(201) }, status: 201},
		"a status that is none": {
			handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(1000) }, status: 500},
		"a header after the status is too late": {
			handler: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Early", "1")
				w.WriteHeader(200)
				w.Header().Set("X-Early", "2")
				w.Header().Set("X-Late", "1")
			}, status: 200, headers: map[string]string{"X-Early": "1", "X-Late": ""}},
		"several values are joined": {
			handler: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Add("Vary", "Origin")
				w.Header().Add("Vary", "Accept")
				w.Header().Set("Content-Length", "99")
			}, status: 200, headers: map[string]string{"Vary": "Origin,Accept", "Content-Length": ""}},
		"a HEAD has no body": {
			method:  "HEAD",
			handler: func(w http.ResponseWriter, _ *http.Request) { write(w, "x") }, status: 200},
		"a body's type is guessed": {
			handler: func(w http.ResponseWriter, _ *http.Request) { write(w, "plain") }, status: 200, body: "plain",
			headers: map[string]string{"Content-Type": "text/plain; charset=utf-8"}},
	} {
		t.Run(name, func(t *testing.T) {
			event := get("/")
			if c.method != "" {
				event.RequestContext.HTTP.Method = c.method
			}
			response, err := Handler(c.handler)(t.Context(), event)
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != c.status || response.Body != c.body || response.IsBase64Encoded {
				t.Errorf("got %d %q (base64 %v)", response.StatusCode, response.Body, response.IsBase64Encoded)
			}
			for name, want := range c.headers {
				if got := response.Headers[name]; got != want {
					t.Errorf("%s: got %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestCookiesAndBinaryBodiesSurvive(t *testing.T) {
	binary := []byte{0xff, 0, 1}
	response, err := Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
		http.SetCookie(w, &http.Cookie{Name: "b", Value: "2"})
		_, _ = w.Write(binary)
	}))(t.Context(), get("/"))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(response.Cookies, []string{"a=1", "b=2"}) {
		t.Errorf("cookies %q", response.Cookies)
	}
	if !response.IsBase64Encoded || response.Body != base64.StdEncoding.EncodeToString(binary) {
		t.Errorf("body %q", response.Body)
	}
}

func TestTheLargestAnswerFitsLambda(t *testing.T) {
	const lambdaLimit = 6 << 20
	for name, text := range map[string]string{"plain": "x", "six bytes each in JSON": "<", "not UTF-8": "\xff"} {
		t.Run(name, func(t *testing.T) {
			body := bytes.Repeat([]byte(text), maxAnswer)
			response, err := Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if _, err := w.Write(body); err != nil {
					t.Error(err)
				}
			}))(t.Context(), get("/"))
			if err != nil {
				t.Fatal(err)
			}
			encoded, err := json.Marshal(response)
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != 200 || len(encoded) > lambdaLimit {
				t.Errorf("status %d, %d bytes", response.StatusCode, len(encoded))
			}
		})
	}
}

func TestAnAnswerThatIsTooLargeIsA500(t *testing.T) {
	logs := captureLog(t)
	response, err := Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "https://vault.example.org")
		if _, err := w.Write(make([]byte, maxAnswer+1)); !errors.Is(err, errTooLarge) {
			t.Errorf("write: got %v", err)
		}
	}))(t.Context(), get("/"))
	if err != nil || response.StatusCode != 500 || len(response.Body) > 200 {
		t.Fatalf("got %d, %d bytes, %v", response.StatusCode, len(response.Body), err)
	}
	if response.Headers["Access-Control-Allow-Origin"] == "" {
		t.Error("the CORS header is lost")
	}
	if !strings.Contains(logs.String(), "larger than Lambda can carry") {
		t.Errorf("not logged: %s", logs)
	}
}

// What a client would have seen cut short on a connection, it must not see whole.
func TestAnAnswerThatBreaksOffIsA500(t *testing.T) {
	for name, c := range map[string]struct {
		size   int
		logged string
		told   string
	}{
		"before anything was written":  {0, "the answer broke off", "unexpected"},
		"in the middle":                {1000, "the answer broke off", "unexpected"},
		"since it is larger than fits": {maxAnswer + 1, "larger than Lambda can carry", "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			logs := captureLog(t)
			stream := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Access-Control-Allow-Origin", "https://vault.example.org")
				if c.size > 0 {
					httpx.StartJSON(w, http.StatusOK)
				}
				_, _ = io.WriteString(w, strings.Repeat("x", c.size))
				panic(http.ErrAbortHandler)
			})
			wrapped := httpx.Wrap(stream, httpx.Options{Function: "test", Logger: slog.New(slog.DiscardHandler), Timeout: time.Minute, MaxBody: 1})
			for _, handler := range []http.Handler{stream, wrapped} {
				response, err := Handler(handler)(t.Context(), get("/"))
				if err != nil {
					t.Fatal(err)
				}
				var body struct{ Message, Object string }
				if err := json.Unmarshal([]byte(response.Body), &body); err != nil || !strings.Contains(body.Message, c.told) || body.Object != "error" {
					t.Errorf("the body is %.200q", response.Body)
				}
				if response.StatusCode != http.StatusInternalServerError || response.Headers["Access-Control-Allow-Origin"] == "" || response.Headers["Cache-Control"] != "no-store" {
					t.Errorf("%d, headers %v", response.StatusCode, response.Headers)
				}
			}
			if strings.Count(logs.String(), c.logged) != 2 || strings.Count(logs.String(), "gateway-request") != 2 || strings.Contains(logs.String(), "panic") {
				t.Errorf("logged %s", logs)
			}
		})
	}
}

func TestAPanicIsA500AndToldToNobodyButTheLog(t *testing.T) {
	for name, c := range map[string]struct {
		thrown func()
		logged string
	}{
		"a string": {func() { panic("the secret key") }, `"panic":"string"`},
		"an error": {func() { panic(errors.New("the secret key")) }, `"panic":"*errors.errorString"`},
		//lint:ignore SA5000 the panic is the point
		"the runtime's":  {func() { var m map[string]int; m["the secret key"] = 1 }, "assignment to entry in nil map"}, //nolint:staticcheck // likewise
		"after a status": {func() { panic(42) }, `"panic":"int"`},
	} {
		t.Run(name, func(t *testing.T) {
			logs := captureLog(t)
			response, err := Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Access-Control-Allow-Origin", "https://vault.example.org")
				w.Header().Set("Vary", "Origin")
				w.Header().Set("X-Half-Done", "1")
				w.WriteHeader(200)
				_, _ = io.WriteString(w, "half an ans")
				c.thrown()
			}))(t.Context(), get("/"))
			if err != nil {
				t.Fatalf("the panic became a function error: %v", err)
			}
			var body struct{ Message string }
			if jsonErr := json.Unmarshal([]byte(response.Body), &body); jsonErr != nil || body.Message == "" || response.StatusCode != 500 {
				t.Errorf("got %d %q", response.StatusCode, response.Body)
			}
			if response.Headers["Access-Control-Allow-Origin"] == "" || response.Headers["Vary"] == "" || response.Headers["X-Half-Done"] != "" {
				t.Errorf("headers %v", response.Headers)
			}
			if strings.Contains(response.Body+logs.String(), "the secret key") {
				t.Errorf("the panic's value got out: %s", logs)
			}
			if !strings.Contains(logs.String(), c.logged) || !strings.Contains(logs.String(), "awslambda_test.go") {
				t.Errorf("logged %s", logs)
			}
		})
	}
}

func TestTheHandlersTimeEndsBeforeLambdas(t *testing.T) {
	for name, c := range map[string]struct{ left, atMost time.Duration }{
		"a long time":  {10 * time.Second, 10*time.Second - reserve},
		"a short time": {time.Second, time.Second - 200*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			end := time.Now().Add(c.left)
			ctx, cancel := context.WithDeadline(t.Context(), end)
			defer cancel()
			got, _ := serveOne(t, ctx, get("/"))
			deadline, ok := got.Context().Deadline()
			if !ok || deadline.After(end.Add(c.atMost-c.left)) || deadline.Before(end.Add(-reserve)) {
				t.Errorf("deadline %v before Lambda's", end.Sub(deadline))
			}
		})
	}
}

func TestAHandlerThatHeedsItsContextAnswersInTime(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	response, err := Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		w.WriteHeader(http.StatusServiceUnavailable)
	}))(ctx, get("/"))
	if err != nil || response.StatusCode != http.StatusServiceUnavailable || ctx.Err() != nil {
		t.Errorf("got %d, %v; Lambda's context: %v", response.StatusCode, err, ctx.Err())
	}
}

func TestWhatIsNoHTTPRequestIsAFunctionError(t *testing.T) {
	for name, event := range map[string]string{
		"a REST API's event": `{"version":"1.0","httpMethod":"GET","path":"/user-keys","requestContext":{}}`,
		"a schedule's event": `{"source":"aws.scheduler","detail":{}}`,
		"nothing":            `{}`,
		"no method":          `{"version":"2.0","rawPath":"/user-keys"}`,
	} {
		t.Run(name, func(t *testing.T) {
			var e events.APIGatewayV2HTTPRequest
			if err := json.Unmarshal([]byte(event), &e); err != nil {
				t.Fatal(err)
			}
			called := false
			_, err := Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }))(t.Context(), e)
			if !errors.Is(err, fault.Invalid) || called {
				t.Errorf("got %v, handler called: %v", err, called)
			}
		})
	}
}

func TestAMethodThatIsNoneIsRefused(t *testing.T) {
	got, response := serveOne(t, t.Context(), with(get("/"), func(e *events.APIGatewayV2HTTPRequest) {
		e.RequestContext.HTTP.Method = "GET / HTTP/1.1\r\nX: y"
	}))
	if got.Request != nil || response.StatusCode != 400 {
		t.Errorf("got %d", response.StatusCode)
	}
}

func TestConcurrentInvocationsDoNotMeet(t *testing.T) {
	handler := Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.URL.Path)
	}))
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			path := "/" + strings.Repeat("p", i)
			if response, err := handler(t.Context(), get(path)); err != nil || response.Body != path {
				t.Errorf("%s: got %q, %v", path, response.Body, err)
			}
		})
	}
	wg.Wait()
}

// FuzzEvents: whatever a gateway could send, a handler is called with a request
// that net/http could have made, or is not called.
func FuzzEvents(f *testing.F) {
	f.Add("GET", "/user-keys", "a=1", "kc.example.org", "x-forwarded-for", "a, b", "body", false)
	f.Add("POST", "/prod/ü?#%", "%zz&\n", "", "cookie", "a", "////", true)
	f.Fuzz(func(t *testing.T, method, path, query, host, name, value, body string, isBase64 bool) {
		event := get(path)
		event.RawQueryString, event.Body, event.IsBase64Encoded = query, body, isBase64
		event.RequestContext.HTTP.Method, event.RequestContext.DomainName = method, host
		event.RequestContext.Stage = "prod"
		event.Headers[name] = value
		response, err := Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.URL.Path, "/") || r.URL.Host != "" || r.URL.Fragment != "" {
				t.Errorf("url %#v", r.URL)
			}
			http.NewServeMux().ServeHTTP(httptest.NewRecorder(), r)
			w.WriteHeader(http.StatusTeapot)
		}))(t.Context(), event)
		if method == "" {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		switch response.StatusCode {
		case http.StatusTeapot, http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		default:
			t.Errorf("status %d", response.StatusCode)
		}
	})
}

// captureLog puts a buffer in the place of the default logger.
func captureLog(t *testing.T) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewJSONHandler(&b, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &b
}
