package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
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
	if errs.String() != "on the error stream\n" {
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
		"takes 1 argument": {"run"}, "no-such-command": {"run", "--", "no-such-command"},
		"is not kept from": {"run", "--keep-env", "HOME", "--", os.Args[0]}, "unknown flag": {"run", "--no-flag"},
	} {
		if o, became := p.in(e, "", args...); became != nil {
			t.Errorf("%v runs something", args)
		} else {
			o.want(t, exitUsage, told)
		}
	}
	o, _ := p.in(e, "", "run", "--", os.Args[0])
	o.want(t, exitFailed, "run "+os.Args[0], errExecuted.Error())
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
	variables, err := term.variables([]smclient.Secret{secret("A", "1", "p"), secret("b.c", "2", "p")})
	if err != nil || len(variables) != 2 || variables["A"] != "1" || variables["b_c"] != "2" {
		t.Errorf("the variables are %v, %v", variables, err)
	}
	if told.String() != "latchkey: secret \"b.c\" is the variable b_c\n" {
		t.Errorf("it tells %q", told.String())
	}
	_, err = term.variables([]smclient.Secret{secret("a-b", "hunter2", "one"), secret("a.b", "hunter3", "two"), secret("N", "null\x00", "one")})
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
