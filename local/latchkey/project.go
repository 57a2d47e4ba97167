package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/smclient"
)

func newProject(t *terminal) *cobra.Command {
	r := &remote{terminal: t}
	return r.addFlags(group(&cobra.Command{
		Use:   "project",
		Short: "Create, list, rename and delete projects of secrets (Secrets Manager)",
		Long: `Projects hold secrets, and machine accounts are granted projects. A project is
named by its name, where only one has it, or by its id.
` + remoteHelp,
	}, newProjectCreate(r), newProjectList(r), newProjectShow(r), newProjectRename(r), newProjectDelete(r)))
}

func newProjectCreate(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "create NAME", Short: "Create a project", Args: oneArgument,
		Example: `  latchkey project create production`,
		RunE: func(c *cobra.Command, args []string) error {
			client, err := r.either(c.Context())
			if err != nil {
				return err
			}
			p, err := client.CreateProject(c.Context(), args[0])
			if err != nil {
				return err
			}
			all, err := client.Projects(c.Context())
			noteNamesakes(r.terminal, "project", p, all, err, nameOfProject)
			return r.showProject(p)
		},
	}
}

func newProjectList(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the projects that you may reach", Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := r.either(c.Context())
			if err != nil {
				return err
			}
			projects, err := client.Projects(c.Context())
			if projects == nil {
				return err
			}
			if r.json {
				return errors.Join(err, r.printJSON(projects))
			}
			table := r.table()
			fmt.Fprintln(table, "ID\tNAME\tCHANGED\tRIGHTS")
			for _, p := range projects {
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", p.ID, shown(p.Name), date(p.Revised), rights(p.Write))
			}
			return errors.Join(err, table.Flush())
		},
	}
}

func rights(write bool) string { return choose(write, "read, write", "read") }

func newProjectShow(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "show PROJECT", Short: "Show one project", Args: oneArgument,
		RunE: func(c *cobra.Command, args []string) error {
			return r.withProject(c.Context(), args[0], func(client *smclient.Client, id string) error {
				p, err := client.Project(c.Context(), id)
				if err != nil {
					return err
				}
				return r.showProject(p)
			})
		},
	}
}

func (r *remote) showProject(p smclient.Project) error {
	if r.json {
		return r.printJSON(p)
	}
	table := r.table()
	fmt.Fprintf(table, "id\t%s\nname\t%s\ncreated\t%s\nchanged\t%s\nrights\t%s\n",
		p.ID, shown(p.Name), date(p.Created), date(p.Revised), rights(p.Write))
	return table.Flush()
}

func newProjectRename(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "rename PROJECT NAME", Short: "Give a project another name", Args: twoArguments,
		RunE: func(c *cobra.Command, args []string) error {
			return r.withProject(c.Context(), args[0], func(client *smclient.Client, id string) error {
				p, err := client.RenameProject(c.Context(), id, args[1])
				if err != nil {
					return err
				}
				all, err := client.Projects(c.Context())
				noteNamesakes(r.terminal, "project", p, all, err, nameOfProject)
				return r.showProject(p)
			})
		},
	}
}

func newProjectDelete(r *remote) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "delete PROJECT", Short: "Delete a project", Args: oneArgument,
		Long: `Delete a project, for ever. Its secrets stay, in no project: machines that
reached them by it no longer do.`,
		RunE: func(c *cobra.Command, args []string) error {
			return r.withProject(c.Context(), args[0], func(client *smclient.Client, id string) error {
				p, err := client.Project(c.Context(), id)
				if err != nil {
					return err
				}
				if err := r.sure(c.Context(), yes, fmt.Sprintf("Project %q (%s) is deleted for ever; its secrets stay, in no project.", shown(p.Name), id)); err != nil {
					return err
				}
				if err := client.DeleteProjects(c.Context(), id); err != nil {
					return err
				}
				return r.done("Project", "deleted", id)
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (r *remote) withProject(ctx context.Context, wanted string, do func(client *smclient.Client, id string) error) error {
	client, err := r.either(ctx)
	if err != nil {
		return err
	}
	id, err := projectID(ctx, client, wanted)
	if err != nil {
		return err
	}
	return do(client, id)
}

// done tells what was done to what.
func (t *terminal) done(what, done string, ids ...string) error {
	if t.json {
		return t.printJSON(map[string][]string{done: ids})
	}
	for _, id := range ids {
		fmt.Fprintf(t.out, "%s %s is %s.\n", what, id, done)
	}
	return nil
}
