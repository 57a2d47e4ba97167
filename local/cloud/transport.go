package cloud

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Transport carries requests to Clouds in memory, each to the handler that its
// host names: those of Config.IdentityURL and Config.APIURL. Any other host is
// not found, as by DNS. It reports what it does to an httptrace.ClientTrace.
//
// A client that leaves (its context ends) gets its context's error, and the
// server goes on with its work.
//
// Where Config.Sleep is set nothing runs beside the caller: time that a fault or
// a delay takes passes by Sleep, and a context with a deadline ends when as much
// time has passed on that clock as the context has left in reality (in whole
// seconds, from two seconds on). The server's work for a client that left is then
// done when something is asked of the Cloud after its time has come; see Settle.
type Transport struct {
	// Address is the client's, which limits and checks go by. Empty: 127.0.0.1.
	Address string

	hosts map[string]target

	mu     sync.Mutex
	broken map[string]error
}

var _ http.RoundTripper = (*Transport)(nil)

type target struct {
	cloud *Cloud
	host  host
}

// NewTransport makes a transport to the hosts of these clouds.
func NewTransport(clouds ...*Cloud) *Transport {
	t := &Transport{Address: "127.0.0.1", hosts: map[string]target{}, broken: map[string]error{}}
	for _, c := range clouds {
		t.hosts[hostOf(c.config.IdentityURL)] = target{c, identityHost}
		t.hosts[hostOf(c.config.APIURL)] = target{c, apiHost}
	}
	return t
}

// hostOf is the host of a URL as hosts has it.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	return strings.ToLower(u.Host)
}

// Break makes every request to a host, named by a URL, fail with an error before
// anything is sent; nil mends it.
func (t *Transport) Break(hostURL string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		delete(t.broken, hostOf(hostURL))
		return
	}
	t.broken[hostOf(hostURL)] = err
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	to, err := t.connect(r)
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // it was not looked at
		}
		return nil, err
	}
	sent, err := t.sent(r)
	if err != nil {
		return nil, err
	}
	trace(r.Context(), func(t *httptrace.ClientTrace) {
		if t.WroteHeaders != nil {
			t.WroteHeaders()
		}
		if t.WroteRequest != nil {
			t.WroteRequest(httptrace.WroteRequestInfo{})
		}
	})
	ask := to.ask
	if to.cloud.config.Sleep != nil {
		ask = to.askInTurn
	}
	a, err := ask(r.Context(), sent)
	if err != nil {
		return nil, err
	}
	if a.closed {
		// As of a connection that the server closed.
		return nil, io.EOF
	}
	trace(r.Context(), func(t *httptrace.ClientTrace) {
		if t.GotFirstResponseByte != nil {
			t.GotFirstResponseByte()
		}
	})
	return to.cloud.response(r, a), nil
}

func trace(ctx context.Context, tell func(*httptrace.ClientTrace)) {
	if t := httptrace.ContextClientTrace(ctx); t != nil {
		tell(t)
	}
}

func (t *Transport) connect(r *http.Request) (target, error) {
	if err := r.Context().Err(); err != nil {
		return target{}, err
	}
	name := strings.ToLower(r.URL.Host)
	t.mu.Lock()
	err := t.broken[name]
	t.mu.Unlock()
	if err != nil {
		return target{}, err
	}
	to, ok := t.hosts[name]
	if !ok {
		return target{}, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: r.URL.Hostname(), IsNotFound: true}}
	}
	trace(r.Context(), func(t *httptrace.ClientTrace) {
		if t.ConnectStart != nil {
			t.ConnectStart("tcp", name)
		}
		if t.ConnectDone != nil {
			t.ConnectDone("tcp", name, nil)
		}
		if t.GotConn != nil {
			t.GotConn(httptrace.GotConnInfo{})
		}
	})
	return to, nil
}

// sent gives the request as the server sees it, with all of its body: the client
// may go away.
func (t *Transport) sent(r *http.Request) (*http.Request, error) {
	var body []byte
	if r.Body != nil {
		read, err := io.ReadAll(r.Body)
		if closeErr := r.Body.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return nil, fmt.Errorf("read the body of the request: %w", err)
		}
		body = read
	}
	sent := r.Clone(context.WithoutCancel(r.Context()))
	sent.Body, sent.RemoteAddr = io.NopCloser(bytes.NewReader(body)), net.JoinHostPort(t.Address, "0")
	if sent.Host == "" {
		sent.Host = r.URL.Host
	}
	return sent, nil
}

// ask asks while time passes by itself.
func (to target) ask(ctx context.Context, r *http.Request) (answer, error) {
	answers := make(chan answer, 1)
	to.cloud.working.Go(func() { answers <- to.cloud.exchange(to.host, r, to.cloud.sleep) })
	select {
	case a := <-answers:
		return a, nil
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

// work is a server's work on a request that stops whenever time has to pass,
// and says until when.
type work struct {
	next func() (time.Time, bool)
	stop func()
	due  time.Time
	// answer is set when there is no more.
	answer answer
}

func (to target) begin(r *http.Request) *work {
	w := &work{}
	w.next, w.stop = iter.Pull(func(yield func(time.Time) bool) {
		w.answer = to.cloud.exchange(to.host, r, func(d time.Duration) error {
			if !yield(to.cloud.config.Now().Add(d)) {
				return errClosing
			}
			return nil
		})
	})
	return w
}

// askInTurn asks where time passes by Config.Sleep only.
func (to target) askInTurn(ctx context.Context, r *http.Request) (answer, error) {
	c := to.cloud
	c.settle()
	left, hasDeadline := patience(ctx)
	until := c.config.Now().Add(left)
	w := to.begin(r)
	for {
		due, more := w.next()
		if !more {
			return w.answer, nil
		}
		w.due = due
		if hasDeadline && due.After(until) {
			c.parking.park(w)
			if err := c.config.Sleep(ctx, until.Sub(c.config.Now())); err != nil {
				return answer{}, err
			}
			return answer{}, context.DeadlineExceeded
		}
		if due.Sub(c.config.Now()) >= forever/2 {
			// Nobody could wait for that but in reality.
			c.parking.park(w)
			<-ctx.Done()
			return answer{}, ctx.Err()
		}
		if err := c.config.Sleep(ctx, due.Sub(c.config.Now())); err != nil {
			c.parking.park(w)
			return answer{}, err
		}
	}
}

// patience is how long the client is going to wait.
func patience(ctx context.Context) (time.Duration, bool) {
	deadline, ok := ctx.Deadline()
	left := time.Until(deadline)
	if left >= 2*time.Second {
		left = left.Round(time.Second)
	}
	return left, ok
}

// parking is where work for clients that left waits for its time.
type parking struct {
	mu   sync.Mutex
	work []*work
}

func (p *parking) park(w *work) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.work = append(p.work, w)
}

// take removes the first work that is due.
func (p *parking) take(isDue func(time.Time) bool) *work {
	p.mu.Lock()
	defer p.mu.Unlock()
	best := -1
	for i, w := range p.work {
		if isDue(w.due) && (best < 0 || w.due.Before(p.work[best].due)) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	w := p.work[best]
	p.work = slices.Delete(p.work, best, best+1)
	return w
}

func (p *parking) abandon() {
	for w := p.take(func(time.Time) bool { return true }); w != nil; w = p.take(func(time.Time) bool { return true }) {
		w.stop()
	}
}

// settle goes on with the work whose time has come. Nothing is locked here.
func (c *Cloud) settle() {
	if c.config.Sleep == nil {
		return
	}
	c.goOn(func(due time.Time) bool { return !due.After(c.config.Now()) })
}

// Settle finishes what the server still does for clients that left, whether its
// time has come or not. Work that hangs for ever stays. It is for clouds with
// Config.Sleep; others work by themselves.
func (c *Cloud) Settle() {
	end := c.config.Now().Add(forever / 2)
	c.goOn(func(due time.Time) bool { return due.Before(end) })
}

func (c *Cloud) goOn(isDue func(time.Time) bool) {
	for w := c.parking.take(isDue); w != nil; w = c.parking.take(isDue) {
		if due, more := w.next(); more {
			w.due = due
			c.parking.park(w)
		}
	}
}

// response is an answer as a client gets it.
func (c *Cloud) response(r *http.Request, a answer) *http.Response {
	var body io.Reader = bytes.NewReader(a.body)
	if a.cut >= 0 && a.cut < len(a.body) {
		body = io.MultiReader(bytes.NewReader(a.body[:a.cut]), brokenOff{})
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", a.status, http.StatusText(a.status)), StatusCode: a.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: c.complete(a), Body: io.NopCloser(body), ContentLength: int64(len(a.body)), Request: r,
	}
}

// brokenOff is the rest of a body whose connection was closed.
type brokenOff struct{}

func (brokenOff) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
