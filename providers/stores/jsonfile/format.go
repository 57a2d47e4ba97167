package jsonfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
	"unicode/utf8"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// The file is one JSON object: its version, then the documents, one a line, in
// the order of collections and ids. So it can be read, compared and searched
// line by line.
//
//	{
//	"version": 1,
//	"documents": [
//	{"collection":"users","id":"7","revision":1760000000000000,"body":{"name":"x"}},
//	{"collection":"users","id":"8","parent":"a","revision":1760000000000001,"base64":"AAEC"}
//	]
//	}
const version = 1

// document is one line. A body that is JSON in its shortest form, as nearly
// all are, stands there as it is; any other, whose bytes JSON would not keep,
// in base64. Exactly one of the two is there.
type document struct {
	Collection string          `json:"collection"`
	ID         string          `json:"id"`
	Parent     string          `json:"parent,omitempty"`
	Lookup     string          `json:"lookup,omitempty"`
	Revision   int64           `json:"revision"`
	Expires    time.Time       `json:"expires,omitzero"`
	Body       json.RawMessage `json:"body,omitempty"`
	Base64     *[]byte         `json:"base64,omitempty"`
}

func encode(w io.Writer, documents iter.Seq[store.Document]) error {
	if _, err := fmt.Fprintf(w, "{\n\"version\": %d,\n\"documents\": [", version); err != nil {
		return err
	}
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	separator := "\n"
	for doc := range documents {
		line.Reset()
		line.WriteString(separator)
		separator = ",\n"
		d := document{
			Collection: doc.Collection, ID: doc.ID, Parent: doc.Parent, Lookup: doc.Lookup,
			Revision: doc.Revision, Expires: doc.Expires.UTC(),
		}
		if readable(doc.Body) {
			d.Body = doc.Body
		} else {
			d.Base64 = &doc.Body
			if doc.Body == nil {
				d.Base64 = &[]byte{} // nil would be null, which is no base64
			}
		}
		if err := encoder.Encode(d); err != nil {
			return fmt.Errorf("encode a document of %s: %w", doc.Collection, err)
		}
		if _, err := w.Write(bytes.TrimSuffix(line.Bytes(), []byte("\n"))); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, "\n]\n}\n")
	return err
}

// maxBrackets keeps a readable body far from the depth at which the decoder
// gives up on a file (10 000 levels).
const maxBrackets = 1000

// readable tells whether a body can stand in the file as it is and come back
// byte by byte.
func readable(body []byte) bool {
	if len(body) == 0 || !utf8.Valid(body) || bytes.Count(body, []byte("{"))+bytes.Count(body, []byte("[")) > maxBrackets {
		return false
	}
	var compact bytes.Buffer
	return json.Compact(&compact, body) == nil && bytes.Equal(compact.Bytes(), body)
}

// parse reads a file strictly and hands each document to add. Its errors are
// of class Lost, name the line, and quote nothing, because bodies may be
// secret.
func parse(data []byte, add func(store.Document) error) error {
	p := parser{data: data, Decoder: json.NewDecoder(bytes.NewReader(data))}
	p.DisallowUnknownFields()
	if err := p.file(add); err != nil {
		return fmt.Errorf("%w: line %d (byte %d): %w; put a good copy in its place, or move it away to start empty", fault.Lost, p.line(), p.offset(), err)
	}
	return nil
}

type parser struct {
	*json.Decoder
	data []byte
	at   int64 // where the text stops being JSON; 0: nowhere
}

func (p *parser) offset() int64 {
	if p.at > 0 {
		return p.at
	}
	return p.InputOffset()
}

func (p *parser) line() int {
	return 1 + bytes.Count(p.data[:p.offset()], []byte("\n"))
}

func (p *parser) file(add func(store.Document) error) error {
	if len(bytes.TrimSpace(p.data)) == 0 {
		return errors.New("the file is empty")
	}
	if !utf8.Valid(p.data) {
		return errors.New("the file is not UTF-8")
	}
	for _, want := range []json.Token{json.Delim('{'), "version"} {
		if err := p.expect(want); err != nil {
			return err
		}
	}
	var found int
	if err := p.Decode(&found); err != nil {
		return p.fault(err)
	}
	if found != version {
		return fmt.Errorf("the file has version %d, and this program knows version %d", found, version)
	}
	for _, want := range []json.Token{"documents", json.Delim('[')} {
		if err := p.expect(want); err != nil {
			return err
		}
	}
	for p.More() {
		if err := p.document(add); err != nil {
			return err
		}
	}
	for _, want := range []json.Token{json.Delim(']'), json.Delim('}')} {
		if err := p.expect(want); err != nil {
			return err
		}
	}
	if _, err := p.Token(); !errors.Is(err, io.EOF) {
		return errors.New("the file goes on after its end")
	}
	return nil
}

func (p *parser) document(add func(store.Document) error) error {
	var d document
	if err := p.Decode(&d); err != nil {
		return p.fault(err)
	}
	doc := store.Document{
		Collection: d.Collection, ID: d.ID, Parent: d.Parent, Lookup: d.Lookup,
		Revision: d.Revision, Expires: d.Expires, Body: d.Body,
	}
	if (d.Body == nil) == (d.Base64 == nil) {
		return errors.New("a document needs either a body or base64")
	}
	if d.Base64 != nil {
		doc.Body = *d.Base64
	}
	return add(doc)
}

func (p *parser) expect(want json.Token) error {
	got, err := p.Token()
	if err != nil {
		return p.fault(err)
	}
	if got != want {
		return fmt.Errorf("%q should stand here", fmt.Sprint(want))
	}
	return nil
}

// fault says what a decoder's error means without quoting what it quotes.
func (p *parser) fault(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		p.at = int64(len(p.data))
		return errors.New("the file ends in the middle")
	}
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return errors.New("a value is not of its kind, or a member is unknown")
	}
	// The offset of the error leaves out what stands between values, so it is
	// asked for once more, of the bad value alone.
	value := bytes.TrimLeft(p.data[p.InputOffset():], " \t\r\n,:")
	if errors.As(json.NewDecoder(bytes.NewReader(value)).Decode(new(json.RawMessage)), &syntax) {
		p.at = int64(len(p.data)-len(value)) + syntax.Offset
	}
	return errors.New("this is not JSON")
}
