package billingsync

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
)

func TestAFailureInOneOrganisationDoesNotEndTheCallForTheOthers(t *testing.T) {
	failed := &sponsor.Failure{Code: "key_invalid", Message: "Invalid Billing Sync Key", Class: fault.Invalid}
	broken := errors.New("a record cannot be read")
	clock := cloudtest.NewClock()
	s := &script{
		reports: []sponsor.TickReport{left(time.Second), left(2 * time.Second), left(3 * time.Second), {}},
		errs:    []error{failed, broken, broken},
	}
	err := scripted(s, clock).Run(clock.Within(t, time.Hour), Tick{At: cloudtest.Epoch, ID: "one"})
	if !errors.Is(err, failed) || !errors.Is(err, broken) || len(s.asked) != 4 {
		t.Fatalf("%v, %d calls", err, len(s.asked))
	}
	if n := strings.Count(err.Error(), broken.Error()); n != 1 {
		t.Errorf("what fails again and again is told %d times: %v", n, err)
	}
}
