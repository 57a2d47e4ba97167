package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	day = 24 * time.Hour
	// longestLifetime is what nobody means who is not mistaken.
	longestLifetime = 100 * 365 * day
)

// lifetime is a flag: a duration in days and Go's units, or, where that is
// allowed, a word for none.
type lifetime struct {
	duration time.Duration
	none     string // the word; its duration is zero
}

// String implements pflag.Value.
func (l *lifetime) String() string {
	switch {
	case l.duration == 0:
		return l.none
	case l.duration%day == 0:
		return strconv.Itoa(int(l.duration/day)) + "d"
	}
	return l.duration.String()
}

// Set implements pflag.Value.
func (l *lifetime) Set(text string) error {
	if l.none != "" && text == l.none {
		l.duration = 0
		return nil
	}
	total, rest := time.Duration(0), text
	if days, after, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return l.wrong(text)
		}
		total, rest = time.Duration(n)*day, after
	}
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d < 0 || d > longestLifetime {
			return l.wrong(text)
		}
		total += d
	}
	if total < time.Second || total > longestLifetime {
		return l.wrong(text)
	}
	l.duration = total
	return nil
}

func (l *lifetime) wrong(text string) error {
	or := ""
	if l.none != "" {
		or = " or " + l.none
	}
	return fmt.Errorf("%q is no duration such as 90d, 12h or 1d12h%s", text, or)
}

// Type implements pflag.Value.
func (l *lifetime) Type() string { return "duration" }
