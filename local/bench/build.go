package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// rules are added to the Makefile, so that what is measured is built with its
// flags and no others.
const rules = `
bench-program: ; $(BUILD) -o '$(OUT)' $(SOURCE)
bench-lambda: ; $(LAMBDA) -o '$(OUT)' $(SOURCE)
bench-helper: ; CGO_ENABLED=1 go build $(FLAGS) -o '$(OUT)' $(SOURCE)
`

// build is one binary to be made.
type build struct {
	rule   string   // of the rules above
	tree   string   // the repository, or a copy of it
	source string   // the package
	env    []string // beside the environment of this process
}

// make builds, and gives the binary's path.
func (b *bench) make(ctx context.Context, w build) (string, error) {
	dir, err := b.folder("bin")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "bootstrap")
	cmd := exec.CommandContext(ctx, "make", "--silent", "--no-print-directory", "-f", "Makefile", "-f", "-",
		w.rule, "OUT="+out, "SOURCE="+w.source, "VERSION=bench")
	cmd.Dir = w.tree
	cmd.Stdin = strings.NewReader(rules)
	for _, variable := range os.Environ() {
		// Those of the make that runs this are not for another.
		if name, _, _ := strings.Cut(variable, "="); name != "MAKEFLAGS" && name != "MFLAGS" && name != "MAKELEVEL" {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, w.env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", w.source, err, text)
	}
	return out, nil
}

// lambdas are the packages of the AWS binaries.
func (b *bench) lambdas() ([]string, error) {
	dirs, err := filepath.Glob(filepath.Join(b.root, "functions", "*", "aws"))
	if err != nil {
		return nil, err
	}
	if len(dirs) == 0 {
		return nil, errors.New("there is no functions/*/aws")
	}
	var packages []string
	for _, dir := range dirs {
		relative, err := filepath.Rel(b.root, dir)
		if err != nil {
			return nil, err
		}
		if source := filepath.ToSlash(relative); source != "functions/internal/aws" { // what they have in common
			packages = append(packages, "./"+source)
		}
	}
	return packages, nil
}

// copyTree copies what the binaries are made of.
func copyTree(from, to string) error {
	for _, part := range []string{"functions", "providers", "shared", "go.mod", "go.sum", "Makefile"} {
		err := filepath.WalkDir(filepath.Join(from, part), func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			relative, err := filepath.Rel(from, path)
			if err != nil {
				return err
			}
			target := filepath.Join(to, relative)
			if entry.IsDir() {
				return os.MkdirAll(target, 0o700)
			}
			if !entry.Type().IsRegular() {
				return nil
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(target, content, 0o600)
		})
		if err != nil {
			return fmt.Errorf("copy the tree: %w", err)
		}
	}
	return nil
}
