// Package softhsm makes a PKCS#11 token in a folder: SoftHSM 2, the software
// stand-in for an HSM. For tests and for trying things on a laptop; its PINs are
// known and its keys are files.
//
// It needs SoftHSM 2 (softhsm2-util and its library) and OpenSC's pkcs11-tool.
package softhsm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Libraries are where distributions keep SoftHSM's library.
var Libraries = []string{
	"/usr/lib/softhsm/libsofthsm2.so",
	"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/local/lib/softhsm/libsofthsm2.so",
	"/opt/homebrew/lib/softhsm/libsofthsm2.so",
}

// What every token made here has.
const (
	label    = "latchkey"
	pin      = "1234"
	soPIN    = "5678"
	keyLabel = "latchkey"
	keyID    = "01"
)

// Token is a token with one RSA-2048 key pair.
type Token struct {
	Library  string `json:"library"`
	Label    string `json:"label"`
	Serial   string `json:"serial"`
	PIN      string `json:"pin"`
	SOPIN    string `json:"soPin"`
	KeyLabel string `json:"keyLabel"`
	KeyID    []byte `json:"keyId"`
	// Env is what a process that loads Library needs in its environment.
	Env []string `json:"env"`
}

// Create makes a token in dir, which it makes as well, or gives the one that
// Create made there before. Errors: Unsupported where SoftHSM or pkcs11-tool is
// not on this machine.
func Create(ctx context.Context, dir string) (Token, error) {
	token, err := create(ctx, dir)
	if err != nil {
		return Token{}, fmt.Errorf("SoftHSM token in %s: %w", dir, err)
	}
	return token, nil
}

func create(ctx context.Context, dir string) (Token, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Token{}, err
	}
	record := filepath.Join(dir, "token.json")
	if data, err := os.ReadFile(record); err == nil {
		var token Token
		if err := json.Unmarshal(data, &token); err != nil {
			return Token{}, fmt.Errorf("%w: %s: %w", fault.Invalid, record, err)
		}
		return token, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Token{}, err
	}

	library, err := library()
	if err != nil {
		return Token{}, err
	}
	// The record is written last: without it, what is here was never used.
	tokens, conf := filepath.Join(dir, "tokens"), filepath.Join(dir, "softhsm2.conf")
	if err := os.RemoveAll(tokens); err != nil {
		return Token{}, err
	}
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return Token{}, err
	}
	settings := "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\n"
	if err := os.WriteFile(conf, []byte(settings), 0o600); err != nil {
		return Token{}, err
	}
	id, err := hex.DecodeString(keyID)
	if err != nil {
		return Token{}, err
	}
	token := Token{
		Library: library, Label: label, PIN: pin, SOPIN: soPIN,
		KeyLabel: keyLabel, KeyID: id, Env: []string{"SOFTHSM2_CONF=" + conf},
	}
	if _, err := token.run(ctx, "softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", soPIN); err != nil {
		return Token{}, err
	}
	if token.Serial, err = token.serial(ctx); err != nil {
		return Token{}, err
	}
	if err := token.Generate(ctx, "rsa:2048", keyLabel, id); err != nil {
		return Token{}, err
	}
	data, err := json.MarshalIndent(token, "", "  ")
	if err != nil {
		return Token{}, err
	}
	return token, os.WriteFile(record, data, 0o600)
}

// Generate makes another key pair in the token; kind is as pkcs11-tool names
// it, for example rsa:3072 or EC:prime256v1, options are further ones of its.
func (t Token) Generate(ctx context.Context, kind, label string, id []byte, options ...string) error {
	args := []string{"--module", t.Library, "--token-label", t.Label, "--login", "--pin", t.PIN,
		"--keypairgen", "--key-type", kind, "--label", label, "--id", hex.EncodeToString(id)}
	_, err := t.run(ctx, "pkcs11-tool", append(args, options...)...)
	return err
}

func (t Token) serial(ctx context.Context) (string, error) {
	out, err := t.run(ctx, "softhsm2-util", "--show-slots")
	if err != nil {
		return "", err
	}
	serial := ""
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		switch value = strings.TrimSpace(value); strings.TrimSpace(name) {
		case "Serial number":
			serial = value
		case "Label": // stands after the serial of the same token
			if value == t.Label {
				return serial, nil
			}
		}
	}
	return "", fmt.Errorf("%w: softhsm2-util does not show the token that it made", fault.Invalid)
}

func (t Token) run(ctx context.Context, tool string, args ...string) ([]byte, error) {
	path, err := exec.LookPath(tool)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; install the packages softhsm2 and opensc", fault.Unsupported, err)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), t.Env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w: %s", fault.Invalid, tool, err, bytes.TrimSpace(out))
	}
	return out, nil
}

func library() (string, error) {
	for _, path := range Libraries {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: SoftHSM's library is in none of %s; install the package softhsm2", fault.Unsupported, strings.Join(Libraries, ", "))
}
