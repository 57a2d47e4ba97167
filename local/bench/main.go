// Command bench measures what Latchkey costs and holds it against its budgets:
//
//	go run ./local/bench [--only size,warm] [--quick] [--rounds N] [--json] [--strict]
//
// Wherever there is something to compare with, both are run in turn in the same
// run (A B A B …), and what counts is the median of the rounds' ratios: a machine
// that is slow or busy is so for both. An exceeded budget is reported
// and, without --strict, is no failure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// bench is one run.
type bench struct {
	root     string // of the repository
	temp     string // a folder that is removed at the end
	rounds   int    // how often each of those compared has its turn
	quick    bool   // less of everything: numbers to look at, not to quote
	profile  string // a file for the CPU profile of warm requests
	progress io.Writer
}

// group is a part of the table that can be asked for by its name.
type group struct {
	name    string
	measure func(*bench, context.Context) ([]result, error)
}

var groups = []group{
	{"size", (*bench).size},
	{"start", (*bench).start},
	{"warm", (*bench).warm},
	{"calls", (*bench).calls},
	{"memory", (*bench).memory},
	{"up", (*bench).up},
	{"stores", (*bench).stores},
	{"keys", (*bench).keys},
	{"machines", (*bench).machines},
	{"secrets", (*bench).secretLists},
	{"billing", (*bench).billing},
}

var errExceeded = errors.New("a budget is exceeded")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	start := run
	if len(os.Args) == 2 && os.Args[1] == emulateCloud {
		start = func(ctx context.Context, _ []string, out, _ io.Writer) error { return serveBillingCloud(ctx, out) }
	}
	if err := start(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, progress io.Writer) (err error) {
	names := make([]string, 0, len(groups))
	for _, g := range groups {
		names = append(names, g.name)
	}
	b := &bench{progress: progress}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(progress)
	asJSON := flags.Bool("json", false, "print JSON instead of a table")
	only := flags.String("only", "", "measure these alone, separated by commas: "+strings.Join(names, ", "))
	strict := flags.Bool("strict", false, "exit with 1 when a budget is exceeded")
	flags.IntVar(&b.rounds, "rounds", 0, "turns of each of those compared (default 21, or 7 with --quick)")
	flags.BoolVar(&b.quick, "quick", false, "less of everything")
	flags.StringVar(&b.profile, "profile", "", "write a CPU profile of warm requests over the memory store to this `file`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	asked := strings.FieldsFunc(*only, func(r rune) bool { return r == ',' })
	for _, name := range asked {
		if !slices.Contains(names, name) {
			return fmt.Errorf("--only %s: choose of %s", name, strings.Join(names, ", "))
		}
	}
	if b.rounds == 0 {
		b.rounds = b.either(21, 7)
	}
	if b.rounds < 1 || flags.NArg() > 0 {
		return fmt.Errorf("%d rounds, arguments %q: see --help", b.rounds, flags.Args())
	}
	if b.root, err = repository(ctx); err != nil {
		return err
	}
	if b.temp, err = os.MkdirTemp("", "latchkey-bench-*"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.temp)) }()

	results, failures := b.measure(ctx, asked)
	show := printTable
	if *asJSON {
		show = printJSON
	}
	if err := show(out, results); err != nil {
		return err
	}
	if *strict && slices.ContainsFunc(results, func(r result) bool { return r.Verdict == over }) {
		failures = errors.Join(failures, errExceeded)
	}
	return failures
}

// measure runs the groups that were asked for, or all. One that fails does not
// keep the others from being measured.
func (b *bench) measure(ctx context.Context, asked []string) (results []result, failures error) {
	for _, g := range groups {
		if len(asked) > 0 && !slices.Contains(asked, g.name) {
			continue
		}
		b.say("%s", g.name)
		measured, err := g.measure(b, ctx)
		for _, r := range measured {
			r.Group = g.name
			r.judge()
			results = append(results, r)
		}
		if err != nil {
			failures = errors.Join(failures, fmt.Errorf("%s: %w", g.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return results, failures
}

// repository is the folder of go.mod, wherever below it the command runs.
func repository(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	file := strings.TrimSpace(string(out))
	if filepath.Base(file) != "go.mod" {
		return "", errors.New("not inside the repository: there is no go.mod here or above")
	}
	return filepath.Dir(file), nil
}

func (b *bench) say(format string, args ...any) {
	// Progress that cannot be shown is not worth a failure.
	_, _ = fmt.Fprintf(b.progress, format+"\n", args...)
}

// either chooses between a whole run's number and a quick one's.
func (b *bench) either(whole, quick int) int {
	if b.quick {
		return quick
	}
	return whole
}

// folder makes an empty folder that goes with the run.
func (b *bench) folder(name string) (string, error) {
	return os.MkdirTemp(b.temp, name+"-*")
}
