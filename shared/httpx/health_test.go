package httpx

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func ask(ctx context.Context, h http.HandlerFunc) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/health", nil))
	return w
}

func TestAFindingIsRepeatedForAWhileAndABadOneForLessLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks, finding := 0, Finding{Healthy: true, Status: http.StatusOK, Answer: "good"}
		h := Health(func(context.Context) Finding { looks++; return finding })
		for _, step := range []struct {
			wait time.Duration
			want int
		}{{0, 1}, {29 * time.Second, 1}, {2 * time.Second, 2}} {
			time.Sleep(step.wait)
			if w := ask(t.Context(), h); w.Code != http.StatusOK || w.Body.String() != `"good"` || w.Header().Get("Retry-After") != "" || looks != step.want {
				t.Errorf("%d %s after %d looks, not %d", w.Code, w.Body, looks, step.want)
			}
		}
		finding = Finding{Status: http.StatusServiceUnavailable, Answer: "bad"}
		time.Sleep(healthyAge)
		if w := ask(t.Context(), h); w.Code != http.StatusServiceUnavailable || w.Body.String() != `"bad"` || w.Header().Get("Retry-After") != "3" {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		// What is not good is looked at again soon, also where it is no failure.
		finding = Finding{Status: http.StatusOK, Answer: "so so"}
		time.Sleep(unhealthyAge)
		if w := ask(t.Context(), h); w.Code != http.StatusOK || w.Body.String() != `"so so"` || w.Header().Get("Retry-After") != "" {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		time.Sleep(unhealthyAge)
		ask(t.Context(), h)
		if looks != 5 {
			t.Errorf("%d looks", looks)
		}
	})
}

func TestWhoAsksForHealthAndGoesAwayDecidesForNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int64
		enough := make(chan struct{})
		h := Health(func(ctx context.Context) Finding {
			looks.Add(1)
			select {
			case <-enough:
				return Finding{Healthy: true, Status: http.StatusOK, Answer: "good"}
			case <-ctx.Done():
				return Finding{Status: http.StatusServiceUnavailable, Answer: "broken off"}
			}
		})
		leaving, leave := context.WithCancel(t.Context())
		var first, others sync.WaitGroup
		first.Go(func() {
			if w := ask(leaving, h); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), `"unhealthy"`) {
				t.Errorf("who went away was told %d %s", w.Code, w.Body)
			}
		})
		synctest.Wait()
		for range 20 {
			others.Go(func() {
				if w := ask(t.Context(), h); w.Code != http.StatusOK || w.Body.String() != `"good"` {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			})
		}
		synctest.Wait()
		leave()
		// Whoever waits can go at once.
		first.Wait()
		close(enough)
		others.Wait()
		if looks.Load() != 1 {
			t.Errorf("%d looks", looks.Load())
		}
	})
}

func TestALookAtHealthEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := Health(func(ctx context.Context) Finding {
			<-ctx.Done()
			return Finding{Status: http.StatusServiceUnavailable, Answer: "too slow"}
		})
		if w := ask(t.Context(), h); w.Body.String() != `"too slow"` {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}
