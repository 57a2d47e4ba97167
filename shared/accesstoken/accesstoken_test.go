package accesstoken

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/shared/encstring"
)

// vector was read back through Bitwarden's released clients.
type vector struct {
	AccessToken      string `json:"accessToken"`
	ID               string `json:"accessTokenId"`
	ClientSecret     string `json:"clientSecret"`
	Hash             string `json:"clientSecretHashB64Sha256"`
	SeedBase64       string `json:"tokenKeyB64"`
	SeedHex          string `json:"tokenKeyHex"`
	DerivedHex       string `json:"derivedKeyHex"`
	DerivedBase64    string `json:"derivedKeyB64"`
	OrganizationKey  string `json:"orgKeyB64"`
	EncryptedPayload string `json:"encryptedPayload"`
	PayloadPlain     string `json:"payloadPlain"`
	TokenKey         string `json:"apiKeyKey"`
	HKDFSalt         string `json:"hkdfSalt"`
	HKDFInfo         string `json:"hkdfInfo"`
}

func load(t testing.TB) (v vector, token Token) {
	t.Helper()
	content, err := os.ReadFile("testdata/secrets-manager.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &v); err != nil {
		t.Fatal(err)
	}
	if token, err = Parse(v.AccessToken); err != nil {
		t.Fatal(err)
	}
	return v, token
}

func keyOf(t testing.TB, token Token) encstring.Key {
	t.Helper()
	key, err := token.Key()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestTheVectorHoldsInBothDirections(t *testing.T) {
	v, token := load(t)
	if token.ID != v.ID || token.ClientSecret != v.ClientSecret || hex.EncodeToString(token.Seed[:]) != v.SeedHex {
		t.Errorf("parsed %q %q %x", token.ID, token.ClientSecret, token.Seed)
	}
	if got := token.Reveal(); got != v.AccessToken {
		t.Errorf("revealed as %s", got)
	}
	made := New(v.ID, v.ClientSecret)
	made.Seed = token.Seed
	if made != token {
		t.Error("made of its parts it is another")
	}
	if got := Hash(v.ClientSecret); got != v.Hash {
		t.Errorf("the hash is %s", got)
	}
	if hkdfSalt != v.HKDFSalt || hkdfInfo != v.HKDFInfo {
		t.Error("the key is derived with other constants")
	}
	key := keyOf(t, token)
	raw, err := base64.StdEncoding.DecodeString(key.Reveal())
	if err != nil || key.Reveal() != v.DerivedBase64 || hex.EncodeToString(raw) != v.DerivedHex {
		t.Errorf("the key is %s", key.Reveal())
	}
	organization, err := token.Open(v.EncryptedPayload)
	if err != nil || organization.Reveal() != v.OrganizationKey {
		t.Errorf("opened: %v", err)
	}
	if plain, err := key.Decrypt(v.EncryptedPayload); err != nil || plain != v.PayloadPlain {
		t.Errorf("the payload is %s (%v)", plain, err)
	}
	// Members of the organisation get the derived key back.
	if plain, err := organization.Decrypt(v.TokenKey); err != nil || plain != key.Reveal() {
		t.Errorf("the key for members: %v", err)
	}
	// What is sealed anew is the same text, under an iv of its own.
	sealed, err := token.Seal(organization)
	if err != nil || sealed == v.EncryptedPayload || len(sealed) != len(v.EncryptedPayload) {
		t.Errorf("sealed %s: %v", sealed, err)
	}
	if plain, err := key.Decrypt(sealed); err != nil || plain != v.PayloadPlain {
		t.Errorf("sealed is %s (%v)", plain, err)
	}
}

// The key of the token that Bitwarden's own documentation shows.
func TestAPublicKeyIsDerivedAlike(t *testing.T) {
	v, _ := load(t)
	token, err := Parse(strings.Replace(v.AccessToken, v.SeedBase64, "X8vbvA0bduihIDe/qrzIQQ==", 1))
	if err != nil {
		t.Fatal(err)
	}
	if got := keyOf(t, token).Reveal(); got != "H9/oIRLtL9nGCQOVDjSMoEbJsjWXSOCb3qeyDt6ckzS3FhyboEDWyTP/CQfbIszNmAVg2ExFganG1FVFGXO/Jg==" {
		t.Errorf("the key is %s", got)
	}
}

func TestATokenIsParsedAsOtherClientsDo(t *testing.T) {
	v, want := load(t)
	replace := func(old, with string) string { return strings.Replace(v.AccessToken, old, with, 1) }
	secret := func(s string) Token { other := want; other.ClientSecret = s; return other }
	for name, c := range map[string]struct {
		text string
		want Token
	}{
		"as it is":                   {v.AccessToken, want},
		"an id in upper case":        {replace(v.ID, strings.ToUpper(v.ID)), want},
		"an id without hyphens":      {replace(v.ID, strings.ReplaceAll(v.ID, "-", "")), want},
		"a key without padding":      {strings.TrimRight(v.AccessToken, "="), want},
		"a secret with a prefix":     {replace(v.ClientSecret, "bwsm_A+b/c=d%e&f g~h-éX"), secret("bwsm_A+b/c=d%e&f g~h-éX")},
		"a secret that is long":      {replace(v.ClientSecret, strings.Repeat("s", 1000)), secret(strings.Repeat("s", 1000))},
		"a secret of nothing at all": {replace(v.ClientSecret, ""), secret("")},
	} {
		if got, err := Parse(c.text); err != nil || got != c.want {
			t.Errorf("%s: %v, %q %q %x", name, err, got.ID, got.ClientSecret, got.Seed)
		}
	}
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"nothing":                        {"", ErrNoKey},
		"no colon":                       {replace(":", ""), ErrNoKey},
		"nothing before the colon":       {v.AccessToken[strings.Index(v.AccessToken, ":"):], ErrParts},
		"two parts":                      {replace("0.", ""), ErrParts},
		"four parts":                     {replace("0.", "0.0."), ErrParts},
		"a dot in the secret":            {replace(v.ClientSecret, "a.b"), ErrParts},
		"a colon in the id":              {replace(v.ID, "urn:uuid:"+v.ID), ErrParts},
		"another version":                {replace("0.", "1."), ErrVersion},
		"a version that is longer":       {replace("0.", "00."), ErrVersion},
		"no version":                     {replace("0.", "."), ErrVersion},
		"a space before":                 {" " + v.AccessToken, ErrVersion},
		"no id":                          {replace(v.ID, ""), ErrID},
		"an id that is none":             {replace(v.ID, "7e9d3c11"), ErrID},
		"an id with another letter":      {replace(v.ID, "g"+v.ID[1:]), ErrID},
		"an id with a space":             {replace(v.ID, " "+v.ID), ErrID},
		"no key after the colon":         {v.AccessToken[:strings.Index(v.AccessToken, ":")+1], ErrSeed},
		"a second colon":                 {v.AccessToken + ":", ErrSeed},
		"a colon in the secret":          {replace(v.ClientSecret, "a:b"), ErrSeed},
		"a key of 15 bytes":              {replace(v.SeedBase64, base64.StdEncoding.EncodeToString(make([]byte, 15))), ErrSeed},
		"a key of 17 bytes":              {replace(v.SeedBase64, base64.StdEncoding.EncodeToString(make([]byte, 17))), ErrSeed},
		"a key of 32 bytes":              {replace(v.SeedBase64, base64.StdEncoding.EncodeToString(make([]byte, 32))), ErrSeed},
		"a key in hexadecimal":           {replace(v.SeedBase64, v.SeedHex), ErrSeed},
		"a key that is not base64":       {replace(v.SeedBase64, "*"+v.SeedBase64[1:]), ErrSeed},
		"a key in the alphabet of URLs":  {replace("/", "_"), ErrSeed},
		"half a padding":                 {strings.TrimSuffix(v.AccessToken, "="), ErrSeed},
		"too much padding":               {v.AccessToken + "=", ErrSeed},
		"a line's end after":             {v.AccessToken + "\n", ErrSeed},
		"a line's end, without padding":  {strings.TrimRight(v.AccessToken, "=") + "\n", ErrSeed},
		"a carriage return in the key":   {replace(v.SeedBase64, v.SeedBase64[:4]+"\r"+v.SeedBase64[4:]), ErrSeed},
		"a space after":                  {v.AccessToken + " ", ErrSeed},
		"a quotation mark on both sides": {`"` + v.AccessToken + `"`, ErrVersion},
	} {
		got, err := Parse(c.text)
		if !errors.Is(err, c.want) || got != (Token{}) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), v.ClientSecret) || strings.Contains(err.Error(), v.SeedBase64)) {
			t.Errorf("%s: %v quotes the token", name, err)
		}
	}
}

func TestNewTokensHaveKeysOfTheirOwn(t *testing.T) {
	v, _ := load(t)
	one, two := New(v.ID, v.ClientSecret), New(v.ID, v.ClientSecret)
	if one.Seed == two.Seed || one.Seed == (Token{}).Seed || keyOf(t, one) == keyOf(t, two) {
		t.Error("two new tokens have one key")
	}
	for _, token := range []Token{one, two} {
		if got, err := Parse(token.Reveal()); err != nil || got != token {
			t.Errorf("revealed and parsed: %v", err)
		}
	}
}

func TestAPayloadIsOpenedByItsTokenAlone(t *testing.T) {
	v, token := load(t)
	organization := encstring.NewKey()
	sealed, err := token.Seal(organization)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := token.Open(sealed); err != nil || got != organization {
		t.Errorf("opened: %v", err)
	}
	// The id and the client secret have no part in it: both can be renewed.
	renewed := Token{ID: "other", ClientSecret: "other", Seed: token.Seed}
	if got, err := renewed.Open(sealed); err != nil || got != organization {
		t.Errorf("with another secret: %v", err)
	}
	if _, err := New(v.ID, v.ClientSecret).Open(sealed); !errors.Is(err, encstring.ErrKey) {
		t.Errorf("with another key: %v", err)
	}
	if _, err := token.Open(sealed[1:]); !errors.Is(err, encstring.ErrFormat) {
		t.Errorf("a payload that is none: %v", err)
	}
	key := keyOf(t, token)
	for name, plain := range map[string]string{
		"nothing":             "",
		"no JSON":             "AAAA",
		"an array":            `["9WHZkdhZ7qhqZ"]`,
		"no key":              `{}`,
		"null":                `{"encryptionKey":null}`,
		"a key that is short": `{"encryptionKey":"9WHZkdhZ7qhqZ+SKszI2EA=="}`,
		"a key that is none":  `{"encryptionKey":"hunter2"}`,
		"a number":            `{"encryptionKey":5551234}`,
		"two documents":       `{"encryptionKey":"` + v.OrganizationKey + `"}{}`,
	} {
		_, err := token.Open(key.Encrypt(plain))
		if !errors.Is(err, ErrPayload) || strings.Contains(err.Error(), "9WHZ") || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "5551234") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := token.Open(key.Encrypt(`{"other":1,"encryptionKey":"` + v.OrganizationKey + `"}`)); err != nil || got.Reveal() != v.OrganizationKey {
		t.Errorf("with a member that is not known: %v", err)
	}
}

func TestATokenIsNotPrinted(t *testing.T) {
	v, token := load(t)
	type holder struct {
		Name  string
		Token Token
		At    *Token
	}
	held := holder{"a", token, &token}
	var printed []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%t", "%e"} {
		for _, value := range []any{token, &token, []Token{token}, map[string]Token{"t": token}} {
			printed = append(printed, fmt.Sprintf(verb, value))
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		printed = append(printed, fmt.Sprintf(verb, held))
	}
	asJSON, err := json.Marshal(held)
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&logged, nil), slog.NewJSONHandler(&logged, nil)} {
		slog.New(handler).Info("message", "token", token, "at", &token, slog.Any("holder", held))
	}
	printed = append(printed, string(asJSON), logged.String(), token.String(), fmt.Errorf("failed with %w and %v", ErrID, token).Error())
	for _, text := range printed {
		if !strings.Contains(text, "[redacted]") {
			t.Errorf("it does not say that it was left out: %s", text)
		}
		for _, secret := range []string{v.ClientSecret, v.SeedBase64, v.SeedHex, hex.EncodeToString([]byte(v.ClientSecret)), "89 169 200 63"} {
			if strings.Contains(strings.ToLower(text), strings.ToLower(secret)) {
				t.Errorf("%q holds %q", text, secret)
			}
		}
	}
}

func TestClientSecretsAreRandom(t *testing.T) {
	const secrets = 4000
	seen := map[string]bool{}
	count := map[rune]int{}
	for range secrets {
		secret := NewSecret()
		if len(secret) != 30 || seen[secret] {
			t.Fatalf("%q has %d characters, and came before: %v", secret, len(secret), seen[secret])
		}
		seen[secret] = true
		for _, c := range secret {
			count[c]++
		}
	}
	// Each of 62 comes some 1935 times, ± 44 in two cases of three. Where the
	// remainder were taken, the first eight would come 25 in a hundred more often.
	if len(count) != 62 {
		t.Errorf("%d characters occur", len(count))
	}
	const mean = float64(secrets*30) / 62
	for _, c := range slices.Sorted(strings.SplitSeq(secretAlphabet, "")) {
		if n := float64(count[rune(c[0])]); n < 0.85*mean || n > 1.15*mean {
			t.Errorf("%q came %v times, some %.0f are due", c, n, mean)
		}
	}
}

func TestAHashMatchesItsSecretAlone(t *testing.T) {
	v, _ := load(t)
	for name, c := range map[string]struct {
		secret, hash string
		want         bool
	}{
		"its own":                      {v.ClientSecret, v.Hash, true},
		"one that is not ASCII":        {"é ✓", Hash("é ✓"), true},
		"another":                      {v.ClientSecret + "x", v.Hash, false},
		"another case":                 {strings.ToLower(v.ClientSecret), v.Hash, false},
		"none":                         {"", v.Hash, false},
		"the hash itself":              {v.Hash, v.Hash, false},
		"no hash":                      {v.ClientSecret, "", false},
		"no secret and no hash":        {"", "", false},
		"no secret and the hash of it": {"", Hash(""), true},
		"a hash that is cut":           {v.ClientSecret, v.Hash[:20], false},
		"a hash that is longer":        {v.ClientSecret, v.Hash + "A", false},
		"a hash that is no base64":     {v.ClientSecret, strings.Repeat("!", len(v.Hash)), false},
	} {
		if got := Matches(c.secret, c.hash); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	v, _ := load(f)
	for _, text := range []string{
		"", ":", "0..:", "0.a.b:c", v.AccessToken, strings.ToUpper(v.AccessToken), strings.TrimRight(v.AccessToken, "="), v.AccessToken + "\n",
		"0.{" + v.ID + "}.s:" + v.SeedBase64, "0." + strings.ReplaceAll(v.ID, "-", "") + ".\x00\xff:" + v.SeedBase64,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		token, err := Parse(text)
		if err != nil {
			if token != (Token{}) {
				t.Error("a token came with an error")
			}
			known := []error{ErrNoKey, ErrParts, ErrVersion, ErrID, ErrSeed}
			if !slices.ContainsFunc(known, func(k error) bool { return errors.Is(err, k) }) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		again, err := Parse(token.Reveal())
		if err != nil || again != token {
			t.Errorf("%q became %q: %v", text, token.Reveal(), err)
		}
		if len(token.ID) != 36 || token.ID != strings.ToLower(token.ID) {
			t.Errorf("the id is %q", token.ID)
		}
		organization := encstring.NewKey()
		sealed, err := token.Seal(organization)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := token.Open(sealed); err != nil || got != organization {
			t.Errorf("sealed and opened: %v", err)
		}
	})
}

func FuzzOpen(f *testing.F) {
	v, token := load(f)
	key := keyOf(f, token)
	f.Add(v.PayloadPlain)
	for _, plain := range []string{"", "{}", "null", `{"encryptionKey":[]}`, `{"EncryptionKey":"` + v.OrganizationKey + `"}`} {
		f.Add(plain)
	}
	f.Fuzz(func(t *testing.T, plain string) {
		organization, err := token.Open(key.Encrypt(plain))
		if err != nil && (!errors.Is(err, ErrPayload) || organization != (encstring.Key{})) {
			t.Errorf("%v", err)
		}
		if err == nil && !strings.Contains(plain, organization.Reveal()) && !strings.Contains(plain, `\`) {
			t.Errorf("a key came out of %q", plain)
		}
		if _, err := token.Open(plain); err == nil && plain != v.EncryptedPayload {
			t.Errorf("%q was opened", plain)
		}
	})
}
