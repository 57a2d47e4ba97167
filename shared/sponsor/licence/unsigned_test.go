package licence

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"testing"
	"time"
)

// Whoever takes the token off a licence, or adds to an older one, gains nothing.
func TestAMemberThatIsNotSignedIsNotBelieved(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, minKeyBits)
	if err != nil {
		t.Fatal(err)
	}
	for version := minVersion; version <= maxVersion; version++ {
		seats := 7
		document := Licence{Id: "8d3f0c6a-0000-4000-8000-000000000001", Version: version, Enabled: true, Seats: &seats, Issued: time.Unix(1, 0).UTC()}
		if document.Hash, err = document.ComputeHash(); err != nil {
			t.Fatal(err)
		}
		text, err := document.SignedText()
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte(text))
		signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		document.Signature = base64.StdEncoding.EncodeToString(signature)
		forged := document
		smSeats := 9
		forged.UseAdminSponsoredFamilies, forged.UsePam, forged.UseMyItems = true, true, true
		if version < 7 {
			forged.UseSso = true
		}
		if version < 13 {
			forged.SmSeats = &smSeats
		}
		authentic, err := (&Trust{&key.PublicKey}).Authenticate(&forged)
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		got := authentic.Licence
		if got.UseAdminSponsoredFamilies || got.UsePam || got.UseMyItems || got.UseSso || got.SmSeats != nil {
			t.Errorf("version %d believes %+v", version, got)
		}
		if *got.Seats != 7 || !got.Enabled || got.Signature != document.Signature || got.Hash != document.Hash {
			t.Errorf("version %d loses what is signed", version)
		}
		if !forged.UsePam {
			t.Error("the document itself was changed")
		}
	}
}
