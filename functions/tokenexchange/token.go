package tokenexchange

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/audit"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/httpx"
	"github.com/latchkey-fn/latchkey/shared/limit"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/signing"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

const (
	tokenPath = "/connect/token"
	// apiKey may stand before the client id.
	apiKey = "apikey."
	// action is the exchange in the audit log.
	action = "access-token.exchange"
)

// Errors of RFC 6749, section 5.2.
const (
	invalidRequest       = "invalid_request"
	invalidClient        = "invalid_client"
	invalidScope         = "invalid_scope"
	unsupportedGrantType = "unsupported_grant_type"
)

// tokenAnswer is the success. Clients want all of it.
type tokenAnswer struct {
	AccessToken      string `json:"access_token"`
	ExpiresIn        int64  `json:"expires_in"`
	TokenType        string `json:"token_type"`
	Scope            string `json:"scope"`
	EncryptedPayload string `json:"encrypted_payload"`
}

// tokenError is a refusal. Clients show the message of the ErrorModel, and
// without one the body as it is.
type tokenError struct {
	Error       string      `json:"error"`
	Description string      `json:"error_description,omitempty"`
	ErrorModel  *errorModel `json:"ErrorModel,omitempty"`
}

type errorModel struct {
	Message string `json:"Message"`
	Object  string `json:"Object"`
}

// claims are a session's. The scope is an array: clients parse it.
type claims struct {
	Issuer       string   `json:"iss"`
	NotBefore    int64    `json:"nbf"`
	IssuedAt     int64    `json:"iat"`
	Expires      int64    `json:"exp"`
	ClientID     string   `json:"client_id"`
	Subject      string   `json:"sub"`
	Type         string   `json:"type"`
	Organization string   `json:"organization"`
	Scope        []string `json:"scope"`
	ID           string   `json:"jti"`
	Generation   string   `json:"secret_generation,omitempty"`
}

// badRequest is a form that is not a client's; its text is the OAuth error.
type badRequest string

func (b badRequest) Error() string { return string(b) }

// tooMany is a limit that was exceeded.
type tooMany struct{ wait time.Duration }

func (tooMany) Error() string { return "too many requests" }

// credentials are what a client shows. The id is empty where it is no UUID.
type credentials struct{ id, secret string }

// token answers an exchange, and leaves one audit event, whatever came of it.
func (h *handler) token(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	event := audit.Event{
		Action: action, Outcome: audit.Failed, Reason: "the request broke off",
		RequestID: httpx.RequestID(ctx), Address: httpx.ClientAddress(r),
	}
	defer func() { h.audit.Record(ctx, event) }()

	asked, err := readForm(r)
	var answer tokenAnswer
	if err == nil {
		event.Subject = asked.id
		httpx.Note(ctx, slog.String("token", asked.id))
		var granted machine.Granted
		if granted, err = h.exchange(ctx, asked, event.Address); err == nil {
			event.Actor, event.Token = granted.Actor(), granted.Token
			answer, err = h.session(ctx, granted)
		}
	}
	if err != nil {
		event.Reason = err.Error()
		httpx.Note(ctx, slog.String("error", err.Error()))
		if writeError(w, err) < http.StatusInternalServerError {
			event.Outcome = audit.Refused
		}
		return
	}
	httpx.WriteJSON(w, http.StatusOK, answer)
	event.Outcome, event.Reason = audit.Allowed, ""
	h.machines.Used(ctx, asked.id, event.Address)
}

// exchange checks the credentials first and the limits afterwards, so that a
// right secret is never kept out by the wrong ones of others.
func (h *handler) exchange(ctx context.Context, asked credentials, address string) (machine.Granted, error) {
	granted, err := h.machines.Exchange(ctx, asked.id, asked.secret)
	var counted []limit.Subject
	switch _, proved := machine.AsProblem(err); {
	case err == nil, proved:
		counted = append(counted, rightByToken.Of(asked.id))
	case errors.Is(err, machine.ErrClient):
		counted = append(counted, wrongByAddress.Of(httpx.Network(address).String()))
		if asked.id != "" {
			counted = append(counted, wrongByClient.Of(asked.id))
		}
	default:
		return machine.Granted{}, err
	}
	if wait := h.limiter.Count(ctx, counted...); wait > 0 {
		return machine.Granted{}, tooMany{wait}
	}
	return granted, err
}

// session makes the answer. The session ends no later than the client secret
// does, but lasts a second at the least: clients want some number, and whether
// the token is good is seen at each request.
func (h *handler) session(ctx context.Context, g machine.Granted) (tokenAnswer, error) {
	now := h.now()
	ends := now.Add(signing.MaxSession)
	if !g.Ends.IsZero() && g.Ends.Before(ends) {
		ends = g.Ends
	}
	begin := now.Unix()
	lasts := max(1, ends.Unix()-begin)
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	signed, err := h.signing.Sign(ctx, claims{
		Issuer: h.sessions.Issuer(), NotBefore: begin, IssuedAt: begin, Expires: begin + lasts,
		ClientID: g.Token, Subject: g.Account, Type: smapi.SessionType, Organization: g.Organization,
		Scope: []string{smapi.SessionScope}, ID: strings.ToUpper(hex.EncodeToString(id[:])),
		Generation: smapi.Generation(g),
	})
	if err != nil {
		return tokenAnswer{}, err
	}
	return tokenAnswer{
		AccessToken: signed, ExpiresIn: lasts, TokenType: "Bearer", Scope: smapi.SessionScope, EncryptedPayload: g.Payload,
	}, nil
}

// readForm reads the request of RFC 6749, section 4.4. Nothing of it is repeated
// in an error.
func readForm(r *http.Request) (credentials, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return credentials{}, badRequest(invalidRequest)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return credentials{}, badRequest(invalidRequest) // too large, or broken off
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return credentials{}, badRequest(invalidRequest)
	}
	for _, values := range form {
		if len(values) > 1 {
			return credentials{}, badRequest(invalidRequest)
		}
	}
	switch {
	case form.Get("grant_type") != "client_credentials":
		return credentials{}, badRequest(unsupportedGrantType)
	case !slices.Contains(strings.Fields(form.Get("scope")), smapi.SessionScope):
		return credentials{}, badRequest(invalidScope)
	}
	id, secret, err := clientOf(r, form)
	if err != nil {
		return credentials{}, err
	}
	parsed, err := uuid.Parse(strings.TrimPrefix(id, apiKey))
	if err != nil {
		return credentials{secret: secret}, nil
	}
	return credentials{parsed.String(), secret}, nil
}

// clientOf gives the client's id and secret, of the form or the header
// (RFC 6749, section 2.3.1), but not of both.
func clientOf(r *http.Request, form url.Values) (id, secret string, err error) {
	if r.Header.Get("Authorization") == "" {
		return form.Get("client_id"), form.Get("client_secret"), nil
	}
	id, secret, ok := r.BasicAuth()
	if !ok || form.Has("client_secret") {
		return "", "", badRequest(invalidRequest)
	}
	id, idErr := url.QueryUnescape(id)
	secret, secretErr := url.QueryUnescape(secret)
	if idErr != nil || secretErr != nil || form.Has("client_id") && form.Get("client_id") != id {
		return "", "", badRequest(invalidRequest)
	}
	return id, secret, nil
}

// writeError is the one place where a failure becomes a status and a body.
// Everything else about it is in the log under the request id.
func writeError(w http.ResponseWriter, err error) (status int) {
	status = http.StatusBadRequest
	if bad := badRequest(""); errors.As(err, &bad) {
		httpx.WriteJSON(w, status, tokenError{Error: string(bad)})
		return status
	}
	if many := (tooMany{}); errors.As(err, &many) {
		w.Header().Set("Retry-After", strconv.Itoa(int(many.wait.Seconds())+1))
		status = http.StatusTooManyRequests
		httpx.WriteBitwardenError(w, status, "Too many requests to log in. Please try again later.")
		return status
	}
	if problem, ok := machine.AsProblem(err); ok && problem.Class == fault.Unauthenticated {
		httpx.WriteJSON(w, status, tokenError{
			Error: invalidClient, Description: problem.Message, ErrorModel: &errorModel{Message: problem.Message, Object: "error"},
		})
		return status
	}
	message := "An unexpected error has occurred."
	switch fault.Of(err) {
	case fault.Unauthenticated:
		httpx.WriteJSON(w, status, tokenError{Error: invalidClient})
		return status
	case fault.Transient, fault.Denied, fault.Invalid, fault.Unsupported:
		status, message = http.StatusServiceUnavailable, "Secrets Manager is not available at the moment. Please try again."
	case fault.Lost:
		status, message = http.StatusInternalServerError, "What is stored here cannot be opened. Please tell your administrator."
	default:
		status = http.StatusInternalServerError
	}
	httpx.WriteBitwardenError(w, status, message)
	return status
}
