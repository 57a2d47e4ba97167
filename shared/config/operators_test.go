package config

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

type operatorSettings struct{ Operators Operators }

func (s *operatorSettings) Validate() error { return s.Operators.Validate() }

func loadOperators(environment map[string]string) (Operators, error) {
	var s operatorSettings
	_, err := Load(&s, Source{Environment: environment})
	return s.Operators, err
}

const organization = "3f2c2b1f-95b1-4ad5-9a5e-8d7c5f0a7f10"

func TestWhoOperatesByDefaultIsWhoDoesInBitwarden(t *testing.T) {
	o, err := loadOperators(nil)
	if err != nil {
		t.Fatal(err)
	}
	admins, members, err := o.Parse()
	if err != nil || !slices.Equal(admins, []Rule{{Claim: "orgowner"}, {Claim: "orgadmin"}}) || !slices.Equal(members, []Rule{{Claim: "accesssecretsmanager"}}) {
		t.Errorf("%v %v %v", admins, members, err)
	}
	if o.GroupsClaim != "groups" || !slices.Equal(o.Scopes, []string{"api"}) || !slices.Equal(o.Algorithms, []string{"RS256"}) || o.Audience != "" {
		t.Errorf("%+v", o)
	}
}

func TestRulesAreReadFromTheEnvironment(t *testing.T) {
	o, err := loadOperators(map[string]string{
		"LATCHKEY_OPERATOR_RULES":      " orgowner ,, https://example.org/roles=ad=min@x@" + strings.ToUpper(organization),
		"LATCHKEY_MEMBER_RULES":        " none ",
		"LATCHKEY_OPERATOR_SCOPES":     "none",
		"LATCHKEY_OPERATOR_AUDIENCE":   "latchkey",
		"LATCHKEY_OPERATOR_ALGORITHMS": "RS256, ES256",
	})
	if err != nil {
		t.Fatal(err)
	}
	admins, members, err := o.Parse()
	want := []Rule{{Claim: "orgowner"}, {Claim: "https://example.org/roles", Value: "ad=min@x", Organization: organization}}
	if err != nil || !slices.Equal(admins, want) || len(members) != 0 || len(o.Scopes) != 0 || len(o.Algorithms) != 2 {
		t.Errorf("%v %v %+v %v", admins, members, o, err)
	}
}

func TestWhatARuleGrants(t *testing.T) {
	const other = "99999999-2222-4333-8444-555555555555"
	list := Rule{Claim: "orgadmin"}
	conditional := Rule{Claim: "roles", Value: "admin", Organization: organization}
	for name, c := range map[string]struct {
		rule   Rule
		values []string
		in     string
		want   bool
	}{
		"the organisation is in the claim":           {list, []string{other, organization}, organization, true},
		"it is there in capitals":                    {list, []string{strings.ToUpper(organization)}, organization, true},
		"another is":                                 {list, []string{other}, organization, false},
		"none is":                                    {list, nil, organization, false},
		"a part of it is":                            {list, []string{organization[:35]}, organization, false},
		"the value is in the claim":                  {conditional, []string{"user", "admin"}, organization, true},
		"it is, for another organisation":            {conditional, []string{"admin"}, other, false},
		"the value is there in capitals":             {conditional, []string{"ADMIN"}, organization, false},
		"the value is missing":                       {conditional, nil, organization, false},
		"the organisation's id in place of a value":  {conditional, []string{organization}, organization, false},
		"an empty claim and an empty organisation's": {list, []string{""}, organization, false},
	} {
		if got := c.rule.Grants(c.values, c.in); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestAllFaultsOfOperatorsAreReportedAtOnce(t *testing.T) {
	_, err := loadOperators(map[string]string{
		"LATCHKEY_OPERATOR_RULES":      "=x@" + organization + ",role=admin,role=@" + organization + ",role=admin@acme,a b,x@y",
		"LATCHKEY_MEMBER_RULES":        "role=",
		"LATCHKEY_GROUPS_CLAIM":        " groups",
		"LATCHKEY_OPERATOR_SCOPES":     "none",
		"LATCHKEY_OPERATOR_ALGORITHMS": "HS256,none",
	})
	if !errors.Is(err, fault.Invalid) {
		t.Fatalf("%v, want Invalid", err)
	}
	for _, part := range []string{
		`"=x@`, `"role=admin"`, `"role=@`, `"role=admin@acme"`, `"a b"`, `"x@y"`, `"role="`, "LATCHKEY_MEMBER_RULES", "LATCHKEY_GROUPS_CLAIM",
		"LATCHKEY_OPERATOR_AUDIENCE", `"HS256"`, `"none"`,
	} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s is not reported: %v", part, err)
		}
	}
	for name, environment := range map[string]map[string]string{
		"nobody administers": {"LATCHKEY_OPERATOR_RULES": "none"},
		"no algorithm":       {"LATCHKEY_OPERATOR_ALGORITHMS": "none"},
		"no rule but commas": {"LATCHKEY_OPERATOR_RULES": ","},
	} {
		if _, err := loadOperators(environment); err == nil {
			t.Errorf("%s: it was accepted", name)
		}
	}
}

func TestAnIdentityServerCanBeOptionalButNotHalfGiven(t *testing.T) {
	for name, c := range map[string]struct {
		identity Identity
		fine     bool
	}{
		"none":          {Identity{}, true},
		"one":           {Identity{URL: "https://vault.example.org/identity"}, true},
		"an issuer":     {Identity{Issuer: "https://vault.example.org"}, false},
		"a CA":          {Identity{CAFile: "/ca.pem"}, false},
		"keys of whose": {Identity{KeysFile: "/keys.pem"}, false},
	} {
		if err := c.identity.ValidateOptional(); (err == nil) != c.fine {
			t.Errorf("%s: %v", name, err)
		}
	}
}
