package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
)

// sealedParts is what of a token only its exchange needs: EncStrings, the
// payload under the key that only the token's holder has, and that key under the
// organisation's.
type sealedParts struct {
	Payload string `json:"payload"`
	Key     string `json:"key"`
}

// Fields of a token that are sealed.
const (
	payloadField   = "payload"
	successorField = "successor"
)

// seal seals the parts of a token.
func (m *Machines) seal(ctx context.Context, token string, parts sealedParts) ([]byte, error) {
	plain, err := json.Marshal(parts)
	if err != nil {
		return nil, fmt.Errorf("access token: %w", err)
	}
	return m.sealField(ctx, m.subject(token, payloadField), plain)
}

// sealField seals, and opens again: what cannot be had back must not be
// acknowledged.
func (m *Machines) sealField(ctx context.Context, subject keyring.Subject, plain []byte) ([]byte, error) {
	sealed, err := m.ring.Seal(ctx, subject, plain)
	if err != nil {
		return nil, fmt.Errorf("access token: %w", err)
	}
	back, err := m.ring.Open(ctx, subject, sealed)
	if err != nil {
		return nil, fmt.Errorf("access token: %w", err)
	}
	if !bytes.Equal(back, plain) {
		return nil, fmt.Errorf("%w: what was sealed of an access token does not open to itself", fault.Lost)
	}
	return sealed, nil
}

// open gives the parts of a token.
func (m *Machines) open(ctx context.Context, token string, sealed []byte) (sealedParts, error) {
	plain, err := m.ring.Open(ctx, m.subject(token, payloadField), sealed)
	if err != nil {
		return sealedParts{}, fmt.Errorf("access token: %w", err)
	}
	var parts sealedParts
	if err := json.Unmarshal(plain, &parts); err != nil {
		return sealedParts{}, fmt.Errorf("%w: the payload of an access token is not the JSON of its kind", fault.Lost)
	}
	return parts, nil
}

func (m *Machines) subject(token, field string) keyring.Subject {
	return keyring.Subject{Collection: m.tokens.Name(), ID: token, Field: field}
}
