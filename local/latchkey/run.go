package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/smclient"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// listings is how often the secrets are listed anew where one of the list was
// gone when it was to be read.
const listings = 3

type runFlags struct{ projects, except, keep, allow []string }

func newRun(t *terminal) *cobra.Command {
	r := &remote{terminal: t}
	var f runFlags
	c := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARGUMENT...]",
		Short: "Run a command with secrets in its environment (Secrets Manager)",
		Long: `Run a command with every secret that you may reach, or those of some projects, as
a variable of its environment, named as the secret. Characters that names of
variables cannot have become _. Two secrets of one name are an error: choose with
--project, or leave one out with --except.

Whoever may write a secret also chooses its name. Names by which programs are
told to run something else are refused, unless --allow-env names them:
` + reserved + `

The command takes the place of latchkey: signals and its exit code are its own.
It is 127 where there is no such command, and 126 where it cannot be run. The
settings with which latchkey reads secrets (LATCHKEY_ACCESS_TOKEN and those of
operators) are kept from it, unless --keep-env names them.
` + remoteHelp,
		Example: `  latchkey run -- ./server
  latchkey run --project production --except TLS_KEY -- sh -c 'psql "$DATABASE_URL"'`,
		Args: oneOrMore,
		RunE: func(c *cobra.Command, args []string) error { return runCommand(c.Context(), r, f, args) },
	}
	c.Flags().SetInterspersed(false) // what follows the command is the command's
	c.Flags().StringArrayVar(&f.projects, "project", nil, "only the secrets of this project, by name or id; several times for several")
	c.Flags().StringArrayVar(&f.except, "except", nil, "leave this secret out, by id, or all of this name; several times for several")
	c.Flags().StringArrayVar(&f.keep, "keep-env", nil, "let the command have this one of latchkey's own settings; several times for several")
	c.Flags().StringArrayVar(&f.allow, "allow-env", nil, "let a secret be this variable, although programs may run what it says; several times for several")
	return r.addFlags(c)
}

func runCommand(ctx context.Context, r *remote, f runFlags, args []string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return notRun(fmt.Errorf("run: %w", err))
	}
	for _, name := range f.keep {
		if !slices.Contains(withheld(), name) {
			return fmt.Errorf("%w: --keep-env %s: it is not kept from the command; these are: %s", errUsage, name, strings.Join(withheld(), ", "))
		}
	}
	client, err := r.either(ctx)
	if err != nil {
		return err
	}
	projects, err := projectIDs(ctx, client, f.projects)
	if err != nil {
		return err
	}
	secrets, err := reachedSecrets(ctx, client, projects, f.except)
	if err != nil {
		return err
	}
	if len(secrets) == 0 {
		fmt.Fprintln(r.err, "latchkey: there is no secret that you may reach: the command gets none")
	}
	variables, err := r.variables(secrets, f.allow)
	if err != nil {
		return err
	}
	all, replaced := environment(os.Environ(), f.keep, variables)
	for _, name := range replaced {
		fmt.Fprintf(r.err, "latchkey: the variable %s was set: a secret replaces it\n", name)
	}
	err = r.exec(path, args, all)
	return notRun(fmt.Errorf("run %s: %w", path, err)) // where it went well, this process is another one
}

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// notRun gives the error of a command that was not run the exit code that it has
// in shells.
func notRun(err error) error {
	code := exitCannotRun
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		code = exitNoCommand
	}
	return &exitError{code, err}
}

// reachedSecrets reads all secrets of the projects, or, if there are none, all
// that can be reached, but for those that are excepted.
func reachedSecrets(ctx context.Context, client *smclient.Client, projects, except []string) ([]smclient.Secret, error) {
	for i := 1; ; i++ {
		heads, err := headsOf(ctx, client, projects)
		if err != nil {
			return nil, err
		}
		if heads, err = without(heads, except); err != nil {
			return nil, err
		}
		var ids []string
		for _, h := range heads {
			ids = append(ids, h.ID)
		}
		slices.Sort(ids)
		secrets, err := client.SecretsByIDs(ctx, slices.Compact(ids))
		// One that was deleted in between is none that can be reached.
		if fault.Of(err) == fault.NotFound && i < listings {
			continue
		}
		return secrets, err
	}
}

func headsOf(ctx context.Context, client *smclient.Client, projects []string) ([]smclient.Head, error) {
	if len(projects) == 0 {
		return client.Secrets(ctx)
	}
	var all []smclient.Head
	for _, project := range projects {
		heads, err := client.SecretsOf(ctx, project)
		if err != nil {
			return nil, err
		}
		all = append(all, heads...)
	}
	return all, nil
}

// without leaves secrets out, named by name or id. One that is not there may be
// misspelt, and the one that was meant would be given to the command.
func without(heads []smclient.Head, except []string) ([]smclient.Head, error) {
	for _, wanted := range except {
		id, byID := asID(wanted)
		before := len(heads)
		heads = slices.DeleteFunc(heads, func(h smclient.Head) bool { return byID && h.ID == id || !byID && h.Key == wanted })
		if len(heads) == before {
			return nil, fmt.Errorf("%w: --except %s: there is no such secret among those that the command would get", errNoSuch, wanted)
		}
	}
	return heads, nil
}

// variables names the secrets as an environment can.
func (t *terminal) variables(secrets []smclient.Secret, allowed []string) (map[string]string, error) {
	from := map[string][]smclient.Secret{}
	for _, s := range secrets {
		name := variableName(s.Key)
		from[name] = append(from[name], s)
	}
	variables := map[string]string{}
	var faults, notes []string
	for _, name := range slices.Sorted(maps.Keys(from)) {
		several, s := from[name], from[name][0]
		if len(several) > 1 {
			var which []string
			for _, s := range several {
				which = append(which, fmt.Sprintf("%q (%s) in %s", s.Key, s.ID, quotedProjects(s.Head)))
			}
			faults = append(faults, fmt.Sprintf("several secrets would be the variable %s: %s; choose with --project or --except", name, strings.Join(which, ", ")))
			continue
		}
		if isReserved(name) && !slices.Contains(allowed, name) {
			faults = append(faults, fmt.Sprintf("secret %q (%s) would be the variable %s, by which programs are told what to run; if that is meant, --allow-env %s, or else --except %s", s.Key, s.ID, name, name, s.ID))
		}
		if holdsNull(s) {
			faults = append(faults, fmt.Sprintf("the value of secret %q (%s) holds a null character, which no variable can; --except %s leaves it out", s.Key, s.ID, s.ID))
		}
		if name != s.Key {
			notes = append(notes, fmt.Sprintf("latchkey: secret %q is the variable %s", s.Key, name))
		}
		variables[name] = s.Value.Reveal()
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("%w: %s", errUsage, strings.Join(faults, "\n"))
	}
	for _, note := range notes {
		fmt.Fprintln(t.err, note)
	}
	return variables, nil
}

func holdsNull(s smclient.Secret) bool { return strings.ContainsRune(s.Value.Reveal(), 0) }

// asVariable says what will keep a secret from being a variable of `latchkey
// run`, or from being the one of its name.
func asVariable(s smclient.Secret) []string {
	var warnings []string
	name := variableName(s.Key)
	if name != s.Key {
		warnings = append(warnings, fmt.Sprintf("%q is no name of a variable: `latchkey run` makes it %s", s.Key, name))
	}
	if isReserved(name) {
		warnings = append(warnings, fmt.Sprintf("programs are told by the variable %s what to run: `latchkey run` refuses it without --allow-env %s", name, name))
	}
	if holdsNull(s) {
		warnings = append(warnings, "the value holds a null character, which no variable can: `latchkey run` refuses it; encode it, in base64 for example")
	}
	return warnings
}

func quotedProjects(h smclient.Head) string {
	if len(h.Projects) == 0 {
		return "no project"
	}
	return fmt.Sprintf("project %q", projectNames(h))
}

// variableName makes a secret's name one that shells can use.
func variableName(key string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z', r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_':
			return r
		}
		return '_'
	}, key)
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		return "_" + name
	}
	return name
}

// environment is the one of this process without its own settings, but with the
// secrets, which go before what was there; replaced are the names of those that
// had another value.
func environment(own, keep []string, variables map[string]string) (all, replaced []string) {
	for _, variable := range own {
		name, before, _ := strings.Cut(variable, "=")
		value, ours := variables[name]
		switch {
		case ours && value != before:
			replaced = append(replaced, name)
		case !ours && (slices.Contains(keep, name) || !slices.Contains(withheld(), name)):
			all = append(all, variable)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		all = append(all, name+"="+variables[name])
	}
	return all, replaced
}
