package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/testenv"
)

func TestWrongUsageIsToldWithItsExitCode(t *testing.T) {
	for _, c := range []struct {
		args []string
		told string
	}{
		{[]string{"srve"}, `unknown command "srve"`},
		{[]string{"srve"}, "serve"}, // the one that was meant
		{[]string{"srve"}, "(see latchkey --help)"},
		{[]string{"keys", "lst"}, `unknown command "lst" for "latchkey keys"; is list meant? (see latchkey keys --help)`},
		{[]string{"data-keys", "rotat"}, `unknown command "rotat" for "latchkey data-keys"; is rotate meant?`},
		{[]string{"secret", "xyzzy"}, `unknown command "xyzzy" for "latchkey secret" (see latchkey secret --help)`},
		{[]string{"--colour"}, "unknown flag: --colour"},
		{[]string{"serve", "--port", "80"}, "unknown flag: --port"},
		{[]string{"serve", "now"}, "takes 0 argument(s), not 1"},
		{[]string{"keys", "delete", "--yes=perhaps", alice}, "--yes"},
		{[]string{"serve", "--tls-cert", "cert.pem"}, "--tls-cert and --tls-key go together"},
		{[]string{"serve", "--tls-key", "key.pem"}, "--tls-cert and --tls-key go together"},
		{[]string{"up", "--store", "paper"}, "choose sqlite"},
		{[]string{"up", "--keys", "paper"}, "choose software"},
		{[]string{"up", "--lambda", "--store", "sqlite"}, "--lambda goes with --store dynamodb"},
		{[]string{"up", "--lambda", "--lambda-binaries", "/nowhere"}, "the Lambda binaries are missing"},
		{[]string{"up", "--listen", "nowhere"}, "--listen nowhere"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			t.Chdir(t.TempDir()) // `up` makes a folder before it looks at all of its flags
			got := run(t, c.args...).want(t, exitUsage, c.told)
			if !strings.HasPrefix(got.err, "latchkey: ") || got.out != "" {
				t.Errorf("it writes %q and %q", got.out, got.err)
			}
		})
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "help" || c.Name() == "completion" || strings.HasPrefix(c.Name(), "__") {
			return
		}
		args := append(strings.Fields(c.CommandPath())[1:], "--help")
		got := run(t, args...).want(t, 0, c.UseLine())
		if c.Short == "" || got.err != "" {
			t.Errorf("%s: %q %q", c.CommandPath(), c.Short, got.err)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(&terminal{}))
	run(t, "--help").want(t, 0, "Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 not found", "4 declined", "NO_COLOR")
	run(t).want(t, 0, "Available Commands")
	run(t, "keys").want(t, 0, "Available Commands")
	run(t, "data-keys").want(t, 0, "Available Commands")
	run(t, "--version").want(t, 0, "latchkey version")
}

func TestHelpTellsWhatACommandDoesByItself(t *testing.T) {
	for command, told := range map[string]string{
		"token create": "default 90d, or the longest that the organization allows", "token rotate": "--grace 0", "secret import": "is there twice",
		"run": "NODE_OPTIONS", "project": "LATCHKEY_ACCESS_TOKEN", "machine": "LATCHKEY_OPERATOR_TOKEN", "org": "LATCHKEY_OPERATOR_TOKEN",
		"org policy": "(default: as it is)",
	} {
		run(t, append(strings.Fields(command), "--help")...).want(t, 0, told)
	}
	// What no machine may do does not tell how one is known.
	for _, group := range []string{"machine", "org"} {
		if got := run(t, group, "--help"); strings.Contains(got.out, "LATCHKEY_ACCESS_TOKEN") {
			t.Errorf("%s speaks of machines' settings:\n%s", group, got.out)
		}
	}
	if got := run(t, "org", "policy", "--help"); strings.Contains(got.out, "default none") {
		t.Errorf("without the flag, the limit is not taken away:\n%s", got.out)
	}
}

func TestShellsCompleteCommandsAndValues(t *testing.T) {
	for shell, told := range map[string]string{
		"bash": "complete -o default", "zsh": "#compdef latchkey", "fish": "complete -c latchkey", "powershell": "Register-ArgumentCompleter",
	} {
		if got := run(t, "completion", shell).want(t, 0, told, "latchkey"); got.err != "" {
			t.Errorf("%s: %s", shell, got.err)
		}
	}
	run(t, "__complete", "keys", "").want(t, 0, "delete", "list", "show")
	run(t, "__complete", "up", "--store", "").want(t, 0, "sqlite", "json", "dynamodb", "memory")
	run(t, "__complete", "up", "--keys", "").want(t, 0, "software", "softhsm", "awskms")
}

func TestBashUnderstandsItsCompletionScript(t *testing.T) {
	check := exec.CommandContext(t.Context(), testenv.Tool(t, "bash"), "-n")
	check.Stdin = strings.NewReader(run(t, "completion", "bash").out)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Colours are for a terminal, which script(1) pretends to be.
func TestColoursAreForTerminalsAndNotWithNO_COLOR(t *testing.T) {
	script := testenv.Tool(t, "script")
	binary := filepath.Join(t.TempDir(), "latchkey")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	doctor := func(name string, args ...string) string {
		t.Helper()
		out, _ := exec.CommandContext(t.Context(), name, args...).CombinedOutput() // the settings are wrong
		if !strings.Contains(string(out), "FAILED") {
			t.Fatalf("the doctor says %q", out)
		}
		return string(out)
	}
	t.Setenv("TERM", "xterm")
	if out := doctor(script, "-qec", binary+" doctor", "/dev/null"); !strings.Contains(out, "\x1b[") {
		t.Errorf("on a terminal nothing is coloured: %q", out)
	}
	if out := doctor(binary, "doctor"); strings.Contains(out, "\x1b[") {
		t.Errorf("in a pipe it is coloured: %q", out)
	}
	t.Setenv("NO_COLOR", "1")
	if out := doctor(script, "-qec", binary+" doctor", "/dev/null"); strings.Contains(out, "\x1b[") {
		t.Errorf("with NO_COLOR it is coloured: %q", out)
	}
}
