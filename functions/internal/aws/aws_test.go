package aws_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// maxBinary is the budget of an AWS function's binary: 12 MB.
const maxBinary = 12_000_000

func TestEveryBinaryKeepsToItsSize(t *testing.T) {
	if testing.Short() {
		t.Skip("the second stage (make test) runs this")
	}
	mains, err := filepath.Glob("../../*/aws")
	if err != nil || len(mains) < 6 {
		t.Fatalf("%d functions, %v", len(mains), err)
	}
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "make", "-C", "../../..", "lambda", "LAMBDA_OUT="+dir)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, main := range mains {
		function := filepath.Base(filepath.Dir(main))
		if function == "internal" { // this package
			continue
		}
		info, err := os.Stat(filepath.Join(dir, function, "bootstrap"))
		if err != nil {
			t.Errorf("`make lambda` does not build %s: %v", function, err)
			continue
		}
		t.Logf("%s: %.1f MB", function, float64(info.Size())/1e6)
		if info.Size() > maxBinary {
			t.Errorf("the binary of %s has %d bytes, more than %d", function, info.Size(), maxBinary)
		}
	}
}
