package licence

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"os"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// testdata/licences.json was made by another program after the description of
// the format, with a key of its own.
type vectors struct {
	Certificate string
	PrivateKey  string
	Legacy      []struct {
		Version                 int
		HashData, SignatureData string
		File                    json.RawMessage
	}
	WithToken struct {
		File   json.RawMessage
		Claims map[string]any
	}
}

func readVectors(t testing.TB) vectors {
	t.Helper()
	content, err := os.ReadFile("testdata/licences.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(content, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Legacy) != 16 {
		t.Fatalf("%d legacy licences", len(v.Legacy))
	}
	return v
}

func (v vectors) trust(t testing.TB) *Trust {
	t.Helper()
	trust, err := NewTestTrust([]byte(v.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

func (v vectors) key(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	block, _ := pem.Decode([]byte(v.PrivateKey))
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.(*rsa.PrivateKey)
}

func parse(t testing.TB, data []byte, form Form) *Licence {
	t.Helper()
	l, err := Parse(data, form)
	if err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return l
}

func codeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

const installation = "5d2f5b0e-7a11-4b57-9a2e-0c64f3a9d101"

var during = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// T105.
func TestLegacyLicencesOfAllVersionsHaveTheirCanonicalTextsAndVerify(t *testing.T) {
	v := readVectors(t)
	trust := v.trust(t)
	for _, c := range v.Legacy {
		l := parse(t, c.File, Stored)
		if l.Version != c.Version {
			t.Fatalf("version %d, want %d", l.Version, c.Version)
		}
		hashed, err := l.HashedText()
		if err != nil || hashed != c.HashData {
			t.Errorf("version %d: %v, hashed text\n%s\nwant\n%s", c.Version, err, hashed, c.HashData)
		}
		signed, err := l.SignedText()
		if err != nil || signed != c.SignatureData {
			t.Errorf("version %d: %v, signed text\n%s\nwant\n%s", c.Version, err, signed, c.SignatureData)
		}
		if hash, err := l.ComputeHash(); err != nil || hash != l.Hash {
			t.Errorf("version %d: %v, hash %s, want %s", c.Version, err, hash, l.Hash)
		}
		authentic, err := trust.Authenticate(l)
		if err != nil {
			t.Errorf("version %d: %v", c.Version, err)
			continue
		}
		if err := authentic.CheckUse(installation, during); err != nil || authentic.Modern {
			t.Errorf("version %d: %v", c.Version, err)
		}
		if !authentic.Enterprise() || !authentic.UsableUntil().Equal(*l.Expires) {
			t.Errorf("version %d: %t, %s", c.Version, authentic.Enterprise(), authentic.UsableUntil())
		}
	}
}

func TestBothFormsSurviveBeingWritten(t *testing.T) {
	v := readVectors(t)
	trust := v.trust(t)
	for _, c := range append([]json.RawMessage{v.WithToken.File}, v.Legacy[0].File, v.Legacy[15].File) {
		l := parse(t, c, Stored)
		for _, form := range []Form{Stored, Wire} {
			written, err := l.Encode(form)
			if err != nil {
				t.Fatal(err)
			}
			again := parse(t, written, form)
			if changes := Diff(l, again); len(changes) != 0 {
				t.Errorf("form %d changed: %v", form, changes)
			}
			if _, err := trust.Authenticate(again); err != nil {
				t.Errorf("form %d: %v", form, err)
			}
			var members map[string]json.RawMessage
			if err := json.Unmarshal(written, &members); err != nil || len(members) != len(properties) {
				t.Errorf("form %d has %d members: %v", form, len(members), err)
			}
			for _, name := range map[Form][]string{Stored: {"Use2fa", "SmSeats", "Id"}, Wire: {"use2fa", "smSeats", "id"}}[form] {
				if _, ok := members[name]; !ok {
					t.Errorf("form %d lacks %s", form, name)
				}
			}
		}
	}
}

func TestATokensClaimsReplaceWhatTheDocumentSays(t *testing.T) {
	v := readVectors(t)
	l := parse(t, v.WithToken.File, Stored)
	l.Seats, l.Enabled, l.Name, l.SelfHost, l.InstallationId = nil, false, "Another", false, ""
	l.MaxCollections = new(int)
	authentic, err := v.trust(t).Authenticate(l)
	if err != nil {
		t.Fatal(err)
	}
	if err := authentic.CheckUse(installation, during); err != nil || !authentic.Modern {
		t.Error(err)
	}
	if authentic.Name != "Müller & Söhne GmbH" || *authentic.Seats != 120 || authentic.MaxCollections != nil || *authentic.LicenseType != KindOrganization ||
		!authentic.Issued.Equal(time.Date(2025, 6, 1, 10, 0, 0, 0, time.UTC)) || authentic.Id != "c6b1f0de-44a7-4b9a-8f0c-97a1b2c3d4e5" {
		t.Errorf("%s %s %v", authentic, authentic.Name, authentic.Seats)
	}
	claims := authentic.Claims()
	for name, want := range v.WithToken.Claims {
		if text, ok := want.(string); ok && name != "iss" && name != "aud" && claims[name] != text {
			t.Errorf("claim %s is %q, want %q", name, claims[name], text)
		}
	}
}

// token signs claims, which are the vector's with some changed; nil takes one
// away.
func (v vectors) token(t testing.TB, key any, algorithm jose.SignatureAlgorithm, changes map[string]any) string {
	t.Helper()
	claims := maps.Clone(v.WithToken.Claims)
	for name, value := range changes {
		if value == nil {
			delete(claims, name)
			continue
		}
		claims[name] = value
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}
