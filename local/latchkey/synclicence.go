package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/syncclient"
)

func newSyncLicence(s *syncer) *cobra.Command {
	c := group(&cobra.Command{
		Use:     "licence",
		Aliases: []string{"license"},
		Short:   "Show, sync, upload and check the organization's license",
		Long: `The license of the organization is verified by the server with the vendor's
certificate. It comes from the cloud when asked for, and never by itself, unless
the server's settings say so.

To sync, upload and check it, and to tell the usage, is for the owners of the
organization: for those whom LATCHKEY_BILLING_RULES of the server names.`,
		Example: `  latchkey sync licence show
  latchkey sync licence sync
  latchkey sync licence upload bitwarden_organization_license.json`,
	}, newSyncLicenceShow(s), newSyncLicenceSync(s), newSyncLicenceUpload(s), newSyncLicenceCheck(s), newSyncLicenceUsage(s))
	return c
}

func newSyncLicenceShow(s *syncer) *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show the installed license", Args: noArguments,
		Example: `  latchkey sync licence show --json`,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := s.client()
			if err != nil {
				return err
			}
			return s.showLicence(c, client)
		},
	}
}

func (s *syncer) showLicence(c *cobra.Command, client *syncclient.Client) error {
	l, err := client.Licence(c.Context())
	if err != nil {
		return missing(err)
	}
	if s.json {
		return s.printJSON(l)
	}
	table := s.table()
	if v := l.Values; v != nil {
		fmt.Fprintf(table, "organization\t%s (%s of the cloud)\n", shown(v.Name), shown(v.ID))
		fmt.Fprintf(table, "plan\t%s\n", shown(v.Plan))
		if v.Seats != nil {
			fmt.Fprintf(table, "seats\t%d\n", *v.Seats)
		}
		fmt.Fprintf(table, "version\t%d, issued %s\nexpires\t%s\n", v.Version, when(v.Issued), when(v.Expires))
		fmt.Fprintf(table, "usable until\t%s\n", choose(l.UsableUntil == nil, "for ever", when(l.UsableUntil)))
	}
	fmt.Fprintf(table, "installed\t%s, from %s\n", when(l.Installed), shown(l.Source))
	fmt.Fprintf(table, "last license sync\t%s\n", when(l.LastSync))
	fmt.Fprintf(table, "usage\t%s\n", used(l.Usage))
	if l.Check != nil {
		fmt.Fprintf(table, "last check\t%s: %s\n", date(l.Check.At), checked(*l.Check))
	}
	if p := l.Problem; p != nil {
		fmt.Fprintf(table, "error\t%s\n", bad(trouble(p.Code, p.Message, p.Hint)))
	}
	return table.Flush()
}

func newSyncLicenceSync(s *syncer) *cobra.Command {
	return &cobra.Command{
		Use: "sync", Short: "Fetch the license from the cloud, and install it", Args: noArguments,
		Example: `  latchkey sync licence sync`,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := s.client()
			if err != nil {
				return err
			}
			if err := client.SyncLicence(c.Context()); err != nil {
				return missing(err)
			}
			return s.showLicence(c, client)
		},
	}
}

func newSyncLicenceUpload(s *syncer) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "upload FILE", Short: "Install a license that was downloaded from the cloud's web vault", Args: oneArgument,
		Example: `  latchkey sync licence upload bitwarden_organization_license.json`,
		RunE: func(c *cobra.Command, args []string) error {
			document, err := readSmall(args[0])
			if err != nil {
				return fmt.Errorf("%w: license: %w", errUsage, err)
			}
			client, err := s.client()
			if err != nil {
				return err
			}
			if err := client.UploadLicence(c.Context(), []byte(document), force); err != nil {
				return err
			}
			return s.showLicence(c, client)
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also one that is older than the installed one, or of another organization of the cloud")
	return c
}

func newSyncLicenceCheck(s *syncer) *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Compare the installed license with the cloud's, and install nothing", Args: noArguments,
		Example: `  latchkey sync licence check`,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := s.client()
			if err != nil {
				return err
			}
			check, err := client.CheckLicence(c.Context())
			if err != nil {
				return missing(err)
			}
			if s.json {
				return s.printJSON(check)
			}
			fmt.Fprintf(s.out, "The license: %s.\n", checked(check))
			return nil
		},
	}
}

// checked is what a check found.
func checked(c syncclient.LicenceCheck) string {
	switch {
	case c.Code != "":
		return "the check failed, " + shown(c.Code)
	case len(c.Changed) == 0:
		return "the cloud's is the same"
	}
	text := "the cloud's differs in " + shown(strings.Join(c.Changed, ", "))
	if c.Applied {
		return text + ", and is installed now"
	}
	return text + "; latchkey sync licence sync installs it"
}
