// Package awslambda serves an http.Handler on AWS Lambda behind an API Gateway
// HTTP API (payload format 2.0; a function URL sends the same). Nothing else in
// the project knows an event's shape.
//
// A handler sees what it would see behind net/http:
//
//   - the path without the stage, and RemoteAddr "address:0" with the address
//     that the gateway saw (X-Forwarded-For can be written by any caller);
//   - every header as one value, comma-joined as the gateway sends it;
//   - X-Request-Id, set to Lambda's request id where the caller sent none, and
//     X-Amzn-Trace-Id, set to the invocation's X-Ray trace;
//   - a context that ends a little before Lambda would kill the process, so
//     that there is time to answer 503.
//
// Whatever the handler does is an answer: a panic is a 500 and a log line, and so
// is an answer that breaks off, of which nothing has been sent yet; a handler that
// writes nothing answers 200 with an empty body. Only an event that
// is not an HTTP request at all is a function error.
package awslambda

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/awslabs/aws-lambda-go-api-proxy/httpadapter"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// MaxBody bounds a request's body, in bytes, before any handler sees it: what
// Lambda carries. Functions bound theirs further.
const MaxBody = 6 << 20

// reserve is what is kept of Lambda's time for writing the answer; at most a
// quarter of what is left.
const reserve = 500 * time.Millisecond

// maxPlain is the longest body that is handed over as text. JSON makes six
// bytes of some characters, and Lambda ends a process whose answer is larger
// than 6 MB, so a longer one goes as base64, which grows by a third at the most.
const maxPlain = 1 << 20

// Start serves handler until Lambda ends the process. It does not return.
func Start(handler http.Handler) {
	lambda.StartHandlerFunc(Handler(handler))
}

// Handler is what Start gives to Lambda: it answers one event at a time, and
// may be called concurrently.
func Handler(handler http.Handler) func(context.Context, events.APIGatewayV2HTTPRequest) (events.APIGatewayV2HTTPResponse, error) {
	return func(ctx context.Context, event events.APIGatewayV2HTTPRequest) (events.APIGatewayV2HTTPResponse, error) {
		if event.Version != "2.0" || event.RequestContext.HTTP.Method == "" {
			return events.APIGatewayV2HTTPResponse{}, fmt.Errorf("%w: this event (version %q) is not an HTTP request in payload format 2.0; set the integration's payload format to 2.0", fault.Invalid, event.Version)
		}
		normal, refusal := normalise(event)
		if refusal != nil {
			return *refusal, nil
		}
		ctx, cancel := withReserve(ctx)
		defer cancel()
		return serve(ctx, handler, normal)
	}
}

func serve(ctx context.Context, handler http.Handler, event events.APIGatewayV2HTTPRequest) (response events.APIGatewayV2HTTPResponse, err error) {
	answer := newAnswer(event.RequestContext.HTTP.Method)
	defer func() {
		thrown := recover()
		refused := func(message string) {
			response, err = failure(answer.header, http.StatusInternalServerError, message), nil
		}
		switch {
		case thrown != nil && thrown != http.ErrAbortHandler: //nolint:errorlint // net/http compares it so
			slog.LogAttrs(ctx, slog.LevelError, "panic in the handler",
				append(fault.Thrown(thrown), slog.String("requestId", requestID(ctx, event)))...)
			refused("An unexpected error has occurred.")
		case answer.tooLarge: // and a handler that noticed may have broken off
			slog.ErrorContext(ctx, "the answer is larger than Lambda can carry",
				"requestId", requestID(ctx, event), "limit", maxAnswer)
			refused("The answer is too large.")
		case thrown != nil:
			slog.ErrorContext(ctx, "the answer broke off", "requestId", requestID(ctx, event))
			refused("An unexpected error has occurred.")
		}
	}()

	adapter := httpadapter.NewV2(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(answer, restore(r, event))
		answer.copyTo(w)
	}))
	// The domain is not needed to make a URL that the adapter can parse.
	converted := event
	converted.RequestContext.DomainName = ""
	response, err = adapter.ProxyWithContext(ctx, converted)
	if err != nil {
		return events.APIGatewayV2HTTPResponse{}, fmt.Errorf("convert event: %w", err)
	}
	if !response.IsBase64Encoded && len(response.Body) > maxPlain {
		response.Body = base64.StdEncoding.EncodeToString([]byte(response.Body))
		response.IsBase64Encoded = true
	}
	return response, nil
}

// normalise makes of an event one that the adapter converts without surprises:
// a decoded body within the limit, a path without the stage and a query that
// are those of a URL. What no handler should see is refused.
func normalise(event events.APIGatewayV2HTTPRequest) (events.APIGatewayV2HTTPRequest, *events.APIGatewayV2HTTPResponse) {
	refuse := func(status int, message string) (events.APIGatewayV2HTTPRequest, *events.APIGatewayV2HTTPResponse) {
		response := failure(nil, status, message)
		return event, &response
	}
	if strings.ContainsFunc(event.RequestContext.HTTP.Method, notLetter) {
		return refuse(http.StatusBadRequest, "The method is not valid.")
	}
	if event.IsBase64Encoded {
		if base64.StdEncoding.DecodedLen(len(event.Body)) > MaxBody+2 { // DecodedLen counts the padding
			return refuse(http.StatusRequestEntityTooLarge, "The body is too large.")
		}
		body, err := base64.StdEncoding.DecodeString(event.Body)
		if err != nil {
			return refuse(http.StatusBadRequest, "The body is not valid base64.")
		}
		event.Body, event.IsBase64Encoded = string(body), false
	}
	if len(event.Body) > MaxBody {
		return refuse(http.StatusRequestEntityTooLarge, "The body is too large.")
	}

	path := event.RawPath
	if path == "" {
		path = event.RequestContext.HTTP.Path
	}
	event.RawPath = escapePath(withoutStage(path, event.RequestContext.Stage))
	event.RawQueryString = escapeQuery(event.RawQueryString)
	return event, nil
}

func notLetter(r rune) bool { return (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') }

// withoutStage cuts the stage off: the gateway begins the path with the name of
// every stage but $default, also where a custom domain hides it from callers.
func withoutStage(path, stage string) string {
	if stage == "" || stage == "$default" {
		return path
	}
	rest, found := strings.CutPrefix(path, "/"+stage)
	if !found || (rest != "" && rest[0] != '/') {
		return path
	}
	return "/" + strings.TrimPrefix(rest, "/")
}

// escapePath makes a path fit for a URL. An HTTP API hands it over decoded, a
// function URL as it was sent; one that is a valid encoding is left alone.
func escapePath(path string) string {
	if !strings.ContainsFunc(path, neverInURL) && !strings.Contains(path, "?") {
		if _, err := url.PathUnescape(path); err == nil {
			return path
		}
	}
	return (&url.URL{Path: path}).EscapedPath()
}

func escapeQuery(query string) string {
	if !strings.ContainsFunc(query, neverInURL) {
		return query
	}
	var b strings.Builder
	for _, c := range []byte(query) {
		if neverInURL(rune(c)) {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func neverInURL(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }

// restore undoes what the adapter does to a request: headers split at commas,
// an address without a port, an absolute URL.
func restore(r *http.Request, event events.APIGatewayV2HTTPRequest) *http.Request {
	r.Header = make(http.Header, len(event.Headers)+3)
	for name, value := range event.Headers {
		r.Header.Add(name, value)
	}
	r.Host = event.RequestContext.DomainName
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
		r.Header.Del("Host") // as net/http does
	}
	if len(event.Cookies) > 0 {
		r.Header.Set("Cookie", strings.Join(event.Cookies, "; "))
	}
	if r.Header.Get("X-Request-Id") == "" {
		r.Header.Set("X-Request-Id", requestID(r.Context(), event))
	}
	if trace := traceID(r.Context()); trace != "" {
		r.Header.Set("X-Amzn-Trace-Id", trace)
	}
	if address := event.RequestContext.HTTP.SourceIP; address != "" {
		r.RemoteAddr = net.JoinHostPort(address, "0")
	}
	r.URL.Scheme, r.URL.Host = "", ""
	return r
}

func requestID(ctx context.Context, event events.APIGatewayV2HTTPRequest) string {
	if invocation, ok := lambdacontext.FromContext(ctx); ok && invocation.AwsRequestID != "" {
		return invocation.AwsRequestID
	}
	return event.RequestContext.RequestID
}

func traceID(ctx context.Context) string {
	trace, _ := ctx.Value("x-amzn-trace-id").(string) // the key that aws-lambda-go documents
	return trace
}

func withReserve(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(reserve, time.Until(deadline)/4)))
}

func failure(header http.Header, status int, message string) events.APIGatewayV2HTTPResponse {
	headers := map[string]string{
		"Content-Type":  "application/json; charset=utf-8",
		"Cache-Control": "no-store",
	}
	// Without its CORS headers a browser would report a CORS error instead.
	for name, values := range header {
		if strings.HasPrefix(name, "Access-Control-") || name == "Vary" || name == "X-Request-Id" {
			headers[name] = strings.Join(values, ",")
		}
	}
	return events.APIGatewayV2HTTPResponse{
		StatusCode: status, Headers: headers,
		Body: fmt.Sprintf(`{"message":%q,"object":"error"}`, message),
	}
}

var errTooLarge = errors.New("the answer is larger than Lambda can carry")
