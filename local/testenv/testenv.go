// Package testenv finds the real servers and tools that the second stage of
// the tests runs against. local/testenv/install puts them where it looks.
package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Cache is the folder that install fills: a Python environment in venv/, npm
// packages in npm/. It is $LATCHKEY_CACHE, or latchkey in $XDG_CACHE_HOME or
// ~/.cache, on every system, as in install and the Makefile.
func Cache() string {
	if dir := os.Getenv("LATCHKEY_CACHE"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "latchkey")
	}
	return filepath.Join(os.Getenv("HOME"), ".cache", "latchkey")
}

// Tool gives the path of an executable, as Find does. Without it the test is
// skipped, saying so; with CI=true that is a failure. The first stage
// (go test -short) runs none of these tests.
func Tool(t testing.TB, name string) string {
	t.Helper()
	need(t)
	path, err := Find(name)
	if err != nil {
		missing(t, name)
	}
	return path
}

// Find gives the path of an executable, from the cache folder or PATH.
func Find(name string) (string, error) {
	for _, dir := range []string{"venv/bin", "npm/node_modules/.bin"} {
		path := filepath.Join(Cache(), dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return exec.LookPath(name)
}

// File gives the first of the candidates that exists (a shared library that
// distributions keep in different places), with the rules of Tool.
func File(t testing.TB, name string, candidates ...string) string {
	t.Helper()
	need(t)
	for _, path := range candidates {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	missing(t, name)
	return ""
}

func need(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("the second stage (make test) runs this")
	}
}

func missing(t testing.TB, name string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: local/testenv/install should have brought it", name)
	}
	t.Skipf("SKIP %s: it is not on this machine; local/testenv/install brings it", name)
}
