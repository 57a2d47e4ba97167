package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/term"

	"github.com/latchkey-fn/latchkey/shared/config"
)

// errNobody is that nobody can be asked.
var errNobody = errors.New("there is no terminal to ask at")

// shortestPassphrase is how many characters a new one has at least.
const shortestPassphrase = 10

// passphrase is the one of the settings, or it is asked for.
func (t *terminal) passphrase(ctx context.Context, s remoteSettings, question string) (config.Secret, error) {
	if s.Passphrase != "" {
		return s.Passphrase, nil
	}
	typed, err := t.hidden(ctx, question+": ")
	if errors.Is(err, errNobody) {
		return "", fmt.Errorf("%w: set LATCHKEY_PASSPHRASE or LATCHKEY_PASSPHRASE_FILE: %w", errUsage, err)
	}
	return typed, err
}

// newPassphrase asks twice.
func (t *terminal) newPassphrase(ctx context.Context, s remoteSettings) (config.Secret, error) {
	passphrase, err := t.passphrase(ctx, s, "New passphrase for the key file")
	if err != nil {
		return "", err
	}
	if len([]rune(passphrase.Reveal())) < shortestPassphrase {
		return "", fmt.Errorf("%w: the passphrase has fewer than %d characters", errUsage, shortestPassphrase)
	}
	if s.Passphrase != "" {
		return passphrase, nil
	}
	again, err := t.hidden(ctx, "The same again: ")
	if err == nil && again != passphrase {
		err = fmt.Errorf("%w: the two passphrases are not the same", errUsage)
	}
	return passphrase, err
}

// hidden asks for what is not to be seen. Where the input is a file or a pipe,
// it asks at the terminal of the process.
func (t *terminal) hidden(ctx context.Context, question string) (config.Secret, error) {
	in, ok := t.in.(*os.File)
	if !ok {
		return "", errNobody
	}
	if !isTerminal(in) {
		name := "/dev/tty"
		if runtime.GOOS == "windows" {
			name = "CONIN$"
		}
		console, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return "", errNobody
		}
		defer console.Close()
		in = console
	}
	before, err := term.GetState(int(in.Fd()))
	if err != nil {
		return "", errNobody
	}
	fmt.Fprint(t.err, question)
	defer fmt.Fprintln(t.err)
	type answer struct {
		text []byte
		err  error
	}
	typed := make(chan answer, 1)
	go func() {
		text, err := term.ReadPassword(int(in.Fd()))
		typed <- answer{text, err}
	}()
	select {
	case a := <-typed:
		if a.err != nil {
			return "", fmt.Errorf("%w: %w", errDeclined, a.err)
		}
		return config.Secret(a.text), nil
	case <-ctx.Done(): // the terminal must not stay silent
		return "", errors.Join(errDeclined, term.Restore(int(in.Fd()), before))
	}
}

// given takes what is secret from somebody at the terminal, or all of the input,
// of which longest bounds the bytes. It is never an argument, which other
// programs could see.
func (t *terminal) given(ctx context.Context, what string, longest int) (string, error) {
	if isTerminal(t.in) {
		typed, err := t.hidden(ctx, strings.ToUpper(what[:1])+what[1:]+": ")
		if err != nil {
			return "", err
		}
		return readAtMost(strings.NewReader(typed.Reveal()), what, longest)
	}
	return readAtMost(t.in, what, longest)
}

// readAtMost reads all of a source whose size in bytes is bounded.
func readAtMost(source io.Reader, what string, longest int) (string, error) {
	content, err := io.ReadAll(io.LimitReader(source, int64(longest)+1))
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	if len(content) > longest {
		return "", fmt.Errorf("%w: %s: it is larger than %d bytes", errUsage, what, longest)
	}
	return string(content), nil
}

// sure asks before something that cannot be undone.
func (t *terminal) sure(ctx context.Context, yes bool, what string) error {
	if yes || t.confirm(ctx, what+" Type yes to go on: ", "yes") {
		return nil
	}
	return fmt.Errorf("%w (--yes goes on without asking)", errDeclined)
}
