// Package keyconnector is the function that gives each member the key of their
// vault: Bitwarden's Key Connector, as its clients know it.
//
// Clients want exactly 200 where they want success, log their user out at 401
// and 403, and never repeat a call. So POST only creates, 401 and 403 are for
// the caller's own faults alone, and whatever is ours is 503.
package keyconnector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/latchkey-fn/latchkey/shared/audit"
	"github.com/latchkey-fn/latchkey/shared/auth"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/httpx"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/userkey"
)

// maxBody bounds a request's body: a key of 32 bytes needs some 60.
const maxBody = 4 << 10

// Failed authentications that an address is told the reason of.
const (
	failuresPerMinute = 20
	failuresAtOnce    = 40
)

// Parts are the outside systems, which a main chooses.
type Parts struct {
	Store    store.Driver
	Key      kms.Unwrapper
	Previous []kms.Unwrapper
	Logger   *slog.Logger
}

// Function is Key Connector: an http.Handler, and what operators look at.
type Function struct {
	http.Handler
	Users    *userkey.Keys
	Ring     *keyring.Ring
	Verifier *auth.Verifier
}

// New puts the function together. Nothing is contacted before the first
// request.
func New(c Config, p Parts) (*Function, error) {
	verifier, err := auth.New(auth.Config{
		IdentityURL: c.Identity.URL,
		Issuer:      c.Identity.Issuer,
		KeysFile:    c.Identity.KeysFile,
		CAFile:      c.Identity.CAFile,
		Log:         p.Logger,
	})
	if err != nil {
		return nil, err
	}
	documents := store.New(p.Store)
	ring := keyring.New(keyring.Config{
		Name: userkey.Ring, Store: documents, Key: p.Key, Previous: p.Previous, MaxAge: c.DataKeyMaxAge,
	})
	h := &handler{
		users:     userkey.New(documents, ring, p.Logger),
		verifier:  verifier,
		limiter:   auth.NewLimiter(failuresPerMinute, failuresAtOnce, nil),
		audit:     audit.New(p.Logger),
		allowLong: c.AllowLongKeys,
		policy: auth.Policy{
			Scopes:        []string{"api"},
			Methods:       []string{"Application", "external"},
			Organizations: c.AllowedOrganizations,
		},
		ready: readiness{
			{"store", func(ctx context.Context) error { _, err := ring.Current(ctx); return err }},
			{"keys", ring.Check},
			{"identity", verifier.Ready},
		},
	}
	origins := append([]string{httpx.DesktopOrigin}, c.WebVaultOrigins...)
	routes := httpx.CORS(origins, h.routes(c.PathPrefix))
	return &Function{
		Handler: httpx.Wrap(routes, httpx.Options{
			Function: "keyconnector", Logger: p.Logger, Timeout: c.RequestTimeout, MaxBody: maxBody,
		}),
		Users: h.users, Ring: ring, Verifier: verifier,
	}, nil
}

type handler struct {
	users     *userkey.Keys
	verifier  *auth.Verifier
	limiter   *auth.Limiter
	policy    auth.Policy
	audit     audit.Log
	allowLong bool
	ready     readiness
}

// routes serves everything under the prefix and without it.
func (h *handler) routes(prefix string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/user-keys", byMethod{
		http.MethodGet:  h.user("user-key.read", h.get),
		http.MethodPost: h.user("user-key.create", h.post),
		http.MethodPut:  h.user("user-key.replace", h.put),
	})
	mux.Handle("/alive", byMethod{http.MethodGet: httpx.Alive})
	mux.Handle("/now", byMethod{http.MethodGet: httpx.Alive})
	mux.Handle("/version", byMethod{http.MethodGet: httpx.Version})
	mux.Handle("/health", byMethod{http.MethodGet: httpx.Health(h.ready.look)})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		httpx.WriteBitwardenError(w, http.StatusNotFound, "Resource not found.")
	})
	return httpx.Below(prefix, mux)
}

// byMethod answers 405 in the form of the other errors.
type byMethod map[string]http.HandlerFunc

func (m byMethod) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if serve, ok := m[method]; ok {
		serve(w, r)
		return
	}
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut} {
		if _, ok := m[method]; ok {
			w.Header().Add("Allow", method)
		}
	}
	httpx.WriteBitwardenError(w, http.StatusMethodNotAllowed, "The method is not allowed here.")
}

// operation works on the key of one user. A nil answer is an empty body.
type operation func(ctx context.Context, user string, body io.Reader) (answer any, err error)

// user authenticates, runs an operation on the caller's own key, and leaves
// one audit event, whatever came of it.
func (h *handler) user(action string, run operation) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		event := audit.Event{
			Action: action, Outcome: audit.Failed, Reason: "the request broke off",
			RequestID: httpx.RequestID(ctx), Address: httpx.ClientAddress(r),
		}
		defer func() { h.audit.Record(ctx, event) }()

		var answer any
		token, err := h.verifier.Authenticate(r, h.policy)
		if err == nil {
			event.Actor, event.Subject = token.Subject, token.Subject
			httpx.Note(ctx, slog.String("subject", token.Subject), slog.String("client", token.ClientID))
			answer, err = run(ctx, token.Subject, r.Body)
		}
		switch {
		case err != nil:
			status, message := h.problem(err, event.Address)
			event.Reason = err.Error()
			if status < http.StatusInternalServerError {
				event.Outcome = audit.Refused
			}
			httpx.Note(ctx, slog.String("error", err.Error()))
			if status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", "Bearer")
			}
			httpx.WriteBitwardenError(w, status, message)
			return
		case answer == nil:
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusOK)
		default:
			httpx.WriteJSON(w, http.StatusOK, answer)
		}
		event.Outcome, event.Reason = audit.Allowed, ""
	}
}

// keyDocument is the body in both directions. Requests may spell the member in
// any case (Android sends "Key"), which encoding/json allows.
type keyDocument struct {
	Key *string `json:"key"`
}

func (h *handler) get(ctx context.Context, user string, _ io.Reader) (any, error) {
	key, err := h.users.Get(ctx, user)
	if err != nil {
		return nil, err
	}
	text := key.Reveal()
	return keyDocument{Key: &text}, nil
}

func (h *handler) post(ctx context.Context, user string, body io.Reader) (any, error) {
	key, err := h.readKey(body)
	if err != nil {
		return nil, err
	}
	return nil, h.users.Create(ctx, user, key)
}

func (h *handler) put(ctx context.Context, user string, body io.Reader) (any, error) {
	key, err := h.readKey(body)
	if err != nil {
		return nil, err
	}
	return nil, h.users.Put(ctx, user, key)
}

// badRequest is a fault of the caller that can be told to him as it is.
type badRequest struct {
	status  int
	message string
}

func (b badRequest) Error() string { return b.message }

func (h *handler) readKey(body io.Reader) (userkey.Key, error) {
	content, err := io.ReadAll(body)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return userkey.Key{}, badRequest{http.StatusRequestEntityTooLarge, fmt.Sprintf("The request body is larger than %d bytes.", maxBody)}
	}
	if err != nil {
		return userkey.Key{}, badRequest{http.StatusBadRequest, "The request body could not be read."}
	}
	var document keyDocument
	if err := json.Unmarshal(content, &document); err != nil {
		// The text of the error could quote the key.
		return userkey.Key{}, badRequest{http.StatusBadRequest, `The request body must be a JSON object {"key":"..."}.`}
	}
	if document.Key == nil {
		return userkey.Key{}, badRequest{http.StatusBadRequest, "The request body has no key."}
	}
	key, err := userkey.ParseKey(*document.Key, h.allowLong)
	if err != nil {
		return userkey.Key{}, badRequest{http.StatusBadRequest, fmt.Sprintf("The key must be %d bytes in standard base64.", userkey.Size)}
	}
	return key, nil
}

// problem is the one place where a class of failure becomes a status, and what
// a client may read. Everything else about it is in the log under the request
// id.
func (h *handler) problem(err error, address string) (status int, message string) {
	if bad := (badRequest{}); errors.As(err, &bad) {
		return bad.status, bad.message
	}
	switch fault.Of(err) {
	case fault.Unauthenticated:
		if !auth.Genuine(err) && !h.limiter.Allow(address) {
			return http.StatusTooManyRequests, "Too many failed requests. Try again later."
		}
		return http.StatusUnauthorized, auth.Message(err)
	case fault.Forbidden:
		return http.StatusForbidden, auth.Message(err)
	case fault.NotFound:
		return http.StatusNotFound, "There is no key for this user."
	case fault.Conflict:
		return http.StatusBadRequest, "There is a key for this user already."
	case fault.Lost:
		return http.StatusInternalServerError, "The stored key cannot be opened. Please tell your administrator."
	case fault.Transient, fault.Denied, fault.Invalid, fault.Unsupported:
		return http.StatusServiceUnavailable, "The key service is not available at the moment. Please try again."
	default:
		return http.StatusInternalServerError, "An unexpected error has occurred."
	}
}
