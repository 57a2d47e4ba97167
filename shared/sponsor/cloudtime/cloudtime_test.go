package cloudtime

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestTimesAsTheCloudWritesThem(t *testing.T) {
	at := time.Date(2026, 1, 31, 10, 20, 30, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-01-31T10:20:30Z":             at,
		"2026-01-31T10:20:30.1234567Z":     at.Add(123456700),
		"2026-01-31T10:20:30":              at,
		"2026-01-31T10:20:30.5":            at.Add(time.Second / 2),
		"2026-01-31T11:20:30+01:00":        at,
		"2026-01-31 10:20:30":              at,
		"2026-01-31":                       time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC),
		"0001-01-01T00:00:00":              {},
		"2026-01-31T10:20:30.123456789012": at.Add(123456789),
	} {
		got, err := Parse(text)
		if err != nil || !got.Equal(want) || got.Location() != time.UTC {
			t.Errorf("%s is %s, %v", text, got, err)
		}
	}
}

func TestTextsThatAreNoTimes(t *testing.T) {
	for _, text := range []string{"", "secret-text", "31.01.2026", "2026-13-01T00:00:00Z", "2026-01-31T25:00:00"} {
		_, err := Parse(text)
		if err == nil || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTimesInJSON(t *testing.T) {
	var v struct{ A, B, C *Time }
	if err := json.Unmarshal([]byte(`{"a":"2026-01-31T10:20:30.1234567","b":null}`), &v); err != nil || v.A == nil || v.B != nil || v.C != nil {
		t.Fatalf("%+v %v", v, err)
	}
	written, err := json.Marshal(v)
	if err != nil || string(written) != `{"A":"2026-01-31T10:20:30.1234567Z","B":null,"C":null}` {
		t.Errorf("%s %v", written, err)
	}
	for _, wrong := range []string{`{"a":5}`, `{"a":"x"}`, `{"a":{}}`} {
		if err := json.Unmarshal([]byte(wrong), &v); err == nil {
			t.Errorf("%s was read", wrong)
		}
	}
	var plain Time
	if err := plain.UnmarshalJSON([]byte("null")); err != nil || !plain.IsZero() {
		t.Error(plain, err)
	}
}
