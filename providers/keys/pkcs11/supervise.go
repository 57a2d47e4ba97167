package pkcs11

import (
	"context"
	"crypto/rsa"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/latchkey-fn/latchkey/providers/keys/pkcs11/internal/protocol"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
)

// supervisor keeps one helper running: it starts it when it is needed, once for
// however many callers wait, starts another when that one is lost, more and
// more slowly while that does not help, and never once a PIN was refused.
type supervisor struct {
	config Config
	life   context.Context // ends with Close
	end    context.CancelFunc
	group  sync.WaitGroup // everything started

	mu       sync.Mutex
	current  *session
	starting *start
	pause    *backoff.ExponentialBackOff
	failures int   // starts and losses since a call last succeeded
	unclear  int   // logins in a row that failed without saying why
	latched  error // a PIN was refused: no login any more
	closed   bool
	public   *rsa.PublicKey
}

// session is a helper that is logged in, with the key it found.
type session struct {
	*process
	ref    kms.Ref
	public *rsa.PublicKey
}

var errClosed = fmt.Errorf("%w: the PKCS#11 key is closed", fault.Invalid)

type start struct {
	done    chan struct{}
	session *session
	err     error
}

func supervise(c Config) *supervisor {
	s := &supervisor{config: c, public: c.Public}
	s.life, s.end = context.WithCancel(context.Background())
	s.pause = backoff.NewExponentialBackOff()
	s.pause.InitialInterval = 100 * time.Millisecond
	s.pause.MaxInterval = 5 * time.Second
	return s
}

// session gives the running helper, or waits for one to start.
func (s *supervisor) session(ctx context.Context) (*session, error) {
	if ctx.Err() != nil {
		return nil, interrupted(ctx)
	}
	s.mu.Lock()
	if s.latched != nil || s.current != nil && s.current.alive() {
		defer s.mu.Unlock()
		return s.current, s.latched
	}
	if s.closed {
		s.mu.Unlock()
		return nil, errClosed
	}
	if s.current != nil {
		s.lose(s.current, nil)
	}
	if s.starting == nil {
		st := &start{done: make(chan struct{})}
		s.starting = st
		var wait time.Duration
		if s.failures > 1 { // the first loss is answered at once
			wait = s.pause.NextBackOff()
		}
		s.group.Go(func() { s.start(st, wait) })
	}
	st := s.starting
	s.mu.Unlock()

	select {
	case <-st.done:
		return st.session, st.err
	case <-ctx.Done():
		return nil, interrupted(ctx)
	}
}

// start does not depend on any caller's context: others may wait for it, and a
// login that was begun is better ended.
func (s *supervisor) start(st *start, wait time.Duration) {
	select {
	case <-time.After(wait):
		st.session, st.err = s.open()
	case <-s.life.Done():
		st.err = errClosed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starting = nil
	switch {
	case st.err != nil:
		s.failures++
	case s.closed:
		st.session.quit(errClosed)
		st.session, st.err = nil, errClosed
	default:
		s.current, s.unclear = st.session, 0
	}
	close(st.done)
}

// open starts a helper and has it log in and find the key.
func (s *supervisor) open() (*session, error) {
	p, err := launch(s.life, s.config)
	if err != nil {
		return nil, fmt.Errorf("%w: start the PKCS#11 helper: %w", fault.Transient, err)
	}
	opened, err := s.login(p)
	if err != nil {
		p.quit(err)
		return nil, err
	}
	return opened, nil
}

func (s *supervisor) login(p *process) (*session, error) {
	response, err := p.call(s.life, s.config.StartTimeout, protocol.Request{Open: s.config.request()})
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: open the PKCS#11 token: %w", fault.Transient, err)
	case response.Error != nil:
		return nil, s.refused(response.Error)
	case response.Opened == nil:
		return nil, fmt.Errorf("%w: the PKCS#11 helper gives another answer than asked for; it is of another version than this program", fault.Invalid)
	}
	public, err := s.publicKey(response.Opened)
	if err != nil {
		return nil, err
	}
	version, err := kms.PublicVersion(public)
	if err != nil {
		return nil, err
	}
	ref := kms.Ref{Provider: provider, ID: keyURI(response.Opened), Version: version}
	return &session{process: p, ref: ref, public: public}, nil
}

// unclearLogins is how many logins may fail in a row without the token saying
// why, before they count as refused. Tokens lock after three or more.
const unclearLogins = 2

// refused classifies why the token could not be opened, and remembers for good
// that a PIN was wrong.
func (s *supervisor) refused(e *protocol.Error) error {
	switch e.Kind {
	case protocol.LoginWithheld:
		return fmt.Errorf("%w: open the PKCS#11 token: %w", fault.Denied, e)
	case protocol.Login:
	default:
		return fmt.Errorf("open the PKCS#11 token: %w", asError(e))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if wrongPIN(e.Code) {
		s.unclear = unclearLogins
	} else if !lostToken(e.Code) && e.Code != generalError && e.Code != deviceError {
		s.unclear++
	}
	if s.unclear < unclearLogins {
		return fmt.Errorf("open the PKCS#11 token: %w", asError(e))
	}
	s.latched = fmt.Errorf("%w: %w. No further login is tried with this PIN, since wrong ones lock the token: "+
		"check the PIN and the user type in the configuration and the state of the token with the vendor's tool, then restart", fault.Denied, e)
	return s.latched
}

// publicKey takes the token's word, or the configuration's where the token says
// nothing. It never changes while this process lives: a token with another key
// under the same name is not the one that was described.
func (s *supervisor) publicKey(o *protocol.Opened) (*rsa.PublicKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(o.Modulus) == 0 {
		if s.public == nil {
			return nil, fmt.Errorf("%w: the token no longer shows the public key", fault.Invalid)
		}
		return s.public, nil
	}
	exponent := new(big.Int).SetBytes(o.Exponent)
	if exponent.BitLen() > 31 {
		return nil, fmt.Errorf("%w: the key's public exponent is too large", fault.Invalid)
	}
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(o.Modulus), E: int(exponent.Int64())}
	if err := kms.CheckRSA(public); err != nil {
		return nil, fmt.Errorf("the key of the token: %w", err)
	}
	if s.public != nil && !s.public.Equal(public) {
		return nil, fmt.Errorf("%w: the private key %q of the token %q does not belong to the public key (certificate) that was given, or was replaced",
			fault.Invalid, o.KeyLabel, o.TokenLabel)
	}
	s.public = public
	return public, nil
}

// keyURI names the key by what the token itself keeps for ever, in the words of
// RFC 7512: with the provider's name and a colon in front it is a PKCS#11 URI.
func keyURI(o *protocol.Opened) string {
	var parts []string
	if o.TokenSerial != "" {
		parts = append(parts, "serial="+url.PathEscape(o.TokenSerial))
	} else {
		parts = append(parts, "token="+url.PathEscape(o.TokenLabel))
	}
	if len(o.KeyID) > 0 {
		var id strings.Builder
		for _, b := range o.KeyID {
			fmt.Fprintf(&id, "%%%02x", b)
		}
		parts = append(parts, "id="+id.String())
	} else {
		parts = append(parts, "object="+url.PathEscape(o.KeyLabel))
	}
	return strings.Join(parts, ";")
}

// retire ends a helper that was lost, unless somebody else has done so.
func (s *supervisor) retire(lost *session, reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == lost {
		s.lose(lost, reason)
	}
}

// lose is called with the lock held.
func (s *supervisor) lose(lost *session, reason error) {
	if reason == nil {
		reason = lost.gone()
	}
	s.config.Log.Warn("PKCS#11: the helper is replaced", "reason", reason.Error())
	s.current = nil
	s.failures++
	s.group.Go(func() { lost.quit(reason) })
}

// worked ends the pauses.
func (s *supervisor) worked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures > 0 {
		s.failures = 0
		s.pause.Reset()
	}
}

// refusedInUse is for a login at one use of the key.
func (s *supervisor) refusedInUse(lost *session, e *protocol.Error) error {
	s.retire(lost, e)
	return s.refused(e)
}

func (s *supervisor) close() error {
	s.mu.Lock()
	current := s.current
	s.current, s.closed = nil, true
	s.mu.Unlock()
	if current != nil {
		current.quit(errClosed)
	}
	s.end()
	s.group.Wait()
	return nil
}
