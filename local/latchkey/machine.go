package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/smclient"
)

func newMachine(t *terminal) *cobra.Command {
	r := &remote{terminal: t}
	return r.addFlags(group(&cobra.Command{
		Use:   "machine",
		Short: "Create machine accounts, and grant them projects (Secrets Manager)",
		Long: `A machine account is granted projects, to read or also to write; its access
tokens have those rights. Machine accounts and projects are named by name, where
only one has it, or by id. All of this is for operators.
` + operatorHelp,
	}, newMachineCreate(r), newMachineList(r), newMachineShow(r), newMachineRename(r), newMachineDelete(r), newMachineGrant(r), newMachineUngrant(r)))
}

// parseGrant reads PROJECT or PROJECT:write.
func parseGrant(text string) (project string, write bool) {
	if name, ok := strings.CutSuffix(text, ":write"); ok {
		return name, true
	}
	return strings.TrimSuffix(text, ":read"), false
}

// grantsOf reads several, and finds the projects' ids.
func grantsOf(ctx context.Context, client *smclient.Client, texts []string) ([]smclient.Grant, error) {
	names, grants := make([]string, len(texts)), make([]smclient.Grant, len(texts))
	for i, text := range texts {
		names[i], grants[i].Write = parseGrant(text)
	}
	ids, err := projectIDs(ctx, client, names)
	if errors.Is(err, errNoSuch) && strings.Contains(strings.Join(names, ""), ":") {
		return nil, fmt.Errorf("%w (what a machine may do there is written PROJECT:read or PROJECT:write)", err)
	}
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		if slices.Index(ids, id) != i {
			return nil, fmt.Errorf("%w: project %s is given twice", errUsage, names[i])
		}
		grants[i].Project = id
	}
	return grants, nil
}

func newMachineCreate(r *remote) *cobra.Command {
	var projects []string
	var noNewProjects bool
	c := &cobra.Command{
		Use: "create NAME", Short: "Create a machine account", Args: oneArgument,
		Example: `  latchkey machine create ci --project production --project staging:write --no-new-projects`,
		RunE: func(c *cobra.Command, args []string) error {
			client, err := r.asOperator(c.Context())
			if err != nil {
				return err
			}
			grants, err := grantsOf(c.Context(), client, projects)
			if err != nil {
				return err
			}
			m, err := client.CreateMachine(c.Context(), args[0], !noNewProjects)
			if err != nil {
				return err
			}
			all, err := client.Machines(c.Context())
			noteNamesakes(r.terminal, "machine account", m, all, err, nameOfMachine)
			if len(grants) > 0 {
				if grants, err = client.SetGrants(c.Context(), m.ID, grants); err != nil {
					return fmt.Errorf("machine account %s was created, but has no project yet: %w", m.ID, err)
				}
			}
			return r.showMachine(m, grants)
		},
	}
	c.Flags().StringArrayVar(&projects, "project", nil, "a project that it may read, or with :write behind it also write; several times for several")
	c.Flags().BoolVar(&noNewProjects, "no-new-projects", false, "it may not create projects")
	return c
}

func newMachineList(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the machine accounts", Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := r.asOperator(c.Context())
			if err != nil {
				return err
			}
			machines, err := client.Machines(c.Context())
			if machines == nil {
				return err
			}
			if r.json {
				return errors.Join(err, r.printJSON(machines))
			}
			table := r.table()
			fmt.Fprintln(table, "ID\tNAME\tCREATED\tREACHES SECRETS")
			for _, m := range machines {
				fmt.Fprintf(table, "%s\t%s\t%s\t%d\n", m.ID, shown(m.Name), date(m.Created), m.AccessToSecrets)
			}
			return errors.Join(err, table.Flush())
		},
	}
}

func newMachineShow(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "show MACHINE", Short: "Show a machine account and the projects that it reaches", Args: oneArgument,
		RunE: func(c *cobra.Command, args []string) error {
			return r.withMachine(c.Context(), args[0], func(client *smclient.Client, id string) error {
				m, err := client.Machine(c.Context(), id)
				if err != nil {
					return err
				}
				grants, err := client.Grants(c.Context(), id)
				if err != nil {
					return err
				}
				return r.showMachine(m, grants)
			})
		},
	}
}

func (r *remote) showMachine(m smclient.Machine, grants []smclient.Grant) error {
	if r.json {
		if grants == nil {
			grants = []smclient.Grant{}
		}
		return r.printJSON(struct {
			ID                string           `json:"id"`
			Organization      string           `json:"organizationId"`
			Name              string           `json:"name"`
			MayCreateProjects bool             `json:"mayCreateProjects"`
			Projects          []smclient.Grant `json:"projects"`
		}{m.ID, m.Organization, m.Name, m.MayCreateProjects, grants})
	}
	table := r.table()
	fmt.Fprintf(table, "id\t%s\nname\t%s\ncreated\t%s\nmay create projects\t%s\n", m.ID, shown(m.Name), date(m.Created), choose(m.MayCreateProjects, "yes", "no"))
	for _, g := range grants {
		fmt.Fprintf(table, "project\t%s  %s (%s)\n", g.Project, shown(g.Name), rights(g.Write))
	}
	return table.Flush()
}

func newMachineRename(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "rename MACHINE NAME", Short: "Give a machine account another name", Args: twoArguments,
		RunE: func(c *cobra.Command, args []string) error {
			return r.withMachine(c.Context(), args[0], func(client *smclient.Client, id string) error {
				m, err := client.RenameMachine(c.Context(), id, args[1])
				if err != nil {
					return err
				}
				all, err := client.Machines(c.Context())
				noteNamesakes(r.terminal, "machine account", m, all, err, nameOfMachine)
				grants, err := client.Grants(c.Context(), id)
				if err != nil {
					return err
				}
				return r.showMachine(m, grants)
			})
		},
	}
}

func newMachineDelete(r *remote) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "delete MACHINE", Short: "Delete a machine account with its access tokens", Args: oneArgument,
		RunE: func(c *cobra.Command, args []string) error {
			return r.withMachine(c.Context(), args[0], func(client *smclient.Client, id string) error {
				m, err := client.Machine(c.Context(), id)
				if err != nil {
					return err
				}
				if err := r.sure(c.Context(), yes, fmt.Sprintf("Machine account %q (%s) is deleted for ever, and its access tokens are revoked.", shown(m.Name), id)); err != nil {
					return err
				}
				if err := client.DeleteMachines(c.Context(), id); err != nil {
					return err
				}
				return r.done("Machine account", "deleted", id)
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func newMachineGrant(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "grant MACHINE PROJECT[:write]...", Short: "Let a machine account read projects, or also write", Args: twoOrMore,
		Example: `  latchkey machine grant ci staging:write`,
		RunE: func(c *cobra.Command, args []string) error {
			return r.changeGrants(c.Context(), args, func(now, given []smclient.Grant) ([]smclient.Grant, error) {
				return append(smclient.Without(now, projectsOf(given)...), given...), nil
			})
		},
	}
}

func newMachineUngrant(r *remote) *cobra.Command {
	return &cobra.Command{
		Use: "ungrant MACHINE PROJECT...", Short: "Take projects from a machine account", Args: twoOrMore,
		RunE: func(c *cobra.Command, args []string) error {
			return r.changeGrants(c.Context(), args, func(now, given []smclient.Grant) ([]smclient.Grant, error) {
				for _, id := range projectsOf(given) {
					if !slices.Contains(projectsOf(now), id) {
						return nil, fmt.Errorf("%w: the machine account is not granted project %s", errNoSuch, id)
					}
				}
				return smclient.Without(now, projectsOf(given)...), nil
			})
		},
	}
}

func projectsOf(grants []smclient.Grant) []string {
	ids := make([]string, len(grants))
	for i, g := range grants {
		ids[i] = g.Project
	}
	return ids
}

// changeGrants sets what a machine account reaches to what the function makes
// of it and of the grants named in the arguments.
func (r *remote) changeGrants(ctx context.Context, args []string, change func(now, given []smclient.Grant) ([]smclient.Grant, error)) error {
	return r.withMachine(ctx, args[0], func(client *smclient.Client, id string) error {
		given, err := grantsOf(ctx, client, args[1:])
		if err != nil {
			return err
		}
		m, err := client.Machine(ctx, id)
		if err != nil {
			return err
		}
		grants, err := client.Grants(ctx, id)
		if err != nil {
			return err
		}
		if grants, err = change(grants, given); err != nil {
			return err
		}
		if grants, err = client.SetGrants(ctx, id, grants); err != nil {
			return err
		}
		return r.showMachine(m, grants)
	})
}

func (r *remote) withMachine(ctx context.Context, wanted string, do func(client *smclient.Client, id string) error) error {
	client, err := r.asOperator(ctx)
	if err != nil {
		return err
	}
	id, err := machineID(ctx, client, wanted)
	if err != nil {
		return err
	}
	return do(client, id)
}
