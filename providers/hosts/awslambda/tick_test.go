package awslambda

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

func TestTicks(t *testing.T) {
	at := time.Date(2026, 9, 1, 12, 15, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		event string
		want  Tick
	}{
		"the schedule's":         {`{"time":"2026-09-01T12:15:00Z","id":"d32c5kddcf5bb8c3"}`, Tick{At: at, ID: "d32c5kddcf5bb8c3"}},
		"somebody's":             {`{"organization":"5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"}`, Tick{Organization: "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"}},
		"with members of others": {`{"time":"2026-09-01T14:15:00+02:00","id":"x","version":"0"}`, Tick{At: at, ID: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got Tick
			err := sendTick(t, t.Context(), c.event, func(_ context.Context, tick Tick) error { got = tick; return nil })
			if err != nil || !got.At.Equal(c.want.At) || got.ID != c.want.ID || got.Organization != c.want.Organization {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func sendTick(t *testing.T, ctx context.Context, text string, run func(context.Context, Tick) error) error {
	t.Helper()
	var event tickEvent
	if err := json.Unmarshal([]byte(text), &event); err != nil {
		t.Fatal(err)
	}
	_, err := TickHandler(run)(ctx, event)
	return err
}

func TestWhatIsNoTickFails(t *testing.T) {
	for _, event := range []string{
		`{}`, `{"time":"2026-09-01T12:15:00Z"}`, `{"id":"x"}`, `{"time":"<aws.scheduler.scheduled-time>","id":"<aws.scheduler.execution-id>"}`,
		`{"version":"2.0","rawPath":"/"}`,
	} {
		err := sendTick(t, t.Context(), event, func(context.Context, Tick) error { t.Error("it is run"); return nil })
		if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "aws.scheduler.scheduled-time") {
			t.Errorf("%s: %v", event, err)
		}
	}
}

const oneTick = `{"time":"2026-09-01T12:15:00Z","id":"x"}`

func TestATickEndsBeforeLambdaDoes(t *testing.T) {
	end := time.Now().Add(time.Hour)
	ctx, cancel := context.WithDeadline(t.Context(), end)
	defer cancel()
	err := sendTick(t, ctx, oneTick, func(ctx context.Context, _ Tick) error {
		if deadline, ok := ctx.Deadline(); !ok || !deadline.Equal(end.Add(-reserve)) {
			t.Errorf("the deadline is %v, that of Lambda %v", deadline, end)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAFailedTickIsAFailedInvocation(t *testing.T) {
	logs := captureLog(t)
	why := errors.New("the run failed")
	if err := sendTick(t, t.Context(), oneTick, func(context.Context, Tick) error { return why }); !errors.Is(err, why) {
		t.Error(err)
	}
	if !strings.Contains(logs.String(), "the run failed") {
		t.Errorf("the log is %s", logs)
	}
	if err := sendTick(t, t.Context(), oneTick, func(context.Context, Tick) error { panic("broken") }); err == nil {
		t.Error("a panic is a success")
	}
	if !strings.Contains(logs.String(), "panic in the function") {
		t.Errorf("the log is %s", logs)
	}
}
