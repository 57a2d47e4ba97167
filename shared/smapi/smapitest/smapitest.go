// Package smapitest makes an organisation for the tests of Secrets Manager's
// functions, by the domain that they share: what other functions would have made.
package smapitest

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/logtest"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/signing"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// PublicURL is the address that sessions are made for, without a path.
const PublicURL = "https://sm.example.org"

// Organization is one over a store and a key that fail on demand.
type Organization struct {
	ID       string
	Key      encstring.Key // its own, which only clients have
	Driver   *storetest.Faults
	Wrapping *kmstest.Key
	Log      *logtest.Log
	Machines *machine.Machines

	sessions *signing.Keys
}

// New makes an organisation that has nothing yet.
func New(t testing.TB) *Organization {
	o := &Organization{
		ID: uuid.NewString(), Key: encstring.NewKey(),
		Driver: storetest.NewFaults(store.NewTable()), Wrapping: kmstest.NewKey(t), Log: &logtest.Log{},
	}
	documents, log := store.New(o.Driver), o.Log.Logger()
	ring := func(name string) *keyring.Ring {
		return keyring.New(keyring.Config{Name: name, Store: documents, Key: o.Wrapping})
	}
	o.Machines = machine.New(machine.Config{Store: documents, Ring: ring(machine.Ring), Logger: log})
	o.sessions = signing.New(signing.Config{Store: documents, Ring: ring(signing.Ring), Algorithm: signing.ES256, Logger: log})
	return o
}

// Enc is some text as clients encrypt it.
func (o *Organization) Enc() string { return o.Key.Encrypt("text") }

// Root is an administrator of every organisation.
func Root() machine.Caller {
	return machine.OfPerson(machine.Person{Subject: "root", Role: func(string) machine.Role { return machine.Admin }})
}

// Access is what Root may do in this one.
func (o *Organization) Access(t testing.TB) machine.Access {
	t.Helper()
	a, err := Root().In(o.ID)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// NewAccount makes a service account and gives its id.
func (o *Organization) NewAccount(t testing.TB) string {
	t.Helper()
	account, err := o.Machines.CreateAccount(t.Context(), o.Access(t), machine.AccountSettings{Name: o.Enc()})
	if err != nil {
		t.Fatal(err)
	}
	return account.ID
}

// NewToken makes an access token of an account and gives its id.
func (o *Organization) NewToken(t testing.TB, account string) string {
	t.Helper()
	token, _, err := o.Machines.CreateToken(t.Context(), Root(), account, machine.NewToken{Name: o.Enc(), Payload: o.Enc(), Key: o.Enc()})
	if err != nil {
		t.Fatal(err)
	}
	return token.ID
}

// Session gives the session of an access token, as the exchange makes it.
func (o *Organization) Session(t testing.TB, account, token string) string {
	t.Helper()
	now := time.Now()
	signed, err := o.sessions.Sign(t.Context(), map[string]any{
		"iss": PublicURL, "nbf": now.Unix(), "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"client_id": token, "sub": account, "type": smapi.SessionType, "organization": o.ID, "scope": []string{smapi.SessionScope},
	})
	if err != nil {
		t.Fatal(err)
	}
	return signed
}
