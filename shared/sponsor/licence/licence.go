// Package licence reads the vendor's licences of organisations and tells
// whether they are genuine and may be used here. It knows both kinds: those
// with a token, a JWT that holds all values, and the older ones, versions 1 to
// 16, whose values are signed as one canonical text (section 4.4 of the
// protocol's description).
//
// A document is read by Parse, authenticated by a Trust, and only then looked
// into: by CheckUse, CheckFit and Diff. It does no I/O.
package licence

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// MaxSize is how long a document can be, in bytes.
const MaxSize = 51_200

// Versions of documents without a token that can be verified.
const (
	minVersion = 1
	maxVersion = 16
)

// Kinds of licences.
const (
	KindUser         = 0
	KindOrganization = 1
)

// Licence is a licence document. The names of the members are the fields' as
// they stand here, in the stored form, and with a small first letter on the
// wire. The tag since is the version from which a member is in the canonical
// text; those without it never are. Those tagged hashed:"no" are in the text
// that is signed and not in the one that Hash is of.
type Licence struct {
	LicenseKey                           string     `since:"1"`
	InstallationId                       string     `since:"1"`
	Id                                   string     `since:"1"`
	Name                                 string     `since:"1"`
	BillingEmail                         string     `since:"1"`
	BusinessName                         string     `since:"1"`
	Enabled                              bool       `since:"1"`
	Plan                                 string     `since:"1"`
	PlanType                             int        `since:"1"`
	Seats                                *int       `since:"1"`
	MaxCollections                       *int       `since:"1"`
	UsePolicies                          bool       `since:"6"`
	UseSso                               bool       `since:"7"`
	UseKeyConnector                      bool       `since:"9"`
	UseScim                              bool       `since:"10"`
	UseGroups                            bool       `since:"1"`
	UseEvents                            bool       `since:"3"`
	UseDirectory                         bool       `since:"1"`
	UseTotp                              bool       `since:"1"`
	Use2fa                               bool       `since:"4"`
	UseApi                               bool       `since:"5"`
	UseResetPassword                     bool       `since:"8"`
	MaxStorageGb                         *int       `since:"1"`
	SelfHost                             bool       `since:"1"`
	UsersGetPremium                      bool       `since:"2"`
	UseCustomPermissions                 bool       `since:"11"`
	Version                              int        `since:"1"`
	Issued                               time.Time  `since:"1" hashed:"no"`
	Refresh                              *time.Time `since:"1" hashed:"no"`
	Expires                              *time.Time `since:"1"`
	ExpirationWithoutGracePeriod         *time.Time `since:"12"`
	UsePasswordManager                   bool       `since:"13"`
	UseSecretsManager                    bool       `since:"13"`
	SmSeats                              *int       `since:"13"`
	SmServiceAccounts                    *int       `since:"13"`
	UseRiskInsights                      bool
	UsePhishingBlocker                   bool
	LimitCollectionCreationDeletion      bool `since:"14"`
	AllowAdminAccessToAllCollectionItems bool `since:"15"`
	Trial                                bool `since:"1"`
	LicenseType                          *int
	UseOrganizationDomains               bool
	UseAdminSponsoredFamilies            bool
	UseAutomaticUserConfirmation         bool
	UseDisableSmAdsForUsers              bool
	UseMyItems                           bool
	UseInviteLinks                       bool
	UsePam                               bool
	Hash                                 string `since:"1" hashed:"no"`
	Signature                            string
	Token                                string
}

// String and LogValue keep the key and the proofs out of whatever prints a
// licence by mistake.
func (l Licence) String() string { return fmt.Sprintf("licence of %s, version %d", l.Id, l.Version) }

// LogValue implements slog.LogValuer.
func (l Licence) LogValue() slog.Value { return slog.StringValue(l.String()) }

// Enterprise tells whether the plan is of the tier that can sponsor.
func (l *Licence) Enterprise() bool {
	return slices.Contains([]int{4, 5, 10, 11, 14, 15, 19, 20}, l.PlanType)
}

// Code names what is wrong with a licence.
type Code string

// Codes.
const (
	Malformed          Code = "license_malformed"
	TooLarge           Code = "license_too_large"
	VersionUnsupported Code = "license_version_unsupported"
	Untrusted          Code = "license_signature_invalid"
	NotYetValid        Code = "license_not_yet_valid"
	Expired            Code = "license_expired"
	Disabled           Code = "license_disabled"
	OtherInstallation  Code = "license_installation_mismatch"
	NotSelfHosted      Code = "license_self_host_not_allowed"
	OtherKind          Code = "license_type_mismatch"
	Unfit              Code = "license_unfit"
	Older              Code = "license_older"
)

// Error says why a licence is refused. It holds no value that is secret.
type Error struct {
	Code Code
	// Text is for whoever wanted the licence installed, in the words of the
	// official server where it has some.
	Text string
	// Detail says more, for whoever has to mend it; it may be empty.
	Detail string
}

// Error implements error.
func (e *Error) Error() string {
	if e.Detail == "" {
		return e.Text
	}
	return e.Text + " (" + e.Detail + ")"
}

// Unwrap gives the class.
func (e *Error) Unwrap() error { return fault.Invalid }

const invalidPrefix = "Invalid license. "

// invalid is a refusal in the official server's words.
func invalid(code Code, text string) *Error {
	return &Error{Code: code, Text: invalidPrefix + text}
}

// malformed is a document that cannot be read.
func malformed(format string, args ...any) *Error {
	return &Error{Code: Malformed, Text: "Invalid license", Detail: fmt.Sprintf(format, args...)}
}
