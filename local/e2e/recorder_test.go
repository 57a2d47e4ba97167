//go:build unix

package e2e

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"testing"

	"github.com/latchkey-fn/latchkey/local/e2e/bitwarden"
)

// prefix is where the proxy publishes Key Connector, its usual place beside a
// self-hosted Bitwarden.
const prefix = "/key-connector"

// recorder is a reverse proxy in front of Key Connector that keeps what passes.
type recorder struct {
	URL string // what clients are told

	next http.RoundTripper
	mu   sync.Mutex
	seen []exchange
}

// exchange is a request of a client to Key Connector, and what the answer was.
type exchange struct {
	method, path string
	header       http.Header // without those that end at a proxy
	body         string
	status       int
	answer       http.Header
	answerBody   string
}

func (e exchange) String() string { return fmt.Sprintf("%s %s -> %d", e.method, e.path, e.status) }

// record starts a recorder in front of target.
func record(t *testing.T, authority *bitwarden.Authority, target string) *recorder {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.Pool}}
	t.Cleanup(transport.CloseIdleConnections)
	rec := &recorder{next: transport}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: rec,
	}
	server := httptest.NewUnstartedServer(http.StripPrefix(prefix, proxy))
	server.TLS = authority.TLS(t, "proxy")
	server.StartTLS()
	t.Cleanup(server.Close)
	rec.URL = server.URL + prefix
	return rec
}

// RoundTrip passes a request on and keeps it with its answer.
func (rec *recorder) RoundTrip(r *http.Request) (*http.Response, error) {
	e := exchange{method: r.Method, path: r.URL.Path, header: r.Header.Clone()}
	var err error
	if r.Body != nil {
		if e.body, r.Body, err = tee(r.Body); err != nil {
			return nil, err
		}
	}
	answer, err := rec.next.RoundTrip(r)
	if err == nil {
		e.status, e.answer = answer.StatusCode, answer.Header.Clone()
		e.answerBody, answer.Body, err = tee(answer.Body)
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.seen = append(rec.seen, e)
	return answer, err
}

// tee reads a body and gives it back unread.
func tee(body io.ReadCloser) (string, io.ReadCloser, error) {
	defer body.Close()
	read, err := io.ReadAll(io.LimitReader(body, 1<<20))
	return string(read), io.NopCloser(bytes.NewReader(read)), err
}

// since gives the exchanges after the first n.
func (rec *recorder) since(n int) []exchange {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return slices.Clone(rec.seen[n:])
}
