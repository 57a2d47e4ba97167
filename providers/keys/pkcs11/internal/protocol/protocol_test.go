package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

func TestMessagesArriveAsTheyWereSent(t *testing.T) {
	sent := []Request{
		{ID: 1, Open: &Open{Library: "/l.so", UserType: User, PIN: "ünïcode \x00", KeyID: []byte{0, 255}, Sessions: 3}},
		{ID: 1<<64 - 1, Decrypt: &Decrypt{Hash: SHA256, Ciphertext: bytes.Repeat([]byte{0xff}, 512)}},
	}
	var pipe bytes.Buffer
	for _, request := range sent {
		if err := Write(&pipe, request); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range sent {
		var got Request
		if err := Read(&pipe, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	if err := Read(&pipe, &Request{}); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v", err)
	}
}

func TestBadMessagesAreErrors(t *testing.T) {
	frame := func(n uint32, body string) string { return string(binary.BigEndian.AppendUint32(nil, n)) + body }
	for name, input := range map[string]string{
		"half a length":   "\x00\x00",
		"half a body":     frame(10, `{"id"`),
		"no body":         frame(10, ""),
		"too long":        frame(MaxFrame+1, strings.Repeat(" ", MaxFrame+1)),
		"of another form": frame(9, `"a quote"`),
		"empty":           frame(0, ""),
	} {
		err := Read(strings.NewReader(input), &Response{})
		if err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "quote") {
			t.Errorf("%s: the error quotes the message: %v", name, err)
		}
	}
	if err := Write(io.Discard, Request{Open: &Open{KeyLabel: strings.Repeat("x", MaxFrame)}}); err == nil {
		t.Error("a message that is too long was sent")
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte{0, 0, 0, 8, '{', '"', 'i', 'd', '"', ':', '1', '}'})
	f.Fuzz(func(t *testing.T, data []byte) {
		var response Response
		if err := Read(bytes.NewReader(data), &response); err == nil {
			if err := Write(io.Discard, response); err != nil && len(data) < MaxFrame/2 {
				t.Errorf("what was read cannot be written: %v", err)
			}
		}
	})
}
