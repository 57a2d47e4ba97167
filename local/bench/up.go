package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
)

// up measures from the exec of `latchkey up` until its port answers: the first
// time, when it makes two RSA keys and a database, and after that.
func (b *bench) up(ctx context.Context) ([]result, error) {
	binary, err := b.make(ctx, build{rule: "bench-program", tree: b.root, source: "./local/latchkey"})
	if err != nil {
		return nil, err
	}
	dir, err := b.folder("up")
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	starts := max(b.rounds/2, 3)
	b.say("  %d first starts, %d others", starts, starts)
	if _, err := upOnce(ctx, binary, data); err != nil {
		return nil, err
	}
	first := 0
	measured, err := interleave(starts,
		func() (float64, error) {
			first++
			return upOnce(ctx, binary, fmt.Sprintf("%s-%d", data, first))
		},
		func() (float64, error) { return upOnce(ctx, binary, data) })
	if err != nil {
		return nil, err
	}
	return []result{
		{What: "latchkey up: exec to first answer, new data folder", Measured: median(measured[0]), Unit: "ms"},
		{What: "latchkey up: exec to first answer, after that", Measured: median(measured[1]), Unit: "ms"},
	}, nil
}

func upOnce(ctx context.Context, binary, data string) (ms float64, err error) {
	p, err := launch(ctx, binary, nil, "up", "--json", "--listen", "127.0.0.1:0", "--data", data)
	if err != nil {
		return 0, err
	}
	var told struct{ KeyConnector string }
	if err := p.until(&told, func() bool { return told.KeyConnector != "" }); err != nil {
		return 0, err
	}
	p.drain()
	defer func() { err = errors.Join(err, p.stop()) }()
	took, err := p.answers(ctx, told.KeyConnector+"/alive")
	return milliseconds(took), err
}
