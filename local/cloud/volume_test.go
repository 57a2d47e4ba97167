package cloud_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/cloud"
)

// A client that repeats each batch until it is answered, and sends deletes
// without a lastSyncDate, ends with what it wanted whatever gets lost.
func TestARepeatingClientConverges(t *testing.T) {
	const offers, batch = 10_000, 250
	for seed := range uint64(3) {
		w := newWorld(t, cloud.Config{Seed: seed})
		random := rand.New(rand.NewPCG(seed, 1))
		lossy := func(r cloud.Request) bool { return random.IntN(4) == 0 }
		w.token = w.newToken("api.installation")
		w.faults(
			cloud.Fault{Match: cloud.Match{Route: cloud.RouteSync, Func: lossy}, When: cloud.AfterMail, Action: cloud.Close},
			cloud.Fault{Match: cloud.Match{Route: cloud.RouteSync, Func: lossy}, When: cloud.AfterCommit, Action: cloud.Status, Status: 500},
		)
		live := map[string]bool{}
		send := func(items []item) {
			t.Helper()
			body := w.syncBody(items...)
			for try := 0; ; try++ {
				if try == 100 {
					t.Fatal("no answer")
				}
				if w.post(body).status == 200 {
					return
				}
			}
		}
		for n := 0; n < offers; n += batch {
			var items []item
			for i := n; i < n+batch; i++ {
				items = append(items, offer(i))
				live[key(i)] = true
			}
			send(items)
		}
		var revoked []item
		for n := range offers {
			if n%20 == 0 {
				revoked = append(revoked, revoke(n, false))
				delete(live, key(n))
			}
		}
		for n := 0; n < len(revoked); n += batch {
			send(revoked[n:min(n+batch, len(revoked))])
		}
		rows := w.rows()
		if len(rows) != len(live) || len(w.Orphans(w.organization.ID, live)) != 0 {
			t.Errorf("seed %d: %d rows, want %d", seed, len(rows), len(live))
		}
		for k, n := range w.MailCounts() {
			if n > 1 {
				t.Errorf("seed %d: %v was mailed %d times", seed, k, n)
			}
		}
		w.expectViolations()
		w.Close()
	}
}

func TestManyOrganizationsAtOnce(t *testing.T) {
	for name, config := range map[string]cloud.Config{"by themselves": {Now: time.Now}, "in turn": {}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, config)
			w.token = w.newToken("api.installation")
			w.faults(cloud.Fault{Match: cloud.Match{Route: cloud.RouteSync, Nth: 9}, Action: cloud.Delay, Milliseconds: 2})
			var group sync.WaitGroup
			for range 8 {
				o, err := w.AddOrganization(cloud.Organization{BillingSyncKey: "key"})
				if err != nil {
					t.Fatal(err)
				}
				own := *w
				own.organization = o
				group.Go(func() {
					for n := range 20 {
						if answer := own.post(own.syncBody(offer(n))); answer.status != 200 {
							t.Errorf("answer is %+v", answer)
						}
						own.Requests()
						own.State()
					}
					if got := len(own.rows()); got != 20 {
						t.Errorf("%d rows", got)
					}
				})
			}
			group.Wait()
			w.expectViolations()
			if got := len(w.Mails()); got != 160 {
				t.Errorf("%d mails", got)
			}
		})
	}
}
