package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/shared/auth"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// doctorTimeout bounds each of the doctor's questions.
const doctorTimeout = 20 * time.Second

func newDoctor(t *terminal) *cobra.Command {
	var names []string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check the settings against the real services, line by line",
		Long: `Check the settings against the real services: whether the store takes and gives
back a document, whether the key wraps and unwraps, whether the identity
server's keys can be had; for Billing sync also whether the vendor's cloud gives
this installation a token and takes it, unless communication with the cloud is
off: then no byte leaves. Nothing is changed but one probe document in the
store, which expires after a minute; an empty store and a software key are made
where there are none, as serve does. The cloud is told of no organisation.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error { return doctor(c.Context(), t, names) },
	}
	addFunctions(c, &names)
	return c
}

// finding is one line of the doctor's.
type finding struct {
	Check   string `json:"check"`
	Outcome string `json:"outcome"` // ok, warning or failed
	Detail  string `json:"detail"`
}

const (
	outcomeOK      = "ok"
	outcomeWarning = "warning"
	outcomeFailed  = "failed"
)

// report prints findings as they come, so that a service that hangs is seen to
// be the one that hangs.
type report struct {
	t        *terminal
	findings []finding
}

func (r *report) add(check, outcome, detail string) {
	r.findings = append(r.findings, finding{check, outcome, detail})
	if r.t.json {
		return
	}
	mark := map[string]string{outcomeOK: good("ok     "), outcomeWarning: note("warning"), outcomeFailed: bad("FAILED ")}[outcome]
	fmt.Fprintf(r.t.out, "%s  %-12s  %s\n", mark, check, strings.ReplaceAll(detail, "\n", "\n                       "))
}

// ask runs one check and tells whether it went well; its error is the finding.
func (r *report) ask(ctx context.Context, check string, question func(context.Context) (string, error)) bool {
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	detail, err := question(ctx)
	if err != nil {
		r.add(check, outcomeFailed, err.Error()+advice(err))
		return false
	}
	r.add(check, outcomeOK, detail)
	return true
}

// advice says what to do about a class of failure.
func advice(err error) string {
	what := map[fault.Class]string{
		fault.Denied:    "Check the credentials and rights that this process has there.",
		fault.Transient: "Check that the service runs and that this machine can reach it.",
		fault.NotFound:  "Check the name in the settings.",
		fault.Lost:      "Do not write to this store; look at what changed, or take a backup back.",
	}[fault.Of(err)]
	if what == "" {
		return ""
	}
	return "\n" + what
}

func doctor(ctx context.Context, t *terminal, names []string) error {
	r := &report{t: t}
	faults := examine(ctx, r, names)
	failed := 0
	for _, f := range r.findings {
		if f.Outcome == outcomeFailed {
			failed++
		}
	}
	if t.json {
		faults = errors.Join(faults, t.printJSON(r.findings))
	}
	if failed > 0 {
		return errors.Join(fmt.Errorf("%d of %d checks failed", failed, len(r.findings)), faults)
	}
	return faults
}

// examine opens each part by itself, so that one that fails does not hide what
// is wrong with the others.
func examine(ctx context.Context, r *report, names []string) (err error) {
	chosen, err := loadFunctions(names)
	if errors.Is(err, errUsage) {
		return err
	}
	settings, examined := chosen.settings, "of "+strings.Join(names, " and ")+": "
	if err != nil {
		r.add("settings", outcomeFailed, examined+err.Error())
	} else {
		r.add("settings", outcomeOK, fmt.Sprintf("%sstore %s, keys %s", examined, settings.Store.Kind, settings.Keys.Kind))
	}
	for _, w := range chosen.warnings {
		r.add("settings", outcomeWarning, w)
	}
	if err != nil {
		return fmt.Errorf("%w settings: nothing else was checked", fault.Invalid)
	}
	warn(r, chosen)

	var opened house.Closers
	defer func() { err = errors.Join(err, opened.Close()) }()
	log := logger(r.t.err)
	var ring keyring.Config
	usable := r.ask(ctx, "store", func(ctx context.Context) (string, error) {
		driver, err := house.OpenStore(ctx, settings.Store, settings.AWS)
		if err != nil {
			return "", err
		}
		opened.Add(driver)
		ring.Store = store.New(driver)
		return probeStore(ctx, ring.Store)
	})
	openKey := func(check string, c config.Keys) (key kms.Unwrapper) {
		ok := r.ask(ctx, check, func(ctx context.Context) (string, error) {
			var err error
			if key, err = house.OpenKey(ctx, c, settings.AWS, log); err != nil {
				return "", err
			}
			opened.Add(key)
			description, err := key.Describe(ctx)
			return description.Ref.String() + ", wraps with " + string(description.Wrap), err
		})
		usable = usable && ok
		return key
	}
	ring.Key = openKey("key", settings.Keys)
	if settings.Previous.Kind != "" {
		ring.Previous = []kms.Unwrapper{openKey("previous key", settings.Previous)}
	}
	if usable { // asking a token again with a PIN that it refused may lock it
		for _, ring.Name = range chosen.rings() {
			r.ask(ctx, "data keys", func(ctx context.Context) (string, error) {
				detail, err := probeRing(ctx, keyring.New(ring))
				return ring.Name + ": " + detail, err
			})
		}
	} else {
		r.add("data keys", outcomeWarning, "not checked, because store or key failed")
	}
	r.ask(ctx, "identity", func(ctx context.Context) (string, error) {
		verifier, err := auth.New(auth.Config{
			IdentityURL: chosen.identity.URL, Issuer: chosen.identity.Issuer, KeysFile: chosen.identity.KeysFile,
			CAFile: chosen.identity.CAFile, Algorithms: chosen.algorithms, Log: log,
		})
		if err != nil {
			return "", err
		}
		return "the keys that tokens are verified with are there", verifier.Ready(ctx)
	})
	if chosen.billingSync != nil {
		examineBilling(ctx, r, chosen.billingSync.BillingSync.Billing)
	}
	return nil
}

func warn(r *report, f functions) {
	if f.settings.Store.Kind == config.StoreMemory {
		r.add("store", outcomeWarning, "memory: everything is gone when the process ends")
	}
	if err := existing(f.settings.Store); err != nil && f.settings.Store.Kind != config.StoreMemory {
		r.add("store", outcomeWarning, err.Error()+" yet; is the path right? An empty store is made now")
	}
	if f.settings.Keys.Kind == config.KeysSoftware {
		r.add("key", outcomeWarning, "software: whoever reads the key file can read every user's key; for development only")
	}
	if len(f.origins) == 0 {
		r.add("browsers", outcomeWarning, config.Prefix+"WEB_VAULT_ORIGINS is not set: web vaults will report a CORS error, unless they are served under the same host")
	}
	if f.keyConnector != nil && len(f.keyConnector.AllowedOrganizations) == 0 {
		r.add("members", outcomeWarning, config.Prefix+"ALLOWED_ORGANIZATIONS is not set: every user of the identity server is served")
	}
	if f.secretsManager != nil && strings.HasPrefix(f.secretsManager.Secrets.Sessions.PublicURL, "http://") {
		r.add("address", outcomeWarning, config.Prefix+"PUBLIC_URL begins with http://: released clients insist on https")
	}
}

// probeStore writes a document, reads it back, and lets it go.
func probeStore(ctx context.Context, documents *store.Store) (string, error) {
	probe := store.Document{
		Collection: "user-key-access", ID: "doctor-" + uuid.NewString(),
		Expires: time.Now().Add(time.Minute), Body: []byte(`{}`),
	}
	revision, err := documents.Put(ctx, probe, store.Absent())
	if err != nil {
		return "", err
	}
	back, err := documents.Get(ctx, probe.Collection, probe.ID)
	if err != nil {
		return "", err
	}
	if back.Revision != revision {
		return "", fmt.Errorf("%w: the document just written has revision %d, not %d", fault.Lost, back.Revision, revision)
	}
	// A function's role may not delete; the document then expires.
	err = documents.Delete(ctx, probe.Collection, probe.ID, store.Any())
	if err != nil && !errors.Is(err, fault.Denied) {
		return "", err
	}
	return "a document was written and read back", nil
}

func probeRing(ctx context.Context, ring *keyring.Ring) (string, error) {
	if err := ring.Check(ctx); err != nil {
		return "", err
	}
	infos, err := ring.List(ctx)
	if err != nil {
		return "", err
	}
	if len(infos) == 0 {
		return "none yet; a random probe was wrapped, unwrapped and compared", nil
	}
	return fmt.Sprintf("the newest of %d was unwrapped and is whole", len(infos)), nil
}
