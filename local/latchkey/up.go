package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/functions/keyconnector"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/emulators/localkms"
	"github.com/latchkey-fn/latchkey/local/emulators/minidyn"
	"github.com/latchkey-fn/latchkey/local/emulators/softhsm"
	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/local/lambdaruntime"
	"github.com/latchkey-fn/latchkey/providers/stores/dynamodb"
	"github.com/latchkey-fn/latchkey/providers/stores/memory"
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
that gives anybody a token for any user. Never let others reach it.

With --lambda the real Lambda binaries run, each request as an event through a
Lambda Runtime API; they know DynamoDB and AWS KMS only, so their emulators are
started too.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return up(c.Context(), t, f) },
	}
	c.Flags().StringVar(&f.listen, "listen", "", "address and port (default 127.0.0.1:8600, or a free port where that is taken)")
	c.Flags().StringVar(&f.data, "data", ".latchkey", "folder for store and keys")
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
	handler, err := f.handler(ctx, t, &parts, environment, log)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(identityPrefix+"/", http.StripPrefix(identityPrefix, identity))
	mux.Handle("/", handler)

	if err := printUp(t, f, base, environment); err != nil {
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
	if _, err := os.Stat(f.bootstrap("keyconnector")); f.lambda && err != nil {
		return f, fmt.Errorf("%w: the Lambda binaries are missing (`make run-lambda` builds them): %w", errUsage, err)
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

// environment makes the settings that the functions are started with: the same
// names as on a server.
func (f upFlags) environment(ctx context.Context, parts *house.Closers, base string) (map[string]string, error) {
	e := map[string]string{
		"LATCHKEY_STORE":             f.store,
		"LATCHKEY_KEYS":              f.keys,
		"LATCHKEY_IDENTITY_URL":      base + identityPrefix,
		"LATCHKEY_WEB_VAULT_ORIGINS": base,
		"LATCHKEY_PATH_PREFIX":       upPrefix,
		"LATCHKEY_PUBLIC_URL":        base,
		// Nothing outside of this machine is called; the emulators take any
		// credentials.
		"LATCHKEY_AWS_REGION":            localkms.Region,
		"LATCHKEY_AWS_ACCESS_KEY_ID":     "local",
		"LATCHKEY_AWS_SECRET_ACCESS_KEY": "local",
	}
	switch f.store {
	case config.StoreSQLite:
		e["LATCHKEY_SQLITE_PATH"] = filepath.Join(f.data, "latchkey.db")
	case config.StoreJSON:
		e["LATCHKEY_JSON_PATH"] = filepath.Join(f.data, "latchkey.json")
	case config.StoreDynamoDB:
		server, err := minidyn.Start()
		if err != nil {
			return nil, fmt.Errorf("start the DynamoDB emulator: %w", err)
		}
		parts.Add(server)
		e["LATCHKEY_DYNAMODB_TABLE"], e["LATCHKEY_DYNAMODB_ENDPOINT"] = "latchkey", server.URL
		if err := createTable(ctx, e); err != nil {
			return nil, err
		}
	case config.StoreMemory:
	default:
		return nil, fmt.Errorf("%w: --store %s: choose sqlite, json, dynamodb or memory", errUsage, f.store)
	}
	switch f.keys {
	case config.KeysSoftware:
		e["LATCHKEY_SOFTWARE_KEY_PATH"] = filepath.Join(f.data, "software-key.pem")
	case config.KeysAWSKMS:
		server, err := localkms.Start(filepath.Join(f.data, "kms"))
		if err != nil {
			return nil, fmt.Errorf("start the KMS emulator: %w", err)
		}
		parts.Add(server)
		key, err := server.EnsureKey(ctx, "alias/latchkey")
		if err != nil {
			return nil, fmt.Errorf("make a key in the KMS emulator: %w", err)
		}
		e["LATCHKEY_AWSKMS_KEY_ID"], e["LATCHKEY_AWSKMS_ENDPOINT"] = key, server.URL
	case keysSoftHSM:
		token, err := softhsm.Create(ctx, filepath.Join(f.data, "softhsm"))
		if err != nil {
			return nil, err
		}
		e["LATCHKEY_KEYS"] = config.KeysPKCS11
		e["LATCHKEY_PKCS11_LIBRARY"], e["LATCHKEY_PKCS11_TOKEN_LABEL"] = token.Library, token.Label
		e["LATCHKEY_PKCS11_PIN"], e["LATCHKEY_PKCS11_KEY_LABEL"] = token.PIN, token.KeyLabel
		for _, variable := range token.Env {
			name, value, _ := strings.Cut(variable, "=")
			if err := os.Setenv(name, value); err != nil { // the helper inherits it
				return nil, err
			}
		}
	default:
		return nil, fmt.Errorf("%w: --keys %s: choose software, softhsm or awskms", errUsage, f.keys)
	}
	return e, nil
}

func createTable(ctx context.Context, environment map[string]string) error {
	var s storeSettings
	if err := house.LoadPart(&s, environment, nil); err != nil {
		return err
	}
	driver, err := house.OpenStore(ctx, s.Store, s.AWS)
	if err != nil {
		return err
	}
	table, ok := driver.(*dynamodb.Store)
	if !ok {
		return fmt.Errorf("%w: the store is a %T, not DynamoDB", fault.Unsupported, driver)
	}
	return errors.Join(table.CreateTable(ctx), table.Close())
}

// handler is the functions in this process, or each behind the Lambda runtime.
func (f upFlags) handler(ctx context.Context, t *terminal, parts *house.Closers, environment map[string]string, log *slog.Logger) (http.Handler, error) {
	settings, _, err := keyconnector.LoadConfig(environment)
	if err != nil {
		return nil, err
	}
	secretsManager, _, err := house.LoadSecretsManager(environment)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	if !f.lambda {
		kc, err := house.OpenKeyConnector(ctx, settings, log)
		if err != nil {
			return nil, err
		}
		parts.Add(kc)
		if err := kc.Ring.Check(ctx); err != nil {
			return nil, fmt.Errorf("%s was made with another --keys, or is damaged; give another --data, or the same --keys: %w", f.data, err)
		}
		list, err := secretsManager.Functions(kc.Parts, log)
		if err != nil {
			return nil, err
		}
		mux.Handle("/", kc)
		secretsManager.Gather(mux, list)
		return mux, nil
	}
	// Functions that nobody asks contact nothing: these only tell their paths.
	list, err := secretsManager.Functions(&house.Parts{Store: memory.New()}, log)
	if err != nil {
		return nil, err
	}
	for i, function := range append(list, house.Function{Name: "keyconnector"}) {
		runtime, err := lambdaruntime.New(lambdaruntime.Config{
			Name: function.Name, Bootstrap: f.bootstrap(function.Name), Env: environment, Logs: t.err,
		})
		if err != nil {
			return nil, err
		}
		parts.Add(runtime)
		if i == len(list) {
			mux.Handle("/", runtime.Handler())
			break
		}
		list[i].Handler = runtime.Handler()
	}
	secretsManager.Gather(mux, list)
	return mux, nil
}

func printUp(t *terminal, f upFlags, base string, environment map[string]string) error {
	address := base + upPrefix
	if t.json {
		return t.printJSON(map[string]string{
			"keyConnector": address, "secretsManager": base, "identity": base + identityPrefix, "data": f.data,
			"store": f.store, "keys": f.keys,
		})
	}
	how := "one process"
	if f.lambda {
		how = "the Lambda binaries"
	}
	fmt.Fprintf(t.out, `%s (%s, store %s, keys %s). %s

  Key Connector    %s
  Secrets Manager  %s (the API below /api, the exchange of tokens below /identity)
  identity         %s%s
  data             %s

Try, in another terminal:
`, bold("Latchkey is up"), how, f.store, f.keys, note("For development only: anybody who reaches it gets a token for any user."),
		address, base, base, identityPrefix, f.data)
	if err := tryKeyConnector(t.out, base+identityPrefix, address, environment["LATCHKEY_SQLITE_PATH"]); err != nil {
		return err
	}
	trySecretsManager(t.out, base, f.data)
	fmt.Fprintf(t.out, "\nCtrl-C ends it.\n")
	return nil
}

// tokenOf is a shell's word for a token of the development identity server.
func tokenOf(identity, form string) string {
	return fmt.Sprintf(`$(curl -s %s %s/connect/token | sed 's/.*"access_token":"\([^"]*\)".*/\1/')`, form, identity)
}

func tryKeyConnector(out io.Writer, identity, address, sqlitePath string) error {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	fmt.Fprintf(out, `
  # Key Connector: a token for a new user
  TOKEN=%[1]s

  # store the user's key, once: the second time is a 400
  curl -i -w '\n' -H "Authorization: Bearer $TOKEN" -d '{"key":"%[2]s"}' %[3]s/user-keys

  # read it
  curl -i -w '\n' -H "Authorization: Bearer $TOKEN" %[3]s/user-keys

  # is everything well?
  curl -s -w '\n' %[3]s/health
`, tokenOf(identity, "-d user="+uuid.NewString()), base64.StdEncoding.EncodeToString(key), address)
	if sqlitePath != "" {
		fmt.Fprintf(out, "\n  # who has a key?\n  LATCHKEY_STORE=sqlite LATCHKEY_SQLITE_PATH='%s' %s keys list\n", sqlitePath, os.Args[0])
	}
	return nil
}

func trySecretsManager(out io.Writer, base, data string) {
	organization := uuid.NewString()
	fmt.Fprintf(out, `
  # Secrets Manager: an operator of a new organization, whose key is made here
  unset LATCHKEY_ACCESS_TOKEN; export LATCHKEY_SERVER=%[1]s LATCHKEY_PASSPHRASE=development LATCHKEY_KEY_FILE='%[2]s'
  export LATCHKEY_OPERATOR_TOKEN=%[3]s
  %[4]s org create --id %[5]s
  %[4]s project create demo
  echo -n hunter2 | %[4]s secret set DB_PASSWORD --project demo

  # a machine that may reach the project, and its access token
  %[4]s machine create robot --project demo
  ROBOT=$(%[4]s token create --machine robot --name first)

  # what it does there: a command with its secrets as environment variables
  unset LATCHKEY_OPERATOR_TOKEN LATCHKEY_KEY_FILE; export LATCHKEY_ACCESS_TOKEN=$ROBOT
  %[4]s run -- sh -c 'echo "the password is $DB_PASSWORD"'
`, base, filepath.Join(data, organization+".age"), tokenOf(base+identityPrefix, "-d user="+uuid.NewString()+" -d orgowner="+organization),
		os.Args[0], organization)
}
