package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/testenv"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/logtest"
)

// A step is what `latchkey up` prints below a comment, and what somebody sees
// who pastes it, in this order.
type step struct {
	comment string
	sees    []string
}

var (
	keyConnectorSteps = []step{
		{"Key Connector: a token for a new user", nil},
		{"store the user's key", []string{"HTTP/1.1 200 OK"}},
		{"read it", []string{"HTTP/1.1 200 OK", `{"key":"`}},
		{"is everything well?", []string{`"status":"healthy"`}},
	}
	secretsManagerSteps = []step{
		{"Secrets Manager: an operator", []string{"has its key", "demo", "Secret DB_PASSWORD", "is created"}},
		{"a machine that may reach the project", []string{"robot", "This is the only time"}},
		{"what it does there", []string{"\nthe password is hunter2\n"}},
	}
	billingSyncSteps = []step{
		{"Billing sync: an owner", []string{"Example", "Enterprise", "from upload"}},
		{"connect with the billing sync key", []string{"Connection: enabled", "The cloud accepts the key."}},
		{"offer somebody a free Families organization", []string{"The offer is created", "family-", "Requested"}},
		{"sync: the cloud mails the offer", []string{"completed", "1 sent", "family-", "Sent", `[{"to":"family-`, "accept-families-for-enterprise"}},
		{"somebody accepts it in the cloud", []string{"completed", "1 refreshed", "family-", "Active"}},
		{"revoke it", []string{"is revoked", "completed", "1 kept until they expire", "family-", "Expires "}},
	}
)

func TestWhatUpPrintsWorksAsPrinted(t *testing.T) {
	for _, tool := range []string{"go", "sh", "curl", "sed", "awk"} {
		testenv.Tool(t, tool)
	}
	folder := t.TempDir()
	buildInto(t, filepath.Join(folder, "latchkey"), ".")
	t.Run("as one process, and after a restart", func(t *testing.T) {
		data := t.TempDir()
		p := startUp(t, filepath.Join(folder, "latchkey"), data)
		seen := p.paste(t, p.printed)
		wantSteps(t, seen, keyConnectorSteps, []step{{"who has a key?", []string{"never"}}}, secretsManagerSteps, billingSyncSteps)
		p.stop(t)
		p = startUp(t, filepath.Join(folder, "latchkey"), data)
		_, again, _ := strings.Cut(p.printed, "\n  # Billing sync")
		seen = p.paste(t, "\n  # Billing sync"+again)
		wantSteps(t, seen, billingSyncSteps[:1], []step{
			{"connect with the billing sync key", []string{"Connection: enabled", "The cloud accepts the key."}},
			{"sync: the cloud mails the offer", []string{"completed", "1 sent"}},
			{"somebody accepts it in the cloud", []string{"Active"}},
			{"revoke it", []string{"2 kept until they expire", "Expires "}}, // the cloud remembers the first
		})
		if n := strings.Count(after(seen, "revoke it"), "Expires "); n != 2 {
			t.Errorf("of the offers before and after the restart %d are shown as revoked:\n%s", n, seen)
		}
		p.stop(t)
	})
	t.Run("as the real Lambda binaries", func(t *testing.T) {
		for _, function := range lambdaFunctions {
			buildInto(t, filepath.Join(folder, "lambda", function, "bootstrap"), "../../functions/"+function+"/aws", "-tags", "lambda.norpc")
		}
		p := startUp(t, filepath.Join(folder, "latchkey"), t.TempDir(), "--lambda")
		wantSteps(t, p.paste(t, p.printed), keyConnectorSteps, secretsManagerSteps, billingSyncSteps)
		p.stop(t)
	})
}

func buildInto(t *testing.T, path, source string, flags ...string) {
	t.Helper()
	build := exec.CommandContext(t.Context(), "go", append(append([]string{"build", "-ldflags", "-s -w", "-o", path}, flags...), source)...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// upProcess is a running `latchkey up`.
type upProcess struct {
	cmd     *exec.Cmd
	data    string
	printed string // what to try
	log     *logtest.Log
}

func startUp(t *testing.T, binary, data string, flags ...string) *upProcess {
	t.Helper()
	p := &upProcess{data: data, log: &logtest.Log{}}
	p.cmd = exec.CommandContext(t.Context(), binary, append([]string{"up", "--listen", "127.0.0.1:0", "--data", data}, flags...)...)
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	p.cmd.Stderr = p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("latchkey up told:\n%s", p.log)
		}
	})
	found := false
	var printed strings.Builder
	for scan := bufio.NewScanner(out); scan.Scan(); {
		line := scan.Text()
		if line == "Ctrl-C ends it." {
			p.printed = printed.String()
			return p
		}
		if found {
			printed.WriteString(line + "\n")
		}
		found = found || strings.HasPrefix(line, "Try, in another terminal")
	}
	t.Fatalf("it does not start: %v\n%s", p.cmd.Wait(), p.log)
	return nil
}

// stop does what Ctrl-C does, and looks at what the cloud saw and what was logged
// until then.
func (p *upProcess) stop(t *testing.T) {
	t.Helper()
	mails := regexp.MustCompile(`http://\S+/__emu/mails`).FindString(p.printed)
	answer, err := http.Get(strings.TrimSuffix(mails, "mails") + "violations")
	if err != nil {
		t.Fatal(err)
	}
	violations, err := io.ReadAll(answer.Body)
	closeIt(t, answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK || strings.TrimSpace(string(violations)) != "[]" {
		t.Errorf("the cloud complains: %s %s, %v", answer.Status, violations, err)
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("it did not end well: %v", err)
	}
	content, err := os.ReadFile(filepath.Join(p.data, "cloud", "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state cloud.State
	if err := json.Unmarshal(content, &state); err != nil || len(state.Installations) != 1 || len(state.Organizations) != 1 || len(state.Sponsorships) == 0 {
		t.Fatalf("the cloud kept %s, %v", content, err)
	}
	for what, text := range map[string]string{
		"the installation's key": state.Installations[0].Key, "the billing sync key": state.Organizations[0].BillingSyncKey,
		"the license's key": state.Organizations[0].LicenseKey, "an address": "@example.org",
	} {
		if text == "" || strings.Contains(p.log.String(), text) {
			t.Errorf("%s is logged, or empty", what)
		}
	}
	if !strings.Contains(p.log.String(), "sync run") {
		t.Error("the scheduled function logs nothing")
	}
}

// paste has a shell do what is printed, which shows each line before it does
// it, and stops at the first that fails.
func (p *upProcess) paste(t *testing.T, printed string) string {
	t.Helper()
	script := filepath.Join(t.TempDir(), "printed.sh")
	if err := os.WriteFile(script, []byte(printed), 0o600); err != nil {
		t.Fatal(err)
	}
	shell := exec.CommandContext(t.Context(), "sh", "-ev", script)
	shell.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	seen, err := shell.CombinedOutput()
	if err != nil {
		t.Errorf("%v", err)
	}
	return string(seen)
}

// after gives what is seen from a comment up to the next.
func after(seen, comment string) string {
	_, rest, _ := strings.Cut(seen, "\n  # "+comment)
	shown, _, _ := strings.Cut(rest, "\n  # ")
	return shown
}

func wantSteps(t *testing.T, seen string, sections ...[]step) {
	t.Helper()
	for _, section := range sections {
		for _, s := range section {
			if !strings.Contains(seen, "\n  # "+s.comment) {
				t.Errorf("there is no step %q in:\n%s", s.comment, seen)
				return
			}
			rest := after(seen, s.comment)
			for _, text := range s.sees {
				_, behind, ok := strings.Cut(rest, text)
				if !ok {
					t.Errorf("%q: %q is not seen in:\n%s", s.comment, text, after(seen, s.comment))
					break
				}
				rest = behind
			}
		}
	}
}

func TestTheEmulatedCloudIsTheSameAfterARestart(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "cloud")
	first := openedCloud(t, folder)
	customer, err := first.emulator.Organization(developmentCustomer)
	if err != nil || customer.BillingSyncKey == "" || first.installationKey == "" {
		t.Fatalf("%+v, %v", customer, err)
	}
	const key = "5a1b0e52-7f3c-4f0d-9a57-3f2c2b1f7f10"
	if _, err := first.emulator.AddSponsorship(cloud.Sponsorship{SponsoringOrganizationID: customer.ID, OfferKey: key}); err != nil {
		t.Fatal(err)
	}
	closeIt(t, first)
	second := openedCloud(t, folder)
	defer closeIt(t, second)
	again, err := second.emulator.Organization(developmentCustomer)
	if err != nil || again.BillingSyncKey != customer.BillingSyncKey || again.LicenseKey != customer.LicenseKey || second.installationKey != first.installationKey {
		t.Errorf("%+v, %v", again, err)
	}
	if rows := second.emulator.Sponsorships(customer.ID); len(rows) != 1 || rows[0].OfferKey != key {
		t.Errorf("%+v", rows)
	}
	for _, path := range []string{second.state, second.certificate} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

func TestTheKeysOutliveACloudThatIsKilled(t *testing.T) {
	folder := t.TempDir()
	killed := openedCloud(t, folder)
	if err := killed.Server.Close(); err != nil { // which saves nothing
		t.Fatal(err)
	}
	next := openedCloud(t, folder)
	defer closeIt(t, next)
	before, beforeErr := killed.emulator.Organization(developmentCustomer)
	after, afterErr := next.emulator.Organization(developmentCustomer)
	if err := errors.Join(beforeErr, afterErr); err != nil || before.BillingSyncKey != after.BillingSyncKey || killed.installationKey != next.installationKey {
		t.Errorf("%+v, %+v, %v", before, after, err)
	}
}

func openedCloud(t *testing.T, folder string) *emulatedCloud {
	t.Helper()
	c, err := openCloud(folder)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestACloudThatCannotBeOpenedIsTold(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "state.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openCloud(folder); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "state.json") {
		t.Errorf("a broken state: %v", err)
	}
	if content, err := os.ReadFile(filepath.Join(folder, "state.json")); err != nil || string(content) != "{" {
		t.Errorf("the broken state is now %q, %v", content, err)
	}
	if _, err := openCloud(filepath.Join(folder, "state.json")); fault.Of(err) != fault.Invalid {
		t.Errorf("a file in place of the folder: %v", err)
	}
	occupied := filepath.Join(t.TempDir(), "cloud")
	if err := os.MkdirAll(filepath.Join(occupied, "licensing.pem"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := openCloud(occupied); fault.Of(err) != fault.Invalid {
		t.Errorf("a folder in place of the certificate: %v", err)
	}
}

func TestTheScheduleTicksNowAndInEveryInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var events []struct{ Time, ID string }
		var log bytes.Buffer
		begin := time.Now()
		s := &schedule{every: 15 * time.Minute, log: slog.New(slog.NewTextHandler(&log, nil)), send: func(text []byte) error {
			mu.Lock()
			defer mu.Unlock()
			var event struct{ Time, ID string }
			if err := json.Unmarshal(text, &event); err != nil {
				t.Error(err)
			}
			events = append(events, event)
			if len(events) == 2 {
				return errors.New("the queue is full")
			}
			return nil
		}}
		s.start()
		time.Sleep(50 * time.Minute)
		closeIt(t, s)
		time.Sleep(time.Hour)
		if len(events) != 4 {
			t.Fatalf("%d events", len(events))
		}
		ids := map[string]bool{}
		for i, event := range events {
			at, err := time.Parse(time.RFC3339, event.Time)
			if err != nil || !at.Equal(begin.Add(time.Duration(i)*15*time.Minute)) || event.ID == "" || ids[event.ID] {
				t.Errorf("event %d is %+v (%v)", i, event, err)
			}
			ids[event.ID] = true
		}
		if n := strings.Count(log.String(), "the queue is full"); n != 1 {
			t.Errorf("the log is %s", &log)
		}
	})
}
