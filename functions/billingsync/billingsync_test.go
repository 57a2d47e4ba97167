package billingsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/sponsor/licence"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// epoch is in the future, so that a context whose deadline is on the fake clock
// does not end.
var epoch = time.Date(2131, 3, 5, 4, 30, 0, 0, time.UTC)

const org = "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"

// clock passes time when somebody waits.
type clock struct {
	mu    sync.Mutex
	at    time.Time
	waits []time.Duration
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) Wait(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.waits = c.at.Add(max(d, 0)), append(c.waits, d)
	return nil
}

func within(t *testing.T, c *clock, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithDeadline(t.Context(), c.Now().Add(d))
	t.Cleanup(cancel)
	return ctx
}

// script answers as it is told to, and remembers what it was asked.
type script struct {
	reports []sponsor.TickReport
	errs    []error
	asked   []string
}

func (s *script) next() (sponsor.TickReport, error) {
	n := len(s.asked) - 1
	var report sponsor.TickReport
	var err error
	if n < len(s.reports) {
		report = s.reports[n]
	}
	if n < len(s.errs) {
		err = s.errs[n]
	}
	return report, err
}

func (s *script) Tick(_ context.Context, tick sponsor.Tick) (sponsor.TickReport, error) {
	s.asked = append(s.asked, tick.ID)
	return s.next()
}

func (s *script) Run(_ context.Context, organization string) (sponsor.Run, error) {
	s.asked = append(s.asked, organization)
	_, err := s.next()
	return sponsor.Run{}, err
}

func scripted(s *script, c *clock) *Function {
	return newFunction(s, Config{Billing: config.Billing{RequestTimeout: time.Minute}}, Parts{Now: c.Now, Waiter: c})
}

func left(in time.Duration) sponsor.TickReport {
	return sponsor.TickReport{Connections: 2, Left: 1, Next: epoch.Add(in)}
}

func TestATickGoesOnForAsLongAsThereIsTime(t *testing.T) {
	for name, c := range map[string]struct {
		reports []sponsor.TickReport
		time    time.Duration // 0: no deadline
		calls   int
		waits   []time.Duration
	}{
		"nothing is left":                      {[]sponsor.TickReport{{}}, time.Hour, 1, nil},
		"what is left is somebody else's":      {[]sponsor.TickReport{{Left: 1}}, time.Hour, 1, nil},
		"what is left can go on at once":       {[]sponsor.TickReport{left(0), {}}, time.Hour, 2, []time.Duration{time.Second}},
		"what is left goes on in two minutes":  {[]sponsor.TickReport{left(2 * time.Minute), left(3 * time.Minute), {}}, time.Hour, 3, []time.Duration{2 * time.Minute, time.Minute}},
		"it goes on after the deadline":        {[]sponsor.TickReport{left(2 * time.Minute)}, 2 * time.Minute, 1, nil},
		"there is no time for a request after": {[]sponsor.TickReport{left(2 * time.Minute)}, 3 * time.Minute, 1, nil},
		"there is just time for a request":     {[]sponsor.TickReport{left(2 * time.Minute), {}}, 3*time.Minute + 15*time.Second, 2, []time.Duration{2 * time.Minute}},
		"there is no deadline":                 {[]sponsor.TickReport{left(9 * time.Hour), {}}, 0, 2, []time.Duration{9 * time.Hour}},
	} {
		t.Run(name, func(t *testing.T) {
			clock, s := &clock{at: epoch}, &script{reports: c.reports}
			ctx := t.Context()
			if c.time > 0 {
				ctx = within(t, clock, c.time)
			}
			if err := scripted(s, clock).Run(ctx, Tick{At: epoch, ID: "one"}); err != nil {
				t.Fatal(err)
			}
			if len(s.asked) != c.calls || slices.ContainsFunc(s.asked, func(id string) bool { return id != "one" }) || !slices.Equal(clock.waits, c.waits) {
				t.Errorf("asked %q, waited %v", s.asked, clock.waits)
			}
		})
	}
}

func TestAFailedRunIsAFailedCall(t *testing.T) {
	failed := &sponsor.Failure{Code: "key_invalid", Message: "Invalid Billing Sync Key", Class: fault.Invalid}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx   context.Context
		err   error
		fails bool
	}{
		"a run failed":                          {t.Context(), errors.Join(errors.New("other"), failed), true},
		"the store is down":                     {t.Context(), fault.Transient, true},
		"the time is over":                      {over, fmt.Errorf("list: %w", context.DeadlineExceeded), false},
		"a run failed before the time was over": {over, errors.Join(context.DeadlineExceeded, failed), true},
	} {
		t.Run(name, func(t *testing.T) {
			for what, call := range map[string]func(*Function) error{
				"tick": func(f *Function) error { return f.Run(c.ctx, Tick{ID: "one"}) },
				"kick": func(f *Function) error { return f.Sync(c.ctx, org) },
			} {
				s := &script{errs: []error{c.err}}
				err := call(scripted(s, &clock{at: epoch}))
				if (err != nil) != c.fails || err != nil && !errors.Is(err, c.err) || len(s.asked) != 1 {
					t.Errorf("%s: %v, asked %q", what, err, s.asked)
				}
			}
		})
	}
}

func TestAKickGoesOnForAsLongAsThereIsTime(t *testing.T) {
	later := &sponsor.ContinueError{NotBefore: epoch.Add(2 * time.Minute)}
	for name, c := range map[string]struct {
		errs  []error
		time  time.Duration
		calls int
	}{
		"it is through":                 {nil, time.Hour, 1},
		"somebody else does it":         {[]error{&sponsor.BusyError{}}, time.Hour, 1},
		"somebody else took it over":    {[]error{fmt.Errorf("run: %w", sponsor.ErrFenced)}, time.Hour, 1},
		"it goes on in two minutes":     {[]error{later}, time.Hour, 2},
		"there is no time for the rest": {[]error{later}, 3 * time.Minute, 1},
	} {
		t.Run(name, func(t *testing.T) {
			clock, s := &clock{at: epoch}, &script{errs: c.errs}
			if err := scripted(s, clock).Sync(within(t, clock, c.time), org); err != nil || len(s.asked) != c.calls {
				t.Errorf("%v, asked %q", err, s.asked)
			}
		})
	}
}

// world is an organisation here and in an emulated cloud.
type world struct {
	*testing.T
	emu      *emulator.Cloud
	clock    *clock
	driver   *storetest.Faults
	function *Function
	asked    *sponsor.Sync
	cloudOrg string
	log      *bytes.Buffer
}

func newWorld(t *testing.T, batch int) *world {
	t.Helper()
	w := &world{T: t, clock: &clock{at: epoch}, driver: storetest.NewFaults(store.NewTable()), log: &bytes.Buffer{}}
	emu, err := emulator.New(emulator.Config{Now: w.clock.Now, Sleep: w.clock.Wait})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(emu.Close)
	w.emu = emu
	installation, installationErr := emu.AddInstallation(emulator.Installation{})
	organization, organizationErr := emu.AddOrganization(emulator.Organization{Name: "Example"})
	key, keyErr := emu.RotateKey(organization.ID)
	document, documentErr := emu.License(organization.ID, installation.ID)
	trust, trustErr := licence.NewTestTrust(emulator.LicenceCertificate())
	if err := errors.Join(installationErr, organizationErr, keyErr, documentErr, trustErr); err != nil {
		t.Fatal(err)
	}
	w.cloudOrg = organization.ID
	c := Config{Wrapping: config.Wrapping{DataKeyMaxAge: time.Hour}, Billing: config.Billing{
		CloudCommunication: true, Region: "US", SyncBatch: batch, SyncProbe: true, SyncParallel: 2, RequestTimeout: time.Minute,
		OfferKeys: config.OfferKeysMember, LicenseCheck: config.LicenseCheckOff, InstallationID: installation.ID,
		InstallationKey: config.Secret(installation.Key), IdentityURL: emu.IdentityURL(), APIURL: emu.APIURL(),
	}}
	kek, transport := kmstest.NewKey(t), emulator.NewTransport(emu)
	w.function, err = New(c, Parts{
		Store: w.driver, Key: kek, Logger: slog.New(slog.NewJSONHandler(w.log, nil)), Now: w.clock.Now, Waiter: w.clock, Transport: transport,
	})
	if err != nil {
		t.Fatal(err)
	}
	documents := store.New(w.driver)
	w.asked, err = sponsor.New(sponsor.Config{
		Store: documents, Settings: c.Billing, Trust: trust, Now: w.clock.Now, Waiter: w.clock, Transport: transport,
		Ring: keyring.New(keyring.Config{Name: sponsor.RingName, Store: documents, Key: kek}),
	})
	if err != nil {
		t.Fatal(err)
	}
	_, uploadErr := w.asked.UploadLicence(t.Context(), sponsor.Upload{Organization: org, Document: document})
	_, connectErr := w.asked.CreateConnection(t.Context(), sponsor.Connect{Organization: org, Enabled: true, Key: config.Secret(key)})
	if err := errors.Join(uploadErr, connectErr); err != nil {
		t.Fatal(err)
	}
	emu.Forget()
	return w
}

func (w *world) offer(n int) {
	w.Helper()
	for i := range n {
		member := fmt.Sprintf("00000000-0000-4000-8000-%012d", i+1)
		_, err := w.asked.CreateOffer(w.Context(), sponsor.NewOffer{
			Organization: org, By: sponsor.Member{ID: member, Confirmed: true}, Email: fmt.Sprintf("family%d@home.example", i), Name: fmt.Sprint("Family ", i),
		})
		if err != nil {
			w.Fatal(err)
		}
	}
}

func (w *world) runs() []sponsor.Run {
	w.Helper()
	runs, err := w.asked.Runs(w.Context(), org, 100)
	if err != nil {
		w.Fatal(err)
	}
	return runs
}

func TestATickDoesWhatIsDueOnce(t *testing.T) {
	w := newWorld(t, 250)
	w.offer(3)
	for day := range 3 {
		for range 24 * 4 {
			tick := Tick{At: w.clock.Now(), ID: fmt.Sprint("tick ", w.clock.Now().Unix())}
			for range 2 { // it is delivered at least once
				if err := w.function.Run(within(t, w.clock, 10*time.Minute), tick); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.clock.Wait(t.Context(), 15*time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		if runs := w.runs(); len(runs) != day+1 || runs[0].Status != sponsor.Completed || runs[0].Trigger != sponsor.BySchedule {
			t.Fatalf("day %d: %+v", day, runs)
		}
	}
	if mails := w.emu.Mails(); len(mails) != 3 {
		t.Errorf("%d mails", len(mails))
	}
	if v := w.emu.Violations(); len(v) != 0 {
		t.Errorf("%v", v)
	}
	if !strings.Contains(w.log.String(), fmt.Sprint("tick ", epoch.Unix())) {
		t.Error("the log does not name the tick")
	}
}

func TestARunGoesOnOverSeveralCalls(t *testing.T) {
	w := newWorld(t, 1)
	w.offer(5)
	asked, err := w.asked.TriggerRun(t.Context(), org, sponsor.ByHand)
	if err != nil {
		t.Fatal(err)
	}
	// Each request of the cloud takes long, so that one call does not do for all.
	if err := w.emu.SetFaults(emulator.Fault{
		Match: emulator.Match{Route: emulator.RouteSync}, When: emulator.Before, Action: emulator.Delay, Milliseconds: 40_000, Times: 100,
	}); err != nil {
		t.Fatal(err)
	}
	calls := 0
	for ; calls < 10 && !w.runs()[0].Status.Finished(); calls++ {
		if err := w.function.Sync(within(t, w.clock, 2*time.Minute), org); err != nil {
			t.Fatal(err)
		}
	}
	runs := w.runs()
	if len(runs) != 1 || runs[0].ID != asked.ID || runs[0].Status != sponsor.Completed || runs[0].Counts.Sent != 5 || calls < 2 || len(w.emu.Mails()) != 5 {
		t.Errorf("%d calls, %d mails, %+v", calls, len(w.emu.Mails()), runs)
	}
}

func TestWithoutTimeNothingIsSent(t *testing.T) {
	w := newWorld(t, 250)
	w.offer(1)
	if _, err := w.asked.TriggerRun(t.Context(), org, sponsor.ByHand); err != nil {
		t.Fatal(err)
	}
	if err := w.function.Run(within(t, w.clock, 30*time.Second), Tick{ID: "short"}); err != nil {
		t.Fatal(err)
	}
	if n := w.emu.Count(emulator.RouteSync); n != 0 || w.runs()[0].Status.Finished() {
		t.Errorf("%d requests, %+v", n, w.runs())
	}
}

func TestAStoreThatIsDownFailsTheCall(t *testing.T) {
	w := newWorld(t, 250)
	w.driver.Inject(storetest.Fault{Method: storetest.List})
	if err := w.function.Run(t.Context(), Tick{ID: "one"}); fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), "tick one") {
		t.Error(err)
	}
}

func TestNothingToDo(t *testing.T) {
	w := newWorld(t, 250)
	if err := w.function.Sync(t.Context(), org); err != nil {
		t.Error(err)
	}
	if err := w.function.Sync(t.Context(), "not a guid"); fault.Of(err) != fault.NotFound {
		t.Error(err)
	}
	if runs := w.runs(); len(runs) != 0 {
		t.Errorf("%+v", runs)
	}
}
