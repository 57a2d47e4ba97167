// Package moto runs moto's server, on loopback.
package moto

import (
	"bufio"
	"errors"
	"fmt"
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

// Tool is the program that this package runs.
const Tool = "moto_server"

// Start gives the endpoint of a server that ends with the test. Without
// moto_server on this machine the test is skipped, as testenv says.
func Start(t testing.TB) string {
	t.Helper()
	server, err := Open(testenv.Tool(t, Tool))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server.URL
}

// Server is a running server.
type Server struct {
	// URL is the endpoint, http://127.0.0.1:port.
	URL string

	cmd     *exec.Cmd
	drained chan struct{}
	proxy   *httptest.Server
}

// Open runs the program at a path until Close.
//
// moto answers on many threads and locks nothing: a transaction that fails
// puts a copy of the whole table back. So requests pass a proxy that lets one
// through at a time, as they would be ordered by the service.
func Open(path string) (*Server, error) {
	s := &Server{cmd: exec.Command(path, "-H", "127.0.0.1", "-p", "0"), drained: make(chan struct{})}
	s.cmd.Env = append(os.Environ(), "PYTHONUNBUFFERED=1")
	output, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", Tool, err)
	}
	address := make(chan string, 1)
	go func() {
		defer close(s.drained)
		defer close(address)
		told := false
		for lines := bufio.NewScanner(output); lines.Scan(); {
			if match := running.FindStringSubmatch(lines.Text()); match != nil && !told {
				told = true
				address <- match[1]
			}
		}
	}()
	select {
	case found, ok := <-address:
		if !ok {
			err = errors.New(Tool + " ended before it listened")
		} else if s.proxy, err = oneAtATime(found); err == nil {
			s.URL = s.proxy.URL
			return s, nil
		}
	case <-time.After(patience):
		err = errors.New(Tool + " does not listen")
	}
	s.Close()
	return nil, err
}

// Close ends the server.
func (s *Server) Close() {
	if s.proxy != nil {
		s.proxy.Close()
	}
	_ = s.cmd.Process.Kill() // it has ended already: nothing to do
	<-s.drained
	_ = s.cmd.Wait() // "killed", as it should be
}

func oneAtATime(address string) (*httptest.Server, error) {
	target, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	proxy := httputil.NewSingleHostReverseProxy(target)
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		proxy.ServeHTTP(w, r)
	})), nil
}
