package cloud_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

var onSync = cloud.Match{Route: cloud.RouteSync}

func TestWhatAFaultEndsDoesNotGoOn(t *testing.T) {
	for _, action := range []cloud.Fault{{Action: cloud.Status, Status: 500}, {Action: cloud.HTML}, {Action: cloud.Close}} {
		for when, want := range map[cloud.When]struct{ rows, events, mails int }{
			cloud.Before: {0, 0, 0}, cloud.BeforeCommit: {0, 0, 0}, cloud.AfterCommit: {1, 0, 0}, cloud.AfterMail: {1, 1, 1},
		} {
			t.Run(string(action.Action)+" "+string(when), func(t *testing.T) {
				w := newWorld(t, cloud.Config{})
				rule := action
				rule.Match, rule.When, rule.Times = onSync, when, 1
				w.faults(rule)
				answer := w.post(w.syncBody(offer(1)))
				switch action.Action {
				case cloud.Status:
					if answer.status != 500 || messageOf(t, answer) != "An unhandled server error has occurred." {
						t.Errorf("answer is %+v", answer)
					}
				case cloud.HTML:
					if answer.status != 502 || !strings.Contains(answer.body, "<html>") || !strings.HasPrefix(answer.header.Get("Content-Type"), "text/html") {
						t.Errorf("answer is %+v", answer)
					}
				case cloud.Close:
					if !errors.Is(answer.err, io.EOF) {
						t.Errorf("answer is %+v", answer)
					}
				}
				w.expect(want.rows, want.mails)
				if len(w.Events()) != want.events {
					t.Errorf("events are %v", w.Events())
				}
				records := w.Requests()
				if got := records[len(records)-1]; got.Fault != string(action.Action)+" "+string(when) || got.Status != answer.status || got.Done == nil {
					t.Errorf("recorded was %+v", got)
				}
				w.sync(offer(1))
				w.expect(1, 1-want.rows+want.mails)
			})
		}
	}
}

func TestAStatusOfAFaultIsAsItSays(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.faults(cloud.Fault{Action: cloud.Status, Status: 429, Body: "slow", Headers: map[string]string{"Retry-After": "7"}})
	if answer := w.askToken(nil); answer.status != 429 || answer.body != "slow" || answer.header.Get("Retry-After") != "7" {
		t.Errorf("answer is %+v", answer)
	}
}

func TestWhichRequestsAFaultHits(t *testing.T) {
	yes, no, two := true, false, 2
	for name, test := range map[string]struct {
		rules []cloud.Fault
		hit   []int // of the requests below, from 1
	}{
		"all of a route":             {[]cloud.Fault{{Match: onSync}}, []int{1, 2, 3, 4, 5, 6}},
		"none of another":            {[]cloud.Fault{{Match: cloud.Match{Route: cloud.RouteLicense}}}, nil},
		"the third":                  {[]cloud.Fault{{Match: cloud.Match{Nth: 3}}}, []int{3}},
		"from the second to the 4th": {[]cloud.Fault{{Match: cloud.Match{From: 2, To: 4}}}, []int{2, 3, 4}},
		"from the fifth":             {[]cloud.Fault{{Match: cloud.Match{From: 5}}}, []int{5, 6}},
		"twice":                      {[]cloud.Fault{{Times: 2}}, []int{1, 2}},
		"twice from the fourth":      {[]cloud.Fault{{Match: cloud.Match{From: 4}, Times: 2}}, []int{4, 5}},
		"with deletes":               {[]cloud.Fault{{Match: cloud.Match{Batch: &cloud.BatchMatch{Deletes: &yes}}}}, []int{3, 6}},
		"without deletes":            {[]cloud.Fault{{Match: cloud.Match{Batch: &cloud.BatchMatch{Deletes: &no}}}}, []int{1, 2, 4, 5}},
		"the second with a delete":   {[]cloud.Fault{{Match: cloud.Match{Nth: 2, Batch: &cloud.BatchMatch{Deletes: &yes}}}}, []int{6}},
		"with a key":                 {[]cloud.Fault{{Match: cloud.Match{Batch: &cloud.BatchMatch{Key: key(2)}}}}, []int{2, 3}},
		"empty":                      {[]cloud.Fault{{Match: cloud.Match{Batch: &cloud.BatchMatch{Max: new(int)}}}}, []int{5}},
		"of two items":               {[]cloud.Fault{{Match: cloud.Match{Batch: &cloud.BatchMatch{Min: 2, Max: &two}}}}, []int{2, 3}},
		"of another organization":    {[]cloud.Fault{{Match: cloud.Match{Batch: &cloud.BatchMatch{Organization: key(9)}}}}, nil},
		"by a function":              {[]cloud.Fault{{Match: cloud.Match{Func: func(r cloud.Request) bool { return len(r.Keys) == 3 }}}}, []int{4}},
		"the first rule that does":   {[]cloud.Fault{{Match: cloud.Match{Nth: 1}}, {Match: cloud.Match{Nth: 2}}}, []int{1, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, cloud.Config{})
			w.token = w.newToken("api.installation")
			for i := range test.rules {
				test.rules[i].Action, test.rules[i].Status = cloud.Status, 503
			}
			w.faults(test.rules...)
			var hit []int
			for i, batch := range [][]item{
				{offer(1)}, {offer(1), offer(2)}, {offer(2), revoke(3, false)}, {offer(4), offer(5), offer(6)}, nil, {revoke(7, false)},
			} {
				if w.post(w.syncBody(batch...)).status == 503 {
					hit = append(hit, i+1)
				}
			}
			if !slices.Equal(hit, test.hit) {
				t.Errorf("hit were %v, want %v", hit, test.hit)
			}
		})
	}
}

func TestFaultsOfTheAnswer(t *testing.T) {
	keysOf := func(items []item) string {
		var keys []string
		for _, i := range items {
			keys = append(keys, strings.TrimLeft(strings.ReplaceAll(i.OfferKey, "00000000-0000-4000-8000-", ""), "0"))
		}
		return strings.Join(keys, " ")
	}
	for name, test := range map[string]struct {
		rule cloud.Fault
		want string
		rows int
	}{
		"the first is dropped":           {cloud.Fault{Action: cloud.DropItems}, "2 3", 3},
		"two are dropped":                {cloud.Fault{Action: cloud.DropItems, Count: 2}, "3", 3},
		"all are dropped":                {cloud.Fault{Action: cloud.DropItems, Count: 9}, "", 3},
		"one is dropped by key":          {cloud.Fault{Action: cloud.DropItems, Keys: []string{key(2), "x"}}, "1 3", 3},
		"one is dropped before":          {cloud.Fault{Action: cloud.DropItems, When: cloud.Before, Keys: []string{key(2)}}, "1 3", 2},
		"one comes twice":                {cloud.Fault{Action: cloud.DupItems, Keys: []string{key(3)}}, "1 2 3 3", 3},
		"the answer as if, but no mails": {cloud.Fault{Action: cloud.DropItems, When: cloud.AfterCommit, Keys: []string{key(1)}}, "2 3", 3},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, cloud.Config{})
			test.rule.Match = onSync
			w.faults(test.rule)
			if got := keysOf(w.sync(offer(1), offer(2), offer(3))); got != test.want {
				t.Errorf("items are %s", got)
			}
			mails := test.rows
			if test.rule.When == cloud.AfterCommit {
				mails = 0
			}
			w.expect(test.rows, mails)
		})
	}
	w := newWorld(t, cloud.Config{})
	var many []item
	for n := range 20 {
		many = append(many, offer(n))
	}
	w.faults(cloud.Fault{Match: onSync, Action: cloud.Reorder})
	reordered := w.sync(many...)
	slices.SortFunc(reordered, func(a, b item) int { return strings.Compare(a.OfferKey, b.OfferKey) })
	if again := w.sync(many...); len(again) != 20 || keysOf(again) == keysOf(many) || keysOf(reordered) != keysOf(many) {
		t.Errorf("items are %s", keysOf(again))
	}
	w.faults(cloud.Fault{Match: onSync, Action: cloud.ExtraItem, Count: 2})
	if items := w.sync(offer(1)); len(items) != 3 || items[1].OfferKey == items[2].OfferKey || items[1].LastSyncDate == nil {
		t.Errorf("items are %+v", items)
	}
	w.faults(cloud.Fault{Match: onSync, Action: cloud.BadJSON})
	if answer := w.post(w.syncBody(offer(1))); answer.status != 200 || !strings.HasPrefix(answer.body, `{"sponsorshipsBatch":[{]`) {
		t.Errorf("answer is %+v", answer)
	}
	w.faults(cloud.Fault{Match: onSync, Action: cloud.Truncate, Bytes: 10})
	if answer := w.post(w.syncBody(offer(1))); answer.status != 200 || answer.body != `{"sponsors` || !errors.Is(answer.err, io.ErrUnexpectedEOF) {
		t.Errorf("answer is %+v", answer)
	}
}

func TestFaultsOfTokens(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	for _, action := range []cloud.Action{cloud.TokenExpired, cloud.NotYetValid} {
		w.faults(cloud.Fault{Match: cloud.Match{Route: cloud.RouteToken}, Action: action})
		w.token = w.newToken("api.installation")
		if answer := w.post(w.syncBody()); answer.status != 401 {
			t.Errorf("%s: %+v", action, answer)
		}
		w.faults(cloud.Fault{Match: cloud.Match{Route: cloud.RouteToken}, Action: action, Milliseconds: 1000})
		w.token = w.newToken("api.installation")
		w.sync() // within the skew
		w.faults(cloud.Fault{Match: onSync, Action: action, Times: 1})
		if answer := w.post(w.syncBody()); answer.status != 401 || answer.header.Get("WWW-Authenticate") != `Bearer error="invalid_token"` {
			t.Errorf("%s: %+v", action, answer)
		}
		w.sync()
	}
}

func TestFaultsThatMakeNoSenseAreRefused(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	for _, rule := range []cloud.Fault{
		{}, {Action: "explode"}, {Action: cloud.Status}, {Action: cloud.Status, Status: 99}, {Action: cloud.Close, When: "later"},
		{Action: cloud.Truncate, When: cloud.Before}, {Action: cloud.DropItems, When: cloud.BeforeCommit}, {Action: cloud.Delay, Milliseconds: -1},
		{Action: cloud.TokenExpired, When: cloud.AfterMail}, {Action: cloud.Close, Times: -1},
	} {
		if err := w.SetFaults(rule); fault.Of(err) != fault.Invalid {
			t.Errorf("%+v: %v", rule, err)
		}
	}
}

// In time that passes by Config.Sleep.

func TestADelayTakesTimeOnTheClock(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.faults(cloud.Fault{Match: onSync, Action: cloud.Delay, Milliseconds: 30_000})
	items := w.sync(offer(1))
	if w.clock.slept != 30*time.Second || *items[0].LastSyncDate != "2026-03-02T08:00:30Z" {
		t.Errorf("slept %s, %+v", w.clock.slept, items)
	}
}

func TestTheServerGoesOnWhenItsClientHasLeft(t *testing.T) {
	for name, test := range map[string]struct {
		action cloud.Action
		ms     int
		when   cloud.When
		// rows at the client's timeout and when the fault is over
		then, later int
	}{
		"stuck before":          {cloud.Hang, 120_000, cloud.Before, 0, 1},
		"stuck after commit":    {cloud.Hang, 120_000, cloud.AfterCommit, 1, 1},
		"slow before":           {cloud.Delay, 120_000, cloud.Before, 0, 1},
		"stuck for ever":        {cloud.Hang, 0, cloud.Before, 0, 0},
		"stuck for ever, after": {cloud.Hang, 0, cloud.AfterCommit, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, cloud.Config{})
			w.token = w.newToken("api.installation")
			w.http.Timeout = time.Minute
			w.faults(cloud.Fault{Match: onSync, Action: test.action, When: test.when, Milliseconds: test.ms, Times: 1})
			if test.action == cloud.Hang && test.ms == 0 {
				// Nothing but reality ends that: the client's timer.
				w.http.Timeout = 20 * time.Millisecond
			}
			answer := w.post(w.syncBody(offer(1)))
			var timeout interface{ Timeout() bool }
			if !errors.As(answer.err, &timeout) || !timeout.Timeout() {
				t.Fatalf("answer is %+v", answer)
			}
			if test.ms > 0 && w.clock.slept != time.Minute {
				t.Errorf("slept %s", w.clock.slept)
			}
			w.http.Timeout = 0
			if got := len(w.rows()); got != test.then {
				t.Errorf("%d rows at the timeout", got)
			}
			records := w.Requests()
			if records[len(records)-1].Done != nil {
				t.Error("the request is done")
			}
			if err := w.clock.Sleep(t.Context(), time.Minute); err != nil {
				t.Fatal(err)
			}
			if got := len(w.rows()); got != test.later {
				t.Errorf("%d rows later", got)
			}
			if got := len(w.Mails()); test.ms > 0 && got != 1 {
				t.Errorf("%d mails", got)
			}
			if records = w.Requests(); (records[len(records)-1].Done != nil) != (test.ms > 0) {
				t.Error("the request is not recorded as it is")
			}
		})
	}
}

func TestARequestTooEarlyOverlaps(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.token = w.newToken("api.installation")
	w.http.Timeout = time.Minute
	w.faults(cloud.Fault{Match: onSync, Action: cloud.Hang, When: cloud.BeforeCommit, Milliseconds: 120_000, Times: 1})
	if answer := w.post(w.syncBody(offer(1))); answer.err == nil {
		t.Fatalf("answer is %+v", answer)
	}
	w.sync(offer(1))
	w.expectViolations(cloud.Overlap)
	w.Settle()
	w.expect(2, 2)
	if len(w.ViolationsOf(cloud.DuplicateKey)) != 1 {
		t.Errorf("violations are %v", w.Violations())
	}
}

func TestADeadlineThatIsFarEnoughIsNoTimeout(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.token = w.newToken("api.installation")
	w.http.Timeout = time.Minute
	w.faults(cloud.Fault{Match: onSync, Action: cloud.Delay, Milliseconds: 59_000}, cloud.Fault{Match: cloud.Match{}, Action: cloud.Close})
	w.sync(offer(1))
}

func TestSomebodyWhoCancelsWhileTheServerIsSlow(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.token = w.newToken("api.installation")
	ctx, cancel := context.WithCancel(t.Context())
	w.faults(cloud.Fault{Match: cloud.Match{Route: cloud.RouteSync, Func: func(cloud.Request) bool { cancel(); return true }}, Action: cloud.Delay, Milliseconds: 1000})
	answer := w.sendContext(ctx, "POST", w.APIURL()+"/organization/sponsorship/sync", "application/json", w.token, w.syncBody(offer(1)))
	if !errors.Is(answer.err, context.Canceled) {
		t.Errorf("answer is %+v", answer)
	}
	w.expect(1, 1)
}

// In time that passes by itself.

func TestTimersOfAnyClockWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, cloud.Config{Now: time.Now})
		w.token = w.newToken("api.installation")
		w.faults(
			cloud.Fault{Match: cloud.Match{Route: cloud.RouteSync, Nth: 1}, Action: cloud.Delay, Milliseconds: 59_000},
			cloud.Fault{Match: cloud.Match{Route: cloud.RouteSync, Nth: 2}, Action: cloud.Hang, Milliseconds: 120_000},
			cloud.Fault{Match: cloud.Match{Route: cloud.RouteSync, Nth: 3}, Action: cloud.Hang, When: cloud.AfterCommit},
		)
		w.http.Timeout = time.Minute
		begin := time.Now()
		w.sync(offer(1))
		if time.Since(begin) != 59*time.Second {
			t.Errorf("it took %s", time.Since(begin))
		}
		if answer := w.post(w.syncBody(offer(2))); !errors.Is(answer.err, context.DeadlineExceeded) || time.Since(begin) != 119*time.Second {
			t.Errorf("answer is %+v after %s", answer, time.Since(begin))
		}
		w.expect(1, 1)
		time.Sleep(time.Minute + time.Second)
		w.expect(2, 2)
		if answer := w.post(w.syncBody(offer(3))); !errors.Is(answer.err, context.DeadlineExceeded) {
			t.Errorf("answer is %+v", answer)
		}
		w.expect(3, 2)
		w.expectViolations()
		w.Close()
	})
}

func TestTheTransportKnowsItsHosts(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	var unknown *net.DNSError
	if answer := w.send("GET", "https://api.bitwarden.example/x", "", "", ""); !errors.As(answer.err, &unknown) {
		t.Errorf("answer is %+v", answer)
	}
	down := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	w.transport.Break(w.IdentityURL(), down)
	if answer := w.askToken(nil); !errors.Is(answer.err, syscall.ECONNREFUSED) {
		t.Errorf("answer is %+v", answer)
	}
	if w.Count("") != 0 {
		t.Error("a request arrived")
	}
	w.transport.Break(w.IdentityURL(), nil)
	w.newToken("api.installation")
}

func TestTheTransportTellsWhatItDoes(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	var told []string
	note := func(what string) { told = append(told, what) }
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		ConnectDone:          func(string, string, error) { note("connected") },
		WroteRequest:         func(httptrace.WroteRequestInfo) { note("sent") },
		GotFirstResponseByte: func() { note("answered") },
	})
	get := func(host string) string {
		told = nil
		w.sendContext(ctx, "GET", host+"/x", "", "", "")
		return strings.Join(told, " ")
	}
	if got := get(w.APIURL()); got != "connected sent answered" {
		t.Errorf("told was %s", got)
	}
	w.faults(cloud.Fault{Action: cloud.Close})
	if got := get(w.APIURL()); got != "connected sent" {
		t.Errorf("told was %s", got)
	}
	w.transport.Break(w.APIURL(), io.ErrClosedPipe)
	if got := get(w.APIURL()); got != "" {
		t.Errorf("told was %s", got)
	}
}

func TestFaultsOnTheNetwork(t *testing.T) {
	c, err := cloud.New(cloud.Config{})
	if err != nil {
		t.Fatal(err)
	}
	server, err := c.Start(cloud.Addresses{})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	discovery := server.IdentityURL + "/.well-known/openid-configuration"
	get := func() (int, string, error) {
		answer, err := client.Get(discovery)
		if err != nil {
			return 0, "", err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		return answer.StatusCode, string(body), err
	}
	if status, body, err := get(); status != 200 || !strings.Contains(body, server.IdentityURL+"/connect/token") || err != nil {
		t.Errorf("%d %s %v", status, body, err)
	}
	for _, test := range []struct {
		rule cloud.Fault
		want string
	}{
		{cloud.Fault{Action: cloud.Close}, "0 0 EOF"},
		{cloud.Fault{Action: cloud.Truncate, Bytes: 5}, "200 5 unexpected EOF"},
		{cloud.Fault{Action: cloud.Hang, Milliseconds: 1}, "0 0 EOF"},
		{cloud.Fault{Action: cloud.Status, Status: 503, Body: "down"}, "503 4 <nil>"},
	} {
		if err := c.SetFaults(test.rule); err != nil {
			t.Fatal(err)
		}
		status, body, err := get()
		if got := fmt.Sprintf("%d %d %v", status, len(body), err); !strings.HasPrefix(got, test.want[:4]) || !strings.HasSuffix(got, test.want[4:]) {
			t.Errorf("%s: %s", test.rule.Action, got)
		}
	}
	if err := c.SetFaults(cloud.Fault{Action: cloud.Hang}); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error)
	go func() {
		_, _, err := get()
		gone <- err
	}()
	for c.Count("") < 6 {
		time.Sleep(time.Millisecond)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-gone; err == nil {
		t.Error("what hung was answered")
	}
}
