package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/smclient"
	"github.com/latchkey-fn/latchkey/shared/accesstoken"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/encstring"
)

// remote is the server that a command speaks to, and as whom.
type remote struct {
	*terminal
	flags struct{ server, organization, keyFile, operatorTokenFile string }
	// opened is the key file's content; nobody is asked for a passphrase twice.
	opened *organizationKey
}

// remoteSettings are those of the commands that speak to a server.
type remoteSettings struct {
	Server          string        `env:"SERVER"`
	AccessToken     config.Secret `env:"ACCESS_TOKEN"`
	OperatorToken   config.Secret `env:"OPERATOR_TOKEN"`
	Organization    string        `env:"ORGANIZATION"`
	OrganizationKey config.Secret `env:"ORGANIZATION_KEY"`
	KeyFile         string        `env:"KEY_FILE"`
	Passphrase      config.Secret `env:"PASSPHRASE"`
}

// withheld are the settings that `latchkey run` keeps from the command.
func withheld() []string {
	names := []string{"KEY_FILE", "CONFIG_FILE"}
	for _, secret := range []string{"ACCESS_TOKEN", "OPERATOR_TOKEN", "ORGANIZATION_KEY", "PASSPHRASE"} {
		names = append(names, secret, secret+"_FILE")
	}
	for i := range names {
		names[i] = config.Prefix + names[i]
	}
	return names
}

// operatorHelp closes the help of the groups of commands that are for operators
// alone, remoteHelp that of those that are for machines too.
const (
	operatorHelp = `
The server is --server or LATCHKEY_SERVER; with a private certificate authority,
set SSL_CERT_FILE.

An operator sets LATCHKEY_OPERATOR_TOKEN, a token of the organization's OpenID
provider, and has the organization's key in a key file, whose passphrase is
asked for or LATCHKEY_PASSPHRASE, or in LATCHKEY_ORGANIZATION_KEY. What is secret
can be given by file: LATCHKEY_OPERATOR_TOKEN_FILE and so on.`
	remoteHelp = operatorHelp + `

A machine sets LATCHKEY_ACCESS_TOKEN (or LATCHKEY_ACCESS_TOKEN_FILE), and needs
no key.`
)

// addFlags adds the flags that all of a group's commands have.
func (r *remote) addFlags(c *cobra.Command) *cobra.Command {
	c.PersistentFlags().StringVar(&r.flags.keyFile, "key-file", "", "file with the organization's key, for operators (default LATCHKEY_KEY_FILE, or ID.age in the folder latchkey of your configuration)")
	return r.addKeylessFlags(c)
}

// addKeylessFlags adds those of a group whose commands need no key.
func (r *remote) addKeylessFlags(c *cobra.Command) *cobra.Command {
	flags := c.PersistentFlags()
	flags.StringVar(&r.flags.server, "server", "", "base URL of the server (default LATCHKEY_SERVER)")
	flags.StringVar(&r.flags.organization, "organization", "", "the organization's id, for operators (default LATCHKEY_ORGANIZATION, or the one that is known)")
	flags.StringVar(&r.flags.operatorTokenFile, "operator-token-file", "", "file with the operator's token (default LATCHKEY_OPERATOR_TOKEN)")
	return c
}

// settings are those of the environment with the flags over them.
func (r *remote) settings() (remoteSettings, error) {
	var s remoteSettings
	// What belongs to the functions is not for these commands to warn of.
	if _, err := config.Load(&s, config.Source{Environment: config.Environment()}); err != nil {
		return s, err
	}
	s.Server = cmp.Or(r.flags.server, s.Server)
	s.Organization = cmp.Or(r.flags.organization, s.Organization)
	s.KeyFile = cmp.Or(r.flags.keyFile, s.KeyFile)
	if r.flags.operatorTokenFile != "" {
		content, err := readSmall(r.flags.operatorTokenFile)
		if err != nil {
			return s, fmt.Errorf("%w: --operator-token-file: %w", errUsage, err)
		}
		s.OperatorToken = config.Secret(content)
		s.AccessToken = "" // the flag says as whom
	}
	s.OperatorToken = config.Secret(strings.TrimSpace(s.OperatorToken.Reveal()))
	s.AccessToken = config.Secret(strings.TrimSpace(s.AccessToken.Reveal()))
	if s.Organization != "" {
		id, err := uuid.Parse(s.Organization)
		if err != nil {
			return s, fmt.Errorf("%w: the organization's id is not a UUID", errUsage)
		}
		s.Organization = id.String()
	}
	return s, nil
}

// either speaks as a machine or as an operator, whatever there is a token of.
func (r *remote) either(ctx context.Context) (*smclient.Client, error) {
	s, err := r.settings()
	switch {
	case err != nil:
		return nil, err
	case s.AccessToken != "" && s.OperatorToken != "":
		return nil, fmt.Errorf("%w: LATCHKEY_ACCESS_TOKEN and LATCHKEY_OPERATOR_TOKEN are both set: who is asking? Unset one of them", errUsage)
	case s.AccessToken != "":
		return r.forMachine(s)
	case s.OperatorToken != "":
		return r.forOperator(ctx, s)
	}
	return nil, fmt.Errorf("%w: set LATCHKEY_ACCESS_TOKEN (for a machine) or LATCHKEY_OPERATOR_TOKEN (for an operator)", errUsage)
}

// asMachine is for what only the holder of an access token can do.
func (r *remote) asMachine() (*smclient.Client, error) {
	s, err := r.settings()
	if err != nil {
		return nil, err
	}
	if s.AccessToken == "" {
		return nil, fmt.Errorf("%w: set LATCHKEY_ACCESS_TOKEN", errUsage)
	}
	return r.forMachine(s)
}

// asOperator is for what machines may not do.
func (r *remote) asOperator(ctx context.Context) (*smclient.Client, error) {
	s, err := r.operatorSettings()
	if err != nil {
		return nil, err
	}
	return r.forOperator(ctx, s)
}

// operatorSettings are those of somebody who has an operator's token.
func (r *remote) operatorSettings() (remoteSettings, error) {
	s, err := r.settings()
	if err == nil && s.OperatorToken == "" {
		err = fmt.Errorf("%w: set LATCHKEY_OPERATOR_TOKEN: machines may not do this", errUsage)
	}
	return s, err
}

// keylessSettings are complete without the organisation's key, which the command
// does not need: no key file is opened to learn which server is meant.
func (r *remote) keylessSettings() (remoteSettings, error) {
	s, err := r.operatorSettings()
	if err != nil {
		return s, err
	}
	if s.Server == "" {
		return s, errNoServer
	}
	if s.Organization == "" {
		s.Organization, err = likelyOrganization(s.OperatorToken)
	}
	return s, err
}

var errNoServer = fmt.Errorf("%w: set LATCHKEY_SERVER or --server to the address of the server, such as https://latchkey.example.org", errUsage)

func (r *remote) forMachine(s remoteSettings) (*smclient.Client, error) {
	if s.Server == "" {
		return nil, errNoServer
	}
	token, err := accesstoken.Parse(s.AccessToken.Reveal())
	if err != nil {
		return nil, fmt.Errorf("%w: LATCHKEY_ACCESS_TOKEN: %w", errUsage, err)
	}
	return smclient.ForMachine(smclient.Config{Server: s.Server}, token)
}

func (r *remote) forOperator(ctx context.Context, s remoteSettings) (*smclient.Client, error) {
	s, err := r.complete(ctx, s)
	if err != nil {
		return nil, err
	}
	return smclient.ForOperator(smclient.Config{Server: s.Server}, smclient.Operator{
		Bearer: s.OperatorToken, Organization: s.Organization,
		Key: func(ctx context.Context) (encstring.Key, error) {
			k, err := r.organizationKey(ctx, s)
			return k.key, err
		},
	})
}

// complete finds out which organisation and which server are meant. Where the
// settings do not say it and nothing else does, the key file is opened.
func (r *remote) complete(ctx context.Context, s remoteSettings) (remoteSettings, error) {
	if s.Organization == "" {
		s.Organization = idOf(s.KeyFile)
	}
	if s.Organization == "" && s.KeyFile == "" {
		id, err := likelyOrganization(s.OperatorToken)
		if err != nil {
			return s, err
		}
		s.Organization = id
	}
	if s.Server != "" && s.Organization != "" {
		return s, nil
	}
	if s.Server == "" && s.OrganizationKey != "" {
		return s, errNoServer
	}
	k, err := r.organizationKey(ctx, s)
	if err != nil {
		return s, errors.Join(errNoServerIf(s.Server == ""), err)
	}
	s.Organization, s.Server = cmp.Or(s.Organization, k.organization), cmp.Or(s.Server, k.server)
	if s.Server == "" {
		return s, errNoServer
	}
	return s, nil
}

func errNoServerIf(missing bool) error {
	if missing {
		return errNoServer
	}
	return nil
}

// likelyOrganization is the one that the operator's token names, or the one
// whose key file is here.
func likelyOrganization(bearer config.Secret) (string, error) {
	named, claimsErr := smclient.Administered(bearer.Reveal())
	if len(named) == 1 {
		return named[0], nil
	}
	dir, err := keyFolder()
	if err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"+keyFileSuffix))
	if err != nil {
		return "", err
	}
	if len(named) == 0 && len(files) == 1 && idOf(files[0]) != "" {
		return idOf(files[0]), nil
	}
	return "", errors.Join(fmt.Errorf("%w: which organization? Set LATCHKEY_ORGANIZATION or --organization to its id", errUsage), claimsErr)
}

// organizationKey gives the key of the environment or of the key file.
func (r *remote) organizationKey(ctx context.Context, s remoteSettings) (organizationKey, error) {
	if s.OrganizationKey != "" {
		if s.KeyFile != "" {
			return organizationKey{}, fmt.Errorf("%w: LATCHKEY_ORGANIZATION_KEY and a key file are both given: give one of them", errUsage)
		}
		key, err := encstring.ParseKey(strings.TrimSpace(s.OrganizationKey.Reveal()))
		if err != nil {
			return organizationKey{}, fmt.Errorf("%w: LATCHKEY_ORGANIZATION_KEY: it is not 64 bytes in base64", errUsage)
		}
		return organizationKey{organization: s.Organization, key: key}, nil
	}
	if r.opened != nil {
		return *r.opened, nil
	}
	path, err := keyFilePath(s)
	if err != nil {
		return organizationKey{}, err
	}
	if _, err := os.Stat(path); err != nil {
		return organizationKey{}, fmt.Errorf("%w: the organization's key is needed, and there is no key file: %w\nGet it from whoever made the organization, and give --key-file; or set LATCHKEY_ORGANIZATION_KEY; `latchkey org create` makes one for a new organization", errUsage, err)
	}
	passphrase, err := r.passphrase(ctx, s, "Passphrase of "+path)
	if err != nil {
		return organizationKey{}, err
	}
	k, err := readKeyFile(path, passphrase)
	if err != nil {
		return organizationKey{}, err
	}
	if s.Organization != "" && k.organization != s.Organization {
		return organizationKey{}, fmt.Errorf("%w: %s has the key of organization %s, not of %s", errUsage, path, k.organization, s.Organization)
	}
	r.opened = &k
	return k, nil
}
