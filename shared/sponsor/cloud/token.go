package cloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
)

// Scopes of tokens; each token has one.
const (
	ScopeInstallation = "api.installation"
	ScopeLicensing    = "api.licensing"
)

// Identity allows an address 5 requests a second and 10 tokens a minute: 5 at
// once and one every 15 seconds stay within.
const (
	tokenEvery = 15 * time.Second
	tokenBurst = 5
)

// A token is renewed before it ends: 5 minutes, or a tenth of its life.
const (
	renewMargin = 5 * time.Minute
	renewTenth  = 10
	// maxTokenLife is more than identity gives.
	maxTokenLife = 30 * 24 * time.Hour
)

// tokenSlot holds the token of a scope. Who has the turn reads and replaces it.
type tokenSlot struct {
	turn    *semaphore.Weighted
	value   string
	renewAt time.Time
}

func (c *Client) slot(scope string) *tokenSlot {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.tokens[scope]
	if !ok {
		s = &tokenSlot{turn: semaphore.NewWeighted(1)}
		c.tokens[scope] = s
	}
	return s
}

// token gives the token of a scope, other than one that was refused.
func (c *Client) token(ctx context.Context, scope, refused string) (string, error) {
	s := c.slot(scope)
	if err := s.turn.Acquire(ctx, 1); err != nil {
		return "", c.unreached(request{stage: StageToken}, err)
	}
	defer s.turn.Release(1)
	if s.value != "" && s.value != refused && c.now().Before(s.renewAt) {
		return s.value, nil
	}
	s.value = ""
	value, life, err := c.fetchToken(ctx, scope)
	if err != nil {
		return "", err
	}
	s.value = value
	s.renewAt = c.now().Add(life - max(renewMargin, life/renewTenth))
	return value, nil
}

// fetchToken asks identity, unless it has refused this installation lately or
// was asked too often.
func (c *Client) fetchToken(ctx context.Context, scope string) (token string, life time.Duration, err error) {
	subject := c.Subject(scope)
	if err := c.askBreaker(ctx, subject); err != nil {
		return "", 0, err
	}
	if err := c.takeTurn(); err != nil {
		return "", 0, err
	}
	var body struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	form := url.Values{
		"grant_type": {"client_credentials"}, "scope": {scope},
		"client_id": {c.clientID}, "client_secret": {c.key.Reveal()},
	}
	e := c.send(ctx, request{
		stage: StageToken, scope: scope, method: http.MethodPost, url: c.identity.JoinPath("connect", "token"),
		body: []byte(form.Encode()), contentType: "application/x-www-form-urlencoded",
		decode: func(data []byte) error {
			if err := decodeJSON(data, &body); err != nil {
				return err
			}
			if body.AccessToken == "" || body.TokenType != "" && !strings.EqualFold(body.TokenType, "Bearer") || strings.ContainsAny(body.AccessToken, "\r\n \t") {
				return errors.New("the answer holds no bearer token")
			}
			return nil
		},
	})
	if e != nil {
		return "", 0, c.refusedToken(ctx, subject, e)
	}
	// A token that does not say how long it lives is used once.
	life = min(time.Duration(max(0, min(body.ExpiresIn, int64(maxTokenLife/time.Second))))*time.Second, maxTokenLife)
	return body.AccessToken, life, nil
}

func (c *Client) askBreaker(ctx context.Context, subject Subject) error {
	if c.breaker == nil {
		return nil
	}
	until, err := c.breaker.Blocked(ctx, subject)
	if err != nil {
		return fmt.Errorf("ask whether identity has refused this installation: %w", err)
	}
	if !until.After(c.now()) {
		return nil
	}
	return &Error{
		Code: IdentityInvalidClient, Stage: StageToken, BlockedUntil: until,
		Detail: "identity has refused this installation and is not asked again until " + until.UTC().Format(time.RFC3339),
		Hint:   "correct the installation's id, key or region, or start a sync by hand",
	}
}

// takeTurn holds requests for tokens back where identity asked for it, or would
// have to.
func (c *Client) takeTurn() error {
	now := c.now()
	c.mu.Lock()
	wait := c.holdTokens.Sub(now)
	c.mu.Unlock()
	if wait <= 0 {
		reservation := c.pace.ReserveN(now, 1)
		if wait = reservation.DelayFrom(now); wait <= 0 {
			return nil
		}
		reservation.CancelAt(now)
	}
	return &Error{Code: RateLimited, Stage: StageToken, RetryAfter: wait, Detail: "identity was asked for too many tokens; nothing was sent"}
}

// refusedToken remembers a refusal.
func (c *Client) refusedToken(ctx context.Context, subject Subject, e *Error) error {
	switch e.Code {
	case RateLimited:
		c.mu.Lock()
		c.holdTokens = c.now().Add(e.RetryAfter)
		c.mu.Unlock()
	case IdentityInvalidClient:
		if c.breaker == nil {
			break
		}
		// Also if the caller has given up meanwhile.
		if err := c.breaker.Trip(context.WithoutCancel(ctx), subject, c.now().Add(BreakerPeriod)); err != nil {
			return fmt.Errorf("%w; and it could not be remembered: %w", e, err)
		}
	}
	return e
}
