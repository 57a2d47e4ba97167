package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/syncclient"
)

func newSyncOffers(s *syncer) *cobra.Command {
	list := newSyncOffersList(s)
	c := group(&cobra.Command{
		Use:   "offers",
		Short: "List, create, revoke and reissue offers of free Families organizations",
		Long: `List the offers of free Families organizations, or create, revoke and reissue
them. What is changed here reaches the cloud, which mails the offers, with the
next sync. The statuses are those of the web vault:

  Requested               the next sync sends it
  Sent                    the cloud mailed it
  Active                  it was accepted
  Removed (awaiting sync) it is revoked; the next sync removes it
  Expires MM/dd/yyyy      it is revoked, and lasts until then`,
		Example: `  latchkey sync offers
  latchkey sync offers create someone@example.org
  latchkey sync offers revoke 5a1b0e52-7f3c-4f0d-9a57-3f2c2b1f7f10`,
	}, list, newSyncOffersCreate(s), newSyncOffersRevoke(s), newSyncOffersReissue(s), newSyncOffersImport(s))
	c.RunE = list.RunE
	return c
}

func newSyncOffersList(s *syncer) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the offers",
		Example: `  latchkey sync offers list --json`,
		Args:    noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := s.client()
			if err != nil {
				return err
			}
			offers, err := client.Offers(c.Context())
			if err != nil {
				return err
			}
			return s.showOffers(offers)
		},
	}
}

func (s *syncer) showOffers(offers []syncclient.Offer) error {
	if s.json {
		return s.printJSON(offers)
	}
	table := s.table()
	fmt.Fprintln(table, "ID\tMEMBER\tE-MAIL\tNAME\tSTATUS\tLAST SYNC\tVALID UNTIL\tNOTE")
	for _, o := range offers {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", o.ID, shown(o.Member), shown(o.Email), shown(o.Name), shown(o.Status.Label), when(o.LastSync), day10(o.ValidUntil), remark(o))
	}
	return table.Flush()
}

// day10 is a date without its time.
func day10(at *time.Time) string {
	if at == nil {
		return "-"
	}
	return at.UTC().Format(time.DateOnly)
}

// remark is what somebody has to know of an offer besides its status.
func remark(o syncclient.Offer) string {
	switch {
	case o.Quarantined != "":
		return "not sent: " + shown(o.Quarantined)
	case o.Problem != "":
		return shown(o.Problem)
	case o.MailUncertain && o.LastSync != nil:
		return "perhaps not mailed: reissue it"
	}
	return ""
}

func newSyncOffersCreate(s *syncer) *cobra.Command {
	var o syncclient.NewOffer
	c := &cobra.Command{
		Use:   "create EMAIL",
		Short: "Offer somebody a free Families organization",
		Long: `Offer the owner of an address a free Families organization: as your own offer, of
which every member has one, or with --admin as the organization's, for which its
license must allow that. The cloud mails it after the next sync.`,
		Example: `  latchkey sync offers create someone@example.org
  latchkey sync offers create someone@example.org --admin --name "the auditors"`,
		Args: oneArgument,
		RunE: func(c *cobra.Command, args []string) error {
			client, err := s.client()
			if err != nil {
				return err
			}
			o.Email = args[0]
			made, err := client.CreateOffer(c.Context(), o)
			if err != nil {
				return err
			}
			if s.json {
				return s.printJSON(made)
			}
			fmt.Fprintf(s.out, "The offer is created, as %s. The next sync sends it: latchkey sync now\n", made.ID)
			return nil
		},
	}
	c.Flags().StringVar(&o.Name, "name", "", "what to call it")
	c.Flags().BoolVar(&o.AdminInitiated, "admin", false, "in the organization's name")
	return c
}

func newSyncOffersRevoke(s *syncer) *cobra.Command {
	var yes bool
	var member string
	c := &cobra.Command{
		Use:   "revoke ID | --member ID",
		Short: "Revoke an offer, or all of a member",
		Long: `Revoke an offer, or with --member all that a member made who has left. One that
was not sent yet is gone at once, one that was sent is removed from the cloud by
the next sync, and one that was accepted lasts as long as it was paid for.`,
		Example: `  latchkey sync offers revoke 5a1b0e52-7f3c-4f0d-9a57-3f2c2b1f7f10
  latchkey sync offers revoke --member 0b7d6c1e-52a5-4a8e-8b53-2f6a3d0d9c11 --yes`,
		Args: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("member") {
				return noArguments(c, args)
			}
			return oneArgument(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("member") {
				return s.revokeOf(c.Context(), member, yes)
			}
			id, client, err := s.offer(args[0])
			if err != nil {
				return err
			}
			if err := s.sure(c.Context(), yes, fmt.Sprintf("Offer %s is revoked.", id)); err != nil {
				return err
			}
			if err := client.RevokeOffer(c.Context(), id); err != nil {
				return err
			}
			return s.done("Offer", "revoked", id)
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().StringVar(&member, "member", "", "all offers of this member, by the id that the list has (MEMBER)")
	return c
}

func (s *syncer) revokeOf(ctx context.Context, member string, yes bool) error {
	id, ok := asID(member)
	if !ok {
		return fmt.Errorf("%w: that is no id of a member: latchkey sync offers lists them", errUsage)
	}
	client, err := s.client()
	if err != nil {
		return err
	}
	if err := s.sure(ctx, yes, fmt.Sprintf("All offers of member %s are revoked.", id)); err != nil {
		return err
	}
	revoked, err := client.RevokeOffersOf(ctx, id)
	if err != nil {
		return err
	}
	if s.json {
		return s.printJSON(map[string]int{"revoked": revoked})
	}
	fmt.Fprintf(s.out, "%d offer(s) of member %s are revoked.\n", revoked, id)
	return nil
}

// offer gives the id of an offer that an argument names, and the client for it.
func (s *syncer) offer(text string) (string, *syncclient.Client, error) {
	id, ok := asID(text)
	if !ok {
		// It is not repeated: an address may stand there.
		return "", nil, fmt.Errorf("%w: that is no id of an offer: latchkey sync offers lists them", errUsage)
	}
	client, err := s.client()
	return id, client, err
}

func newSyncOffersReissue(s *syncer) *cobra.Command {
	var email, name string
	c := &cobra.Command{
		Use:   "reissue ID",
		Short: "Have an offer mailed again, or to another address",
		Long: `Have an offer mailed again, or to another address: the next sync removes it from
the cloud and sends it anew. One that was accepted cannot be reissued.`,
		Example: `  latchkey sync offers reissue 5a1b0e52-7f3c-4f0d-9a57-3f2c2b1f7f10
  latchkey sync offers reissue 5a1b0e52-7f3c-4f0d-9a57-3f2c2b1f7f10 --email other@example.org`,
		Args: oneArgument,
		RunE: func(c *cobra.Command, args []string) error {
			id, client, err := s.offer(args[0])
			if err != nil {
				return err
			}
			o, err := client.ReissueOffer(c.Context(), id, email, name)
			if err != nil {
				return err
			}
			if s.json {
				return s.printJSON(o)
			}
			fmt.Fprintf(s.out, "Offer %s is reissued. The next sync sends it: latchkey sync now\n", o.ID)
			return nil
		},
	}
	c.Flags().StringVar(&email, "email", "", "another address (default: as it was)")
	c.Flags().StringVar(&name, "name", "", "another name (default: as it was)")
	return c
}
