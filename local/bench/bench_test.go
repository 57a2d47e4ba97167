package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
)

func TestAQuantileIsOneOfTheValues(t *testing.T) {
	for _, c := range []struct {
		values   []float64
		q50, q99 float64
	}{
		{nil, 0, 0},
		{[]float64{7}, 7, 7},
		{[]float64{3, 1, 2}, 2, 3},
		{[]float64{4, 3, 2, 1}, 2, 4},
	} {
		before := slices.Clone(c.values)
		if got := median(c.values); got != c.q50 {
			t.Errorf("the median of %v is %v, want %v", c.values, got, c.q50)
		}
		if got := quantile(c.values, 0.99); got != c.q99 {
			t.Errorf("the quantile 0.99 of %v is %v, want %v", c.values, got, c.q99)
		}
		if !slices.Equal(before, c.values) {
			t.Errorf("%v became %v", before, c.values)
		}
	}
}

func TestContendersTakeTurnsAndBeginInTurn(t *testing.T) {
	var order string
	contender := func(name string) func() (float64, error) {
		return func() (float64, error) { order += name; return float64(len(order)), nil }
	}
	measured, err := interleave(3, contender("a"), contender("b"))
	if err != nil || order != "abbaab" {
		t.Fatalf("the order is %q, %v", order, err)
	}
	if !slices.Equal(measured[0], []float64{1, 4, 5}) || !slices.Equal(measured[1], []float64{2, 3, 6}) {
		t.Errorf("measured %v", measured)
	}
	broken := errors.New("broken")
	if _, err := interleave(3, func() (float64, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestAVerdictFollowsTheBudget(t *testing.T) {
	ratio := func(ours, bare float64) result {
		return result{Bare: "b", Budget: ratioAtMost(1.5)}.compare([]float64{ours}, []float64{bare})
	}
	for name, c := range map[string]struct {
		result result
		want   string
	}{
		"below the limit":           {result{Measured: 11.9, Budget: atMost(12)}, within},
		"at the limit":              {result{Measured: 12, Budget: atMost(12)}, within},
		"above the limit":           {result{Measured: 12.1, Budget: atMost(12)}, over},
		"none where none may be":    {result{Budget: atMost(0)}, within},
		"one where none may be":     {result{Measured: 1, Budget: atMost(0)}, over},
		"a ratio below the limit":   {ratio(14, 10), within},
		"a ratio above the limit":   {ratio(16, 10), over},
		"a ratio to nothing":        {ratio(16, 0), over},
		"a ratio that was not made": {result{Measured: 1, Budget: ratioAtMost(1.5)}, over},
		"for information":           {result{Measured: 16}, ""},
		"skipped":                   {result{Skipped: "why", Budget: atMost(0)}, ""},
	} {
		c.result.judge()
		if c.result.Verdict != c.want {
			t.Errorf("%s: ratio %v, verdict %q; want %q", name, c.result.Ratio, c.result.Verdict, c.want)
		}
	}
}

func TestALoadThatComesAndGoesLeavesTheRatio(t *testing.T) {
	// The machine becomes slower within the run, once between the two of a round;
	// ours takes twice as long.
	got := result{}.compare([]float64{2, 2, 20, 200, 20}, []float64{1, 1, 1, 100, 10})
	if got.Ratio != 2 || got.Measured != 20 || got.Beside != 1 {
		t.Errorf("%+v", got)
	}
}

func TestTheTableAndTheJSONSayTheSame(t *testing.T) {
	results := []result{
		result{What: "a ratio", Unit: "ms", Bare: "bare", Budget: ratioAtMost(1.5), Note: "a note"}.compare([]float64{16}, []float64{10}),
		{What: "a size", Measured: 11.26, Unit: "MB", Budget: atMost(12)},
		{What: "not here", Skipped: "no tool"},
	}
	for i := range results {
		results[i].judge()
	}
	var table, document bytes.Buffer
	if err := errors.Join(printTable(&table, results), printJSON(&document, results)); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(table.String(), "\n")
	for i, want := range [][]string{
		{"what", "measured", "beside it", "ratio", "budget"},
		{"a ratio", "16 ms", "10 ms (bare)", "1.60", "≤ 1.5 ×", "OVER"},
		{"a size", "11.3 MB", "≤ 12 MB", "ok"},
		{"not here", "SKIP: no tool"},
		nil,
		{"a ratio: a note"},
	} {
		for _, cell := range want {
			if !strings.Contains(lines[i], cell) {
				t.Errorf("line %d is %q, without %q", i, lines[i], cell)
			}
		}
	}
	var back []result
	if err := json.Unmarshal(document.Bytes(), &back); err != nil || len(back) != 3 {
		t.Fatalf("%d results, %v", len(back), err)
	}
	if back[0].Ratio != 1.6 || back[0].Verdict != over || !back[0].Budget.OfRatio || back[2].Skipped != "no tool" {
		t.Errorf("the JSON is %s", document.String())
	}
}

func TestWrongArgumentsAreRefused(t *testing.T) {
	for _, args := range [][]string{{"--only", "size,nothing"}, {"--rounds", "-1"}, {"warm"}, {"--no-such-flag"}} {
		var out bytes.Buffer
		if err := run(t.Context(), args, &out, io.Discard); err == nil || out.Len() > 0 {
			t.Errorf("%q: %v, printed %q", args, err, out.String())
		}
	}
}

// What is measured against must be worth it: a handler that let anything pass
// would be cheap too.
func TestTheBareHandlerGivesTheKeyToItsUserAlone(t *testing.T) {
	driver := memory.New()
	p, err := newPair(t.Context(), driver, kmstest.NewKey(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.identity.Close)
	identity, err := devidentity.New(devidentity.Config{Issuer: "http://127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	compared := p.bare.(*bare)
	compared.public = identity.PublicKey()
	user := userOf(t, p.requests[0])
	for name, c := range map[string]struct {
		claims devidentity.Claims
		want   int
	}{
		"a good token":       {devidentity.Claims{User: user}, http.StatusOK},
		"a user without key": {devidentity.Claims{User: uuid.NewString()}, http.StatusNotFound},
		"an expired token":   {devidentity.Claims{User: user, Lifetime: -time.Minute}, http.StatusUnauthorized},
		"another issuer":     {devidentity.Claims{User: user, Set: map[string]any{"iss": "http://other"}}, http.StatusUnauthorized},
		"another signature": {devidentity.Claims{User: user, Sign: func([]byte) ([]byte, error) {
			return identity.Sign([]byte("something else"))
		}}, http.StatusUnauthorized},
	} {
		token, err := identity.Mint(c.claims)
		if err != nil {
			t.Fatal(err)
		}
		request, err := newRequest(t.Context(), http.MethodGet, token, nil)
		if err != nil {
			t.Fatal(err)
		}
		a := newAnswer()
		p.bare.ServeHTTP(a, request)
		if a.status != c.want {
			t.Errorf("%s: %d, want %d", name, a.status, c.want)
		}
	}
}

func userOf(t *testing.T, r *http.Request) string {
	t.Helper()
	payload := strings.Split(r.Header.Get("Authorization"), ".")[1]
	content, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		t.Fatal(err)
	}
	var claims bareClaims
	if err := json.Unmarshal(content, &claims); err != nil {
		t.Fatal(err)
	}
	return claims.Subject
}

// The budgets that are counts, not times, are kept by this test too.
func TestTheCountsKeepTheirBudgets(t *testing.T) {
	b := &bench{temp: t.TempDir(), quick: true, rounds: 1, progress: io.Discard}
	results, err := b.calls(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	judged := 0
	for _, r := range results {
		r.judge()
		if r.Budget != nil {
			judged++
		}
		if r.Verdict == over {
			t.Errorf("%s: %v %s, at most %v; %s", r.What, r.Measured, r.Unit, r.Budget.Max, r.Note)
		}
	}
	// That nothing was counted would keep every budget.
	if judged != 4 || results[0].Measured != 1 || results[1].Measured != 1 || results[3].Measured != 1 {
		t.Errorf("measured %+v", results)
	}
}

func TestALoadSendsWhatIsDueAndReportsRefusals(t *testing.T) {
	var served atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		if r.Header.Get("Authorization") != "Bearer good" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(server.Close)
	l := newLoad(server.URL)
	t.Cleanup(l.client.CloseIdleConnections)
	l.tokens = []string{"good"}
	ran, err := l.run(t.Context(), 500, 200*time.Millisecond)
	if err != nil || served.Load() != 100 || len(ran.latencies) != 100 || ran.rate <= 0 {
		t.Errorf("%d requests, %d latencies, %v/s, %v", served.Load(), len(ran.latencies), ran.rate, err)
	}
	l.tokens = []string{"bad"}
	if _, err := l.run(t.Context(), 500, 20*time.Millisecond); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("refused requests: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.run(ended, 500, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("a load that was called off: %v", err)
	}
}

func TestTheMemoryOfAProcessIsRead(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIP /proc: Linux has it")
	}
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: &exec.Cmd{Process: self}}
	r, err := p.resident()
	if err != nil || r.anonymous <= 1 || r.file <= 1 || r.total < r.anonymous+r.file-0.1 {
		t.Errorf("%+v, %v", r, err)
	}
	gone := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := (&process{cmd: gone}).resident(); err == nil {
		t.Error("a process that is gone has memory")
	}
}

func TestAProcessThatDoesNotComeUpSaysWhy(t *testing.T) {
	p, err := launch(t.Context(), os.Args[0], nil, "-no-such-flag")
	if err != nil {
		t.Fatal(err)
	}
	var line struct{}
	err = p.until(&line, func() bool { return false })
	if err == nil || !strings.Contains(err.Error(), "no-such-flag ended") || !strings.Contains(err.Error(), "not defined") {
		t.Errorf("got %v", err)
	}
	if _, err := launch(t.Context(), filepath.Join(t.TempDir(), "nothing"), nil); err == nil {
		t.Error("a program that is not there was started")
	}
}

func TestABuildThatFailsSaysWhy(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("SKIP make: it is not on this machine")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	root, err := repository(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{temp: t.TempDir(), root: root}
	if _, err := b.make(ctx, build{rule: "bench-lambda", tree: root, source: "./local/bench/nothing"}); err == nil || !strings.Contains(err.Error(), "local/bench/nothing") {
		t.Errorf("got %v", err)
	}
	packages, err := b.lambdas()
	if err != nil || !slices.Contains(packages, "./functions/keyconnector/aws") {
		t.Errorf("the Lambda packages are %q, %v", packages, err)
	}
}
