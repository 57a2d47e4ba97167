package cloud

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func TestCanonicalStringsAreThoseOfTheVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/licences.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		Legacy []struct {
			Version                 int
			HashData, SignatureData string
			File                    map[string]any
		}
		WithToken struct {
			File, Claims map[string]any
		}
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors.Legacy) != 16 {
		t.Fatalf("%d vectors", len(vectors.Legacy))
	}
	for _, vector := range vectors.Legacy {
		l := readLicence(t, vector.File)
		if got := l.canonical(true); got != vector.HashData {
			t.Errorf("version %d: hashed is\n%s, want\n%s", vector.Version, got, vector.HashData)
		}
		if got := l.canonical(false); got != vector.SignatureData {
			t.Errorf("version %d: signed is\n%s, want\n%s", vector.Version, got, vector.SignatureData)
		}
		// The vectors were signed with the key that signs here.
		want := l["Signature"]
		settings := LicenseSettings{Legacy: true}
		key, err := readKey(licenceKeyPEM)
		if err != nil {
			t.Fatal(err)
		}
		if err := (licenceSigner{key: key, settings: settings}).sign(l); err != nil || l["Signature"] != want || l["Hash"] != vector.File["Hash"] {
			t.Errorf("version %d: signature or hash differ (%v)", vector.Version, err)
		}
	}
	claims := readLicence(t, vectors.WithToken.File).claims()
	for name, want := range vectors.WithToken.Claims {
		if !strings.Contains("iss aud nbf exp", name) && claims[name] != want {
			t.Errorf("claim %s is %v, want %v", name, claims[name], want)
		}
	}
	if len(claims) != len(vectors.WithToken.Claims)-4 {
		t.Errorf("%d claims", len(claims))
	}
}

func readLicence(t *testing.T, file map[string]any) licence {
	t.Helper()
	l := licence{}
	for _, p := range properties {
		value, err := p.convert(file[p.name])
		if err != nil {
			t.Fatal(err)
		}
		l[p.name] = value
	}
	for name := range file {
		if _, known := l[name]; !known {
			t.Errorf("property %s is unknown", name)
		}
	}
	return l
}

func TestPlansInCanonicalStrings(t *testing.T) {
	for plan, want := range map[int]string{0: "Free", 1: "FamiliesAnnually", 5: "EnterpriseAnnually", 6: "Custom", 7: "7", 20: "20"} {
		if got := canonicalValue("PlanType", plan); got != want {
			t.Errorf("%d is %s", plan, got)
		}
	}
}
