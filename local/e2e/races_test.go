//go:build unix

package e2e

import (
	"errors"
	"net/http"
	"testing"
)

// The races are tried again, everything else must fail: so the line between
// them has a test of its own, which needs no client.
func TestRacesOfBWAreToldFromFailures(t *testing.T) {
	failed := errors.New("exit status 1")
	get := exchange{method: http.MethodGet, status: http.StatusOK}
	absent := exchange{method: http.MethodGet, status: http.StatusNotFound}
	post := exchange{method: http.MethodPost, status: http.StatusOK}
	down := exchange{method: http.MethodGet, status: http.StatusServiceUnavailable}
	const (
		noToken = "Error: Failed to decode access token: Access token not found"
		noState = "Account cryptographic state is required is null or undefined"
		bare    = "You are logged in!\n\nTo unlock your vault, use the `unlock` command."
		session = "You are logged in!\n$ export BW_SESSION=\"c2Vzc2lvbg==\""
	)
	for _, test := range []struct {
		name  string
		o     outcome
		asked []exchange
		race  bool
	}{
		{"the access token was not there before Key Connector was asked", outcome{stderr: noToken, err: failed}, nil, true},
		{"the access token was lost after Key Connector was asked", outcome{stderr: noToken, err: failed}, []exchange{get}, false},
		{"the account state was missing after the key was stored", outcome{stdout: noState, err: failed}, []exchange{post}, true},
		{"the account state was missing after the SDK stored the key", outcome{stdout: noState, err: failed}, []exchange{absent, post}, true},
		{"the account state was missing and nothing was stored", outcome{stdout: noState, err: failed}, []exchange{get}, false},
		{"a login printed no session key", outcome{stdout: bare}, []exchange{get}, true},
		{"a login printed no session key, and Key Connector failed", outcome{stdout: bare}, []exchange{down}, false},
		{"a login printed a session key", outcome{stdout: session}, []exchange{get}, false},
		{"bw failed and named no cause", outcome{err: failed}, nil, false},
		{"Key Connector had no key", outcome{stderr: "Error: Key Connector error", err: failed}, []exchange{absent}, false},
		{"Key Connector failed", outcome{stderr: "Error: Key Connector error", err: failed}, []exchange{down}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if race := raceOf(test.o, test.asked); (race != "") != test.race {
				t.Errorf("race %q, want one: %t", race, test.race)
			}
		})
	}
}
