package softhsm

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/local/testenv"
)

func TestATokenIsMadeOnceAndFoundAgain(t *testing.T) {
	testenv.File(t, "SoftHSM", Libraries...)
	testenv.Tool(t, "softhsm2-util")
	tool := testenv.Tool(t, "pkcs11-tool")
	dir := filepath.Join(t.TempDir(), "hsm")

	token, err := Create(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if token.Serial == "" || token.Label == "" || token.PIN == "" {
		t.Errorf("incomplete: %+v", token)
	}
	again, err := Create(t.Context(), dir)
	if err != nil || !reflect.DeepEqual(again, token) {
		t.Errorf("the second time: %+v, %v; want %+v", again, err, token)
	}
	other, err := Create(t.Context(), filepath.Join(t.TempDir(), "other"))
	if err != nil || other.Serial == token.Serial {
		t.Errorf("another folder gives serial %q, %v; the first has %q", other.Serial, err, token.Serial)
	}

	list := exec.CommandContext(t.Context(), tool, "--module", token.Library, "--token-label", token.Label, "--login", "--pin", token.PIN, "--list-objects")
	list.Env = append(os.Environ(), token.Env...)
	out, err := list.CombinedOutput()
	if err != nil || strings.Count(string(out), "Private Key Object; RSA") != 1 || !strings.Contains(string(out), token.KeyLabel) {
		t.Errorf("the token has not one RSA key labelled %q: %v\n%s", token.KeyLabel, err, out)
	}
}

func TestAFolderThatCannotBeMadeIsAnError(t *testing.T) {
	testenv.Tool(t, "softhsm2-util")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if token, err := Create(t.Context(), filepath.Join(file, "below")); err == nil {
		t.Errorf("made %+v below a file", token)
	}
}
