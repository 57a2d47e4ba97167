// Package encstring is Bitwarden's EncString of type 2: a short text that one
// party encrypted for another, under 32 bytes of AES key and 32 of HMAC key.
//
//	2.<iv>|<ciphertext>|<mac>
//
// each in standard base64 with padding: a random iv of 16 bytes, AES-256-CBC with
// PKCS#7 padding, and HMAC-SHA256 over iv and ciphertext, which is checked
// before anything is decrypted. Servers only Check; clients hold a Key.
package encstring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

const (
	prefix  = "2."
	keySize = 64
	ivSize  = aes.BlockSize
	macSize = sha256.Size

	redacted = "[redacted]"
)

// Strict refuses what encoders never write: bits that nobody reads.
var encoding = base64.StdEncoding.Strict()

// Errors of this package. They never quote what they are about.
var (
	ErrFormat = errors.New("not an encrypted text of the form 2.iv|ciphertext|mac")
	ErrKey    = errors.New("not the key that it was encrypted with, or it was changed")
	ErrSize   = errors.New("a key is 64 bytes: 32 of AES and 32 of HMAC")
)

// Check tells whether a text has the form of an EncString of type 2. One that
// has not makes whole lists unreadable to clients, so nothing else is stored.
func Check(text string) error {
	_, _, _, err := split(text)
	return err
}

func split(text string) (iv, ciphertext, mac []byte, err error) {
	rest, ok := strings.CutPrefix(text, prefix)
	parts := strings.SplitN(rest, "|", 4)
	if !ok || len(parts) != 3 || strings.ContainsAny(rest, "\r\n") { // which the decoder would skip
		return nil, nil, nil, ErrFormat
	}
	iv, ivErr := encoding.DecodeString(parts[0])
	ciphertext, ciphertextErr := encoding.DecodeString(parts[1])
	mac, macErr := encoding.DecodeString(parts[2])
	if ivErr != nil || ciphertextErr != nil || macErr != nil || len(iv) != ivSize || len(mac) != macSize ||
		len(ciphertext) == 0 || len(ciphertext)%aes.BlockSize != 0 {
		return nil, nil, nil, ErrFormat
	}
	return iv, ciphertext, mac, nil
}

// Key encrypts and decrypts. It prints as [redacted].
type Key struct{ bytes [keySize]byte }

// NewKey makes a random key.
func NewKey() Key {
	var k Key
	_, _ = rand.Read(k.bytes[:]) // never fails
	return k
}

// KeyOf makes a key of its 64 bytes: AES first, then HMAC.
func KeyOf(b []byte) (Key, error) {
	if len(b) != keySize {
		return Key{}, ErrSize
	}
	return Key{[keySize]byte(b)}, nil
}

// ParseKey reads a key in standard base64.
func ParseKey(text string) (Key, error) {
	b, err := encoding.DecodeString(text)
	if err != nil {
		return Key{}, ErrSize
	}
	return KeyOf(b)
}

// Reveal gives the key in standard base64.
func (k Key) Reveal() string { return encoding.EncodeToString(k.bytes[:]) }

// Encrypt makes an EncString of a text.
func (k Key) Encrypt(plaintext string) string {
	iv := make([]byte, ivSize)
	_, _ = rand.Read(iv) // never fails
	return k.encrypt(iv, plaintext)
}

func (k Key) encrypt(iv []byte, plaintext string) string {
	padding := aes.BlockSize - len(plaintext)%aes.BlockSize
	ciphertext := append([]byte(plaintext), bytes.Repeat([]byte{byte(padding)}, padding)...)
	cipher.NewCBCEncrypter(k.block(), iv).CryptBlocks(ciphertext, ciphertext)
	return prefix + encoding.EncodeToString(iv) + "|" + encoding.EncodeToString(ciphertext) + "|" + encoding.EncodeToString(k.mac(iv, ciphertext))
}

// Decrypt reads an EncString: ErrFormat or ErrKey where that cannot be.
func (k Key) Decrypt(text string) (string, error) {
	iv, ciphertext, mac, err := split(text)
	if err != nil {
		return "", err
	}
	if !hmac.Equal(mac, k.mac(iv, ciphertext)) {
		return "", ErrKey
	}
	cipher.NewCBCDecrypter(k.block(), iv).CryptBlocks(ciphertext, ciphertext)
	end := len(ciphertext)
	padding := int(ciphertext[end-1])
	if padding < 1 || padding > aes.BlockSize || !bytes.Equal(ciphertext[end-padding:], bytes.Repeat([]byte{byte(padding)}, padding)) {
		return "", fmt.Errorf("%w: its padding is wrong", ErrFormat) // its author's fault: the mac is right
	}
	return string(ciphertext[:end-padding]), nil
}

func (k Key) block() cipher.Block {
	block, err := aes.NewCipher(k.bytes[:32])
	if err != nil {
		panic(err) // of a size that AES does not have
	}
	return block
}

func (k Key) mac(iv, ciphertext []byte) []byte {
	h := hmac.New(sha256.New, k.bytes[32:])
	h.Write(iv)
	h.Write(ciphertext)
	return h.Sum(nil)
}

// String, Format, MarshalJSON and LogValue keep the key out of whatever prints
// it by mistake, with whatever verb.
func (Key) String() string               { return redacted }
func (Key) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, redacted) }
func (Key) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
func (Key) LogValue() slog.Value         { return slog.StringValue(redacted) }
