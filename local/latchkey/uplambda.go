package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/local/lambdaruntime"
	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// lambdaFunctions are the functions that have to have a Lambda binary.
var lambdaFunctions = []string{
	"keyconnector", "tokenexchange", "tokenrevoke", "machineaccounts", "secrets", "sponsorships", scheduledFunction,
}

// scheduledFunction is the one that is not asked by HTTP.
const scheduledFunction = "billingsync"

// What the AWS template gives Billing sync.
const (
	scheduledTimeout = 15 * time.Minute
	askedTimeout     = 28 * time.Second
	eventRetries     = 1
)

// openLambda puts each function's binary behind the Lambda runtime.
func (f upFlags) openLambda(_ context.Context, t *terminal, parts *house.Closers, s upSettings, log *slog.Logger) (http.Handler, error) {
	run := func(c lambdaruntime.Config) (*lambdaruntime.Function, error) {
		c.Bootstrap, c.Logs = f.bootstrap(c.Name), t.err
		function, err := lambdaruntime.New(c)
		if err == nil {
			parts.Add(function)
		}
		return function, err
	}
	// Functions that nobody asks contact nothing: these only tell their paths.
	nobodys := &house.Parts{Store: memory.New()}
	list, err := s.secretsManager.Functions(nobodys, log)
	if err != nil {
		return nil, err
	}
	syncing, err := s.billingSync.Open(nobodys, log, house.SyncingOptions{})
	if err != nil {
		return nil, err
	}
	parts.Add(syncing)

	mux := http.NewServeMux()
	keyConnector, err := run(lambdaruntime.Config{Name: "keyconnector", Env: s.environment})
	if err != nil {
		return nil, err
	}
	mux.Handle("/", keyConnector.Handler())
	for i := range list {
		function, err := run(lambdaruntime.Config{Name: list[i].Name, Env: s.environment})
		if err != nil {
			return nil, err
		}
		list[i].Handler = function.Handler()
	}
	s.secretsManager.Gather(mux, list)

	scheduled, err := run(lambdaruntime.Config{Name: scheduledFunction, Env: s.billing, Timeout: scheduledTimeout})
	if err != nil {
		return nil, err
	}
	queue, err := lambdaruntime.NewQueue(lambdaruntime.QueueConfig{Functions: []*lambdaruntime.Function{scheduled}, Retries: eventRetries})
	if err != nil {
		return nil, err
	}
	parts.Add(queue)
	asking := maps.Clone(s.billing)
	asking["LATCHKEY_SYNC_FUNCTION"], asking["LATCHKEY_LAMBDA_ENDPOINT"] = scheduledFunction, queue.URL
	asked, err := run(lambdaruntime.Config{Name: syncing.Function.Name, Env: asking, Timeout: askedTimeout})
	if err != nil {
		return nil, err
	}
	syncing.Function.Handler = asked.Handler()
	ticks := &schedule{send: func(event []byte) error {
		_, err := queue.Send(scheduledFunction, event)
		return err
	}, every: house.TickEvery, log: log}
	ticks.start()
	parts.Add(ticks)
	return syncing.Mount(mux), nil
}

// schedule is a schedule of EventBridge Scheduler: it sends an event now, and
// from then on one in every interval.
type schedule struct {
	send  func(event []byte) error
	every time.Duration
	log   *slog.Logger

	stop context.CancelFunc
	done sync.WaitGroup
}

func (s *schedule) start() {
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	s.done.Go(func() {
		ticker := time.NewTicker(s.every)
		defer ticker.Stop()
		for at := time.Now(); ; {
			if err := s.tick(at); err != nil {
				s.log.Error("the schedule's event was not taken", "error", err.Error())
			}
			select {
			case at = <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	})
}

// tick sends what the AWS template has the scheduler send.
func (s *schedule) tick(at time.Time) error {
	event, err := json.Marshal(map[string]string{"time": at.UTC().Format(time.RFC3339), "id": uuid.NewString()})
	if err != nil {
		return fmt.Errorf("%w: encode an event: %w", fault.Invalid, err)
	}
	return s.send(event)
}

// Close ends the schedule.
func (s *schedule) Close() error {
	s.stop()
	s.done.Wait()
	return nil
}
