package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/syncclient"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/sponsor/cloud"
)

// longestSyncKey bounds what is taken for a billing sync key, which has 30
// characters, with the end of its line.
const longestSyncKey = 128

func newSyncConnect(s *syncer) *cobra.Command {
	return &cobra.Command{
		Use:   "connect",
		Short: "Give the server the billing sync key of the cloud's web vault",
		Long: `Give the server the billing sync key that the cloud's web vault shows, and enable
the connection. The key is asked for, without showing it, or read from the
input; it is never an argument, which other programs could see. The server tries
it out at once, and never gives it back but for the last four characters.

It needs a license, so upload that first where the server has none.`,
		Example: `  latchkey sync connect
  latchkey sync connect <billing-sync-key.txt`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := s.client()
			if err != nil {
				return err
			}
			key, err := s.syncKey(c.Context())
			if err != nil {
				return err
			}
			connection, err := client.Connect(c.Context(), key)
			if err != nil {
				return err
			}
			return s.showConnection(connection)
		},
	}
}

// syncKey takes the key from the terminal or the input. What it was is told in
// no error.
func (t *terminal) syncKey(ctx context.Context) (config.Secret, error) {
	text, err := t.given(ctx, "billing sync key", longestSyncKey)
	if err != nil {
		return "", err
	}
	text = strings.TrimSpace(text)
	unfit := func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }
	switch {
	case text == "":
		return "", fmt.Errorf("%w: the billing sync key is empty", errUsage)
	case strings.ContainsFunc(text, unfit):
		return "", fmt.Errorf("%w: that is no billing sync key, which has 30 letters and digits", errUsage)
	}
	return config.Secret(text), nil
}

// connected describes a connection in a line.
func connected(c *syncclient.Connection) string {
	if c == nil {
		return "none"
	}
	text := choose(c.Enabled, good("enabled"), bad("disabled"))
	if c.KeyEnd != "" {
		text += ", key ending in " + shown(c.KeyEnd)
	}
	if c.Region != "" {
		text += ", region " + shown(c.Region)
	}
	if c.CloudOrganization != "" {
		text += ", organization " + shown(c.CloudOrganization) + " of the cloud"
	}
	return text
}

func (s *syncer) showConnection(c syncclient.Connection) error {
	if s.json {
		return s.printJSON(c)
	}
	fmt.Fprintf(s.out, "Connection: %s.\n", connected(&c))
	if c.Enabled {
		fmt.Fprintln(s.out, tried(c.Probe))
	}
	return nil
}

// tried says what is known of a key.
func tried(p *syncclient.Probe) string {
	switch {
	case p == nil, p.At == nil && p.Code == "":
		return note("The key was not tried, because a sync or another trial may be under way: latchkey sync now --wait tries it.")
	case p.At == nil:
		return note("The key was not tried: " + trouble(p.Code, p.Message, p.Hint) + ".")
	case refused(p):
		return bad("The cloud refuses the key: " + trouble(p.Code, p.Message, p.Hint) + ".")
	case p.Code != "":
		return note("The cloud could not be asked about the key: " + trouble(p.Code, p.Message, p.Hint) + ".")
	}
	return good("The cloud accepts the key.")
}

// refused tells whether the cloud had its word on a key, and it was no.
func refused(p *syncclient.Probe) bool {
	return p.Code == string(cloud.KeyInvalid) || p.Code == string(cloud.OrgUnknown)
}

func newSyncEnable(s *syncer, enabled bool) *cobra.Command {
	c := &cobra.Command{
		Use:     "disable",
		Short:   "Stop syncing, and keep the key",
		Example: "  latchkey sync disable",
		Args:    noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := s.client()
			if err != nil {
				return err
			}
			connection, err := client.Enable(c.Context(), enabled)
			if err != nil {
				return missing(err)
			}
			return s.showConnection(connection)
		},
	}
	if enabled {
		c.Use, c.Short, c.Example = "enable", "Sync again with the key that there is", "  latchkey sync enable"
	}
	return c
}

// missing gives the lack of a connection or licence its exit code, which is not
// that of a setting that names nothing, and says how to come by one.
func missing(err error) error {
	if _, none := errors.AsType[*syncclient.NoConnection](err); none {
		return fmt.Errorf("%w: %w: latchkey sync connect makes one", errNoSuch, err)
	}
	if _, none := errors.AsType[*syncclient.NoLicence](err); none {
		return fmt.Errorf("%w: %w: latchkey sync licence upload FILE", errNoSuch, err)
	}
	return err
}

func newSyncDisconnect(s *syncer) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "disconnect",
		Short: "Remove the connection with its key",
		Long: `Remove the connection with its key: nothing is synced until somebody connects
again. Offers stay, here and in the cloud, which drops those that were not
accepted after half a year without a sync. latchkey sync disable keeps the key.`,
		Example: `  latchkey sync disconnect
  latchkey sync disconnect --yes`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := s.client()
			if err != nil {
				return err
			}
			if err := s.sure(c.Context(), yes, "The connection with the cloud is removed with its key."); err != nil {
				return err
			}
			if err := client.Disconnect(c.Context()); err != nil {
				return missing(err)
			}
			if s.json {
				return s.printJSON(map[string]bool{"disconnected": true})
			}
			fmt.Fprintln(s.out, "The connection is removed.")
			return nil
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
