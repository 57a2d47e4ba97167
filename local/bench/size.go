package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const maxLambdaMB = 12

// size builds every Lambda binary twice, from copies of the sources in two
// folders. The second build starts from an empty build cache, so that nothing
// of the first can be in it; a quick run shares the cache.
func (b *bench) size(ctx context.Context) ([]result, error) {
	first, err := b.folder("tree")
	if err != nil {
		return nil, err
	}
	if err := copyTree(b.root, first); err != nil {
		return nil, err
	}
	second, err := b.folder("another-tree-with-a-longer-name")
	if err != nil {
		return nil, err
	}
	// Of the copy, because the sources may be edited meanwhile.
	if err := copyTree(first, second); err != nil {
		return nil, err
	}
	arm64 := []string{"GOOS=linux", "GOARCH=arm64"}
	fresh, how := arm64, "two folders, one build cache (--quick)"
	if !b.quick {
		cache, err := b.folder("cache")
		if err != nil {
			return nil, err
		}
		fresh, how = append(arm64[:2:2], "GOCACHE="+cache), "two folders, two build caches"
	}

	packages, err := b.lambdas()
	if err != nil {
		return nil, err
	}
	var results []result
	for _, source := range packages {
		b.say("  %s for arm64, twice", source)
		one, err := b.make(ctx, build{"bench-lambda", first, source, arm64})
		if err != nil {
			return results, err
		}
		other, err := b.make(ctx, build{"bench-lambda", second, source, fresh})
		if err != nil {
			return results, err
		}
		content, err := os.ReadFile(one)
		if err != nil {
			return results, err
		}
		again, err := os.ReadFile(other)
		if err != nil {
			return results, err
		}
		different := 0.0
		if !bytes.Equal(content, again) {
			different = 1
		}
		name := filepath.Base(filepath.Dir(source))
		results = append(results,
			result{What: name + ": Lambda binary, arm64", Measured: float64(len(content)) / 1e6, Unit: "MB", Budget: atMost(maxLambdaMB)},
			result{
				What: name + ": builds that differ", Measured: different, Unit: "of 1", Budget: atMost(0),
				Note: fmt.Sprintf("%s; sha256 %s", how, strings.Join(sums(content, again), " and ")),
			})
	}
	return results, nil
}

func sums(contents ...[]byte) []string {
	var all []string
	for _, content := range contents {
		all = append(all, fmt.Sprintf("%x", sha256.Sum256(content)))
	}
	return all
}
