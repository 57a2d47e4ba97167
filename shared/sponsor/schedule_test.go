package sponsor

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestT122AHundredInstallationsComeAtDifferentTimes(t *testing.T) {
	const organization = "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"
	now := time.Date(2031, 3, 5, 17, 30, 0, 0, time.UTC)
	quarters, times := [4]int{}, map[time.Time]bool{}
	for i := range 100 {
		id := uuid.NewSHA1(uuid.Nil, []byte{byte(i)}).String()
		slot := firstSlot(id, organization, now)
		if !slot.After(now) || slot.After(now.Add(day)) {
			t.Fatalf("the first slot is %s", slot)
		}
		if again := firstSlot(id, organization, now.Add(time.Minute)); slot.After(now.Add(time.Minute)) && !again.Equal(slot) {
			t.Fatalf("it moves from %s to %s", slot, again)
		}
		quarters[slot.Hour()/6]++
		times[slot] = true
	}
	for i, n := range quarters {
		if n < 12 || n > 40 {
			t.Errorf("quarter %d of the day has %d of 100", i, n)
		}
	}
	if len(times) < 95 {
		t.Errorf("%d different times", len(times))
	}
}
