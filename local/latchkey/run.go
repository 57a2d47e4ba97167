package main

import (
	"context"
	"errors"
	"fmt"
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

type runFlags struct{ projects, keep []string }

func newRun(t *terminal) *cobra.Command {
	r := &remote{terminal: t}
	var f runFlags
	c := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARGUMENT...]",
		Short: "Run a command with secrets in its environment (Secrets Manager)",
		Long: `Run a command with every secret that you may reach, or those of some projects, as
a variable of its environment, named as the secret. Characters that names of
variables cannot have become _. Two secrets of one name are an error.

The command takes the place of latchkey: signals and its exit code are its own.
The settings with which latchkey reads secrets (LATCHKEY_ACCESS_TOKEN and those
of operators) are kept from it, unless --keep-env names them.
` + remoteHelp,
		Example: `  latchkey run -- ./server
  latchkey run --project production -- sh -c 'psql "$DATABASE_URL"'`,
		Args: oneOrMore,
		RunE: func(c *cobra.Command, args []string) error { return runCommand(c.Context(), r, f, args) },
	}
	c.Flags().SetInterspersed(false) // what follows the command is the command's
	c.Flags().StringArrayVar(&f.projects, "project", nil, "only the secrets of this project, by name or id; several times for several")
	c.Flags().StringArrayVar(&f.keep, "keep-env", nil, "let the command have this one of latchkey's own settings; several times for several")
	return r.addFlags(c)
}

func runCommand(ctx context.Context, r *remote, f runFlags, args []string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
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
	secrets, err := reachedSecrets(ctx, client, projects)
	if err != nil {
		return err
	}
	if len(secrets) == 0 {
		fmt.Fprintln(r.err, "latchkey: there is no secret that you may reach: the command gets none")
	}
	variables, err := r.variables(secrets)
	if err != nil {
		return err
	}
	err = r.exec(path, args, environment(os.Environ(), f.keep, variables))
	return fmt.Errorf("run %s: %w", path, err) // where it went well, this process is another one
}

// reachedSecrets reads all secrets of the projects, or, if there are none, all
// that can be reached.
func reachedSecrets(ctx context.Context, client *smclient.Client, projects []string) ([]smclient.Secret, error) {
	for i := 1; ; i++ {
		heads, err := headsOf(ctx, client, projects)
		if err != nil {
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

// variables names the secrets as an environment can.
func (t *terminal) variables(secrets []smclient.Secret) (map[string]string, error) {
	from := map[string][]smclient.Secret{}
	for _, s := range secrets {
		name := variableName(s.Key)
		if name != s.Key {
			fmt.Fprintf(t.err, "latchkey: secret %q is the variable %s\n", s.Key, name)
		}
		from[name] = append(from[name], s)
	}
	variables := map[string]string{}
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(from)) {
		if several := from[name]; len(several) > 1 {
			var which []string
			for _, s := range several {
				which = append(which, fmt.Sprintf("%q (%s) in %s", s.Key, s.ID, quotedProjects(s.Head)))
			}
			faults = append(faults, fmt.Errorf("%w: several secrets would be the variable %s: %s; choose with --project", errUsage, name, strings.Join(which, ", ")))
			continue
		}
		value := from[name][0].Value.Reveal()
		if strings.ContainsRune(value, 0) {
			faults = append(faults, fmt.Errorf("%w: the value of secret %q holds a null character, which no variable can", errUsage, from[name][0].Key))
		}
		variables[name] = value
	}
	return variables, errors.Join(faults...)
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
// secrets, which go before what was there.
func environment(own, keep []string, variables map[string]string) []string {
	var all []string
	for _, variable := range own {
		name, _, _ := strings.Cut(variable, "=")
		_, replaced := variables[name]
		if replaced || slices.Contains(withheld(), name) && !slices.Contains(keep, name) {
			continue
		}
		all = append(all, variable)
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		all = append(all, name+"="+variables[name])
	}
	return all
}
