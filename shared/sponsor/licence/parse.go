package licence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/sponsor/cloudtime"
)

// Form is one of the two forms of a document.
type Form int

const (
	// Stored is the form of an official server's files: names as of the fields
	// of Licence, in exactly this case.
	Stored Form = iota
	// Wire is the form of the cloud's answers and of uploads: names begin with
	// a small letter, and are read in any case.
	Wire
)

// key is what a name is looked up by.
func (f Form) key(name string) string {
	if f == Wire {
		return strings.ToLower(name)
	}
	return name
}

// Parse reads a document, which it believes nothing of. Errors are an *Error of
// code Malformed or TooLarge. Members that it does not know are passed over.
func Parse(data []byte, form Form) (*Licence, error) {
	if len(data) > MaxSize {
		return nil, &Error{Code: TooLarge, Text: "Invalid license", Detail: fmt.Sprintf("it has %d bytes, more than %d", len(data), MaxSize)}
	}
	members, err := readObject(bytes.TrimPrefix(data, []byte("\ufeff")), form)
	if err != nil {
		return nil, err
	}
	l := &Licence{}
	found := 0
	for _, p := range properties {
		raw, ok := members[form.key(p.name)]
		if !ok {
			continue
		}
		found++
		if err := p.read(l, raw); err != nil {
			return nil, malformed("its member %s is not as expected: %s", p.name, err)
		}
	}
	if found == 0 && form == Stored && len(members) > 0 {
		return nil, malformed("it has none of the members of a stored license; the case of their names matters, as in LicenseKey")
	}
	for _, id := range []*string{&l.Id, &l.InstallationId} {
		if *id == "" {
			continue
		}
		parsed, err := uuid.Parse(*id)
		if err != nil {
			return nil, malformed("its Id or InstallationId is no GUID")
		}
		*id = parsed.String()
	}
	if l.Id == "" || l.Id == uuid.Nil.String() {
		return nil, malformed("it has no Id")
	}
	return l, nil
}

// readObject reads one JSON object and nothing after it. A name that is there
// twice is refused: readers would differ in which of them counts.
func readObject(data []byte, form Form) (map[string]json.RawMessage, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	opening, err := decoder.Token()
	if err != nil {
		return nil, notJSON(err)
	}
	if opening != json.Delim('{') {
		return nil, malformed("it is no JSON object")
	}
	members := map[string]json.RawMessage{}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, notJSON(err)
		}
		key := form.key(fmt.Sprint(name))
		if _, twice := members[key]; twice {
			return nil, malformed("its member %.60q is there twice", name)
		}
		members[key] = value
	}
	if _, err := decoder.Token(); err != nil {
		return nil, notJSON(err)
	}
	end := decoder.InputOffset()
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, malformed("there is something after its closing brace, at byte %d of %d; delete it", end, len(data))
	}
	return members, nil
}

func notJSON(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return malformed("it is no JSON, at byte %d", syntax.Offset)
	}
	return malformed("it is no JSON: it breaks off")
}

// read takes a member from JSON. Null is allowed where there can be no value.
func (p property) read(l *Licence, raw json.RawMessage) error {
	text, isText := p.zero().(string)
	if string(raw) == "null" {
		if _, null := p.value(l); null || isText {
			return nil
		}
		return errors.New("it is null")
	}
	switch value := p.zero().(type) {
	case string:
		if json.Unmarshal(raw, &text) != nil {
			return errors.New("it is no text")
		}
		p.set(l, text)
	case bool:
		if json.Unmarshal(raw, &value) != nil {
			return errors.New("it is neither true nor false")
		}
		p.set(l, value)
	case int:
		if json.Unmarshal(raw, &value) != nil {
			return errors.New("it is no whole number")
		}
		p.set(l, value)
	case time.Time:
		var t cloudtime.Time
		if err := json.Unmarshal(raw, &t); err != nil {
			return errors.New("it is no time such as 2026-01-31T10:00:00Z")
		}
		p.set(l, t.Time)
	}
	return nil
}

// Encode writes a document. Null stands where there is no value; an empty text
// is written as null, which the canonical text does not tell apart.
func (l *Licence) Encode(form Form) ([]byte, error) {
	var b bytes.Buffer
	for i, p := range properties {
		name := p.name
		if form == Wire {
			name = p.wireName()
		}
		value, err := p.write(l)
		if err != nil {
			return nil, fmt.Errorf("write %s of a licence: %w", p.name, err)
		}
		separator := ","
		if i == 0 {
			separator = "{"
		}
		fmt.Fprintf(&b, "%s%q:%s", separator, name, value)
	}
	b.WriteString("}")
	return b.Bytes(), nil
}

func (p property) write(l *Licence) ([]byte, error) {
	v, null := p.value(l)
	if null {
		return []byte("null"), nil
	}
	switch value := v.Interface().(type) {
	case string:
		if value == "" {
			return []byte("null"), nil
		}
		return json.Marshal(value)
	case time.Time:
		return json.Marshal(cloudtime.Format(value))
	default:
		return json.Marshal(value)
	}
}
