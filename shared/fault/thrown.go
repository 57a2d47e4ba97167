package fault

import (
	"fmt"
	"log/slog"
	"runtime"
)

// Thrown describes a recovered panic for the log. The value of a panic may hold
// anything, a key included, so only its type is told, and what the runtime
// itself said; and unlike debug.Stack the stack shows no argument. It is called
// by the deferred function itself.
func Thrown(value any) []slog.Attr {
	text := fmt.Sprintf("%T", value)
	if err, ok := value.(runtime.Error); ok {
		text = err.Error()
	}
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	var lines []string
	for {
		frame, more := frames.Next()
		lines = append(lines, fmt.Sprintf("%s %s:%d", frame.Function, frame.File, frame.Line))
		if !more {
			return []slog.Attr{slog.String("panic", text), slog.Any("stack", lines)}
		}
	}
}
