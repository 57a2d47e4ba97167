package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/smclient"
	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

func newOrg(t *terminal) *cobra.Command {
	r := &remote{terminal: t}
	return r.addFlags(group(&cobra.Command{
		Use:   "org",
		Short: "Make an organization's key, and set its policy (Secrets Manager)",
		Long: `An organization's key encrypts the names and values of its secrets. It is made
here, and the server never has it: it is in the operators' key files, and,
encrypted for each of them, in the access tokens.
` + operatorHelp,
	}, newOrgCreate(r), newOrgShow(r), newOrgPolicy(r)))
}

func newOrgCreate(r *remote) *cobra.Command {
	var id string
	c := &cobra.Command{
		Use:   "create",
		Short: "Make the organization's key, in a key file, and register it",
		Long: `Make the organization's key, write it into a key file under a passphrase, and
register with the server that this is the organization's key, so that nobody
makes a second one. Keep a copy of the key file: without it, and without any
access token, no secret can be read again.

Broken off, it can be run again. With LATCHKEY_ORGANIZATION_KEY set, that key is
registered, and no file is made.`,
		Example: `  latchkey org create --server https://sm.example.org
  latchkey org create --id 5a1b0e52-7f3c-4f0d-9a57-3f2c2b1f7f10 --key-file acme.age`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return createOrg(c.Context(), r, id) },
	}
	c.Flags().StringVar(&id, "id", "", "the organization's id, as the operators' tokens have it (default the one that yours names)")
	return c
}

func createOrg(ctx context.Context, r *remote, id string) error {
	if id != "" {
		given, ok := asID(id)
		if !ok {
			return fmt.Errorf("%w: --id %s is not a UUID", errUsage, id)
		}
		r.flags.organization = given
	}
	s, err := r.keylessSettings()
	if err != nil {
		return err
	}
	client, err := smclient.ForOperator(smclient.Config{Server: s.Server}, smclient.Operator{Bearer: s.OperatorToken, Organization: s.Organization})
	if err != nil {
		return err
	}
	settings, err := client.Settings(ctx)
	if err != nil {
		return err
	}
	k, path, made, err := keyToRegister(ctx, r, s, settings)
	if err != nil {
		return err
	}
	settings, err = client.RegisterKey(ctx, k)
	switch {
	case errors.Is(err, smclient.ErrOtherKey) && made:
		return errors.Join(err, os.Remove(path)) // it opens nothing
	case err != nil && made:
		return fmt.Errorf("%w\nThe new key stays in %s, since it may be registered by now: run this again", err, path)
	case err != nil:
		return err
	}
	if r.json {
		return r.printJSON(struct {
			Organization string `json:"organizationId"`
			KeyFile      string `json:"keyFile,omitempty"`
		}{settings.Organization, path})
	}
	fmt.Fprintf(r.out, "Organization %s has its key.\n", settings.Organization)
	if path != "" {
		fmt.Fprintf(r.out, "It is in %s. Keep a copy of that file, and its passphrase, in a safe place.\n", path)
	}
	return nil
}

// keyToRegister gives the key of the environment, of the key file that is there
// already, or else a new one, written into a key file before anybody hears of it.
func keyToRegister(ctx context.Context, r *remote, s remoteSettings, settings smclient.Settings) (key encstring.Key, path string, made bool, err error) {
	if s.OrganizationKey != "" {
		k, err := r.organizationKey(ctx, s)
		return k.key, "", false, err
	}
	path, err = keyFilePath(s)
	if err != nil {
		return encstring.Key{}, "", false, err
	}
	_, err = os.Stat(path)
	switch {
	case err == nil:
		k, err := r.organizationKey(ctx, s)
		return k.key, path, false, err
	case !errors.Is(err, fs.ErrNotExist):
		return encstring.Key{}, "", false, fmt.Errorf("%w: key file: %w", errUsage, err)
	case settings.KeyCheck != "":
		return encstring.Key{}, "", false, fmt.Errorf("%w: organization %s has a key already, and there is no %s: get the key file from whoever made it", fault.Conflict, s.Organization, path)
	}
	passphrase, err := r.newPassphrase(ctx, s)
	if err != nil {
		return encstring.Key{}, "", false, err
	}
	key = encstring.NewKey()
	if err := writeKeyFile(path, passphrase, r.scryptWork, organizationKey{s.Organization, key, s.Server}); err != nil {
		return encstring.Key{}, "", false, fmt.Errorf("key file: %w", err)
	}
	return key, path, true, nil
}

func newOrgShow(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show whether the organization has its key, and its policy",
		Args:  noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := r.asOperator(c.Context())
			if err != nil {
				return err
			}
			settings, err := client.Settings(c.Context())
			if err != nil {
				return err
			}
			return showOrg(r.terminal, settings)
		},
	}
}

func showOrg(t *terminal, s smclient.Settings) error {
	longest := lifetime{duration: s.MaxTokenLifetime, none: "none"}
	if t.json {
		return t.printJSON(struct {
			Organization     string `json:"organizationId"`
			HasKey           bool   `json:"hasKey"`
			MaxTokenLifetime int64  `json:"maxTokenLifetimeSeconds"`
			Enabled          bool   `json:"enabled"`
		}{s.Organization, s.KeyCheck != "", int64(s.MaxTokenLifetime.Seconds()), s.Enabled})
	}
	table := t.table()
	fmt.Fprintf(table, "organization\t%s\nkey\t%s\nlongest life of a token\t%s\nmachines\t%s\n",
		s.Organization, choose(s.KeyCheck != "", "registered", "not made yet"), longest.String(), choose(s.Enabled, "enabled", bad("disabled")))
	return table.Flush()
}

func choose(condition bool, yes, no string) string {
	if condition {
		return yes
	}
	return no
}

func newOrgPolicy(r *remote) *cobra.Command {
	longest := lifetime{none: "none"}
	var disable, enable, yes bool
	c := &cobra.Command{
		Use:   "policy",
		Short: "Limit the life of new access tokens; disable or enable all machines",
		Example: `  latchkey org policy --max-token-lifetime 90d
  latchkey org policy --disable   # every machine's next request is refused`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if disable && enable {
				return fmt.Errorf("%w: --disable and --enable contradict each other", errUsage)
			}
			var p smclient.Policy
			if c.Flags().Changed("max-token-lifetime") {
				p.MaxTokenLifetime = &longest.duration
			}
			if disable || enable {
				p.Enabled = &enable
			}
			if p == (smclient.Policy{}) {
				return fmt.Errorf("%w: nothing is to be changed (see %s --help)", errUsage, c.CommandPath())
			}
			client, err := r.asOperator(c.Context())
			if err != nil {
				return err
			}
			if disable {
				if err := r.sure(c.Context(), yes, "Every machine of the organization is refused from its next request on."); err != nil {
					return err
				}
			}
			settings, err := client.SetPolicy(c.Context(), p)
			if err != nil {
				return err
			}
			return showOrg(r.terminal, settings)
		},
	}
	c.Flags().Var(&longest, "max-token-lifetime", "how long new access tokens may be good, such as 90d, or none (default: as it is)")
	c.Flags().Lookup("max-token-lifetime").DefValue = "" // none is not what is set without the flag
	c.Flags().BoolVar(&disable, "disable", false, "refuse every machine")
	c.Flags().BoolVar(&enable, "enable", false, "let the machines in again")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
