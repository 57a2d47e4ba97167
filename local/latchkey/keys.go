package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/shared/audit"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/userkey"
)

func newKeys(t *terminal) *cobra.Command {
	return group(&cobra.Command{
		Use:   "keys",
		Short: "List, show and delete users' keys (never the keys themselves)",
	}, newKeysList(t), newKeysShow(t), newKeysDelete(t))
}

func newKeysList(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List who has a key, and since when",
		Args:  noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			return withOperator(c.Context(), t, openStoreOnly, func(o *operator) error { return listKeys(c.Context(), t, o) })
		},
	}
}

func listKeys(ctx context.Context, t *terminal, o *operator) error {
	infos := []userkey.Info{} // an empty list, not null
	var faults []error
	for info, err := range o.users.All(ctx) {
		if err != nil {
			faults = append(faults, err)
			continue
		}
		infos = append(infos, info)
	}
	if t.json {
		return errors.Join(append(faults, t.printJSON(infos))...)
	}
	table := t.table()
	fmt.Fprintln(table, "USER\tCREATED\tREPLACED\tDATA KEY")
	for _, info := range infos {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\n", info.User, date(info.Created), date(info.Revised), info.DataKey)
	}
	faults = append(faults, table.Flush())
	return errors.Join(faults...)
}

func newKeysShow(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "show USER",
		Short: "Show what is known of one user's key",
		Args:  oneArgument,
		RunE: func(c *cobra.Command, args []string) error {
			return withOperator(c.Context(), t, openStoreOnly, func(o *operator) error { return showKey(c.Context(), t, o, args[0]) })
		},
	}
}

func showKey(ctx context.Context, t *terminal, o *operator, name string) error {
	id, err := userID(name)
	if err != nil {
		return err
	}
	info, err := describe(ctx, o, id)
	if err != nil {
		return err
	}
	last, err := o.users.LastAccess(ctx, id)
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	if t.json {
		return t.printJSON(struct {
			userkey.Info
			LastAccess time.Time `json:"lastAccess,omitzero"`
		}{info, last})
	}
	table := t.table()
	fmt.Fprintf(table, "user\t%s\ncreated\t%s\nreplaced\t%s\nlast read\t%s (noted at most once an hour)\ndata key\t%d\n",
		info.User, date(info.Created), date(info.Revised), date(last), info.DataKey)
	return table.Flush()
}

func newKeysDelete(t *terminal) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "delete USER",
		Short: "Delete a user's key",
		Long: `Delete a user's key, for ever.

A user whose first login broke off after the key was stored, and who now gets
"Key Connector error" each time, is free again after this: the next login makes
a new key. For a user who has a vault, deleting the key makes the vault
unreadable, and only a backup of the store brings it back.`,
		Args: oneArgument,
		RunE: func(c *cobra.Command, args []string) error {
			return withOperator(c.Context(), t, openStoreOnly, func(o *operator) error { return deleteKey(c.Context(), t, o, args[0], yes) })
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func deleteKey(ctx context.Context, t *terminal, o *operator, name string, yes bool) error {
	id, err := userID(name)
	if err != nil {
		return err
	}
	info, err := describe(ctx, o, id)
	if err != nil {
		return err
	}
	if !yes {
		last, err := o.users.LastAccess(ctx, id)
		if err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		fmt.Fprintf(t.err, "The key of user %s was made %s and last read %s.\n", id, date(info.Created), date(last))
		fmt.Fprintf(t.err, "%s If this user has a vault, it becomes unreadable.\n", bad("Deleting it cannot be undone."))
		if !t.confirm(ctx, "Type the user's id to delete the key: ", id) {
			return errDeclined
		}
	}
	// Said before it is done, so that being killed in between leaves a trace.
	o.audit.Record(ctx, audit.Event{Action: "user-key.delete", Actor: o.name, Subject: id, Outcome: audit.Attempted})
	err = o.users.Delete(ctx, info)
	o.record(ctx, "user-key.delete", id, err)
	if fault.Of(err) == fault.Conflict {
		return fmt.Errorf("the key of user %s was written since it was shown, and is still there: %w", id, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	if t.json {
		return t.printJSON(map[string]string{"deleted": id})
	}
	fmt.Fprintf(t.out, "The key of user %s is deleted.\n", id)
	return nil
}

// describe finds a user's key, or says that there is none.
func describe(ctx context.Context, o *operator, id string) (userkey.Info, error) {
	info, err := o.users.Describe(ctx, id)
	if fault.Of(err) == fault.NotFound {
		return info, fmt.Errorf("%w for user %s", errNoKey, id)
	}
	if err != nil {
		return info, fmt.Errorf("%s: %w", id, err)
	}
	return info, nil
}

// confirm asks for a word; anything else, the end of the input, and a signal to
// stop are no.
func (t *terminal) confirm(ctx context.Context, question, want string) bool {
	fmt.Fprint(t.err, question)
	typed := make(chan bool, 1)
	go func() {
		answer, err := bufio.NewReader(t.in).ReadString('\n')
		typed <- err == nil && strings.TrimSpace(answer) == want
	}()
	select {
	case yes := <-typed:
		if !isTerminal(t.in) { // where nobody typed the end of the line
			fmt.Fprintln(t.err)
		}
		return yes
	case <-ctx.Done():
		fmt.Fprintln(t.err)
		return false
	}
}

// userID brings an id into the form it is stored in.
func userID(text string) (string, error) {
	id, err := uuid.Parse(text)
	if err != nil || len(text) != len(id.String()) {
		return "", fmt.Errorf("%w: %q is not a user's id, such as 8d7c5f0a-95b1-4ad5-9a5e-3f2c2b1f7f10", errUsage, text)
	}
	return id.String(), nil
}

func date(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

func withOperator(ctx context.Context, t *terminal, open func(context.Context, *terminal) (*operator, error), run func(*operator) error) error {
	o, err := open(ctx, t)
	if err != nil {
		return err
	}
	return errors.Join(run(o), o.Close())
}
