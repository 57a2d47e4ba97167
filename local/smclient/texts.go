package smclient

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/latchkey-fn/latchkey/local/apiclient"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// How long texts may be before they are encrypted, in characters, as in the
// released clients.
const (
	maxName      = 500
	maxTokenName = 80
	maxValue     = 25_000
	maxNote      = 7_000
)

// trimmed checks a name, which is not only white space.
func trimmed(what, text string, most int) (string, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return "", fmt.Errorf("%w: %s is empty", fault.Invalid, what)
	}
	return text, fits(what, text, most)
}

func fits(what, text string, most int) error {
	if !utf8.ValidString(text) {
		return fmt.Errorf("%w: %s is not text in UTF-8: encode it, in base64 for example", fault.Invalid, what)
	}
	if n := utf8.RuneCountInString(text); n > most {
		return fmt.Errorf("%w: %s has %d characters; there may be %d", fault.Invalid, what, n, most)
	}
	return nil
}

// sealedObject is an object with encrypted texts, which becomes a T.
type sealedObject[T any] interface {
	object
	open(vault) (T, error)
	identifier() string
}

func (b belonging) identifier() string { return b.ID }

// openAll decrypts what can be decrypted; the error is about the others.
func openAll[O sealedObject[T], T any](what string, objects []O, v vault) ([]T, error) {
	values := make([]T, 0, len(objects))
	var bad unreadable
	for _, o := range objects {
		value, err := o.open(v)
		if err != nil {
			bad.add(what, o.identifier(), err)
			continue
		}
		values = append(values, value)
	}
	return values, bad.err()
}

// getOpen does a call that answers with one object, and decrypts it.
func getOpen[O sealedObject[T], T any](ctx context.Context, c *Client, r apiclient.Request) (T, error) {
	var none T
	v, err := c.unlock(ctx)
	if err != nil {
		return none, err
	}
	o, err := get[O](ctx, c, r)
	if err != nil {
		return none, err
	}
	value, err := o.open(v)
	if err != nil {
		return none, fmt.Errorf("%s: %w", r.Doing, err)
	}
	return value, nil
}
