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
	"github.com/latchkey-fn/latchkey/shared/userkey"
)

func newDataKeys(t *terminal) *cobra.Command {
	return group(&cobra.Command{
		Use:   "data-keys",
		Short: "List and rotate the data keys, or wrap them under another key",
		Long: `Users' keys are sealed under data keys, and the data keys are wrapped under the
key in your KMS or HSM. Each kind of thing that is sealed has its own ring of
data keys: user-keys (Key Connector), access-tokens and signing-keys (Secrets
Manager). All of this works while the functions serve.`,
	}, newDataKeysList(t), newDataKeysRotate(t), newDataKeysRewrap(t))
}

func newDataKeysList(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the data keys and the keys that they are wrapped under",
		Args:  noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			return withOperator(c.Context(), t, openStoreOnly, func(o *operator) error { return listDataKeys(c.Context(), t, o) })
		},
	}
}

// ringInfo is a data key with the ring it is of.
type ringInfo struct {
	Ring string `json:"ring"`
	keyring.Info
}

func listDataKeys(ctx context.Context, t *terminal, o *operator) error {
	var all []ringInfo
	for _, name := range ringNames {
		infos, err := o.rings[name].List(ctx)
		if err != nil {
			return err
		}
		for _, info := range infos {
			all = append(all, ringInfo{name, info})
		}
	}
	if t.json {
		return t.printJSON(append([]ringInfo{}, all...))
	}
	table := t.table()
	fmt.Fprintln(table, "RING\tNUMBER\tCREATED\tWRAPPED UNDER")
	for _, info := range all {
		var refs []string
		for _, ref := range info.Keys {
			refs = append(refs, ref.String())
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\n", info.Ring, info.Number, date(info.Created), strings.Join(refs, ", "))
	}
	return table.Flush()
}

func newDataKeysRotate(t *terminal) *cobra.Command {
	var resealOnly bool
	var ring string
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new data key and seal every user's key under it",
		Long: `Make a new data key and seal every user's key under it. Broken off, it is
finished by --reseal-only, which makes no further data key. Old data keys stay:
a backup of the store may need them. In the rings of Secrets Manager (--ring)
the new data key seals what is made from now on: access tokens and signing keys
do not live for ever.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			return withOperator(c.Context(), t, openWithKeys, func(o *operator) error {
				if ring != userkey.Ring {
					return rotateRing(c.Context(), t, o, ring)
				}
				return rotate(c.Context(), t, o, resealOnly)
			})
		},
	}
	c.Flags().StringVar(&ring, "ring", userkey.Ring, "whose data key: "+strings.Join(ringNames, ", "))
	c.Flags().BoolVar(&resealOnly, "reseal-only", false, "only seal what is sealed under older data keys anew")
	return c
}

// rotateRing makes the next data key of a ring whose things are not sealed anew.
func rotateRing(ctx context.Context, t *terminal, o *operator, name string) error {
	ring, ok := o.rings[name]
	if !ok {
		return fmt.Errorf("%w: --ring %s: choose of %s", errUsage, name, strings.Join(ringNames, ", "))
	}
	number, err := ring.Rotate(ctx)
	o.record(ctx, "data-key.rotate", fmt.Sprintf("%s/%d", name, number), err)
	if err != nil {
		return err
	}
	if t.json {
		return t.printJSON(map[string]any{"ring": name, "number": number})
	}
	fmt.Fprintf(t.out, "Data key %d of %s seals from now on.\n", number, name)
	return nil
}

func rotate(ctx context.Context, t *terminal, o *operator, resealOnly bool) error {
	ring := o.rings[userkey.Ring]
	if !resealOnly {
		number, err := ring.Rotate(ctx)
		o.record(ctx, "data-key.rotate", fmt.Sprint(number), err)
		if err != nil {
			return err
		}
	}
	current, err := ring.Current(ctx)
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
	var rings []string
	c := &cobra.Command{
		Use:   "rewrap",
		Short: "Wrap every data key under the configured key as well",
		Long: `Wrap every data key under the configured key as well. To move from one KMS or
HSM key to another: configure the new key, and the old one under the names that
begin with LATCHKEY_PREVIOUS_; run this; and when every instance has the new
settings, run it again with --only and take the old key out.

Where the functions have keys of their own, as on AWS, run it for each with its
settings and its rings.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			return withOperator(c.Context(), t, openWithKeys, func(o *operator) error { return rewrap(c.Context(), t, o, rings, only) })
		},
	}
	c.Flags().BoolVar(&only, "only", false, "remove the wrappings under all other keys")
	c.Flags().StringSliceVar(&rings, "ring", ringNames, "whose data keys, separated by commas")
	return c
}

func rewrap(ctx context.Context, t *terminal, o *operator, names []string, only bool) error {
	for _, name := range names {
		if o.rings[name] == nil {
			return fmt.Errorf("%w: --ring %s: choose of %s", errUsage, name, strings.Join(ringNames, ", "))
		}
	}
	changed := 0
	for _, name := range names {
		infos, err := o.rings[name].List(ctx)
		if err != nil {
			return err
		}
		if len(infos) == 0 {
			continue // a function that is not used here
		}
		n, err := o.rings[name].Rewrap(ctx, only)
		o.record(ctx, "data-key.rewrap", fmt.Sprintf("%d of %s", n, name), err)
		if err != nil {
			return fmt.Errorf("ring %s (with keys of their own for each function, name its rings by --ring): %w", name, err)
		}
		changed += n
	}
	if t.json {
		return t.printJSON(map[string]int{"changed": changed})
	}
	fmt.Fprintf(t.out, "%d data key(s) changed.\n", changed)
	return listDataKeys(ctx, t, o)
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
