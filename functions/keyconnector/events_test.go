package keyconnector_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	lambdaevents "github.com/aws/aws-lambda-go/events"
	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/events"
	"github.com/latchkey-fn/latchkey/providers/hosts/awslambda"
)

// Each event is what `sam local invoke` is given; here it goes through the same
// handler, in an order in which the key is there when it is read.
func TestTheEventsAreAnsweredAsClientsWant(t *testing.T) {
	h := open(t, nil)
	token := h.Token(t, uuid.NewString())
	replayed := map[string]bool{}
	for _, c := range []struct {
		event  string
		status int
	}{
		{"keyconnector-alive", http.StatusOK},
		{"keyconnector-now", http.StatusOK},
		{"keyconnector-version", http.StatusOK},
		{"keyconnector-health", http.StatusOK},
		{"keyconnector-preflight", http.StatusNoContent},
		{"keyconnector-preflight-alive", http.StatusNoContent},
		{"keyconnector-preflight-desktop", http.StatusNoContent},
		{"keyconnector-no-token", http.StatusUnauthorized},
		{"keyconnector-get", http.StatusNotFound},
		{"keyconnector-post", http.StatusOK},
		{"keyconnector-post", http.StatusBadRequest},
		{"keyconnector-get", http.StatusOK},
		{"keyconnector-put", http.StatusOK},
		{"keyconnector-prefix", http.StatusOK},
	} {
		replayed[c.event] = true
		content, err := events.Load(c.event, token)
		if err != nil {
			t.Fatal(err)
		}
		var event lambdaevents.APIGatewayV2HTTPRequest
		decoder := json.NewDecoder(bytes.NewReader(content))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&event); err != nil {
			t.Fatalf("%s: %v", c.event, err)
		}
		answer, err := awslambda.Handler(h.function)(t.Context(), event)
		if err != nil {
			t.Fatalf("%s: %v", c.event, err)
		}
		if answer.StatusCode != c.status {
			t.Errorf("%s: %d %s, want %d", c.event, answer.StatusCode, answer.Body, c.status)
		}
		if event.Headers["origin"] != "" && answer.Headers["Access-Control-Allow-Origin"] != event.Headers["origin"] {
			t.Errorf("%s: the origin %s is not allowed: %v", c.event, event.Headers["origin"], answer.Headers)
		}
	}
	names, err := events.Names()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "keyconnector-") && !replayed[name] {
			t.Errorf("%s is replayed by no test", name)
		}
	}
}
