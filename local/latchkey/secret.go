package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/smclient"
)

func newSecret(t *terminal) *cobra.Command {
	r := &remote{terminal: t}
	return r.addFlags(group(&cobra.Command{
		Use:   "secret",
		Short: "Read and write secrets (Secrets Manager)",
		Long: `A secret has a name, a value and a note, all encrypted before they leave this
machine. It is named by its name, where only one that you may reach has it, or
by its id. Values never stand on the command line.
` + remoteHelp,
	}, newSecretList(r), newSecretGet(r), newSecretSet(r), newSecretDelete(r), newSecretTrash(r), newSecretRestore(r),
		newSecretPurge(r), newSecretVersions(r), newSecretExport(r), newSecretImport(r)))
}

func newSecretList(r *remote) *cobra.Command {
	var project string
	c := &cobra.Command{
		Use: "list", Short: "List secrets, without their values", Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := r.either(c.Context())
			if err != nil {
				return err
			}
			heads, err := secretHeads(c.Context(), client, project)
			return r.printHeads(heads, err)
		},
	}
	c.Flags().StringVar(&project, "project", "", "only those of this project, by name or id")
	return c
}

// printHeads prints what could be listed, and gives the error about the rest.
func (r *remote) printHeads(heads []smclient.Head, faults error) error {
	if heads == nil {
		return faults
	}
	if r.json {
		return errors.Join(faults, r.printJSON(heads))
	}
	table := r.table()
	fmt.Fprintln(table, "ID\tNAME\tPROJECT\tCHANGED\tRIGHTS")
	for _, h := range heads {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", h.ID, shown(h.Key), shown(projectNames(h)), date(h.Revised), rights(h.Write))
	}
	return errors.Join(faults, table.Flush())
}

func projectNames(h smclient.Head) string {
	var names []string
	for _, p := range h.Projects {
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}

// The fields of a secret that can be printed.
const (
	fieldValue = "value"
	fieldKey   = "key"
	fieldNote  = "note"
)

func newSecretGet(r *remote) *cobra.Command {
	var project, field string
	c := &cobra.Command{
		Use: "get SECRET", Short: "Print a secret's value, and nothing else", Args: oneArgument,
		Long: `Print a secret's value exactly as it is, with the end of a line behind it only on
a terminal; with --json, all of the secret.`,
		Example: `  latchkey secret get DB_PASSWORD
  latchkey secret get DB_PASSWORD --field note`,
		RunE: func(c *cobra.Command, args []string) error {
			return r.withSecret(c.Context(), args[0], project, func(client *smclient.Client, id string) error {
				s, err := client.Secret(c.Context(), id)
				if err != nil {
					return err
				}
				return r.printSecret(s, field)
			})
		},
	}
	c.Flags().StringVar(&project, "project", "", "the project that it is in, where several have secrets of this name")
	c.Flags().StringVar(&field, "field", fieldValue, "value, key (its name) or note")
	complete(c, "field", fieldValue, fieldKey, fieldNote)
	return c
}

func complete(c *cobra.Command, flag string, values ...string) {
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // a flag of that name was not defined
	}
}

func (r *remote) printSecret(s smclient.Secret, field string) error {
	text := map[string]string{fieldValue: s.Value.Reveal(), fieldKey: s.Key, fieldNote: s.Note.Reveal()}
	if _, ok := text[field]; !ok {
		return fmt.Errorf("%w: --field %s: choose value, key or note", errUsage, field)
	}
	if r.json {
		return r.printJSON(struct {
			smclient.Head
			Value string `json:"value"`
			Note  string `json:"note"`
		}{s.Head, s.Value.Reveal(), s.Note.Reveal()})
	}
	end := ""
	if isTerminal(r.out) {
		end = "\n"
	}
	_, err := fmt.Fprint(r.out, text[field]+end)
	return err
}

type setFlags struct {
	project, note, valueFile string
	keepValue                bool
}

func newSecretSet(r *remote) *cobra.Command {
	var f setFlags
	c := &cobra.Command{
		Use: "set SECRET", Short: "Create a secret, or change it", Args: oneArgument,
		Long: `Create a secret of this name, or change the one that there is. The value is asked
for, without showing it, or read from the input, whose last end of a line is not
part of it; --value-file takes a file exactly as it is. The former value stays
as a version.`,
		Example: `  latchkey secret set DB_PASSWORD --project production
  openssl rand -hex 32 | latchkey secret set SESSION_KEY --project production
  latchkey secret set TLS_KEY --project production --value-file key.pem`,
		RunE: func(c *cobra.Command, args []string) error {
			var note *string
			if c.Flags().Changed("note") {
				note = &f.note
			}
			return setSecret(c.Context(), r, args[0], f, note)
		},
	}
	c.Flags().StringVar(&f.project, "project", "", "the project that it is in, by name or id")
	c.Flags().StringVar(&f.note, "note", "", "its note (default: as it was)")
	c.Flags().StringVar(&f.valueFile, "value-file", "", "file with the value")
	c.Flags().BoolVar(&f.keepValue, "keep-value", false, "change the note only")
	return c
}

func setSecret(ctx context.Context, r *remote, wanted string, f setFlags, note *string) error {
	if f.keepValue && (f.valueFile != "" || note == nil) {
		return fmt.Errorf("%w: --keep-value goes with --note, and without --value-file", errUsage)
	}
	client, err := r.either(ctx)
	if err != nil {
		return err
	}
	project := ""
	if f.project != "" {
		if project, err = projectID(ctx, client, f.project); err != nil {
			return err
		}
	}
	id, err := secretID(ctx, client, wanted, project)
	if err != nil && !(errors.Is(err, errNoSuch) && !f.keepValue) {
		return err
	}
	value := ""
	if !f.keepValue {
		if value, err = r.readValue(ctx, f.valueFile); err != nil {
			return err
		}
	}
	var s smclient.Secret
	if id == "" {
		w := smclient.Written{Key: wanted, Value: value, Project: project}
		if note != nil {
			w.Note = *note
		}
		s, err = client.CreateSecret(ctx, w)
	} else {
		s, err = updateSecret(ctx, client, id, value, note)
	}
	if err != nil {
		return err
	}
	for _, warning := range asVariable(s) {
		fmt.Fprintln(r.err, "latchkey:", warning)
	}
	if r.json {
		return r.printJSON(s.Head)
	}
	fmt.Fprintf(r.out, "Secret %s (%s) is %s.\n", shown(s.Key), s.ID, choose(id == "", "created", "changed"))
	return nil
}

// updateSecret changes what is given, and sends the rest as it was: the protocol
// knows no smaller change.
func updateSecret(ctx context.Context, client *smclient.Client, id, value string, note *string) (smclient.Secret, error) {
	before, err := client.Secret(ctx, id)
	if err != nil {
		return smclient.Secret{}, err
	}
	w := smclient.Written{Key: before.Key, Value: before.Value.Reveal(), Note: before.Note.Reveal()}
	if len(before.Projects) > 0 {
		w.Project = before.Projects[0].ID
	}
	if value != "" {
		w.Value = value
	}
	if note != nil {
		w.Note = *note
	}
	return client.UpdateSecret(ctx, id, w, w.Value != before.Value.Reveal())
}

// longestValue bounds what is read as a value, in bytes: more characters than a
// value may have, of four bytes each.
const longestValue = 128 << 10

// readValue takes a value from the file, the terminal or the input.
func (t *terminal) readValue(ctx context.Context, path string) (string, error) {
	if path == "" {
		text, err := t.given(ctx, "value", longestValue)
		return nonEmpty(strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r"), err)
	}
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("%w: --value-file: %w", errUsage, err)
	}
	defer file.Close()
	return nonEmpty(readAtMost(file, "--value-file", longestValue))
}

func nonEmpty(text string, err error) (string, error) {
	if err == nil && text == "" {
		return "", fmt.Errorf("%w: the value is empty", errUsage)
	}
	return text, err
}

func newSecretDelete(r *remote) *cobra.Command {
	var project string
	var yes bool
	c := &cobra.Command{
		Use: "delete SECRET", Short: "Move a secret into the trash", Args: oneArgument,
		Long: `Move a secret into the trash: nobody can read it, until an administrator
restores it. After 30 days there it is deleted for ever.`,
		RunE: func(c *cobra.Command, args []string) error {
			client, err := r.either(c.Context())
			if err != nil {
				return err
			}
			heads, listErr := secretHeads(c.Context(), client, project)
			found, err := headOf(args[0], heads, listErr)
			if err != nil {
				return err
			}
			if err := r.sure(c.Context(), yes, fmt.Sprintf("%s is moved into the trash.", title(found))); err != nil {
				return err
			}
			if err := client.DeleteSecrets(c.Context(), found.ID); err != nil {
				return err
			}
			return r.doneTo("deleted", "in the trash for 30 days; until then an administrator can restore it", found)
		},
	}
	c.Flags().StringVar(&project, "project", "", "the project that it is in, where several have secrets of this name")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func newSecretTrash(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "trash", Short: "List the secrets in the trash, for administrators", Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := r.asOperator(c.Context())
			if err != nil {
				return err
			}
			heads, err := client.Trash(c.Context())
			return r.printTrash(heads, err)
		},
	}
}

// trashLife is how long a secret stays in the trash.
const trashLife = 30 * day

func (r *remote) printTrash(heads []smclient.Head, faults error) error {
	if heads == nil || r.json {
		return r.printHeads(heads, faults)
	}
	table := r.table()
	fmt.Fprintln(table, "ID\tNAME\tPROJECT\tDELETED\tGONE FOR EVER")
	for _, h := range heads {
		deleted, gone := "unknown", "unknown"
		if h.Deleted != nil {
			deleted, gone = date(*h.Deleted), date(h.Deleted.Add(trashLife))
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", h.ID, shown(h.Key), shown(projectNames(h)), deleted, gone)
	}
	return errors.Join(faults, table.Flush())
}

func newSecretRestore(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "restore SECRET...", Short: "Take secrets out of the trash, for administrators", Args: oneOrMore,
		RunE: func(c *cobra.Command, args []string) error {
			return r.withTrashed(c.Context(), args, func(client *smclient.Client, secrets []smclient.Head) error {
				if err := client.RestoreSecrets(c.Context(), idsOf(secrets)...); err != nil {
					return err
				}
				return r.doneTo("restored", "restored", secrets...)
			})
		},
	}
}

func newSecretPurge(r *remote) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "purge SECRET...", Short: "Delete secrets in the trash for ever, for administrators", Args: oneOrMore,
		RunE: func(c *cobra.Command, args []string) error {
			return r.withTrashed(c.Context(), args, func(client *smclient.Client, secrets []smclient.Head) error {
				if err := r.sure(c.Context(), yes, fmt.Sprintf("%d secret(s) are deleted for ever.", len(secrets))); err != nil {
					return err
				}
				if err := client.PurgeSecrets(c.Context(), idsOf(secrets)...); err != nil {
					return err
				}
				return r.doneTo("purged", "purged", secrets...)
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (r *remote) withTrashed(ctx context.Context, args []string, do func(*smclient.Client, []smclient.Head) error) error {
	client, err := r.asOperator(ctx)
	if err != nil {
		return err
	}
	heads, listErr := client.Trash(ctx)
	var secrets []smclient.Head
	for _, wanted := range args {
		found, err := headOf(wanted, heads, listErr)
		if errors.Is(err, errNoSuch) {
			return fmt.Errorf("%w: there is no secret %q in the trash", errNoSuch, wanted)
		}
		if err != nil {
			return err
		}
		secrets = append(secrets, found)
	}
	return do(client, secrets)
}

// headOf finds a secret among those that could be listed. For one that is named
// by its id the list only gives the name, for people: the server knows whether
// there is one.
func headOf(wanted string, heads []smclient.Head, listErr error) (smclient.Head, error) {
	id, ok := asID(wanted)
	if !ok {
		if listErr != nil {
			return smclient.Head{}, listErr
		}
		return byName("secret", wanted, heads, nameOfSecret)
	}
	for _, h := range heads {
		if h.ID == id {
			return h, nil
		}
	}
	return smclient.Head{ID: id}, nil
}

func idsOf(secrets []smclient.Head) []string {
	ids := make([]string, len(secrets))
	for i, s := range secrets {
		ids[i] = s.ID
	}
	return ids
}

// title names a secret at the beginning of a sentence.
func title(h smclient.Head) string {
	if h.Key == "" { // not listed
		return "Secret " + h.ID
	}
	return fmt.Sprintf("Secret %s (%s)", shown(h.Key), h.ID)
}

// doneTo tells what was done to secrets, and what they are now.
func (t *terminal) doneTo(done, now string, secrets ...smclient.Head) error {
	if t.json {
		return t.done("Secret", done, idsOf(secrets)...)
	}
	for _, s := range secrets {
		fmt.Fprintf(t.out, "%s is %s.\n", title(s), now)
	}
	return nil
}

func newSecretVersions(r *remote) *cobra.Command {
	var project, restore string
	var values bool
	c := &cobra.Command{
		Use: "versions SECRET", Short: "List the values that a secret had, or restore one", Args: oneArgument,
		Example: `  latchkey secret versions DB_PASSWORD
  latchkey secret versions DB_PASSWORD --restore 0d0a5b6e-8c5f-4a55-8f6b-3f2c2b1f7f10`,
		RunE: func(c *cobra.Command, args []string) error {
			return r.withSecret(c.Context(), args[0], project, func(client *smclient.Client, id string) error {
				if restore != "" {
					version, ok := asID(restore)
					if !ok {
						return fmt.Errorf("%w: --restore takes the id of a version", errUsage)
					}
					if err := client.RestoreVersion(c.Context(), id, version); err != nil {
						return err
					}
					return r.done("Version", "restored", version)
				}
				versions, err := client.Versions(c.Context(), id)
				return r.printVersions(versions, values, err)
			})
		},
	}
	c.Flags().StringVar(&project, "project", "", "the project that it is in, where several have secrets of this name")
	c.Flags().BoolVar(&values, "show-values", false, "print the values too")
	c.Flags().StringVar(&restore, "restore", "", "id of the version to restore")
	return c
}

func (r *remote) printVersions(versions []smclient.Version, values bool, faults error) error {
	if versions == nil {
		return faults
	}
	type version struct {
		ID    string    `json:"id"`
		Date  time.Time `json:"versionDate"`
		By    string    `json:"editor,omitempty"`
		Value *string   `json:"value,omitempty"`
	}
	all := []version{}
	for _, v := range versions {
		one := version{ID: v.ID, Date: v.Date, By: v.Machine + v.User}
		if values {
			value := v.Value.Reveal()
			one.Value = &value
		}
		all = append(all, one)
	}
	if r.json {
		return errors.Join(faults, r.printJSON(all))
	}
	table := r.table()
	fmt.Fprintln(table, "ID\tWRITTEN\tBY"+choose(values, "\tVALUE, QUOTED", ""))
	for _, v := range all {
		value := ""
		if v.Value != nil {
			value = "\t" + strconv.Quote(*v.Value)
		}
		fmt.Fprintf(table, "%s\t%s\t%s%s\n", v.ID, date(v.Date), shown(v.By), value)
	}
	return errors.Join(faults, table.Flush())
}

// stdStream as a file's name is the input or the output.
const stdStream = "-"

func newSecretExport(r *remote) *cobra.Command {
	var decrypt, yes bool
	c := &cobra.Command{
		Use: "export FILE", Short: "Write all projects and secrets into a file, for administrators", Args: oneArgument,
		Long: `Write all projects and secrets into a new file, encrypted under the
organization's key as they are stored; - is the output. With --decrypt they can
be read by whoever has the file; the form is then that of Bitwarden's web vault.`,
		Example: `  latchkey secret export backup.json`,
		RunE: func(c *cobra.Command, args []string) error {
			client, err := r.asOperator(c.Context())
			if err != nil {
				return err
			}
			if decrypt {
				if err := r.sure(c.Context(), yes, "Whoever gets the file can read every secret."); err != nil {
					return err
				}
			}
			exported, err := client.Export(c.Context(), decrypt)
			if err != nil {
				return err
			}
			if args[0] == stdStream {
				return r.printJSON(exported)
			}
			content, err := json.MarshalIndent(exported, "", "  ")
			if err != nil {
				return err
			}
			if err := writeNew(args[0], append(content, '\n')); err != nil {
				return fmt.Errorf("export: %w", err)
			}
			return r.showExported(exported)
		},
	}
	c.Flags().BoolVar(&decrypt, "decrypt", false, "write readable secrets")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// maxImport bounds a file that is imported, in bytes.
const maxImport = 256 << 20

func newSecretImport(r *remote) *cobra.Command {
	var decrypted, yes bool
	c := &cobra.Command{
		Use: "import FILE", Short: "Add the projects and secrets of a file, for administrators", Args: oneArgument,
		Long: `Add the projects and secrets of a file that export wrote under the same
organization's key; - is the input. With --decrypted the file is a readable one,
of export or of Bitwarden's web vault, and is encrypted here.

Nothing is replaced: what has a name that exists already is there twice
afterwards. It is counted first, and asked about. The same encrypted file adds
nothing a second time, so that an import that broke off can be run again; a
readable file does.`,
		RunE: func(c *cobra.Command, args []string) error {
			content, err := r.readImport(args[0])
			if err != nil {
				return fmt.Errorf("%w: import: %w", errUsage, err)
			}
			read, err := smclient.ReadTransfer(content)
			if err != nil {
				return fmt.Errorf("import %s: %w", args[0], err)
			}
			client, err := r.asOperator(c.Context())
			if err != nil {
				return err
			}
			if !yes {
				if err := r.noneTwice(c.Context(), client, read, decrypted); err != nil {
					return err
				}
			}
			imported, err := client.Import(c.Context(), read, decrypted)
			if err != nil {
				return err
			}
			return r.showImported(imported)
		},
	}
	c.Flags().BoolVar(&decrypted, "decrypted", false, "the file is a readable one")
	c.Flags().BoolVar(&yes, "yes", false, "do not count what has a name that exists already, and do not ask")
	return c
}

// noneTwice asks where an import makes a second one of something. Of an
// encrypted file only the server knows what it has of it already.
func (r *remote) noneTwice(ctx context.Context, client *smclient.Client, read smclient.Transfer, readable bool) error {
	projects, secrets, err := client.Namesakes(ctx, read, readable)
	if err != nil || projects+secrets == 0 {
		return err
	}
	twice := choose(readable, "and will be there twice", "and will be there twice unless they come from an earlier import of this same file")
	return r.sure(ctx, false, fmt.Sprintf("%d project(s) and %d secret(s) have names that exist already, %s.", projects, secrets, twice))
}

func (t *terminal) readImport(path string) ([]byte, error) {
	source := t.in
	if path != stdStream {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		source = file
	}
	content, err := io.ReadAll(io.LimitReader(source, maxImport+1))
	if err == nil && len(content) > maxImport {
		err = fmt.Errorf("it is larger than %d MiB", maxImport>>20)
	}
	return content, err
}

func (t *terminal) showExported(e smclient.Transfer) error {
	if t.json {
		return t.printJSON(map[string]int{"projects": len(e.Projects), "secrets": len(e.Secrets)})
	}
	fmt.Fprintf(t.out, "%d project(s) and %d secret(s) are exported.\n", len(e.Projects), len(e.Secrets))
	return nil
}

// showImported counts what is new. The rest an earlier import of the same file
// made.
func (t *terminal) showImported(i smclient.Imported) error {
	if t.json {
		return t.printJSON(i)
	}
	fmt.Fprintf(t.out, "%d project(s) and %d secret(s) are imported.\n", i.Projects-i.ExistingProjects, i.Secrets-i.ExistingSecrets)
	if i.ExistingProjects+i.ExistingSecrets > 0 {
		fmt.Fprintf(t.out, "%d project(s) and %d secret(s) were there already.\n", i.ExistingProjects, i.ExistingSecrets)
	}
	return nil
}

func (r *remote) withSecret(ctx context.Context, wanted, project string, do func(client *smclient.Client, id string) error) error {
	client, err := r.either(ctx)
	if err != nil {
		return err
	}
	id, err := secretID(ctx, client, wanted, project)
	if err != nil {
		return err
	}
	return do(client, id)
}
