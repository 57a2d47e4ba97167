package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// result is one line of the table.
type result struct {
	Group    string  `json:"group"`
	What     string  `json:"what"`
	Measured float64 `json:"measured"`
	Unit     string  `json:"unit"`
	// Beside is the bare thing, in the same unit; none where Bare is empty.
	Bare   string  `json:"bare,omitempty"`
	Beside float64 `json:"beside,omitempty"`
	// Ratio is the median of the rounds' own ratios, which a load that comes and
	// goes disturbs less than the ratio of the two medians.
	Ratio  float64 `json:"ratio,omitempty"`
	Budget *budget `json:"budget,omitempty"`
	// Verdict is ok, OVER, or empty for what is told for information.
	Verdict string `json:"verdict,omitempty"`
	// Skipped says why it was not measured.
	Skipped string `json:"skipped,omitempty"`
	Note    string `json:"note,omitempty"`
}

// budget is the most that the ratio, or else what was measured, may be.
type budget struct {
	Max     float64 `json:"max"`
	OfRatio bool    `json:"ofRatio"`
}

func atMost(limit float64) *budget      { return &budget{Max: limit} }
func ratioAtMost(limit float64) *budget { return &budget{Max: limit, OfRatio: true} }

const (
	within = "ok"
	over   = "OVER"
)

// compare fills in what two contenders of interleave measured.
func (r result) compare(ours, bare []float64) result {
	r.Measured, r.Beside = median(ours), median(bare)
	ratios := make([]float64, len(ours))
	for i := range ours {
		ratios[i] = ours[i] / bare[i]
	}
	if r.Ratio = median(ratios); math.IsInf(r.Ratio, 0) || math.IsNaN(r.Ratio) {
		r.Ratio = 0 // JSON has neither
	}
	return r
}

func (r *result) judge() {
	if r.Budget == nil || r.Skipped != "" {
		return
	}
	value := r.Measured
	if r.Budget.OfRatio {
		value = r.Ratio
	}
	r.Verdict = over
	if value <= r.Budget.Max && (!r.Budget.OfRatio || r.Ratio > 0) {
		r.Verdict = within
	}
}

func printTable(w io.Writer, results []result) error {
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	lines := [][]string{{"what", "measured", "beside it", "ratio", "budget", ""}}
	for _, r := range results {
		lines = append(lines, r.cells())
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(table, strings.Join(line, "\t")); err != nil {
			return err
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		if r.Note == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "\n%s: %s\n", r.What, r.Note); err != nil {
			return err
		}
	}
	return nil
}

func (r result) cells() []string {
	cells := []string{r.What, number(r.Measured) + " " + r.Unit, "", "", "", r.Verdict}
	if r.Skipped != "" {
		cells[1], cells[5] = "", "SKIP: "+r.Skipped
	}
	if r.Bare != "" && r.Skipped == "" {
		cells[2], cells[3] = fmt.Sprintf("%s %s (%s)", number(r.Beside), r.Unit, r.Bare), fmt.Sprintf("%.2f", r.Ratio)
	}
	switch {
	case r.Budget == nil:
	case r.Budget.OfRatio:
		cells[4] = "≤ " + number(r.Budget.Max) + " ×"
	default:
		cells[4] = "≤ " + number(r.Budget.Max) + " " + r.Unit
	}
	return cells
}

// number has three digits that matter, and no point in what is whole.
func number(f float64) string {
	switch {
	case f == math.Trunc(f) && math.Abs(f) < 1e9:
		return fmt.Sprintf("%.0f", f)
	case math.Abs(f) >= 100:
		return fmt.Sprintf("%.0f", f)
	default:
		return fmt.Sprintf("%.3g", f)
	}
}

func printJSON(w io.Writer, results []result) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(results)
}

// interleave gives each of the contenders its turn in every round, beginning
// with another one each time, and returns what each measured.
func interleave(rounds int, contenders ...func() (float64, error)) ([][]float64, error) {
	measured := make([][]float64, len(contenders))
	for round := range rounds {
		for turn := range contenders {
			i := (round + turn) % len(contenders)
			value, err := contenders[i]()
			if err != nil {
				return nil, err
			}
			measured[i] = append(measured[i], value)
		}
	}
	return measured, nil
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile is the smallest of the values that at least the share q of them does
// not exceed; 0 where there are none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}
