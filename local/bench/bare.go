package main

import (
	"crypto"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/latchkey-fn/latchkey/shared/store"
)

// bareCollection holds what the bare handler reads.
const bareCollection = "bare-keys"

// bareNonce is the length of the nonce before the ciphertext.
const bareNonce = 12

// bare is what a warm GET /user-keys is measured against: the least that
// answers it safely. It checks the RS256 signature of the same token with the
// standard library, decodes four of its claims and compares issuer and expiry,
// reads one document from the same driver, opens it with AES-256-GCM under the
// user's id, and answers JSON. It has no routes, no CORS, no request id, no
// deadline, no scopes, no key sets, no data keys that change, no audit event and
// no log line.
type bare struct {
	public *rsa.PublicKey
	issuer string
	driver store.Driver
	aead   cipher.AEAD
}

var _ http.Handler = (*bare)(nil)

type bareClaims struct {
	Issuer  string   `json:"iss"`
	Subject string   `json:"sub"`
	Expiry  int64    `json:"exp"`
	Scopes  []string `json:"scope"`
}

func (b *bare) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	subject, ok := b.subject(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	if !ok {
		http.Error(w, "unauthorized", http.StatusUnauthorized)
		return
	}
	doc, err := b.driver.Get(r.Context(), bareCollection, subject)
	if err != nil || len(doc.Body) < bareNonce {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	key, err := b.aead.Open(nil, doc.Body[:bareNonce], doc.Body[bareNonce:], []byte(subject))
	if err != nil {
		http.Error(w, "lost", http.StatusInternalServerError)
		return
	}
	answer, err := json.Marshal(struct {
		Key []byte `json:"key"`
	}{key})
	if err != nil {
		http.Error(w, "lost", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	// A client that went away is nobody's fault, and there is nobody to tell.
	_, _ = w.Write(answer)
}

// subject is whose token it is, if it is good.
func (b *bare) subject(token string) (string, bool) {
	end := strings.LastIndexByte(token, '.')
	if end < 0 {
		return "", false
	}
	signature, err := base64.RawURLEncoding.DecodeString(token[end+1:])
	if err != nil {
		return "", false
	}
	digest := sha256.Sum256([]byte(token[:end]))
	if rsa.VerifyPKCS1v15(b.public, crypto.SHA256, digest[:], signature) != nil {
		return "", false
	}
	_, middle, _ := strings.Cut(token[:end], ".")
	payload, err := base64.RawURLEncoding.DecodeString(middle)
	if err != nil {
		return "", false
	}
	var claims bareClaims
	if json.Unmarshal(payload, &claims) != nil || claims.Issuer != b.issuer || time.Now().Unix() >= claims.Expiry {
		return "", false
	}
	return claims.Subject, true
}
