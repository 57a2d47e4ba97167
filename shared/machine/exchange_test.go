package machine

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/accesstoken"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// exchanger is a domain in which one token is, with a store and a key that fail
// on demand.
type exchanger struct {
	*Machines
	driver *storetest.Faults
	key    *kmstest.Key
	clock  time.Time
	id     string
}

const (
	rightSecret  = "Zq3xT7mB9sLk2VdR5nHyW8cJ0pFgE1"
	formerSecret = "former3xT7mB9sLk2VdR5nHyW8cJ0p"
)

func newExchanger(t *testing.T, change func(*Token, time.Time)) *exchanger {
	t.Helper()
	e := &exchanger{
		driver: storetest.NewFaults(store.NewTable()), key: kmstest.NewKey(t),
		clock: time.Now().UTC().Truncate(time.Second), id: uuid.NewString(),
	}
	documents := store.New(e.driver)
	e.Machines = New(Config{
		Store: documents, Ring: keyring.New(keyring.Config{Name: Ring, Store: documents, Key: e.key}),
		Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return e.clock },
	})
	sealed, err := e.seal(t.Context(), e.id, sealedParts{Payload: "2.payload", Key: "2.key"})
	if err != nil {
		t.Fatal(err)
	}
	token := Token{Organization: "organization", Account: "account", Hash: accesstoken.Hash(rightSecret), Sealed: sealed}
	if change != nil {
		change(&token, e.clock)
	}
	if _, err := e.tokens.Put(t.Context(), store.Record[Token]{ID: e.id, Parent: "account", Value: token}, store.Absent()); err != nil {
		t.Fatal(err)
	}
	e.driver.Reset()
	return e
}

func TestExchange(t *testing.T) {
	expires := func(token *Token, now time.Time) { token.Expires = now.Add(time.Hour) }
	rotated := func(until time.Duration) func(*Token, time.Time) {
		return func(token *Token, now time.Time) {
			token.Former, token.Generation = &Former{Hash: accesstoken.Hash(formerSecret), Until: now.Add(until)}, 4
		}
	}
	both := func(token *Token, now time.Time) { expires(token, now); rotated(2*time.Hour)(token, now) }
	revoked := func(token *Token, now time.Time) {
		token.Revoked = &Deed{At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), By: "user:alice"}
	}
	for name, c := range map[string]struct {
		change func(*Token, time.Time)
		secret string
		after  time.Duration
		ends   time.Duration // 0: never
		reason string        // of a refusal; ErrClient's is "-"
	}{
		"a right secret":                        {secret: rightSecret},
		"a wrong secret":                        {secret: rightSecret + "x", reason: "-"},
		"no secret":                             {secret: "", reason: "-"},
		"the hash as the secret":                {secret: accesstoken.Hash(rightSecret), reason: "-"},
		"a token that will expire":              {change: expires, secret: rightSecret, ends: time.Hour},
		"in its last moment":                    {change: expires, secret: rightSecret, after: time.Hour - 1, ends: time.Hour},
		"one that has expired":                  {change: expires, secret: rightSecret, after: time.Hour, reason: "expired on"},
		"a wrong secret of one that expired":    {change: expires, secret: "x", after: time.Hour, reason: "-"},
		"one that was revoked":                  {change: revoked, secret: rightSecret, reason: "revoked by user:alice on 2026-01-02 03:04:05 UTC"},
		"a wrong secret of one revoked":         {change: revoked, secret: "x", reason: "-"},
		"the former secret":                     {change: rotated(time.Minute), secret: formerSecret, ends: time.Minute},
		"the new secret of one rotated":         {change: rotated(time.Minute), secret: rightSecret},
		"the former secret without a grace":     {change: rotated(0), secret: formerSecret, reason: "was replaced"},
		"the former secret after its grace":     {change: rotated(time.Minute), secret: formerSecret, after: time.Minute, reason: "was replaced"},
		"a former secret that outlasts it":      {change: both, secret: formerSecret, ends: time.Hour},
		"a former secret where there is none":   {secret: formerSecret, reason: "-"},
		"no secret where there is a former one": {change: rotated(time.Minute), secret: "", reason: "-"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newExchanger(t, c.change)
			begin := e.clock
			e.clock = e.clock.Add(c.after)
			granted, err := e.Exchange(t.Context(), e.id, c.secret)
			if n := e.driver.Calls(); n != 1 || e.driver.Calls(storetest.Get) != 1 {
				t.Errorf("it cost %d storage calls", n)
			}
			switch c.reason {
			case "-":
				if err != ErrClient { // no other, which could hold more
					t.Errorf("%v, want ErrClient", err)
				}
			case "":
				want := Granted{Organization: "organization", Account: "account", Token: e.id, Payload: "2.payload"}
				if record, err := e.tokens.Get(t.Context(), e.id); err != nil {
					t.Fatal(err)
				} else if want.Generation = record.Value.Generation; c.secret == formerSecret {
					want.Generation--
				}
				if c.ends > 0 {
					want.Ends = begin.Add(c.ends)
				}
				if err != nil || granted != want {
					t.Errorf("%+v, %v, want %+v", granted, err, want)
				}
			default:
				problem, ok := AsProblem(err)
				if !ok || problem.Class != fault.Unauthenticated || !strings.Contains(problem.Message, c.reason) {
					t.Errorf("%v, want %q", err, c.reason)
				}
			}
			if err != nil && granted != (Granted{}) {
				t.Errorf("a refusal granted %+v", granted)
			}
		})
	}
}

func TestAnUnknownIDIsRefusedAsAWrongSecretIs(t *testing.T) {
	e := newExchanger(t, nil)
	for _, id := range []string{uuid.NewString(), "", "x", strings.Repeat("x", 1000), "\x00", strings.ToUpper(e.id)} {
		if _, err := e.Exchange(t.Context(), id, rightSecret); err != ErrClient {
			t.Errorf("%q: %v, want ErrClient", id, err)
		}
	}
}

func TestAnExchangeThatCannotBeMadeIsNoRefusal(t *testing.T) {
	for _, class := range []fault.Class{fault.Transient, fault.Denied, fault.Lost} {
		e := newExchanger(t, nil)
		e.driver.Inject(storetest.Fault{Err: class})
		if _, err := e.Exchange(t.Context(), e.id, rightSecret); fault.Of(err) != class || errors.Is(err, ErrClient) {
			t.Errorf("%v, want %q", err, string(class))
		}
	}
	// A token's payload opens in its own record only.
	e := newExchanger(t, nil)
	record, err := e.tokens.Get(t.Context(), e.id)
	if err != nil {
		t.Fatal(err)
	}
	record.ID = uuid.NewString()
	if _, err := e.tokens.Put(t.Context(), record, store.Absent()); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Exchange(t.Context(), record.ID, rightSecret); fault.Of(err) != fault.Lost {
		t.Errorf("%v, want Lost", err)
	}
}

func TestTheLastUseIsNotedOnceAnHour(t *testing.T) {
	e := newExchanger(t, nil)
	e.Used(t.Context(), e.id, "192.0.2.1")
	e.Used(t.Context(), e.id, "192.0.2.2")
	if n := e.driver.Calls(); n != 1 {
		t.Errorf("two uses cost %d storage calls", n)
	}
	e.clock = e.clock.Add(2 * time.Hour)
	e.Used(t.Context(), e.id, "192.0.2.3")
	uses, err := e.Uses(t.Context(), []string{e.id})
	if err != nil || uses[e.id] != (Use{At: e.clock, Address: "192.0.2.3"}) {
		t.Errorf("%+v, %v", uses, err)
	}
}
