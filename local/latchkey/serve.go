package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/functions/keyconnector"
	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/shared/buildinfo"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/signing"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/userkey"
)

// drainTime is how long requests in flight may go on after a signal to stop.
const drainTime = 20 * time.Second

type serveFlags struct {
	listen, tlsCert, tlsKey string
	functions               []string
}

// What one process can serve.
const (
	functionKeyConnector   = "key-connector"
	functionSecretsManager = "secrets-manager"
	functionBillingSync    = "billing-sync"
)

var everyFunction = strings.Join([]string{functionKeyConnector, functionSecretsManager, functionBillingSync}, ", ")

func newServe(t *terminal) *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve Key Connector, Secrets Manager, Billing sync on a server or in a container",
		Long: `Serve Key Connector, Secrets Manager, Billing sync or several of them with the
settings of the environment, and nothing for development. Bitwarden's clients
insist on https: give a certificate here, or put a reverse proxy in front.
Secrets Manager is at /identity and /api, Billing sync at /api.`,
		Example: `  LATCHKEY_STORE=sqlite LATCHKEY_SQLITE_PATH=/var/lib/latchkey/latchkey.db \
  LATCHKEY_KEYS=awskms LATCHKEY_AWSKMS_KEY_ID=alias/latchkey \
  LATCHKEY_IDENTITY_URL=https://vault.example.org/identity \
  LATCHKEY_WEB_VAULT_ORIGINS=https://vault.example.org \
  latchkey serve --listen 127.0.0.1:5000`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return serve(c.Context(), t, f) },
	}
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:5000", "address and port; port 0 chooses a free one")
	addFunctions(c, &f.functions)
	c.Flags().StringVar(&f.tlsCert, "tls-cert", "", "file with the certificate chain in PEM, for https")
	c.Flags().StringVar(&f.tlsKey, "tls-key", "", "file with the certificate's private key in PEM")
	return c
}

func serve(ctx context.Context, t *terminal, f serveFlags) (err error) {
	if (f.tlsCert == "") != (f.tlsKey == "") {
		return fmt.Errorf("%w: --tls-cert and --tls-key go together", errUsage)
	}
	log := logger(t.out)
	functions, err := loadFunctions(f.functions)
	for _, w := range functions.warnings { // what is misspelt is most often what is missing
		log.WarnContext(ctx, w)
	}
	if err != nil {
		return err
	}
	if functions.settings.Store.Kind == config.StoreMemory {
		log.WarnContext(ctx, "the store is memory: everything in it is gone when this process ends")
	}
	if functions.withoutLicences() {
		log.WarnContext(ctx, config.Prefix+"LICENSE_CERTIFICATE_FILE is not set: no license can be installed, and without one no organization can be connected; take licensing.cer as the vendor publishes it with its server")
	}
	parts, err := house.Open(ctx, functions.settings, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, parts.Close()) }()
	handler, err := functions.open(ctx, parts, log)
	if err != nil {
		return err
	}
	listener, err := listen(ctx, f)
	if err != nil {
		return err
	}
	scheme := "http"
	if f.tlsCert != "" {
		scheme = "https"
	}
	log.InfoContext(ctx, "listening", "url", scheme+"://"+listener.Addr().String()+functions.path, "functions", f.functions,
		"version", buildinfo.Version, "store", functions.settings.Store.Kind, "keys", functions.settings.Keys.Kind)
	return serveUntilDone(ctx, listener, handler, log)
}

// addFunctions adds the flag that chooses functions.
func addFunctions(c *cobra.Command, names *[]string) {
	c.Flags().StringSliceVar(names, "functions", []string{functionKeyConnector}, "which, separated by commas: "+everyFunction)
}

// functions are the settings of those that one process serves, which share
// their store and keys.
type functions struct {
	keyConnector   *keyconnector.Config
	secretsManager *house.SecretsManager
	billingSync    *house.BillingSync
	settings       house.Settings
	identity       config.Identity
	algorithms     []string // that the identity server may sign with; none: the usual one
	origins        []string // of web vaults
	path           string   // of Key Connector
	warnings       []string
}

// rings are the names of the functions' keyrings.
func (f functions) rings() []string {
	var names []string
	if f.keyConnector != nil {
		names = append(names, userkey.Ring)
	}
	if f.secretsManager != nil {
		names = append(names, machine.Ring, signing.Ring)
	}
	if f.billingSync != nil {
		names = append(names, sponsor.RingName)
	}
	return names
}

// withoutLicences tells whether Billing sync has nothing to verify licences with.
func (f functions) withoutLicences() bool {
	if f.billingSync == nil {
		return false
	}
	b := f.billingSync.Sponsorships.Billing
	return b.LicenseCertificateFile == "" && b.LicenseTestCertificateFile == ""
}

// loadFunctions reads the settings of the functions with these names from the
// environment. What is wrong with a setting that several have is told once.
func loadFunctions(names []string) (functions, error) {
	var f functions
	var warnings [][]string
	var faults []error
	for _, name := range names {
		switch name {
		case functionKeyConnector:
			c, unread, err := keyconnector.LoadConfig(config.Environment())
			f.keyConnector, f.path, f.identity, f.origins = &c, c.PathPrefix, c.Identity, c.WebVaultOrigins
			f.settings = house.Settings{Store: c.Store, AWS: c.AWS, Keys: c.Keys, Previous: c.Previous}
			warnings, faults = append(warnings, unread), append(faults, err)
		case functionSecretsManager:
			c, unread, err := house.LoadSecretsManager(config.Environment())
			f.secretsManager, f.settings = &c, c.Settings()
			f.identity, f.algorithms, f.origins = c.MachineAccounts.Identity, c.MachineAccounts.Operators.Algorithms, c.MachineAccounts.WebVaultOrigins
			warnings, faults = append(warnings, unread), append(faults, err)
		case functionBillingSync:
			c, unread, err := house.LoadBillingSync(config.Environment())
			f.billingSync, f.settings = &c, c.Settings()
			f.identity, f.algorithms, f.origins = c.Sponsorships.Identity, c.Sponsorships.Operators.Algorithms, c.Sponsorships.WebVaultOrigins
			warnings, faults = append(warnings, unread), append(faults, err)
		default:
			return functions{}, fmt.Errorf("%w: --functions %s: choose of %s", errUsage, name, everyFunction)
		}
	}
	if len(names) == 0 {
		return functions{}, fmt.Errorf("%w: --functions: name at least one of %s", errUsage, everyFunction)
	}
	f.warnings = f.ofOthers(house.InAll(warnings...))
	return f, house.JoinOnce(faults...)
}

// ofOthers says of a setting that only a function reads which was not chosen
// that this is so: it is not misspelt. Of what the commands read that speak to a
// server, which a shell may be set up for, it says nothing.
func (f functions) ofOthers(warnings []string) []string {
	// Of the others nothing but what they do not read is of interest.
	ofNoClient, _ := config.Load(&remoteSettings{}, config.Source{Environment: config.Environment()})
	warnings = slices.DeleteFunc(warnings, func(w string) bool {
		name, _, _ := strings.Cut(w, " ")
		return strings.HasPrefix(name, config.Prefix) && !slices.ContainsFunc(ofNoClient, func(unread string) bool { return strings.HasPrefix(unread, name+" ") })
	})
	unread := map[string][]string{}
	if f.keyConnector == nil {
		_, unread[functionKeyConnector], _ = keyconnector.LoadConfig(config.Environment())
	}
	if f.secretsManager == nil {
		_, unread[functionSecretsManager], _ = house.LoadSecretsManager(config.Environment())
	}
	if f.billingSync == nil {
		_, unread[functionBillingSync], _ = house.LoadBillingSync(config.Environment())
	}
	for i, w := range warnings {
		for _, other := range []string{functionKeyConnector, functionSecretsManager, functionBillingSync} {
			ignored, notChosen := unread[other]
			if name, _, ours := strings.Cut(w, " "); ours && notChosen && strings.HasPrefix(name, config.Prefix) && !slices.Contains(ignored, w) {
				warnings[i] = name + " is a setting of " + other + ", which --functions does not choose"
				break
			}
		}
	}
	return warnings
}

// open puts the functions on open parts, behind one address. What runs beside
// the requests ends with the parts.
func (f functions) open(ctx context.Context, parts *house.Parts, log *slog.Logger) (http.Handler, error) {
	mux := http.NewServeMux()
	if f.keyConnector != nil {
		c, err := keyconnector.New(*f.keyConnector, keyconnector.Parts{Store: parts.Store, Key: parts.Key, Previous: parts.Previous, Logger: log})
		if err != nil {
			return nil, err
		}
		mux.Handle("/", c)
	}
	if f.secretsManager != nil {
		list, err := f.secretsManager.Functions(parts, log)
		if err != nil {
			return nil, err
		}
		f.secretsManager.Gather(mux, list)
	}
	if f.billingSync == nil {
		return mux, nil
	}
	syncing, err := f.billingSync.Open(parts, log, house.SyncingOptions{})
	if err != nil {
		return nil, err
	}
	parts.Add(syncing)
	if f.secretsManager == nil {
		syncing.AnswerRest(mux)
	}
	return syncing.Mount(mux), syncing.Start(ctx)
}

func listen(ctx context.Context, f serveFlags) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", f.listen)
	if err != nil {
		return nil, fmt.Errorf("%w: --listen %s: %w", fault.Invalid, f.listen, err)
	}
	if f.tlsCert == "" {
		return listener, nil
	}
	certificate, err := tls.LoadX509KeyPair(f.tlsCert, f.tlsKey)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: certificate for https: %w", fault.Invalid, err), listener.Close())
	}
	return tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{certificate},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
	}), nil
}

// serveUntilDone serves until ctx ends, and lets what is in flight end.
func serveUntilDone(ctx context.Context, listener net.Listener, h http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	log.Info("stopping", "drain", drainTime.String())
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		return fmt.Errorf("requests in flight did not end: %w", errors.Join(err, server.Close()))
	}
	return nil
}
