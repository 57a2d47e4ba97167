package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/latchkey-fn/latchkey/local/smclient"
	"github.com/latchkey-fn/latchkey/shared/config"
)

// beChild is the command that tests let `latchkey run` run: it repeats its
// input, tells what it was given, and ends as it is told to.
func beChild() {
	fmt.Println("arguments", os.Args[1:])
	for _, variable := range os.Environ() {
		fmt.Println("variable", variable)
	}
	fmt.Fprintln(os.Stderr, "on the error stream")
	if os.Getenv(asChild) == "wait" {
		terminated := make(chan os.Signal, 1)
		signal.Notify(terminated, syscall.SIGTERM)
		fmt.Println("waiting")
		fmt.Println("got", <-terminated)
		os.Exit(7)
	}
	input, _ := io.ReadAll(os.Stdin)
	fmt.Printf("input %s\n", input)
	os.Exit(42)
}

// latchkeyProcess is the command as a process of its own.
func latchkeyProcess(t *testing.T, environment map[string]string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], args...)
	c.Env = append(slices.DeleteFunc(os.Environ(), func(variable string) bool { return strings.HasPrefix(variable, config.Prefix) }), asCommand+"=1")
	for name, value := range environment {
		if value != "" {
			c.Env = append(c.Env, name+"="+value)
		}
	}
	return c
}

func withSecret(t *testing.T) (p *person, token string) {
	t.Helper()
	p = founded(t)
	p.run("project", "create", "production").want(t, 0)
	p.answering("value", "secret", "set", "TEST_SECRET", "--project", "production").want(t, 0)
	p.run("machine", "create", "ci", "--project", "production").want(t, 0)
	return p, p.newToken("ci")
}

func TestACommandRunsInPlaceOfLatchkey(t *testing.T) {
	p, token := withSecret(t)
	environment := p.asMachine(token)
	environment[asChild], environment["TEST_SECRET"] = "end", "what it was before"
	c := latchkeyProcess(t, environment, "run", "--", os.Args[0], "--flag", "of the command")
	c.Stdin = strings.NewReader("some input")
	var errs strings.Builder
	c.Stderr = &errs
	out, err := c.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 42 {
		t.Errorf("it ends with %v: %s%s", err, out, errs.String())
	}
	for _, line := range []string{"arguments [--flag of the command]\n", "input some input\n", "variable TEST_SECRET=value\n"} {
		if !strings.Contains(string(out), line) {
			t.Errorf("%q is missing in\n%s", line, out)
		}
	}
	if strings.Contains(string(out), token) || strings.Contains(string(out), "LATCHKEY_ACCESS_TOKEN") || strings.Contains(string(out), "before") {
		t.Errorf("the command was given\n%s", out)
	}
	if errs.String() != "latchkey: the variable TEST_SECRET was set: a secret replaces it\non the error stream\n" {
		t.Errorf("the error stream has %q", errs.String())
	}
}

func TestASignalReachesTheCommand(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there are no signals to send")
	}
	p, token := withSecret(t)
	environment := p.asMachine(token)
	environment[asChild] = "wait"
	c := latchkeyProcess(t, environment, "run", "--", os.Args[0])
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var told []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		told = append(told, lines.Text())
		if lines.Text() == "waiting" {
			if err := c.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
	}
	var exit *exec.ExitError
	if err := c.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 || !slices.Contains(told, "got terminated") {
		t.Errorf("it ends with %v: %q", err, told)
	}
}

func TestTheSettingsOfLatchkeyAreKeptFromTheCommand(t *testing.T) {
	p, token := withSecret(t)
	e := p.asMachine(token)
	e["LATCHKEY_PASSPHRASE"], e["LATCHKEY_KEY_FILE"], e["OTHER"] = passphrase, "/some/file", "stays"
	became := func(args ...string) []string {
		t.Helper()
		o, became := p.in(e, "", append([]string{"run"}, args...)...)
		if became == nil {
			t.Fatalf("nothing was run: %s", o.err)
		}
		return became.environment
	}
	all := became("--", os.Args[0], "-x")
	for _, variable := range all {
		if name, _, _ := strings.Cut(variable, "="); slices.Contains(withheld(), name) {
			t.Errorf("the command is given %s", name)
		}
	}
	if !slices.Contains(all, "OTHER=stays") || !slices.Contains(all, "LATCHKEY_SERVER="+p.manager.url) {
		t.Error("the command is not given what is no secret")
	}
	if kept := became("--keep-env", "LATCHKEY_ACCESS_TOKEN", "--", os.Args[0]); !slices.Contains(kept, "LATCHKEY_ACCESS_TOKEN="+token) || slices.Contains(kept, "LATCHKEY_KEY_FILE=/some/file") {
		t.Error("--keep-env keeps another variable")
	}
	for told, args := range map[string][]string{
		"takes 1 argument": {"run"}, "is not kept from": {"run", "--keep-env", "HOME", "--", os.Args[0]}, "unknown flag": {"run", "--no-flag"},
	} {
		if o, became := p.in(e, "", args...); became != nil {
			t.Errorf("%v runs something", args)
		} else {
			o.want(t, exitUsage, told)
		}
	}
}

func TestACommandThatCannotBeRunEndsAsInShells(t *testing.T) {
	p, token := withSecret(t)
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("no program"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		command string
		code    int
		told    string
	}{
		"no such command":             {"no-such-command", 127, "no-such-command"},
		"no such file":                {filepath.Join(dir, "nothing"), 127, "nothing"},
		"a file that is no program":   {plain, 126, "permission denied"},
		"a folder":                    {dir, 126, "is a directory"},
		"one that the system refuses": {os.Args[0], 126, errExecuted.Error()},
	} {
		t.Run(name, func(t *testing.T) { p.machine(token, "run", "--", c.command).want(t, c.code, c.told) })
	}
	t.Run("one that is gone when it is run", func(t *testing.T) {
		if err := notRun(fmt.Errorf("run: %w", fs.ErrNotExist)); exitCode(err) != 127 {
			t.Errorf("it ends with %d", exitCode(err))
		}
	})
}

func TestSecretsAreLeftOut(t *testing.T) {
	p := founded(t)
	p.run("project", "create", "production").want(t, 0)
	p.answering("one", "secret", "set", "ONE", "--project", "production").want(t, 0)
	p.answering("two", "secret", "set", "TWO", "--project", "production").want(t, 0)
	three := p.answering("three", "secret", "set", "THREE", "--project", "production", "--json").id(t)
	p.run("machine", "create", "ci", "--project", "production").want(t, 0)
	token := p.newToken("ci")
	if got := p.ran(p.asMachine(token), "--except", "TWO", "--except", strings.ToUpper(three), "--", os.Args[0]); !slices.Equal(got, []string{"ONE=one"}) {
		t.Errorf("the command gets %q", got)
	}
	p.machine(token, "run", "--except", "TW0", "--", os.Args[0]).want(t, exitNotFound, "--except TW0")

	// Two of one name: each by its id, or both by the name.
	p.run("project", "create", "staging").want(t, 0)
	second := p.answering("of staging", "secret", "set", "TWO", "--project", "staging", "--json").id(t)
	p.run("machine", "grant", "ci", "staging").want(t, 0)
	p.machine(token, "run", "--", os.Args[0]).want(t, exitUsage, second, "--except")
	if got := p.ran(p.asMachine(token), "--except", second, "--", os.Args[0]); !slices.Contains(got, "TWO=two") {
		t.Errorf("without the second the command gets %q", got)
	}
	if got := p.ran(p.asMachine(token), "--except", "TWO", "--", os.Args[0]); !slices.Equal(got, []string{"ONE=one", "THREE=three"}) {
		t.Errorf("without both the command gets %q", got)
	}
}

func TestASecretDoesNotChangeWhatACommandRuns(t *testing.T) {
	p := founded(t)
	p.run("project", "create", "production").want(t, 0)
	names := []string{"PATH", "LD.PRELOAD", "LATCHKEY_SERVER"}
	for _, name := range names {
		p.answering("/theirs", "secret", "set", name, "--project", "production").want(t, 0, "--allow-env "+variableName(name))
	}
	p.answering("x\x00y", "secret", "set", "BINARY", "--project", "production").want(t, 0, "null character", "base64")
	p.answering("x", "secret", "set", "a.b", "--project", "production").want(t, 0, `"a.b" is no name of a variable`, "a_b")
	if o := p.answering("x", "secret", "set", "GOOD", "--project", "production").want(t, 0); o.err != "" {
		t.Errorf("it warns of a good one: %s", o.err)
	}
	p.run("machine", "create", "ci", "--project", "production").want(t, 0)
	token := p.newToken("ci")
	o := p.machine(token, "run", "--", os.Args[0]).want(t, exitUsage, "--allow-env PATH", "--allow-env LD_PRELOAD", "--allow-env LATCHKEY_SERVER", `"BINARY"`)
	if strings.Contains(o.err, "/theirs") || strings.Count(o.err, "usage:") != 1 || strings.Contains(o.err, "is the variable") {
		t.Errorf("it tells %s", o.err)
	}
	args := []string{"run", "--allow-env", "PATH", "--allow-env", "LD_PRELOAD", "--except", "LATCHKEY_SERVER", "--except", "BINARY", "--", os.Args[0]}
	o, became := p.in(p.asMachine(token), "", args...)
	if became == nil || !slices.Contains(became.environment, "PATH=/theirs") || !slices.Contains(became.environment, "LD_PRELOAD=/theirs") ||
		!slices.Contains(became.environment, "LATCHKEY_SERVER="+p.manager.url) {
		t.Errorf("it is not given what was allowed: %s", o.err)
	}
	if !strings.Contains(o.err, "the variable PATH was set: a secret replaces it") || strings.Contains(o.err, "a_b was set") || strings.Count(o.err, `"a.b" is the variable a_b`) != 1 {
		t.Errorf("it tells %s", o.err)
	}
}

func TestWhatProgramsAreToldByIsReserved(t *testing.T) {
	for name, want := range map[string]bool{
		"PATH": true, "ENV": true, "BASH_ENV": true, "IFS": true, "SHELLOPTS": true, "LD_PRELOAD": true, "LD_LIBRARY_PATH": true, "DYLD_INSERT_LIBRARIES": true,
		"PYTHONSTARTUP": true, "PYTHONPATH": true, "NODE_OPTIONS": true, "PERL5OPT": true, "RUBYOPT": true, "GIT_SSH_COMMAND": true, "GIT_CONFIG_COUNT": true,
		"GIT_ASKPASS": true, "GIT_EXTERNAL_DIFF": true, "LATCHKEY_ACCESS_TOKEN": true, "LATCHKEY_": true,
		"DB_PASSWORD": false, "GIT_TOKEN": false, "MY_PATH": false, "PATHS": false, "LD": false, "LD_*": true, "ENVIRONMENT": false, "": false, "*": false,
	} {
		if got := isReserved(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
	if runtime.GOOS != "windows" && isReserved("path") {
		t.Error("path is another variable than PATH")
	}
}

func TestWhoReachesNoSecretRunsTheCommandWithout(t *testing.T) {
	p := founded(t)
	p.run("machine", "create", "ci").want(t, 0)
	o, became := p.in(p.asMachine(p.newToken("ci")), "", "run", "--", os.Args[0])
	if became == nil || !strings.Contains(o.err, "there is no secret") {
		t.Errorf("%+v %s", became, o.err)
	}
}

func TestSecretsBecomeVariables(t *testing.T) {
	secret := func(key, value, project string) smclient.Secret {
		return smclient.Secret{Head: smclient.Head{ID: "id-" + key, Key: key, Projects: []smclient.ProjectRef{{Name: project}}}, Value: config.Secret(value)}
	}
	for key, want := range map[string]string{
		"DB_PASSWORD": "DB_PASSWORD", "lower": "lower", "a.b-c d": "a_b_c_d", "2FA": "_2FA", "": "_", "ü": "_", "A=B": "A_B", "x\x00y": "x_y",
	} {
		if got := variableName(key); got != want {
			t.Errorf("%q becomes %q, want %q", key, got, want)
		}
	}
	var told strings.Builder
	term := &terminal{err: &told}
	variables, err := term.variables([]smclient.Secret{secret("A", "1", "p"), secret("b.c", "2", "p")}, nil)
	if err != nil || len(variables) != 2 || variables["A"] != "1" || variables["b_c"] != "2" {
		t.Errorf("the variables are %v, %v", variables, err)
	}
	if told.String() != "latchkey: secret \"b.c\" is the variable b_c\n" {
		t.Errorf("it tells %q", told.String())
	}
	told.Reset()
	_, err = term.variables([]smclient.Secret{secret("a-b", "hunter2", "one"), secret("a.b", "hunter3", "two"), secret("N", "null\x00", "one"), secret("c.d", "3", "one")}, nil)
	if told.Len() > 0 || strings.Count(fmt.Sprint(err), "usage") != 1 {
		t.Errorf("where nothing is run, it tells %q and %v", told.String(), err)
	}
	if !errors.Is(err, errUsage) {
		t.Fatalf("the error is %v", err)
	}
	for _, text := range []string{`"a-b" (id-a-b) in project "one"`, `"a.b" (id-a.b) in project "two"`, "null character"} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%s is not told: %v", text, err)
		}
	}
	if strings.Contains(err.Error(), "hunter") {
		t.Errorf("a value is told: %v", err)
	}
}
