package sponsor

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"github.com/latchkey-fn/latchkey/shared/sponsor/cloud"
)

// Names of metrics.
const (
	MetricRuns          = "sync_runs_total"          // counter: status, trigger
	MetricBatchDuration = "sync_batch_duration"      // seconds: outcome
	MetricItems         = "sync_items_total"         // counter: outcome
	MetricRetries       = "sync_retries_total"       // counter: code
	MetricTokens        = "token_requests_total"     // counter: result
	MetricSuccessAge    = "last_success_age_seconds" // gauge: organization
	MetricPending       = "pending_offers"           // gauge: organization
	MetricOldestPending = "oldest_pending_age"       // gauge: organization
	MetricClockSkew     = "clock_skew_seconds"       // gauge
)

// MetricKind is how values of a metric are put together.
type MetricKind string

// Kinds.
const (
	Counter MetricKind = "counter" // summed up
	Gauge   MetricKind = "gauge"   // the last one counts
	Seconds MetricKind = "seconds" // a distribution
)

// Measurement is one value of a metric.
type Measurement struct {
	Name   string
	Kind   MetricKind
	Value  float64
	Labels map[string]string
}

// Metrics takes measurements. It is called from several goroutines, and does not
// block.
type Metrics interface {
	Record(context.Context, Measurement)
}

type noMetrics struct{}

func (noMetrics) Record(context.Context, Measurement) {}

// LogMetrics writes each measurement as a line of the log.
type LogMetrics struct{ Logger *slog.Logger }

// Record implements Metrics.
func (m LogMetrics) Record(ctx context.Context, of Measurement) {
	attributes := []slog.Attr{slog.String("metric", of.Name), slog.String("kind", string(of.Kind)), slog.Float64("value", of.Value)}
	for _, name := range slices.Sorted(maps.Keys(of.Labels)) {
		attributes = append(attributes, slog.String(name, of.Labels[name]))
	}
	m.Logger.LogAttrs(ctx, slog.LevelInfo, "metric", attributes...)
}

func (s *Sync) count(ctx context.Context, name string, n int, labels map[string]string) {
	if n > 0 {
		s.metrics.Record(ctx, Measurement{Name: name, Kind: Counter, Value: float64(n), Labels: labels})
	}
}

func (s *Sync) gauge(ctx context.Context, name string, value float64, labels map[string]string) {
	s.metrics.Record(ctx, Measurement{Name: name, Kind: Gauge, Value: value, Labels: labels})
}

// observeCall is told of every request to the cloud.
func (s *Sync) observeCall(ctx context.Context, call cloud.Call) {
	result := string(call.Code)
	if result == "" {
		result = "ok"
	}
	switch call.Stage {
	case cloud.StageToken:
		s.count(ctx, MetricTokens, 1, map[string]string{"result": result})
	case cloud.StageSync:
		s.metrics.Record(ctx, Measurement{
			Name: MetricBatchDuration, Kind: Seconds, Value: call.Duration.Seconds(), Labels: map[string]string{"outcome": result},
		})
	}
	if call.Skew != nil {
		s.gauge(ctx, MetricClockSkew, call.Skew.Seconds(), nil)
	}
}
