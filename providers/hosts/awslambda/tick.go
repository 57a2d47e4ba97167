package awslambda

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/aws/aws-lambda-go/lambda"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Tick is a call of a function that is not asked by HTTP. EventBridge Scheduler
// makes one with the input
//
//	{"time": "<aws.scheduler.scheduled-time>", "id": "<aws.scheduler.execution-id>"}
//
// and delivers it at least once. Somebody who wants something done at once
// invokes the function with {"organization": "…"}.
type Tick struct {
	// At is when the schedule had it; the zero time in a call by somebody.
	At time.Time
	// ID is the same in each delivery of one tick.
	ID string
	// Organization is empty in a call by the schedule.
	Organization string
}

// tickEvent is a Tick on the wire.
type tickEvent struct {
	Time         string `json:"time"`
	ID           string `json:"id"`
	Organization string `json:"organization"`
}

// read makes a Tick of an event, of which there are the two kinds.
func (e tickEvent) read() (Tick, error) {
	if e.Organization != "" {
		return Tick{ID: e.ID, Organization: e.Organization}, nil
	}
	at, err := time.Parse(time.RFC3339, e.Time)
	if err != nil || e.ID == "" {
		return Tick{}, fmt.Errorf("%w: this event is no tick; set the schedule's input to {\"time\": \"<aws.scheduler.scheduled-time>\", \"id\": \"<aws.scheduler.execution-id>\"}", fault.Invalid)
	}
	return Tick{At: at, ID: e.ID}, nil
}

// StartTick serves ticks until Lambda ends the process. It does not return.
func StartTick(run func(context.Context, Tick) error) {
	lambda.StartHandlerFunc(TickHandler(run))
}

// TickHandler is what StartTick gives to Lambda. The function sees a context
// that ends a little before Lambda would kill the process; its error, and a
// panic, make the invocation a failed one.
func TickHandler(run func(context.Context, Tick) error) func(context.Context, tickEvent) (struct{}, error) {
	return func(ctx context.Context, event tickEvent) (_ struct{}, err error) {
		tick, err := event.read()
		if err != nil {
			return struct{}{}, err
		}
		ctx, cancel := withReserve(ctx)
		defer cancel()
		defer func() {
			if thrown := recover(); thrown != nil {
				slog.LogAttrs(ctx, slog.LevelError, "panic in the function", append(fault.Thrown(thrown), slog.String("tick", tick.ID))...)
				err = errors.New("panic in the function")
			}
			if err != nil {
				slog.ErrorContext(ctx, "the tick failed", "tick", tick.ID, "error", err.Error())
			}
		}()
		return struct{}{}, run(ctx, tick)
	}
}
