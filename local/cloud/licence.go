package cloud

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// The strings that are signed are made here and, to check them, once more by the
// code that reads licences. A mistake shared by both would go unnoticed.

// LicenseSettings say what an organisation's licences look like. The zero value
// is what today's cloud makes: version 15 with a token.
type LicenseSettings struct {
	// Version of the document: 15 if 0.
	Version int `json:"version,omitempty"`
	// Legacy leaves the token out.
	Legacy bool `json:"legacy,omitempty"`
	// Set replaces values of document and token, by property name in PascalCase
	// (Seats, UseSso, SelfHost, InstallationId …); nil is null. Times are RFC 3339.
	Set map[string]any `json:"set,omitempty"`
	// Claims are laid over the token's (aud, iss, exp, Seats …); nil removes.
	Claims map[string]any `json:"claims,omitempty"`
	// NotBeforeSeconds is how far nbf is from now.
	NotBeforeSeconds int `json:"notBeforeSeconds,omitempty"`
	// LifetimeSeconds of the token; a year if 0, negative for one that expired.
	LifetimeSeconds int `json:"lifetimeSeconds,omitempty"`
	// Stranger signs with a key that nobody trusts.
	Stranger bool `json:"stranger,omitempty"`
	// Tampered changes the number of seats after signing.
	Tampered bool `json:"tampered,omitempty"`
}

func (s LicenseSettings) check() error {
	for name, value := range s.Set {
		i := slices.IndexFunc(properties, func(p property) bool { return p.name == name })
		if i < 0 {
			return fmt.Errorf("%w: licences have no property %s", fault.Invalid, name)
		}
		if _, err := properties[i].convert(value); err != nil {
			return err
		}
	}
	return nil
}

// property is one of a licence's, and from which version on it is signed.
type property struct {
	name  string
	since int
	kind  propertyKind
}

type propertyKind int

const (
	textProperty propertyKind = iota
	boolProperty
	numberProperty
	timeProperty
)

const (
	unsigned    = math.MaxInt  // in no signature
	envelope    = unsigned - 1 // in no signature, and no claim either
	documentNow = 15
	licenceYear = 365 * 24 * time.Hour
	// graceDays is how long a licence outlives what was paid for.
	graceDays = 60
)

// properties are in the order of the document.
var properties = []property{
	{"LicenseKey", 1, textProperty}, {"InstallationId", 1, textProperty}, {"Id", 1, textProperty}, {"Name", 1, textProperty},
	{"BillingEmail", 1, textProperty}, {"BusinessName", 1, textProperty}, {"Enabled", 1, boolProperty}, {"Plan", 1, textProperty},
	{"PlanType", 1, numberProperty}, {"Seats", 1, numberProperty}, {"MaxCollections", 1, numberProperty}, {"UsePolicies", 6, boolProperty},
	{"UseSso", 7, boolProperty}, {"UseKeyConnector", 9, boolProperty}, {"UseScim", 10, boolProperty}, {"UseGroups", 1, boolProperty},
	{"UseEvents", 3, boolProperty}, {"UseDirectory", 1, boolProperty}, {"UseTotp", 1, boolProperty}, {"Use2fa", 4, boolProperty},
	{"UseApi", 5, boolProperty}, {"UseResetPassword", 8, boolProperty}, {"MaxStorageGb", 1, numberProperty}, {"SelfHost", 1, boolProperty},
	{"UsersGetPremium", 2, boolProperty}, {"UseCustomPermissions", 11, boolProperty}, {"Version", 1, numberProperty}, {"Issued", 1, timeProperty},
	{"Refresh", 1, timeProperty}, {"Expires", 1, timeProperty}, {"ExpirationWithoutGracePeriod", 12, timeProperty}, {"UsePasswordManager", 13, boolProperty},
	{"UseSecretsManager", 13, boolProperty}, {"SmSeats", 13, numberProperty}, {"SmServiceAccounts", 13, numberProperty},
	{"UseRiskInsights", unsigned, boolProperty}, {"UsePhishingBlocker", unsigned, boolProperty}, {"LimitCollectionCreationDeletion", 14, boolProperty},
	{"AllowAdminAccessToAllCollectionItems", 15, boolProperty}, {"Trial", 1, boolProperty}, {"LicenseType", unsigned, numberProperty},
	{"UseOrganizationDomains", unsigned, boolProperty}, {"UseAdminSponsoredFamilies", unsigned, boolProperty},
	{"UseAutomaticUserConfirmation", unsigned, boolProperty}, {"UseDisableSmAdsForUsers", unsigned, boolProperty}, {"UseMyItems", unsigned, boolProperty},
	{"UseInviteLinks", unsigned, boolProperty}, {"UsePam", unsigned, boolProperty},
	{"Hash", 1, textProperty}, {"Signature", envelope, textProperty}, {"Token", envelope, textProperty},
}

// licence are the values of a document by property name: nil, string, bool, int
// or time.Time.
type licence map[string]any

// convert makes a value of the property's kind of what came from JSON or Go.
func (p property) convert(value any) (any, error) {
	switch v := value.(type) {
	case nil:
		return nil, nil
	case string:
		if p.kind == textProperty {
			return v, nil
		}
		if at, err := time.Parse(time.RFC3339Nano, v); err == nil && p.kind == timeProperty {
			return at.UTC(), nil
		}
	case bool:
		if p.kind == boolProperty {
			return v, nil
		}
	case int:
		if p.kind == numberProperty {
			return v, nil
		}
	case float64:
		if p.kind == numberProperty && v == math.Trunc(v) {
			return int(v), nil
		}
	case time.Time:
		if p.kind == timeProperty {
			return v.UTC(), nil
		}
	}
	return nil, fmt.Errorf("%w: %v is not a value of a licence's %s", fault.Invalid, value, p.name)
}

var legacyPlans = []string{"Free", "FamiliesAnnually", "TeamsMonthly", "TeamsAnnually", "EnterpriseMonthly", "EnterpriseAnnually", "Custom"}

// canonical is the string that is hashed or signed; ordering is without regard
// to case, as the cloud's culture has it.
func (l licence) canonical(forHash bool) string {
	version, _ := l["Version"].(int)
	included := slices.DeleteFunc(slices.Clone(properties), func(p property) bool {
		return p.since > version || forHash && (p.name == "Hash" || p.name == "Issued" || p.name == "Refresh")
	})
	slices.SortFunc(included, func(a, b property) int { return strings.Compare(strings.ToLower(a.name), strings.ToLower(b.name)) })
	var text strings.Builder
	text.WriteString("license:organization")
	for _, p := range included {
		text.WriteString("|" + p.name + ":" + canonicalValue(p.name, l[p.name]))
	}
	return text.String()
}

func canonicalValue(name string, value any) string {
	switch v := value.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case int:
		if name == "PlanType" && v >= 0 && v < len(legacyPlans) {
			return legacyPlans[v]
		}
		return strconv.Itoa(v)
	case time.Time:
		seconds := float64(v.Unix()) + float64(v.Nanosecond())/1e9
		return strconv.FormatInt(int64(math.RoundToEven(seconds)), 10)
	}
	return ""
}

// claimTime is how the token writes times.
const claimTime = "01/02/2006 15:04:05"

// claims are the token's, without those of JWT.
func (l licence) claims() map[string]any {
	claims := map[string]any{}
	for _, p := range properties {
		if p.since == envelope || p.name == "Hash" || p.name == "Version" {
			continue
		}
		switch v := l[p.name].(type) {
		case string:
			claims[p.name] = v
		case bool:
			claims[p.name] = map[bool]string{true: "True", false: "False"}[v]
		case int:
			claims[p.name] = strconv.Itoa(v)
			if p.name == "LicenseType" {
				claims[p.name] = map[int]string{0: "User", 1: "Organization"}[v]
			}
		case time.Time:
			claims[p.name] = v.UTC().Format(claimTime)
		}
	}
	return claims
}

// document is the licence as it is on the wire: keys in camelCase.
func (l licence) document() map[string]any {
	document := make(map[string]any, len(properties))
	for _, p := range properties {
		value := l[p.name]
		if at, ok := value.(time.Time); ok {
			value = date{at}
		}
		document[strings.ToLower(p.name[:1])+p.name[1:]] = value
	}
	return document
}

// newLicence are the values of a licence that is issued now for an installation.
func (o *organization) newLicence(installation string, now time.Time) (licence, error) {
	now = now.Truncate(ticks)
	expires, paidUntil := now.AddDate(1, 0, 0), any(nil)
	if o.Expiration != nil {
		expires, paidUntil = o.Expiration.AddDate(0, 0, graceDays), *o.Expiration
	}
	refresh := now.AddDate(0, 0, 30)
	if refresh.After(expires) {
		refresh = expires
	}
	l := licence{
		"LicenseKey": o.LicenseKey, "InstallationId": installation, "Id": o.ID, "Name": o.Name, "BillingEmail": o.BillingEmail,
		"BusinessName": nil, "Enabled": !o.Disabled, "Plan": planNames[o.PlanType.tier()], "PlanType": int(o.PlanType), "Seats": 100,
		"MaxStorageGb": 5, "Version": documentNow, "Issued": now, "Refresh": refresh, "Expires": expires,
		"ExpirationWithoutGracePeriod": paidUntil, "SmSeats": 20, "SmServiceAccounts": 200, "LicenseType": 1,
	}
	if o.BusinessName != "" {
		l["BusinessName"] = o.BusinessName
	}
	for _, p := range properties {
		if p.kind == boolProperty && l[p.name] == nil {
			l[p.name] = p.name != "Trial"
		}
	}
	if o.License.Version != 0 {
		l["Version"] = o.License.Version
	}
	for _, p := range properties {
		value, ok := o.License.Set[p.name]
		if !ok {
			continue
		}
		converted, err := p.convert(value)
		if err != nil {
			return nil, err
		}
		l[p.name] = converted
	}
	return l, nil
}

var planNames = map[tier]string{
	freeTier: "Free", familiesTier: "Families", teamsTier: "Teams (Annually)", enterpriseTier: "Enterprise (Annually)", otherTier: "Custom",
}

// licenceSigner makes licences.
type licenceSigner struct {
	key      *rsa.PrivateKey
	settings LicenseSettings
	now      time.Time
}

// sign fills in hash, signature and token.
func (s licenceSigner) sign(l licence) error {
	digest := sha256.Sum256([]byte(l.canonical(true)))
	l["Hash"] = base64.StdEncoding.EncodeToString(digest[:])
	digest = sha256.Sum256([]byte(l.canonical(false)))
	signature, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, digest[:])
	if err != nil {
		return fmt.Errorf("sign the licence: %w", err)
	}
	l["Signature"] = base64.StdEncoding.EncodeToString(signature)
	if !s.settings.Legacy {
		if l["Token"], err = s.token(l); err != nil {
			return err
		}
	}
	if s.settings.Tampered {
		return s.tamper(l)
	}
	return nil
}

func (s licenceSigner) token(l licence) (string, error) {
	claims := l.claims()
	lifetime := orElse(time.Duration(s.settings.LifetimeSeconds)*time.Second, licenceYear)
	notBefore := s.now.Add(time.Duration(s.settings.NotBeforeSeconds) * time.Second)
	if lifetime < 0 {
		notBefore = s.now.Add(lifetime - licenceYear)
	}
	maps.Copy(claims, map[string]any{
		"iss": "bitwarden", "aud": fmt.Sprintf("organization:%v", l["Id"]), "nbf": notBefore.Unix(), "exp": s.now.Add(lifetime).Unix(),
	})
	for name, value := range s.settings.Claims {
		claims[name] = value
		if value == nil {
			delete(claims, name)
		}
	}
	signing, err := signer(s.key, "", "JWT")
	if err != nil {
		return "", fmt.Errorf("sign the licence: %w", err)
	}
	return jwt.Signed(signing).Claims(claims).Serialize()
}

// tamper changes what was signed: claims where there is a token, else the
// document.
func (s licenceSigner) tamper(l licence) error {
	l["Seats"] = 100_000
	token, ok := l["Token"].(string)
	if !ok {
		return nil
	}
	changed, err := s.token(l)
	if err != nil {
		return err
	}
	forged, honest := strings.Split(changed, "."), strings.Split(token, ".")
	l["Token"] = strings.Join([]string{forged[0], forged[1], honest[2]}, ".")
	return nil
}
