package cloud

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Limits switches the published rate limits, which are of one client address.
type Limits struct {
	Enabled bool `json:"enabled"`
	// RealTime counts on the machine's clock and not on the emulator's.
	RealTime bool `json:"realTime"`
}

// limitRule allows Most requests in a window that begins with the first.
type limitRule struct {
	host   host
	method string // empty: any
	route  Route  // empty: any
	most   int
	window time.Duration
	period string
}

// The published limits (§1.3, §2.3).
var limitRules = []limitRule{
	{identityHost, "", "", 60, time.Minute, "1m"},
	{identityHost, "", "", 5, time.Second, "1s"},
	{identityHost, http.MethodPost, RouteToken, 10, time.Minute, "1m"},
	{apiHost, http.MethodPost, "", 60, time.Minute, "1m"},
	{apiHost, http.MethodPost, "", 5, time.Second, "1s"},
	{apiHost, http.MethodGet, "", 200, time.Minute, "1m"},
}

type window struct {
	began time.Time
	count int
}

type windowKey struct {
	rule    int
	address string
}

type limiter struct {
	Limits
	windows map[windowKey]*window
}

func newLimiter(l Limits) *limiter { return &limiter{l, map[windowKey]*window{}} }

// count counts a request, and gives the rule that it breaks and how long that
// will be so.
func (l *limiter) count(h host, method string, name Route, address string, now time.Time) (*limitRule, time.Duration) {
	var broken *limitRule
	var wait time.Duration
	for i := range limitRules {
		rule := &limitRules[i]
		if rule.host != h || rule.method != "" && rule.method != method || rule.route != "" && rule.route != name {
			continue
		}
		key := windowKey{i, address}
		w := l.windows[key]
		if w == nil || now.Sub(w.began) >= rule.window || now.Before(w.began) {
			w = &window{began: now}
			l.windows[key] = w
		}
		w.count++
		if left := w.began.Add(rule.window).Sub(now); w.count > rule.most && left > wait {
			broken, wait = rule, left
		}
	}
	return broken, wait
}

// limited refuses a request that is over a limit.
func (j *job) limited() (answer, bool) {
	c := j.cloud
	now := c.Now()
	h := apiHost
	if j.record.Host == identityHost.String() {
		h = identityHost
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.limits.Enabled {
		return answer{}, false
	}
	if c.limits.RealTime {
		now = time.Now()
	}
	rule, wait := c.limits.count(h, j.http.Method, j.record.Route, j.record.Address, now)
	if rule == nil {
		return answer{}, false
	}
	a := errorAnswer(http.StatusTooManyRequests, fmt.Sprintf("Slow down! Too many requests. Try again in %s.", rule.period))
	a.header.Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	return a, true
}
