package machine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

func TestATokenIsKeptWithoutItsClientSecret(t *testing.T) {
	w := newWorld(t)
	account := w.account(t, w.admin())
	request := w.newToken()
	request.ReadOnly, request.Projects = true, []string{uuid.NewString()}
	record, clientSecret, err := w.CreateToken(t.Context(), w.admin(), account, request)
	ok(t, err)
	granted, err := w.Exchange(t.Context(), record.ID, clientSecret)
	ok(t, err)
	if granted.Payload != request.Payload || granted.Account != account || granted.Organization != w.organization || !granted.Ends.IsZero() {
		t.Errorf("%+v", granted)
	}
	token := w.stored(t, account, record.ID)
	if token.CreatedBy != "user:alice" || !token.ReadOnly || !slices.Equal(token.Projects, request.Projects) || !token.Expires.IsZero() || token.Revoked != nil {
		t.Errorf("%+v", token)
	}
}

func TestAPayloadThatCannotBeHadBackIsNotAcknowledged(t *testing.T) {
	w := newWorld(t)
	account := w.account(t, w.admin())
	w.key.Set(kmstest.Faults{Err: fault.Transient, DescribeToo: true})
	_, _, err := w.CreateToken(t.Context(), w.admin(), account, w.newToken())
	want(t, err, fault.Transient, "")
	for range w.Tokens(t.Context(), account) {
		t.Error("a token was stored")
	}
}

func TestTheEndOfATokenIsInTheFutureAndWithinTheOrganizationsLimit(t *testing.T) {
	const limit = 30 * 24 * time.Hour
	w := newWorld(t)
	account := w.account(t, w.admin())
	create := func(expires *time.Time) error {
		request := w.newToken()
		request.Expires = expires
		_, _, err := w.CreateToken(t.Context(), w.admin(), account, request)
		return err
	}
	in := func(d time.Duration) *time.Time { at := w.now().Add(d); return &at }
	const past = "Please select an expiration date that is in the future."
	ok(t, create(nil))
	ok(t, create(in(time.Second)))
	want(t, create(in(0)), fault.Invalid, past)
	want(t, create(in(-time.Hour)), fault.Invalid, past)
	want(t, create(&time.Time{}), fault.Invalid, past) // not "never"
	want(t, create(in(200*365*24*time.Hour)), fault.Invalid, "within the next hundred years")

	most := limit
	_, err := w.EditOrganization(t.Context(), access(t, w.admin(), w.organization), machine.OrganizationEdit{MaxTokenLifetime: &most})
	ok(t, err)
	ok(t, create(in(limit)))
	tooLong := "Access tokens of this organization may be valid for 30 days at the most: please select an expiration date no later than " + w.later(limit) + "."
	want(t, create(nil), fault.Invalid, tooLong)
	want(t, create(in(limit+time.Second)), fault.Invalid, tooLong)
}

func TestATokenIsLimitedToSoManyProjects(t *testing.T) {
	w := newWorld(t)
	account := w.account(t, w.admin())
	request := w.newToken()
	for range 501 {
		request.Projects = append(request.Projects, uuid.NewString())
	}
	_, _, err := w.CreateToken(t.Context(), w.admin(), account, request)
	want(t, err, fault.Invalid, "500 projects")
	request.Projects = request.Projects[1:]
	_, _, err = w.CreateToken(t.Context(), w.admin(), account, request)
	ok(t, err)
}

func TestRevokingIsIdempotentAndKeepsWhoWasFirst(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	account, other := w.account(t, w.admin()), w.account(t, w.admin())
	token, clientSecret := w.token(t, account)
	kept, _ := w.token(t, account)
	foreign, _ := w.token(t, other)
	first := w.now()
	ids := []string{foreign, token, uuid.NewString(), token}
	ok(t, w.Revoke(ctx, w.admin(), account, ids))
	w.wait(time.Hour)
	ok(t, w.Revoke(ctx, w.person(machine.Admin, "bob"), account, ids))
	if got := w.stored(t, account, token).Revoked; got == nil || got.By != "user:alice" || !got.At.Equal(first) {
		t.Errorf("revoked: %+v", got)
	}
	if w.stored(t, account, kept).Revoked != nil || w.stored(t, other, foreign).Revoked != nil {
		t.Error("another token was revoked")
	}
	_, err := w.Exchange(ctx, token, clientSecret)
	want(t, err, fault.Unauthenticated, "revoked by user:alice")
	page, err := w.Events(ctx, w.admin(), machine.EventQuery{Account: account, Most: 100})
	ok(t, err)
	revoked := 0
	for _, event := range page.Events {
		if event.Type == machine.TokenRevoked && event.Token == token && event.Actor == "user:alice" {
			revoked++
		}
	}
	if revoked != 1 {
		t.Errorf("%d events of one revocation", revoked)
	}
}

func TestABatchSaysWhichTokensAreRevoked(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	account := w.account(t, w.admin())
	var ids []string
	for range 10 {
		id, _ := w.token(t, account)
		ids = append(ids, id)
	}
	stranger := uuid.NewString()
	w.driver.Inject(
		storetest.Fault{Method: storetest.Put, Collection: "access-tokens", Skip: 2},
		storetest.Fault{Method: storetest.Put, Collection: "access-tokens", Skip: 4, When: storetest.After}, // an acknowledgement that was lost
		storetest.Fault{Method: storetest.Get, Collection: "access-tokens", Skip: 5},
	)
	err := w.Revoke(ctx, w.admin(), account, append(ids, stranger))
	problem, told := machine.AsProblem(err)
	if !told || fault.Of(err) != fault.Transient {
		t.Fatal(err)
	}
	failed, revoked, both := strings.Cut(problem.Message, "These are revoked: ")
	if !both || strings.Contains(revoked, stranger) {
		t.Fatal(problem.Message)
	}
	failures := strings.Count(failed, stranger) // where it is what could not be read
	for _, id := range ids {
		if strings.Contains(failed, id) == strings.Contains(revoked, id) {
			t.Errorf("%s is said to be both or neither: %s", id, problem.Message)
		}
		if strings.Contains(failed, id) {
			failures++
		} else if w.stored(t, account, id).Revoked == nil {
			t.Errorf("%s is said to be revoked, and is not", id)
		}
	}
	if failures != 3 {
		t.Errorf("%d failures, want 3: %s", failures, problem.Message)
	}
	if !strings.Contains(w.log.String(), `"action":"access-token.revoke","outcome":"failed","actor":"user:alice"`) {
		t.Error("the failed attempt is in no audit event")
	}
	w.driver.Reset()
	ok(t, w.Revoke(ctx, w.admin(), account, ids))
	for _, id := range ids {
		if w.stored(t, account, id).Revoked == nil {
			t.Errorf("%s is not revoked", id)
		}
	}
}

func TestABatchIsBounded(t *testing.T) {
	w := newWorld(t)
	account := w.account(t, w.admin())
	ids := make([]string, machine.MaxRevoked+1)
	for i := range ids {
		ids[i] = uuid.NewString()
	}
	want(t, w.Revoke(t.Context(), w.admin(), account, ids), fault.Invalid, "At most 1000")
	ok(t, w.Revoke(t.Context(), w.admin(), account, ids[1:]))
}

// 50 sessions ask over 5 instances without a pause; none that began to ask
// after Revoke had returned is served.
func TestNoRequestThatBeganAfterARevocationIsServed(t *testing.T) {
	const instances, sessions = 5, 50
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	account := w.account(t, w.admin())
	var ids []string
	for range sessions / 2 {
		id, _ := w.token(t, account)
		ids = append(ids, id)
	}
	others := make([]*machine.Machines, instances)
	for i := range others {
		others[i] = w.instance(w.driver)
	}
	var returned atomic.Bool
	var before, after, late atomic.Int64
	var group sync.WaitGroup
	for i := range sessions {
		group.Go(func() {
			claims := machine.Claims{Organization: w.organization, Account: account, Token: ids[i%len(ids)]}
			for n := 0; ctx.Err() == nil; n++ {
				begunAfter := returned.Load()
				_, err := others[(i+n)%instances].Session(ctx, claims)
				switch {
				case err == nil && begunAfter:
					late.Add(1)
				case err == nil:
					before.Add(1)
				case fault.Of(err) != fault.Unauthenticated:
					t.Errorf("refused for another reason: %v", err)
					return
				case begunAfter:
					after.Add(1)
					return // this session knows
				}
			}
		})
	}
	for before.Load() < 10*sessions && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	ok(t, others[0].Revoke(ctx, w.admin(), account, ids))
	returned.Store(true)
	group.Wait()
	if late.Load() != 0 || after.Load() != sessions {
		t.Errorf("%d requests were served that began after the revocation; %d sessions learnt of it", late.Load(), after.Load())
	}
}

// exchange tells whether a client secret is good.
func (w *world) good(t testing.TB, id, clientSecret string) bool {
	t.Helper()
	_, err := w.Exchange(t.Context(), id, clientSecret)
	if err != nil && fault.Of(err) != fault.Unauthenticated {
		t.Fatal(err)
	}
	return err == nil
}

func TestRotationLeavesTheFormerSecretForItsGrace(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	account := w.account(t, w.admin())
	id, old := w.token(t, account)
	caller := w.machine(t, account, id)
	w.wait(time.Minute)
	record, fresh, err := w.Rotate(ctx, caller, old, time.Hour)
	ok(t, err)
	if record.ID != id || fresh == old || !record.Value.Revised.Equal(w.now()) {
		t.Errorf("%s %+v", fresh, record)
	}
	if !w.good(t, id, old) || !w.good(t, id, fresh) {
		t.Error("one of the two is not good within the grace")
	}

	// The answer was lost: the same request gives the same, and changes nothing.
	before := w.stored(t, account, id)
	w.wait(time.Minute)
	_, again, err := w.Rotate(ctx, caller, old, 2*time.Hour)
	ok(t, err)
	if again != fresh || w.stored(t, account, id).Former.Until != before.Former.Until {
		t.Error("the repetition gave another client secret, or a longer grace")
	}

	w.wait(59 * time.Minute)
	if w.good(t, id, old) || !w.good(t, id, fresh) {
		t.Error("the former is good past its grace, or the new one is not")
	}
	_, _, err = w.Rotate(ctx, caller, old, time.Hour)
	want(t, err, fault.Invalid, "The client secret is not the one that is valid for this access token.")
	_, _, err = w.Rotate(ctx, caller, fresh, time.Hour) // its session began before
	want(t, err, fault.Unauthenticated, replaced)

	// The next rotation ends whatever was left of the grace before.
	next := w.exchanged(t, id, fresh)
	caller, err = w.Session(ctx, next)
	ok(t, err)
	_, third, err := w.Rotate(ctx, caller, fresh, time.Hour)
	ok(t, err)
	caller, err = w.Session(ctx, w.exchanged(t, id, third))
	ok(t, err)
	_, fourth, err := w.Rotate(ctx, caller, third, time.Hour)
	ok(t, err)
	_, err = w.Session(ctx, next)
	want(t, err, fault.Unauthenticated, replaced)
	for secret, good := range map[string]bool{old: false, fresh: false, third: true, fourth: true} {
		if w.good(t, id, secret) != good {
			t.Errorf("after four secrets one is good = %v", !good)
		}
	}
}

func TestRotationWithoutAGraceEndsTheFormerAtOnce(t *testing.T) {
	w := newWorld(t)
	account := w.account(t, w.admin())
	id, old := w.token(t, account)
	_, fresh, err := w.Rotate(t.Context(), w.machine(t, account, id), old, 0)
	ok(t, err)
	if w.good(t, id, old) || !w.good(t, id, fresh) {
		t.Error("the former is good, or the new one is not")
	}
}

const replaced = "The client secret that this session was made with was replaced"

// exchanged is what a new session says, made with this client secret.
func (w *world) exchanged(t testing.TB, id, clientSecret string) machine.Claims {
	t.Helper()
	granted, err := w.Exchange(t.Context(), id, clientSecret)
	ok(t, err)
	return machine.Claims{
		Organization: granted.Organization, Account: granted.Account, Token: granted.Token,
		Session: uuid.NewString(), Generation: granted.Generation,
	}
}

// The clock stands still: sessions are told apart by what they were made with,
// not by when.
func TestSessionsEndWithTheClientSecretThatTheyWereMadeWith(t *testing.T) {
	for _, grace := range []time.Duration{0, time.Hour} {
		t.Run(grace.String(), func(t *testing.T) {
			w := newWorld(t)
			ctx := t.Context()
			account := w.account(t, w.admin())
			id, old := w.token(t, account)
			before, rotating := w.exchanged(t, id, old), w.exchanged(t, id, old)
			caller, err := w.Session(ctx, rotating)
			ok(t, err)
			_, fresh, err := w.Rotate(ctx, caller, old, grace)
			ok(t, err)
			after := w.exchanged(t, id, fresh)
			serves := func(claims machine.Claims, served bool) {
				t.Helper()
				caller, err := w.Session(ctx, claims)
				if err == nil {
					_, err = caller.In(w.organization)
				}
				if served {
					ok(t, err)
				} else {
					want(t, err, fault.Unauthenticated, replaced)
				}
			}
			serves(after, true)
			serves(before, grace > 0)
			serves(rotating, grace > 0)
			if grace > 0 {
				within := w.exchanged(t, id, old)
				serves(within, true)
				w.wait(grace - time.Second)
				serves(within, true)
				w.wait(time.Second)
				serves(within, false)
			}
			serves(after, true)
			serves(before, false)
			serves(rotating, false)
			if _, err := w.Session(ctx, before); fault.Of(err) != fault.Unauthenticated {
				t.Errorf("it is let in at all: %v", err)
			}
		})
	}
}

func TestARotationWithoutAGraceCanBeRepeatedByItsOwnSessionAlone(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	account := w.account(t, w.admin())
	id, old := w.token(t, account)
	holder, thief := w.exchanged(t, id, old), w.exchanged(t, id, old)
	caller, err := w.Session(ctx, holder)
	ok(t, err)
	inTime, err := w.Session(ctx, thief) // his request began before
	ok(t, err)
	_, fresh, err := w.Rotate(ctx, caller, old, 0)
	ok(t, err)

	// The answer was lost.
	w.wait(5*time.Minute - time.Second)
	again, err := w.Session(ctx, holder)
	ok(t, err)
	record, same, err := w.Rotate(ctx, again, old, time.Hour)
	ok(t, err)
	if same != fresh || record.Value.Generation != 1 || w.good(t, id, old) || !w.good(t, id, fresh) {
		t.Error("the repetition gave another client secret, or the former is good again")
	}
	// It is good for nothing else.
	_, err = again.In(w.organization)
	want(t, err, fault.Unauthenticated, replaced)
	_, _, err = w.Rotate(ctx, again, fresh, 0)
	want(t, err, fault.Unauthenticated, replaced)
	_, _, err = w.Rotate(ctx, again, "wrong", 0)
	want(t, err, fault.Invalid, "")

	_, _, err = w.Rotate(ctx, inTime, old, 0)
	want(t, err, fault.Invalid, "")
	_, err = w.Session(ctx, thief)
	want(t, err, fault.Unauthenticated, replaced)
	nobody := thief
	nobody.Session = ""
	_, err = w.Session(ctx, nobody)
	want(t, err, fault.Unauthenticated, replaced)

	w.wait(time.Second)
	_, _, err = w.Rotate(ctx, again, old, 0)
	want(t, err, fault.Invalid, "")
	_, err = w.Session(ctx, holder)
	want(t, err, fault.Unauthenticated, replaced)
}

func TestTheGraceEndsWithTheToken(t *testing.T) {
	w := newWorld(t)
	account := w.account(t, w.admin())
	expires, request := w.now().Add(time.Hour), w.newToken()
	request.Expires = &expires
	record, old, err := w.CreateToken(t.Context(), w.admin(), account, request)
	ok(t, err)
	caller := w.machine(t, account, record.ID)
	_, _, err = w.Rotate(t.Context(), caller, old, 7*24*time.Hour)
	ok(t, err)
	if until := w.stored(t, account, record.ID).Former.Until; !until.Equal(expires) {
		t.Errorf("the former is good until %s, the token until %s", until, expires)
	}
	w.wait(time.Hour)
	_, _, err = w.Rotate(t.Context(), caller, old, 0)
	want(t, err, fault.Unauthenticated, "The access token expired")
}

func TestOnlyTheHolderRotates(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	account := w.account(t, w.admin())
	id, clientSecret := w.token(t, account)
	caller := w.machine(t, account, id)
	_, other := w.token(t, account)
	for name, wrong := range map[string]string{"none": "", "another token's": other, "more": clientSecret + "x", "its hash": w.stored(t, account, id).Hash} {
		_, _, err := w.Rotate(ctx, caller, wrong, time.Hour)
		if fault.Of(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range []machine.Caller{w.admin(), {}} {
		_, _, err := w.Rotate(ctx, c, clientSecret, time.Hour)
		want(t, err, fault.NotFound, "")
	}
	for _, grace := range []time.Duration{-1, 7*24*time.Hour + 1} {
		_, _, err := w.Rotate(ctx, caller, clientSecret, grace)
		want(t, err, fault.Invalid, "7 days at the most")
	}
	ok(t, w.Revoke(ctx, w.admin(), account, []string{id}))
	_, _, err := w.Rotate(ctx, caller, clientSecret, time.Hour) // its session began before
	want(t, err, fault.Unauthenticated, "revoked by user:alice")
}

// Several machines can have the same token. However their rotations meet, all
// are given the same new client secret, and it is good.
func TestConcurrentRotationsAgree(t *testing.T) {
	const holders = 20
	w := newWorld(t)
	account := w.account(t, w.admin())
	id, old := w.token(t, account)
	caller := w.machine(t, account, id)
	fresh := make([]string, holders)
	errs := make([]error, holders)
	var group sync.WaitGroup
	for i := range holders {
		group.Go(func() { _, fresh[i], errs[i] = w.instance(w.driver).Rotate(t.Context(), caller, old, time.Hour) })
	}
	group.Wait()
	ok(t, errors.Join(errs...))
	for i := range fresh {
		if fresh[i] != fresh[0] {
			t.Fatalf("holder %d was given another client secret", i)
		}
	}
	if !w.good(t, id, fresh[0]) || !w.good(t, id, old) {
		t.Error("a client secret is not good")
	}
}

func TestARotationWhoseWriteWasLostCanBeRepeated(t *testing.T) {
	for _, when := range []storetest.When{storetest.Before, storetest.After} {
		for _, grace := range []time.Duration{0, time.Hour} {
			t.Run(fmt.Sprint(when, grace), func(t *testing.T) {
				w := newWorld(t)
				account := w.account(t, w.admin())
				id, old := w.token(t, account)
				w.driver.Inject(storetest.Fault{Method: storetest.Put, Collection: "access-tokens", When: when})
				_, lost, err := w.Rotate(t.Context(), w.machine(t, account, id), old, grace)
				want(t, err, fault.Transient, "")
				stays := when == storetest.Before || grace > 0
				if lost != "" || w.good(t, id, old) != stays {
					t.Error("a client secret was given that may not be good, or the old one is not as it should be")
				}
				_, fresh, err := w.Rotate(t.Context(), w.machine(t, account, id), old, grace)
				ok(t, err)
				if !w.good(t, id, fresh) || w.good(t, id, old) != (grace > 0) {
					t.Error("a client secret is not good after the repetition, or the old one is")
				}
			})
		}
	}
}

func TestUsesAreGivenForWhatWasUsed(t *testing.T) {
	w := newWorld(t)
	account := w.account(t, w.admin())
	used, _ := w.token(t, account)
	unused, _ := w.token(t, account)
	w.Used(t.Context(), used, "192.0.2.7")
	uses, err := w.Uses(t.Context(), []string{used, unused})
	ok(t, err)
	if len(uses) != 1 || uses[used].Address != "192.0.2.7" || !uses[used].At.Equal(w.now()) {
		t.Errorf("%+v", uses)
	}
	if uses, err = w.Uses(t.Context(), nil); err != nil || len(uses) != 0 {
		t.Errorf("%v %v", uses, err)
	}
}
