package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes of the algorithms below
	_ "crypto/sha512"
	"encoding/base64"
	"math/big"
	"strings"

	"github.com/go-jose/go-jose/v4/json"
)

type family int

const (
	pkcs1 family = iota
	pss
	ec
)

// algorithm is one of RFC 7518, section 3.1.
type algorithm struct {
	name   string
	family family
	hash   crypto.Hash
	curve  elliptic.Curve
}

var algorithms = []algorithm{
	{name: "RS256", family: pkcs1, hash: crypto.SHA256},
	{name: "RS384", family: pkcs1, hash: crypto.SHA384},
	{name: "RS512", family: pkcs1, hash: crypto.SHA512},
	{name: "PS256", family: pss, hash: crypto.SHA256},
	{name: "PS384", family: pss, hash: crypto.SHA384},
	{name: "PS512", family: pss, hash: crypto.SHA512},
	{name: "ES256", family: ec, hash: crypto.SHA256, curve: elliptic.P256()},
	{name: "ES384", family: ec, hash: crypto.SHA384, curve: elliptic.P384()},
}

// signed is a token taken apart, its signature not yet verified.
type signed struct {
	algorithm algorithm
	kid       string
	typ       string
	digest    []byte
	payload   []byte
	signature []byte
}

var encoding = base64.RawURLEncoding.Strict()

func (v *Verifier) parse(raw string) (signed, error) {
	if len(raw) > maxToken {
		return signed{}, refuse(tooLong)
	}
	parts := strings.SplitN(raw, ".", 4)
	if len(parts) != 3 {
		return signed{}, refuse("it is not a signed JWT in compact form")
	}
	header, headerErr := encoding.DecodeString(parts[0])
	payload, payloadErr := encoding.DecodeString(parts[1])
	signature, signatureErr := encoding.DecodeString(parts[2])
	if headerErr != nil || payloadErr != nil || signatureErr != nil {
		return signed{}, refuse("its parts are not base64url")
	}
	// go-jose's JSON tells capitals from small letters and refuses a member that
	// is there twice: a header means the same to everybody.
	var h struct {
		Algorithm string          `json:"alg"`
		KeyID     string          `json:"kid"`
		Type      any             `json:"typ"`
		Critical  json.RawMessage `json:"crit"`
		// Unencoded payloads (RFC 7797) are not for JWTs.
		Base64 json.RawMessage `json:"b64"`
	}
	if err := json.Unmarshal(header, &h); err != nil {
		return signed{}, refuse("its header is not that of a JWT")
	}
	if h.Critical != nil || h.Base64 != nil {
		return signed{}, refuse("its header asks for an extension that is not known here")
	}
	algorithm, ok := v.algorithms[h.Algorithm]
	if !ok {
		return signed{}, refuse("it is signed with an algorithm that is not accepted")
	}
	hash := algorithm.hash.New()
	hash.Write([]byte(raw[:len(parts[0])+1+len(parts[1])]))
	return signed{
		algorithm: algorithm, kid: h.KeyID, typ: text(h.Type), digest: hash.Sum(nil), payload: payload, signature: signature,
	}, nil
}

// key is a public key of the identity server.
type key struct {
	id        string // empty: the key has no name
	algorithm string // empty: any that fits its type
	public    crypto.PublicKey
}

func (k key) verifies(s signed) bool {
	if k.algorithm != "" && k.algorithm != s.algorithm.name {
		return false
	}
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		switch s.algorithm.family {
		case pkcs1:
			return rsa.VerifyPKCS1v15(public, s.algorithm.hash, s.digest, s.signature) == nil
		case pss:
			salt := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
			return rsa.VerifyPSS(public, s.algorithm.hash, s.digest, s.signature, salt) == nil
		}
	case *ecdsa.PublicKey:
		if s.algorithm.family != ec || public.Curve != s.algorithm.curve {
			return false
		}
		// RFC 7518, section 3.4: r and s in full length, one after the other.
		size := (public.Curve.Params().BitSize + 7) / 8
		if len(s.signature) != 2*size {
			return false
		}
		first := new(big.Int).SetBytes(s.signature[:size])
		second := new(big.Int).SetBytes(s.signature[size:])
		return ecdsa.Verify(public, s.digest, first, second)
	}
	return false
}

// keySet is what the identity server published at one time. It is not changed
// after it was made.
type keySet struct {
	issuer string
	keys   []key
}

// names tells whether a key of the set has this name.
func (s *keySet) names(kid string) bool {
	if kid == "" {
		return false
	}
	for _, k := range s.keys {
		if k.id == kid {
			return true
		}
	}
	return false
}

// verifies tells whether a key of the set made the signature: the key the token
// names, or else, where one of the two has no name, any.
func (s *keySet) verifies(t signed) bool {
	named := s.names(t.kid)
	for _, k := range s.keys {
		if named && k.id != t.kid || !named && t.kid != "" && k.id != "" {
			continue
		}
		if k.verifies(t) {
			return true
		}
	}
	return false
}
