package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Who the emulated cloud knows, in every data folder, and the organisation of
// this server that is its customer.
const (
	developmentInstallation = "1a7c4e02-5b0d-4c1e-8f0a-de7e10000001"
	developmentCustomer     = "1a7c4e02-5b0d-4c1e-8f0a-de7e10000002"
	developmentOrganization = "1a7c4e02-5b0d-4c1e-8f0a-de7e10000003"
)

// emulatedCloud is the emulator of the cloud that `latchkey up` starts, with an
// installation and a customer who has a billing sync key. Its data are kept in a
// folder, beside the certificate that its licences are verified with.
type emulatedCloud struct {
	*cloud.Server
	emulator    *cloud.Cloud
	state       string
	certificate string
	// installationKey is a secret, as the customer's billing sync key is.
	installationKey string
}

func openCloud(folder string) (_ *emulatedCloud, err error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("%w: folder of the emulated cloud: %w", fault.Invalid, err)
	}
	// What is drawn after a restart must not repeat what was drawn before.
	emulator, err := cloud.New(cloud.Config{Seed: rand.Uint64()})
	if err != nil {
		return nil, err
	}
	c := &emulatedCloud{emulator: emulator, state: filepath.Join(folder, "state.json"), certificate: filepath.Join(folder, "licensing.pem")}
	if err := os.WriteFile(c.certificate, cloud.LicenceCertificate(), 0o600); err != nil {
		return nil, fmt.Errorf("%w: certificate of the emulated cloud: %w", fault.Invalid, err)
	}
	if err := emulator.Load(c.state); err != nil {
		return nil, fmt.Errorf("%w (without that file the cloud begins anew)", err)
	}
	if err := c.settle(); err != nil {
		return nil, err
	}
	// A process that is killed must not take the keys along that the store knows.
	if err := emulator.Save(c.state); err != nil {
		return nil, err
	}
	if c.Server, err = emulator.Start(cloud.Addresses{}); err != nil {
		return nil, fmt.Errorf("start the emulated cloud: %w", err)
	}
	return c, nil
}

// settle makes the installation and the customer where there are none.
func (c *emulatedCloud) settle() error {
	installation, err := c.emulator.Installation(developmentInstallation)
	if fault.Of(err) == fault.NotFound {
		installation, err = c.emulator.AddInstallation(cloud.Installation{ID: developmentInstallation, Email: "admin@example.org"})
	}
	if err != nil {
		return err
	}
	customer, err := c.emulator.Organization(developmentCustomer)
	if fault.Of(err) == fault.NotFound {
		customer, err = c.emulator.AddOrganization(cloud.Organization{ID: developmentCustomer, Name: "Example", BillingEmail: "billing@example.org"})
	}
	if err == nil && customer.BillingSyncKey == "" {
		_, err = c.emulator.RotateKey(developmentCustomer)
	}
	c.installationKey = installation.Key
	return err
}

// control is the base URL of the emulator's control plane.
func (c *emulatedCloud) control() string { return c.ControlURL + "/__emu" }

// settings have Billing sync speak with this cloud.
func (c *emulatedCloud) settings() map[string]string {
	return map[string]string{
		"LATCHKEY_CLOUD_COMMUNICATION":           "true",
		"LATCHKEY_CLOUD_IDENTITY_URL":            c.IdentityURL,
		"LATCHKEY_CLOUD_API_URL":                 c.APIURL,
		"LATCHKEY_INSTALLATION_ID":               developmentInstallation,
		"LATCHKEY_INSTALLATION_KEY":              c.installationKey,
		"LATCHKEY_LICENSE_TEST_CERTIFICATE_FILE": c.certificate,
	}
}

// Close stops the cloud and saves what it knows.
func (c *emulatedCloud) Close() error {
	return errors.Join(c.Server.Close(), c.emulator.Save(c.state))
}
