package house

import (
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/latchkey-fn/latchkey/functions/machineaccounts"
	"github.com/latchkey-fn/latchkey/functions/secrets"
	"github.com/latchkey-fn/latchkey/functions/tokenexchange"
	"github.com/latchkey-fn/latchkey/functions/tokenrevoke"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

// SecretsManager is the settings of the functions that Secrets Manager is made
// of.
type SecretsManager struct {
	TokenExchange   tokenexchange.Config
	TokenRevoke     tokenrevoke.Config
	MachineAccounts machineaccounts.Config
	Secrets         secrets.Config
}

// LoadSecretsManager reads the settings of all its functions from one
// environment.
func LoadSecretsManager(environment map[string]string) (c SecretsManager, warnings []string, err error) {
	var faults [4]error
	var unread [4][]string
	c.TokenExchange, unread[0], faults[0] = tokenexchange.LoadConfig(environment)
	c.TokenRevoke, unread[1], faults[1] = tokenrevoke.LoadConfig(environment)
	c.MachineAccounts, unread[2], faults[2] = machineaccounts.LoadConfig(environment)
	c.Secrets, unread[3], faults[3] = secrets.LoadConfig(environment)
	return c, InAll(unread[:]...), JoinOnce(faults[:]...)
}

// JoinOnce joins errors, each line of them once: functions that share a setting
// find the same wrong with it.
func JoinOnce(faults ...error) error {
	var once []error
	told := map[string]bool{}
	for _, fault := range faults {
		if fault == nil {
			continue
		}
		for line := range strings.Lines(fault.Error()) {
			if line = strings.TrimSuffix(line, "\n"); !told[line] {
				told[line] = true
				once = append(once, &lineOf{line, fault})
			}
		}
	}
	return errors.Join(once...)
}

// lineOf is one line of an error.
type lineOf struct {
	text string
	err  error
}

func (l *lineOf) Error() string { return l.text }
func (l *lineOf) Unwrap() error { return l.err }

// InAll gives the warnings that every function has: a setting that one of them
// reads is not misspelt.
func InAll(warnings ...[]string) []string {
	var all []string
	for _, w := range warnings[0] {
		if !slices.ContainsFunc(warnings[1:], func(others []string) bool { return !slices.Contains(others, w) }) {
			all = append(all, w)
		}
	}
	return all
}

// Settings are those of the outside systems, which all its functions share.
func (c SecretsManager) Settings() Settings {
	m := c.MachineAccounts
	return Settings{Store: m.Store, AWS: m.AWS, Keys: m.Keys, Previous: m.Previous}
}

// Function is one of several functions behind one address.
type Function struct {
	Name string
	http.Handler
	// Routes are what it serves, as patterns of http.ServeMux.
	Routes []string
}

// Functions puts the functions on open parts. Nothing is contacted before the
// first request.
func (c SecretsManager) Functions(p *Parts, logger *slog.Logger) ([]Function, error) {
	exchange, exchangeErr := tokenexchange.New(c.TokenExchange, tokenexchange.Parts{
		Store: p.Store, Key: p.Key, Previous: p.Previous, Logger: logger,
	})
	accounts, accountsErr := machineaccounts.New(c.MachineAccounts, machineaccounts.Parts{
		Store: p.Store, Key: p.Key, Previous: p.Previous, Logger: logger,
	})
	revoke, revokeErr := tokenrevoke.New(c.TokenRevoke, tokenrevoke.Parts{Store: p.Store, Logger: logger})
	stored, storedErr := secrets.New(c.Secrets, secrets.Parts{Store: p.Store, Logger: logger})
	if err := errors.Join(exchangeErr, accountsErr, revokeErr, storedErr); err != nil {
		return nil, err
	}
	return []Function{
		{"tokenexchange", exchange, exchange.Routes},
		{"machineaccounts", accounts, below(smapi.Prefix, accounts.Routes)},
		{"tokenrevoke", revoke, below(smapi.Prefix, revoke.Routes)},
		{"secrets", stored, below(smapi.Prefix, stored.Routes)},
	}, nil
}

// below gives the routes below a path.
func below(prefix string, routes []string) []string {
	list := make([]string, len(routes))
	for i, route := range routes {
		method, path, _ := strings.Cut(route, " ")
		list[i] = method + " " + prefix + path
	}
	return list
}

// Gather has a mux send each request to the function whose route it is, as the
// API in front of the functions does: at the root, and below the path of the
// public address, which a reverse proxy may cut or not. Which methods a path has
// is left to the function; what of the API is nobody's route is answered by the
// last.
func (c SecretsManager) Gather(mux *http.ServeMux, functions []Function) {
	patterns := map[string]Function{smapi.Prefix + "/": functions[len(functions)-1]}
	for _, f := range functions {
		for _, route := range f.Routes {
			_, path, _ := strings.Cut(route, " ")
			patterns[path] = f
		}
	}
	for pattern, f := range patterns {
		mux.Handle(pattern, f)
		if own := c.Secrets.Sessions.Path(); own != "" {
			mux.Handle(own+pattern, f)
		}
	}
}
