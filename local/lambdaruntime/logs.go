package lambdaruntime

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// maxLine is where a line is cut that does not end.
const maxLine = 256 << 10

// sharedWriter lets many instances write whole lines to one place. A place that
// fails must not stop the instances; its first error is kept for Close.
type sharedWriter struct {
	mu    sync.Mutex
	w     io.Writer
	first error
}

func (s *sharedWriter) line(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.w.Write(b); err != nil && s.first == nil {
		s.first = fmt.Errorf("write the functions' logs: %w", err)
	}
}

func (s *sharedWriter) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}

// lineWriter cuts one instance's output into lines.
type lineWriter struct {
	to   *sharedWriter
	rest []byte
}

func (l *lineWriter) Write(b []byte) (int, error) {
	l.rest = append(l.rest, b...)
	for {
		end := bytes.IndexByte(l.rest, '\n') + 1
		if end == 0 {
			if len(l.rest) < maxLine {
				return len(b), nil
			}
			end = len(l.rest)
		}
		l.to.line(l.rest[:end])
		l.rest = l.rest[end:]
	}
}

// flush writes what came after the last line break.
func (l *lineWriter) flush() {
	if len(l.rest) > 0 {
		l.to.line(append(l.rest, '\n'))
		l.rest = nil
	}
}
