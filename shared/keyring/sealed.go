package keyring

import (
	"encoding/binary"
	"fmt"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// The sealed form, as it is stored:
//
//	byte 0       version, 1
//	bytes 1–4    number of the data key, big endian
//	bytes 5–16   nonce, random
//	bytes 17–    AES-256-GCM ciphertext and its 16-byte tag
//
// Version, ring, number and subject are additional data, so a sealed value
// opens only where it was put: copied into somebody else's record it is waste.
const (
	sealedVersion = 1
	headerSize    = 1 + 4
	nonceSize     = 12
	tagSize       = 16
	sealedMin     = headerSize + nonceSize + tagSize
)

// Subject says which value of which record is sealed.
type Subject struct {
	Collection string
	ID         string
	Field      string
}

type sealed struct {
	number     uint32
	nonce      []byte
	ciphertext []byte
}

func (s sealed) marshal() []byte {
	out := make([]byte, headerSize, sealedMin+len(s.ciphertext))
	out[0] = sealedVersion
	binary.BigEndian.PutUint32(out[1:], s.number)
	out = append(out, s.nonce...)
	return append(out, s.ciphertext...)
}

func parseSealed(b []byte) (sealed, error) {
	switch {
	case len(b) < sealedMin:
		return sealed{}, fmt.Errorf("%w: the sealed value has %d bytes, fewer than %d", fault.Lost, len(b), sealedMin)
	case b[0] != sealedVersion:
		return sealed{}, fmt.Errorf("%w: the sealed value has version %d; this program knows version %d", fault.Lost, b[0], sealedVersion)
	}
	return sealed{
		number:     binary.BigEndian.Uint32(b[1:headerSize]),
		nonce:      b[headerSize : headerSize+nonceSize],
		ciphertext: b[headerSize+nonceSize:],
	}, nil
}

// additionalData joins the parts so that no two different lists of parts give
// the same bytes: each part is preceded by its length.
func additionalData(ring string, number uint32, subject Subject) []byte {
	out := binary.BigEndian.AppendUint32([]byte{sealedVersion}, number)
	for _, part := range []string{ring, subject.Collection, subject.ID, subject.Field} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(part)))
		out = append(out, part...)
	}
	return out
}
