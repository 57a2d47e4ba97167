package sponsor_test

import (
	"context"
	"sync"
	"testing"

	emulator "github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// meanwhile is a store in which something happens just before the first write
// into a collection.
type meanwhile struct {
	store.Driver
	collection string
	once       sync.Once
	happy      func()
}

func (m *meanwhile) Put(ctx context.Context, d store.Document, pre store.Precondition) (int64, error) {
	if d.Collection == m.collection {
		m.once.Do(m.happy)
	}
	return m.Driver.Put(ctx, d, pre)
}

// another is an organisation of the cloud that nobody here has, and its licence.
func (w *world) another() (emulator.Organization, []byte) {
	w.Helper()
	o, err := w.Cloud.AddOrganization(emulator.Organization{Name: "Other"})
	w.Must(err)
	document, err := w.Cloud.License(o.ID, w.Cloud.Installation.ID)
	w.Must(err)
	return o, document
}

func TestTwoOrganisationsCannotInstallOneLicenceAtOnce(t *testing.T) {
	// What the first writes just before which the second installs it.
	for name, collection := range map[string]string{
		"the licence of the one who claimed it first": "licences",
		"the claim of the one who looked first":       "licence-keys",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			_, document := w.another()
			first, second := newGUID(), newGUID()
			beside := w.NewProcess()
			var secondErr error
			w.Config.Store = store.New(&meanwhile{Driver: w.Table, collection: collection, happy: func() {
				_, secondErr = beside.UploadLicence(t.Context(), sponsor.Upload{Organization: second, Document: document})
			}})
			w.Restart()
			_, firstErr := w.UploadLicence(t.Context(), sponsor.Upload{Organization: first, Document: document})
			if codeOf(firstErr) != sponsor.CodeLicenceInUse || secondErr != nil {
				t.Errorf("first: %v, second: %v", firstErr, secondErr)
			}
			if _, err := w.Licence(t.Context(), second); err != nil {
				t.Error(err)
			}
			if _, err := w.Licence(t.Context(), first); fault.Of(err) != fault.NotFound {
				t.Errorf("the other has it, too: %v", err)
			}
		})
	}
}

func TestAClaimOfALicenceThatWasNotInstalledKeepsNobodyOut(t *testing.T) {
	w := newWorld(t)
	_, document := w.another()
	upload := func(organization string) error {
		_, err := w.UploadLicence(t.Context(), sponsor.Upload{Organization: organization, Document: document})
		return err
	}
	first, second, third := newGUID(), newGUID(), newGUID()
	w.faults.Inject(storetest.Fault{Method: storetest.Put, Collection: "licences"})
	if err := upload(first); fault.Of(err) != fault.Transient || w.faults.Pending() != 0 {
		t.Fatal(err)
	}
	w.Must(upload(second))
	if err := upload(first); codeOf(err) != sponsor.CodeLicenceInUse {
		t.Errorf("%v", err)
	}
	// Another licence in its place leaves it to anybody.
	_, next := w.another()
	_, err := w.UploadLicence(t.Context(), sponsor.Upload{Organization: second, Document: next, Force: true})
	w.Must(err)
	w.Must(upload(third))
	if err := upload(second); codeOf(err) != sponsor.CodeLicenceInUse {
		t.Errorf("%v", err)
	}
}

func TestALicenceThatSomebodyElseInstalledMeanwhileIsNotFinished(t *testing.T) {
	w := connected(t)
	before := w.Cloud.OrgID
	_, document := w.another()
	second := newGUID()
	beside := w.NewProcess()
	w.Config.Store = store.New(&meanwhile{Driver: w.mortal, collection: "licences", happy: func() {
		_, err := beside.UploadLicence(t.Context(), sponsor.Upload{Organization: second, Document: document})
		w.Must(err)
		w.mortal.whenPut("licences", "", w.mortal.die)
	}})
	w.Restart()
	_, err := w.UploadLicence(t.Context(), sponsor.Upload{Organization: w.Org, Document: document, Force: true})
	if err == nil || !w.mortal.revive() {
		t.Fatalf("it lives: %v", err)
	}
	w.Restart()
	if _, err := w.Licence(t.Context(), w.Org); codeOf(err) != sponsor.CodeLicenceInUse {
		t.Errorf("two have it: %v", err)
	}
	if _, err := w.sync(); codeOf(err) != sponsor.CodeLicenceInUse {
		t.Errorf("it is synced with: %v", err)
	}
	if c, err := w.Connection(t.Context(), w.Org); err != nil || c.CloudOrganization != before {
		t.Errorf("%+v %v", c, err)
	}
	if _, err := beside.Licence(t.Context(), second); err != nil {
		t.Error(err)
	}
	// Another takes its place.
	w.Upload()
	w.mustSync(sponsor.Completed)
}

func TestALicenceIsRolledBackOnlyUntilTheConnectionKnows(t *testing.T) {
	for name, c := range map[string]struct {
		broken storetest.Fault
		moves  bool
	}{
		"the connection's write fails":                {storetest.Fault{Method: storetest.Put, Collection: "sync-connections"}, false},
		"it was written all the same":                 {storetest.Fault{Method: storetest.Put, Collection: "sync-connections", When: storetest.After}, false},
		"the licence's second write fails":            {storetest.Fault{Method: storetest.Put, Collection: "licences", Skip: 1}, true},
		"the licence's second write loses its answer": {storetest.Fault{Method: storetest.Put, Collection: "licences", Skip: 1, When: storetest.After}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := connected(t)
			before := w.Cloud.OrgID
			other, document := w.another()
			w.faults.Inject(c.broken)
			_, err := w.UploadLicence(t.Context(), sponsor.Upload{Organization: w.Org, Document: document, Force: true})
			if fault.Of(err) != fault.Transient || w.faults.Pending() != 0 {
				t.Fatal(err)
			}
			want := before
			if c.moves {
				want = other.ID
			}
			licence := w.installedLicence()
			connection, err := w.Connection(t.Context(), w.Org)
			if err != nil || licence.Values.Id != want || connection.CloudOrganization != want {
				t.Errorf("a licence of %s, a connection of %s, not both of %s: %v", licence.Values.Id, connection.CloudOrganization, want, err)
			}
		})
	}
}

func TestAnotherOrganisationOfTheCloudHasToBeMeantWhileOneMayKnowOffers(t *testing.T) {
	w := sent(t, 2)
	w.revoke(1)
	w.Must(w.RemoveConnection(t.Context(), w.Org))
	other, document := w.another()
	upload := sponsor.Upload{Organization: w.Org, Document: document}
	if _, err := w.UploadLicence(t.Context(), upload); codeOf(err) != sponsor.CodeLicenceOther {
		t.Fatalf("%v", err)
	}
	upload.Force = true
	_, err := w.UploadLicence(t.Context(), upload)
	w.Must(err)
	key, err := w.Cloud.RotateKey(other.ID)
	w.Must(err)
	c, err := w.CreateConnection(t.Context(), sponsor.Connect{Organization: w.Org, Enabled: true, Key: config.Secret(key)})
	if err != nil || c.CloudOrganization != other.ID {
		t.Errorf("%+v %v", c, err)
	}

	w = offering(t, 1) // the cloud knows nothing of it
	w.Must(w.RemoveConnection(t.Context(), w.Org))
	_, document = w.another()
	if _, err := w.UploadLicence(t.Context(), sponsor.Upload{Organization: w.Org, Document: document}); err != nil {
		t.Error(err)
	}
}
