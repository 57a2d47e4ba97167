// Package tokenexchange is the function that machines log in with: they exchange
// the id and the client secret of their access token for a session of an hour and
// the payload that only they can open (OAuth 2.0, client credentials, as
// Bitwarden's clients of Secrets Manager know it). It publishes the keys that
// sessions are signed with.
//
// Clients print what is answered here, and never ask again of themselves. Who has
// not proved to hold the client secret learns nothing but invalid_client; who has
// is told what is wrong.
package tokenexchange

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/latchkey-fn/latchkey/shared/audit"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/httpx"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/limit"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/signing"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// maxBody bounds a request's body: a form of a client needs some 150 bytes.
const maxBody = 8 << 10

// prefix is the path below which clients expect the identity server. Requests
// without it are served as well, for one on a host of its own.
const prefix = "/identity"

// The limits. Wrong secrets are told from right ones so many times by client id
// and by address; nobody's right secret is kept out by that. A client asks again
// before each call when its session is near its end, which is what right ones are
// limited generously for.
var (
	wrongByClient  = limit.Rule{Name: "exchange-client", Most: 20, Window: 10 * time.Minute, Step: 1}
	wrongByAddress = limit.Rule{Name: "exchange-address", Most: 50, Window: 10 * time.Minute, Step: 1}
	rightByToken   = limit.Rule{Name: "exchange-token", Most: 600, Window: 10 * time.Minute, Step: 25}
)

// Parts are the outside systems, which a main chooses.
type Parts struct {
	Store    store.Driver
	Key      kms.Unwrapper
	Previous []kms.Unwrapper
	Logger   *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Function is the exchange: an http.Handler, and what operators look at.
type Function struct {
	http.Handler
	// Routes are what it serves, for whatever is in front of several functions.
	Routes   []string
	Machines *machine.Machines
}

// New puts the function together. Nothing is contacted before the first
// request.
func New(c Config, p Parts) (*Function, error) {
	if p.Now == nil {
		p.Now = time.Now
	}
	documents := store.New(p.Store)
	ring := func(name string) *keyring.Ring {
		return keyring.New(keyring.Config{
			Name: name, Store: documents, Key: p.Key, Previous: p.Previous, MaxAge: c.DataKeyMaxAge,
		})
	}
	h := &handler{
		machines: machine.New(machine.Config{Store: documents, Ring: ring(machine.Ring), Logger: p.Logger, Now: p.Now}),
		signing: signing.New(signing.Config{
			Store: documents, Ring: ring(signing.Ring), Algorithm: c.Sessions.Algorithm, RotateEvery: c.Sessions.SigningKeyAge,
			Logger: p.Logger, Now: p.Now,
		}),
		limiter:  limit.New(documents, p.Logger, p.Now),
		sessions: c.Sessions,
		audit:    audit.New(p.Logger),
		now:      p.Now,
	}
	return &Function{
		Handler: httpx.Wrap(h.routes(), httpx.Options{
			Function: "tokenexchange", Logger: p.Logger, Timeout: c.RequestTimeout, MaxBody: maxBody,
		}),
		Routes:   []string{"POST " + prefix + tokenPath, "GET " + prefix + discoveryPath, "GET " + prefix + keySetPath},
		Machines: h.machines,
	}, nil
}

type handler struct {
	machines *machine.Machines
	signing  *signing.Keys
	limiter  *limit.Limiter
	sessions config.Sessions
	audit    audit.Log
	now      func() time.Time
}

// routes serves everything below the path of the public address and below
// prefix, and without either.
func (h *handler) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+tokenPath, h.token)
	mux.HandleFunc("GET "+discoveryPath, h.discovery)
	mux.HandleFunc("GET "+keySetPath, h.keySet)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		httpx.WriteBitwardenError(w, http.StatusNotFound, "Resource not found.")
	})
	for _, path := range []string{tokenPath, discoveryPath, keySetPath} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			allowed := http.MethodGet
			if path == tokenPath {
				allowed = http.MethodPost
			}
			w.Header().Set("Allow", allowed)
			httpx.WriteBitwardenError(w, http.StatusMethodNotAllowed, "The method is not allowed here.")
		})
	}
	return httpx.Below(h.sessions.Path(), httpx.Below(prefix, mux))
}
