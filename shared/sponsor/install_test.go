package sponsor_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/sponsor/licence"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// settings changes what licences of the cloud look like.
func (w *world) licences(s emulator.LicenseSettings) {
	w.Helper()
	w.change(func(o *emulator.Organization) { o.License = s })
}

// mustFetch has the licence of the cloud installed.
func (w *world) mustFetch() {
	w.Helper()
	_, err := w.fetch()
	w.Must(err)
}

// forgetLicence makes the organisation one that has none.
func (w *world) forgetLicence() {
	w.Helper()
	w.Must(store.New(w.Table).Delete(w.Context(), "licences", w.Org, store.Any()))
}

// moveConnection makes the connection one of another organisation of the cloud,
// so that an installation has to write it.
func (w *world) moveConnection() {
	w.Helper()
	connections := store.NewCollection[map[string]any](store.New(w.Table), "sync-connections")
	_, err := connections.Update(w.Context(), w.Org, func(r *store.Record[map[string]any]) error {
		r.Value["cloudOrganization"] = newGUID()
		return nil
	})
	w.Must(err)
}

func (w *world) installedLicence() sponsor.Licence {
	w.Helper()
	l, err := w.Licence(w.Context(), w.Org)
	w.Must(err)
	return l
}

// stored rewrites a licence in the form of an official server's file.
func stored(t testing.TB, document []byte) []byte {
	t.Helper()
	parsed, err := licence.Parse(document, licence.Wire)
	if err != nil {
		t.Fatal(err)
	}
	file, err := parsed.Encode(licence.Stored)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLicences(t *testing.T) {
	t.Run("T44 a key is saved only with a licence that can be verified", func(t *testing.T) {
		expired := func(w *world) []byte {
			return w.document(func(o *emulator.Organization) { o.License.LifetimeSeconds = -3600 })
		}
		for _, c := range []struct {
			name, code string
			file       func(*world) []byte
		}{
			{"missing", "license_missing", nil},
			{"of a stranger", "license_signature_invalid", func(w *world) []byte {
				return stored(w, w.document(func(o *emulator.Organization) { o.License.Stranger = true }))
			}},
			{"expired", "license_expired", func(w *world) []byte { return stored(w, expired(w)) }},
			{"with something after its end", "license_malformed", func(w *world) []byte { return append(stored(w, w.Cloud.Licence(w)), "}"...) }},
			{"no JSON", "license_malformed", func(*world) []byte { return []byte("<html>") }},
			{"of the wire's form", "license_malformed", func(w *world) []byte { return w.Cloud.Licence(w) }},
			{"too large", "license_too_large", func(w *world) []byte {
				return append(stored(w, w.Cloud.Licence(w)), bytes.Repeat([]byte(" "), licence.MaxSize)...)
			}},
		} {
			w := newWorld(t)
			w.forgetLicence()
			directory := t.TempDir()
			w.Config.Settings.LicenseDirectory = directory
			w.Restart()
			if c.file != nil {
				w.Must(os.MkdirAll(filepath.Join(directory, "organization"), 0o700))
				w.Must(os.WriteFile(filepath.Join(directory, "organization", w.Org+".json"), c.file(w), 0o600))
			}
			_, err := w.save()
			problem, ok := machine.AsProblem(err)
			if codeOf(err) != c.code || !ok || problem.Message != "Cannot verify license file." || problem.Class != fault.Invalid {
				t.Errorf("%s: %v", c.name, err)
			}
			if _, err := w.Connection(t.Context(), w.Org); fault.Of(err) != fault.NotFound {
				t.Errorf("%s: a connection was saved: %v", c.name, err)
			}
			if n := w.Cloud.Count(""); n != 0 {
				t.Errorf("%s: %d requests", c.name, n)
			}
		}
	})

	t.Run("T44 the licence of an official server is taken over from its directory", func(t *testing.T) {
		w := newWorld(t)
		w.forgetLicence()
		w.Config.Settings.LicenseDirectory = t.TempDir()
		w.Must(os.MkdirAll(filepath.Join(w.Config.Settings.LicenseDirectory, "organization"), 0o700))
		w.Must(os.WriteFile(filepath.Join(w.Config.Settings.LicenseDirectory, "organization", w.Org+".json"), stored(t, w.Cloud.Licence(w)), 0o600))
		w.Restart()
		if c := w.Connect(); c.CloudOrganization != w.Cloud.OrgID || !c.Probe.Good() {
			t.Errorf("%+v", c)
		}
		if l := w.installedLicence(); l.Source != sponsor.FromDirectory || l.Problem != nil || sponsor.When(l.LastSync) != "Never" {
			t.Errorf("%+v", l)
		}
	})

	t.Run("T44 an installed licence that has expired does for a look and not for a key", func(t *testing.T) {
		w := connected(t)
		w.Clock.Pass(400 * 24 * time.Hour)
		if l := w.installedLicence(); l.Values == nil || l.Values.Name != "Example" || l.Problem == nil || l.Problem.Code != "license_expired" {
			t.Errorf("%+v", l)
		}
		_, err := w.paste(w.Cloud.Key)
		if codeOf(err) != "license_expired" {
			t.Errorf("%v", err)
		}
		// It can be replaced, by hand and from the cloud.
		if _, err := w.fetch(); err != nil {
			t.Errorf("%v", err)
		}
	})

	t.Run("T100 a licence is fetched, verified and installed", func(t *testing.T) {
		w := connected(t)
		if st, err := w.Status(t.Context(), w.Org); err != nil || sponsor.When(st.LastLicenseSync) != "Never" || sponsor.When(st.LastSponsorshipSync) != "Never" {
			t.Errorf("%+v %v", st, err)
		}
		w.Clock.Pass(24 * time.Hour)
		w.licences(emulator.LicenseSettings{Set: map[string]any{"Seats": 77}})
		l, err := w.fetch()
		if err != nil || *l.Values.Seats != 77 || l.Source != sponsor.FromCloud || !l.LastSync.Equal(w.Clock.Now()) || l.LastSync.Location() != time.UTC || !l.HasPrevious {
			t.Fatalf("%+v %v", l, err)
		}
		requests := w.Cloud.Requests()
		last := requests[len(requests)-1]
		var body map[string]string
		if err := json.Unmarshal([]byte(last.Body), &body); err != nil || last.Method != http.MethodGet || last.Path != "/licenses/organization/"+w.Cloud.OrgID || len(body) != 2 || body["licenseKey"] == "" || body["billingSyncKey"] == "" {
			t.Errorf("%+v %v", last, err)
		}
		if tokens := w.Cloud.Count(emulator.RouteToken); tokens != 1 || requests[0].Scope != "api.licensing" {
			t.Errorf("%+v", requests[0])
		}
		// A sync of sponsorships, an upload and another key leave the stamp as it is.
		w.mustSync(sponsor.Completed)
		at := *l.LastSync
		w.Clock.Pass(time.Hour)
		w.Upload()
		_, err = w.paste(w.Cloud.Key)
		w.Must(err)
		st, err := w.Status(t.Context(), w.Org)
		if err != nil || !st.LastLicenseSync.Equal(at) || st.LastSponsorshipSync == nil {
			t.Errorf("%+v %v", st, err)
		}
	})

	t.Run("T101 a version that is not supported", func(t *testing.T) {
		w := connected(t)
		w.licences(emulator.LicenseSettings{Version: 17, Legacy: true})
		_, err := w.fetch()
		problem, ok := machine.AsProblem(err)
		if codeOf(err) != "license_version_unsupported" || !ok || !strings.HasPrefix(problem.Message, "Version 17 is not supported.") {
			t.Errorf("%v", err)
		}
		if l := w.installedLicence(); l.Values.Version != 15 || l.HasPrevious || l.LastSync != nil {
			t.Errorf("%+v", l)
		}
	})

	t.Run("T102 a version that is not supported, with a token", func(t *testing.T) {
		w := connected(t)
		w.licences(emulator.LicenseSettings{Version: 17})
		if l, err := w.fetch(); err != nil || l.Problem != nil {
			t.Errorf("%+v %v", l, err)
		}
	})

	t.Run("T103 licences that must not be believed", func(t *testing.T) {
		for _, c := range []struct {
			name, code string
			settings   emulator.LicenseSettings
		}{
			{"tampered with", "license_signature_invalid", emulator.LicenseSettings{Tampered: true}},
			{"tampered with, legacy", "license_signature_invalid", emulator.LicenseSettings{Tampered: true, Legacy: true}},
			{"of another organisation", "license_signature_invalid", emulator.LicenseSettings{Claims: map[string]any{"aud": "organization:" + newGUID()}}},
			{"of another issuer", "license_signature_invalid", emulator.LicenseSettings{Claims: map[string]any{"iss": "somebody"}}},
			{"of a stranger", "license_signature_invalid", emulator.LicenseSettings{Stranger: true}},
			{"of a stranger, legacy", "license_signature_invalid", emulator.LicenseSettings{Stranger: true, Legacy: true}},
			{"expired", "license_expired", emulator.LicenseSettings{LifetimeSeconds: -60}},
			{"of two seconds ahead", "", emulator.LicenseSettings{NotBeforeSeconds: 2}},
			{"of ten minutes ahead", "license_not_yet_valid", emulator.LicenseSettings{NotBeforeSeconds: 600}},
		} {
			w := connected(t)
			w.licences(c.settings)
			if _, err := w.fetch(); codeOf(err) != c.code || (err == nil) != (c.code == "") {
				t.Errorf("%s: %v", c.name, err)
			}
			if l := w.installedLicence(); l.HasPrevious != (c.code == "") || l.Problem != nil {
				t.Errorf("%s: %+v", c.name, l)
			}
		}
	})

	t.Run("T104 licences that are not for here", func(t *testing.T) {
		for _, c := range []struct {
			name, code, text string
			set              map[string]any
		}{
			{"of another installation", "license_installation_mismatch", "Invalid license. The installation ID does not match the current installation.", map[string]any{"InstallationId": newGUID()}},
			{"disabled", "license_disabled", "Invalid license. Your cloud-hosted organization is currently disabled.", map[string]any{"Enabled": false}},
			{"not for hosting oneself", "license_self_host_not_allowed", "Invalid license. The license does not allow for on-premise hosting of organizations.", map[string]any{"SelfHost": false}},
			{"of a user", "license_type_mismatch", "Invalid license. It is a premium license of a user; upload it in the settings of that account.", map[string]any{"LicenseType": 0}},
		} {
			w := connected(t)
			document := w.document(func(o *emulator.Organization) { o.License.Set = c.set })
			_, err := w.UploadLicence(t.Context(), sponsor.Upload{Organization: w.Org, Document: document})
			f, ok := sponsor.AsFailure(err)
			if !ok || f.Code != c.code || f.Message != c.text {
				t.Errorf("%s: %v", c.name, err)
			}
			if l := w.installedLicence(); l.HasPrevious || !l.Values.SelfHost || l.Problem != nil {
				t.Errorf("%s: it is installed: %+v", c.name, l)
			}
		}
	})

	t.Run("T105 legacy licences of all versions can be installed", func(t *testing.T) {
		for version := 1; version <= 16; version++ {
			w := connected(t)
			w.licences(emulator.LicenseSettings{Version: version, Legacy: true})
			if l, err := w.fetch(); err != nil || l.Values.Version != version || l.Problem != nil {
				t.Errorf("version %d: %+v %v", version, l, err)
			}
		}
	})

	t.Run("T106 what the cloud says to the wish for a licence is shown", func(t *testing.T) {
		for _, c := range []struct {
			name, code, text string
			do               func(*world)
		}{
			{"another licence key", "license_key_invalid", "Invalid license key.", func(w *world) {
				w.change(func(o *emulator.Organization) { o.LicenseKey = "replaced" })
			}},
			{"another sync key", "key_invalid", "Invalid Billing Sync Key", func(w *world) {
				_, err := w.Cloud.RotateKey(w.Cloud.OrgID)
				w.Must(err)
			}},
			{"no subscription", "license_no_subscription", "No active subscription found.", func(w *world) {
				past := w.Cloud.Now().Add(-time.Hour)
				w.change(func(o *emulator.Organization) { o.Subscription, o.Expiration = emulator.NoSubscription, &past })
			}},
			{"unpaid", "license_payment_issue", "Unable to generate license due to a payment issue. Please update your billing information or contact support for assistance.", func(w *world) {
				w.change(func(o *emulator.Organization) { o.Subscription = "canceled" })
			}},
			{"no such installation", "license_installation_invalid", "Invalid installation id", func(w *world) {
				w.mustFetch()
				w.Must(w.Cloud.DisableInstallation(w.Cloud.Installation.ID))
			}},
		} {
			w := connected(t)
			c.do(w)
			_, err := w.fetch()
			f, ok := sponsor.AsFailure(err)
			if !ok || f.Code != c.code || f.Message != c.text {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	})

	t.Run("T106 a cloud that fails for a moment is asked again", func(t *testing.T) {
		w := connected(t)
		w.fault(emulator.Fault{Match: emulator.Match{Route: emulator.RouteLicense}, Action: emulator.Status, Status: 500, Times: 2})
		w.mustFetch()
		w.fault(emulator.Fault{Match: emulator.Match{Route: emulator.RouteLicense}, Action: emulator.Status, Status: 500})
		w.Cloud.Forget()
		if _, err := w.fetch(); codeOf(err) != "cloud_error" || w.Cloud.Count(emulator.RouteLicense) != 3 {
			t.Errorf("%v after %d requests", err, w.Cloud.Count(emulator.RouteLicense))
		}
	})

	t.Run("T107 a cloud that no longer offers licences", func(t *testing.T) {
		w := connected(t)
		w.Cloud.RemoveRoute(emulator.RouteLicense)
		_, err := w.fetch()
		if f, ok := sponsor.AsFailure(err); !ok || f.Code != "license_route_gone" || !strings.Contains(f.Message, "no longer offers") || !strings.Contains(f.Hint, "upload") {
			t.Errorf("%v", err)
		}
	})

	t.Run("T108 a proxy that takes the body of a GET away", func(t *testing.T) {
		w := connected(t)
		w.tap.next = bodiless{w.Cloud.Transport}
		_, err := w.fetch()
		if f, ok := sponsor.AsFailure(err); !ok || f.Code != "license_body_lost" || !strings.Contains(f.Hint, "proxy") {
			t.Errorf("%v", err)
		}
	})

	t.Run("T109 who is killed while a licence is installed leaves the one or the other", func(t *testing.T) {
		for _, after := range []bool{false, true} {
			step := 1
			for ; ; step++ {
				w := connected(t)
				document := w.document(func(o *emulator.Organization) { o.License.Set = map[string]any{"Seats": 55} })
				w.mortal.kill(step, after)
				_, err := w.UploadLicence(t.Context(), sponsor.Upload{Organization: w.Org, Document: document})
				if !w.mortal.revive() {
					break
				}
				_ = err // it may or may not have come so far
				w.Restart()
				l := w.installedLicence()
				c, connectionErr := w.Connection(t.Context(), w.Org)
				if seats := *l.Values.Seats; seats != 55 && seats != 100 || l.Problem != nil || connectionErr != nil || c.CloudOrganization != l.Values.Id {
					t.Fatalf("killed at step %d (after: %v): %+v, %+v", step, after, l, c)
				}
				if strings.Contains(w.dump(), `"unfinished":true`) {
					t.Errorf("killed at step %d: it is still unfinished", step)
				}
				w.mustSync(sponsor.Completed)
			}
			if step < 5 {
				t.Errorf("it was killed at only %d steps", step-1)
			}
		}
	})

	t.Run("T109 a connection that cannot be told rolls the licence back", func(t *testing.T) {
		w := connected(t)
		w.moveConnection()
		document := w.document(func(o *emulator.Organization) { o.License.Set = map[string]any{"Seats": 55} })
		w.faults.Inject(storetest.Fault{Method: storetest.Put, Collection: "sync-connections"})
		if _, err := w.UploadLicence(t.Context(), sponsor.Upload{Organization: w.Org, Document: document, Force: true}); fault.Of(err) != fault.Transient {
			t.Fatalf("%v", err)
		}
		if n := w.faults.Pending(); n != 0 {
			t.Fatalf("the failure was not met")
		}
		if l := w.installedLicence(); *l.Values.Seats != 100 {
			t.Errorf("%+v", l)
		}
	})

	t.Run("T110 a licence that does not fit is refused with the numbers", func(t *testing.T) {
		w := connected(t)
		w.Must(second(w.SetUsage(t.Context(), w.Org, licence.Usage{Seats: 101, Groups: 2})))
		document := w.document(func(o *emulator.Organization) { o.License.Set = map[string]any{"UseGroups": false} })
		_, err := w.UploadLicence(t.Context(), sponsor.Upload{Organization: w.Org, Document: document})
		f, ok := sponsor.AsFailure(err)
		if !ok || f.Code != "license_unfit" || !strings.Contains(f.Message, "101 seats filled, and the new license has 100") || !strings.Contains(f.Message, "2 groups") {
			t.Errorf("%v", err)
		}
		if l := w.installedLicence(); l.HasPrevious || !l.Values.UseGroups {
			t.Errorf("%+v", l)
		}
		// And an administrator's offer takes a seat.
		offer := w.NewOffer(1)
		offer.AdminInitiated = true
		if _, err := w.CreateOffer(t.Context(), offer); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "Cannot autoscale on self-hosted instance.") {
			t.Errorf("%v", err)
		}
	})

	t.Run("T111 no schedule asks for licences unless that is configured", func(t *testing.T) {
		for check, want := range map[string]struct {
			calls bool
			seats int
		}{config.LicenseCheckOff: {false, 100}, config.LicenseCheckReport: {true, 100}, config.LicenseCheckApply: {true, 66}} {
			w := connected(t)
			w.Config.Settings.LicenseCheck = check
			w.Restart()
			w.licences(emulator.LicenseSettings{Set: map[string]any{"Seats": 66}})
			for range 7 * 24 {
				w.Clock.Pass(time.Hour)
				if _, err := w.tick(); err != nil {
					t.Fatal(err)
				}
			}
			if calls := w.Cloud.Count(emulator.RouteLicense); (calls > 0) != want.calls || calls > 8 {
				t.Errorf("%s: %d calls", check, calls)
			}
			l := w.installedLicence()
			if *l.Values.Seats != want.seats {
				t.Errorf("%s: %d seats", check, *l.Values.Seats)
			}
			if check == config.LicenseCheckReport && (l.Check == nil || !strings.Contains(strings.Join(l.Check.Changed, " "), "Seats") || l.Check.Applied) {
				t.Errorf("%+v", l.Check)
			}
		}
	})

	t.Run("an older licence and one of another organisation have to be forced", func(t *testing.T) {
		w := connected(t)
		old := w.Cloud.Licence(w)
		w.Clock.Pass(time.Hour)
		w.mustFetch()
		if _, err := w.UploadLicence(t.Context(), sponsor.Upload{Organization: w.Org, Document: old}); codeOf(err) != "license_older" {
			t.Errorf("%v", err)
		}
		if _, err := w.UploadLicence(t.Context(), sponsor.Upload{Organization: w.Org, Document: old, Force: true}); err != nil {
			t.Errorf("%v", err)
		}
		other, err := w.Cloud.AddOrganization(emulator.Organization{})
		w.Must(err)
		document, err := w.Cloud.License(other.ID, w.Cloud.Installation.ID)
		w.Must(err)
		if _, err := w.UploadLicence(t.Context(), sponsor.Upload{Organization: w.Org, Document: document}); codeOf(err) != sponsor.CodeLicenceOther {
			t.Errorf("%v", err)
		}
		if _, err := w.UploadLicence(t.Context(), sponsor.Upload{Organization: w.Org, Document: document, Force: true}); err != nil {
			t.Errorf("%v", err)
		}
		if c, err := w.Connection(t.Context(), w.Org); err != nil || c.CloudOrganization != other.ID {
			t.Errorf("%+v %v", c, err)
		}
	})

	t.Run("a licence is of one organisation here", func(t *testing.T) {
		w := connected(t)
		_, err := w.UploadLicence(t.Context(), sponsor.Upload{Organization: newGUID(), Document: w.Cloud.Licence(w)})
		if f, ok := sponsor.AsFailure(err); !ok || f.Message != "License is already in use by another organization vault." {
			t.Errorf("%v", err)
		}
	})

	t.Run("a licence whose stored form was changed is not believed", func(t *testing.T) {
		w := connected(t)
		collection := store.NewCollection[map[string]any](store.New(w.Table), "licences")
		_, err := collection.Update(t.Context(), w.Org, func(r *store.Record[map[string]any]) error {
			r.Value["sealed"] = r.Value["sealed"].(string)[:40] + "AAAA" + r.Value["sealed"].(string)[44:]
			return nil
		})
		w.Must(err)
		if _, err := w.Licence(t.Context(), w.Org); fault.Of(err) != fault.Lost {
			t.Errorf("%v", err)
		}
	})
}

// bodiless is a proxy that does not know of bodies of GETs.
type bodiless struct{ next http.RoundTripper }

func (b bodiless) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet {
		r = r.Clone(r.Context())
		r.Body, r.ContentLength = http.NoBody, 0
	}
	return b.next.RoundTrip(r)
}
