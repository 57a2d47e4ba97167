// Package protocol is what the pkcs11 provider and its helper say to each other
// over the helper's standard input and output: frames of a length (4 bytes, big
// endian) and that much JSON. A request has an id, its answer has the same;
// several may be under way. The first request is Open, all others are Decrypt.
package protocol

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxFrame bounds a message in bytes. The largest, an Open with long names,
// stays far below it.
const MaxFrame = 64 << 10

// Request is one of its members.
type Request struct {
	ID      uint64   `json:"id"`
	Open    *Open    `json:"open,omitempty"`
	Decrypt *Decrypt `json:"decrypt,omitempty"`
}

// Open loads the library, logs in and finds the key.
type Open struct {
	Library     string `json:"library"`
	InitArgs    string `json:"initArgs,omitempty"`
	TokenSerial string `json:"tokenSerial,omitempty"`
	TokenLabel  string `json:"tokenLabel,omitempty"`
	UserType    string `json:"userType"`
	PIN         string `json:"pin,omitempty"`
	KeyLabel    string `json:"keyLabel,omitempty"`
	KeyID       []byte `json:"keyId,omitempty"`
	Sessions    int    `json:"sessions"`
	ReadWrite   bool   `json:"readWrite,omitempty"`
	PublicKnown bool   `json:"publicKnown,omitempty"`
}

// The user types of Open.
const (
	User            = "user"
	SecurityOfficer = "so"
	ContextSpecific = "context_specific"
)

// Decrypt is RSA-OAEP with MGF1 of the same hash and no label.
type Decrypt struct {
	Hash       string `json:"hash"`
	Ciphertext []byte `json:"ciphertext"`
}

// The hashes of Decrypt.
const (
	SHA1   = "sha1"
	SHA256 = "sha256"
)

// Response answers the request of the same id with one of its members.
type Response struct {
	ID        uint64  `json:"id"`
	Opened    *Opened `json:"opened,omitempty"`
	Plaintext []byte  `json:"plaintext,omitempty"`
	Error     *Error  `json:"error,omitempty"`
}

// Opened is the key that was found. Modulus is empty where the token shows
// none, which is an error unless the public key is known.
type Opened struct {
	TokenSerial string `json:"tokenSerial"`
	TokenLabel  string `json:"tokenLabel"`
	KeyLabel    string `json:"keyLabel"`
	KeyID       []byte `json:"keyId"`
	Modulus     []byte `json:"modulus,omitempty"`
	Exponent    []byte `json:"exponent,omitempty"`
}

// Error is why a request failed.
type Error struct {
	// Kind is set by the helper where it knows more than the code says.
	Kind Kind `json:"kind,omitempty"`
	// Code is the library's answer (CKR_…), 0 where the library was not asked.
	Code uint64 `json:"code,omitempty"`
	// Text says what was being done, and what the answer is called.
	Text string `json:"text"`
}

func (e *Error) Error() string { return e.Text }

// Kind tells errors apart that have no code, or the same one.
type Kind string

// The kinds.
const (
	// NoToken: there is no token at all.
	NoToken Kind = "no-token"
	// OtherTokens: there are tokens, but none that was meant.
	OtherTokens Kind = "other-tokens"
	// NoKey: the token has no such key.
	NoKey Kind = "no-key"
	// BadKey: several keys match, or the key cannot be used.
	BadKey Kind = "bad-key"
	// BadRequest: the configuration cannot work.
	BadRequest Kind = "bad-request"
	// Login: C_Login failed with Code.
	Login Kind = "login"
	// LoginWithheld: C_Login was not called, since the token says that a wrong
	// PIN would lock it, or that it is locked.
	LoginWithheld Kind = "login-withheld"
)

// Write sends one message in one call of w.Write.
func Write(w io.Writer, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(body) > MaxFrame {
		return fmt.Errorf("a message of %d bytes, at most %d are sent", len(body), MaxFrame)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

// Read receives one message. io.EOF is an end between two messages.
func Read(r io.Reader, message any) error {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > MaxFrame {
		return fmt.Errorf("a message of %d bytes, at most %d are received", n, MaxFrame)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("in the middle of a message: %w", io.ErrUnexpectedEOF)
	}
	if err := json.Unmarshal(body, message); err != nil {
		return errors.New("a message that is not of the agreed form") // its text could quote a secret
	}
	return nil
}
