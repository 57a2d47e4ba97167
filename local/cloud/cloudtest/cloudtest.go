// Package cloudtest is what tests of Billing sync begin with. Cloud is an
// emulated cloud with one organisation, for tests that bring their own function
// and clock. World is more: that organisation here, too, with its licence, its
// store and the domain over them, and one clock for both sides.
package cloudtest

import (
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/config"
)

// Organization is the organisation's id here; in the cloud it has another.
const Organization = "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"

// Cloud is an emulated cloud with an installation, and an organisation that has a
// key for Billing sync.
type Cloud struct {
	*emulator.Cloud
	Transport    *emulator.Transport
	Installation emulator.Installation
	OrgID        string // in the cloud
	Key          string // for Billing sync
}

// NewCloud makes a cloud, which ends with the test.
func NewCloud(t testing.TB, c emulator.Config) *Cloud {
	t.Helper()
	emu, err := emulator.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(emu.Close)
	cloud := &Cloud{Cloud: emu, Transport: emulator.NewTransport(emu)}
	if cloud.Installation, err = emu.AddInstallation(emulator.Installation{}); err != nil {
		t.Fatal(err)
	}
	return cloud.Another(t)
}

// Another is the same cloud with another organisation.
func (c *Cloud) Another(t testing.TB) *Cloud {
	t.Helper()
	organization, err := c.AddOrganization(emulator.Organization{Name: "Example"})
	if err != nil {
		t.Fatal(err)
	}
	another := *c
	another.OrgID = organization.ID
	if another.Key, err = c.RotateKey(organization.ID); err != nil {
		t.Fatal(err)
	}
	return &another
}

// Settings are those of an installation that syncs with this cloud.
func (c *Cloud) Settings() config.Billing {
	s := ordinary()
	c.complete(&s)
	return s
}

func ordinary() config.Billing {
	return config.Billing{
		CloudCommunication: true, SyncBatch: 250, SyncProbe: true, SyncParallel: 4, RequestTimeout: time.Minute,
		OfferKeys: config.OfferKeysMember, LicenseCheck: config.LicenseCheckOff,
	}
}

func (c *Cloud) complete(s *config.Billing) {
	s.Region, s.IdentityURL, s.APIURL = string(c.Region()), c.IdentityURL(), c.APIURL()
	s.InstallationID, s.InstallationKey = c.Installation.ID, config.Secret(c.Installation.Key)
}

// Licence is the licence that the organisation's owner would download now.
func (c *Cloud) Licence(t testing.TB) []byte {
	t.Helper()
	document, err := c.License(c.OrgID, c.Installation.ID)
	if err != nil {
		t.Fatal(err)
	}
	return document
}

// Rows are the organisation's offers in the cloud.
func (c *Cloud) Rows() []emulator.Sponsorship { return c.Sponsorships(c.OrgID) }
