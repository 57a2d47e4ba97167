package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// Operators say who of those whom an OpenID provider knows (Identity) has a role
// in which organisation. What a claim says is trusted, so it must be one that
// nobody can change about himself: no name, and no address of mail.
type Operators struct {
	// Rules make administrators. A rule is CLAIM, a claim that lists the ids of
	// organisations, or CLAIM=VALUE@ORGANISATION: who has this value in this
	// claim is one of that organisation.
	Rules []string `env:"OPERATOR_RULES" envDefault:"orgowner,orgadmin"`
	// MemberRules make members, who have what policies grant. "none": nobody.
	MemberRules []string `env:"MEMBER_RULES" envDefault:"accesssecretsmanager"`
	// GroupsClaim lists the groups of a person.
	GroupsClaim string `env:"GROUPS_CLAIM" envDefault:"groups"`
	// Audience must be among those of a token (the claim aud). Empty: not asked
	// for.
	Audience string `env:"OPERATOR_AUDIENCE"`
	// Scopes: a token must have one of these. "none": not asked for, which needs
	// an Audience; otherwise a token for any other application would do.
	Scopes []string `env:"OPERATOR_SCOPES" envDefault:"api"`
	// Algorithms that the provider may sign with.
	Algorithms []string `env:"OPERATOR_ALGORITHMS" envDefault:"RS256"`
}

// none empties a list that is not empty by default: a variable without a value
// counts as not set.
const none = "none"

// operatorAlgorithms are those that shared/auth can verify.
var operatorAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384"}

// Validate implements Validator. It brings the lists into one form.
func (o *Operators) Validate() error {
	o.Rules, o.MemberRules = tidy(o.Rules), tidy(o.MemberRules)
	o.Scopes, o.Algorithms = tidy(o.Scopes), tidy(o.Algorithms)
	_, _, err := o.Parse()
	faults := []error{err}
	if len(o.Rules) == 0 {
		faults = append(faults, fmt.Errorf("%sOPERATOR_RULES: without a rule nobody could create anything", Prefix))
	}
	if len(o.Scopes) == 0 && o.Audience == "" {
		faults = append(faults, fmt.Errorf("%[1]sOPERATOR_SCOPES=%[2]s needs %[1]sOPERATOR_AUDIENCE: otherwise a token that the provider made for any other application would do", Prefix, none))
	}
	if len(o.Algorithms) == 0 {
		faults = append(faults, fmt.Errorf("%sOPERATOR_ALGORITHMS: choose of %s", Prefix, strings.Join(operatorAlgorithms, ", ")))
	}
	for _, name := range o.Algorithms {
		if !slices.Contains(operatorAlgorithms, name) {
			faults = append(faults, fmt.Errorf("%sOPERATOR_ALGORITHMS: there is no %q here; choose of %s", Prefix, name, strings.Join(operatorAlgorithms, ", ")))
		}
	}
	if o.GroupsClaim != strings.TrimSpace(o.GroupsClaim) || o.GroupsClaim == "" {
		faults = append(faults, fmt.Errorf("%sGROUPS_CLAIM=%q is not the name of a claim", Prefix, o.GroupsClaim))
	}
	return errors.Join(faults...)
}

// tidy takes away blanks, what is empty, and the word that empties a list.
func tidy(list []string) []string {
	var kept []string
	for _, element := range list {
		if element = strings.TrimSpace(element); element != "" {
			kept = append(kept, element)
		}
	}
	if len(kept) == 1 && kept[0] == none {
		return nil
	}
	return kept
}

// Rule tells by one claim who has a role, and in which organisations.
type Rule struct {
	Claim string
	// Value, if Organization is given, is what the claim has to hold. Otherwise
	// the claim holds ids of organisations.
	Value, Organization string
}

// Grants tells whether somebody with these values of the claim has the role in
// an organisation.
func (r Rule) Grants(values []string, organization string) bool {
	if r.Organization != "" {
		return r.Organization == organization && slices.Contains(values, r.Value)
	}
	return slices.ContainsFunc(values, func(id string) bool { return strings.EqualFold(id, organization) })
}

// Parse reads the rules of administrators and those of members.
func (o *Operators) Parse() (admins, members []Rule, err error) {
	admins, adminsErr := ParseRules("OPERATOR_RULES", o.Rules)
	members, membersErr := ParseRules("MEMBER_RULES", o.MemberRules)
	return admins, members, errors.Join(adminsErr, membersErr)
}

// ParseRules reads the rules of one setting, whose name is without the prefix.
func ParseRules(setting string, texts []string) ([]Rule, error) {
	var rules []Rule
	var faults []error
	for _, text := range tidy(texts) {
		rule, err := parseRule(text)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s%s: %q: %w", Prefix, setting, text, err))
			continue
		}
		rules = append(rules, rule)
	}
	return rules, errors.Join(faults...)
}

// parseRule splits at the first = and the last @, so that a claim can be a URI
// and a value an address.
func parseRule(text string) (Rule, error) {
	claim, condition, conditional := strings.Cut(text, "=")
	if claim == "" || strings.ContainsAny(claim, " \t@") {
		return Rule{}, errors.New("it does not begin with the name of a claim")
	}
	if !conditional {
		return Rule{Claim: claim}, nil
	}
	at := strings.LastIndexByte(condition, '@')
	if at < 1 {
		return Rule{}, errors.New("it is neither CLAIM nor CLAIM=VALUE@ORGANISATION")
	}
	organization, err := uuid.Parse(condition[at+1:])
	if err != nil {
		return Rule{}, errors.New("what follows the @ is not an organisation's id, such as 3f2c2b1f-95b1-4ad5-9a5e-8d7c5f0a7f10")
	}
	return Rule{Claim: claim, Value: condition[:at], Organization: organization.String()}, nil
}
