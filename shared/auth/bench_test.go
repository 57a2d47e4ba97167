package auth_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/local/devidentity"
)

// BenchmarkAuthenticate against BenchmarkBareSignature is what the rules cost on
// top of the one RSA verification that nobody can do without.
func BenchmarkAuthenticate(b *testing.B) {
	server := newIdentity(b, devidentity.Config{})
	v := server.verifier(b)
	r := httptest.NewRequest("GET", "/user-keys", nil)
	r.Header.Set("Authorization", "Bearer "+server.mint(b, devidentity.Claims{Member: []string{org}}))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Authenticate(r, keyConnector); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBareSignature(b *testing.B) {
	server := newIdentity(b, devidentity.Config{})
	raw := server.mint(b, devidentity.Claims{Member: []string{org}})
	public := server.PublicKey()
	b.ReportAllocs()
	for b.Loop() {
		end := strings.LastIndexByte(raw, '.')
		signature, err := base64.RawURLEncoding.DecodeString(raw[end+1:])
		if err != nil {
			b.Fatal(err)
		}
		digest := sha256.Sum256([]byte(raw[:end]))
		if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature); err != nil {
			b.Fatal(err)
		}
	}
}
