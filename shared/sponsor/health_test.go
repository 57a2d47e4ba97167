package sponsor_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// gathering is a store whose reads of schedules wait until as many are under way
// as there are places. There must not be more.
type gathering struct {
	store.Driver
	places chan struct{}
	full   chan struct{}
	once   sync.Once
}

func (g *gathering) Get(ctx context.Context, collection, id string) (store.Document, error) {
	if collection == "sync-schedules" {
		select {
		case g.places <- struct{}{}:
			if len(g.places) == cap(g.places) {
				g.once.Do(func() {
					time.Sleep(50 * time.Millisecond) // for one too many to come
					close(g.full)
				})
			}
		default:
			return store.Document{}, fmt.Errorf("%w: more reads at once than there should be", fault.Denied)
		}
		select {
		case <-g.full:
		case <-ctx.Done():
			return store.Document{}, fmt.Errorf("%w: the reads are done one after another", fault.Transient)
		}
		defer func() { <-g.places }()
	}
	return g.Driver.Get(ctx, collection, id)
}

func TestHealthReadsSchedulesBesideEachOther(t *testing.T) {
	const atOnce, organizations = 8, 12
	w := connected(t)
	for range organizations - 1 {
		organization, err := w.Cloud.AddOrganization(emulator.Organization{})
		w.Must(err)
		key, err := w.Cloud.RotateKey(organization.ID)
		w.Must(err)
		w.Org, w.Cloud.OrgID, w.Cloud.Key = newGUID(), organization.ID, key
		w.Upload()
		w.Connect()
	}
	w.Config.Store = store.New(&gathering{Driver: w.faults, places: make(chan struct{}, atOnce), full: make(chan struct{})})
	w.Restart()
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	health, err := w.Health(ctx)
	if err != nil || len(health) != organizations {
		t.Fatalf("%+v %v", health, err)
	}
	seen := map[string]bool{}
	for _, h := range health {
		seen[h.Organization] = true
		if h.NextDue == nil {
			t.Errorf("%+v", h)
		}
	}
	if len(seen) != organizations {
		t.Errorf("it is of %v", seen)
	}
}

func TestHealthIsNotKnownWhereAScheduleCannotBeRead(t *testing.T) {
	w := connected(t)
	w.faults.Inject(storetest.Fault{Method: storetest.Get, Collection: "sync-schedules"})
	if _, err := w.Health(t.Context()); fault.Of(err) != fault.Transient {
		t.Error(err)
	}
}
