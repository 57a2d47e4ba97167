// Package moto runs moto's server for a test, on loopback.
package moto

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/testenv"
)

// patience bounds the start, which takes some two seconds on an idle machine.
const patience = time.Minute

var running = regexp.MustCompile(`Running on (http://127\.0\.0\.1:\d+)`)

// Start gives the endpoint of a server that ends with the test. Without
// moto_server on this machine the test is skipped, as testenv says.
//
// moto answers on many threads and locks nothing: a transaction that fails
// puts a copy of the whole table back. So requests pass a proxy that lets one
// through at a time, as they would be ordered by the service.
func Start(t testing.TB) string {
	t.Helper()
	cmd := exec.Command(testenv.Tool(t, "moto_server"), "-H", "127.0.0.1", "-p", "0")
	cmd.Env = append(os.Environ(), "PYTHONUNBUFFERED=1")
	output, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start moto_server: %v", err)
	}
	address := make(chan string, 1)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		defer close(address)
		told := false
		for lines := bufio.NewScanner(output); lines.Scan(); {
			if match := running.FindStringSubmatch(lines.Text()); match != nil && !told {
				told = true
				address <- match[1]
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended already: nothing to do
		<-drained
		_ = cmd.Wait() // "killed", as it should be
	})

	select {
	case found, ok := <-address:
		if !ok {
			t.Fatal("moto_server ended before it listened")
		}
		return oneAtATime(t, found)
	case <-time.After(patience):
		t.Fatal("moto_server does not listen")
	}
	return ""
}

func oneAtATime(t testing.TB, address string) string {
	target, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	proxy := httputil.NewSingleHostReverseProxy(target)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}
