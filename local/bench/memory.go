package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/devidentity"
)

const (
	maxIdleMB = 45
	maxBusyMB = 80
	loadRate  = 1000 // requests in a second
	loadUsers = 200
)

// memory measures what a real `latchkey serve` holds, over SQLite with a
// software key: idle, and under load.
func (b *bench) memory(ctx context.Context) (_ []result, err error) {
	if runtime.GOOS != "linux" {
		return []result{{What: "latchkey serve: resident memory", Skipped: "it is read in /proc, which Linux has"}}, nil
	}
	binary, err := b.make(ctx, build{rule: "bench-program", tree: b.root, source: "./local/latchkey"})
	if err != nil {
		return nil, err
	}
	identity, err := devidentity.New(devidentity.Config{Issuer: "http://127.0.0.1"})
	if err != nil {
		return nil, err
	}
	server := httptest.NewServer(identity)
	defer server.Close()
	p, url, err := b.serve(ctx, binary, server.URL)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if _, err := p.answers(ctx, url+"/alive"); err != nil {
		return nil, err
	}
	pause := time.Duration(b.either(3, 1)) * time.Second
	idle, err := p.residentAfter(ctx, pause)
	if err != nil {
		return nil, err
	}

	l := newLoad(url)
	defer l.client.CloseIdleConnections()
	for range loadUsers {
		token, err := identity.Mint(devidentity.Claims{User: uuid.NewString()})
		if err != nil {
			return nil, err
		}
		l.tokens = append(l.tokens, token)
		if err := l.call(ctx, http.MethodPost, token, keyBody(random(32))); err != nil {
			return nil, err
		}
		if err := l.call(ctx, http.MethodGet, token, ""); err != nil {
			return nil, err
		}
	}
	warm, err := p.residentAfter(ctx, pause)
	if err != nil {
		return nil, err
	}
	length := time.Duration(b.either(10, 3)) * time.Second
	b.say("  %d requests a second for %s", loadRate, length)
	busy, ran, err := p.residentDuring(ctx, func() (ran, error) { return l.run(ctx, loadRate, length) })
	if err != nil {
		return nil, err
	}
	after, err := p.residentAfter(ctx, pause)
	if err != nil {
		return nil, err
	}
	return []result{
		{What: "latchkey serve, SQLite: resident, idle after the start", Measured: idle.total, Unit: "MB", Budget: atMost(maxIdleMB), Note: idle.String()},
		{What: fmt.Sprintf("latchkey serve, SQLite: resident, idle after %d requests", 2*loadUsers), Measured: warm.total, Unit: "MB", Budget: atMost(maxIdleMB), Note: warm.String()},
		{What: fmt.Sprintf("latchkey serve, SQLite: resident, most at %d requests/s", loadRate), Measured: busy.total, Unit: "MB", Budget: atMost(maxBusyMB), Note: busy.String()},
		{What: "latchkey serve, SQLite: resident, idle after the load", Measured: after.total, Unit: "MB", Note: after.String()},
		{What: "  rate reached", Measured: ran.rate, Unit: "/s"},
		{What: "  latency p50, from when it was due", Measured: median(ran.latencies), Unit: "ms"},
		{What: "  latency p99, from when it was due", Measured: quantile(ran.latencies, 0.99), Unit: "ms"},
	}, nil
}

// serve starts latchkey serve on a free port and gives its address.
func (b *bench) serve(ctx context.Context, binary, identityURL string) (*process, string, error) {
	dir, err := b.folder("serve")
	if err != nil {
		return nil, "", err
	}
	p, err := launch(ctx, binary, map[string]string{
		"LATCHKEY_STORE": "sqlite", "LATCHKEY_SQLITE_PATH": filepath.Join(dir, "latchkey.db"),
		"LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": filepath.Join(dir, "software-key.pem"),
		"LATCHKEY_IDENTITY_URL": identityURL, "LATCHKEY_WEB_VAULT_ORIGINS": "https://vault.example.org",
	}, "serve", "--listen", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	var line struct{ Msg, URL string }
	if err := p.until(&line, func() bool { return line.Msg == "listening" }); err != nil {
		return nil, "", err
	}
	p.drain()
	return p, line.URL, nil
}

func (p *process) residentAfter(ctx context.Context, pause time.Duration) (resident, error) {
	select {
	case <-ctx.Done():
		return resident{}, ctx.Err()
	case <-time.After(pause):
		return p.resident()
	}
}

// residentDuring gives the most of what is seen while work goes on.
func (p *process) residentDuring(ctx context.Context, work func() (ran, error)) (resident, ran, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		most    resident
		failure error
		watched = make(chan struct{})
	)
	go func() {
		defer close(watched)
		for {
			seen, err := p.residentAfter(ctx, 50*time.Millisecond)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				failure = err
				return
			}
			if seen.total > most.total {
				most = seen
			}
		}
	}()
	ran, err := work()
	cancel()
	<-watched
	return most, ran, errors.Join(err, failure)
}

// load sends requests at a rate, over connections that are kept.
type load struct {
	url    string
	client *http.Client
	tokens []string
}

// loadWorkers is how many requests are under way at the most.
const loadWorkers = 64

func newLoad(url string) *load {
	return &load{url: url + "/user-keys", client: &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: loadWorkers, MaxConnsPerHost: loadWorkers},
	}}
}

// ran is what came of a load.
type ran struct {
	rate      float64   // answers in a second
	latencies []float64 // ms
}

// run sends one request every 1/rate seconds whether or not those before it
// were answered. Latency counts from when a request was due, so that waiting
// for a slow answer does not hide what the next ones would have waited.
func (l *load) run(ctx context.Context, rate int, length time.Duration) (ran, error) {
	var (
		due     = make(chan time.Time, rate) // a second's worth may queue up
		results = make([]ran, loadWorkers)
		faults  = make([]error, loadWorkers)
		wait    sync.WaitGroup
		begin   = time.Now()
	)
	for i := range loadWorkers {
		wait.Go(func() {
			for at := range due {
				if faults[i] != nil {
					continue
				}
				token := l.tokens[int(at.Sub(begin)/(time.Second/time.Duration(rate)))%len(l.tokens)]
				faults[i] = l.call(ctx, http.MethodGet, token, "")
				results[i].latencies = append(results[i].latencies, milliseconds(time.Since(at)))
			}
		})
	}
	for at := begin; at.Sub(begin) < length && ctx.Err() == nil; at = at.Add(time.Second / time.Duration(rate)) {
		time.Sleep(time.Until(at))
		due <- at
	}
	close(due)
	wait.Wait()
	var all ran
	for _, r := range results {
		all.latencies = append(all.latencies, r.latencies...)
	}
	all.rate = float64(len(all.latencies)) / time.Since(begin).Seconds()
	return all, errors.Join(append(faults, ctx.Err())...)
}

func (l *load) call(ctx context.Context, method, token, body string) error {
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, method, l.url, content)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := l.client.Do(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s /user-keys: %s", method, response.Status)
	}
	return nil
}
