package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/emulators/localkms"
	"github.com/latchkey-fn/latchkey/local/emulators/minidyn"
	"github.com/latchkey-fn/latchkey/providers/awsconfig"
	"github.com/latchkey-fn/latchkey/providers/awsconfig/chain"
	"github.com/latchkey-fn/latchkey/providers/keys/awskms"
	"github.com/latchkey-fn/latchkey/providers/stores/dynamodb"
)

// calls counts what is asked of DynamoDB and KMS, request by request on the
// wire, for what a function does cold, warm, and warm in a second instance.
func (b *bench) calls(ctx context.Context) (_ []result, err error) {
	cloud, err := b.startCloud(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cloud.close()) }()
	identity, err := devidentity.New(devidentity.Config{Issuer: "http://127.0.0.1"})
	if err != nil {
		return nil, err
	}
	server := httptest.NewServer(identity)
	defer server.Close()

	// instance is a function with nothing in memory.
	instance := func() (http.Handler, error) {
		return newFunction(server.URL, dynamodb.New(cloud.config, cloud.table), awskms.New(cloud.config, cloud.key))
	}
	first, err := instance()
	if err != nil {
		return nil, err
	}
	users := b.either(100, 10)
	var requests []*http.Request
	for range users {
		token, err := identity.Mint(devidentity.Claims{User: uuid.NewString()})
		if err != nil {
			return nil, err
		}
		if err := createKey(ctx, first, token, random(32)); err != nil {
			return nil, err
		}
		request, err := newRequest(ctx, http.MethodGet, token, nil)
		if err != nil {
			return nil, err
		}
		requests = append(requests, request)
	}

	b.say("  a cold start, then warm requests")
	second, err := instance()
	if err != nil {
		return nil, err
	}
	cold, err := cloud.count(func() error { return get(second, requests[0]) })
	if err != nil {
		return nil, err
	}
	// Everybody's first request in the hour, in two instances: one stamp each,
	// since the store refuses the second.
	stamps, err := cloud.count(func() error {
		return errors.Join(get(first, requests...), get(second, requests...))
	})
	if err != nil {
		return nil, err
	}
	writes := cold.writes() + stamps.writes()
	rounds := b.either(100, 20)
	warm, err := cloud.count(func() error {
		for range rounds {
			if err := errors.Join(get(first, requests...), get(second, requests...)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	n := 2 * rounds * users
	return []result{
		{
			What: "keyconnector: storage calls of a warm GET", Measured: float64(warm.storage()) / float64(n), Unit: "calls",
			Budget: atMost(1), Note: fmt.Sprintf("%d requests in two instances: %s", n, warm),
		},
		{
			What: "keyconnector: access stamps", Measured: float64(writes) / float64(users), Unit: "writes/user/h", Budget: atMost(1),
			Note: fmt.Sprintf("%d users, each first read in two instances: %s, then %s", users, cold, stamps),
		},
		{What: fmt.Sprintf("keyconnector: KMS calls of %d warm GETs", n), Measured: float64(warm.kms()), Unit: "calls", Budget: atMost(0)},
		{
			What: "keyconnector: KMS calls of a cold GET", Measured: float64(cold.kms()), Unit: "calls", Budget: atMost(1),
			Note: cold.String(),
		},
		{What: "keyconnector: storage calls of a cold GET", Measured: float64(cold.storage()), Unit: "calls"},
	}, nil
}

func get(h http.Handler, requests ...*http.Request) error {
	a := newAnswer()
	for _, request := range requests {
		a.reset()
		h.ServeHTTP(a, request)
		if a.status != http.StatusOK {
			return fmt.Errorf("GET /user-keys: %d %s", a.status, a.body.String())
		}
	}
	return nil
}

// cloud is the emulators of DynamoDB and KMS, and how the SDK reaches them.
type cloud struct {
	config aws.Config
	table  dynamodb.Config
	key    awskms.Config
	tally  *tally
	close  func() error
}

func (b *bench) startCloud(ctx context.Context) (_ *cloud, err error) {
	documents, err := minidyn.Start()
	if err != nil {
		return nil, err
	}
	c := &cloud{close: documents.Close}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	dir, err := b.folder("kms")
	if err != nil {
		return nil, err
	}
	keys, err := localkms.Start(dir)
	if err != nil {
		return nil, err
	}
	c.close = func() error { return errors.Join(keys.Close(), documents.Close()) }
	arn, err := keys.EnsureKey(ctx, "alias/latchkey")
	if err != nil {
		return nil, err
	}
	c.config, err = chain.Load(ctx, awsconfig.Config{Region: localkms.Region, AccessKeyID: "local", SecretAccessKey: "local"})
	if err != nil {
		return nil, err
	}
	c.tally = &tally{next: c.config.HTTPClient, calls: counts{}}
	c.config.HTTPClient = c.tally
	c.table = dynamodb.Config{Table: "latchkey", Endpoint: documents.URL}
	c.key = awskms.Config{KeyID: arn, Endpoint: keys.URL}
	return c, dynamodb.New(c.config, c.table).CreateTable(ctx)
}

// count gives the calls that do makes.
func (c *cloud) count(do func() error) (counts, error) {
	c.tally.take()
	err := do()
	return c.tally.take(), err
}

// tally is an HTTP client of the SDK that counts the calls by their operation.
type tally struct {
	next aws.HTTPClient

	mu    sync.Mutex
	calls counts
}

// Do is part of aws.HTTPClient.
func (t *tally) Do(r *http.Request) (*http.Response, error) {
	response, err := t.next.Do(r)
	target := r.Header.Get("X-Amz-Target")
	if err != nil || response.StatusCode != http.StatusOK {
		target += refused
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calls[target]++
	return response, err
}

func (t *tally) take() counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	taken := t.calls
	t.calls = counts{}
	return taken
}

// counts are calls by X-Amz-Target, "service_version.Operation", and refused
// where the service did not do what it was asked.
type counts map[string]int

const refused = " refused"

func (c counts) sum(matches func(service, operation string) bool) int {
	total := 0
	for target, n := range c {
		if service, operation, _ := strings.Cut(target, "."); matches(service, operation) {
			total += n
		}
	}
	return total
}

func (c counts) storage() int {
	return c.sum(func(service, _ string) bool { return strings.HasPrefix(service, "DynamoDB") })
}

func (c counts) kms() int {
	return c.sum(func(service, _ string) bool { return strings.HasPrefix(service, "Trent") }) // KMS's name on the wire
}

// writes are those that changed something.
func (c counts) writes() int {
	return c.sum(func(_, operation string) bool {
		return slices.Contains([]string{"PutItem", "TransactWriteItems", "DeleteItem", "UpdateItem"}, operation)
	})
}

// String lists operations and their numbers.
func (c counts) String() string {
	var all []string
	for _, target := range slices.Sorted(maps.Keys(c)) {
		_, operation, _ := strings.Cut(target, ".")
		all = append(all, fmt.Sprintf("%d %s", c[target], operation))
	}
	return strings.Join(all, ", ")
}
