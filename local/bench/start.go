package main

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/latchkey-fn/latchkey/events"
	"github.com/latchkey-fn/latchkey/local/emulators/localkms"
	"github.com/latchkey-fn/latchkey/local/lambdaruntime"
)

const maxStartRatio = 1.3

// lambdaSettings are those of the Lambda binary. What they name is not
// contacted at the start, nor by the request that is sent.
var lambdaSettings = map[string]string{
	"LATCHKEY_STORE": "dynamodb", "LATCHKEY_DYNAMODB_TABLE": "latchkey",
	"LATCHKEY_KEYS": "awskms", "LATCHKEY_AWSKMS_KEY_ID": "alias/latchkey",
	"LATCHKEY_IDENTITY_URL": "https://vault.example.org/identity", "LATCHKEY_WEB_VAULT_ORIGINS": "https://vault.example.org",
	"LATCHKEY_AWS_REGION": localkms.Region, "AWS_REGION": localkms.Region,
	// Lambda gives every function credentials in its environment.
	"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_SESSION_TOKEN": "local",
}

// start measures how long a Lambda binary takes from its exec until it asks for
// work, as Lambda bills it.
func (b *bench) start(ctx context.Context) ([]result, error) {
	ours, err := b.make(ctx, build{rule: "bench-lambda", tree: b.root, source: "./functions/keyconnector/aws"})
	if err != nil {
		return nil, err
	}
	bare, err := b.make(ctx, build{rule: "bench-lambda", tree: b.root, source: "./local/bench/barebootstrap"})
	if err != nil {
		return nil, err
	}
	// A start is short, so it takes more of them than of other things.
	starts := 3 * b.rounds
	b.say("  %d starts of each", starts)
	measured, err := interleave(starts,
		func() (float64, error) { return startOnce(ctx, ours) },
		func() (float64, error) { return startOnce(ctx, bare) })
	if err != nil {
		return nil, err
	}
	return []result{result{
		What: "keyconnector: exec to first /next", Unit: "ms", Bare: "aws-lambda-go, same SDK clients", Budget: ratioAtMost(maxStartRatio),
	}.compare(measured[0], measured[1])}, nil
}

func startOnce(ctx context.Context, bootstrap string) (ms float64, err error) {
	event, err := events.Load("keyconnector-alive", "")
	if err != nil {
		return 0, err
	}
	started := make(chan time.Duration, 1)
	function, err := lambdaruntime.New(lambdaruntime.Config{
		Name: filepath.Base(filepath.Dir(bootstrap)), Bootstrap: bootstrap, Env: lambdaSettings, MaxInstances: 1,
		Started: func(d time.Duration) { started <- d },
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, function.Close()) }()
	if _, err := function.Invoke(ctx, event); err != nil {
		return 0, err
	}
	return milliseconds(<-started), nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
