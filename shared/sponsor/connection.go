package sponsor

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/sponsor/cloud"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// allConnections is the parent of every connection.
const allConnections = "all"

// The official server's texts.
const (
	commDisabled     = "Failed to sync instance with cloud - Cloud communication is disabled in global settings"
	oneConnection    = "The requested organization already has a connection of type CloudBillingSync. Only one of each connection type may exist per organization."
	noConnection     = "No saved Connection config for organization %s"
	connectionOff    = "Connection disabled for organization %s"
	cannotVerify     = "Cannot verify license file."
	enableConnection = "paste the billing sync key that the cloud's web vault shows, and enable the connection"
)

// Connection is how an organisation is known to the cloud. There is one for each
// organisation, so that its id is the organisation's.
type Connection struct {
	Organization string
	Enabled      bool
	// CloudOrganization is the cloud's id of the organisation, as its licence
	// says.
	CloudOrganization string
	Region            string
	// KeyEnd is the last four characters of the billing sync key, and
	// KeyFingerprint tells keys apart. The key itself never comes back.
	KeyEnd, KeyFingerprint string
	// KeyRevision grows with every other key of the connection.
	KeyRevision int
	KeyChanged  time.Time
	Created     time.Time
	Probe       Probe
}

// Probe is what the cloud said to a key.
type Probe struct {
	// At is nil if it was not asked yet.
	At *time.Time `json:"at,omitempty"`
	// Code is empty if the key is good.
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

// Good tells whether the cloud took the key.
func (p Probe) Good() bool { return p.At != nil && p.Code == "" }

// connection is a Connection as it is stored.
type connection struct {
	Enabled           bool      `json:"enabled"`
	CloudOrganization string    `json:"cloudOrganization"`
	Region            string    `json:"region"`
	Key               []byte    `json:"key"`
	KeyEnd            string    `json:"keyEnd"`
	KeyFingerprint    string    `json:"keyFingerprint"`
	KeyRevision       int       `json:"keyRevision"`
	KeyChanged        time.Time `json:"keyChanged"`
	Created           time.Time `json:"created"`
	Probe             Probe     `json:"probe"`
}

func viewConnection(r store.Record[connection]) Connection {
	c := r.Value
	return Connection{
		Organization: r.ID, Enabled: c.Enabled, CloudOrganization: c.CloudOrganization, Region: c.Region, KeyEnd: c.KeyEnd,
		KeyFingerprint: c.KeyFingerprint, KeyRevision: c.KeyRevision, KeyChanged: c.KeyChanged, Created: c.Created, Probe: c.Probe,
	}
}

func keyOf(organization string) keyring.Subject {
	return keyring.Subject{Collection: "sync-connections", ID: organization, Field: "key"}
}

// Connect is a wish for a connection.
type Connect struct {
	Organization string
	Enabled      bool
	// Key is the billing sync key. Empty in an update: the one that is there.
	Key config.Secret
}

// maxKey bounds a billing sync key, which has 30 characters.
const maxKey = 128

// CreateConnection asks the cloud about the key and keeps it. It needs a
// licence, which is taken from the licence directory if none is installed. A key
// that the cloud refuses is not kept; where the cloud cannot be asked now it is,
// and the Probe says so.
func (s *Sync) CreateConnection(ctx context.Context, c Connect) (Connection, error) {
	organization, err := guid(c.Organization)
	if err != nil {
		return Connection{}, err
	}
	c.Organization = organization
	switch _, err := s.connections.Get(ctx, organization); {
	case err == nil:
		return Connection{}, machine.Invalid(oneConnection)
	case fault.Of(err) != fault.NotFound:
		return Connection{}, err
	case c.Key == "":
		return Connection{}, machine.Invalid(MalformedConfig)
	}
	r := store.Record[connection]{ID: organization, Parent: allConnections, Value: connection{Created: s.now().UTC()}}
	if err := s.setConnection(ctx, &r, c); err != nil {
		return Connection{}, err
	}
	r.Revision, err = s.connections.Put(ctx, r, store.Absent())
	if fault.Of(err) == fault.Conflict {
		return Connection{}, machine.Invalid(oneConnection)
	}
	if err != nil {
		return Connection{}, err
	}
	return viewConnection(r), s.startSchedule(ctx, r)
}

// UpdateConnection does the same to a connection that there is. To disable it and
// leave its key alone takes neither a licence nor the cloud.
func (s *Sync) UpdateConnection(ctx context.Context, c Connect) (Connection, error) {
	organization, err := guid(c.Organization)
	if err != nil {
		return Connection{}, err
	}
	c.Organization = organization
	r, err := s.connections.Get(ctx, organization)
	if fault.Of(err) == fault.NotFound {
		return Connection{}, machine.NotFound()
	}
	if err != nil {
		return Connection{}, err
	}
	disables := !c.Enabled && strings.TrimSpace(c.Key.Reveal()) == ""
	if disables {
		r.Value.Enabled = false
	} else if err := s.setConnection(ctx, &r, c); err != nil {
		return Connection{}, err
	}
	switch r.Revision, err = s.connections.Put(ctx, r, store.AtRevision(r.Revision)); fault.Of(err) {
	case fault.Conflict:
		return Connection{}, &machine.Problem{Class: fault.Conflict, Message: "Somebody else has just changed the connection. Try again."}
	}
	if err != nil {
		return Connection{}, err
	}
	if disables {
		return viewConnection(r), nil
	}
	return viewConnection(r), s.startSchedule(ctx, r)
}

// setConnection checks licence and key, and puts the key into the record.
func (s *Sync) setConnection(ctx context.Context, r *store.Record[connection], c Connect) error {
	current, err := s.licenceForConnection(ctx, r.ID)
	if err != nil {
		return err
	}
	key := config.Secret(strings.TrimSpace(c.Key.Reveal()))
	if len(key) > maxKey || strings.ContainsFunc(key.Reveal(), func(char rune) bool { return unicode.IsSpace(char) || !unicode.IsPrint(char) }) {
		return machine.Invalid("That is not a billing sync key: it has 30 letters and digits, and the cloud's web vault shows it.")
	}
	before := config.Secret("")
	if r.Value.Key != nil {
		if before, err = s.openKey(ctx, *r); err != nil {
			return err
		}
	}
	if key == "" {
		key = before
	}
	r.Value.Enabled, r.Value.CloudOrganization, r.Value.Region = c.Enabled, current.CloudOrganization, s.settings.Region
	if subtle.ConstantTimeCompare([]byte(before), []byte(key)) == 0 {
		if err := s.setKey(ctx, r, key); err != nil {
			return err
		}
	}
	if r.Value.Probe, err = s.probe(ctx, current.CloudOrganization, key); err != nil {
		return err
	}
	if code := cloud.Code(r.Value.Probe.Code); before != key && (code == cloud.KeyInvalid || code == cloud.OrgUnknown) {
		return &Failure{Code: string(code), Message: r.Value.Probe.Message, Hint: r.Value.Probe.Hint, Class: fault.Invalid}
	}
	return nil
}

func (s *Sync) setKey(ctx context.Context, r *store.Record[connection], key config.Secret) error {
	sealed, err := s.ring.Seal(ctx, keyOf(r.ID), []byte(key.Reveal()))
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(key.Reveal()))
	r.Value.Key, r.Value.KeyFingerprint = sealed, hex.EncodeToString(digest[:8])
	r.Value.KeyEnd = ""
	if len(key) >= 20 {
		// Of a shorter one four characters would tell too much.
		r.Value.KeyEnd = key.Reveal()[len(key)-4:]
	}
	r.Value.KeyRevision, r.Value.KeyChanged = r.Value.KeyRevision+1, s.now().UTC()
	return nil
}

func (s *Sync) openKey(ctx context.Context, r store.Record[connection]) (config.Secret, error) {
	plain, err := s.ring.Open(ctx, keyOf(r.ID), r.Value.Key)
	if err != nil {
		return "", fmt.Errorf("billing sync key: %w", err)
	}
	return config.Secret(plain), nil
}

// probe asks the cloud about a key with an empty batch, unless a sync of the
// organisation is under way: then the probe stays without a date.
func (s *Sync) probe(ctx context.Context, cloudOrganization string, key config.Secret) (Probe, error) {
	if !s.settings.CloudCommunication {
		// Nothing leaves, and nothing is known of the key.
		return Probe{Code: string(cloud.CommDisabled), Message: commDisabled}, nil
	}
	l, err := s.acquire(ctx, cloudOrganization)
	if _, busy := errors.AsType[*BusyError](err); busy {
		return Probe{}, nil
	}
	if err != nil {
		return Probe{}, err
	}
	quiet := l.quietUntil
	defer func() { s.letGo(ctx, l, quiet) }()
	if quiet.After(s.now()) {
		return Probe{}, nil
	}
	for wait := s.pace.take(s.now()); wait > 0; wait = s.pace.take(s.now()) {
		if err := s.waiter.Wait(ctx, wait); err != nil {
			return Probe{}, err
		}
	}
	at := s.now().UTC()
	_, err = s.cloud.Sync(ctx, cloud.SyncRequest{BillingSyncKey: key, CloudOrganizationID: cloudOrganization})
	if e, ok := errors.AsType[*cloud.Error](err); ok && mayStillWork(e) {
		quiet = at.Add(quietTime)
	}
	f := fromCloud(err)
	if f == nil {
		return Probe{At: &at}, err
	}
	return Probe{At: &at, Code: f.Code, Message: f.Message, Hint: f.Hint}, nil
}

// Connection gives an organisation's connection.
func (s *Sync) Connection(ctx context.Context, organization string) (Connection, error) {
	organization, err := guid(organization)
	if err != nil {
		return Connection{}, err
	}
	r, err := s.connections.Get(ctx, organization)
	if fault.Of(err) == fault.NotFound {
		return Connection{}, machine.NotFound()
	}
	if err != nil {
		return Connection{}, err
	}
	return viewConnection(r), nil
}

// RemoveConnection forgets the key. Offers stay as they are, here and in the
// cloud.
func (s *Sync) RemoveConnection(ctx context.Context, organization string) error {
	organization, err := guid(organization)
	if err != nil {
		return err
	}
	err = s.connections.Delete(ctx, organization, store.Any())
	if fault.Of(err) == fault.NotFound {
		return machine.NotFound()
	}
	return err
}

// target is what a run syncs with.
type target struct {
	key               config.Secret
	cloudOrganization string
	keyFingerprint    string
	// enterprise: the licence is of the tier that can sponsor.
	enterprise bool
}

// target checks what can be checked without a request. Errors that end a run are
// a *Failure.
func (s *Sync) target(ctx context.Context, organization string) (target, error) {
	if !s.settings.CloudCommunication {
		return target{}, &Failure{
			Code: string(cloud.CommDisabled), Message: commDisabled, Class: fault.Invalid,
			Hint: "set globalSettings__enableCloudCommunication or " + config.Prefix + "CLOUD_COMMUNICATION to true",
		}
	}
	r, err := s.connections.Get(ctx, organization)
	switch {
	case fault.Of(err) == fault.NotFound:
		return target{}, &Failure{Code: string(cloud.ConnectionMissing), Message: fmt.Sprintf(noConnection, organization), Hint: enableConnection, Class: fault.Invalid}
	case err != nil:
		return target{}, err
	case !r.Value.Enabled:
		return target{}, &Failure{Code: string(cloud.ConnectionDisabled), Message: fmt.Sprintf(connectionOff, organization), Hint: "enable the connection", Class: fault.Invalid}
	case len(r.Value.Key) == 0:
		return target{}, keyMissing()
	}
	key, err := s.openKey(ctx, r)
	if err != nil {
		return target{}, err
	}
	if key == "" {
		return target{}, keyMissing()
	}
	current, err := s.installedLicence(ctx, organization)
	if err != nil {
		return target{}, err
	}
	return target{key, r.Value.CloudOrganization, r.Value.KeyFingerprint, current != nil && current.Enterprise}, nil
}

func keyMissing() error {
	return &Failure{Code: string(cloud.KeyMissing), Message: texts[cloud.KeyMissing], Hint: enableConnection, Class: fault.Invalid}
}
