package lambdaruntime

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-lambda-go/events"
	"github.com/google/uuid"
)

// Limits of API Gateway's HTTP APIs.
const (
	maxRequest  = 10 << 20 // bytes of a body
	maxHeaders  = 10240    // bytes of the request line and the headers
	integration = 30 * time.Second
)

// Handler is an HTTP API with one route, $default, to the function. Requests
// and answers go through payload format 2.0 with the gateway's own habits: the
// path arrives decoded, header names in lower case, bodies in base64 unless
// their type is text, JSON, XML or JavaScript; what goes wrong in the function
// is a 502, and what takes too long a 503, without a reason.
func (f *Function) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requestID := uuid.NewString()
		w.Header().Set("Apigw-Requestid", requestID)
		if headerSize(r) > maxHeaders {
			gatewayError(w, http.StatusRequestHeaderFieldsTooLarge, "Request Header Fields Too Large")
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		var tooLarge *http.MaxBytesError
		switch {
		case errors.As(err, &tooLarge):
			gatewayError(w, http.StatusRequestEntityTooLarge, "Request Entity Too Large")
			return
		case err != nil:
			gatewayError(w, http.StatusBadRequest, "Bad Request")
			return
		}
		payload, err := json.Marshal(toEvent(r, body, requestID))
		if err != nil {
			gatewayError(w, http.StatusInternalServerError, "Internal Server Error")
			return
		}
		if len(payload) > MaxPayload {
			gatewayError(w, http.StatusRequestEntityTooLarge, "Request Entity Too Large")
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), integration)
		defer cancel()
		f.answer(w, ctx, payload)
	})
}

func (f *Function) answer(w http.ResponseWriter, ctx context.Context, payload []byte) {
	answer, err := f.Invoke(ctx, payload)
	var functionError *Error
	switch {
	case errors.As(err, &functionError):
		f.report("gateway", err)
		gatewayError(w, http.StatusBadGateway, "Internal Server Error")
		return
	case err != nil:
		f.report("gateway", err)
		gatewayError(w, http.StatusServiceUnavailable, "Service Unavailable")
		return
	}
	response, body, err := fromAnswer(answer)
	if err != nil {
		f.report("gateway", err)
		gatewayError(w, http.StatusBadGateway, "Internal Server Error")
		return
	}
	header := w.Header()
	for name, value := range response.Headers {
		header.Set(name, value)
	}
	for _, cookie := range response.Cookies {
		header.Add("Set-Cookie", cookie)
	}
	for _, name := range []string{"Connection", "Content-Length", "Transfer-Encoding"} {
		header.Del(name)
	}
	if len(body) > 0 && header.Get("Content-Type") == "" {
		header.Set("Content-Type", "text/plain;charset=UTF-8")
	}
	w.WriteHeader(response.StatusCode)
	// A client that went away is nobody's fault, and there is nobody to tell.
	_, _ = w.Write(body)
}

// report puts a failure among the function's logs, where Lambda's would be.
func (f *Function) report(what string, err error) {
	line, marshalErr := json.Marshal(map[string]string{
		"time": time.Now().UTC().Format(time.RFC3339Nano), "level": "ERROR",
		"msg": what, "function": f.config.Name, "error": err.Error(),
	})
	if marshalErr == nil { // strings always marshal
		f.logs.line(append(line, '\n'))
	}
}

func gatewayError(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"message":%q}`, message)
}

func headerSize(r *http.Request) int {
	size := len(r.Method) + len(r.RequestURI) + len(r.Proto) + len(r.Host)
	for name, values := range r.Header {
		for _, value := range values {
			size += len(name) + len(value)
		}
	}
	return size
}

func toEvent(r *http.Request, body []byte, requestID string) events.APIGatewayV2HTTPRequest {
	source, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		source = r.RemoteAddr
	}
	domain := (&url.URL{Host: r.Host}).Hostname()
	prefix, _, _ := strings.Cut(domain, ".")
	now := time.Now().UTC()
	event := events.APIGatewayV2HTTPRequest{
		Version:        "2.0",
		RouteKey:       "$default",
		RawPath:        r.URL.Path,
		RawQueryString: r.URL.RawQuery,
		Headers:        toHeaders(r, source),
		RequestContext: events.APIGatewayV2HTTPRequestContext{
			RouteKey:     "$default",
			AccountID:    "123456789012",
			Stage:        "$default",
			RequestID:    requestID,
			APIID:        "local",
			DomainName:   domain,
			DomainPrefix: prefix,
			Time:         now.Format("02/Jan/2006:15:04:05 -0700"),
			TimeEpoch:    now.UnixMilli(),
			HTTP: events.APIGatewayV2HTTPRequestContextHTTPDescription{
				Method:    r.Method,
				Path:      r.URL.Path,
				Protocol:  r.Proto,
				SourceIP:  source,
				UserAgent: r.UserAgent(),
			},
		},
	}
	for name, values := range r.URL.Query() {
		if event.QueryStringParameters == nil {
			event.QueryStringParameters = make(map[string]string)
		}
		event.QueryStringParameters[name] = strings.Join(values, ",")
	}
	for _, line := range r.Header.Values("Cookie") {
		for cookie := range strings.SplitSeq(line, ";") {
			if cookie = strings.TrimSpace(cookie); cookie != "" {
				event.Cookies = append(event.Cookies, cookie)
			}
		}
	}
	switch {
	case len(body) == 0:
	case isText(r.Header.Get("Content-Type")) && utf8.Valid(body):
		event.Body = string(body)
	default:
		event.Body, event.IsBase64Encoded = base64.StdEncoding.EncodeToString(body), true
	}
	return event
}

func toHeaders(r *http.Request, source string) map[string]string {
	headers := make(map[string]string, len(r.Header)+6)
	for name, values := range r.Header {
		switch name {
		case "Cookie", "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		default:
			headers[strings.ToLower(name)] = strings.Join(values, ",")
		}
	}
	headers["host"] = r.Host
	if r.ContentLength >= 0 {
		headers["content-length"] = fmt.Sprint(r.ContentLength)
	}
	forwarded := r.Header.Values("X-Forwarded-For")
	headers["x-forwarded-for"] = strings.Join(append(forwarded[:len(forwarded):len(forwarded)], source), ", ")
	headers["x-forwarded-port"] = "443"
	headers["x-forwarded-proto"] = "https"
	headers["x-amzn-trace-id"] = strings.TrimSuffix(newTraceID(), ";Sampled=0")
	return headers
}

// isText tells which bodies the gateway hands over as they are.
func isText(contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	switch kind {
	case "application/json", "application/xml", "application/javascript":
		return true
	}
	return strings.HasPrefix(kind, "text/")
}

// fromAnswer reads a function's answer. JSON without a status code is itself
// the body of a 200.
func fromAnswer(answer []byte) (events.APIGatewayV2HTTPResponse, []byte, error) {
	fail := func(format string, args ...any) (events.APIGatewayV2HTTPResponse, []byte, error) {
		return events.APIGatewayV2HTTPResponse{}, nil, fmt.Errorf("the function's answer: "+format, args...)
	}
	if !json.Valid(answer) {
		return fail("it is not JSON")
	}
	var status struct {
		Code *json.RawMessage `json:"statusCode"`
	}
	if err := json.Unmarshal(answer, &status); err != nil || status.Code == nil {
		return events.APIGatewayV2HTTPResponse{
			StatusCode: http.StatusOK,
			Headers:    map[string]string{"Content-Type": "application/json"},
		}, answer, nil
	}
	var response events.APIGatewayV2HTTPResponse
	if err := json.Unmarshal(answer, &response); err != nil {
		// The error's text can quote the answer, which may be secret.
		return fail("it does not have the form of payload format 2.0")
	}
	if response.StatusCode < 200 || response.StatusCode > 599 {
		return fail("%d is no status code", response.StatusCode)
	}
	body := []byte(response.Body)
	if response.IsBase64Encoded {
		var err error
		if body, err = base64.StdEncoding.DecodeString(response.Body); err != nil {
			return fail("its body is not base64")
		}
	}
	return response, body, nil
}
