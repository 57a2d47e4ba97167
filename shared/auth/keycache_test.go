package auth

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

type countingSource int

func (s *countingSource) load(context.Context) (*keySet, error) {
	*s++
	return &keySet{}, nil
}

// A request that held its token against the old keys while another fetched the
// new ones gets those, and no fetch of its own.
func TestKeysThatWereFetchedMeanwhile(t *testing.T) {
	var source countingSource
	c := &keyCache{
		source: &source, refreshAfter: time.Hour, timeout: time.Minute, now: time.Now,
		log: slog.New(slog.DiscardHandler), onDemand: rate.NewLimiter(rate.Every(onDemandEvery), 1),
	}
	old, err := c.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		newer, err := c.newerThan(t.Context(), old)
		if err != nil || newer == old {
			t.Fatalf("the old keys, or error %v", err)
		}
	}
	if source != 2 {
		t.Errorf("keys were fetched %d times", source)
	}
}
