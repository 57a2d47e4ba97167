package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// maxBinary is the budget of an AWS function's binary: 12 MB.
const maxBinary = 12_000_000

func TestTheBinaryKeepsToItsSize(t *testing.T) {
	if testing.Short() {
		t.Skip("the second stage (make test) runs this")
	}
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "make", "-C", "../../..", "build-KeyConnectorFunction", "ARTIFACTS_DIR="+dir)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(filepath.Join(dir, "bootstrap"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MB", float64(info.Size())/1e6)
	if info.Size() > maxBinary {
		t.Errorf("the binary has %d bytes, more than %d", info.Size(), maxBinary)
	}
}
