package encstring

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
)

// The vectors were read back through Bitwarden's released clients. Those of
// the file lie with the access token that they belong to; written are what
// such a client wrote itself, so that their iv is not ours to choose.
type vectors struct {
	OrganizationKey  string `json:"orgKeyB64"`
	DerivedKey       string `json:"derivedKeyB64"`
	EncryptedPayload string `json:"encryptedPayload"`
	PayloadPlain     string `json:"payloadPlain"`
	PayloadIV        string `json:"payloadIvHex"`
	TokenKey         string `json:"apiKeyKey"`
	TokenKeyPlain    string `json:"apiKeyKeyPlain"`
	Project          struct{ Name, NamePlain, IvHex string }
	Secret1, Secret2 struct {
		Key, KeyPlain, KeyIvHex       string
		Value, ValuePlain, ValueIvHex string
		Note, NotePlain, NoteIvHex    string
	}
}

var written = map[string]string{
	"2.0xHzz4cB3hkANxdyCGr7iw==|tikVi17TLXhLjPWCiRiSXQ==|0EfCNWQqVJbQ0rdramd76dHO8vWQtX/2kic66mFrLLg=":                     "FROM_SDK",
	"2.eDaB1eC5vwkEZQU4EXc/Qg==|XOGIRLOv71UOYwsudWmlIKatzyecolZgM3gC51jXWbE=|UoOYHRJ7eD/10X0qWtgHsC/HxNcQrWA5pugPSu1g2Po=": "written by the SDK",
	"2.42PecVwc3dVpbKsisf8qng==|CGtKapD2zTPCt/SrZVgrZQ==|/q4j9FbcnocUEQYkvpe9+psvqxA5Mh1ICS05Z3IX9pg=":                     "sdk note",
}

func load(t testing.TB) (v vectors, organization, derived Key) {
	t.Helper()
	content, err := os.ReadFile("../accesstoken/testdata/secrets-manager.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &v); err != nil {
		t.Fatal(err)
	}
	organization, err = ParseKey(v.OrganizationKey)
	if err != nil {
		t.Fatal(err)
	}
	if derived, err = ParseKey(v.DerivedKey); err != nil {
		t.Fatal(err)
	}
	return v, organization, derived
}

func TestVectorsHoldInBothDirections(t *testing.T) {
	v, organization, derived := load(t)
	for name, c := range map[string]struct {
		key        Key
		text, want string
		iv         string // hex; empty: that of the text
	}{
		"the payload":                    {key: derived, text: v.EncryptedPayload, want: v.PayloadPlain, iv: v.PayloadIV},
		"the token's key":                {key: organization, text: v.TokenKey, want: v.TokenKeyPlain},
		"a project's name":               {key: organization, text: v.Project.Name, want: v.Project.NamePlain, iv: v.Project.IvHex},
		"a secret's key":                 {key: organization, text: v.Secret1.Key, want: v.Secret1.KeyPlain, iv: v.Secret1.KeyIvHex},
		"a value beyond ASCII":           {key: organization, text: v.Secret1.Value, want: v.Secret1.ValuePlain, iv: v.Secret1.ValueIvHex},
		"a note":                         {key: organization, text: v.Secret1.Note, want: v.Secret1.NotePlain, iv: v.Secret1.NoteIvHex},
		"a key as long as a block":       {key: organization, text: v.Secret2.Key, want: v.Secret2.KeyPlain, iv: v.Secret2.KeyIvHex},
		"a value as long as a block":     {key: organization, text: v.Secret2.Value, want: v.Secret2.ValuePlain, iv: v.Secret2.ValueIvHex},
		"an empty note is one block too": {key: organization, text: v.Secret2.Note, want: "", iv: v.Secret2.NoteIvHex},
	} {
		t.Run(name, func(t *testing.T) { holds(t, c.key, c.text, c.want, c.iv) })
	}
	for text, want := range written {
		t.Run(want, func(t *testing.T) { holds(t, organization, text, want, "") })
	}
}

// holds checks one vector; an empty iv is that of the text.
func holds(t *testing.T, key Key, text, want, ivHex string) {
	t.Helper()
	if err := Check(text); err != nil {
		t.Errorf("Check: %v", err)
	}
	if got, err := key.Decrypt(text); err != nil || got != want {
		t.Errorf("decrypted to %q (%v), want %q", got, err, want)
	}
	iv, _, _, err := split(text)
	if err != nil {
		t.Fatal(err)
	}
	if given, err := hex.DecodeString(ivHex); ivHex != "" && (err != nil || !bytes.Equal(given, iv)) {
		t.Errorf("the iv is %x, want %s", iv, ivHex)
	}
	if got := key.encrypt(iv, want); got != text {
		t.Errorf("encrypted to %s, want %s", got, text)
	}
}

func TestEncryptingTwiceGivesTwoTexts(t *testing.T) {
	key := NewKey()
	if key == NewKey() {
		t.Fatal("two new keys are one")
	}
	for length := range 50 {
		plain := strings.Repeat("é", length/2) + strings.Repeat("x", length%2)
		one, two := key.Encrypt(plain), key.Encrypt(plain)
		if one == two || strings.HasPrefix(two, one[:len("2.")+24]) {
			t.Errorf("of %d bytes came the same iv twice", length)
		}
		for _, text := range []string{one, two} {
			if got, err := key.Decrypt(text); err != nil || got != plain || Check(text) != nil {
				t.Errorf("%q became %q: %v", plain, got, err)
			}
		}
	}
}

// parts is a well-formed EncString in three parts that a test can spoil.
func parts(t *testing.T) (iv, ciphertext, mac string) {
	t.Helper()
	v, _, _ := load(t)
	all := strings.Split(strings.TrimPrefix(v.Secret1.Value, prefix), "|")
	return all[0], all[1], all[2]
}

func TestWhatIsNoEncStringIsRefused(t *testing.T) {
	iv, ciphertext, mac := parts(t)
	whole := prefix + iv + "|" + ciphertext + "|" + mac
	b64 := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	url := base64.URLEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, macSize))
	for name, text := range map[string]string{
		"nothing":                        "",
		"a plain text":                   "hunter2",
		"the type alone":                 "2.",
		"no type":                        iv + "|" + ciphertext + "|" + mac,
		"type 0":                         "0." + iv + "|" + ciphertext,
		"type 0 with three parts":        "0" + whole[1:],
		"type 1":                         "1" + whole[1:],
		"type 4":                         "4." + ciphertext,
		"type 7":                         "7." + b64(80),
		"type 22":                        "2" + whole,
		"type 2 with a leading zero":     "0" + whole,
		"a space before":                 " " + whole,
		"a space after":                  whole + " ",
		"a line's end after":             whole + "\n",
		"a line's end within":            whole[:40] + "\n" + whole[40:],
		"a carriage return within":       whole[:40] + "\r" + whole[40:],
		"a zero byte after":              whole + "\x00",
		"another dot":                    "2.." + whole[2:],
		"another separator":              strings.ReplaceAll(whole, "|", ","),
		"one part":                       prefix + ciphertext,
		"two parts":                      prefix + iv + "|" + ciphertext,
		"four parts":                     whole + "|" + mac,
		"a separator after":              whole + "|",
		"many separators":                prefix + strings.Repeat("|", 100_000),
		"empty parts":                    prefix + "||",
		"no iv":                          prefix + "|" + ciphertext + "|" + mac,
		"no ciphertext":                  prefix + iv + "||" + mac,
		"no mac":                         prefix + iv + "|" + ciphertext + "|",
		"a short iv":                     prefix + b64(15) + "|" + ciphertext + "|" + mac,
		"a long iv":                      prefix + b64(17) + "|" + ciphertext + "|" + mac,
		"a ciphertext of half a block":   prefix + iv + "|" + b64(8) + "|" + mac,
		"a ciphertext of 17 bytes":       prefix + iv + "|" + b64(17) + "|" + mac,
		"a short mac":                    prefix + iv + "|" + ciphertext + "|" + b64(31),
		"a long mac":                     prefix + iv + "|" + ciphertext + "|" + b64(33),
		"an iv without padding":          prefix + strings.TrimRight(iv, "=") + "|" + ciphertext + "|" + mac,
		"a mac without padding":          strings.TrimRight(whole, "="),
		"too much padding":               whole + "=",
		"an iv with unread bits":         prefix + iv[:21] + "B==" + "|" + ciphertext + "|" + mac,
		"a mac with unread bits":         prefix + iv + "|" + ciphertext + "|" + mac[:42] + "B=",
		"the alphabet of URLs":           prefix + iv + "|" + ciphertext + "|" + url,
		"parts that are not base64":      prefix + "!|" + ciphertext + "|" + mac,
		"parts in hexadecimal":           prefix + strings.Repeat("0f", 16) + "|" + ciphertext + "|" + mac,
		"a letter that looks like an A":  strings.Replace(whole, "A", "А", 1),
		"another form of the full stop":  "2．" + whole[2:],
		"a JSON string of an EncString":  `"` + whole + `"`,
		"an EncString in an EncString":   prefix + whole,
		"iv and ciphertext change place": prefix + ciphertext + "|" + iv + "|" + mac,
	} {
		if err := Check(text); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: Check says %v", name, err)
		}
		if plain, err := NewKey().Decrypt(text); !errors.Is(err, ErrFormat) || plain != "" {
			t.Errorf("%s: Decrypt gives %q and %v", name, plain, err)
		}
	}
	if err := Check(whole); err != nil {
		t.Errorf("what they are made of: %v", err)
	}
}

func TestEveryChangedBitIsNoticed(t *testing.T) {
	v, key, derived := load(t)
	iv, ciphertext, mac, err := split(v.Secret1.Value)
	if err != nil {
		t.Fatal(err)
	}
	join := func() string {
		b64 := base64.StdEncoding.EncodeToString
		return prefix + b64(iv) + "|" + b64(ciphertext) + "|" + b64(mac)
	}
	for name, part := range map[string][]byte{"iv": iv, "ciphertext": ciphertext, "mac": mac} {
		for bit := range len(part) * 8 {
			part[bit/8] ^= 1 << (bit % 8)
			if plain, err := key.Decrypt(join()); !errors.Is(err, ErrKey) || plain != "" {
				t.Errorf("bit %d of the %s: %q, %v", bit, name, plain, err)
			}
			part[bit/8] ^= 1 << (bit % 8)
		}
	}
	if _, err := key.Decrypt(join()); err != nil {
		t.Errorf("unchanged: %v", err)
	}
	// A block more, a block less, and blocks that change place.
	whole := ciphertext
	for name, changed := range map[string][]byte{
		"a block less": whole[:16], "a block twice": append(bytes.Clone(whole), whole[16:]...),
		"blocks in another order": append(bytes.Clone(whole[16:]), whole[:16]...),
	} {
		ciphertext = changed
		if _, err := key.Decrypt(join()); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, other := range map[string]Key{"another key": NewKey(), "the token's key": derived, "no key": {}} {
		if _, err := other.Decrypt(v.Secret1.Value); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The two halves are told apart: one alone is not enough.
	for half := range 2 {
		mixed := key
		copy(mixed.bytes[32*half:32*half+32], derived.bytes[:])
		plain, err := mixed.Decrypt(v.Secret1.Value)
		if err == nil && plain == v.Secret1.ValuePlain {
			t.Errorf("half of the key decrypts")
		}
	}
}

func TestAWrongPaddingUnderARightMacIsItsAuthors(t *testing.T) {
	key := NewKey()
	iv := make([]byte, ivSize)
	for name, block := range map[string][]byte{
		"zero":                bytes.Repeat([]byte{0}, 16),
		"more than a block":   bytes.Repeat([]byte{17}, 16),
		"the greatest":        bytes.Repeat([]byte{255}, 16),
		"bytes that differ":   append(bytes.Repeat([]byte{1}, 14), 3, 3),
		"a block that is one": append([]byte{15}, bytes.Repeat([]byte{16}, 15)...),
	} {
		// What encrypt appends is a block of its own here, which is cut off.
		_, ciphertext, _, err := split(key.encrypt(iv, string(block)))
		if err != nil {
			t.Fatal(err)
		}
		ciphertext = ciphertext[:16]
		b64 := base64.StdEncoding.EncodeToString
		text := prefix + b64(iv) + "|" + b64(ciphertext) + "|" + b64(key.mac(iv, ciphertext))
		plain, err := key.Decrypt(text)
		if !errors.Is(err, ErrFormat) || !strings.Contains(fmt.Sprint(err), "padding") || plain != "" {
			t.Errorf("%s: %q, %v", name, plain, err)
		}
	}
}

func TestAKeyIs64Bytes(t *testing.T) {
	v, organization, _ := load(t)
	if got := organization.Reveal(); got != v.OrganizationKey {
		t.Errorf("revealed as %s", got)
	}
	raw, err := base64.StdEncoding.DecodeString(v.OrganizationKey)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := KeyOf(raw); err != nil || got != organization {
		t.Errorf("of its bytes: %v", err)
	}
	raw[0] ^= 1
	if got, err := KeyOf(raw); err != nil || got == organization {
		t.Errorf("of other bytes: %v", err)
	}
	for _, length := range []int{0, 16, 32, 63, 65, 128} {
		if _, err := KeyOf(make([]byte, length)); !errors.Is(err, ErrSize) {
			t.Errorf("%d bytes: %v", length, err)
		}
		if _, err := ParseKey(base64.StdEncoding.EncodeToString(make([]byte, length))); !errors.Is(err, ErrSize) {
			t.Errorf("%d bytes in base64: %v", length, err)
		}
	}
	for _, text := range []string{"!", strings.TrimRight(v.OrganizationKey, "="), strings.NewReplacer("+", "-", "/", "_").Replace(v.OrganizationKey), v.OrganizationKey + "AAAA"} {
		if _, err := ParseKey(text); !errors.Is(err, ErrSize) || strings.Contains(err.Error(), "9WHZ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestAKeyIsNotPrinted(t *testing.T) {
	_, key, _ := load(t)
	secrets := []string{key.Reveal(), key.Reveal()[:20], hex.EncodeToString(key.bytes[:8]), "245", "0xf5"}
	type holder struct {
		Name string
		Key  Key
		At   *Key
		Many map[string]Key
	}
	held := holder{"a", key, &key, map[string]Key{"k": key}}
	var printed []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%t", "%e"} {
		for _, value := range []any{key, &key, []Key{key}} {
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
		slog.New(handler).Info("message", "key", key, "at", &key, slog.Any("holder", held))
	}
	printed = append(printed, string(asJSON), logged.String(), key.String(), fmt.Sprint(fmt.Errorf("failed with %v", key)))
	for _, text := range printed {
		if !strings.Contains(text, "[redacted]") {
			t.Errorf("it does not say that it was left out: %s", text)
		}
		for _, secret := range secrets {
			if strings.Contains(strings.ToLower(text), strings.ToLower(secret)) {
				t.Errorf("%q holds %q", text, secret)
			}
		}
	}
}

func TestErrorsDoNotQuote(t *testing.T) {
	key := NewKey()
	text := key.Encrypt("hunter2")
	_, wrong := NewKey().Decrypt(text)
	for _, err := range []error{wrong, Check("hunter2"), Check(text + "|hunter2")} {
		if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), text[2:20]) {
			t.Errorf("%v", err)
		}
	}
}

func FuzzCheck(f *testing.F) {
	v, key, derived := load(f)
	for _, text := range []string{"", "2.", "2.||", "2.a|b|c", v.EncryptedPayload, v.TokenKey, v.Project.Name, v.Secret1.Value, v.Secret2.Note, key.Encrypt("x")} {
		f.Add(text)
	}
	for text := range written {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		refused := Check(text)
		for _, k := range []Key{key, derived} {
			plain, err := k.Decrypt(text)
			switch {
			case refused != nil && !errors.Is(err, ErrFormat):
				t.Errorf("Check says %v, Decrypt %v", refused, err)
			case refused == nil && errors.Is(err, ErrFormat) && !strings.Contains(err.Error(), "padding"):
				t.Errorf("Check takes what Decrypt does not: %v", err)
			case err != nil && plain != "":
				t.Error("a text came with an error")
			}
			if err == nil {
				iv, _, _, _ := split(text)
				if again := k.encrypt(iv, plain); again != text {
					t.Errorf("there are two forms of one: %q and %q", text, again)
				}
			}
		}
		// There is one way to write what Check takes.
		if refused == nil {
			iv, ciphertext, mac, _ := split(text)
			b64 := base64.StdEncoding.EncodeToString
			if again := prefix + b64(iv) + "|" + b64(ciphertext) + "|" + b64(mac); again != text {
				t.Errorf("%q could be written %q", text, again)
			}
		}
	})
}

func FuzzEncrypt(f *testing.F) {
	_, key, _ := load(f)
	f.Add("", make([]byte, ivSize))
	f.Add("hunter2 – ünïcode ✓", bytes.Repeat([]byte{7}, ivSize))
	f.Add(strings.Repeat("x", 16), bytes.Repeat([]byte{0xff}, ivSize))
	f.Fuzz(func(t *testing.T, plain string, iv []byte) {
		if len(iv) != ivSize {
			return
		}
		text := key.encrypt(iv, plain)
		if err := Check(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if got, err := key.Decrypt(text); err != nil || got != plain {
			t.Errorf("%q became %q: %v", plain, got, err)
		}
		if _, err := NewKey().Decrypt(text); !errors.Is(err, ErrKey) {
			t.Errorf("another key: %v", err)
		}
	})
}
