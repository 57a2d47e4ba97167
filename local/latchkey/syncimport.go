package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/syncclient"
)

// maxImportFile bounds the file, in bytes: it has some 300 a row.
const maxImportFile = 64 << 20

func newSyncOffersImport(s *syncer) *cobra.Command {
	var ask syncclient.Import
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Take over the offers of an official server's database",
		Long: `Take over the rows of the table OrganizationSponsorship of an official server's
database, so that the cloud goes on with the same offers. FILE holds them as one
JSON object a line, or as one JSON array; - is the input. The members are the
columns, in any case of letters:

  Id                            GUID, required
  SponsoringOrganizationUserId  GUID, required: what the cloud knows the offer by
  OfferedToEmail                required unless ToDelete
  PlanSponsorshipType           required unless ToDelete: 0
  SponsoringOrganizationId      if given, this organization's id on that server
                                and here
  FriendlyName, Notes           may be null
  LastSyncDate, ValidUntil      such as 2026-01-31T10:00:00Z; may be null
  ToDelete, IsAdminInitiated    true or false, 1 or 0

Other members are passed over. Of several rows with one user id, the one that
was synced first keeps its key, and the others are sent as new offers.

Rows without a LastSyncDate were never sent: the cloud would mail them as new
offers. They are counted and not taken, unless --unsent says so.

This is for the owners of the organization: for those whom LATCHKEY_BILLING_RULES
of the server names. The organization needs a license that lets it sponsor.

Stop the sync of the official server first. To import again does no harm: rows
that were taken are known, also when their offer is gone since. Rows that are
wrong are listed with their line, and nothing of them is stored.`,
		Example: `  latchkey sync offers import sponsorships.jsonl --dry-run
  latchkey sync offers import sponsorships.jsonl`,
		Args: oneArgument,
		RunE: func(c *cobra.Command, args []string) error {
			rows, wrong, err := s.readRows(args[0])
			if err != nil {
				return fmt.Errorf("%w: offers: %w", errUsage, err)
			}
			client, err := s.client()
			if err != nil {
				return err
			}
			done, err := s.importRows(c.Context(), client, rows, ask)
			done.Bad = append(done.Bad, wrong...)
			slices.SortFunc(done.Bad, func(a, b badLine) int { return cmp.Compare(a.Line, b.Line) })
			return errors.Join(s.showImported(done, ask), err)
		},
	}
	c.Flags().BoolVar(&ask.DryRun, "dry-run", false, "tell what would be done, and do nothing")
	c.Flags().BoolVar(&ask.Unsent, "unsent", false, "also rows that were never synced, which the cloud mails as new offers")
	return c
}

// importRow is a row of a file, with what it is sorted by.
type importRow struct {
	line         int
	text         json.RawMessage
	user, synced string
}

// badLine is a row that was not taken.
type badLine struct {
	Line    int    `json:"line"`
	Problem string `json:"problem"`
}

// imported is the sum over a file.
type imported struct {
	Taken   int       `json:"taken"`
	Rekeyed int       `json:"rekeyed"`
	Known   int       `json:"known"`
	Dropped int       `json:"dropped"`
	Unsent  int       `json:"unsent"`
	Bad     []badLine `json:"bad"`
}

// readRows reads a file of rows in either form. Those of one user come together,
// the one that was synced first before the others, as an import wants them.
func (s *syncer) readRows(name string) ([]importRow, []badLine, error) {
	var from io.Reader = s.in
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, nil, err
		}
		defer file.Close()
		from = file
	}
	content, err := io.ReadAll(io.LimitReader(from, maxImportFile+1))
	if err != nil {
		return nil, nil, err
	}
	if len(content) > maxImportFile {
		return nil, nil, fmt.Errorf("there are more than %d bytes; import it in parts", maxImportFile)
	}
	content = bytes.TrimPrefix(content, []byte("\ufeff"))
	read := readLines
	if bytes.HasPrefix(bytes.TrimSpace(content), []byte("[")) {
		read = readArray
	}
	rows, wrong, err := read(content)
	slices.SortStableFunc(rows, func(a, b importRow) int {
		// A date that is missing is later than all that are there.
		return cmp.Or(cmp.Compare(a.user, b.user), cmp.Compare(cmp.Or(a.synced, "~"), cmp.Or(b.synced, "~")))
	})
	return rows, wrong, err
}

func readLines(content []byte) (rows []importRow, wrong []badLine, err error) {
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, maxImportFile)
	for number := 1; lines.Scan(); number++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		row, problem := newImportRow(number, line)
		if problem != "" {
			wrong = append(wrong, badLine{number, problem})
			continue
		}
		rows = append(rows, row)
	}
	return rows, wrong, lines.Err()
}

func readArray(content []byte) (rows []importRow, wrong []badLine, err error) {
	decoder := json.NewDecoder(bytes.NewReader(content))
	lineAt := func() int {
		before := content[:decoder.InputOffset()]
		rest := content[len(before):]
		// The next value begins behind what separates it.
		skipped := rest[:len(rest)-len(bytes.TrimLeft(rest, ", \t\r\n"))]
		return 1 + bytes.Count(before, []byte("\n")) + bytes.Count(skipped, []byte("\n"))
	}
	if _, err := decoder.Token(); err != nil {
		return nil, nil, fmt.Errorf("it is no JSON: %w", err)
	}
	for decoder.More() {
		number := lineAt()
		var text json.RawMessage
		if decoder.Decode(&text) != nil {
			// The decoder's error could quote what is there.
			return nil, nil, fmt.Errorf("line %d: it is no JSON from here on", number)
		}
		row, problem := newImportRow(number, text)
		if problem != "" {
			wrong = append(wrong, badLine{number, problem})
			continue
		}
		rows = append(rows, row)
	}
	if _, err := decoder.Token(); err != nil {
		return nil, nil, errors.New("the JSON array breaks off")
	}
	return rows, wrong, nil
}

// newImportRow looks into a row as far as it is to be sorted.
func newImportRow(line int, text []byte) (row importRow, problem string) {
	var known struct {
		User   any `json:"SponsoringOrganizationUserId"`
		Synced any `json:"LastSyncDate"`
	}
	var compact bytes.Buffer
	if json.Unmarshal(text, &known) != nil || json.Compact(&compact, text) != nil {
		return importRow{}, "It is not a JSON object."
	}
	if compact.Len() > syncclient.MaxImport {
		return importRow{}, fmt.Sprintf("It has more than %d bytes.", syncclient.MaxImport)
	}
	user, _ := known.User.(string)
	synced, _ := known.Synced.(string)
	return importRow{line, compact.Bytes(), strings.ToLower(user), synced}, ""
}

// importRows sends rows in parts that a request holds, those of one user in one
// part where they fit, each part as ask says.
func (s *syncer) importRows(ctx context.Context, client *syncclient.Client, rows []importRow, ask syncclient.Import) (imported, error) {
	done := imported{Bad: []badLine{}}
	bar := s.progress(len(rows), "offers")
	for sent := 0; sent < len(rows); {
		part := nextPart(rows[sent:])
		ask.Rows = make([]json.RawMessage, len(part))
		for i, row := range part {
			ask.Rows[i] = row.text
		}
		got, err := client.Import(ctx, ask)
		if err != nil {
			return done, errors.Join(fmt.Errorf("%d of %d rows are through; import the same file again to go on: %w", sent, len(rows), err), bar.Exit())
		}
		done.Taken, done.Rekeyed, done.Known, done.Dropped = done.Taken+got.Taken, done.Rekeyed+got.Rekeyed, done.Known+got.Known, done.Dropped+got.Dropped
		done.Unsent += got.Unsent
		for _, bad := range got.Bad {
			if bad.Row >= 0 && bad.Row < len(part) {
				done.Bad = append(done.Bad, badLine{part[bad.Row].line, bad.Problem})
			}
		}
		sent += len(part)
		if err := bar.Add(len(part)); err != nil {
			return done, err
		}
	}
	return done, bar.Finish()
}

// nextPart is the rows of the next request, of which there is at least one.
func nextPart(rows []importRow) []importRow {
	size, n, whole := 0, 0, 0
	for n < len(rows) && (n == 0 || size+len(rows[n].text) < syncclient.MaxImport) {
		size += len(rows[n].text) + 1
		n++
		if n == len(rows) || rows[n].user != rows[n-1].user {
			whole = n
		}
	}
	return rows[:cmp.Or(whole, n)]
}

func (s *syncer) showImported(done imported, ask syncclient.Import) error {
	var err error
	if s.json {
		err = s.printJSON(done)
	} else {
		table := s.table()
		fmt.Fprintf(table, "%s\t%d\n", choose(ask.DryRun, "would be taken", "taken"), done.Taken)
		fmt.Fprintf(table, "of these as new offers\t%d\n", done.Rekeyed)
		fmt.Fprintf(table, "never synced%s\t%d\n", choose(ask.Unsent, ", mailed by the next sync", ", not taken"), done.Unsent)
		fmt.Fprintf(table, "known\t%d\nrevoked, nothing to remove\t%d\n", done.Known, done.Dropped)
		for _, bad := range done.Bad {
			fmt.Fprintf(table, "line %d\t%s\n", bad.Line, note(shown(bad.Problem)))
		}
		err = table.Flush()
	}
	if done.Unsent > 0 && !ask.Unsent {
		err = errors.Join(err, fmt.Errorf("%d row(s) were never synced, and the cloud would mail them as new offers: --unsent takes them, too", done.Unsent))
	}
	if len(done.Bad) > 0 {
		err = errors.Join(err, fmt.Errorf("%d row(s) cannot be taken", len(done.Bad)))
	}
	return err
}
