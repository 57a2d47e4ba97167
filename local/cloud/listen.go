package cloud

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// handler serves the real routes of a host.
func (c *Cloud) handler(h host) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.working.Add(1)
		defer c.working.Done()
		a := c.exchange(h, r, func(d time.Duration) error { return c.sleep(d) })
		c.send(w, a)
	})
}

// sleep lets time pass for the server, which does not care about its client.
func (c *Cloud) sleep(d time.Duration) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() {
		select {
		case <-c.closing:
			cancel(errClosing)
		case <-ctx.Done():
		}
	}()
	return c.pass(ctx, d)
}

// pass lets time pass on the clock, or until the context ends.
func (c *Cloud) pass(ctx context.Context, d time.Duration) error {
	if c.config.Sleep != nil {
		return c.config.Sleep(ctx, d)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// complete gives the head of an answer as a client sees it.
func (c *Cloud) complete(a answer) http.Header {
	header := a.header.Clone()
	header.Set("Date", c.Now().Format(http.TimeFormat))
	header.Set("Content-Length", strconv.Itoa(len(a.body)))
	return header
}

func (c *Cloud) send(w http.ResponseWriter, a answer) {
	if a.closed {
		hangUp(w)
		return
	}
	for name, values := range c.complete(a) {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	body := a.body
	if a.cut >= 0 {
		// The server closes a connection that owes bytes.
		body = body[:a.cut]
	}
	_, _ = w.Write(body) // a client that went away
}

// hangUp closes the connection without an answer.
func hangUp(w http.ResponseWriter) {
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "The emulator should close this connection, and cannot: "+err.Error(), http.StatusBadGateway)
		return
	}
	_ = connection.Close() // nobody is to hear of it
}

// Addresses are where Start listens: host:port of a loopback interface. Empty is
// 127.0.0.1 with a free port.
type Addresses struct{ Identity, API, Control string }

// Server is a Cloud on the network.
type Server struct {
	// IdentityURL, APIURL and ControlURL are base URLs without a slash at the end;
	// the control plane is at ControlURL + "/__emu".
	IdentityURL, APIURL, ControlURL string

	cloud   *Cloud
	servers []*http.Server
	running sync.WaitGroup
}

// Start listens. A Cloud may be started once; closing the server closes it.
func (c *Cloud) Start(at Addresses) (*Server, error) {
	s := &Server{cloud: c}
	for _, one := range []struct {
		address string
		url     *string
		handler http.Handler
	}{
		{at.Identity, &s.IdentityURL, c.IdentityHandler()},
		{at.API, &s.APIURL, c.APIHandler()},
		{at.Control, &s.ControlURL, loopbackOnly(c.ControlHandler())},
	} {
		listener, err := listen(one.address)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		*one.url = "http://" + listener.Addr().String()
		server := &http.Server{Handler: one.handler, ReadHeaderTimeout: time.Minute}
		s.servers = append(s.servers, server)
		s.running.Go(func() {
			_ = server.Serve(listener) // until it is closed
		})
	}
	return s, nil
}

func listen(address string) (net.Listener, error) {
	setDefault(&address, "127.0.0.1:0")
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w: listen: %w", fault.Invalid, err)
	}
	if at, ok := listener.Addr().(*net.TCPAddr); !ok || !at.IP.IsLoopback() {
		return nil, errors.Join(fmt.Errorf("%w: %s is not a loopback address", fault.Invalid, address), listener.Close())
	}
	return listener, nil
}

// loopbackOnly keeps pages of other sites out, which a browser can be made to
// send here under a name of theirs.
func loopbackOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.Host
		if host, _, err := net.SplitHostPort(r.Host); err == nil {
			name = host
		}
		ip := net.ParseIP(strings.Trim(name, "[]"))
		if name != "localhost" && (ip == nil || !ip.IsLoopback()) || r.Header.Get("Origin") != "" {
			http.Error(w, "The control plane is for this machine's programs.", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// Close ends all connections and the Cloud.
func (s *Server) Close() error {
	var errs []error
	for _, server := range s.servers {
		errs = append(errs, server.Close())
	}
	s.running.Wait()
	s.cloud.Close()
	return errors.Join(errs...)
}
