// Package accesstoken is the string that a machine is given, and what is made
// of it:
//
//	0.<token id>.<client secret>:<16 random bytes in base64>
//
// The id and the client secret authenticate with the server, which made both
// and keeps a hash of the second. The 16 bytes never reach the server: the key
// derived of them opens the payload that the server answers with, in which is the
// organisation's key.
package accesstoken

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/encstring"
)

const (
	version  = "0"
	seedSize = 16
	hkdfSalt = "bitwarden-accesstoken"
	hkdfInfo = "sm-access-token"

	redacted = "[redacted]"

	secretLength   = 30
	secretAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
)

// What can be wrong with an access token. No error quotes it.
var (
	ErrNoKey   = errors.New("the access token has no encryption key: it is of the form 0.<id>.<secret>:<key>")
	ErrParts   = errors.New("the access token does not have three parts before the colon: it is of the form 0.<id>.<secret>:<key>")
	ErrVersion = errors.New("the access token is of a version that is not known here")
	ErrID      = errors.New("the access token's id is not a UUID")
	ErrSeed    = errors.New("the access token's encryption key is not 16 bytes in base64")
	ErrPayload = errors.New("the payload of the access token holds no organisation key")
)

// Token is an access token. It prints as [redacted].
type Token struct {
	ID           string // a UUID in lower case
	ClientSecret string
	Seed         [seedSize]byte
}

// New makes the token of an id and a client secret that the server gave.
func New(id, clientSecret string) Token {
	t := Token{ID: id, ClientSecret: clientSecret}
	_, _ = rand.Read(t.Seed[:]) // never fails
	return t
}

// Parse reads an access token.
func Parse(text string) (Token, error) {
	left, right, ok := strings.Cut(text, ":")
	if !ok {
		return Token{}, ErrNoKey
	}
	parts := strings.Split(left, ".")
	if len(parts) != 3 {
		return Token{}, ErrParts
	}
	if parts[0] != version {
		return Token{}, ErrVersion
	}
	id, err := uuid.Parse(parts[1])
	if err != nil {
		return Token{}, ErrID
	}
	// Others write the padding, or leave it out. A line's end the decoder would
	// skip.
	seed, err := base64.RawStdEncoding.DecodeString(strings.TrimSuffix(right, "=="))
	if err != nil || len(seed) != seedSize || strings.ContainsAny(right, "\r\n") {
		return Token{}, ErrSeed
	}
	return Token{ID: id.String(), ClientSecret: parts[2], Seed: [seedSize]byte(seed)}, nil
}

// Reveal gives the token as machines keep it.
func (t Token) Reveal() string {
	return version + "." + t.ID + "." + t.ClientSecret + ":" + base64.StdEncoding.EncodeToString(t.Seed[:])
}

// Key is the key that the payload is encrypted under.
func (t Token) Key() (encstring.Key, error) {
	derived, err := hkdf.Key(sha256.New, t.Seed[:], []byte(hkdfSalt), hkdfInfo, 64)
	if err != nil {
		return encstring.Key{}, fmt.Errorf("derive the key of an access token: %w", err)
	}
	return encstring.KeyOf(derived)
}

// payload is the text that the server keeps without being able to read it.
type payload struct {
	EncryptionKey string `json:"encryptionKey"`
}

// Seal makes the payload: the organisation's key, for this token alone.
func (t Token) Seal(organization encstring.Key) (string, error) {
	key, err := t.Key()
	if err != nil {
		return "", err
	}
	plain, err := json.Marshal(payload{organization.Reveal()})
	if err != nil {
		return "", fmt.Errorf("payload of an access token: %w", err)
	}
	return key.Encrypt(string(plain)), nil
}

// Open takes the organisation's key out of the payload.
func (t Token) Open(sealed string) (encstring.Key, error) {
	key, err := t.Key()
	if err != nil {
		return encstring.Key{}, err
	}
	plain, err := key.Decrypt(sealed)
	if err != nil {
		return encstring.Key{}, fmt.Errorf("payload of the access token: %w", err)
	}
	var p payload
	if err := json.Unmarshal([]byte(plain), &p); err != nil {
		return encstring.Key{}, ErrPayload // the text of the error could quote the key
	}
	organization, err := encstring.ParseKey(p.EncryptionKey)
	if err != nil {
		return encstring.Key{}, ErrPayload
	}
	return organization, nil
}

// String, Format, MarshalJSON and LogValue keep the token out of whatever prints
// it by mistake, with whatever verb.
func (Token) String() string               { return redacted }
func (Token) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, redacted) }
func (Token) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
func (Token) LogValue() slog.Value         { return slog.StringValue(redacted) }

// NewSecret makes a client secret: 30 characters, some 178 bits.
func NewSecret() string {
	secret := make([]byte, 0, secretLength)
	for len(secret) < secretLength {
		var random [2 * secretLength]byte
		_, _ = rand.Read(random[:]) // never fails
		for _, b := range random {
			// The bytes beyond the greatest multiple of the alphabet's length
			// would make its first characters likelier.
			if int(b) < 256-256%len(secretAlphabet) && len(secret) < secretLength {
				secret = append(secret, secretAlphabet[int(b)%len(secretAlphabet)])
			}
		}
	}
	return string(secret)
}

// Hash is what the server keeps of a client secret: SHA-256, in base64. Nobody
// guesses 178 bits, so there is no salt.
func Hash(clientSecret string) string {
	sum := sha256.Sum256([]byte(clientSecret))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Matches compares a client secret with a hash in constant time. With the empty
// hash it takes as long, and nothing matches.
func Matches(clientSecret, hash string) bool {
	known := hash != ""
	if !known {
		hash = Hash("")
	}
	same := subtle.ConstantTimeCompare([]byte(Hash(clientSecret)), []byte(hash)) == 1
	return same && known
}
