package awslambda

import (
	"bytes"
	"net/http"
)

// maxAnswer bounds an answer's body: in base64 it still fits the 6 MB that
// Lambda carries, with its headers.
const maxAnswer = 4 << 20

// answer is a ResponseWriter that keeps to net/http's rules where the adapter's
// own does not: the first status counts, headers set after it do not, some
// statuses have no body, nothing written is a 200. A status that is none is a 500.
type answer struct {
	method   string
	header   http.Header
	status   int
	sent     http.Header
	body     bytes.Buffer
	tooLarge bool
}

func newAnswer(method string) *answer {
	return &answer{method: method, header: make(http.Header)}
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status != 0 || (status >= 100 && status < 200) { // a gateway passes no interim answer on
		return
	}
	if status < 100 || status > 599 {
		status = http.StatusInternalServerError
	}
	a.status, a.sent = status, a.header.Clone()
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if !a.hasBody() {
		return len(b), http.ErrBodyNotAllowed
	}
	if a.body.Len()+len(b) > maxAnswer {
		a.tooLarge = true
		return 0, errTooLarge
	}
	return a.body.Write(b)
}

func (a *answer) hasBody() bool {
	return a.status != http.StatusNoContent && a.status != http.StatusNotModified
}

func (a *answer) copyTo(w http.ResponseWriter) {
	a.WriteHeader(http.StatusOK)
	for name, values := range a.sent {
		w.Header()[name] = values
	}
	// These are the gateway's to set.
	for _, name := range []string{"Connection", "Content-Length", "Transfer-Encoding"} {
		w.Header().Del(name)
	}
	w.WriteHeader(a.status)
	if a.body.Len() > 0 && a.method != http.MethodHead {
		_, _ = w.Write(a.body.Bytes()) // into a buffer, which cannot fail
	}
}
