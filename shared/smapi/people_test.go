package smapi_test

import (
	"net/http"
	"testing"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

// Without machines neither their settings nor their keys are needed, and a
// session is one more token of a stranger.
func TestPeopleAlone(t *testing.T) {
	e := newEdge(t)
	e.config.Machines, e.config.Keys, e.config.Sessions = nil, nil, config.Sessions{}
	api := e.api()
	api.Handle("GET /organizations/{org}/who", "who.read", func(r smapi.Request) (any, error) {
		access, err := r.Access("org")
		if err != nil {
			return nil, err
		}
		r.Answer.Set("X-Seen", "yes")
		return smapi.Accepted{Body: access.Email()}, nil
	})
	asks := e.serve(api)
	got := asks.as(e.person(devidentity.Claims{Owner: []string{organization}})).get(path)
	if got.StatusCode != http.StatusAccepted || got.body != `"`+alice+`@example.test"` || got.Header.Get("X-Seen") != "yes" {
		t.Errorf("%d %s %v", got.StatusCode, got.body, got.Header)
	}
	asks.get(path).fails(t, http.StatusUnauthorized)
	// Who has no address of mail is somebody all the same.
	unknown := e.person(devidentity.Claims{Owner: []string{organization}, Set: map[string]any{"email": nil}})
	if got := asks.as(unknown).get(path); got.StatusCode != http.StatusAccepted || got.body != `""` {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
}

func TestSomebodyHasToBeServed(t *testing.T) {
	if _, err := smapi.NewAuthenticator(smapi.CallersConfig{}); fault.Of(err) != fault.Invalid {
		t.Error(err)
	}
}
