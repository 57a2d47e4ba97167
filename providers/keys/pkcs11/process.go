package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/latchkey-fn/latchkey/providers/keys/pkcs11/internal/protocol"
)

const (
	// goodbye is how long a helper may take to end by itself after its standard
	// input was closed, and how long a killed one's pipes may stay open because
	// the library started a process that holds them.
	goodbye = 3 * time.Second
	// maxLine and maxOutput bound what a library's chatter may cost us.
	maxLine   = 512
	maxOutput = 64 << 10
)

// process is one running helper. It is used until it fails once.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	write sync.Mutex
	slots chan struct{} // one for each call under way

	mu      sync.Mutex
	next    uint64
	pending map[uint64]chan protocol.Response // nil: takes no more calls
	reason  error                             // why it was ended, when we know

	ended chan struct{} // closed when it was reaped
}

// launch starts a helper; nothing is sent yet. Its life ends with ctx.
func launch(ctx context.Context, c Config) (*process, error) {
	p := &process{
		cmd:     exec.CommandContext(ctx, c.Helper),
		slots:   make(chan struct{}, c.MaxParallel),
		pending: map[uint64]chan protocol.Response{},
		ended:   make(chan struct{}),
	}
	messages, fromHelper := io.Pipe()
	p.cmd.Env = c.environment()
	p.cmd.Stdout = fromHelper
	chatter := &printer{log: c.Log, secret: []byte(c.PIN)}
	p.cmd.Stderr = chatter
	p.cmd.WaitDelay = goodbye
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go p.receive(messages)
	go func() {
		err := p.cmd.Wait()
		if err == nil {
			err = io.EOF
		}
		chatter.flush()
		_ = fromHelper.CloseWithError(err) // never fails
		p.fail(fmt.Errorf("the helper ended: %w", err))
		close(p.ended)
	}()
	return p, nil
}

// receive hands each answer to its call. Anything that is no message ends the
// helper: after one, the next cannot be found.
func (p *process) receive(messages *io.PipeReader) {
	for {
		var response protocol.Response
		if err := protocol.Read(messages, &response); err != nil {
			p.kill(fmt.Errorf("the helper sent %w", err))
			_ = messages.CloseWithError(err) // never fails
			return
		}
		p.mu.Lock()
		answer := p.pending[response.ID]
		delete(p.pending, response.ID)
		p.mu.Unlock()
		if answer == nil {
			continue // its caller was told already
		}
		answer <- response
	}
}

// errGone is any failure of the helper itself: it ended, hung or talked garbage.
var errGone = errors.New("the PKCS#11 helper failed")

// call sends one request and waits for its answer. A helper that does not
// answer within limit is ended, also when the caller has left before.
func (p *process) call(ctx context.Context, limit time.Duration, request protocol.Request) (protocol.Response, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return protocol.Response{}, ctx.Err()
	case <-p.ended:
		return protocol.Response{}, p.gone()
	}
	answer := make(chan protocol.Response, 1)
	p.mu.Lock()
	if p.pending == nil {
		p.mu.Unlock()
		<-p.slots
		return protocol.Response{}, p.gone()
	}
	p.next++
	request.ID = p.next
	p.pending[request.ID] = answer
	p.mu.Unlock()

	watchdog := time.AfterFunc(limit, func() { p.kill(fmt.Errorf("the library did not answer within %s", limit)) })
	result := make(chan protocol.Response, 1)
	// The slot is free when the answer is here, not when the caller leaves: the
	// helper has no more work under way than it has sessions.
	go func() {
		defer func() { watchdog.Stop(); <-p.slots }()
		p.write.Lock()
		err := protocol.Write(p.stdin, request)
		p.write.Unlock()
		if err != nil {
			p.kill(fmt.Errorf("write to the helper: %w", err))
		}
		if response, ok := <-answer; ok {
			result <- response
		}
		close(result)
	}()
	select {
	case response, ok := <-result:
		if !ok {
			return protocol.Response{}, p.gone()
		}
		return response, nil
	case <-ctx.Done():
		return protocol.Response{}, ctx.Err()
	}
}

// fail ends all calls under way and takes no more. The first reason counts.
func (p *process) fail(reason error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reason == nil {
		p.reason = reason
	}
	for _, answer := range p.pending {
		close(answer)
	}
	p.pending = nil
}

// kill ends the helper at once; it is reaped by the goroutine of launch.
func (p *process) kill(reason error) {
	p.fail(reason)
	_ = p.cmd.Process.Kill() // fails only where it has ended already
}

// quit asks the helper to end and waits until it is reaped.
func (p *process) quit(reason error) {
	p.fail(reason)
	_ = p.stdin.Close() // fails only where it has ended already
	select {
	case <-p.ended:
	case <-time.After(goodbye):
		p.kill(reason)
		<-p.ended
	}
}

func (p *process) gone() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Errorf("%w: %w", errGone, p.reason)
}

func (p *process) alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pending != nil
}

// printer logs what the library and the helper print, line by line and
// bounded. Some libraries print what they were called with, so the PIN is cut out.
type printer struct {
	log    *slog.Logger
	secret []byte

	line   []byte
	rest   bool // of a line that was too long: not kept
	logged int
}

func (w *printer) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0 && w.logged < maxOutput; {
		line, after, ends := bytes.Cut(rest, []byte("\n"))
		rest = after
		if !w.rest {
			// The secret may lie across two writes: lines are put together first.
			w.line = append(w.line, line[:min(len(line), maxLine-len(w.line))]...)
			if len(w.line) == maxLine {
				w.rest = true
				w.flush()
			}
		}
		if ends {
			if !w.rest {
				w.flush()
			}
			w.rest = false
		}
	}
	return len(b), nil
}

func (w *printer) flush() {
	text := w.line
	if len(w.secret) > 0 {
		text = bytes.ReplaceAll(text, w.secret, []byte(redacted))
		if w.rest { // cut, perhaps in the middle of the secret
			text = text[:max(0, len(text)-len(w.secret))]
		}
	}
	w.line = w.line[:0]
	w.logged += len(text) + 1
	if text := strings.TrimSpace(strings.ToValidUTF8(string(text), "?")); text != "" {
		w.log.Warn("PKCS#11 library", "output", text)
	}
	if w.logged >= maxOutput {
		w.log.Warn("PKCS#11 library: it prints too much, nothing more of it is logged")
	}
}
