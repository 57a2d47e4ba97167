package fault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestTheOutermostClassCounts(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want Class
	}{
		"nothing":                         {nil, ""},
		"a class":                         {Denied, Denied},
		"a class that was wrapped":        {fmt.Errorf("read: %w", fmt.Errorf("%w: gone", NotFound)), NotFound},
		"a class before a cause":          {fmt.Errorf("%w: parse: %w", Lost, Invalid), Lost},
		"a cause that has the only class": {errors.Join(errors.New("x"), fmt.Errorf("y: %w", Conflict)), Conflict},
		"a context that ended":            {fmt.Errorf("call: %w", context.DeadlineExceeded), Transient},
		"an error of nobody's":            {errors.New("x"), ""},
	} {
		if got := Of(c.err); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func thrown() (text string, stack []string) {
	defer func() {
		attributes := Thrown(recover())
		text = attributes[0].Value.String()
		stack, _ = attributes[1].Value.Any().([]string)
	}()
	var nothing []int
	_ = nothing[len(stack)]
	return "", nil
}

func TestAPanicIsToldWithItsPlace(t *testing.T) {
	text, stack := thrown()
	if text != "runtime error: index out of range [0] with length 0" {
		t.Errorf("the panic is told as %q", text)
	}
	if !slices.ContainsFunc(stack, func(line string) bool { return strings.Contains(line, "fault.thrown ") }) {
		t.Errorf("the stack does not name the function: %q", stack)
	}
}
