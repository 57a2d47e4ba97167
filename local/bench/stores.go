package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/latchkey-fn/latchkey/providers/stores/dynamodb"
	"github.com/latchkey-fn/latchkey/providers/stores/jsonfile"
	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/providers/stores/sqlite"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// storeDocuments is how many documents each store holds meanwhile.
const storeDocuments = 200

// stores measures one read and one write of each driver, one after the other,
// by the clock: what a request waits for.
func (b *bench) stores(ctx context.Context) (_ []result, err error) {
	dir, err := b.folder("stores")
	if err != nil {
		return nil, err
	}
	database, err := sqlite.Open(ctx, filepath.Join(dir, "latchkey.db"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, database.Close()) }()
	file, err := jsonfile.Open(filepath.Join(dir, "latchkey.json"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	cloud, err := b.startCloud(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cloud.close()) }()

	drivers := []struct {
		name         string
		driver       store.Driver
		reads, write int // of a turn
	}{
		{"memory", memory.New(), 2000, 2000},
		{"JSON file", file, 2000, 10},
		{"SQLite", database, 500, 10},
		{"DynamoDB (minidyn)", dynamodb.New(cloud.config, cloud.table), 20, 5},
	}
	var contenders []func() (float64, error)
	for _, d := range drivers {
		for n := range storeDocuments {
			if _, err := d.driver.Put(ctx, storeDocument(n), store.Absent()); err != nil {
				return nil, err
			}
		}
		contenders = append(contenders,
			func() (float64, error) {
				return perCall(d.reads, func(n int) error {
					_, err := d.driver.Get(ctx, "user-keys", storeDocument(n).ID)
					return err
				})
			},
			func() (float64, error) {
				return perCall(d.write, func(n int) error {
					_, err := d.driver.Put(ctx, storeDocument(n), store.Any())
					return err
				})
			})
	}
	b.say("  %d rounds", b.rounds)
	measured, err := interleave(b.rounds, contenders...)
	if err != nil {
		return nil, err
	}
	var results []result
	for i, d := range drivers {
		results = append(results,
			result{What: "store " + d.name + ": Get", Measured: median(measured[2*i]), Unit: "µs"},
			result{What: "store " + d.name + ": Put over a document", Measured: median(measured[2*i+1]), Unit: "µs"})
	}
	return results, nil
}

// storeDocument is as large as a user's key, and listed as it is.
func storeDocument(n int) store.Document {
	return store.Document{
		Collection: "user-keys", ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", n%storeDocuments), Parent: "all", Body: make([]byte, 160),
	}
}

// perCall is in µs.
func perCall(n int, call func(n int) error) (float64, error) {
	begin := time.Now()
	for i := range n {
		if err := call(i); err != nil {
			return 0, err
		}
	}
	return microseconds(time.Since(begin)) / float64(n), nil
}
