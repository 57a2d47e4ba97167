package sponsor_test

import (
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

func TestASyncByHandDoesNotWaitForADayBecauseTheCloudAskedForIt(t *testing.T) {
	w := offering(t, 1)
	w.faultSyncs(emulator.Fault{Action: emulator.Status, Status: 429, Headers: map[string]string{"Retry-After": "86400"}, Times: 1})
	waiting, err := w.sync()
	if !isLeft(err) {
		t.Fatal(err)
	}
	w.Clock.Pass(time.Hour)
	if run, err := w.TriggerRun(t.Context(), w.Org, sponsor.BySchedule); err != nil || run.ID != waiting.ID || run.NotBefore.IsZero() {
		t.Fatalf("%+v %v", run, err)
	}
	if run := w.queue(); run.ID != waiting.ID || !run.NotBefore.IsZero() {
		t.Fatalf("%+v", run)
	}
	if run, err := w.Run(t.Context(), w.Org); err != nil || run.ID != waiting.ID || run.Status != sponsor.Completed {
		t.Fatalf("%+v %v", run, err)
	}
	w.expectCloud(1, 1)
}

func TestASyncByHandWaitsForWhatTheCloudMayStillDo(t *testing.T) {
	w := offering(t, 1)
	w.faultSyncs(emulator.Fault{Action: emulator.Close, When: emulator.AfterCommit, Times: 1})
	at := w.Clock.Now()
	w.queue()
	if _, err := w.Run(w.Clock.Within(t, 80*time.Second), w.Org); !isLeft(err) {
		t.Fatal(err)
	}
	w.queue()
	if run, err := w.Run(t.Context(), w.Org); err != nil || !run.Status.Finished() {
		t.Fatalf("%+v %v", run, err)
	}
	if apart := w.Clock.Now().Sub(at); apart < 2*time.Minute {
		t.Errorf("sent again after %s", apart)
	}
	w.expectGood()
}

func TestEveryTickTellsHowLongAgoTheLastSuccessWas(t *testing.T) {
	w := sent(t, 1)
	w.rotateKey()
	w.mustFail("key_invalid") // and the schedule waits for another
	for hours := range 3 {
		w.Clock.Pass(24 * time.Hour)
		if _, err := w.tick(); err != nil {
			t.Fatal(err)
		}
		if age, told := w.metrics.last(sponsor.MetricSuccessAge); !told || age < float64(hours+1)*86_400 {
			t.Errorf("after %d days: %v, %v", hours+1, age, told)
		}
	}
	// Nobody wants to know that of a connection that is switched off.
	_, err := w.UpdateConnection(t.Context(), sponsor.Connect{Organization: w.Org})
	w.Must(err)
	before, _ := w.metrics.last(sponsor.MetricSuccessAge)
	w.Clock.Pass(24 * time.Hour)
	if _, err := w.tick(); err != nil {
		t.Fatal(err)
	}
	if age, _ := w.metrics.last(sponsor.MetricSuccessAge); age != before {
		t.Errorf("%v", age)
	}
}
