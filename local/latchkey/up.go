package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Where things are on the one port of `latchkey up`.
const (
	upPrefix       = "/key-connector"
	identityPrefix = "/development/identity" // /identity is Secrets Manager's
)

type upFlags struct {
	listen, data, store, keys, binaries string
	lambda                              bool
}

func newUp(t *terminal) *cobra.Command {
	var f upFlags
	c := &cobra.Command{
		Use:   "up",
		Short: "Run everything on this machine, for development",
		Long: `Run everything on one port of this machine, with a development identity server
that gives anybody a token for any user, and an emulator of the cloud that Billing
sync syncs with, on ports of its own. Never let others reach them.

With --lambda the real Lambda binaries run, each request as an event through a
Lambda Runtime API; they know DynamoDB and AWS KMS only, so their emulators are
started too.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return up(c.Context(), t, f) },
	}
	c.Flags().StringVar(&f.listen, "listen", "", "address and port (default 127.0.0.1:8600, or a free port where that is taken)")
	c.Flags().StringVar(&f.data, "data", ".latchkey", "folder for store, keys and the emulated cloud")
	c.Flags().StringVar(&f.store, "store", "", "sqlite, json, dynamodb (an emulator, in memory) or memory (default sqlite; dynamodb with --lambda)")
	c.Flags().StringVar(&f.keys, "keys", "", "software, softhsm or awskms (an emulator) (default software; awskms with --lambda)")
	c.Flags().BoolVar(&f.lambda, "lambda", false, "run the Lambda binaries")
	c.Flags().StringVar(&f.binaries, "lambda-binaries", "", "folder of the Lambda binaries, FUNCTION/bootstrap (default lambda beside this program)")
	for name, values := range map[string][]string{
		"store": {config.StoreSQLite, config.StoreJSON, config.StoreDynamoDB, config.StoreMemory},
		"keys":  {config.KeysSoftware, keysSoftHSM, config.KeysAWSKMS},
	} {
		if err := c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // a flag of that name was not defined above
		}
	}
	return c
}

// keysSoftHSM is PKCS#11 over a software token that `up` makes.
const keysSoftHSM = "softhsm"

func up(ctx context.Context, t *terminal, f upFlags) (err error) {
	f, err = f.withDefaults()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(f.data, 0o700); err != nil {
		return fmt.Errorf("%w: --data: %w", fault.Invalid, err)
	}
	listener, err := upListener(ctx, f.listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	base := "http://" + listener.Addr().String()
	identity, err := devidentity.New(devidentity.Config{
		Issuer: "http://127.0.0.1", URL: base + identityPrefix, KeyFile: filepath.Join(f.data, "identity-key.pem"),
	})
	if err != nil {
		return err
	}

	// What happens is told on the error stream, so that what to try stays
	// together on the other.
	log := slog.New(slog.NewTextHandler(t.err, nil))
	var parts house.Closers
	defer func() { err = errors.Join(err, parts.Close()) }()
	environment, err := f.environment(ctx, &parts, base)
	if err != nil {
		return err
	}
	cloud, err := openCloud(filepath.Join(f.data, "cloud"))
	if err != nil {
		return err
	}
	parts.Add(cloud)
	settings, err := loadUp(environment, cloud)
	if err != nil {
		return err
	}
	open := f.openHere
	if f.lambda {
		open = f.openLambda
	}
	handler, err := open(ctx, t, &parts, settings, log)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(identityPrefix+"/", http.StripPrefix(identityPrefix, identity))
	mux.Handle("/", handler)

	if err := printUp(t, f, base, settings, cloud); err != nil {
		return err
	}
	return serveUntilDone(ctx, listener, mux, log)
}

func (f upFlags) withDefaults() (upFlags, error) {
	store, keys := config.StoreSQLite, config.KeysSoftware
	if f.lambda {
		store, keys = config.StoreDynamoDB, config.KeysAWSKMS
	}
	f.store, f.keys = cmp.Or(f.store, store), cmp.Or(f.keys, keys)
	if f.lambda && (f.store != config.StoreDynamoDB || f.keys != config.KeysAWSKMS) {
		return f, fmt.Errorf("%w: --lambda goes with --store dynamodb and --keys awskms: the Lambda binaries have no others", errUsage)
	}
	if f.binaries == "" {
		self, err := os.Executable()
		if err != nil {
			return f, err
		}
		f.binaries = filepath.Join(filepath.Dir(self), "lambda")
	}
	for _, function := range lambdaFunctions {
		if _, err := os.Stat(f.bootstrap(function)); f.lambda && err != nil {
			return f, fmt.Errorf("%w: the Lambda binaries are missing (`make run-lambda` builds them): %w", errUsage, err)
		}
	}
	data, err := filepath.Abs(f.data)
	f.data = data
	return f, err
}

func (f upFlags) bootstrap(function string) string {
	return filepath.Join(f.binaries, function, "bootstrap")
}

// upListener takes the usual port, or any where that is taken, unless one was
// asked for.
func upListener(ctx context.Context, asked string) (net.Listener, error) {
	if asked != "" {
		host, _, err := net.SplitHostPort(asked)
		if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("%w: --listen %s: up gives anybody a token for any user, so it listens on 127.0.0.1 or [::1] only", errUsage, asked)
		}
		return listen(ctx, serveFlags{listen: asked})
	}
	listener, err := listen(ctx, serveFlags{listen: "127.0.0.1:8600"})
	if err != nil {
		return listen(ctx, serveFlags{listen: "127.0.0.1:0"})
	}
	return listener, nil
}
