//go:build unix

package storetest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// broken is a driver in which one method is replaced by one that breaks the
// contract, as drivers do.
type broken struct {
	*store.Table
	get  func(ctx context.Context, collection, id string) (store.Document, error)
	put  func(ctx context.Context, doc store.Document, pre store.Precondition) (int64, error)
	del  func(ctx context.Context, collection, id string, pre store.Precondition) error
	list func(ctx context.Context, q store.Query) (store.Page, error)
	many func(ctx context.Context, keys []store.Key) ([]store.Document, error)
}

func (b *broken) Get(ctx context.Context, collection, id string) (store.Document, error) {
	return b.get(ctx, collection, id)
}

func (b *broken) Put(ctx context.Context, doc store.Document, pre store.Precondition) (int64, error) {
	return b.put(ctx, doc, pre)
}

func (b *broken) Delete(ctx context.Context, collection, id string, pre store.Precondition) error {
	return b.del(ctx, collection, id, pre)
}

func (b *broken) GetMany(ctx context.Context, keys []store.Key) ([]store.Document, error) {
	return b.many(ctx, keys)
}

func (b *broken) List(ctx context.Context, q store.Query) (store.Page, error) { return b.list(ctx, q) }

// breaks are ways to break a driver, and the test of the suite that has to
// notice each.
var breaks = []struct{ how, noticed string }{
	{"folds case", "ids_are_kept_apart_byte_by_byte"},
	{"trims spaces", "ids_are_kept_apart_byte_by_byte"},
	{"checks and then acts", "of_concurrent_creations_one_wins"},
	{"checks and then acts", "concurrent_increments_lose_nothing"},
	{"checks and then acts", "concurrent_writes_once_per_time_succeed_once"},
	{"caches reads", "a_read_never_sees_less_than_was_acknowledged"},
	{"shares bodies", "bodies_given_and_returned_are_copies"},
	{"keeps expired documents", "put_keeps_every_precondition_in_every_state"},
	{"keeps expired documents", "expired_documents_are_in_no_listing"},
	{"orders by UTF-16", "a_listing_holds_whole_documents_in_the_byte_order_of_their_ids"},
	{"goes on after the last page", "a_listing_gives_the_same_with_every_page_size"},
	{"lists late", "a_listing_sees_what_was_acknowledged_before_it_began"},
	{"ignores contexts", "a_context_that_has_ended_does_nothing"},
	{"forgets revisions", "revisions_are_not_used_again_after_a_delete"},
	{"numbers revisions", "revisions_are_the_time_of_the_write"},
	{"deletes whatever is there", "delete_keeps_every_precondition_in_every_state"},
	{"stores text", "bodies_are_arbitrary_bytes_of_every_size"},
	{"gives many in its own order", "many_documents_come_in_the_order_of_their_keys"},
	{"gives nothing for what is missing", "many_documents_come_in_the_order_of_their_keys"},
	{"takes many for one collection's", "many_documents_come_in_the_order_of_their_keys"},
	{"refuses where one is missing", "many_documents_are_kept_apart_byte_by_byte"},
	{"gives a part of many", "many_documents_can_be_large"},
	{"gives many late", "many_documents_are_those_acknowledged_before_they_were_asked_for"},
	{"gives many late", "a_read_never_sees_less_than_was_acknowledged"},
	{"shares bodies of many", "bodies_of_many_documents_are_copies"},
	{"ignores contexts", "a_context_that_has_ended_gives_nothing_of_many"},
	{"acknowledges early", ""},
}

func breakDriver(how string) store.Driver {
	table := store.NewTable()
	b := &broken{Table: table, get: table.Get, put: table.Put, del: table.Delete, list: table.List, many: table.GetMany}
	rename := func(rename func(string) string) {
		b.get = func(ctx context.Context, collection, id string) (store.Document, error) {
			doc, err := table.Get(ctx, collection, rename(id))
			doc.ID = id
			return doc, err
		}
		b.put = func(ctx context.Context, doc store.Document, pre store.Precondition) (int64, error) {
			doc.ID = rename(doc.ID)
			return table.Put(ctx, doc, pre)
		}
	}
	switch how {
	case "folds case":
		rename(strings.ToLower)
	case "trims spaces":
		rename(func(id string) string { return strings.TrimRight(id, " ") + "." })
	case "checks and then acts":
		b.put = func(ctx context.Context, doc store.Document, pre store.Precondition) (int64, error) {
			current, err := table.Get(ctx, doc.Collection, doc.ID)
			if err != nil && !errors.Is(err, fault.NotFound) {
				return 0, err
			}
			if !pre.Holds(current.Revision) {
				return 0, fault.Conflict
			}
			time.Sleep(3 * time.Millisecond)
			return table.Put(ctx, doc, store.Any())
		}
	case "caches reads":
		var mu sync.Mutex
		cache, reads := store.Document{}, 0
		b.get = func(ctx context.Context, collection, id string) (store.Document, error) {
			mu.Lock()
			defer mu.Unlock()
			var err error
			if reads++; reads%10 == 1 {
				cache, err = table.Get(ctx, collection, id)
			}
			time.Sleep(100 * time.Microsecond)
			return cache, err
		}
	case "shares bodies":
		bodies := map[string][]byte{}
		b.get = func(ctx context.Context, collection, id string) (store.Document, error) {
			doc, err := table.Get(ctx, collection, id)
			if bodies[id] == nil {
				bodies[id] = doc.Body
			}
			doc.Body = bodies[id]
			return doc, err
		}
	case "keeps expired documents":
		b.put = func(ctx context.Context, doc store.Document, pre store.Precondition) (int64, error) {
			doc.Expires = time.Time{}
			return table.Put(ctx, doc, pre)
		}
	case "orders by UTF-16":
		b.list = func(ctx context.Context, q store.Query) (store.Page, error) {
			page, err := table.List(ctx, q)
			slices.SortFunc(page.Documents, func(x, y store.Document) int {
				return slices.Compare(utf16.Encode([]rune(x.ID)), utf16.Encode([]rune(y.ID)))
			})
			return page, err
		}
	case "goes on after the last page":
		b.list = func(ctx context.Context, q store.Query) (store.Page, error) {
			page, err := table.List(ctx, q)
			if n := len(page.Documents); n == q.Limit {
				page.Next = page.Documents[n-1].ID
			}
			return page, err
		}
	case "lists late":
		last := map[store.Query]store.Page{}
		b.list = func(ctx context.Context, q store.Query) (store.Page, error) {
			late := last[q]
			page, err := table.List(ctx, q)
			last[q] = page
			return late, err
		}
	case "gives many in its own order":
		b.many = func(ctx context.Context, keys []store.Key) ([]store.Document, error) {
			docs, err := table.GetMany(ctx, keys)
			slices.SortFunc(docs, func(x, y store.Document) int { return strings.Compare(x.ID, y.ID) })
			return docs, err
		}
	case "gives nothing for what is missing":
		b.many = func(ctx context.Context, keys []store.Key) (docs []store.Document, err error) {
			for _, k := range keys {
				doc, err := table.Get(ctx, k.Collection, k.ID)
				if err != nil && !errors.Is(err, fault.NotFound) {
					return nil, err
				}
				docs = append(docs, doc)
			}
			return docs, nil
		}
	case "takes many for one collection's":
		b.many = func(ctx context.Context, keys []store.Key) ([]store.Document, error) {
			of := slices.Clone(keys)
			for i := range of {
				of[i].Collection = keys[0].Collection
			}
			return table.GetMany(ctx, of)
		}
	case "refuses where one is missing":
		b.many = func(ctx context.Context, keys []store.Key) ([]store.Document, error) {
			docs, err := table.GetMany(ctx, keys)
			if err == nil && len(docs) < len(keys) {
				return nil, fault.NotFound
			}
			return docs, err
		}
	case "gives a part of many":
		b.many = func(ctx context.Context, keys []store.Key) ([]store.Document, error) {
			docs, err := table.GetMany(ctx, keys)
			size := 0
			for i, doc := range docs {
				if size += len(doc.Body); size > 16<<20 {
					return docs[:i], err
				}
			}
			return docs, err
		}
	case "gives many late":
		var mu sync.Mutex
		var last []store.Document
		b.many = func(ctx context.Context, keys []store.Key) ([]store.Document, error) {
			mu.Lock()
			defer mu.Unlock()
			late := last
			docs, err := table.GetMany(ctx, keys)
			last = docs
			time.Sleep(100 * time.Microsecond)
			return late, err
		}
	case "shares bodies of many":
		kept := map[store.Key]store.Document{}
		b.many = func(ctx context.Context, keys []store.Key) ([]store.Document, error) {
			docs, err := table.GetMany(ctx, keys)
			for i, doc := range docs {
				at := store.Key{Collection: doc.Collection, ID: doc.ID}
				if _, ok := kept[at]; !ok {
					kept[at] = doc
				}
				docs[i] = kept[at]
			}
			return docs, err
		}
	case "ignores contexts":
		b.many = func(ctx context.Context, keys []store.Key) ([]store.Document, error) {
			return table.GetMany(context.WithoutCancel(ctx), keys)
		}
		b.put = func(ctx context.Context, doc store.Document, pre store.Precondition) (int64, error) {
			return table.Put(context.WithoutCancel(ctx), doc, pre)
		}
	case "forgets revisions", "numbers revisions":
		// As if each document were numbered from the same beginning.
		b.get = func(ctx context.Context, collection, id string) (store.Document, error) {
			doc, err := table.Get(ctx, collection, id)
			doc.Revision = 1
			return doc, err
		}
		b.put = func(ctx context.Context, doc store.Document, pre store.Precondition) (int64, error) {
			_, err := table.Put(ctx, doc, pre)
			return 1, err
		}
	case "deletes whatever is there":
		b.del = func(ctx context.Context, collection, id string, _ store.Precondition) error {
			return table.Delete(ctx, collection, id, store.Any())
		}
	case "stores text":
		b.put = func(ctx context.Context, doc store.Document, pre store.Precondition) (int64, error) {
			doc.Body = []byte(strings.ToValidUTF8(string(doc.Body), "?"))
			return table.Put(ctx, doc, pre)
		}
	}
	return b
}

const breakVariable = "LATCHKEY_STORETEST_BREAK"

// TestTheSuiteNotices runs the suite over broken drivers, in a child because it
// has to fail. That it passes where nothing is broken, others show.
func TestTheSuiteNotices(t *testing.T) {
	if how := os.Getenv(breakVariable); how == "acknowledges early" {
		storetest.Kill(t, openEarly)
		return
	} else if how != "" {
		storetest.Run(t, func(*testing.T) store.Driver { return breakDriver(how) })
		return
	}
	for _, b := range breaks {
		t.Run(b.how+" is noticed by "+b.noticed, func(t *testing.T) {
			t.Parallel()
			if output := child(t, b.how, b.noticed); !strings.Contains(output, "--- FAIL: TestTheSuiteNotices") || strings.Contains(output, "panic:") {
				t.Errorf("the suite says\n%s", output)
			}
		})
	}
}

// child gives the output of the suite over a broken driver.
func child(t *testing.T, how, test string) string {
	t.Helper()
	pattern := "^TestTheSuiteNotices$"
	if test != "" {
		pattern += "/^" + test + "$"
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.short", "-test.timeout=60s", "-test.run="+pattern)
	cmd.Env = append(os.Environ(), breakVariable+"="+how)
	output, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(output)
}

// early is a store that writes its file some time after it acknowledged.
type early struct {
	*store.Table
	path string

	mu     sync.Mutex
	writes int
}

func openEarly(path string) (store.Driver, error) {
	e := &early{Table: store.NewTable(), path: path + ".json"}
	data, err := os.ReadFile(e.path)
	if errors.Is(err, os.ErrNotExist) {
		return e, os.MkdirAll(path, 0o700)
	}
	if err != nil {
		return nil, err
	}
	var documents []store.Document
	if err := json.Unmarshal(data, &documents); err != nil {
		return nil, fmt.Errorf("%w: %w", fault.Lost, err)
	}
	return e, e.Update(func(b *store.Batch) error {
		for _, doc := range documents {
			if err := b.Restore(doc); err != nil {
				return err
			}
		}
		return nil
	})
}

func (e *early) Put(ctx context.Context, doc store.Document, pre store.Precondition) (int64, error) {
	revision, err := e.Table.Put(ctx, doc, pre)
	if err != nil {
		return 0, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.writes++; e.writes%50 != 0 {
		return revision, nil
	}
	return revision, e.Update(func(b *store.Batch) error {
		data, err := json.Marshal(slices.Collect(b.Documents()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(e.path+".new", data, 0o600); err != nil {
			return err
		}
		return os.Rename(e.path+".new", e.path)
	})
}
