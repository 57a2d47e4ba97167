package licence

import (
	"cmp"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// property is a member of the document.
type property struct {
	name string
	// since is the version from which the canonical text has it; 0: none has.
	since int
	// hashed: it is in the text that Hash is of, too.
	hashed bool
	index  int
}

// wireName is the name with a small first letter.
func (p property) wireName() string {
	first := []rune(p.name)
	first[0] = unicode.ToLower(first[0])
	return string(first)
}

func (p property) of(l *Licence) reflect.Value { return reflect.ValueOf(l).Elem().Field(p.index) }

// properties in the order of the document.
var properties = readProperties()

// canonicalOrder is alphabetical without regard to case: UsersGetPremium stands
// between UseResetPassword and UseScim.
var canonicalOrder = slices.SortedFunc(slices.Values(properties), func(a, b property) int {
	return cmp.Compare(strings.ToLower(a.name), strings.ToLower(b.name))
})

func readProperties() []property {
	t := reflect.TypeFor[Licence]()
	all := make([]property, t.NumField())
	for i := range all {
		f := t.Field(i)
		since, _ := strconv.Atoi(f.Tag.Get("since")) // none is 0
		all[i] = property{name: f.Name, since: since, hashed: f.Tag.Get("hashed") != "no", index: i}
	}
	return all
}

// value is a member's, without the pointer of those that can be null.
func (p property) value(l *Licence) (v reflect.Value, null bool) {
	v = p.of(l)
	if v.Kind() != reflect.Pointer {
		return v, false
	}
	if v.IsNil() {
		return v, true
	}
	return v.Elem(), false
}

// set gives a member its value; a member that can be null gets a pointer.
func (p property) set(l *Licence, value any) {
	field, v := p.of(l), reflect.ValueOf(value)
	if field.Kind() == reflect.Pointer {
		field.Set(reflect.New(field.Type().Elem()))
		field = field.Elem()
	}
	field.Set(v)
}

// zero tells the type of a member's value.
func (p property) zero() any {
	t := reflect.TypeFor[Licence]().Field(p.index).Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return reflect.Zero(t).Interface()
}

// text writes a member's value for people; null is empty.
func (p property) text(l *Licence) string {
	v, null := p.value(l)
	if null {
		return ""
	}
	switch value := v.Interface().(type) {
	case string:
		return value
	case bool:
		return strconv.FormatBool(value)
	case int:
		return strconv.Itoa(value)
	case time.Time:
		return value.UTC().Format(time.RFC3339)
	}
	return ""
}
