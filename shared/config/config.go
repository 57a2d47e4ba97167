// Package config reads a function's settings from the environment into one
// struct, and reports all faults at once, each with the name of its variable.
//
// Names begin with LATCHKEY_. Every field of type Secret can be given by a
// file as well: NAME_FILE holds the path. A function can have further names
// for its settings (those of the server that it takes the place of), and the
// same settings can stand in a JSON document that LATCHKEY_CONFIG_FILE names;
// the environment goes before it.
package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Prefix is how every name of ours begins.
const Prefix = "LATCHKEY_"

const (
	documentVariable = Prefix + "CONFIG_FILE"
	fileSuffix       = "_FILE"
	// maxFile bounds the documents and secrets that settings name.
	maxFile = 1 << 20
)

// Secret is a setting that must not be printed. It shows as [redacted].
type Secret string

// Reveal gives the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String, GoString, MarshalText and LogValue keep the secret out of whatever
// prints it by mistake.
func (Secret) String() string               { return "[redacted]" }
func (Secret) GoString() string             { return "[redacted]" }
func (Secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }
func (Secret) LogValue() slog.Value         { return slog.StringValue("[redacted]") }

// Alias is another name for a setting.
type Alias struct {
	// Name is compared without regard to case.
	Name string
	// To is the name of ours, without the prefix. Empty: the setting is read
	// by Value only, which may refuse it.
	To string
	// Value translates; nil leaves the value as it is.
	Value func(string) (string, error)
}

// Source is where settings come from.
type Source struct {
	// Environment is name to value, as of os.Environ.
	Environment map[string]string
	// Aliases are the further names.
	Aliases []Alias
	// AliasPrefix is how the further names begin. A name that begins so and is
	// no alias is warned of.
	AliasPrefix string
}

// Environment is the process's own.
func Environment() map[string]string { return env.ToMap(os.Environ()) }

// Validator is what a settings struct implements to check what one field alone
// cannot tell. It joins all faults.
type Validator interface{ Validate() error }

// Load fills the struct that into points to. Warnings name settings that
// nothing reads, which are most often misspelt.
func Load(into any, from Source) (warnings []string, err error) {
	given, values, faults := gather(from)
	fields := fieldsOf(reflect.TypeOf(into).Elem(), Prefix)
	faults = append(faults, readSecretFiles(values, fields)...)

	err = env.ParseWithOptions(into, env.Options{Environment: values, Prefix: Prefix})
	var parse env.AggregateError
	switch {
	case errors.As(err, &parse):
		for _, e := range parse.Errors {
			faults = append(faults, nameField(e, values, fields))
		}
	case err != nil:
		faults = append(faults, err)
	}
	if v, ok := into.(Validator); ok {
		faults = append(faults, v.Validate())
	}
	// A name that nothing reads is most wanted where another is missing.
	warnings = unread(from, given, values, fields)
	if joined := errors.Join(faults...); joined != nil {
		return warnings, fmt.Errorf("%w configuration:\n%w", fault.Invalid, joined)
	}
	return warnings, nil
}

// gather brings document, aliases and environment together: the names that were
// given, and the values under our names.
func gather(from Source) (given []string, values map[string]string, faults []error) {
	var document map[string]string
	if path := from.Environment[documentVariable]; path != "" {
		var err error
		if document, err = readDocument(path); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", documentVariable, err))
		}
	}
	aliases := map[string]Alias{}
	for _, a := range from.Aliases {
		aliases[strings.ToLower(a.Name)] = a
	}
	values = map[string]string{}
	for _, source := range []map[string]string{document, from.Environment} {
		translated, sourceFaults := translate(source, aliases)
		faults = append(faults, sourceFaults...)
		maps.Copy(values, translated)
		for name, value := range source {
			if value != "" { // example files are full of empty settings
				given = append(given, name)
			}
		}
	}
	return given, values, faults
}

// translate gives the settings of one source under our names.
func translate(source map[string]string, aliases map[string]Alias) (map[string]string, []error) {
	var faults []error
	values, setBy := map[string]string{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(source)) {
		value, to := source[name], name
		if !strings.HasPrefix(name, Prefix) {
			lower, suffix := strings.ToLower(name), ""
			if base, ok := strings.CutSuffix(lower, strings.ToLower(fileSuffix)); ok {
				if _, isAlias := aliases[base]; isAlias {
					lower, suffix = base, fileSuffix
				}
			}
			alias, ok := aliases[lower]
			if !ok || value == "" {
				continue
			}
			if alias.Value != nil && suffix == "" {
				translated, err := alias.Value(value)
				if err != nil {
					faults = append(faults, fmt.Errorf("%s: %w", name, err))
					continue
				}
				value = translated
			}
			if alias.To == "" {
				continue
			}
			to = Prefix + alias.To + suffix
		}
		if other, ok := setBy[to]; ok && values[to] != value {
			faults = append(faults, fmt.Errorf("%s and %s contradict each other: give one of them", other, name))
			continue
		}
		values[to], setBy[to] = value, name
	}
	return values, faults
}

// readDocument flattens a JSON document: {"a":{"b":1}} is a__b=1.
func readDocument(path string) (map[string]string, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(strings.NewReader(content))
	decoder.UseNumber()
	var document map[string]any
	if err := decoder.Decode(&document); err != nil {
		return nil, fmt.Errorf("%s is not a JSON object: %w", path, err)
	}
	flat := map[string]string{}
	var faults []error
	var flatten func(prefix string, value any)
	flatten = func(prefix string, value any) {
		switch v := value.(type) {
		case map[string]any:
			for name, inner := range v {
				flatten(strings.TrimPrefix(prefix+"__"+name, "__"), inner)
			}
		case nil:
		case string, bool, json.Number:
			flat[prefix] = fmt.Sprint(v)
		default:
			faults = append(faults, fmt.Errorf("%s: %s is a list; give its members in one string, joined by commas", path, prefix))
		}
	}
	flatten("", document)
	return flat, errors.Join(faults...)
}

// readSecretFiles resolves NAME_FILE for every secret.
func readSecretFiles(values map[string]string, fields []field) []error {
	var faults []error
	for _, f := range fields {
		path, ok := values[f.variable+fileSuffix]
		if !f.secret || !ok || path == "" { // a variable without a value counts as not set
			continue
		}
		if values[f.variable] != "" {
			faults = append(faults, fmt.Errorf("%s and %s%s are both set: give one of them", f.variable, f.variable, fileSuffix))
			continue
		}
		content, err := readFile(path)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s%s: %w", f.variable, fileSuffix, err))
			continue
		}
		values[f.variable] = strings.TrimRight(content, "\r\n")
	}
	return faults
}

func readFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Size() > maxFile {
		return "", fmt.Errorf("%s has %d bytes, more than %d", path, info.Size(), maxFile)
	}
	content, err := os.ReadFile(path)
	return string(content), err
}

// field is one setting: a leaf of the struct.
type field struct {
	name     string // of the Go field
	variable string
	secret   bool
}

func fieldsOf(t reflect.Type, prefix string) []field {
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		key, tagged := f.Tag.Lookup("env")
		switch {
		case tagged:
			key, _, _ = strings.Cut(key, ",")
			fields = append(fields, field{name: f.Name, variable: prefix + key, secret: f.Type == reflect.TypeFor[Secret]()})
		case f.Type.Kind() == reflect.Struct && f.IsExported(): // the library sets no others
			fields = append(fields, fieldsOf(f.Type, prefix+f.Tag.Get("envPrefix"))...)
		}
	}
	return fields
}

// nameField says the variable's name where the library says the Go field's, and
// what was expected where it says which function failed.
func nameField(err error, values map[string]string, fields []field) error {
	var parse env.ParseError
	if !errors.As(err, &parse) {
		return err
	}
	var names []string
	for _, f := range fields {
		// Two groups of settings can have the same fields; one that was not given
		// did not fail.
		if f.name == parse.Name && values[f.variable] != "" {
			names = append(names, f.variable)
		}
	}
	expected := parse.Err.Error()
	switch {
	case parse.Type == reflect.TypeFor[time.Duration]():
		expected = "it is no duration such as 90s or 1h30m"
	case parse.Type == reflect.TypeFor[bool](), parse.Type == reflect.TypeFor[*bool]():
		expected = "it is neither true nor false"
	}
	return fmt.Errorf("%s: %s", strings.Join(names, " or "), expected)
}

func unread(from Source, given []string, values map[string]string, fields []field) []string {
	known := map[string]bool{documentVariable: true}
	for _, f := range fields {
		known[f.variable] = true
		known[f.variable+fileSuffix] = known[f.variable+fileSuffix] || f.secret
	}
	var warnings []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !known[name] && values[name] != "" {
			warnings = append(warnings, name+" is not a setting of this function; is it misspelt?")
		}
	}
	for _, name := range given {
		lower := strings.ToLower(name)
		isAlias := func(a Alias) bool {
			alias := strings.ToLower(a.Name)
			return lower == alias || lower == alias+strings.ToLower(fileSuffix)
		}
		if from.AliasPrefix != "" && strings.HasPrefix(lower, strings.ToLower(from.AliasPrefix)) && !slices.ContainsFunc(from.Aliases, isAlias) {
			warnings = append(warnings, name+" is not understood and has no effect")
		}
	}
	slices.Sort(warnings)
	return slices.Compact(warnings)
}
