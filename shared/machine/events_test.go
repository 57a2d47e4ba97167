package machine_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

func types(events []machine.Event) (types []machine.Type) {
	for _, e := range events {
		types = append(types, e.Type)
	}
	return types
}

func TestEventsAreReadNewestFirstPageByPage(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	account := w.account(t, w.admin())
	w.wait(time.Minute)
	token, clientSecret := w.token(t, account)
	w.wait(time.Minute)
	_, _, err := w.Rotate(ctx, w.machine(t, account, token), clientSecret, 0)
	ok(t, err)
	w.wait(time.Minute)
	_, err = w.SetAccountPeople(ctx, w.admin(), account, machine.People{Groups: rights{"ops": machine.ToWrite}})
	ok(t, err)
	w.wait(time.Minute)
	ok(t, w.Revoke(ctx, w.admin(), account, []string{token}))
	w.wait(time.Minute)
	ok(t, w.DeleteAccount(ctx, w.admin(), account)) // they can be read afterwards
	all := []machine.Type{
		machine.AccountDeleted, machine.TokenRevoked, machine.AccountGroupAdded, machine.AccountPeopleRemoved,
		machine.TokenRotated, machine.TokenCreated, machine.AccountCreated,
	}
	start := w.now().Add(-5 * time.Minute)
	at := func(minute int) time.Time { return start.Add(time.Duration(minute) * time.Minute) }
	for name, c := range map[string]struct {
		query machine.EventQuery
		want  []machine.Type
	}{
		"all":           {machine.EventQuery{}, all},
		"from":          {machine.EventQuery{From: at(4)}, all[:2]},
		"to":            {machine.EventQuery{To: at(1)}, all[5:]},
		"from and to":   {machine.EventQuery{From: at(2), To: at(2)}, all[4:5]},
		"none":          {machine.EventQuery{From: at(6)}, nil},
		"to before all": {machine.EventQuery{To: at(-1)}, nil},
	} {
		for _, most := range []int{1, 2, 100} {
			query := c.query
			query.Account, query.Most = account, most
			var got []machine.Type
			for {
				page, err := w.Events(ctx, w.admin(), query)
				ok(t, err)
				if len(page.Events) > most {
					t.Fatalf("a page of %d holds %d", most, len(page.Events))
				}
				got = append(got, types(page.Events)...)
				if query.After = page.Next; query.After == "" {
					break
				}
			}
			if !sameButForOneMoment(got, c.want) {
				t.Errorf("%s by %d: %v, want %v", name, most, got, c.want)
			}
		}
	}
	for _, cursor := range []string{"x", "\x00", strings.Repeat("x", 600), "0000000000000000-"} {
		_, err := w.Events(ctx, w.admin(), machine.EventQuery{Account: account, Most: 1, After: cursor})
		want(t, err, fault.Invalid, "continuation token")
	}
}

// sameButForOneMoment lets the two events of one moment, which are in no order,
// change places.
func sameButForOneMoment(got, want []machine.Type) bool {
	normal := func(types []machine.Type) []machine.Type {
		types = slices.Clone(types)
		i, j := slices.Index(types, machine.AccountGroupAdded), slices.Index(types, machine.AccountPeopleRemoved)
		if i >= 0 && j >= 0 {
			types[min(i, j)], types[max(i, j)] = machine.AccountGroupAdded, machine.AccountPeopleRemoved
		}
		return types
	}
	return slices.Equal(normal(got), normal(want))
}

func TestAnEventNamesWhoDidWhatFromWhere(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	account := w.account(t, w.admin())
	token, _ := w.token(t, account)
	caller := w.machine(t, account, token)
	caller.Address, caller.RequestID = "192.0.2.7", "request-1"
	a := access(t, caller, w.organization)
	w.wait(time.Minute)
	w.Done(ctx, a, machine.SecretEdited, "", "", "secret-1")
	w.Done(ctx, a, machine.SecretRetrieved, "", "", "secret-2") // in the log alone
	page, err := w.Events(ctx, w.admin(), machine.EventQuery{Account: account, Most: 1})
	ok(t, err)
	if e := page.Events[0]; e.Type != machine.SecretEdited || e.Subject != "secret-1" || e.Account != account || e.Token != token ||
		e.Actor != "service-account:"+account || e.Address != "192.0.2.7" || e.Organization != w.organization || !e.Date.Equal(w.now()) {
		t.Errorf("%+v", e)
	}
	for _, line := range []string{
		`"action":"secret.edit","outcome":"allowed","actor":"service-account:` + account + `","token":"` + token + `","subject":"secret-1","requestId":"request-1","address":"192.0.2.7"`,
		`"action":"secret.read"`,
	} {
		if !strings.Contains(w.log.String(), line) {
			t.Errorf("the log does not hold %s:\n%s", line, w.log)
		}
	}
}

func TestAnEventThatCannotBeStoredUndoesNothing(t *testing.T) {
	w := newWorld(t)
	account := w.account(t, w.admin())
	token, _ := w.token(t, account)
	w.driver.Inject(storetest.Fault{Method: storetest.Put, Collection: "events"})
	ok(t, w.Revoke(t.Context(), w.admin(), account, []string{token}))
	if w.stored(t, account, token).Revoked == nil {
		t.Error("the token is not revoked")
	}
	if !strings.Contains(w.log.String(), "an event could not be stored") {
		t.Error("the log does not say so")
	}
}

func TestTheSettingsOfAnOrganization(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	a := access(t, w.admin(), w.organization)
	settings, err := w.Organization(ctx, w.organization)
	if err != nil || settings != (machine.Organization{}) {
		t.Fatalf("%+v %v", settings, err)
	}
	check, other := w.org.Encrypt("check"), w.org.Encrypt("check")
	month, no, yes := 30*24*time.Hour, false, true
	edit := func(e machine.OrganizationEdit) machine.Organization {
		t.Helper()
		answered, err := w.EditOrganization(ctx, a, e)
		ok(t, err)
		stored, err := w.Organization(ctx, w.organization)
		ok(t, err)
		if stored.KeyCheck != answered.KeyCheck || stored.MaxTokenLifetime != answered.MaxTokenLifetime || (stored.Disabled == nil) != (answered.Disabled == nil) {
			t.Errorf("%+v is answered, %+v is stored", answered, stored)
		}
		return stored
	}
	edit(machine.OrganizationEdit{KeyCheck: &check, MaxTokenLifetime: &month})
	w.wait(time.Hour)
	first := edit(machine.OrganizationEdit{KeyCheck: &check, Enabled: &no})
	if first.KeyCheck != check || first.MaxTokenLifetime != month || first.Disabled == nil || first.Created.Equal(first.Revised) {
		t.Errorf("%+v", first)
	}
	w.wait(time.Hour)
	if again := edit(machine.OrganizationEdit{Enabled: &no}); !again.Disabled.At.Equal(first.Disabled.At) {
		t.Error("who disabled it first is forgotten")
	}
	forever := time.Duration(0)
	if last := edit(machine.OrganizationEdit{Enabled: &yes, MaxTokenLifetime: &forever}); last.Disabled != nil || last.MaxTokenLifetime != 0 || last.KeyCheck != check {
		t.Errorf("%+v", last)
	}
	_, err = w.EditOrganization(ctx, a, machine.OrganizationEdit{KeyCheck: &other})
	want(t, err, fault.Invalid, "This organization has a key already.")
	for _, bad := range []string{"", "plain", strings.Repeat("x", 10_000), w.org.Encrypt(strings.Repeat("x", machine.MaxName))} {
		_, err = w.EditOrganization(ctx, a, machine.OrganizationEdit{KeyCheck: &bad})
		want(t, err, fault.Invalid, "keyCheck is not a valid encrypted string.")
	}
	for _, bad := range []time.Duration{-1, time.Second, 1 << 62} {
		_, err = w.EditOrganization(ctx, a, machine.OrganizationEdit{MaxTokenLifetime: &bad})
		want(t, err, fault.Invalid, "a minute to a hundred years")
	}
	_, err = w.EditOrganization(ctx, access(t, w.person(machine.Member, "bob"), w.organization), machine.OrganizationEdit{})
	want(t, err, fault.NotFound, "")
}

func TestOfSeveralKeysOneWins(t *testing.T) {
	const operators = 10
	w := newWorld(t)
	a := access(t, w.admin(), w.organization)
	checks, errs := make([]string, operators), make([]error, operators)
	var group sync.WaitGroup
	for i := range operators {
		checks[i] = encstring.NewKey().Encrypt("check")
		group.Go(func() {
			_, errs[i] = w.instance(w.driver).EditOrganization(t.Context(), a, machine.OrganizationEdit{KeyCheck: &checks[i]})
		})
	}
	group.Wait()
	settings, err := w.Organization(t.Context(), w.organization)
	ok(t, err)
	for i, err := range errs {
		if settings.KeyCheck == checks[i] {
			ok(t, err)
		} else {
			want(t, err, fault.Invalid, "This organization has a key already.")
		}
	}
}
