// Command latchkey runs Latchkey's functions on a laptop or a server, and is
// the operators' tool: see `latchkey --help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Exit codes, as --help tells them.
const (
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitDeclined = 4
)

var (
	errUsage    = errors.New("usage")
	errDeclined = errors.New("nothing was done")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	err := root.ExecuteContext(ctx)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "latchkey:", err)
	stop()
	os.Exit(exitCode(err))
}

func exitCode(err error) int {
	switch {
	case errors.Is(err, errDeclined):
		return exitDeclined
	case errors.Is(err, errUsage), fault.Of(err) == fault.Invalid:
		return exitUsage
	case fault.Of(err) == fault.NotFound:
		return exitNotFound
	default:
		return exitFailed
	}
}
