package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
)

func newDataKeys(t *terminal) *cobra.Command {
	return group(&cobra.Command{
		Use:   "data-keys",
		Short: "List and rotate the data keys, or wrap them under another key",
		Long: `Users' keys are sealed under data keys, and the data keys are wrapped under the
key in your KMS or HSM. All of this works while Key Connector serves.`,
	}, newDataKeysList(t), newDataKeysRotate(t), newDataKeysRewrap(t))
}

func newDataKeysList(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the data keys and the keys that they are wrapped under",
		Args:  noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			return withOperator(c.Context(), t, openStoreOnly, func(o *operator) error { return listDataKeys(c.Context(), t, o.ring) })
		},
	}
}

func listDataKeys(ctx context.Context, t *terminal, ring *keyring.Ring) error {
	infos, err := ring.List(ctx)
	if err != nil {
		return err
	}
	if t.json {
		return t.printJSON(infos)
	}
	table := t.table()
	fmt.Fprintln(table, "NUMBER\tCREATED\tWRAPPED UNDER")
	for _, info := range infos {
		var refs []string
		for _, ref := range info.Keys {
			refs = append(refs, ref.String())
		}
		fmt.Fprintf(table, "%d\t%s\t%s\n", info.Number, date(info.Created), strings.Join(refs, ", "))
	}
	return table.Flush()
}

func newDataKeysRotate(t *terminal) *cobra.Command {
	var resealOnly bool
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new data key and seal every user's key under it",
		Long: `Make a new data key and seal every user's key under it. Broken off, it is
finished by --reseal-only, which makes no further data key. Old data keys stay:
a backup of the store may need them.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			return withOperator(c.Context(), t, openWithKeys, func(o *operator) error { return rotate(c.Context(), t, o, resealOnly) })
		},
	}
	c.Flags().BoolVar(&resealOnly, "reseal-only", false, "only seal what is sealed under older data keys anew")
	return c
}

func rotate(ctx context.Context, t *terminal, o *operator, resealOnly bool) error {
	if !resealOnly {
		number, err := o.ring.Rotate(ctx)
		o.record(ctx, "data-key.rotate", fmt.Sprint(number), err)
		if err != nil {
			return err
		}
	}
	current, err := o.ring.Current(ctx)
	if err != nil {
		return err
	}
	var users []string
	var faults []error
	for info, err := range o.users.All(ctx) {
		if err != nil {
			faults = append(faults, err) // the others are sealed anew all the same
			continue
		}
		users = append(users, info.User)
	}
	bar := t.progress(len(users), "sealing users' keys")
	resealed := 0
	for _, user := range users {
		changed, err := o.users.Reseal(ctx, user, current)
		if err != nil && fault.Of(err) != fault.NotFound { // deleted meanwhile
			faults = append(faults, fmt.Errorf("user %s: %w", user, err))
		}
		if changed {
			resealed++
		}
		if err := bar.Add(1); err != nil {
			return err
		}
		if ctx.Err() != nil {
			faults = append(faults, fmt.Errorf("broken off; finish it with --reseal-only: %w", ctx.Err()))
			break
		}
	}
	o.record(ctx, "user-key.reseal", fmt.Sprintf("%d of %d", resealed, len(users)), errors.Join(faults...))
	if t.json {
		return errors.Join(append(faults, t.printJSON(map[string]int{"users": len(users), "resealed": resealed, "failed": len(faults)}))...)
	}
	fmt.Fprintf(t.out, "%d of %d users' keys were sealed anew.\n", resealed, len(users))
	return errors.Join(faults...)
}

func newDataKeysRewrap(t *terminal) *cobra.Command {
	var only bool
	c := &cobra.Command{
		Use:   "rewrap",
		Short: "Wrap every data key under the configured key as well",
		Long: `Wrap every data key under the configured key as well. To move from one KMS or
HSM key to another: configure the new key, and the old one under the names that
begin with LATCHKEY_PREVIOUS_; run this; and when every instance has the new
settings, run it again with --only and take the old key out.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			return withOperator(c.Context(), t, openWithKeys, func(o *operator) error {
				changed, err := o.ring.Rewrap(c.Context(), only)
				o.record(c.Context(), "data-key.rewrap", fmt.Sprint(changed), err)
				if err != nil {
					return err
				}
				if t.json {
					return t.printJSON(map[string]int{"changed": changed})
				}
				fmt.Fprintf(t.out, "%d data key(s) changed.\n", changed)
				return listDataKeys(c.Context(), t, o.ring)
			})
		},
	}
	c.Flags().BoolVar(&only, "only", false, "remove the wrappings under all other keys")
	return c
}

// progress shows a bar on a terminal, and nothing anywhere else.
func (t *terminal) progress(total int, what string) *progressbar.ProgressBar {
	out := io.Discard
	if isTerminal(t.err) {
		out = t.err
	}
	return progressbar.NewOptions(total, progressbar.OptionSetDescription(what),
		progressbar.OptionSetWriter(out), progressbar.OptionShowCount(), progressbar.OptionClearOnFinish())
}
