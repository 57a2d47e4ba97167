package cloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// T10.
func TestARefusedTokenIsReplacedOnce(t *testing.T) {
	s := startServers(t)
	refused := map[string]bool{"Bearer token-number-1": true}
	s.onCall = func(w http.ResponseWriter, r *http.Request) {
		if refused[r.Header.Get("Authorization")] {
			answer(401, "", "WWW-Authenticate", `Bearer error="invalid_token"`)(w, r)
			return
		}
		fmt.Fprint(w, noOffers)
	}
	client := s.client(t)
	if err := syncOnce(t, client); err != nil {
		t.Fatal(err)
	}
	if s.calls[0].body != s.calls[1].body || s.calls[1].header.Get("Authorization") != "Bearer token-number-2" {
		t.Errorf("%+v", s.calls)
	}
	if err := syncOnce(t, client); err != nil {
		t.Fatal(err)
	}
	if tokens, calls := s.counts(); tokens != 2 || calls != 3 {
		t.Errorf("%d tokens, %d calls", tokens, calls)
	}
	refused["Bearer token-number-2"], refused["Bearer token-number-3"] = true, true
	// T52: a token of one region is refused in the other.
	if e := failure(t, syncOnce(t, client)); e.Code != TokenRejected || !strings.Contains(e.Hint, "region (EU)") {
		t.Errorf("%+v", *e)
	}
	if tokens, calls := s.counts(); tokens != 3 || calls != 5 {
		t.Errorf("%d tokens, %d calls", tokens, calls)
	}
}

// T11, REQ-5.
func TestATokenIsRenewedBeforeItEnds(t *testing.T) {
	for lifetime, margin := range map[time.Duration]time.Duration{
		24 * time.Hour:   144 * time.Minute,
		time.Hour:        6 * time.Minute,
		30 * time.Minute: 5 * time.Minute,
	} {
		s := startServers(t)
		s.lifetime = int(lifetime / time.Second)
		client := s.client(t)
		for _, step := range []struct {
			pass time.Duration
			want int
		}{{0, 1}, {lifetime - margin - time.Second, 1}, {time.Second, 2}, {0, 2}} {
			s.pass(step.pass)
			if err := syncOnce(t, client); err != nil {
				t.Fatal(err)
			}
			if tokens, _ := s.counts(); tokens != step.want {
				t.Errorf("lifetime %s after %s: %d tokens, want %d", lifetime, step.pass, tokens, step.want)
			}
		}
	}
}

func TestATokenThatHardlyLivesIsUsedOnce(t *testing.T) {
	for _, lifetime := range []string{"240", "0", "-5", "null"} {
		s := startServers(t)
		n := 0
		s.onToken = func(w http.ResponseWriter, _ *http.Request) {
			n++
			fmt.Fprintf(w, `{"access_token":"t%d","expires_in":%s}`, n, lifetime)
		}
		client := s.client(t)
		for want := 1; want <= 2; want++ {
			if err := syncOnce(t, client); err != nil {
				t.Fatal(err)
			}
			if tokens, _ := s.counts(); tokens != want {
				t.Errorf("lifetime %s: %d tokens, want %d", lifetime, tokens, want)
			}
		}
	}
	s := startServers(t)
	s.onToken = answer(200, `{"access_token":"t","expires_in":9223372036854775807}`)
	client := s.client(t)
	for range 2 {
		if err := syncOnce(t, client); err != nil {
			t.Fatal(err)
		}
	}
	if tokens, _ := s.counts(); tokens != 1 {
		t.Errorf("one that lives for ever: %d tokens", tokens)
	}
}

func TestSyncAndLicenceHaveTokensOfTheirOwn(t *testing.T) {
	s := startServers(t)
	client := s.client(t)
	for range 2 {
		if err := syncOnce(t, client); err != nil {
			t.Fatal(err)
		}
		if _, err := client.License(t.Context(), LicenseRequest{CloudOrganizationID: organization, LicenseKey: licenseKey, BillingSyncKey: syncKey}); err != nil {
			t.Fatal(err)
		}
	}
	if tokens, calls := s.counts(); tokens != 2 || calls != 4 || strings.Contains(s.tokens[0].body, "%20") || strings.Contains(s.tokens[0].body, "+") {
		t.Errorf("%d tokens, %d calls", tokens, calls)
	}
}

func TestManyOrganisationsShareAToken(t *testing.T) {
	s := startServers(t)
	client := s.client(t)
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if _, err := client.Sync(t.Context(), batch()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if tokens, calls := s.counts(); tokens != 1 || calls != 20 {
		t.Errorf("%d tokens, %d calls", tokens, calls)
	}
}

func TestWhoWaitsForATokenCanGiveUp(t *testing.T) {
	s := startServers(t)
	release, asked := make(chan struct{}), make(chan struct{})
	s.onToken = func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-release
		fmt.Fprint(w, `{"access_token":"t","expires_in":86400}`)
	}
	client := s.client(t)
	first := make(chan error, 1)
	go func() {
		_, err := client.Sync(context.WithoutCancel(t.Context()), batch())
		first <- err
	}()
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := client.Sync(ctx, batch())
	if e := failure(t, err); e.Code != NetworkPre || e.Ambiguous || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v", *e)
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// breaker is what the domain does, in memory.
type breaker struct {
	until            map[Subject]time.Time
	askErr, storeErr error
}

func (b *breaker) Blocked(_ context.Context, of Subject) (time.Time, error) {
	return b.until[of], b.askErr
}

func (b *breaker) Trip(_ context.Context, of Subject, until time.Time) error {
	if b.storeErr == nil {
		b.until[of] = until
	}
	return b.storeErr
}

// T12.
func TestARefusedInstallationIsNotTriedAgainForADay(t *testing.T) {
	s := startServers(t)
	s.onToken = answer(400, `{"error":"invalid_client"}`)
	remembered := &breaker{until: map[Subject]time.Time{}}
	c := s.config()
	c.Breaker = remembered
	if e := failure(t, syncOnce(t, newClient(t, c))); e.Code != IdentityInvalidClient || !e.BlockedUntil.IsZero() || e.Status != 400 {
		t.Errorf("%+v", *e)
	}
	again := newClient(t, c) // another process
	if e := failure(t, syncOnce(t, again)); e.Code != IdentityInvalidClient || !e.BlockedUntil.Equal(s.now.Add(BreakerPeriod)) || e.Status != 0 {
		t.Errorf("%+v", *e)
	}
	if tokens, _ := s.counts(); tokens != 1 {
		t.Errorf("%d tokens", tokens)
	}
	// The other scope was not refused.
	if _, err := again.License(t.Context(), LicenseRequest{CloudOrganizationID: organization, BillingSyncKey: syncKey}); failure(t, err).BlockedUntil != (time.Time{}) {
		t.Error(err)
	}
	other := c
	other.InstallationKey = "AnotherKey1234567890"
	if e := failure(t, syncOnce(t, newClient(t, other))); !e.BlockedUntil.IsZero() {
		t.Errorf("a new key is blocked: %+v", *e)
	}
	s.onToken = nil
	s.pass(BreakerPeriod)
	if err := syncOnce(t, again); err != nil {
		t.Errorf("after a day: %v", err)
	}
}

func TestOnlyARefusedInstallationTripsTheBreaker(t *testing.T) {
	for name, onToken := range map[string]http.HandlerFunc{
		"scope": answer(400, `{"error":"invalid_scope"}`), "fault": answer(500, ""), "too many": answer(429, ""), "page": answer(400, page), "broken off": breakOff,
	} {
		s := startServers(t)
		s.onToken = onToken
		remembered := &breaker{until: map[Subject]time.Time{}}
		c := s.config()
		c.Breaker = remembered
		failure(t, syncOnce(t, newClient(t, c)))
		if len(remembered.until) != 0 {
			t.Errorf("%s: %v", name, remembered.until)
		}
	}
}

func TestABreakerThatFailsIsReported(t *testing.T) {
	s := startServers(t)
	lost := fmt.Errorf("%w: store", fault.Lost)
	c := s.config()
	c.Breaker = &breaker{askErr: lost}
	if err := syncOnce(t, newClient(t, c)); !errors.Is(err, fault.Lost) {
		t.Error(err)
	}
	if tokens, _ := s.counts(); tokens != 0 {
		t.Errorf("%d tokens", tokens)
	}
	s.onToken = answer(400, `{"error":"invalid_client"}`)
	c.Breaker = &breaker{storeErr: lost}
	err := syncOnce(t, newClient(t, c))
	if e := failure(t, err); e.Code != IdentityInvalidClient || !errors.Is(err, fault.Lost) {
		t.Error(err)
	}
}

func TestTheSubjectOfABreakerTellsNoKey(t *testing.T) {
	s := startServers(t)
	subject := s.client(t).Subject(ScopeInstallation)
	if text := fmt.Sprintf("%+v", subject); strings.Contains(text, installationKey) || !strings.Contains(text, "installation."+installation) || subject.Revision == "" {
		t.Error(text)
	}
}

// T14: identity allows ten tokens a minute.
func TestIdentityIsNotAskedTooOften(t *testing.T) {
	s := startServers(t)
	s.onToken = answer(500, "")
	client := s.client(t)
	for range 5 {
		if e := failure(t, syncOnce(t, client)); e.Code != CloudError {
			t.Fatalf("%+v", *e)
		}
	}
	e := failure(t, syncOnce(t, client))
	if e.Code != RateLimited || e.Status != 0 || e.RetryAfter <= 0 || e.RetryAfter > tokenEvery {
		t.Fatalf("%+v", *e)
	}
	if tokens, _ := s.counts(); tokens != 5 {
		t.Errorf("%d tokens", tokens)
	}
	s.pass(e.RetryAfter)
	if e := failure(t, syncOnce(t, client)); e.Code != CloudError {
		t.Errorf("after the wait: %+v", *e)
	}
	for range 44 { // a minute is not yet over
		s.pass(time.Second)
		failure(t, syncOnce(t, client))
	}
	if tokens, _ := s.counts(); tokens < 7 || tokens > 10 {
		t.Errorf("%d tokens in a minute", tokens)
	}
}

func TestIdentityIsLeftAloneForAsLongAsItAsks(t *testing.T) {
	s := startServers(t)
	s.onToken = answer(429, "", "Retry-After", "60")
	client := s.client(t)
	failure(t, syncOnce(t, client))
	s.onToken = nil
	s.pass(59 * time.Second)
	if e := failure(t, syncOnce(t, client)); e.Code != RateLimited || e.RetryAfter != time.Second {
		t.Errorf("%+v", *e)
	}
	s.pass(time.Second)
	if err := syncOnce(t, client); err != nil {
		t.Error(err)
	}
}
