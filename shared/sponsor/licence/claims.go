package licence

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// claimTime is how a token's claims have times: in UTC, whatever the language
// of the server that made it.
const claimTime = "01/02/2006 15:04:05"

// unclaimed are the members that a token does not have.
var unclaimed = []string{"Version", "Hash", "Signature", "Token"}

var kinds = map[int]string{KindUser: "User", KindOrganization: "Organization"}

// Claims are the values as a token has them, all of them texts. What has no
// value is left out.
func (l *Licence) Claims() map[string]string {
	claims := map[string]string{}
	for _, p := range properties {
		v, null := p.value(l)
		if null || slices.Contains(unclaimed, p.name) {
			continue
		}
		text := p.text(l)
		switch value := v.Interface().(type) {
		case bool:
			text = "False"
			if value {
				text = "True"
			}
		case time.Time:
			text = value.UTC().Format(claimTime)
		case int:
			if p.name == "LicenseType" {
				text = kinds[value]
			}
		}
		if text != "" {
			claims[p.name] = text
		}
	}
	return claims
}

// fromClaims makes the licence that a token holds. Of the document stay its id,
// which the token's audience is of, and what a token does not have.
func (l *Licence) fromClaims(claims map[string]json.RawMessage) (*Licence, error) {
	claimed := &Licence{Version: l.Version, Hash: l.Hash, Signature: l.Signature, Token: l.Token}
	for _, p := range properties {
		raw, ok := claims[p.name]
		if !ok || string(raw) == "null" || slices.Contains(unclaimed, p.name) {
			continue
		}
		if err := p.readClaim(claimed, claimText(raw)); err != nil {
			return nil, invalid(Untrusted, "The claim "+p.name+" of its token is not as expected.")
		}
	}
	claimed.Id = l.Id
	claimed.InstallationId = strings.ToLower(claimed.InstallationId)
	return claimed, nil
}

// claimText is the text of a claim. Libraries write booleans and numbers as
// such where they know them.
func claimText(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}

func (p property) readClaim(l *Licence, text string) error {
	if p.name == "LicenseType" {
		for kind, name := range kinds {
			if strings.EqualFold(name, text) || strconv.Itoa(kind) == text {
				p.set(l, kind)
				return nil
			}
		}
		return errors.New("there is no such kind of license")
	}
	switch p.zero().(type) {
	case string:
		p.set(l, text)
	case bool:
		value, err := strconv.ParseBool(strings.ToLower(text))
		if err != nil {
			return err
		}
		p.set(l, value)
	case int:
		value, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		p.set(l, value)
	case time.Time:
		value, err := time.Parse(claimTime, text)
		if err != nil {
			return err
		}
		p.set(l, value)
	}
	return nil
}
