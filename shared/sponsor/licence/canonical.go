package licence

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// legacyPlans are the plans that the canonical text names; it has the numbers
// of the others.
var legacyPlans = map[int]string{
	0: "Free", 1: "FamiliesAnnually", 2: "TeamsMonthly", 3: "TeamsAnnually",
	4: "EnterpriseMonthly", 5: "EnterpriseAnnually", 6: "Custom",
}

// SignedText is the canonical text that Signature is of, in UTF-8. There is
// none for versions out of 1 to 16.
func (l *Licence) SignedText() (string, error) {
	return l.canonical(func(property) bool { return true })
}

// HashedText is the canonical text that Hash is of.
func (l *Licence) HashedText() (string, error) {
	return l.canonical(func(p property) bool { return p.hashed })
}

// ComputeHash gives what Hash has to be.
func (l *Licence) ComputeHash() (string, error) {
	text, err := l.HashedText()
	if err != nil {
		return "", err
	}
	digest := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(digest[:]), nil
}

func (l *Licence) canonical(include func(property) bool) (string, error) {
	if l.Version < minVersion || l.Version > maxVersion {
		return "", &Error{
			Code: VersionUnsupported, Text: fmt.Sprintf("Version %d is not supported.", l.Version),
			Detail: fmt.Sprintf("without a token, licenses of organizations of versions %d to %d are; update the server, or download the license anew", minVersion, maxVersion),
		}
	}
	var b strings.Builder
	b.WriteString("license:organization")
	for _, p := range canonicalOrder {
		if p.since > 0 && p.since <= l.Version && include(p) {
			b.WriteString("|" + p.name + ":" + p.canonical(l))
		}
	}
	return b.String(), nil
}

// proofs are members that are not signed themselves and tell nothing of what the
// licence allows.
var proofs = []string{"Hash", "Signature", "Token", "LicenseType"}

// signed is the licence with only those members that its version's canonical
// text has: any other could be anybody's.
func (l *Licence) signed() Licence {
	kept := *l
	for _, p := range properties {
		if (p.since == 0 || p.since > l.Version) && !slices.Contains(proofs, p.name) {
			p.of(&kept).SetZero()
		}
	}
	return kept
}

func (p property) canonical(l *Licence) string {
	if p.name == "PlanType" {
		if name, ok := legacyPlans[l.PlanType]; ok {
			return name
		}
	}
	if v, null := p.value(l); !null {
		if t, ok := v.Interface().(time.Time); ok {
			return strconv.FormatInt(roundedSeconds(t), 10)
		}
	}
	return p.text(l)
}

// roundedSeconds is the time since 1970, rounded to the nearest second and from
// the middle to the even one, as .NET rounds.
func roundedSeconds(t time.Time) int64 {
	const half = int(time.Second / 2)
	seconds := t.Unix()
	if rest := t.Nanosecond(); rest > half || rest == half && seconds%2 != 0 {
		seconds++
	}
	return seconds
}
