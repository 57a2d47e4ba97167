package sponsor_test

import (
	"strings"
	"testing"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
)

func TestWhatAnAnswerRepeatsOfTheRequestIsNotKept(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		code   string
	}{
		"a fault that quotes a name":        {500, `{"message":"String or binary data would be truncated: 'Family 1'"}`, "cloud_error"},
		"a refusal that quotes a name":      {400, `{"message":"Family 1 is no name","validationErrors":{"Family 1":["Family 1"]}}`, "request_invalid"},
		"a firewall that quotes a name":     {403, `{"message":"blocked: Family 1"}`, "forbidden_scope"},
		"too many requests, with a name":    {429, `{"message":"Slow down, Family 1"}`, "rate_limited"},
		"a token that is refused, likewise": {401, `{"message":"Family 1"}`, "token_rejected"},
	} {
		t.Run(name, func(t *testing.T) {
			w := offering(t, 1)
			w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: c.status, Body: c.body})
			run := w.mustFail(c.code)
			if run.Message == "" || strings.Contains(run.Message, "Family 1") {
				t.Errorf("%q", run.Message)
			}
			for where, text := range map[string]string{"the log": w.Logs.String(), "the store": w.dump()} {
				if strings.Contains(text, "Family 1") {
					t.Errorf("%s has the name", where)
				}
			}
		})
	}
}

func TestWhatTheCloudIsKnownToSayIsShown(t *testing.T) {
	w := offering(t, 1)
	w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 500})
	if run := w.mustFail("cloud_error"); !strings.HasPrefix(run.Message, "An unhandled server error has occurred.") {
		t.Errorf("%q", run.Message)
	}
}
