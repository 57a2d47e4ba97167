package secrets

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

// Bounds of requests' bodies, in bytes.
const (
	maxSecret = 512 << 10 // a secret of the greatest size, with its policies
	maxIDs    = 1 << 20   // some 26 000 ids
	maxImport = 32 << 20
)

// read decodes a body of a bounded size.
func read(r smapi.Request, most int64, into any) error {
	// Without a writer: whoever sent more still gets the answer.
	r.Body = http.MaxBytesReader(nil, r.Body, most)
	return r.Read(into)
}

// idList is ids, bare or as the member ids of an object: the original's routes
// want the one or the other.
type idList []string

// UnmarshalJSON implements json.Unmarshaler.
func (l *idList) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '{' {
		var object struct{ IDs *[]string }
		if err := json.Unmarshal(text, &object); err != nil {
			return err
		}
		if object.IDs == nil {
			return errNoIDs
		}
		*l = *object.IDs
		return nil
	}
	return json.Unmarshal(text, (*[]string)(l))
}

var (
	errNoIDs   = errors.New("no ids")
	errNoArray = errors.New("not an array")
)

// readIDs gives the ids of the body, each once.
func readIDs(r smapi.Request) (ids []string, repeated bool, err error) {
	var body idList
	if err := read(r, maxIDs, &body); err != nil {
		return nil, false, err
	}
	if body == nil {
		return nil, false, machine.Invalid("The request body has no ids.")
	}
	all, err := smapi.IDs(body)
	if err != nil {
		return nil, false, err
	}
	seen := map[string]bool{}
	ids = slices.DeleteFunc(slices.Clone(all), func(id string) bool {
		again := seen[id]
		seen[id] = true
		return again
	})
	return ids, len(ids) != len(all), nil
}

// readDifferentIDs refuses one that is there twice.
func readDifferentIDs(r smapi.Request) ([]string, error) {
	ids, repeated, err := readIDs(r)
	if err == nil && repeated {
		err = machine.Invalid("An id stands in the request more than once.")
	}
	return ids, err
}

// first is an array of which no more than a number of elements is kept, which is
// one more than is allowed: a few bytes can stand for a large element.
type first[T any] struct {
	elements []T
	most     int
}

// UnmarshalJSON implements json.Unmarshaler.
func (f *first[T]) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if open, err := d.Token(); err != nil || open != json.Delim('[') {
		return errNoArray
	}
	for d.More() && len(f.elements) < f.most {
		var element T
		if err := d.Decode(&element); err != nil {
			return err
		}
		f.elements = append(f.elements, element)
	}
	return nil
}
