package events

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gateway "github.com/aws/aws-lambda-go/events"

	"github.com/latchkey-fn/latchkey/providers/hosts/awslambda"
)

// requests lists the events of the gateway.
func requests(t *testing.T) []string {
	t.Helper()
	names, err := Names()
	if err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, "billingsync-") })
	if len(names) == 0 {
		t.Fatal("there are none")
	}
	return names
}

// body is what was sent: the gateway encodes all but text and JSON.
func body(t *testing.T, event gateway.APIGatewayV2HTTPRequest) []byte {
	t.Helper()
	if !event.IsBase64Encoded {
		return []byte(event.Body)
	}
	content, err := base64.StdEncoding.DecodeString(event.Body)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func load(t *testing.T, name string) gateway.APIGatewayV2HTTPRequest {
	t.Helper()
	content, err := Load(name, "the.token")
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	var event gateway.APIGatewayV2HTTPRequest
	if err := decoder.Decode(&event); err != nil {
		t.Fatal(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		t.Errorf("there is more in the file: %v", err)
	}
	return event
}

func TestEveryEventIsOneThatTheGatewaySends(t *testing.T) {
	requestIDs := map[string]string{}
	for _, name := range requests(t) {
		t.Run(name, func(t *testing.T) {
			event := load(t, name)
			context := event.RequestContext
			if event.RawPath != context.HTTP.Path || event.RouteKey != context.RouteKey {
				t.Errorf("path %q and %q, route %q and %q", event.RawPath, context.HTTP.Path, event.RouteKey, context.RouteKey)
			}
			method, route, _ := strings.Cut(event.RouteKey, " ")
			for parameter, value := range event.PathParameters {
				route = strings.NewReplacer("{"+parameter+"}", value, "{"+parameter+"+}", value).Replace(route)
			}
			if method != context.HTTP.Method || route != event.RawPath {
				t.Errorf("the route %q is not that of %s %s", event.RouteKey, context.HTTP.Method, event.RawPath)
			}
			for header := range event.Headers {
				if header != strings.ToLower(header) {
					t.Errorf("the gateway writes %s in lower case", header)
				}
			}
			if length, sent := event.Headers["content-length"], body(t, event); length != strconv.Itoa(len(sent)) {
				t.Errorf("content length %s, body of %d bytes", length, len(sent))
			}
			if event.Headers["host"] != context.DomainName || event.Headers["x-forwarded-for"] != context.HTTP.SourceIP || event.Headers["user-agent"] != context.HTTP.UserAgent {
				t.Errorf("the context contradicts the headers: %+v %v", context, event.Headers)
			}
			at, err := time.Parse("02/Jan/2006:15:04:05 -0700", context.Time)
			if err != nil || at.Unix() != context.TimeEpoch/1000 {
				t.Errorf("time %q is not %d: %v", context.Time, context.TimeEpoch, err)
			}
			if other, taken := requestIDs[context.RequestID]; taken {
				t.Errorf("the request id is that of %s", other)
			}
			requestIDs[context.RequestID] = name
		})
	}
}

func TestEveryEventReachesAHandler(t *testing.T) {
	for _, name := range requests(t) {
		t.Run(name, func(t *testing.T) {
			event := load(t, name)
			var got *http.Request
			response, err := awslambda.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got = r
				w.WriteHeader(http.StatusTeapot)
			}))(t.Context(), event)
			if err != nil || response.StatusCode != http.StatusTeapot {
				t.Fatalf("%d, %v", response.StatusCode, err)
			}
			if got.Method+" "+got.URL.Path != event.RequestContext.HTTP.Method+" "+event.RawPath {
				t.Errorf("it arrived as %s %s", got.Method, got.URL)
			}
		})
	}
}

func TestTokensArePlaceholders(t *testing.T) {
	for _, name := range requests(t) {
		content, err := fs.ReadFile(files, name+".json")
		if err != nil {
			t.Fatal(err)
		}
		wanted := slices.Contains([]string{"keyconnector-get", "keyconnector-post", "keyconnector-put", "keyconnector-prefix"}, name) ||
			!strings.HasPrefix(name, "keyconnector-") && !strings.HasPrefix(name, "tokenexchange-") && !strings.HasSuffix(name, "-preflight")
		event := load(t, name)
		switch authorization, given := event.Headers["authorization"]; {
		case given != wanted:
			t.Errorf("%s: has a token: %v", name, given)
		case given && (authorization != "Bearer the.token" || !bytes.Contains(content, []byte(`"Bearer TOKEN"`))):
			t.Errorf("%s: %s", name, authorization)
		}
	}
}

func TestAnEventThatIsNotThere(t *testing.T) {
	if _, err := Load("none", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
