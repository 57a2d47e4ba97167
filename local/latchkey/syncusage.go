package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/syncclient"
)

func newSyncLicenceUsage(s *syncer) *cobra.Command {
	var u syncclient.Usage
	c := &cobra.Command{
		Use:   "usage --seats N",
		Short: "Tell the server what the organization uses, which a license has to allow",
		Long: `Tell the server what the organization uses. The server has no members,
collections and groups to count, so that it checks a license against what it was
told last, and against nothing where it never was. What is left out is none.

As to sync or upload a license, this is for the owners of the organization: for
those whom LATCHKEY_BILLING_RULES of the server names. Administrators may read it.`,
		Example: `  latchkey sync licence usage --seats 42 --collections 10 --groups 3 --sso`,
		Args:    noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if !c.Flags().Changed("seats") {
				return fmt.Errorf("%w: say with --seats how many seats are filled", errUsage)
			}
			client, err := s.client()
			if err != nil {
				return err
			}
			told, err := client.SetUsage(c.Context(), u)
			if err != nil {
				return err
			}
			if s.json {
				return s.printJSON(told)
			}
			fmt.Fprintf(s.out, "Usage: %s.\n", used(&told))
			return nil
		},
	}
	flags := c.Flags()
	flags.IntVar(&u.Seats, "seats", 0, "seats that are filled")
	flags.IntVar(&u.Collections, "collections", 0, "collections")
	flags.IntVar(&u.Groups, "groups", 0, "groups")
	flags.IntVar(&u.EnabledPolicies, "policies", 0, "policies that are enabled")
	flags.BoolVar(&u.SSO, "sso", false, "single sign-on is used")
	flags.BoolVar(&u.KeyConnector, "key-connector", false, "Key Connector is used")
	flags.BoolVar(&u.SCIM, "scim", false, "SCIM is used")
	flags.BoolVar(&u.CustomPermissions, "custom-permissions", false, "somebody has custom permissions")
	flags.BoolVar(&u.AccountRecovery, "account-recovery", false, "the policy of account recovery is enabled")
	return c
}

// used describes what an organisation uses in a line.
func used(u *syncclient.Usage) string {
	if u == nil {
		return note("never told, so that licenses are not checked against it: latchkey sync licence usage --seats N")
	}
	text := fmt.Sprintf("%d seats, %d collections, %d groups, %d policies", u.Seats, u.Collections, u.Groups, u.EnabledPolicies)
	for _, feature := range []struct {
		name string
		used bool
	}{
		{"SSO", u.SSO},
		{"Key Connector", u.KeyConnector},
		{"SCIM", u.SCIM},
		{"custom permissions", u.CustomPermissions},
		{"account recovery", u.AccountRecovery},
	} {
		if feature.used {
			text = strings.Join([]string{text, feature.name}, ", ")
		}
	}
	return text + ", as of " + when(u.Told)
}
