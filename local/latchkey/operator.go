package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"

	"github.com/latchkey-fn/latchkey/functions/keyconnector"
	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/shared/audit"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/signing"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/userkey"
)

// ringNames are the rings of all functions: Key Connector's, the two of Secrets
// Manager, and Billing sync's.
var ringNames = []string{userkey.Ring, machine.Ring, signing.Ring, sponsor.RingName}

// operator is what the operators' commands work on: the store, and for those
// that touch data keys, the key.
type operator struct {
	house.Closers
	users *userkey.Keys
	// rings are those of all functions, by name.
	rings map[string]*keyring.Ring
	audit audit.Log
	name  string
}

// storeSettings are enough to list and to delete; the key is not needed, so an
// operator need not have it.
type storeSettings struct {
	Store config.Store
	AWS   config.AWS
}

func (s *storeSettings) Validate() error { return errors.Join(s.Store.Validate(), s.AWS.Validate()) }

// keySettings are those of a command that unwraps data keys.
type keySettings struct {
	Store    config.Store
	AWS      config.AWS
	Keys     config.Keys
	Previous config.Keys `envPrefix:"PREVIOUS_"`
}

func (s *keySettings) Validate() error {
	return errors.Join(s.Store.Validate(), s.AWS.Validate(), s.Keys.Validate(), s.Previous.ValidatePrevious())
}

func (s *keySettings) house() house.Settings {
	return house.Settings{Store: s.Store, AWS: s.AWS, Keys: s.Keys, Previous: s.Previous}
}

func openStoreOnly(ctx context.Context, t *terminal) (*operator, error) {
	var s storeSettings
	if err := house.LoadPart(&s, config.Environment(), keyconnector.OfficialNames()); err != nil {
		return nil, err
	}
	return openOperator(ctx, t, keySettings{Store: s.Store, AWS: s.AWS})
}

func openWithKeys(ctx context.Context, t *terminal) (*operator, error) {
	var s keySettings
	if err := house.LoadPart(&s, config.Environment(), keyconnector.OfficialNames()); err != nil {
		return nil, err
	}
	return openOperator(ctx, t, s)
}

// openOperator opens the store, and the keys where the settings have any.
func openOperator(ctx context.Context, t *terminal, s keySettings) (*operator, error) {
	if err := existing(s.Store); err != nil {
		return nil, err
	}
	// Audit events are JSON lines like the server's, beside the command's own
	// output: on the error stream.
	log := logger(t.err)
	o := &operator{audit: audit.New(log), name: "operator:unknown"}
	if u, err := user.Current(); err == nil {
		o.name = "operator:" + u.Username
	}
	parts, err := house.Open(ctx, s.house(), log)
	if err != nil {
		return nil, err
	}
	o.Add(parts)
	documents := store.New(parts.Store)
	o.rings = map[string]*keyring.Ring{}
	for _, name := range ringNames {
		o.rings[name] = keyring.New(keyring.Config{Name: name, Store: documents, Key: parts.Key, Previous: parts.Previous})
	}
	o.users = userkey.New(documents, o.rings[userkey.Ring], log)
	return o, nil
}

// existing refuses a store that is not there. Opening would make an empty one,
// and to a misspelt path the answer would be that nobody has a key.
func existing(s config.Store) error {
	var path string
	switch s.Kind {
	case config.StoreMemory:
		return fmt.Errorf("%w: %sSTORE=memory: only the server itself sees what is in its memory", fault.Invalid, config.Prefix)
	case config.StoreSQLite:
		path = s.SQLitePath
	case config.StoreJSON:
		path = s.JSONPath
	default:
		return nil
	}
	// Any other trouble with the file is told by whoever opens it.
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %sSTORE=%s: there is no file %s", fault.Invalid, config.Prefix, s.Kind, path)
	}
	return nil
}

// record leaves the audit event of something an operator did.
func (o *operator) record(ctx context.Context, action, subject string, err error) {
	event := audit.Event{Action: action, Actor: o.name, Subject: subject, Outcome: audit.Allowed}
	if err != nil {
		event.Outcome, event.Reason = audit.Failed, err.Error()
	}
	o.audit.Record(ctx, event)
}
