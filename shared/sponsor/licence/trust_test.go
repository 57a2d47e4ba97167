package licence

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// T101, T102.
func TestVersionsWithoutATokenAreLimited(t *testing.T) {
	v := readVectors(t)
	trust := v.trust(t)
	for version, text := range map[int]string{
		17: "Version 17 is not supported.", 0: "Version 0 is not supported.", -1: "Version -1 is not supported.", 2026: "Version 2026 is not supported.",
	} {
		l := parse(t, v.Legacy[15].File, Stored)
		l.Version = version
		_, err := trust.Authenticate(l)
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != VersionUnsupported || e.Text != text || !errors.Is(err, fault.Invalid) {
			t.Errorf("version %d: %v", version, err)
		}
		withToken := parse(t, v.WithToken.File, Stored)
		withToken.Version = version
		if authentic, err := trust.Authenticate(withToken); err != nil || authentic.Version != version {
			t.Errorf("version %d with a token: %v", version, err)
		}
	}
}

// T103.
func TestTokensThatCannotBeBelieved(t *testing.T) {
	v := readVectors(t)
	trust, key := v.trust(t), v.key(t)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := v.token(t, key, jose.RS256, nil)
	parts := strings.Split(good, ".")
	tampered := parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"bitwarden","Enabled":"True"}`)) + "." + parts[2]
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	for name, token := range map[string]string{
		"another key":                  v.token(t, other, jose.RS256, nil),
		"claims that were changed":     tampered,
		"no signature":                 unsigned,
		"another algorithm":            v.token(t, key, jose.PS256, nil),
		"a secret that is public":      v.token(t, []byte(v.Certificate), jose.HS256, nil),
		"another issuer":               v.token(t, key, jose.RS256, map[string]any{"iss": "somebody"}),
		"another organisation":         v.token(t, key, jose.RS256, map[string]any{"aud": "organization:00000000-44a7-4b9a-8f0c-97a1b2c3d4e5"}),
		"a user's audience":            v.token(t, key, jose.RS256, map[string]any{"aud": "user:c6b1f0de-44a7-4b9a-8f0c-97a1b2c3d4e5"}),
		"no audience":                  v.token(t, key, jose.RS256, map[string]any{"aud": nil}),
		"no end":                       v.token(t, key, jose.RS256, map[string]any{"exp": nil}),
		"a number that is none":        v.token(t, key, jose.RS256, map[string]any{"Seats": "many"}),
		"a date in another order":      v.token(t, key, jose.RS256, map[string]any{"Issued": "31.12.2025 10:00:00"}),
		"a boolean that is none":       v.token(t, key, jose.RS256, map[string]any{"Enabled": "perhaps"}),
		"a kind that there is not":     v.token(t, key, jose.RS256, map[string]any{"LicenseType": "Provider"}),
		"something that is no token":   "not.a.token-at-all",
		"a token with something added": good + ".x",
	} {
		l := parse(t, v.WithToken.File, Stored)
		l.Token = token
		authentic, err := trust.Authenticate(l)
		if codeOf(err) != Untrusted || authentic != nil || !strings.HasPrefix(err.Error(), "Invalid license. ") {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), token) {
			t.Errorf("%s: the token is in the error: %v", name, err)
		}
	}
}

// T103: the dates.
func TestTheDatesOfATokenHaveAToleranceAtTheirBeginningOnly(t *testing.T) {
	v := readVectors(t)
	trust, key := v.trust(t), v.key(t)
	for name, c := range map[string]struct {
		changes map[string]any
		want    Code
	}{
		"valid from two seconds ahead of us":  {map[string]any{"nbf": during.Add(2 * time.Second).Unix()}, ""},
		"valid from five minutes ahead of us": {map[string]any{"nbf": during.Add(5 * time.Minute).Unix()}, ""},
		"valid from ten minutes ahead of us":  {map[string]any{"nbf": during.Add(10 * time.Minute).Unix()}, NotYetValid},
		"without a beginning":                 {map[string]any{"nbf": nil}, ""},
		"ending in a second":                  {map[string]any{"exp": during.Add(time.Second).Unix()}, ""},
		"ended two seconds ago":               {map[string]any{"exp": during.Add(-2 * time.Second).Unix()}, Expired},
	} {
		l := parse(t, v.WithToken.File, Stored)
		l.Token = v.token(t, key, jose.RS256, c.changes)
		authentic, err := trust.Authenticate(l)
		if err != nil {
			t.Errorf("%s: it cannot be read: %v", name, err)
			continue
		}
		if err := authentic.CheckUse(installation, during); codeOf(err) != c.want {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Gap 26 of the official server: one that has expired could not even be shown.
func TestALicenceThatHasExpiredCanStillBeRead(t *testing.T) {
	v := readVectors(t)
	later := time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, file := range map[string][]byte{"legacy": v.Legacy[14].File, "with a token": v.WithToken.File} {
		authentic, err := v.trust(t).Authenticate(parse(t, file, Stored))
		if err != nil || authentic.Name != "Müller & Söhne GmbH" || !authentic.UsableUntil().Before(later) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := authentic.CheckUse(installation, later); codeOf(err) != Expired || !strings.HasPrefix(err.Error(), "Invalid license. ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// sign makes a legacy document genuine.
func (v vectors) sign(t *testing.T, l *Licence) *Licence {
	t.Helper()
	var err error
	if l.Hash, err = l.ComputeHash(); err != nil {
		t.Fatal(err)
	}
	text, err := l.SignedText()
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(nil, v.key(t), crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	l.Signature = base64.StdEncoding.EncodeToString(signature)
	return l
}

// T104, of both kinds.
func TestWhatIsAgainstUsingALicenceIsSaidInTheOfficialWords(t *testing.T) {
	v := readVectors(t)
	trust, key := v.trust(t), v.key(t)
	const disabled = "Your cloud-hosted organization is currently disabled."
	const mismatch = "The installation ID does not match the current installation."
	const notHere = "The license does not allow for on-premise hosting of organizations."
	for name, c := range map[string]struct {
		claims       map[string]any
		change       func(*Licence)
		installation string
		code         Code
		text         string
	}{
		"a disabled organisation": {map[string]any{"Enabled": "False"}, func(l *Licence) { l.Enabled = false }, installation, Disabled, disabled},
		"another installation":    {nil, func(*Licence) {}, "00000000-7a11-4b57-9a2e-0c64f3a9d101", OtherInstallation, mismatch},
		"no installation":         {map[string]any{"InstallationId": nil}, func(l *Licence) { l.InstallationId = "" }, "", OtherInstallation, mismatch},
		"not to be self-hosted":   {map[string]any{"SelfHost": "False"}, func(l *Licence) { l.SelfHost = false }, installation, NotSelfHosted, notHere},
		"two things at once": {
			map[string]any{"Enabled": "False", "SelfHost": "False"},
			func(l *Licence) { l.Enabled, l.SelfHost = false, false }, installation, Disabled, disabled + " " + notHere,
		},
	} {
		modern := parse(t, v.WithToken.File, Stored)
		modern.Token = v.token(t, key, jose.RS256, c.claims)
		legacy := parse(t, v.Legacy[14].File, Stored)
		c.change(legacy)
		for kind, l := range map[string]*Licence{"with a token": modern, "legacy": v.sign(t, legacy)} {
			authentic, err := trust.Authenticate(l)
			if err != nil {
				t.Errorf("%s, %s: %v", name, kind, err)
				continue
			}
			err = authentic.CheckUse(c.installation, during)
			if codeOf(err) != c.code || err.Error() != "Invalid license. "+c.text {
				t.Errorf("%s, %s: %v", name, kind, err)
			}
		}
	}
	authentic, err := trust.Authenticate(parse(t, v.WithToken.File, Stored))
	if err != nil || authentic.CheckUse(strings.ToUpper(installation), during) != nil {
		t.Error("the installation's id was compared with regard to case")
	}
}

func TestALegacyLicenceHasADateOfIssueAndAnEnd(t *testing.T) {
	v := readVectors(t)
	authentic, err := v.trust(t).Authenticate(parse(t, v.Legacy[3].File, Stored))
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[time.Time]struct {
		code Code
		text string
	}{
		authentic.Issued.Add(-time.Second):  {NotYetValid, "Invalid license. The license hasn't been issued yet."},
		authentic.Issued:                    {"", ""},
		authentic.Expires.Add(time.Second):  {Expired, "Invalid license. The license has expired."},
		authentic.Expires.Add(-time.Second): {"", ""},
	} {
		err := authentic.CheckUse(installation, at)
		if codeOf(err) != want.code || want.text != "" && err.Error() != want.text {
			t.Errorf("at %s: %v", at, err)
		}
	}
	forever := *authentic
	forever.Expires = nil
	if err := forever.CheckUse(installation, time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil || !forever.UsableUntil().IsZero() {
		t.Error("one without an end has expired: ", err)
	}
}

func TestALegacyLicenceThatWasChangedIsRefused(t *testing.T) {
	v := readVectors(t)
	trust := v.trust(t)
	for name, change := range map[string]func(*Licence){
		"seats":             func(l *Licence) { *l.Seats++ },
		"end":               func(l *Licence) { l.Expires = nil },
		"date of issue":     func(l *Licence) { l.Issued = l.Issued.Add(time.Hour) },
		"hash":              func(l *Licence) { l.Hash = strings.ToLower(l.Hash) },
		"no hash":           func(l *Licence) { l.Hash = "" },
		"version":           func(l *Licence) { l.Version-- },
		"signature":         func(l *Licence) { l.Signature = "AAAA" + l.Signature[4:] },
		"no signature":      func(l *Licence) { l.Signature = "" },
		"no base64":         func(l *Licence) { l.Signature = "%" },
		"both made anew":    func(l *Licence) { *l.Seats++; l.Hash, _ = l.ComputeHash() },
		"a token taken out": func(l *Licence) { l.Hash, l.Signature, l.Token = "", "", "" },
	} {
		l := parse(t, v.Legacy[15].File, Stored)
		change(l)
		_, err := trust.Authenticate(l)
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != Untrusted || e.Text != "Invalid license. The license verification failed." {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// T104.
func TestAUsersLicenceIsToldApart(t *testing.T) {
	v := readVectors(t)
	l := parse(t, []byte(`{"licenseKey":"x","id":"c6b1f0de-44a7-4b9a-8f0c-97a1b2c3d4e5","name":"Jo","version":1,"licenseType":0,"issued":"2025-06-01T10:00:00Z"}`), Wire)
	_, err := v.trust(t).Authenticate(l)
	if codeOf(err) != OtherKind || !strings.Contains(err.Error(), "premium license") {
		t.Error(err)
	}
	modern := parse(t, v.WithToken.File, Stored)
	modern.Token = v.token(t, v.key(t), jose.RS256, map[string]any{"LicenseType": "User"})
	authentic, err := v.trust(t).Authenticate(modern)
	if err != nil {
		t.Fatal(err)
	}
	if err := authentic.CheckUse(installation, during); codeOf(err) != OtherKind {
		t.Error(err)
	}
}

func TestClaimsMayBeOfTheirOwnTypes(t *testing.T) {
	v := readVectors(t)
	l := parse(t, v.WithToken.File, Stored)
	l.Token = v.token(t, v.key(t), jose.RS256, map[string]any{"Enabled": true, "Seats": 7, "MaxCollections": nil, "LicenseType": "1", "aud": []string{"x", "organization:" + l.Id}})
	authentic, err := v.trust(t).Authenticate(l)
	if err != nil || !authentic.Enabled || *authentic.Seats != 7 || *authentic.LicenseType != KindOrganization {
		t.Errorf("%v %+v", err, authentic)
	}
}

func certificateOf(t *testing.T, public, private any) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{SerialNumber: big.NewInt(1)}, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// REQ-8.
func TestOnlyThePinnedCertificateIsTrusted(t *testing.T) {
	v := readVectors(t)
	block, _ := pem.Decode([]byte(v.Certificate))
	digest := sha1.Sum(block.Bytes)
	thumbprint := strings.ToUpper(hex.EncodeToString(digest[:]))
	for form, certificate := range map[string][]byte{"PEM": []byte(v.Certificate), "DER": block.Bytes} {
		if _, err := NewTrust(certificate); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), Thumbprint) || !strings.Contains(err.Error(), thumbprint) {
			t.Errorf("%s: %v", form, err)
		}
		if _, err := pinnedTrust(certificate, thumbprint); err != nil {
			t.Errorf("%s: %v", form, err)
		}
	}
	small := big.NewInt(0).Lsh(big.NewInt(1), 1023)
	weak := rsa.PublicKey{N: small.Add(small, big.NewInt(1)), E: 65537}
	elliptic, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, certificate := range map[string][]byte{
		"nothing": nil, "no certificate": []byte("certificate"),
		"a small key": certificateOf(t, &weak, v.key(t)), "another kind of key": certificateOf(t, &elliptic.PublicKey, elliptic),
	} {
		if _, err := NewTestTrust(certificate); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
