//go:build unix

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/e2e/bitwarden"
	"github.com/latchkey-fn/latchkey/local/testenv"
)

// patience bounds one run of bw: a login takes some three seconds of processor
// time, and a busy machine may have other things to do.
const patience = 90 * time.Second

// machine is a computer with a freshly installed bw: an empty data folder, the
// servers configured.
type machine struct {
	t   *testing.T
	bw  string
	env []string
}

// outcome is what one run of bw left behind.
type outcome struct {
	stdout, stderr string
	err            error
}

func (o outcome) String() string {
	return fmt.Sprintf("%v\nstdout: %s\nstderr: %s", o.err, o.stdout, o.stderr)
}

// newMachine configures bw for the server; keyConnector is "" where clients
// learn the address from the server.
func newMachine(t *testing.T, server *bitwarden.Server, keyConnector string) *machine {
	t.Helper()
	bw := testenv.Tool(t, "bw")
	testenv.Tool(t, "node")
	dir := t.TempDir()
	m := &machine{t: t, bw: bw, env: []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "BITWARDENCLI_APPDATA_DIR=" + filepath.Join(dir, "bw"),
		"NODE_EXTRA_CA_CERTS=" + server.Authority.File, "LANG=C.UTF-8", "TERM=dumb", "NO_COLOR=1",
	}}
	args := []string{"config", "server", server.URL}
	if keyConnector != "" {
		args = append(args, "--key-connector", keyConnector)
	}
	if o := m.run(nil, args...); o.err != nil {
		t.Fatalf("bw config: %s", o)
	}
	return m
}

// run runs bw without a terminal.
func (m *machine) run(env []string, args ...string) outcome {
	m.t.Helper()
	var stdout, stderr bytes.Buffer
	err := m.execute(append(env, "BW_NOINTERACTION=true"), func(cmd *exec.Cmd) {
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
	}, m.bw, args...)
	return outcome{stdout.String(), stderr.String(), err}
}

// loginWithAPIKey is bw login --apikey.
func (m *machine) loginWithAPIKey(u bitwarden.User) outcome {
	m.t.Helper()
	return m.run([]string{"BW_CLIENTID=" + u.ClientID(), "BW_CLIENTSECRET=" + u.APISecret}, "login", "--apikey")
}

// prompt is a question of bw on its terminal, and the keys that answer it. The
// question is a piece short enough to stand on one line of 80 columns.
type prompt struct{ question, answer string }

// confirmDomain accepts the Key Connector that the server names.
var confirmDomain = prompt{"confirm the domain", "\r"}

// loginWithSSO is bw login --sso on a terminal, with a browser in which the
// identity provider knows the user. Each prompt is answered once, when it shows.
func (m *machine) loginWithSSO(prompts ...prompt) outcome {
	m.t.Helper()
	script := testenv.Tool(m.t, "script")
	browser := m.browser()
	terminal := &typist{prompts: prompts}
	err := m.execute([]string{"PATH=" + browser + string(os.PathListSeparator) + os.Getenv("PATH")}, func(cmd *exec.Cmd) {
		stdin, err := cmd.StdinPipe()
		if err != nil {
			m.t.Fatal(err)
		}
		terminal.keys, cmd.Stdout, cmd.Stderr = stdin, terminal, terminal
	}, script, "-qec", "'"+m.bw+"' login --sso "+bitwarden.OrgIdentifier, "/dev/null")
	screen, unanswered := terminal.result()
	o := outcome{stdout: screen, err: errors.Join(err, unanswered)}
	if o.err != nil {
		// A browser that never came to its end is worth knowing, no log is not.
		log, _ := os.ReadFile(filepath.Join(browser, "log"))
		o.stderr = "browser: " + string(log)
	}
	return o
}

// browser makes a folder with an xdg-open that follows the redirects of single
// sign-on. bw does nothing else until xdg-open ends, so curl goes on behind it.
func (m *machine) browser() string {
	m.t.Helper()
	curl := testenv.Tool(m.t, "curl")
	dir := m.t.TempDir()
	body := `#!/bin/sh
url=$(printf '%s' "$1" | sed 's|/#/sso?|/sso?|')
'` + curl + `' --silent --show-error --location --max-time 60 \
  --cacert "$NODE_EXTRA_CA_CERTS" --output /dev/null "$url" </dev/null >"${0%/*}/log" 2>&1 &
`
	if err := os.WriteFile(filepath.Join(dir, "xdg-open"), []byte(body), 0o755); err != nil {
		m.t.Fatal(err)
	}
	return dir
}

// execute runs a process with all its children in a group of its own, which
// ends when patience does. attach connects it.
func (m *machine) execute(env []string, attach func(*exec.Cmd), name string, args ...string) error {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(slices.Clone(m.env), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	cmd.WaitDelay = 5 * time.Second
	attach(cmd)
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("stopped after %s: %w", patience, err)
	}
	return err
}

// typist watches a terminal and answers prompts, one after the other.
type typist struct {
	keys io.Writer

	mu      sync.Mutex
	screen  bytes.Buffer
	from    int // where the next question may begin
	prompts []prompt
	failure error
}

func (p *typist) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.screen.Write(b)
	for len(p.prompts) > 0 && bytes.Contains(p.screen.Bytes()[p.from:], []byte(p.prompts[0].question)) {
		if _, err := io.WriteString(p.keys, p.prompts[0].answer); err != nil {
			p.failure = fmt.Errorf("answering %q: %w", p.prompts[0].question, err)
		}
		p.from, p.prompts = p.screen.Len(), p.prompts[1:]
	}
	return len(b), nil
}

// result is what the terminal showed, and whether every prompt came and could
// be answered.
func (p *typist) result() (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure == nil && len(p.prompts) > 0 {
		return p.screen.String(), fmt.Errorf("bw never asked to %q", p.prompts[0].question)
	}
	return p.screen.String(), p.failure
}

// session is the session key that bw prints after a login, "" if there is none.
func (o outcome) session() string {
	_, after, ok := strings.Cut(o.stdout, `BW_SESSION="`)
	session, _, closed := strings.Cut(after, `"`)
	if !ok || !closed {
		return ""
	}
	return session
}
