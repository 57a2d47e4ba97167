package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/smclient"
)

// errNoSuch is a name that nothing has.
var errNoSuch = errors.New("not found")

// asID tells whether what the user named is an id, which goes before names.
func asID(text string) (string, bool) {
	id, err := uuid.Parse(text)
	if err != nil || len(text) != len(id.String()) {
		return "", false
	}
	return id.String(), true
}

// byName finds the one thing of a name. Only clients can look for names, since
// the server cannot read them.
func byName[T any](what, wanted string, all []T, named func(T) (id, name string)) (T, error) {
	var found, none T
	var ids []string
	for _, one := range all {
		if id, name := named(one); name == wanted {
			found, ids = one, append(ids, id)
		}
	}
	switch len(ids) {
	case 0:
		return none, fmt.Errorf("%w: there is no %s %q that you may reach", errNoSuch, what, wanted)
	case 1:
		return found, nil
	}
	return none, fmt.Errorf("%w: several of them are called %q: give the id of one (%s)", errUsage, wanted, strings.Join(ids, ", "))
}

// How things are called.
func nameOfProject(p smclient.Project) (id, name string) { return p.ID, p.Name }
func nameOfMachine(m smclient.Machine) (id, name string) { return m.ID, m.Name }
func nameOfSecret(h smclient.Head) (id, name string)     { return h.ID, h.Key }

// noteNamesakes says so where a thing was just given a name that others have
// too; the error is about those that could not be listed.
func noteNamesakes[T any](t *terminal, what string, thing T, all []T, err error, named func(T) (id, name string)) {
	id, name := named(thing)
	if err != nil {
		fmt.Fprintf(t.err, "latchkey: whether another %s is called %q is not known: %v\n", what, name, err)
	}
	for _, other := range all {
		if otherID, otherName := named(other); otherName == name && otherID != id {
			fmt.Fprintf(t.err, "latchkey: there is another %s %q, %s: they can only be named by their ids\n", what, name, otherID)
		}
	}
}

// projectID gives the id of the project that the user named.
func projectID(ctx context.Context, c *smclient.Client, wanted string) (string, error) {
	ids, err := projectIDs(ctx, c, []string{wanted})
	if err != nil {
		return "", err
	}
	return ids[0], nil
}

// projectIDs gives those of several. The projects are listed once at most.
func projectIDs(ctx context.Context, c *smclient.Client, wanted []string) ([]string, error) {
	var all []smclient.Project
	ids := make([]string, len(wanted))
	for i, text := range wanted {
		if id, ok := asID(text); ok {
			ids[i] = id
			continue
		}
		if all == nil {
			var err error
			if all, err = c.Projects(ctx); err != nil {
				return nil, err
			}
		}
		p, err := byName("project", text, all, nameOfProject)
		if err != nil {
			return nil, err
		}
		ids[i] = p.ID
	}
	return ids, nil
}

// machineID gives the id of the machine account that the user named.
func machineID(ctx context.Context, c *smclient.Client, wanted string) (string, error) {
	if id, ok := asID(wanted); ok {
		return id, nil
	}
	all, err := c.Machines(ctx)
	if err != nil {
		return "", err
	}
	m, err := byName("machine account", wanted, all, nameOfMachine)
	return m.ID, err
}

// secretID gives the id of the secret that the user named, of one project if
// that is given.
func secretID(ctx context.Context, c *smclient.Client, wanted, project string) (string, error) {
	if id, ok := asID(wanted); ok {
		return id, nil
	}
	heads, err := secretHeads(ctx, c, project)
	if err != nil {
		return "", err
	}
	h, err := byName("secret", wanted, heads, nameOfSecret)
	return h.ID, err
}

// secretHeads lists the secrets of one project, named or by id, or all.
func secretHeads(ctx context.Context, c *smclient.Client, project string) ([]smclient.Head, error) {
	if project == "" {
		return c.Secrets(ctx)
	}
	id, err := projectID(ctx, c, project)
	if err != nil {
		return nil, err
	}
	return c.SecretsOf(ctx, id)
}

// shown keeps names, which others chose, from being anything but text on a
// terminal.
func shown(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}
