// Command latchkey runs Latchkey's functions on a laptop or a server, and is
// the operators' tool: see `latchkey --help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/latchkey-fn/latchkey/local/apiclient"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Exit codes, as --help tells them.
const (
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitDeclined = 4
	// Of a command that could not be run, as in shells.
	exitCannotRun = 126
	exitNoCommand = 127
)

var (
	errUsage    = errors.New("usage")
	errDeclined = errors.New("nothing was done")
	errNoKey    = errors.New("there is no key")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal does not wait for the first
	os.Exit(execute(ctx, &terminal{out: os.Stdout, err: os.Stderr, in: os.Stdin, exec: replaceProcess}, os.Args[1:]))
}

// execute runs one command and gives its exit code.
func execute(ctx context.Context, t *terminal, args []string) int {
	root := newRoot(t)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(t.err, "latchkey:", err)
	if !t.ran {
		return exitUsage
	}
	return exitCode(err)
}

func exitCode(err error) int {
	if own, ok := errors.AsType[*exitError](err); ok {
		return own.code
	}
	switch {
	case errors.Is(err, errDeclined):
		return exitDeclined
	case errors.Is(err, errNoKey), errors.Is(err, errNoSuch), isNotFound(err):
		return exitNotFound
	case errors.Is(err, errUsage):
		return exitUsage
	}
	switch fault.Of(err) {
	// What is not found otherwise is what a setting names.
	case fault.Invalid, fault.NotFound:
		return exitUsage
	default:
		return exitFailed
	}
}

// isNotFound tells whether a server says that there is no such thing.
func isNotFound(err error) bool {
	refusal, ok := errors.AsType[*apiclient.Refusal](err)
	return ok && refusal.Status == http.StatusNotFound
}
