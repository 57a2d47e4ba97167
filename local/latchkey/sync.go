package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/syncclient"
)

// syncer is the Billing sync that a command speaks to. Of the settings of the
// other operators' commands it needs no key.
type syncer struct{ remote }

func newSync(t *terminal) *cobra.Command {
	s := &syncer{remote{terminal: t}}
	return s.addKeylessFlags(group(&cobra.Command{
		Use:   "sync",
		Short: "Sync sponsorships and the license with Bitwarden's cloud (Billing sync)",
		Long: `Offers of free Families organizations are made here, and follow Bitwarden's
cloud once a day: new ones are mailed from there, revoked ones are removed, and
who accepted is learned. The license comes from the cloud only when asked for.

To begin, copy the billing sync key from the cloud's web vault, and connect.

As in the original, the connection, the license and a sync by hand are for the
owners of the organization (LATCHKEY_BILLING_RULES of the server), and so is an
import; offers are for its administrators (LATCHKEY_OPERATOR_RULES).

The server is --server or LATCHKEY_SERVER. Set LATCHKEY_OPERATOR_TOKEN, a token
of the organization's OpenID provider, or LATCHKEY_OPERATOR_TOKEN_FILE. With a
private certificate authority, set SSL_CERT_FILE.`,
		Example: `  latchkey sync connect
  latchkey sync offers create someone@example.org
  latchkey sync now --wait
  latchkey sync status`,
	}, newSyncNow(s), newSyncStatus(s), newSyncRuns(s), newSyncOffers(s),
		newSyncConnect(s), newSyncDisconnect(s), newSyncEnable(s, true), newSyncEnable(s, false), newSyncLicence(s)))
}

// client speaks as the operator.
func (s *syncer) client() (*syncclient.Client, error) {
	settings, err := s.keylessSettings()
	if err != nil {
		return nil, err
	}
	return syncclient.New(syncclient.Config{
		Server: settings.Server, Bearer: settings.OperatorToken, Organization: settings.Organization,
	})
}

// when shows a time as official clients show that of a sync.
func when(at *time.Time) string {
	if at == nil || at.IsZero() {
		return "Never"
	}
	return date(*at)
}

func newSyncNow(s *syncer) *cobra.Command {
	var wait bool
	longest := lifetime{none: "none"}
	c := &cobra.Command{
		Use:   "now",
		Short: "Start a sync, or join the one that is under way",
		Long: `Start a sync now, whenever the next one is due, or join the one that is queued or
under way. With --wait, stay until it is finished and tell what became of the
offers; the exit code is then 1 if it failed. Whoever stops waiting does not
stop the sync.`,
		Example: `  latchkey sync now --wait
  latchkey sync now --wait --timeout 15m --json`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("timeout") && !wait {
				return fmt.Errorf("%w: --timeout goes with --wait", errUsage)
			}
			return syncNow(c.Context(), s, wait, longest.duration)
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "stay until it is finished")
	c.Flags().Var(&longest, "timeout", "how long to stay at most, such as 15m, or none")
	return c
}

func syncNow(ctx context.Context, s *syncer, wait bool, longest time.Duration) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	run, err := client.Start(ctx)
	if err != nil {
		return err
	}
	if !wait {
		if s.json {
			return s.printJSON(run)
		}
		fmt.Fprintf(s.out, "Run %s is %s. See how it goes: latchkey sync runs %s\n", run.ID, shown(run.Status), run.ID)
		return nil
	}
	if longest > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, longest)
		defer stop()
	}
	id := run.ID
	if run, err = s.follow(ctx, client, run); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("the run is not finished after %s", longest)
		}
		return fmt.Errorf("%w\nThe run goes on. See how it goes: latchkey sync runs %s", err, id)
	}
	return errors.Join(s.showRun(run), failed(run))
}

// follow waits for the end of a run, with a bar on a terminal. How many offers
// there will be is not known before.
func (s *syncer) follow(ctx context.Context, client *syncclient.Client, run syncclient.Run) (syncclient.Run, error) {
	if !isTerminal(s.err) {
		return client.Follow(ctx, run, nil)
	}
	bar := s.progress(-1, "sync")
	run, err := client.Follow(ctx, run, func(r syncclient.Run) error {
		bar.Describe(doing(r) + ", offers")
		return bar.Set(r.Counts.Offers())
	})
	return run, errors.Join(err, bar.Finish())
}

// doing is what a run is at.
func doing(r syncclient.Run) string {
	text := shown(r.Status)
	switch {
	case r.NotBefore != nil && !r.NotBefore.IsZero():
		text = "waiting until " + date(*r.NotBefore)
	case r.Batch > 0:
		text = fmt.Sprintf("%s, batch %d", shown(r.Phase), r.Batch)
	}
	if r.Try == nil || r.Try.LastCode == "" {
		return text
	}
	return fmt.Sprintf("%s after %s, try %d of %d", text, shown(r.Try.LastCode), r.Try.Number, r.Try.Of)
}

// failed is the error of a run that failed.
func failed(r syncclient.Run) error {
	if r.Status != syncclient.Failed {
		return nil
	}
	return fmt.Errorf("run %s failed: %s", r.ID, trouble(r.ErrorCode, r.Message, r.Hint))
}

// trouble is a failure in one line, with what to do.
func trouble(code, message, hint string) string {
	var parts []string
	for _, part := range []string{code, message, hint} {
		if part != "" {
			parts = append(parts, strings.TrimSuffix(shown(part), "."))
		}
	}
	return strings.Join(parts, ": ")
}

func (s *syncer) showRun(r syncclient.Run) error {
	if s.json {
		return s.printJSON(r)
	}
	table := s.table()
	fmt.Fprintf(table, "run\t%s (%s)\n", r.ID, shown(r.Trigger))
	fmt.Fprintf(table, "status\t%s\n", colored(r.Status))
	fmt.Fprintf(table, "started\t%s\nfinished\t%s\n", when(r.Started), when(r.Ended))
	if !r.Finished() {
		fmt.Fprintf(table, "now\t%s\n", doing(r))
	}
	n := r.Counts
	fmt.Fprintf(table, "requests\t%d in %d batch(es), %d of them sent again\n", n.Requests, n.Batches, n.Retries)
	fmt.Fprintf(table, "offers\t%s\n", tally(n))
	for _, w := range runWarnings(n) {
		fmt.Fprintf(table, "warning\t%s\n", note(w))
	}
	if r.Status == syncclient.Failed {
		fmt.Fprintf(table, "error\t%s\n", bad(trouble(r.ErrorCode, r.Message, r.Hint)))
	}
	return table.Flush()
}

func colored(status string) string {
	switch status {
	case syncclient.Completed:
		return good("completed")
	case syncclient.CompletedWithWarnings:
		return note("completed with warnings")
	case syncclient.Failed:
		return bad("failed")
	}
	return shown(status)
}

func tally(n syncclient.Counts) string {
	return fmt.Sprintf("%d sent, %d refreshed, %d removed, %d kept until they expire", n.Sent, n.Refreshed, n.Removed, n.Kept)
}

// runWarnings say what of a run somebody has to look at.
func runWarnings(n syncclient.Counts) []string {
	var told []string
	for _, w := range []struct {
		count int
		text  string
	}{
		{n.NotAccepted, "not accepted by the cloud: is the organization an Enterprise one there, and enabled?"},
		{n.Quarantined, "not sent, because they cannot be right: revoke and create them again (latchkey sync offers)"},
		{n.Anomalies, "answer(s) of the cloud that nothing asked for: nothing was changed for them"},
		{n.MailUncertain, "in the cloud, but perhaps not mailed: latchkey sync offers reissue ID mails them"},
		{n.Overtaken, "accepted in the cloud before it could be replaced, and so revoked there: it lasts until it expires (latchkey sync offers)"},
	} {
		if w.count > 0 {
			told = append(told, fmt.Sprintf("%d %s", w.count, w.text))
		}
	}
	return told
}

func newSyncRuns(s *syncer) *cobra.Command {
	return &cobra.Command{
		Use:   "runs [ID]",
		Short: "List the newest runs, or show one",
		Example: `  latchkey sync runs
  latchkey sync runs 5a1b0e52-7f3c-4f0d-9a57-3f2c2b1f7f10 --json`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return oneArgument(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			client, err := s.client()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				run, err := client.Run(c.Context(), args[0], 0)
				if err != nil {
					return err
				}
				return s.showRun(run)
			}
			runs, err := client.Runs(c.Context())
			if err != nil {
				return err
			}
			return s.showRuns(runs)
		},
	}
}

func (s *syncer) showRuns(runs []syncclient.Run) error {
	if s.json {
		return s.printJSON(runs)
	}
	table := s.table()
	fmt.Fprintln(table, "ID\tTRIGGER\tSTARTED\tSTATUS\tOFFERS")
	for _, r := range runs {
		what := tally(r.Counts)
		if r.Status == syncclient.Failed {
			what = shown(r.ErrorCode)
		}
		// Colours would count as width, and the columns behind would not align.
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.ID, shown(r.Trigger), when(cmp.Or(r.Started, r.Requested)), shown(r.Status), what)
	}
	return table.Flush()
}

func newSyncStatus(s *syncer) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the last sync, the next one, and what is wrong",
		Example: `  latchkey sync status
  latchkey sync status --json`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := s.client()
			if err != nil {
				return err
			}
			status, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			return s.showStatus(status)
		},
	}
}

func (s *syncer) showStatus(status syncclient.Status) error {
	warnings := statusWarnings(status)
	if s.json {
		return s.printJSON(struct {
			syncclient.Status
			Warnings []string `json:"warnings"`
		}{status, warnings})
	}
	table := s.table()
	fmt.Fprintf(table, "organization\t%s\n", status.Organization)
	fmt.Fprintf(table, "connection\t%s\n", connected(status.Connection))
	fmt.Fprintf(table, "last sync\t%s\n", when(status.LastSponsorshipSync))
	fmt.Fprintf(table, "last attempt\t%s\n", when(status.LastAttempt))
	if r := status.LastRun; r != nil {
		fmt.Fprintf(table, "last run\t%s, %s, %s\n", r.ID, colored(r.Status), tally(r.Counts))
	}
	if r := status.CurrentRun; r != nil {
		fmt.Fprintf(table, "current run\t%s, %s\n", r.ID, doing(*r))
	}
	fmt.Fprintf(table, "next due\t%s\n", nextDue(status))
	fmt.Fprintf(table, "last license sync\t%s\n", when(status.LastLicenseSync))
	pending := fmt.Sprint(status.Pending)
	if status.OldestPending != nil {
		pending += ", the oldest since " + date(*status.OldestPending)
	}
	fmt.Fprintf(table, "awaiting sync\t%s\n", pending)
	for _, w := range warnings {
		fmt.Fprintf(table, "warning\t%s\n", note(w))
	}
	if status.ErrorCode != "" {
		text := shown(status.ErrorCode)
		if r := status.LastRun; r != nil && r.ErrorCode == status.ErrorCode {
			text = trouble(r.ErrorCode, r.Message, r.Hint)
		}
		fmt.Fprintf(table, "error\t%s\n", bad(text))
	}
	return table.Flush()
}

func nextDue(status syncclient.Status) string {
	switch {
	case status.KeyRefused:
		return "not before another key is given"
	case status.NextDue == nil || status.NextDue.IsZero():
		return "not scheduled"
	}
	return date(*status.NextDue)
}

// tolerableSkew is how far clocks may be apart before that is worth a word.
const tolerableSkew = 5 * time.Minute

// statusWarnings say what somebody has to do so that the sync goes on.
func statusWarnings(status syncclient.Status) []string {
	told := []string{}
	warn := func(condition bool, format string, args ...any) {
		if condition {
			told = append(told, fmt.Sprintf(format, args...))
		}
	}
	c := status.Connection
	warn(!status.CloudCommunication, "the server's settings do not let it speak with the cloud, and nothing is synced: set LATCHKEY_CLOUD_COMMUNICATION=true there")
	warn(c == nil, "there is no connection with the cloud, and nothing is synced: run latchkey sync connect")
	warn(c != nil && !c.Enabled, "the connection is disabled, and nothing is synced: latchkey sync enable enables it")
	doubt := inDoubt(status)
	noKey := status.KeyRefused || doubt && refused(c.Probe)
	warn(noKey, "the cloud refused the billing sync key, and nothing is synced without another: copy the key from the cloud's web vault, and run latchkey sync connect")
	warn(doubt && !noKey, "the key could not be tried out when it was saved: latchkey sync now --wait tries it")
	if status.Blocked != nil {
		warn(true, "the cloud does not know this installation, and the schedule does not ask again before %s: check installation id, key and region; latchkey sync now asks at once", date(*status.Blocked))
	}
	warn(status.Overdue > 0, "the last sync was more than %d days ago: after 182 days the cloud drops offers that were not accepted", status.Overdue)
	if status.Skew != nil {
		skew := time.Duration(*status.Skew * float64(time.Second)).Round(time.Second)
		warn(skew.Abs() > tolerableSkew, "the server's clock and the cloud's are %s apart: set the server's", skew.Abs())
	}
	// Of offers that somebody has to look at, how many they are now counts, and not
	// how many a run has met.
	var n syncclient.Counts
	if status.LastRun != nil {
		n = status.LastRun.Counts
	}
	n.Quarantined, n.MailUncertain = status.Quarantined, status.MailUncertain
	return append(told, runWarnings(n)...)
}

// inDoubt tells whether the cloud did not accept the key when it was last tried,
// or was not asked, and no sync has shown since that it is good.
func inDoubt(status syncclient.Status) bool {
	c, last := status.Connection, status.LastSponsorshipSync
	if c == nil || c.Probe == nil || c.Probe.Code == "" {
		return false
	}
	return last == nil || c.Probe.At != nil && last.Before(*c.Probe.At)
}
