package machine

import (
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

// seal seals the parts of a token, and opens them again: what cannot be had
// back must not be acknowledged.
func (m *Machines) seal(ctx context.Context, token string, parts sealedParts) ([]byte, error) {
	plain, err := json.Marshal(parts)
	if err != nil {
		return nil, fmt.Errorf("access token: %w", err)
	}
	sealed, err := m.ring.Seal(ctx, m.subject(token), plain)
	if err != nil {
		return nil, fmt.Errorf("access token: %w", err)
	}
	back, err := m.open(ctx, token, sealed)
	if err != nil {
		return nil, err
	}
	if back != parts {
		return nil, fmt.Errorf("%w: the sealed payload of an access token does not open to itself", fault.Lost)
	}
	return sealed, nil
}

// open gives the parts of a token.
func (m *Machines) open(ctx context.Context, token string, sealed []byte) (sealedParts, error) {
	plain, err := m.ring.Open(ctx, m.subject(token), sealed)
	if err != nil {
		return sealedParts{}, fmt.Errorf("access token: %w", err)
	}
	var parts sealedParts
	if err := json.Unmarshal(plain, &parts); err != nil {
		return sealedParts{}, fmt.Errorf("%w: the payload of an access token is not the JSON of its kind", fault.Lost)
	}
	return parts, nil
}

func (m *Machines) subject(token string) keyring.Subject {
	return keyring.Subject{Collection: m.tokens.Name(), ID: token, Field: "payload"}
}
