package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/fatih/color"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/latchkey-fn/latchkey/shared/buildinfo"
)

// terminal is where a command writes, and how.
type terminal struct {
	out, err io.Writer
	in       io.Reader
	json     bool
	ran      bool // a command was found, and its flags and arguments are right

	// exec makes this process a command's.
	exec func(path string, args, environment []string) error
	// scryptWork is the work factor of new key files; zero: age's own.
	scryptWork int
}

func newRoot(t *terminal) *cobra.Command {
	root := group(&cobra.Command{
		Use:   "latchkey",
		Short: "Key Connector and Secrets Manager for Bitwarden and Vaultwarden, under your own KMS or HSM key",
		Long: `Latchkey takes over the small, dangerous servers beside Bitwarden or Vaultwarden.

Settings come from the environment: LATCHKEY_… (docs/operations.md lists them)
and, for Key Connector, the official keyConnectorSettings__… names.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 not found,
4 declined at the question; of run also 126 (the command cannot be run) and 127
(there is none). With NO_COLOR set, nothing is coloured.`,
		Version:       buildinfo.Version,
		SilenceErrors: true,
		SilenceUsage:  true,

		PersistentPreRun: func(*cobra.Command, []string) { t.ran = true },
	})
	root.SetOut(t.out)
	root.SetErr(t.err)
	root.PersistentFlags().BoolVar(&t.json, "json", false, "print JSON instead of text")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w: %w (see %s --help)", errUsage, err, c.CommandPath())
	})
	root.AddCommand(newUp(t), newServe(t), newKeys(t), newDataKeys(t), newDoctor(t),
		newOrg(t), newMachine(t), newToken(t), newProject(t), newSecret(t), newRun(t), newSync(t))
	return root
}

// isTerminal tells whether somebody sits at a stream.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// group is a command that only holds others; by itself it shows its help.
func group(c *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	c.Args = noSuchCommand
	c.SuggestionsMinimumDistance = 2
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	c.AddCommand(commands...)
	return c
}

// noSuchCommand refuses what is not the name of one of a group's commands.
func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	meant := ""
	if similar := c.SuggestionsFor(args[0]); len(similar) > 0 {
		meant = "; is " + strings.Join(similar, " or ") + " meant?"
	}
	return fmt.Errorf("%w: unknown command %q for %q%s (see %s --help)", errUsage, args[0], c.CommandPath(), meant, c.CommandPath())
}

// noArguments and its kind refuse with the exit code of wrong usage.
func noArguments(c *cobra.Command, args []string) error { return arguments(c, args, 0) }

func oneArgument(c *cobra.Command, args []string) error { return arguments(c, args, 1) }

func twoArguments(c *cobra.Command, args []string) error { return arguments(c, args, 2) }

func oneOrMore(c *cobra.Command, args []string) error { return atLeast(c, args, 1) }

func twoOrMore(c *cobra.Command, args []string) error { return atLeast(c, args, 2) }

func atLeast(c *cobra.Command, args []string, least int) error {
	if len(args) >= least {
		return nil
	}
	return fmt.Errorf("%w: %s takes %d argument(s) at least, not %d (see %s --help)", errUsage, c.CommandPath(), least, len(args), c.CommandPath())
}

func arguments(c *cobra.Command, args []string, want int) error {
	if len(args) == want {
		return nil
	}
	return fmt.Errorf("%w: %s takes %d argument(s), not %d (see %s --help)", errUsage, c.CommandPath(), want, len(args), c.CommandPath())
}

// printJSON writes one indented document.
func (t *terminal) printJSON(value any) error {
	encoder := json.NewEncoder(t.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// table aligns columns that are separated by tabs.
func (t *terminal) table() *tabwriter.Writer { return tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0) }

// logger is JSON on the given stream: machines read it, and every line of a
// server has the same form.
func logger(w io.Writer) *slog.Logger { return slog.New(slog.NewJSONHandler(w, nil)) }

// The colours of results; the library leaves them out where the output is no
// terminal or NO_COLOR is set.
var (
	good = color.New(color.FgGreen).SprintFunc()
	bad  = color.New(color.FgRed, color.Bold).SprintFunc()
	note = color.New(color.FgYellow).SprintFunc()
	bold = color.New(color.Bold).SprintFunc()
)
