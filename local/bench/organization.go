package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/functions/secrets"
	"github.com/latchkey-fn/latchkey/functions/tokenexchange"
	"github.com/latchkey-fn/latchkey/shared/accesstoken"
	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/signing"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// organization is one whose machine account may read and write in all of its
// projects.
type organization struct {
	id       string
	key      encstring.Key
	machines *machine.Machines
	secrets  *secret.Secrets
	admin    machine.Access
	account  string
	projects []string
}

// newOrganization makes one with so many projects, over the parts of an
// exchange, which has the keyring that tokens are sealed under.
func newOrganization(ctx context.Context, driver store.Driver, machines *machine.Machines, projects int) (*organization, error) {
	o := &organization{id: uuid.NewString(), key: encstring.NewKey(), machines: machines}
	o.secrets = secret.New(secret.Config{Store: store.New(driver), Machines: machines, Logger: quiet})
	person := machine.OfPerson(machine.Person{Subject: "bench", Role: func(string) machine.Role { return machine.Admin }})
	var err error
	if o.admin, err = person.In(o.id); err != nil {
		return nil, err
	}
	account, err := machines.CreateAccount(ctx, o.admin, machine.AccountSettings{Name: o.key.Encrypt("bench")})
	if err != nil {
		return nil, err
	}
	o.account = account.ID
	grants := map[string]machine.Rights{}
	for n := range projects {
		project, err := o.secrets.CreateProject(ctx, o.admin, o.key.Encrypt(fmt.Sprint("project ", n)))
		if err != nil {
			return nil, err
		}
		o.projects = append(o.projects, project.ID)
		grants[project.ID] = machine.ToWrite
	}
	_, err = machines.SetAccountProjects(ctx, person, o.account, grants, func(string, *machine.Rights) error { return nil })
	return o, err
}

// newToken makes an access token of the account.
func (o *organization) newToken(ctx context.Context) (accesstoken.Token, error) {
	token := accesstoken.New("", "") // the server gives both
	derived, err := token.Key()
	if err != nil {
		return accesstoken.Token{}, err
	}
	payload, err := token.Seal(o.key)
	if err != nil {
		return accesstoken.Token{}, err
	}
	made, clientSecret, err := o.machines.CreateToken(ctx, o.admin.Caller, o.account, machine.NewToken{
		Name: o.key.Encrypt("bench"), Payload: payload, Key: o.key.Encrypt(derived.Reveal()),
	})
	token.ID, token.ClientSecret = made.ID, clientSecret
	return token, err
}

// newTokens makes several.
func (o *organization) newTokens(ctx context.Context, n int) (tokens []accesstoken.Token, err error) {
	for range n {
		token, err := o.newToken(ctx)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, token)
	}
	return tokens, nil
}

// newSecret makes a secret in one of the projects.
func (o *organization) newSecret(ctx context.Context, n int) (id string, err error) {
	made, err := o.secrets.Create(ctx, o.admin, secret.Values{
		Key: o.key.Encrypt(fmt.Sprint("KEY_", n)), Value: o.key.Encrypt("value"), Note: o.key.Encrypt("note"),
		Projects: []string{o.projects[n%len(o.projects)]},
	})
	return made.Head.ID, err
}

// quiet is the logger of a server whose log lines are discarded.
var quiet = slog.New(slog.NewJSONHandler(io.Discard, nil))

// machineSettings are those that all functions of Secrets Manager have. Store
// and keys are given, whatever these say.
func machineSettings(algorithm string) map[string]string {
	return map[string]string{
		"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": "unused",
		"LATCHKEY_PUBLIC_URL": "https://sm.example.org", "LATCHKEY_SIGNING_ALGORITHM": algorithm,
	}
}

func newExchange(driver store.Driver, key kms.Unwrapper, algorithm string) (*tokenexchange.Function, error) {
	settings, _, err := tokenexchange.LoadConfig(machineSettings(algorithm))
	if err != nil {
		return nil, err
	}
	return tokenexchange.New(settings, tokenexchange.Parts{Store: driver, Key: key, Logger: quiet})
}

// newSecrets serves people of an identity server as well, unless its address is
// empty. Requests may take as long as an emulator needs.
func newSecrets(driver store.Driver, identityURL string) (http.Handler, error) {
	environment := machineSettings(signing.RS256)
	environment["LATCHKEY_REQUEST_TIMEOUT"] = "1h"
	if identityURL != "" {
		environment["LATCHKEY_IDENTITY_URL"] = identityURL
	}
	settings, _, err := secrets.LoadConfig(environment)
	if err != nil {
		return nil, err
	}
	return secrets.New(settings, secrets.Parts{Store: driver, Logger: quiet})
}

// exchangeToken sends an exchange as clients do.
func exchangeToken(ctx context.Context, exchange http.Handler, token accesstoken.Token) (*answer, error) {
	form := url.Values{
		"scope": {"api.secrets"}, "client_id": {token.ID}, "client_secret": {token.ClientSecret}, "grant_type": {"client_credentials"},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "/identity/connect/token", strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	request.RemoteAddr = "127.0.0.1:50000"
	request.Header = http.Header{
		"Accept": {"application/json"}, "Content-Type": {"application/x-www-form-urlencoded; charset=utf-8"},
		"Device-Type": {"21"}, "User-Agent": {"Bitwarden GOLANG-SDK"},
	}
	a := newAnswer()
	exchange.ServeHTTP(a, request)
	if a.status != http.StatusOK {
		return nil, fmt.Errorf("exchange: %d %s", a.status, a.body.String())
	}
	return a, nil
}

// login exchanges a token for a session, and opens what comes with it.
func (o *organization) login(ctx context.Context, exchange http.Handler, token accesstoken.Token) (session string, err error) {
	a, err := exchangeToken(ctx, exchange, token)
	if err != nil {
		return "", err
	}
	var granted struct {
		AccessToken      string `json:"access_token"`
		EncryptedPayload string `json:"encrypted_payload"`
	}
	if err := json.Unmarshal(a.body.Bytes(), &granted); err != nil {
		return "", err
	}
	if opened, err := token.Open(granted.EncryptedPayload); err != nil || opened != o.key {
		return "", errors.Join(errors.New("exchange: the payload does not hold the organisation's key"), err)
	}
	return granted.AccessToken, nil
}

// sessionRequest is a request of the API as clients send it.
func sessionRequest(ctx context.Context, method, path, session string, body []byte) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, method, "/api"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.RemoteAddr = "127.0.0.1:50000"
	request.Header = http.Header{"Accept": {"*/*"}, "Authorization": {"Bearer " + session}, "Device-Type": {"21"}, "User-Agent": {"Bitwarden GOLANG-SDK"}}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}
