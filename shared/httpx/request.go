// Package httpx is what every function's HTTP side has in common: a request id,
// one log line a request, recovery, a deadline, a bounded body, CORS, and the
// error bodies that clients of each system can read.
package httpx

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// RequestIDHeader carries the request id in both directions. A host that has
// an id of its own for the request puts it there.
const RequestIDHeader = "X-Request-Id"

// Options say how a function's requests are bounded and logged.
type Options struct {
	// Function is the name in the log lines.
	Function string
	Logger   *slog.Logger
	// Timeout bounds the whole request; the handler sees it as its context's
	// deadline and can still answer.
	Timeout time.Duration
	// MaxBody bounds the request body, in bytes.
	MaxBody int64
}

// Wrap puts around a handler what all functions need.
func Wrap(h http.Handler, o Options) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		notes := &notes{id: requestID(r)}
		ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), notesKey{}, notes), o.Timeout)
		defer cancel()

		w.Header().Set(RequestIDHeader, notes.id)
		r = r.WithContext(ctx)
		r.Body = http.MaxBytesReader(w, r.Body, o.MaxBody)
		recorder := &statusRecorder{ResponseWriter: w}

		defer func() {
			level := slog.LevelInfo
			thrown := recover()
			aborted := thrown == http.ErrAbortHandler //nolint:errorlint // net/http compares it so
			if thrown != nil && !aborted {
				notes.add(fault.Thrown(thrown)...)
				aborted = recorder.status != 0
				if !aborted {
					WriteBitwardenError(recorder, http.StatusInternalServerError, "An unexpected error has occurred.")
				}
			}
			if aborted {
				// An answer that broke off must not look whole: the connection
				// breaks off, too.
				notes.add(slog.Bool("aborted", true))
				defer panic(http.ErrAbortHandler)
			}
			if thrown != nil || recorder.status >= http.StatusInternalServerError {
				level = slog.LevelError
			}
			attributes := append([]slog.Attr{
				slog.String("function", o.Function),
				slog.String("requestId", notes.id),
				slog.String("method", r.Method),
				slog.String("path", r.URL.Path),
				slog.Int("status", recorder.status),
				slog.Float64("durationMs", float64(time.Since(begin).Microseconds())/1000),
			}, notes.all()...)
			o.Logger.LogAttrs(ctx, level, "request", attributes...)
		}()
		h.ServeHTTP(recorder, r)
	})
}

// Below serves requests below a path as those at the root, and all others as
// they are: whether a reverse proxy cuts a prefix is not ours to know.
func Below(prefix string, h http.Handler) http.Handler {
	if prefix == "" {
		return h
	}
	stripped := http.StripPrefix(prefix, h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.EscapedPath(), prefix+"/") {
			stripped.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// Note adds to the request's log line.
func Note(ctx context.Context, attributes ...slog.Attr) {
	if n, ok := ctx.Value(notesKey{}).(*notes); ok {
		n.add(attributes...)
	}
}

// RequestID is the id of the request that ctx belongs to.
func RequestID(ctx context.Context) string {
	if n, ok := ctx.Value(notesKey{}).(*notes); ok {
		return n.id
	}
	return ""
}

// ClientAddress is the address of the peer, without its port. Behind a reverse
// proxy that is the proxy's: a header that any caller can write is not trusted.
func ClientAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr // gateways give the address alone
	}
	return host
}

// Network is what one client can be expected to have: an IPv4 address, or the
// /64 of an IPv6 address. The address may have a port; whatever is no address
// is the zero prefix.
func Network(address string) netip.Prefix {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		withPort, err := netip.ParseAddrPort(address)
		if err != nil {
			return netip.Prefix{}
		}
		ip = withPort.Addr()
	}
	ip = ip.Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	// A valid address has a prefix of any length up to its own.
	prefix, _ := ip.Prefix(bits)
	return prefix
}

var sane = regexp.MustCompile(`^[A-Za-z0-9._=:-]{8,128}$`)

func requestID(r *http.Request) string {
	if id := r.Header.Get(RequestIDHeader); sane.MatchString(id) {
		return id
	}
	return uuid.NewString()
}

type notesKey struct{}

type notes struct {
	id         string
	mu         sync.Mutex
	attributes []slog.Attr
}

func (n *notes) add(attributes ...slog.Attr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attributes = append(n.attributes, attributes...)
}

func (n *notes) all() []slog.Attr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.attributes
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (s *statusRecorder) WriteHeader(status int) {
	if s.status != 0 {
		return
	}
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

func (s *statusRecorder) Write(b []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	return s.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the server's own writer.
func (s *statusRecorder) Unwrap() http.ResponseWriter { return s.ResponseWriter }
