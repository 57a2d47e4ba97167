//go:build cgo && !windows

// Command latchkey-pkcs11 is the part of the pkcs11 provider that needs cgo: it
// loads the vendor's library, holds the sessions of one key, and decrypts. The
// provider starts it, talks to it over a pipe (internal/protocol), and starts
// another when it crashes, hangs or loses its token. It is not for people.
//
// It ends when its standard input does, so it never outlives the provider.
package main

/*
#include <unistd.h>
*/
import "C"

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/latchkey-fn/latchkey/providers/keys/pkcs11/internal/protocol"
)

// farewell is how long a library may take to finalise when the provider has gone.
const farewell = 2 * time.Second

func main() {
	if len(os.Args) > 1 {
		fmt.Fprintln(os.Stderr, "latchkey-pkcs11 takes no arguments; Latchkey's PKCS#11 provider starts it and talks to it over a pipe")
		os.Exit(2)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "latchkey-pkcs11:", err)
		os.Exit(1)
	}
}

func run() error {
	// The provider ends it, also where a terminal or an init system signals all.
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	// A crash in the library must not write the PIN to a core file.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	// Libraries print. What they print to standard output would be taken for
	// our messages, so from here on it goes to standard error.
	fd := C.dup(1)
	if fd < 0 || C.dup2(2, 1) < 0 {
		return errors.New("keep standard output apart from the library's")
	}
	s := &server{out: os.NewFile(uintptr(fd), "messages")}
	in := bufio.NewReader(os.Stdin)
	for {
		var request protocol.Request
		if err := protocol.Read(in, &request); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		go s.handle(request)
	}
	finalised := make(chan struct{})
	go func() { defer close(finalised); s.close() }()
	select {
	case <-finalised:
	case <-time.After(farewell):
	}
	return nil
}

type server struct {
	out   *os.File
	write sync.Mutex

	mu    sync.Mutex
	token *token
}

func (s *server) handle(request protocol.Request) {
	response := s.answer(request)
	response.ID = request.ID
	s.write.Lock()
	defer s.write.Unlock()
	if err := protocol.Write(s.out, response); err != nil {
		// Nobody is left to tell.
		os.Exit(1)
	}
}

func (s *server) answer(request protocol.Request) protocol.Response {
	switch {
	case request.Open != nil:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.token != nil {
			return failed(&protocol.Error{Kind: protocol.BadRequest, Text: "the library is open already"})
		}
		opened, err := open(*request.Open)
		if err != nil {
			return failed(err)
		}
		s.token = opened
		return protocol.Response{Opened: &opened.found}
	case request.Decrypt != nil:
		s.mu.Lock()
		opened := s.token
		s.mu.Unlock()
		if opened == nil {
			return failed(&protocol.Error{Kind: protocol.BadRequest, Text: "the library is not open"})
		}
		plaintext, err := opened.decrypt(*request.Decrypt)
		if err != nil {
			return failed(err)
		}
		return protocol.Response{Plaintext: plaintext}
	default:
		return failed(&protocol.Error{Kind: protocol.BadRequest, Text: "a request that asks for nothing; the helper is of another version than its provider"})
	}
}

func (s *server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token != nil {
		s.token.close()
	}
}

func failed(err error) protocol.Response {
	var e *protocol.Error
	if !errors.As(err, &e) {
		e = &protocol.Error{Text: err.Error()}
	}
	return protocol.Response{Error: e}
}
