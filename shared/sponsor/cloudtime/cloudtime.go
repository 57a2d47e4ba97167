// Package cloudtime reads and writes points in time as the vendor's cloud has
// them in JSON: ISO 8601 in UTC with up to seven digits of a second, and now
// and then without a zone, which means UTC as well.
package cloudtime

import (
	"encoding/json"
	"fmt"
	"time"
)

// layouts that are read. Go takes fractions of a second in all of them.
var layouts = []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02"}

// Parse reads a point in time.
func Parse(text string) (time.Time, error) {
	for _, layout := range layouts {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	// It is not repeated: it can be anything.
	return time.Time{}, fmt.Errorf("a text of %d characters is not a time such as 2026-01-31T10:00:00Z", len(text))
}

// Format writes a point in time with the seven digits of a second that the
// cloud can hold.
func Format(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }

// Time is a point in time in JSON.
type Time struct{ time.Time }

// UnmarshalJSON implements json.Unmarshaler. Null leaves the zero time.
func (t *Time) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("a time is a text: %w", err)
	}
	parsed, err := Parse(text)
	if err != nil {
		return err
	}
	t.Time = parsed
	return nil
}

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) { return json.Marshal(Format(t.Time)) }
