package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/smclient"
)

func newToken(t *terminal) *cobra.Command {
	r := &remote{terminal: t}
	return r.addFlags(group(&cobra.Command{
		Use:   "token",
		Short: "Create, list, revoke and rotate access tokens (Secrets Manager)",
		Long: `An access token is what a machine has. It is shown once, when it is made: the
server keeps a hash of one part, and never has the other.
` + remoteHelp,
	}, newTokenCreate(r), newTokenList(r), newTokenRevoke(r), newTokenRotate(r)))
}

func newTokenCreate(r *remote) *cobra.Command {
	var machine, name string
	var projects []string
	var readOnly bool
	expires := lifetime{none: "never"}
	c := &cobra.Command{
		Use: "create", Short: "Make an access token, and print it once", Args: noArguments,
		Long: `Make an access token of a machine account, and print it. Nobody can print it
again. The token is the only line on the output; pipe it to where it belongs.`,
		Example: `  latchkey token create --machine ci --name "build server" --expires 30d
  latchkey token create --machine ci --name reports --read-only --project production`,
		RunE: func(c *cobra.Command, _ []string) error {
			if machine == "" {
				return fmt.Errorf("%w: --machine is needed: the name or id of a machine account", errUsage)
			}
			if strings.TrimSpace(name) == "" {
				return fmt.Errorf("%w: --name is needed, and may not be empty: it is what the token is called in lists", errUsage)
			}
			return r.withMachine(c.Context(), machine, func(client *smclient.Client, id string) error {
				limits, err := projectIDs(c.Context(), client, projects)
				if err != nil {
					return err
				}
				n := smclient.NewToken{Machine: id, Name: name, ReadOnly: readOnly, Projects: limits}
				if !c.Flags().Changed("expires") {
					if expires.duration, err = usualLife(c.Context(), client); err != nil {
						return err
					}
				}
				if expires.duration > 0 {
					n.Expires = time.Now().Add(expires.duration - earlier(expires.duration)).UTC().Truncate(time.Second)
				}
				created, err := client.CreateToken(c.Context(), n)
				if err != nil {
					return err
				}
				return r.printToken(created)
			})
		},
	}
	c.Flags().StringVar(&machine, "machine", "", "the machine account, by name or id (required)")
	c.Flags().StringVar(&name, "name", "", "what to call the token (required)")
	c.Flags().Var(&expires, "expires", "how long it is good, or never (default 90d, or the longest that the organization allows, where that is less)")
	c.Flags().Lookup("expires").DefValue = "" // the text above tells it
	c.Flags().BoolVar(&readOnly, "read-only", false, "it never writes, whatever its machine may")
	c.Flags().StringArrayVar(&projects, "project", nil, "limit it to this one of its machine's projects; several times for several")
	return c
}

// usualLife is how long an access token is good that nobody said it of: 90 days,
// or as long as its organisation allows.
func usualLife(ctx context.Context, client *smclient.Client) (time.Duration, error) {
	settings, err := client.Settings(ctx)
	if most := settings.MaxTokenLifetime; most > 0 {
		return min(90*day, most), err
	}
	return 90 * day, err
}

// earlier is by how much an access token ends earlier than was asked for: the
// organisation's limit may be the same, and the server's clock another.
func earlier(life time.Duration) time.Duration { return min(time.Minute, life/100) }

// printToken prints a new access token, alone on its line.
func (r *remote) printToken(created smclient.Created) (err error) {
	if r.json {
		err = r.printJSON(struct {
			ID      string     `json:"id"`
			Token   string     `json:"accessToken"`
			Expires *time.Time `json:"expireAt"`
		}{created.Token.ID, created.Token.Reveal(), created.Expires})
	} else {
		_, err = fmt.Fprintln(r.out, created.Token.Reveal())
	}
	if err != nil {
		return fmt.Errorf("access token %s was made, but could not be printed: revoke it, and make another: %w", created.Token.ID, err)
	}
	fmt.Fprintf(r.err, "This is the only time that access token %s is shown. It %s.\n", created.Token.ID, expiry(created.Expires))
	return nil
}

func expiry(at *time.Time) string {
	if at == nil {
		return "never expires"
	}
	return "expires " + date(*at)
}

func newTokenList(r *remote) *cobra.Command {
	var machine string
	var all bool
	var unused lifetime
	c := &cobra.Command{
		Use: "list", Short: "List access tokens (never the tokens themselves)", Args: noArguments,
		Example: `  latchkey token list --machine ci
  latchkey token list --unused 90d`,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := r.asOperator(c.Context())
			if err != nil {
				return err
			}
			tokens, machines, faults := listTokens(c.Context(), client, machine, all)
			if tokens == nil {
				return faults
			}
			if unused.duration > 0 {
				since := time.Now().Add(-unused.duration)
				tokens = slices.DeleteFunc(tokens, func(t smclient.Token) bool {
					return t.Created.After(since) || t.LastUsed != nil && t.LastUsed.After(since)
				})
			}
			if r.json {
				return errors.Join(faults, r.printJSON(tokens))
			}
			table := r.table()
			fmt.Fprintln(table, "ID\tNAME\tMACHINE\tEXPIRES\tLAST USED\tSTATE")
			for _, t := range tokens {
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", t.ID, shown(t.Name), shown(machines[t.Machine]), instant(t.Expires), instant(t.LastUsed), state(t))
			}
			return errors.Join(faults, table.Flush())
		},
	}
	c.Flags().StringVar(&machine, "machine", "", "only this machine account's, by name or id")
	c.Flags().BoolVar(&all, "all", false, "also the revoked ones")
	c.Flags().Var(&unused, "unused", "only those that were not used for so long, such as 90d")
	return c
}

func instant(at *time.Time) string {
	if at == nil {
		return "never"
	}
	return date(*at)
}

// state tells what an access token is good for.
func state(t smclient.Token) string {
	switch {
	case t.Revoked != nil:
		return fmt.Sprintf("revoked %s by %s", date(*t.Revoked), t.Revoker)
	case t.Expires != nil && !time.Now().Before(*t.Expires):
		return "expired"
	}
	words := []string{"good"}
	if t.ReadOnly {
		words = append(words, "read-only")
	}
	if len(t.Projects) > 0 {
		words = append(words, fmt.Sprintf("%d project(s) only", len(t.Projects)))
	}
	return strings.Join(words, ", ")
}

// listTokens lists those of one machine account or all, with the accounts'
// names. What cannot be read does not keep the rest from being listed.
func listTokens(ctx context.Context, client *smclient.Client, machine string, all bool) (tokens []smclient.Token, machines map[string]string, faults error) {
	accounts, faults := client.Machines(ctx)
	if accounts == nil {
		return nil, nil, faults
	}
	if id, ok := asID(machine); ok {
		accounts = slices.DeleteFunc(accounts, func(m smclient.Machine) bool { return m.ID != id })
		if len(accounts) == 0 {
			return nil, nil, fmt.Errorf("%w: there is no machine account %s", errNoSuch, id)
		}
	} else if machine != "" {
		one, err := byName("machine account", machine, accounts, nameOfMachine)
		if err != nil {
			return nil, nil, errors.Join(err, faults)
		}
		accounts = []smclient.Machine{one}
	}
	tokens, machines = []smclient.Token{}, map[string]string{}
	for _, m := range accounts {
		machines[m.ID] = m.Name
		its, err := client.Tokens(ctx, m.ID, all)
		tokens, faults = append(tokens, its...), errors.Join(faults, err)
	}
	return tokens, machines, faults
}

func newTokenRevoke(r *remote) *cobra.Command {
	var machine string
	var yes bool
	c := &cobra.Command{
		Use: "revoke ID...", Short: "Revoke access tokens: their next request is refused", Args: oneOrMore,
		Long: `Revoke access tokens, by their ids: the part of a token between the first two
dots. The next request of every session is refused. No key is needed, unless the
machine account is given by name.`,
		Example: `  latchkey token revoke 7e9d3c11-52aa-4be0-a3c4-3f2c2b1f7f10`,
		RunE: func(c *cobra.Command, args []string) error {
			var ids []string
			for _, text := range args {
				id, ok := asID(text)
				if !ok { // what was typed may be the whole token
					return fmt.Errorf("%w: an access token is revoked by its id: the part between the first two dots", errUsage)
				}
				ids = append(ids, id)
			}
			slices.Sort(ids)
			return revokeTokens(c.Context(), r, slices.Compact(ids), machine, yes)
		},
	}
	c.Flags().StringVar(&machine, "machine", "", "the tokens' machine account, by name or id (default: it is found out)")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func revokeTokens(ctx context.Context, r *remote, ids []string, machine string, yes bool) error {
	client, err := r.asOperator(ctx)
	if err != nil {
		return err
	}
	var machines []string
	if machine == "" {
		machines, err = client.MachineIDs(ctx)
	} else {
		machine, err = machineID(ctx, client, machine)
		machines = []string{machine}
	}
	if err != nil {
		return err
	}
	found, missing, err := findTokens(ctx, client, ids, machines)
	if err != nil {
		return err
	}
	// Who revokes several is in a hurry: those that exist are revoked, whatever
	// else was typed.
	var notFound error
	if len(missing) > 0 {
		notFound = fmt.Errorf("%w: there is no access token %s that you may reach", errNoSuch, strings.Join(missing, ", "))
	}
	if len(missing) == len(ids) {
		return notFound
	}
	owned := map[string][]string{} // those that are still good, by machine account
	var revoked []string
	for _, token := range found {
		if token.Revoked == nil {
			owned[token.Machine] = append(owned[token.Machine], token.ID)
			continue
		}
		revoked = append(revoked, token.ID)
		fmt.Fprintf(r.err, "latchkey: access token %s was %s already\n", token.ID, state(token))
	}
	if n := len(found) - len(revoked); n > 0 {
		if err := r.sure(ctx, yes, fmt.Sprintf("%d access token(s) will never be good again.", n)); err != nil {
			return err
		}
	}
	faults := []error{notFound}
	for _, machine := range slices.Sorted(maps.Keys(owned)) {
		if err := client.Revoke(ctx, machine, owned[machine]...); err != nil {
			faults = append(faults, err)
			continue
		}
		revoked = append(revoked, owned[machine]...)
	}
	if len(revoked) > 0 {
		faults = append(faults, r.done("Access token", "revoked", revoked...))
	}
	return errors.Join(faults...)
}

// findTokens finds access tokens among those of the machine accounts.
func findTokens(ctx context.Context, client *smclient.Client, ids, machines []string) (found []smclient.Token, missing []string, err error) {
	missing = slices.Clone(ids)
	for _, machine := range machines {
		if len(missing) == 0 {
			break
		}
		tokens, err := client.UnnamedTokens(ctx, machine)
		if err != nil {
			return nil, nil, err
		}
		for _, token := range tokens {
			if i := slices.Index(missing, token.ID); i >= 0 {
				found, missing = append(found, token), slices.Delete(missing, i, i+1)
			}
		}
	}
	return found, missing, nil
}

func newTokenRotate(r *remote) *cobra.Command {
	grace := lifetime{duration: day, none: "0"}
	var yes bool
	c := &cobra.Command{
		Use: "rotate", Short: "Replace the secret of your own access token, and print the new token", Args: noArguments,
		Long: `Replace the secret in the access token of LATCHKEY_ACCESS_TOKEN, and print the
new access token. It has the same id, rights and end; the old one is good for
the grace, and then no more. After a lost answer, run it again within the grace.

With --grace 0, for a client secret that leaked, the old one is refused at once.
Only this very run can then repeat a lost answer, which it does a few times, and
the server answers it for five minutes; if it ends without the new token, nobody
has one, and an operator has to make another. On a terminal it asks first.`,
		Example: `  latchkey token rotate --grace 1h`,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := r.asMachine()
			if err != nil {
				return err
			}
			if grace.duration == 0 && isTerminal(r.in) {
				if err := r.sure(c.Context(), yes, "The old access token is refused at once, and nobody is shown the new one twice."); err != nil {
					return err
				}
			}
			created, err := client.Rotate(c.Context(), grace.duration)
			if err != nil {
				return err
			}
			return r.printToken(created)
		},
	}
	c.Flags().Var(&grace, "grace", "how long the old token stays good, at most 7d; 0: nobody can ask for the new one again")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
