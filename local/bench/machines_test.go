package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/providers/keys/software"
	"github.com/latchkey-fn/latchkey/providers/stores/dynamodb"
	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/signing"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Those of Secrets Manager are kept by this test too.
func TestTheCountsOfMachinesKeepTheirBudgets(t *testing.T) {
	b := &bench{temp: t.TempDir(), quick: true, rounds: 1, progress: io.Discard}
	results, err := b.machineCalls(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	measured := map[string]float64{}
	for _, r := range results {
		r.judge()
		measured[r.What] = r.Measured
		if r.Verdict == over {
			t.Errorf("%s: %v %s, at most %v; %s", r.What, r.Measured, r.Unit, r.Budget.Max, r.Note)
		}
	}
	// That nothing was counted would keep every budget.
	for what, least := range map[string]float64{
		"tokenexchange: storage reads of a warm exchange":          1,
		"tokenexchange: KMS calls of a cold exchange":              1,
		"secrets: storage calls of the check of a session":         1,
		"secrets: storage calls of a warm GET, the check included": 2,
	} {
		if measured[what] < least {
			t.Errorf("%s: %v, want %v at the least", what, measured[what], least)
		}
	}
}

// The floor must be one: a signature that is not checked would be cheap too.
func TestTheBareSignatureIsChecked(t *testing.T) {
	for _, algorithm := range []string{signing.RS256, signing.ES256} {
		s, err := newSigner(algorithm, "header.payload.signature")
		if err != nil || string(s.text) != "header.payload" || s.verify() != nil {
			t.Fatalf("%s: %q, %v, %v", algorithm, s.text, err, s.verify())
		}
		s.text[0]++
		if s.verify() == nil {
			t.Errorf("%s: another text is accepted", algorithm)
		}
	}
}

func TestTheListsOfSecretsAreWhatWasStored(t *testing.T) {
	b := &bench{temp: t.TempDir(), quick: true, rounds: 1, progress: io.Discard}
	driver := memory.New()
	filled := 0
	l, err := b.newLibrary(t.Context(), stock{shelf{projects: 3, secrets: 12, value: 50, asked: 5}, driver, driver, func(context.Context) error { filled++; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	if len(l.routes) != 4 || filled != 1 {
		t.Fatalf("%d routes, filled %d times", len(l.routes), filled)
	}
	for i, want := range []int{12, 12, 4, 5} {
		r := l.routes[i]
		if r.secrets != want || r.check() != nil {
			t.Errorf("%s: %d secrets, %v", r.what, r.secrets, r.check())
		}
		// Were it otherwise, that would be noticed.
		r.secrets++
		if r.check() == nil {
			t.Errorf("%s: a secret less is not noticed", r.what)
		}
		r.secrets, r.values = want, !r.values
		if r.check() == nil {
			t.Errorf("%s: that there are values, or none, is not noticed", r.what)
		}
		used, err := r.run()
		if err != nil || used.answered < want*200 || used.took <= 0 {
			t.Errorf("%s: %+v, %v", r.what, used, err)
		}
	}
	results, err := b.measureRoutes(t.Context(), "memory", 2, l.routes, nil)
	if err != nil || len(results) != 16 || results[0].Unit != "ms" || results[13].Budget == nil || results[1].Budget != nil {
		t.Errorf("%d results, %v", len(results), err)
	}
}

func TestAKindOfMemoryIsWatched(t *testing.T) {
	most := watch(heapObjects)
	held := make([]byte, 64<<20)
	for i := range held {
		held[i] = byte(i)
	}
	before := read(heapObjects)
	if got := most(); got < 64<<20 || got < before {
		t.Errorf("the most is %d, now it is %d (%d)", got, before, held[1])
	}
	if all := read(heapAllocations); all < 64<<20 {
		t.Errorf("allocated are %d", all)
	}
}

// What is written in bulk has to be what the driver would have written.
func TestDocumentsWrittenInBulkAreThere(t *testing.T) {
	b := &bench{temp: t.TempDir(), quick: true, rounds: 1, progress: io.Discard}
	cloud, err := b.startCloud(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cloud.close(); err != nil {
			t.Error(err)
		}
	})
	writes := &bulk{next: cloud.config.HTTPClient}
	filler := cloud.config.Copy()
	filler.HTTPClient = writes
	documents, inBulk := dynamodb.New(cloud.config, cloud.table), dynamodb.New(filler, cloud.table)
	const many = 61
	document := func(n int) store.Document {
		doc := store.Document{Collection: "things", ID: fmt.Sprintf("%02d", n), Body: []byte(fmt.Sprint(n))}
		if n%2 == 0 {
			doc.Parent, doc.Lookup = "p", "l"
		}
		return doc
	}
	used, err := cloud.count(func() error {
		for n := range many {
			if _, err := inBulk.Put(t.Context(), document(n), store.Absent()); err != nil {
				return err
			}
		}
		return writes.flush(t.Context())
	})
	// 31 are listed by two values, which makes three items of each.
	if err != nil || used["DynamoDB_20120810.BatchWriteItem"] != 5 || len(used) != 1 {
		t.Fatalf("calls %s, %v", used, err)
	}
	for n := range many {
		doc, err := documents.Get(t.Context(), "things", document(n).ID)
		if err != nil || string(doc.Body) != fmt.Sprint(n) || doc.Parent != document(n).Parent {
			t.Errorf("%d: %+v, %v", n, doc, err)
		}
	}
	for _, q := range []store.Query{{Collection: "things", Parent: "p", Limit: 100}, {Collection: "things", Lookup: "l", Limit: 100}} {
		if page, err := documents.List(t.Context(), q); err != nil || len(page.Documents) != 31 {
			t.Errorf("%+v lists %d: %v", q, len(page.Documents), err)
		}
	}
	if err := writes.flush(t.Context()); err != nil {
		t.Errorf("with nothing left: %v", err)
	}
	// What it cannot do it refuses.
	if _, err := inBulk.Get(t.Context(), "things", "00"); fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), "GetItem cannot be done in bulk") {
		t.Errorf("a read: %v", err)
	}
}

func TestALoginThatGivesAnotherKeyIsNoticed(t *testing.T) {
	driver := memory.New()
	key, err := software.Open(filepath.Join(t.TempDir(), "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := key.Close(); err != nil {
			t.Error(err)
		}
	})
	exchange, err := newExchange(driver, key, signing.ES256)
	if err != nil {
		t.Fatal(err)
	}
	o, err := newOrganization(t.Context(), driver, exchange.Machines, 1)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := o.newTokens(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	if session, err := o.login(t.Context(), exchange, tokens[0]); err != nil || strings.Count(session, ".") != 2 {
		t.Errorf("%q, %v", session, err)
	}
	tokens[0].Seed = tokens[1].Seed
	if _, err := o.login(t.Context(), exchange, tokens[0]); err == nil {
		t.Error("a payload of another key was taken")
	}
	tokens[1].ClientSecret = "wrong"
	if _, err := o.login(t.Context(), exchange, tokens[1]); err == nil || !strings.Contains(err.Error(), "invalid_client") {
		t.Errorf("a wrong secret: %v", err)
	}
	handler, err := newSecrets(driver, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := expect(t.Context(), handler, "/secrets/none", "no session", http.StatusOK); err == nil {
		t.Error("a status that is not wanted is not noticed")
	}
}
