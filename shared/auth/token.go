package auth

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Token is what a verified token says. The token itself is not kept.
type Token struct {
	// Subject is who is calling: a GUID in lower case, never all zeroes.
	Subject string
	// ClientID is the application that obtained the token: "web", "cli",
	// "user.<guid>".
	ClientID string
	// Issuer is who signed the token.
	Issuer string
	// Expiry is when the token ends, without the clock skew.
	Expiry time.Time
	// Scopes and Methods are the claims scope and amr.
	Scopes, Methods []string
	// Organizations are those the subject is a member of.
	Organizations Organizations
}

// Organizations are ids of organisations by the role that the subject has in
// them. Vaultwarden's tokens have none.
type Organizations struct {
	Owner, Admin, User, Custom []string
}

// Any tells whether one of the ids is among the organisations.
func (o Organizations) Any(ids []string) bool {
	for _, role := range [][]string{o.Owner, o.Admin, o.User, o.Custom} {
		for _, member := range role {
			if slices.ContainsFunc(ids, func(id string) bool { return strings.EqualFold(id, member) }) {
				return true
			}
		}
	}
	return false
}

// Policy is what a function asks of a valid token. The zero Policy allows none.
type Policy struct {
	// Scopes: the token must have one of these.
	Scopes []string
	// Methods: one of these must be how the user was authenticated (the claim
	// amr). Empty: not asked for.
	Methods []string
	// Organizations: the subject must be a member of one of these, in any
	// role. Empty: not asked for.
	Organizations []string
}

func (p Policy) check(t Token) error {
	switch {
	case !overlap(p.Scopes, t.Scopes):
		return forbid(fmt.Sprintf("its scope is none of %q", p.Scopes))
	case len(p.Methods) > 0 && !overlap(p.Methods, t.Methods):
		return forbid(fmt.Sprintf("its method of authentication (amr) is none of %q", p.Methods))
	case t.Subject == "":
		return forbid("its subject is not a GUID")
	case len(p.Organizations) > 0 && !t.Organizations.Any(p.Organizations):
		return forbid("its subject is in none of the organisations that are allowed here")
	}
	return nil
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// claims are the members of a payload that matter here. They can have any JSON
// type: one that is of a wrong type counts as absent. They are read once the
// signature is known to be right, so nobody but the identity server has a say in
// what members there are.
type claims struct {
	Issuer    any `json:"iss"`
	Subject   any `json:"sub"`
	Expiry    any `json:"exp"`
	NotBefore any `json:"nbf"`
	ClientID  any `json:"client_id"`
	Scope     any `json:"scope"`
	Methods   any `json:"amr"`
	OrgOwner  any `json:"orgowner"`
	OrgAdmin  any `json:"orgadmin"`
	OrgUser   any `json:"orguser"`
	OrgCustom any `json:"orgcustom"`
}

func parseClaims(payload []byte) (claims, error) {
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		// The text of a JSON error can quote the payload.
		return claims{}, refuse("its payload is not a JSON object")
	}
	return c, nil
}

// check holds the issuer and the dates against the rules. A token is good while
// not before - skew <= now < expiry + skew.
func (c claims) check(issuer string, now time.Time, skew time.Duration) (Token, error) {
	if text(c.Issuer) != issuer {
		return Token{}, refuseGenuine(fmt.Sprintf("its issuer is %.100q, not %q", text(c.Issuer), issuer))
	}
	expiry, ok := date(c.Expiry)
	if !ok {
		return Token{}, refuseGenuine("it has no date of expiry")
	}
	if !now.Before(expiry.Add(skew)) {
		return Token{}, refuseGenuine(fmt.Sprintf("it expired at %s", expiry.UTC().Format(time.RFC3339)))
	}
	if c.NotBefore != nil {
		begin, ok := date(c.NotBefore)
		if !ok {
			return Token{}, refuseGenuine("its first date of validity cannot be read")
		}
		if now.Before(begin.Add(-skew)) {
			return Token{}, refuseGenuine(fmt.Sprintf("it is not valid before %s; our clock says %s",
				begin.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)))
		}
	}
	scopes := list(c.Scope)
	if s, ok := c.Scope.(string); ok {
		scopes = strings.Fields(s)
	}
	return Token{
		Subject:  guid(text(c.Subject)),
		ClientID: text(c.ClientID),
		Issuer:   issuer,
		Expiry:   expiry,
		Scopes:   scopes,
		Methods:  list(c.Methods),
		Organizations: Organizations{
			Owner: list(c.OrgOwner), Admin: list(c.OrgAdmin), User: list(c.OrgUser), Custom: list(c.OrgCustom),
		},
	}, nil
}

func text(claim any) string {
	s, _ := claim.(string)
	return s
}

// list reads a claim that is one string or an array of strings; identity
// servers write an array of one as a string.
func list(claim any) []string {
	switch claim := claim.(type) {
	case string:
		return []string{claim}
	case []any:
		values := make([]string, 0, len(claim))
		for _, element := range claim {
			s, ok := element.(string)
			if !ok {
				return nil
			}
			values = append(values, s)
		}
		return values
	}
	return nil
}

// maxDate is the end of the year 9999 in Unix seconds.
const maxDate = 253402300799

// date reads a NumericDate of RFC 7519: seconds, perhaps with a fraction.
func date(claim any) (time.Time, bool) {
	seconds, ok := claim.(float64)
	if !ok || seconds < 0 || seconds > maxDate {
		return time.Time{}, false
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*float64(time.Second))), true
}

// guid gives a GUID in its plain form of 36 characters, in lower case; "" for
// anything else.
func guid(s string) string {
	const plainForm = 36
	id, err := uuid.Parse(s)
	if err != nil || len(s) != plainForm || id == uuid.Nil {
		return ""
	}
	return id.String()
}
