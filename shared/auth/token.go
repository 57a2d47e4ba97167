package auth

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Token is what a verified token says. The token itself is not kept.
type Token struct {
	// Subject is who is calling: a GUID in lower case, never all zeroes. Where
	// the policy has AnySubject it can be any other text instead, of 1 to 255
	// bytes.
	Subject string
	// Type is the header's typ: "at+jwt", "JWT".
	Type string
	// ClientID is the application that obtained the token: "web", "cli",
	// "user.<guid>".
	ClientID string
	// Issuer is who signed the token.
	Issuer string
	// Expiry is when the token ends, without the clock skew.
	Expiry time.Time
	// Scopes, Methods and Audiences are the claims scope, amr and aud.
	Scopes, Methods, Audiences []string
	// Organizations are those the subject is a member of.
	Organizations Organizations
	// Claims are those of Config.Claims that are a string or an array of
	// strings.
	Claims map[string][]string
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
	// Scopes: the token must have one of these. Empty: not asked for, but only
	// where there are Audiences; otherwise no token has one.
	Scopes []string
	// Audiences: the token must be for one of these. Empty: not asked for.
	Audiences []string
	// Types: the header's typ must be one of these, without regard to case.
	// Empty: not asked for.
	Types []string
	// AnySubject allows subjects that are no GUIDs.
	AnySubject bool
	// Methods: one of these must be how the user was authenticated (the claim
	// amr). Empty: not asked for.
	Methods []string
	// Organizations: the subject must be a member of one of these, in any
	// role. Empty: not asked for.
	Organizations []string
}

func (p Policy) check(t Token) error {
	switch {
	case (len(p.Scopes) > 0 || len(p.Audiences) == 0) && !overlap(p.Scopes, t.Scopes):
		return forbid(fmt.Sprintf("its scope is none of %q", p.Scopes))
	case len(p.Methods) > 0 && !overlap(p.Methods, t.Methods):
		return forbid(fmt.Sprintf("its method of authentication (amr) is none of %q", p.Methods))
	case len(p.Audiences) > 0 && !overlap(p.Audiences, t.Audiences):
		return forbid(fmt.Sprintf("its audience is none of %q", p.Audiences))
	case len(p.Types) > 0 && !slices.ContainsFunc(p.Types, func(typ string) bool { return strings.EqualFold(typ, t.Type) }):
		return forbid(fmt.Sprintf("its type is none of %q", p.Types))
	case t.Subject == "" && p.AnySubject:
		return forbid("its subject is not a text of 1 to 255 bytes")
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
	Audience  any `json:"aud"`
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
		Subject:   guid(text(c.Subject)),
		ClientID:  text(c.ClientID),
		Issuer:    issuer,
		Expiry:    expiry,
		Scopes:    scopes,
		Methods:   list(c.Methods),
		Audiences: list(c.Audience),
		Organizations: Organizations{
			Owner: list(c.OrgOwner), Admin: list(c.OrgAdmin), User: list(c.OrgUser), Custom: list(c.OrgCustom),
		},
	}, nil
}

// furtherClaims reads these claims of a payload, whatever their names are.
func furtherClaims(payload []byte, names []string) (map[string][]string, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(payload, &all); err != nil {
		return nil, refuse("its payload is not a JSON object")
	}
	claims := make(map[string][]string, len(names))
	for _, name := range names {
		var value any
		if raw, ok := all[name]; !ok || json.Unmarshal(raw, &value) != nil {
			continue
		}
		if values := list(value); values != nil {
			claims[name] = values
		}
	}
	return claims, nil
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

// maxSubject is the longest subject of OpenID Connect Core 1.0, section 2.
const maxSubject = 255

// anySubject gives a subject that can stand in a log; "" for anything else.
func anySubject(s string) string {
	if len(s) > maxSubject || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return ""
	}
	return s
}

// UnverifiedClaim gives a text claim of a token, or "", without looking whether
// anybody signed it: it can tell which Verifier to ask, and nothing else.
func UnverifiedClaim(raw, name string) string {
	parts := strings.SplitN(raw, ".", 4)
	if len(raw) > maxToken || len(parts) != 3 {
		return ""
	}
	payload, err := encoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	claims, err := furtherClaims(payload, []string{name})
	if err != nil || len(claims[name]) != 1 {
		return ""
	}
	return claims[name][0]
}
