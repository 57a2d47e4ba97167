package sponsor_test

import (
	"strings"
	"testing"
	"time"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/sponsor/licence"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

func TestALicenceHasToAllowWhatWasTold(t *testing.T) {
	w := connected(t)
	small := w.document(func(o *emulator.Organization) { o.License.Set = map[string]any{"Seats": 5, "UseSso": false} })
	upload := func() (sponsor.Licence, error) {
		return w.UploadLicence(t.Context(), sponsor.Upload{Organization: w.Org, Document: small})
	}
	if _, err := w.Usage(t.Context(), w.Org); fault.Of(err) != fault.NotFound {
		t.Errorf("%v", err)
	}
	if l := w.installedLicence(); l.Used != nil {
		t.Errorf("%+v", l.Used)
	}
	told, err := w.SetUsage(t.Context(), w.Org, licence.Usage{Seats: 6, SSO: true})
	if err != nil || !told.Told.Equal(w.Clock.Now()) {
		t.Fatalf("%+v %v", told, err)
	}
	w.Restart()
	f, ok := sponsor.AsFailure(second(upload()))
	if !ok || f.Code != string(licence.Unfit) || !strings.Contains(f.Message, "6 seats filled, and the new license has 5") || !strings.Contains(f.Message, "SSO") {
		t.Fatalf("%+v", f)
	}
	if l := w.installedLicence(); *l.Values.Seats != 100 || l.Used == nil || *l.Used != told {
		t.Errorf("%+v", l)
	}
	w.Must(second(w.SetUsage(t.Context(), w.Org, licence.Usage{Seats: 5})))
	l, err := upload()
	if err != nil || l.Used == nil || l.Used.Seats != 5 {
		t.Fatalf("%+v %v", l.Used, err)
	}
	// An administrator's offer takes a seat, and none is free.
	n := w.NewOffer(1)
	n.AdminInitiated = true
	if _, err := w.CreateOffer(t.Context(), n); err == nil || !strings.Contains(err.Error(), "Cannot autoscale on self-hosted instance.") {
		t.Errorf("%v", err)
	}
	w.Must(second(w.SetUsage(t.Context(), w.Org, licence.Usage{Seats: 4})))
	w.Must(second(w.CreateOffer(t.Context(), n)))
}

func TestAUsageThatCannotBeIsRefused(t *testing.T) {
	w := connected(t)
	for _, used := range []licence.Usage{{Seats: -1}, {Collections: -1}, {Groups: -1}, {EnabledPolicies: -1}} {
		if _, err := w.SetUsage(t.Context(), w.Org, used); fault.Of(err) != fault.Invalid {
			t.Errorf("%+v: %v", used, err)
		}
	}
	if _, err := w.SetUsage(t.Context(), "nobody", licence.Usage{}); fault.Of(err) != fault.NotFound {
		t.Error(err)
	}
	w.faults.Inject(storetest.Fault{Method: storetest.Get, Collection: "licence-usage"})
	if _, err := w.UploadLicence(t.Context(), sponsor.Upload{Organization: w.Org, Document: w.Cloud.Licence(w)}); fault.Of(err) != fault.Transient {
		t.Errorf("what cannot be read is not none: %v", err)
	}
}

// second is the error of a call whose result does not matter.
func second[T any](_ T, err error) error { return err }

func row(n int) sponsor.LegacyOffer {
	return sponsor.LegacyOffer{ID: newGUID(), OrganizationUserID: cloudtest.Member(n), Email: cloudtest.Address(n)}
}

func TestAnImportIsRepeatedInAnyPartsAndAfterAnything(t *testing.T) {
	w := connected(t)
	older, newer := cloudtest.Epoch.AddDate(0, -2, 0), cloudtest.Epoch.AddDate(0, -1, 0)
	first, shared, gone := row(1), row(1), row(2)
	first.LastSync, shared.LastSync, gone.LastSync = &older, &newer, &older
	take := func(rows ...sponsor.LegacyOffer) sponsor.Imported {
		t.Helper()
		done, err := w.take(rows...)
		w.Must(err)
		return done
	}
	// Rows of one key in two parts.
	if done := take(first, gone); done != (sponsor.Imported{Taken: 2}) {
		t.Errorf("%+v", done)
	}
	if done := take(shared); done != (sponsor.Imported{Taken: 1, Rekeyed: 1}) {
		t.Errorf("%+v", done)
	}
	if done := take(shared, first); done != (sponsor.Imported{Known: 2}) {
		t.Errorf("%+v", done)
	}
	// What was revoked since does not come back.
	w.revoke(2)
	w.mustSync(sponsor.Completed)
	w.expectStates(states{sponsor.Sent: 2})
	if done := take(gone); done != (sponsor.Imported{Known: 1}) {
		t.Errorf("%+v", done)
	}
	w.expectStates(states{sponsor.Sent: 2})
	// Who was stopped between an offer and the note of it begins again.
	late := row(3)
	w.faults.Inject(storetest.Fault{Method: storetest.Put, Collection: "offer-imports"})
	if _, err := w.take(late); fault.Of(err) != fault.Transient {
		t.Fatal(err)
	}
	if done := take(late); done != (sponsor.Imported{Known: 1}) {
		t.Errorf("%+v", done)
	}
	w.expectStates(states{sponsor.Sent: 2, sponsor.Pending: 1})
}

func TestATriedImportTellsWhatWouldBeAndChangesNothing(t *testing.T) {
	w := connected(t)
	here := row(1)
	w.Must(second(w.take(here)))
	twin, dropped := row(2), row(2)
	dropped.ToDelete = true
	other := row(2)
	rows := []sponsor.LegacyOffer{here, twin, other, dropped}
	before := w.dump()
	// Which of the three keeps the key is by their ids, as long as none was synced.
	synced := cloudtest.Epoch
	rows[1].LastSync = &synced
	done, err := w.Import(t.Context(), sponsor.Import{Organization: w.Org, Rows: rows, Unsent: true, DryRun: true})
	if err != nil || done != (sponsor.Imported{Taken: 2, Rekeyed: 1, Known: 1, Dropped: 1, Unsent: 1}) {
		t.Fatalf("%+v %v", done, err)
	}
	if w.dump() != before {
		t.Error("it was stored")
	}
	if again, err := w.take(rows...); err != nil || again != done {
		t.Errorf("%+v, %v: it is not what was foretold", again, err)
	}
}

func TestRowsThatWereNeverSyncedAreTakenOnlyIfWanted(t *testing.T) {
	w := connected(t)
	synced, older, fresh, other, removed, shared := row(1), row(2), row(2), row(3), row(3), row(1)
	at := cloudtest.Epoch.AddDate(0, -1, 0)
	synced.LastSync, older.LastSync = &at, &at
	removed.ToDelete = true
	// Which of two that were never synced comes first is by their ids.
	other.ID, removed.ID = cloudtest.Member(1), cloudtest.Member(2)
	in := sponsor.Import{Organization: w.Org, Rows: []sponsor.LegacyOffer{shared, fresh, other, removed, synced, older}}
	// The revoked one has the key to itself, as the other one is not taken.
	for _, c := range []struct {
		dry, unsent bool
		want        sponsor.Imported
	}{
		{true, false, sponsor.Imported{Taken: 3, Unsent: 3}},
		{true, true, sponsor.Imported{Taken: 5, Rekeyed: 2, Dropped: 1, Unsent: 3}},
		{false, false, sponsor.Imported{Taken: 3, Unsent: 3}},
		{false, false, sponsor.Imported{Known: 3, Unsent: 3}},
	} {
		in.DryRun, in.Unsent = c.dry, c.unsent
		if done, err := w.Import(t.Context(), in); err != nil || done != c.want {
			t.Fatalf("%+v: %+v, %v", c, done, err)
		}
	}
	w.expectStates(states{sponsor.Sent: 2, sponsor.Revoking: 1})
	// They are not forgotten: asked for, they are taken afterwards.
	in.Unsent = true
	if done, err := w.Import(t.Context(), in); err != nil || done != (sponsor.Imported{Taken: 3, Rekeyed: 3, Known: 3, Unsent: 3}) {
		t.Errorf("%+v, %v", done, err)
	}
	w.expectStates(states{sponsor.Sent: 2, sponsor.Revoking: 1, sponsor.Pending: 3})
	if done, err := w.Import(t.Context(), in); err != nil || done != (sponsor.Imported{Known: 6}) {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestAnImportNeedsALicenceThatLetsTheOrganisationSponsor(t *testing.T) {
	refused := func(w *world) {
		t.Helper()
		for _, dry := range []bool{true, false} {
			_, err := w.Import(t.Context(), sponsor.Import{Organization: w.Org, Rows: []sponsor.LegacyOffer{row(1)}, Unsent: true, DryRun: dry})
			if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "Specified Organization cannot sponsor other organizations.") {
				t.Errorf("dry %t: %v", dry, err)
			}
		}
		w.expectStates(states{})
	}
	w := connected(t)
	organization := w.Org
	w.Org = newGUID()
	refused(w)
	w.Org = organization
	teams := w.document(func(o *emulator.Organization) { o.PlanType = emulator.TeamsAnnually })
	w.Must(second(w.UploadLicence(t.Context(), sponsor.Upload{Organization: w.Org, Document: teams})))
	refused(w)
	w.faults.Inject(storetest.Fault{Method: storetest.Get, Collection: "licences"})
	if _, err := w.take(row(1)); fault.Of(err) != fault.Transient {
		t.Errorf("a licence that cannot be read is not none: %v", err)
	}
}

func TestARowThatWasSyncedInTheFutureIsNotTaken(t *testing.T) {
	w := connected(t)
	for ahead, good := range map[time.Duration]bool{-time.Hour: true, 4 * time.Minute: true, 6 * time.Minute: false, 73 * 365 * 24 * time.Hour: false} {
		r := row(1)
		at := w.Clock.Now().Add(ahead)
		r.LastSync = &at
		if got := w.CheckRow(r); (got == "") != good || !good && got != "Its LastSyncDate is in the future." {
			t.Errorf("%s ahead: %q", ahead, got)
		}
		_, err := w.Import(t.Context(), sponsor.Import{Organization: w.Org, Rows: []sponsor.LegacyOffer{r}, DryRun: true})
		if good && err != nil || !good && fault.Of(err) != fault.Invalid {
			t.Errorf("%s ahead: %v", ahead, err)
		}
	}
}

func TestARowThatNoOfferCanBeIsTold(t *testing.T) {
	w := newWorld(t)
	for want, change := range map[string]func(*sponsor.LegacyOffer){
		"":                           func(*sponsor.LegacyOffer) {},
		"Id is not a GUID":           func(r *sponsor.LegacyOffer) { r.ID = "7" },
		"UserId is not a GUID":       func(r *sponsor.LegacyOffer) { r.OrganizationUserID = "" },
		"notes have more than":       func(r *sponsor.LegacyOffer) { r.Notes = strings.Repeat("n", 513) },
		"name has more than":         func(r *sponsor.LegacyOffer) { r.FriendlyName = strings.Repeat("n", 257) },
		"e-mail address is missing":  func(r *sponsor.LegacyOffer) { r.Email = "secret" },
		"kind of sponsorship is not": func(r *sponsor.LegacyOffer) { r.Plan = 3 },
	} {
		r := row(1)
		change(&r)
		if got := w.CheckRow(r); !strings.Contains(got, want) || (want == "") != (got == "") || strings.Contains(got, "secret") {
			t.Errorf("%q, not %q", got, want)
		}
	}
	// Of what is to be removed the key is enough.
	if got := w.CheckRow(sponsor.LegacyOffer{ID: newGUID(), OrganizationUserID: cloudtest.Member(1), ToDelete: true, Plan: 9}); got != "" {
		t.Error(got)
	}
}
