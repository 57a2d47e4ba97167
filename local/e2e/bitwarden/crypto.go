package bitwarden

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// MasterKeySize is the length of what Key Connector keeps for a user.
const MasterKeySize = 32

// Key is one of Bitwarden's 64-byte symmetric keys: 32 bytes for AES-256-CBC,
// 32 for HMAC-SHA256. User keys and stretched master keys have this form.
type Key [64]byte

// NewKey makes a random key.
func NewKey() Key {
	var key Key
	rand.Read(key[:])
	return key
}

// Stretch makes the key that wraps the user key out of a master key:
// HKDF-Expand with SHA-256, "enc" for the first half and "mac" for the second.
func Stretch(masterKey []byte) (Key, error) {
	var key Key
	if len(masterKey) != MasterKeySize {
		return key, fmt.Errorf("a master key has %d bytes, this one %d", MasterKeySize, len(masterKey))
	}
	for i, info := range []string{"enc", "mac"} {
		half, err := hkdf.Expand(sha256.New, masterKey, info, 32)
		if err != nil {
			return key, fmt.Errorf("stretching a master key: %w", err)
		}
		copy(key[32*i:], half)
	}
	return key, nil
}

// Encrypt gives an EncString of type 2, "2.iv|ciphertext|mac" in base64:
// AES-256-CBC with PKCS#7 padding, HMAC-SHA256 over iv and ciphertext.
func (k Key) Encrypt(plain []byte) string {
	block, err := aes.NewCipher(k[:32])
	if err != nil {
		panic(err) // the only cause is a key of another length
	}
	iv := make([]byte, aes.BlockSize)
	rand.Read(iv)
	pad := aes.BlockSize - len(plain)%aes.BlockSize
	text := append(bytes.Clone(plain), bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(text, text)
	b64 := base64.StdEncoding.EncodeToString
	return "2." + b64(iv) + "|" + b64(text) + "|" + b64(k.mac(iv, text))
}

// Decrypt opens what Encrypt or a client made.
func (k Key) Decrypt(encString string) ([]byte, error) {
	body, ok := strings.CutPrefix(encString, "2.")
	if !ok {
		return nil, errors.New("not an EncString of type 2")
	}
	fields := strings.Split(body, "|")
	if len(fields) != 3 {
		return nil, fmt.Errorf("an EncString of type 2 has 3 parts, this one %d", len(fields))
	}
	var parts [3][]byte
	for i, field := range fields {
		part, err := base64.StdEncoding.DecodeString(field)
		if err != nil {
			return nil, fmt.Errorf("part %d of an EncString: %w", i+1, err)
		}
		parts[i] = part
	}
	iv, text, mac := parts[0], parts[1], parts[2]
	if !hmac.Equal(mac, k.mac(iv, text)) {
		return nil, errors.New("the MAC of an EncString is wrong: it was made with another key")
	}
	if len(iv) != aes.BlockSize || len(text) == 0 || len(text)%aes.BlockSize != 0 {
		return nil, errors.New("an EncString is not made of whole blocks")
	}
	block, err := aes.NewCipher(k[:32])
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(text))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, text)
	pad := int(plain[len(plain)-1])
	if pad == 0 || pad > aes.BlockSize || !bytes.HasSuffix(plain, bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, errors.New("the padding of an EncString is wrong")
	}
	return plain[:len(plain)-pad], nil
}

func (k Key) mac(iv, text []byte) []byte {
	h := hmac.New(sha256.New, k[32:])
	h.Write(iv)
	h.Write(text)
	return h.Sum(nil)
}

// encapsulate gives an EncString of type 4, "4.ciphertext" in base64:
// RSA-OAEP with SHA-1, the form in which an organisation's key reaches a member.
func encapsulate(to *rsa.PublicKey, key Key) (string, error) {
	text, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, to, key[:], nil)
	if err != nil {
		return "", fmt.Errorf("encrypting a key to a member: %w", err)
	}
	return "4." + base64.StdEncoding.EncodeToString(text), nil
}
