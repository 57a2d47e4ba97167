package main

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/local/house/housetest"
	"github.com/latchkey-fn/latchkey/shared/logtest"
)

// played is a Billing sync of the real functions in this process, beside the
// emulator of the cloud.
type played struct {
	billing
	cloud  *cloudtest.Cloud
	log    *logtest.Log
	member string // who asks: an owner
}

func play(t *testing.T) *played { return playWith(t, nil) }

// playWith is play with some settings changed.
func playWith(t *testing.T, changed map[string]string) *played {
	t.Helper()
	useSoftwareKey(t)
	p := &played{billing: billing{t: t, organization: uuid.NewString()}, cloud: housetest.NewCloud(t), log: &logtest.Log{}, member: uuid.NewString()}
	identity := housetest.NewIdentity(t)
	p.token = identity.Token(t, devidentity.Claims{User: p.member, Owner: []string{p.organization}})
	environment := map[string]string{"LATCHKEY_SOFTWARE_KEY_PATH": os.Getenv("LATCHKEY_SOFTWARE_KEY_PATH")}
	maps.Copy(environment, changed)
	settings := identity.BillingSync(t, p.cloud, environment)
	log := p.log.Logger()
	parts, err := house.Open(t.Context(), settings.Settings(), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, parts) })
	functions, err := settings.Open(parts, log, house.SyncingOptions{Transport: p.cloud.Transport})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, functions) })
	server := httptest.NewServer(functions.Mount(http.NotFoundHandler()))
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// licence is a file with the cloud's licence.
func (p *played) licence() string {
	p.t.Helper()
	return saved(p.t, p.cloud.Licence(p.t))
}

// only is the one offer that there is.
func (p *played) only() (id, key, label string) {
	p.t.Helper()
	var offers []struct {
		ID     string
		Status struct{ Key, Label string }
	}
	p.as("", "offers", "--json").want(p.t, 0).json(p.t, &offers)
	if len(offers) != 1 {
		p.t.Fatalf("there are %d offers", len(offers))
	}
	return offers[0].ID, offers[0].Status.Key, offers[0].Status.Label
}

func TestAnOfferIsMadeRedeemedAndRevokedWithTheRealFunctions(t *testing.T) {
	p := play(t)
	p.as("", "status").want(t, 0, "Never", "latchkey sync connect")
	// What is missing is told with what to do about it.
	p.as("", "licence", "show").want(t, exitNotFound, "has no license installed: latchkey sync licence upload FILE")
	p.as("", "licence", "sync").want(t, exitNotFound, "has no connection with the cloud: latchkey sync connect makes one")
	p.as("", "licence", "check").want(t, exitNotFound, "latchkey sync connect makes one")
	p.as("", "licence", "show", "--organization", uuid.NewString()).want(t, exitNotFound, "you may not reach it")
	p.as(p.cloud.Key, "connect").want(t, exitUsage, "Cannot verify license file.", "Upload one first: latchkey sync licence upload FILE")
	p.as("", "licence", "upload", p.licence()).want(t, 0, "Example", "from upload", "Never")
	p.as(strings.Repeat("x", 30), "connect").want(t, exitUsage, "Invalid Billing Sync Key")
	p.as(p.cloud.Key, "connect").want(t, 0, "enabled, key ending in "+p.cloud.Key[len(p.cloud.Key)-4:], "The cloud accepts the key")
	var made struct{ ID string }
	p.as("", "offers", "create", "someone@example.org", "--name", "Somebody", "--json").want(t, 0).json(t, &made)
	if id, key, label := p.only(); key != "requested" || label != "Requested" || id != made.ID {
		t.Errorf("it is %s %s, and was made as %s", id, label, made.ID)
	}
	p.as("", "status").want(t, 0, "awaiting sync      1, the oldest since ")
	p.as("", "now", "--wait").want(t, 0, "completed", "1 sent")
	id, _, label := p.only()
	if label != "Sent" || len(p.cloud.Mails()) != 1 {
		t.Errorf("it is %s after %d mails", label, len(p.cloud.Mails()))
	}
	p.as("", "offers").want(t, 0, "someone@example.org", "Somebody", "Sent", "MEMBER", p.member)
	p.as("", "status").want(t, 0, "awaiting sync      0\n")

	until := time.Now().Add(200 * 24 * time.Hour)
	rows := p.cloud.Sponsorships(p.cloud.OrgID)
	if len(rows) != 1 {
		t.Fatalf("the cloud has %d", len(rows))
	}
	if err := p.cloud.Redeem(p.cloud.OrgID, rows[0].ID, until); err != nil {
		t.Fatal(err)
	}
	p.as("", "now", "--wait").want(t, 0, "1 refreshed")
	if _, _, label := p.only(); label != "Active" {
		t.Errorf("it is %s", label)
	}
	p.as("", "offers", "reissue", id).want(t, exitUsage)
	p.as("", "offers", "revoke", id, "--yes").want(t, 0)
	p.as("", "status").want(t, 0, "awaiting sync      1, the oldest since ")
	p.as("", "now", "--wait").want(t, 0, "1 kept until they expire")
	if _, _, label := p.only(); label != "Expires "+until.UTC().Format("01/02/2006") {
		t.Errorf("it is %s", label)
	}
	p.as("", "runs").want(t, 0, "manual", "completed")
	if got := p.as("", "status").want(t, 0, "enabled", "next due"); strings.Contains(strings.Split(got.out, "last license sync")[0], "Never") {
		t.Errorf("it was synced:\n%s", got.out)
	}
	p.as("", "licence", "sync").want(t, 0, "from cloud")
	p.as("", "licence", "check").want(t, 0, "The license: ")
	p.wantSilence("someone@example.org")
}

func TestARefusedKeyIsToldWithWhatToDoByTheRealFunctions(t *testing.T) {
	p := play(t)
	p.as("", "licence", "upload", p.licence()).want(t, 0)
	p.as("", "now").want(t, exitUsage, "connection")
	p.as(p.cloud.Key, "connect").want(t, 0)
	p.as("", "offers", "create", "someone@example.org").want(t, 0)
	p.as("", "offers", "create", "no address").want(t, exitUsage, "SponsoredEmail")
	if _, err := p.cloud.RotateKey(p.cloud.OrgID); err != nil {
		t.Fatal(err)
	}
	p.as("", "enable").want(t, 0, "The cloud refuses the key: key_invalid")
	p.as("", "status").want(t, 0, "the cloud refused the billing sync key", "latchkey sync connect")
	got := p.as("", "now", "--wait").want(t, exitFailed, "key_invalid")
	p.as("", "status").want(t, 0, "key_invalid", "the cloud refused the billing sync key", "latchkey sync connect", "not before another key is given")
	p.as("", "licence", "check").want(t, exitUsage, "key_invalid")
	if !strings.Contains(got.err, "Invalid Billing Sync Key") {
		t.Errorf("it tells %s", got.err)
	}
	p.as("", "disable").want(t, 0, "disabled")
	p.as("", "now").want(t, exitUsage, "Connection disabled for organization")
	p.as("", "disconnect", "--yes").want(t, 0)
	p.as("", "enable").want(t, exitNotFound)
	p.as("", "offers", "revoke", uuid.NewString(), "--yes").want(t, exitNotFound)
	p.as("", "status", "--organization", uuid.NewString()).want(t, exitNotFound)
	p.wantSilence("someone@example.org")
}

// connected has the organisation's licence and connection.
func (p *played) connected() {
	p.t.Helper()
	p.as("", "licence", "upload", p.licence()).want(p.t, 0)
	p.as(p.cloud.Key, "connect").want(p.t, 0, "The cloud accepts the key")
}

// fails has the cloud answer syncs with this status, and ask to be left alone for
// an hour.
func (p *played) fails(status int) {
	p.t.Helper()
	if err := p.cloud.SetFaults(cloud.Fault{
		Match: cloud.Match{Route: cloud.RouteSync}, Action: cloud.Status, Status: status, Headers: map[string]string{"Retry-After": "3600"},
	}); err != nil {
		p.t.Fatal(err)
	}
}

func TestAKeyThatWasNotTriedIsNotCalledGood(t *testing.T) {
	off := playWith(t, map[string]string{"LATCHKEY_CLOUD_COMMUNICATION": "false"})
	off.as("", "licence", "upload", off.licence()).want(t, 0)
	got := off.as(off.cloud.Key, "connect").want(t, 0, "The key was not tried", "comm_disabled")
	if strings.Contains(got.out, "accepts") {
		t.Errorf("it tells %s", got.out)
	}

	busy := play(t)
	busy.connected()
	busy.fails(503)
	busy.as("", "offers", "create", "someone@example.org").want(t, 0)
	busy.as("", "now", "--wait", "--timeout", "2s").want(t, exitFailed)
	// The run has the cloud to itself until it has given up.
	got = busy.as("", "enable").want(t, 0, "The key was not tried", "a sync")
	if strings.Contains(got.out, "accepts") {
		t.Errorf("it tells %s", got.out)
	}
}

func TestAServerWithoutTheCertificateOfLicencesIsTold(t *testing.T) {
	p := playWith(t, map[string]string{"LATCHKEY_LICENSE_TEST_CERTIFICATE_FILE": ""})
	p.as("", "licence", "upload", p.licence()).want(t, exitFailed, "license_certificate_missing", "Set LATCHKEY_LICENSE_CERTIFICATE_FILE there")
}

func TestARunThatTriesAgainSaysSo(t *testing.T) {
	p := play(t)
	p.connected()
	p.as("", "offers", "create", "someone@example.org").want(t, 0)
	p.fails(503)
	got := p.as("", "now", "--wait", "--timeout", "2s").want(t, exitFailed, "the run is not finished after 2s\nThe run goes on. See how it goes: latchkey sync runs ")
	if strings.Contains(got.err, "deadline") {
		t.Errorf("it tells %s", got.err)
	}
	_, id, _ := strings.Cut(strings.TrimSpace(got.err), "latchkey sync runs ")
	for _, args := range [][]string{{"status"}, {"runs", id}} {
		p.as("", args...).want(t, 0, "waiting until ", " after cloud_error, try 1 of 6")
	}
}

func TestTheOffersOfAMemberAreRevokedAtOnce(t *testing.T) {
	p := play(t)
	p.connected()
	p.as("", "offers", "create", "someone@example.org").want(t, 0)
	p.as("", "offers", "revoke", "--member", uuid.NewString(), "--yes").want(t, 0, "0 offer(s)")
	p.only()
	p.as("no\n", "offers", "revoke", "--member", p.member).want(t, exitDeclined, "All offers of member "+p.member+" are revoked")
	p.as("", "offers", "revoke", "--member", p.member, "--yes").want(t, 0, "1 offer(s) of member "+p.member+" are revoked")
	var left []struct{}
	if p.as("", "offers", "--json").want(t, 0).json(t, &left); len(left) != 0 {
		t.Errorf("%d offers are left", len(left))
	}
	p.as("", "offers", "revoke", "--member", "somebody", "--yes").want(t, exitUsage, "no id of a member")
	p.as("", "offers", "revoke", uuid.NewString(), "--member", p.member).want(t, exitUsage, "takes 0 argument(s)")
	p.as("", "offers", "revoke").want(t, exitUsage, "takes 1 argument(s)")
}

// The status tells of offers that somebody has to look at for as long as there
// are any, and not only after the run that met them.
func TestTheStatusTellsOfOffersThatNeedSomebody(t *testing.T) {
	p := play(t)
	p.connected()
	p.as("", "offers", "create", "someone@example.org").want(t, 0)
	// The cloud fails once between the row and its mail.
	if err := p.cloud.SetFaults(cloud.Fault{
		Match: cloud.Match{Route: cloud.RouteSync}, Action: cloud.Status, Status: 500, When: cloud.AfterCommit, Times: 1,
	}); err != nil {
		t.Fatal(err)
	}
	p.as("", "now", "--wait").want(t, 0, "completed with warnings")
	for range 2 {
		p.as("", "status").want(t, 0, "1 in the cloud, but perhaps not mailed: latchkey sync offers reissue ID mails them")
		var status struct{ Warnings []string }
		if p.as("", "status", "--json").want(t, 0).json(t, &status); len(status.Warnings) != 1 {
			t.Errorf("it warns of %q", status.Warnings)
		}
		p.as("", "offers").want(t, 0, "perhaps not mailed: reissue it")
		p.as("", "now", "--wait").want(t, 0, "completed\n")
	}
}

// wantSilence looks for what no log may tell.
func (p *played) wantSilence(address string) {
	p.t.Helper()
	for what, text := range map[string]string{"address": address, "key": p.cloud.Key, "installation key": p.cloud.Installation.Key, "token": p.token} {
		if strings.Contains(p.log.String(), text) {
			p.t.Errorf("the server logs the %s", what)
		}
	}
}
