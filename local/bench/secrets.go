package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/emulators/localkms"
	"github.com/latchkey-fn/latchkey/local/emulators/moto"
	"github.com/latchkey-fn/latchkey/local/testenv"
	"github.com/latchkey-fn/latchkey/providers/awsconfig"
	"github.com/latchkey-fn/latchkey/providers/awsconfig/chain"
	"github.com/latchkey-fn/latchkey/providers/keys/software"
	"github.com/latchkey-fn/latchkey/providers/stores/dynamodb"
	"github.com/latchkey-fn/latchkey/providers/stores/sqlite"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/signing"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// maxSelectionMB is what get-by-ids may hold, however much it answers with: a
// portion of the values (store.PageBytes), as the store reads and as the answer
// has it, with the garbage of those before.
const maxSelectionMB = 64

// shelf says how many secrets there are, and of which size.
type shelf struct {
	projects, secrets int
	value             int // bytes of a value, before it is encrypted
	asked             int // of get-by-ids
}

func (b *bench) secretLists(ctx context.Context) ([]result, error) {
	many := shelf{projects: b.either(200, 20), secrets: b.either(10_000, 500), value: 200, asked: b.either(5_000, 250)}
	large := shelf{projects: 10, secrets: b.either(5_000, 500), value: 15_000, asked: b.either(5_000, 500)}
	small, err := b.onSQLite(ctx, "SQLite", many, false)
	if err != nil {
		return nil, err
	}
	values, err := b.onSQLite(ctx, "SQLite, values of 15 kB", large, true)
	if err != nil {
		return nil, err
	}
	remote, err := b.onMoto(ctx, many)
	return append(append(small, values...), remote...), err
}

func (b *bench) onSQLite(ctx context.Context, name string, s shelf, valuesOnly bool) (_ []result, err error) {
	dir, err := b.folder("secrets")
	if err != nil {
		return nil, err
	}
	database, err := sqlite.Open(ctx, filepath.Join(dir, "latchkey.db"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, database.Close()) }()
	l, err := b.newLibrary(ctx, stock{s, database, database, func(context.Context) error { return nil }})
	if err != nil {
		return nil, err
	}
	defer l.close()
	routes := l.routes
	if valuesOnly {
		routes = routes[len(routes)-1:]
	}
	return b.measureRoutes(ctx, name, b.either(7, 3), routes, nil)
}

// onMoto counts the calls as well. What it takes is moto's time above all.
func (b *bench) onMoto(ctx context.Context, s shelf) (_ []result, err error) {
	program, err := testenv.Find(moto.Tool)
	if err != nil {
		return []result{{What: "secrets, DynamoDB (moto)", Skipped: moto.Tool + " is not on this machine; local/testenv/install brings it"}}, nil
	}
	server, err := moto.Open(program)
	if err != nil {
		return nil, err
	}
	defer server.Close()
	config, err := chain.Load(ctx, awsconfig.Config{Region: localkms.Region, AccessKeyID: "local", SecretAccessKey: "local"})
	if err != nil {
		return nil, err
	}
	patient := &http.Client{} // a query can take moto longer than we would wait for AWS
	tally := &tally{next: patient, calls: counts{}}
	writes := &bulk{next: patient}
	table := dynamodb.Config{Table: "latchkey", Endpoint: server.URL}
	filler := config.Copy()
	filler.HTTPClient, config.HTTPClient = writes, tally
	documents := dynamodb.New(config, table)
	if err := documents.CreateTable(ctx); err != nil {
		return nil, err
	}
	l, err := b.newLibrary(ctx, stock{s, documents, dynamodb.New(filler, table), writes.flush})
	if err != nil {
		return nil, err
	}
	defer l.close()
	const name = "DynamoDB (moto)"
	if b.quick {
		return b.measureRoutes(ctx, name, 1, l.routes, tally)
	}
	results, err := b.measureRoutes(ctx, name, 1, l.routes[1:], tally)
	return append(results, result{
		What:    "secrets, " + name + ": " + l.routes[0].what,
		Skipped: fmt.Sprintf("a query of each of %d projects, and for each moto looks at all its items, which takes seconds", s.projects),
	}), err
}

// stock is a store that is filled. The secrets are written through filler,
// which may be the same driver, and are there once filled has returned.
type stock struct {
	shelf
	driver, filler store.Driver
	filled         func(context.Context) error
}

// library is an organisation with many secrets, and what clients ask of it.
type library struct {
	routes []route
	close  func()
}

// route is a request, and how many secrets its answer has.
type route struct {
	what    string
	request func() (*http.Request, error)
	handler http.Handler
	secrets int
	values  bool
}

func (b *bench) newLibrary(ctx context.Context, s stock) (_ *library, err error) {
	dir, err := b.folder("key")
	if err != nil {
		return nil, err
	}
	key, err := software.Open(filepath.Join(dir, "software-key.pem"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, key.Close()) }()
	identity, err := devidentity.New(devidentity.Config{Issuer: "http://127.0.0.1"})
	if err != nil {
		return nil, err
	}
	o, session, err := newReader(ctx, s.driver, key, s.projects)
	if err != nil {
		return nil, err
	}
	b.say("  %d secrets in %d projects", s.secrets, s.projects)
	ids, err := o.fill(ctx, store.New(s.filler), s.shelf)
	if err == nil {
		err = s.filled(ctx)
	}
	if err != nil {
		return nil, err
	}
	operator, err := identity.Mint(devidentity.Claims{User: uuid.NewString(), Owner: []string{o.id}})
	if err != nil {
		return nil, err
	}
	selection, err := json.Marshal(map[string][]string{"ids": ids[:s.asked]})
	if err != nil {
		return nil, err
	}
	server := httptest.NewServer(identity)
	handler, err := newSecrets(s.driver, server.URL)
	if err != nil {
		server.Close()
		return nil, err
	}
	get := func(path, token string) func() (*http.Request, error) {
		return func() (*http.Request, error) { return sessionRequest(ctx, http.MethodGet, path, token, nil) }
	}
	return &library{close: server.Close, routes: []route{
		{fmt.Sprintf("list of %d by a machine with %d projects", s.secrets, s.projects), get("/organizations/"+o.id+"/secrets", session), handler, s.secrets, false},
		{fmt.Sprintf("list of %d by an operator", s.secrets), get("/organizations/"+o.id+"/secrets", operator), handler, s.secrets, false},
		{fmt.Sprintf("list of one project of %d", s.secrets/s.projects), get("/projects/"+o.projects[0]+"/secrets", session), handler, s.secrets / s.projects, false},
		{fmt.Sprintf("get-by-ids of %d", s.asked), func() (*http.Request, error) {
			return sessionRequest(ctx, http.MethodPost, "/secrets/get-by-ids", session, selection)
		}, handler, s.asked, true},
	}}, nil
}

// newReader gives an organisation and the session of its machine.
func newReader(ctx context.Context, driver store.Driver, key kms.Unwrapper, projects int) (o *organization, session string, err error) {
	exchange, err := newExchange(driver, key, signing.RS256)
	if err != nil {
		return nil, "", err
	}
	if o, err = newOrganization(ctx, driver, exchange.Machines, projects); err != nil {
		return nil, "", err
	}
	token, err := o.newToken(ctx)
	if err != nil {
		return nil, "", err
	}
	session, err = o.login(ctx, exchange, token)
	return o, session, err
}

// fill writes secrets as documents, since making each by a request would take
// much longer than what is measured.
func (o *organization) fill(ctx context.Context, documents *store.Store, s shelf) (ids []string, err error) {
	heads := store.NewCollection[secret.Head](documents, "secrets")
	contents := store.NewCollection[secret.Content](documents, "secret-contents")
	now := time.Now().UTC()
	for n := range s.secrets {
		id, version := uuid.NewString(), uuid.NewString()
		content := secret.Content{
			Organization: o.id, Value: o.key.Encrypt(strings.Repeat("v", s.value)), Note: o.key.Encrypt("a note"), Created: now, Machine: o.account,
		}
		_, err := contents.Put(ctx, store.Record[secret.Content]{ID: version, Parent: id, Value: content}, store.Absent())
		if err != nil {
			return nil, err
		}
		_, err = heads.Put(ctx, store.Record[secret.Head]{ID: id, Parent: o.id, Lookup: o.projects[n%len(o.projects)], Value: secret.Head{
			Organization: o.id, Key: o.key.Encrypt(fmt.Sprint("DATABASE_PASSWORD_", n)), Created: now, Revised: now,
			Content: version, Size: len(content.Value) + len(content.Note),
		}}, store.Absent())
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// measureRoutes gives of each route the time, the most memory beside what was
// held before, and all that was allocated; with a tally the calls as well.
func (b *bench) measureRoutes(ctx context.Context, store string, rounds int, routes []route, tally *tally) ([]result, error) {
	var results []result
	for _, r := range routes {
		b.say("  %s: %s", store, r.what)
		// A whole run over moto takes minutes, and what answers was checked over
		// SQLite before.
		if tally == nil || b.quick {
			if err := r.check(); err != nil {
				return nil, fmt.Errorf("%s: %w", r.what, err)
			}
		}
		var note string
		if tally != nil {
			tally.take()
		}
		var times, most, allocated []float64
		var size int
		for round := range rounds {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			used, err := r.run()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.what, err)
			}
			if round == 0 && tally != nil {
				note = tally.take().String() + "; the time is moto's above all"
			}
			times, most, allocated = append(times, milliseconds(used.took)), append(most, used.most), append(allocated, used.allocated)
			size = used.answered
		}
		memory := result{What: "  memory, the most beside before", Measured: median(most), Unit: "MB"}
		if r.values {
			memory.Budget = atMost(maxSelectionMB)
		}
		results = append(results,
			result{What: "secrets, " + store + ": " + r.what, Measured: median(times), Unit: "ms", Note: note},
			memory,
			result{What: "  memory, allocated", Measured: median(allocated), Unit: "MB"},
			result{What: "  the answer", Measured: float64(size) / 1e6, Unit: "MB"})
	}
	return results, nil
}

// usage is what one request took; memory is in MB.
type usage struct {
	took            time.Duration
	most, allocated float64
	answered        int // bytes
}

// run answers the route once and throws the answer away.
func (r route) run() (usage, error) {
	request, err := r.request()
	if err != nil {
		return usage{}, err
	}
	a := &discarded{header: http.Header{}}
	runtime.GC()
	before := read(heapObjects)
	allocated := read(heapAllocations)
	most := watch(heapObjects)
	begin := time.Now()
	r.handler.ServeHTTP(a, request)
	took := time.Since(begin)
	u := usage{took: took, most: megabytes(most(), before), allocated: megabytes(read(heapAllocations), allocated), answered: a.size}
	if a.status != http.StatusOK {
		return u, fmt.Errorf("answered %d", a.status)
	}
	return u, nil
}

// check looks whether the answer is what it should be.
func (r route) check() error {
	request, err := r.request()
	if err != nil {
		return err
	}
	a := newAnswer()
	r.handler.ServeHTTP(a, request)
	if a.status != http.StatusOK {
		return fmt.Errorf("%d %.300s", a.status, a.body.String())
	}
	var listed struct {
		Data, Secrets []struct{ ID, Key, Value string }
	}
	if err := json.Unmarshal(a.body.Bytes(), &listed); err != nil {
		return err
	}
	all := append(listed.Data, listed.Secrets...)
	different := map[string]bool{}
	for _, s := range all {
		different[s.ID] = true
		if s.Key == "" || (s.Value != "") != r.values {
			return fmt.Errorf("the secret %s has a value of %d bytes", s.ID, len(s.Value))
		}
	}
	if len(all) != r.secrets || len(different) != r.secrets {
		return fmt.Errorf("%d secrets came, %d of them different, want %d", len(all), len(different), r.secrets)
	}
	return nil
}

// discarded is an http.ResponseWriter that keeps nothing, as a connection does
// once it has sent what it was given.
type discarded struct {
	header       http.Header
	status, size int
}

func (d *discarded) Header() http.Header { return d.header }

func (d *discarded) WriteHeader(status int) {
	if d.status == 0 {
		d.status = status
	}
}

func (d *discarded) Write(b []byte) (int, error) {
	d.WriteHeader(http.StatusOK)
	d.size += len(b)
	return len(b), nil
}

// What the runtime says of its memory, garbage that was not swept yet included.
const (
	heapObjects     = "/memory/classes/heap/objects:bytes"
	heapAllocations = "/gc/heap/allocs:bytes"
)

func read(name string) uint64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// watch looks at a number all the time until the most of it is asked for.
func watch(name string) (most func() uint64) {
	stop, found := make(chan struct{}), make(chan uint64)
	go func() {
		seen := read(name)
		for every := time.NewTicker(time.Millisecond); ; {
			select {
			case <-every.C:
				seen = max(seen, read(name))
			case <-stop:
				every.Stop()
				found <- max(seen, read(name))
				return
			}
		}
	}()
	return func() uint64 {
		close(stop)
		return <-found
	}
}

func megabytes(now, before uint64) float64 { return (float64(now) - float64(before)) / 1e6 }
