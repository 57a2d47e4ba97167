package licence

import (
	"fmt"
	"slices"
	"time"
)

// Usage is what an organisation uses now, which a licence has to allow.
type Usage struct {
	// Seats that are occupied.
	Seats             int  `json:"seats"`
	Collections       int  `json:"collections"`
	Groups            int  `json:"groups"`
	EnabledPolicies   int  `json:"enabledPolicies"`
	SSO               bool `json:"sso"`
	KeyConnector      bool `json:"keyConnector"`
	SCIM              bool `json:"scim"`
	CustomPermissions bool `json:"customPermissions"`
	// AccountRecovery: the policy of it is enabled.
	AccountRecovery bool `json:"accountRecovery"`
}

// CheckFit gives all that the licence does not allow, in the order in which the
// official server looks; none if it fits.
func (l *Licence) CheckFit(u Usage) []*Error {
	var unfit []*Error
	refuse := func(format string, args ...any) {
		unfit = append(unfit, &Error{Code: Unfit, Text: fmt.Sprintf(format, args...)})
	}
	if l.Seats != nil && u.Seats > *l.Seats {
		refuse("Your organization has %d seats filled, and the new license has %d. Remove some users first.", u.Seats, *l.Seats)
	}
	if l.MaxCollections != nil && u.Collections > *l.MaxCollections {
		refuse("Your organization has %d collections, and the new license allows %d. Remove some collections first.", u.Collections, *l.MaxCollections)
	}
	// The official server lets one group pass.
	if !l.UseGroups && u.Groups > 1 {
		refuse("Your organization has %d groups, and the new license allows none. Remove the groups first.", u.Groups)
	}
	if !l.UsePolicies && u.EnabledPolicies > 0 {
		refuse("Your organization has %d enabled policies, and the new license allows none. Disable the policies first.", u.EnabledPolicies)
	}
	for _, feature := range []struct {
		used, allowed bool
		name          string
	}{
		{u.SSO, l.UseSso, "SSO"},
		{u.KeyConnector, l.UseKeyConnector, "Key Connector"},
		{u.SCIM, l.UseScim, "SCIM"},
		{u.CustomPermissions, l.UseCustomPermissions, "custom permissions"},
		{u.AccountRecovery, l.UseResetPassword, "the policy of account recovery"},
	} {
		if feature.used && !feature.allowed {
			refuse("Your organization uses %s, and the new license does not allow it. Disable it first.", feature.name)
		}
	}
	return unfit
}

// CheckNewer refuses a licence that was issued before the installed one. Who
// wants it all the same does not ask.
func CheckNewer(installed, next *Licence) error {
	if !next.Issued.Before(installed.Issued) {
		return nil
	}
	return &Error{
		Code:   Older,
		Text:   fmt.Sprintf("The license was issued on %s, before the installed one of %s.", next.Issued.UTC().Format(time.RFC3339), installed.Issued.UTC().Format(time.RFC3339)),
		Detail: "force it if that is meant",
	}
}

// Change is a difference between two licences, as texts.
type Change struct{ Name, Before, After string }

// notCompared are the proofs, and what is another each time that the cloud writes
// the same licence.
var notCompared = []string{"Hash", "Signature", "Token", "Issued", "Refresh"}

// Diff gives what would change, in the order of the document. Of another license
// key it gives only that it is another: who has it can ask the cloud for the
// licence.
func Diff(before, after *Licence) []Change {
	var changes []Change
	for _, p := range properties {
		was, is := p.text(before), p.text(after)
		if was == is || slices.Contains(notCompared, p.name) {
			continue
		}
		if p.name == "LicenseKey" {
			was, is = "[redacted]", "[redacted, another]"
		}
		changes = append(changes, Change{Name: p.name, Before: was, After: is})
	}
	return changes
}
