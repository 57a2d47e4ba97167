package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
)

// emulateCloud is the argument with which this program is the emulator of the
// billing cloud and nothing else: what that takes of processor and memory is
// then another process's than the one that is measured.
const emulateCloud = "emulate-cloud"

// billingCloud is the emulator with one organisation, and how to reach it.
type billingCloud struct {
	IdentityURL, APIURL, ControlURL string
	InstallationID, InstallationKey string
	// Key is the organisation's billing sync key.
	Key     string
	Licence []byte

	process *process
	client  *http.Client
}

// serveBillingCloud emulates the cloud, with the published limits on, until the
// context ends. It first writes a billingCloud.
func serveBillingCloud(ctx context.Context, out io.Writer) (err error) {
	emulated, err := emulator.New(emulator.Config{Limits: emulator.Limits{Enabled: true}})
	if err != nil {
		return err
	}
	server, err := emulated.Start(emulator.Addresses{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	installation, installationErr := emulated.AddInstallation(emulator.Installation{})
	organization, organizationErr := emulated.AddOrganization(emulator.Organization{Name: "Bench"})
	key, keyErr := emulated.RotateKey(organization.ID)
	licence, licenceErr := emulated.License(organization.ID, installation.ID)
	if err := errors.Join(installationErr, organizationErr, keyErr, licenceErr); err != nil {
		return err
	}
	err = json.NewEncoder(out).Encode(billingCloud{
		IdentityURL: server.IdentityURL, APIURL: server.APIURL, ControlURL: server.ControlURL,
		InstallationID: installation.ID, InstallationKey: installation.Key, Key: key, Licence: licence,
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// startBillingCloud starts the emulator as a process of its own.
func startBillingCloud(ctx context.Context) (*billingCloud, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &billingCloud{client: &http.Client{Timeout: time.Minute}}
	if c.process, err = launch(ctx, program, nil, emulateCloud); err != nil {
		return nil, err
	}
	if err := c.process.until(c, func() bool { return c.ControlURL != "" }); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *billingCloud) close() error {
	c.client.CloseIdleConnections()
	return c.process.stop()
}

// control asks the emulator's control plane; into may be nil.
func (c *billingCloud) control(ctx context.Context, method, path string, body, into any) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, c.ControlURL+"/__emu"+path, bytes.NewReader(content))
	if err != nil {
		return err
	}
	response, err := c.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s: %s %.300s", method, path, response.Status, answer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// arrived is what the cloud saw since it was last asked.
type arrived struct {
	syncs, tokens int
	refused       int // with 429
}

func (c *billingCloud) arrived(ctx context.Context) (arrived, error) {
	var requests []emulator.Request
	var violations []emulator.Violation
	if err := errors.Join(
		c.control(ctx, http.MethodGet, "/requests", nil, &requests),
		c.control(ctx, http.MethodGet, "/violations", nil, &violations),
		c.control(ctx, http.MethodDelete, "/requests", nil, nil),
	); err != nil {
		return arrived{}, err
	}
	if len(violations) > 0 {
		return arrived{}, fmt.Errorf("the cloud was not treated well: %v", violations[0])
	}
	var a arrived
	for _, r := range requests {
		switch r.Route {
		case emulator.RouteSync:
			a.syncs++
		case emulator.RouteToken:
			a.tokens++
		}
		if r.Status == http.StatusTooManyRequests {
			a.refused++
		}
	}
	return a, nil
}

// skippingClock is the machine's, but that waits are over at once: they are
// added to it, and to the cloud's, whose limits therefore count as they would
// if somebody had waited.
type skippingClock struct {
	cloud *billingCloud

	mu      sync.Mutex
	skipped time.Duration
}

func (c *skippingClock) Now() time.Time { return time.Now().Add(c.waits()) }

// waits is how much was skipped so far.
func (c *skippingClock) waits() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.skipped
}

// Wait implements sponsor.Waiter.
func (c *skippingClock) Wait(ctx context.Context, d time.Duration) error {
	d = max(d, 0)
	change := map[string]string{"advance": d.String()}
	if err := c.cloud.control(ctx, http.MethodPut, "/clock", change, nil); err != nil {
		return fmt.Errorf("move the cloud's clock: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skipped += d
	return nil
}
