package licence

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Thumbprint is the SHA-1 digest of the vendor's certificate that licences are
// verified with. A digest cannot verify: the certificate itself, which the
// vendor publishes with its server (licensing.cer), has to be given.
const Thumbprint = "B34876439FCDA2846505B2EFBBA6C4A951313EBE"

const minKeyBits = 2048

// notBeforeTolerance is how far our clock may be behind the cloud's, which
// issues a token that is valid from this instant on. There is none at its end.
const notBeforeTolerance = 5 * time.Minute

// Trust is what licences are verified with.
type Trust struct{ key *rsa.PublicKey }

// NewTrust reads the vendor's certificate in PEM or DER. Its dates and issuer
// do not matter, since it is pinned.
func NewTrust(certificate []byte) (*Trust, error) { return pinnedTrust(certificate, Thumbprint) }

func pinnedTrust(certificate []byte, thumbprint string) (*Trust, error) {
	parsed, err := parseCertificate(certificate)
	if err != nil {
		return nil, err
	}
	digest := sha1.Sum(parsed.Raw)
	if found := strings.ToUpper(hex.EncodeToString(digest[:])); found != thumbprint {
		return nil, fmt.Errorf("%w: the certificate of licences has the thumbprint %s, and only %s is trusted: take licensing.cer as the vendor publishes it with its server", fault.Invalid, found, thumbprint)
	}
	return trustIn(parsed)
}

// NewTestTrust trusts whatever certificate it is given. It is for tests, and
// for an emulator of the cloud on this machine.
func NewTestTrust(certificate []byte) (*Trust, error) {
	parsed, err := parseCertificate(certificate)
	if err != nil {
		return nil, err
	}
	return trustIn(parsed)
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	if block, _ := pem.Decode(data); block != nil {
		data = block.Bytes
	}
	parsed, err := x509.ParseCertificate(data)
	if err != nil {
		return nil, fmt.Errorf("%w: the certificate of licences is neither PEM nor DER: %w", fault.Invalid, err)
	}
	return parsed, nil
}

func trustIn(certificate *x509.Certificate) (*Trust, error) {
	key, ok := certificate.PublicKey.(*rsa.PublicKey)
	if !ok || key.N.BitLen() < minKeyBits {
		return nil, fmt.Errorf("%w: the certificate of licences holds no RSA key of %d bits or more", fault.Invalid, minKeyBits)
	}
	return &Trust{key: key}, nil
}

// Authentic is a licence whose signature holds. Its values are the token's
// where it has one, and else those that are signed; others are zero. Whether it may be used (now, here) is CheckUse's to say, so
// that one that has expired can still be shown and replaced.
type Authentic struct {
	Licence
	// Modern: it has a token.
	Modern bool
	// notBefore and notAfter are the token's; zero means no limit.
	notBefore, notAfter time.Time
}

// Authenticate verifies a document's signature, or its token's. Errors are an
// *Error.
func (t *Trust) Authenticate(document *Licence) (*Authentic, error) {
	if document.LicenseType != nil && *document.LicenseType == KindUser {
		return nil, userLicence()
	}
	if document.Token != "" {
		return t.authenticateToken(document)
	}
	hash, err := document.ComputeHash()
	if err != nil {
		return nil, err
	}
	text, err := document.SignedText()
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(text))
	signature, err := base64.StdEncoding.DecodeString(document.Signature)
	if err != nil || document.Hash != hash || rsa.VerifyPKCS1v15(t.key, crypto.SHA256, digest[:], signature) != nil {
		return nil, invalid(Untrusted, "The license verification failed.")
	}
	return &Authentic{Licence: document.signed()}, nil
}

func userLicence() *Error {
	return invalid(OtherKind, "It is a premium license of a user; upload it in the settings of that account.")
}

// authenticateToken believes the token's values and nothing else.
func (t *Trust) authenticateToken(document *Licence) (*Authentic, error) {
	token, err := jwt.ParseSigned(document.Token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return nil, invalid(Untrusted, "Its token is no JWT signed with RS256.")
	}
	var registered jwt.Claims
	var claims map[string]json.RawMessage
	if err := token.Claims(t.key, &registered, &claims); err != nil {
		if errors.Is(err, jose.ErrCryptoFailure) {
			return nil, invalid(Untrusted, "The signature of its token does not hold: it was changed, or is not of the vendor.")
		}
		return nil, invalid(Untrusted, "The claims of its token cannot be read.")
	}
	switch {
	case registered.Issuer != "bitwarden":
		return nil, invalid(Untrusted, "Its token is of another issuer.")
	case !registered.Audience.Contains("organization:" + document.Id):
		return nil, invalid(Untrusted, "Its token is not of the organization that the document names.")
	case registered.Expiry == nil:
		return nil, invalid(Untrusted, "Its token never expires.")
	}
	licence, err := document.fromClaims(claims)
	if err != nil {
		return nil, err
	}
	authentic := &Authentic{Licence: *licence, Modern: true, notAfter: registered.Expiry.Time().UTC()}
	if registered.NotBefore != nil {
		authentic.notBefore = registered.NotBefore.Time().UTC()
	}
	return authentic, nil
}

// UsableUntil is when CheckUse begins to refuse it as expired; zero if it never
// does.
func (a *Authentic) UsableUntil() time.Time {
	switch {
	case a.Modern:
		return a.notAfter
	case a.Expires != nil:
		return *a.Expires
	default:
		return time.Time{}
	}
}

// CheckUse tells whether the licence may be used by an installation at a time.
// The error is an *Error with the texts of all that is against it and the code
// of the first.
func (a *Authentic) CheckUse(installationID string, now time.Time) error {
	against := a.checkDates(now)
	if !a.Enabled {
		against = append(against, invalid(Disabled, "Your cloud-hosted organization is currently disabled."))
	}
	if a.InstallationId == "" || !strings.EqualFold(a.InstallationId, installationID) {
		against = append(against, invalid(OtherInstallation, "The installation ID does not match the current installation."))
	}
	if !a.SelfHost {
		against = append(against, invalid(NotSelfHosted, "The license does not allow for on-premise hosting of organizations."))
	}
	if a.LicenseType != nil && *a.LicenseType != KindOrganization {
		against = append(against, userLicence())
	}
	if len(against) == 0 {
		return nil
	}
	all := *against[0]
	for _, e := range against[1:] {
		all.Text += " " + strings.TrimPrefix(e.Text, invalidPrefix)
	}
	return &all
}

func (a *Authentic) checkDates(now time.Time) []*Error {
	if a.Modern {
		switch {
		case !a.notBefore.IsZero() && now.Add(notBeforeTolerance).Before(a.notBefore):
			e := invalid(NotYetValid, "Its token is not valid yet.")
			e.Detail = "it is from " + a.notBefore.Format(time.RFC3339) + " on; check the clock of this machine"
			return []*Error{e}
		case !now.Before(a.notAfter):
			e := invalid(Expired, "Its token has expired.")
			e.Detail = "on " + a.notAfter.Format(time.RFC3339) + "; download the license anew"
			return []*Error{e}
		}
		return nil
	}
	var against []*Error
	if a.Issued.After(now) {
		against = append(against, invalid(NotYetValid, "The license hasn't been issued yet."))
	}
	if a.Expires != nil && a.Expires.Before(now) {
		against = append(against, invalid(Expired, "The license has expired."))
	}
	return against
}
