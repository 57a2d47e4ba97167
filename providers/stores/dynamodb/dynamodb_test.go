package dynamodb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"github.com/latchkey-fn/latchkey/local/emulators/minidyn"
	"github.com/latchkey-fn/latchkey/local/emulators/moto"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

const things = "things"

func TestConformanceOverMinidyn(t *testing.T) {
	storetest.RunShared(t, func(t *testing.T) func() store.Driver {
		endpoint := emulator(t)
		created(t, connect(t, endpoint, nil))
		return func() store.Driver { return connect(t, endpoint, nil) }
	})
}

func TestConformanceOverMoto(t *testing.T) {
	endpoint := moto.Start(t)
	n := 0
	storetest.RunShared(t, func(t *testing.T) func() store.Driver {
		n++
		table := fmt.Sprint("latchkey-", n)
		open := func() *Store {
			s := connect(t, endpoint, nil)
			s.table = table
			return s
		}
		created(t, open())
		return func() store.Driver { return open() }
	})
}

func emulator(t *testing.T) string {
	t.Helper()
	server, err := minidyn.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server.URL
}

// connect opens a store whose requests pass a transport of the test's.
func connect(t *testing.T, endpoint string, through http.RoundTripper) *Store {
	t.Helper()
	if through == nil {
		through = http.DefaultTransport
	}
	return New(aws.Config{
		Region:      "eu-central-1",
		Credentials: credentials.NewStaticCredentialsProvider("AKID", "secret", ""),
		HTTPClient:  &http.Client{Transport: through},
		Retryer: func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = time.Millisecond })
		},
	}, Config{Table: "latchkey", Endpoint: endpoint})
}

func created(t *testing.T, s *Store) *Store {
	t.Helper()
	if err := s.CreateTable(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// wire counts the calls of each operation and can lose the answer to a call
// that the service has done.
type wire struct {
	mu    sync.Mutex
	calls map[string]int
	lose  map[string]int // how many answers of an operation are lost
	fail  func(operation string) (status int, body string)
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	w.mu.Lock()
	if w.calls == nil {
		w.calls = map[string]int{}
	}
	w.calls[operation]++
	lose := w.lose[operation] > 0
	if lose {
		w.lose[operation]--
	}
	fail := w.fail
	w.mu.Unlock()
	if fail != nil {
		if status, body := fail(operation); status != 0 {
			return &http.Response{
				StatusCode: status, Request: r, ProtoMajor: 1, ProtoMinor: 1,
				Header: http.Header{"Content-Type": {"application/x-amz-json-1.0"}}, Body: io.NopCloser(strings.NewReader(body)),
			}, nil
		}
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || !lose {
		return answer, err
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
	return nil, io.ErrUnexpectedEOF
}

// during gives the calls that f makes.
func (w *wire) during(f func()) map[string]int {
	w.mu.Lock()
	w.calls = map[string]int{}
	w.mu.Unlock()
	f()
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.calls)
}

func TestEachOperationCostsTheFewestCalls(t *testing.T) {
	w := &wire{}
	s := created(t, connect(t, emulator(t), w))
	put := func(doc store.Document, pre store.Precondition) int64 {
		t.Helper()
		doc.Collection = things
		revision, err := s.Put(t.Context(), doc, pre)
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}
	single := put(store.Document{ID: "single"}, store.Absent())
	put(store.Document{ID: "listed", Parent: "p"}, store.Absent())
	put(store.Document{ID: "other", Parent: "p", Lookup: "l"}, store.Absent())

	for _, test := range []struct {
		name string
		do   func() error
		want map[string]int
	}{
		{"get", func() error { _, err := s.Get(t.Context(), things, "single"); return err }, map[string]int{"GetItem": 1}},
		{"get many", func() error {
			_, err := s.GetMany(t.Context(), []store.Key{{Collection: things, ID: "single"}, {Collection: "others", ID: "x"}, {Collection: things, ID: "listed"}})
			return err
		}, map[string]int{"BatchGetItem": 1}},
		{"create unlisted", func() error { put(store.Document{ID: "new"}, store.Absent()); return nil }, map[string]int{"PutItem": 1}},
		{"create listed", func() error {
			put(store.Document{ID: "new2", Parent: "p", Lookup: "l"}, store.Absent())
			return nil
		}, map[string]int{"TransactWriteItems": 1}},
		{"replace whatever is there, unlisted", func() error { put(store.Document{ID: "single"}, store.Any()); return nil }, map[string]int{"PutItem": 1}},
		{"replace whatever is there, listed", func() error {
			put(store.Document{ID: "listed", Parent: "p"}, store.Any())
			return nil
		}, map[string]int{"TransactWriteItems": 1}},
		{"move", func() error { put(store.Document{ID: "listed", Parent: "q"}, store.Any()); return nil }, map[string]int{"TransactWriteItems": 2}},
		{"unlist", func() error { put(store.Document{ID: "listed"}, store.Any()); return nil }, map[string]int{"PutItem": 1, "TransactWriteItems": 1}},
		{"create what is there", func() error {
			_, err := s.Put(t.Context(), store.Document{Collection: things, ID: "single"}, store.Absent())
			return wantClass(err, fault.Conflict)
		}, map[string]int{"PutItem": 1}},
		{"compare and swap", func() error {
			doc, err := s.Get(t.Context(), things, "single")
			put(store.Document{ID: "single"}, store.AtRevision(doc.Revision))
			return err
		}, map[string]int{"GetItem": 1, "PutItem": 1}},
		{"compare and swap that is late", func() error {
			_, err := s.Put(t.Context(), store.Document{Collection: things, ID: "single"}, store.AtRevision(single))
			return wantClass(err, fault.Conflict)
		}, map[string]int{"PutItem": 1}},
		{"a stamp that is not due", func() error {
			_, err := s.Put(t.Context(), store.Document{Collection: things, ID: "single"}, store.Before(time.Now().Add(-time.Hour)))
			return wantClass(err, fault.Conflict)
		}, map[string]int{"PutItem": 1}},
		{"list a page", func() error {
			_, err := s.List(t.Context(), store.Query{Collection: things, Parent: "p", Limit: 1})
			return err
		}, map[string]int{"Query": 1}},
		{"delete", func() error { return s.Delete(t.Context(), things, "other", store.Any()) }, map[string]int{"GetItem": 1, "TransactWriteItems": 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := w.during(func() {
				if err := test.do(); err != nil {
					t.Error(err)
				}
			})
			if !maps.Equal(got, test.want) {
				t.Errorf("calls %v, want %v", got, test.want)
			}
		})
	}
}

// batches answers each BatchGetItem in its turn, and keeps what was asked.
type batches struct {
	client
	answers []func(*dynamodb.BatchGetItemInput) (*dynamodb.BatchGetItemOutput, error)
	asked   []types.KeysAndAttributes
}

func (b *batches) BatchGetItem(_ context.Context, input *dynamodb.BatchGetItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.BatchGetItemOutput, error) {
	b.asked = append(b.asked, input.RequestItems["latchkey"])
	answer := b.answers[0]
	if len(b.answers) > 1 {
		b.answers = b.answers[1:]
	}
	return answer(input)
}

// firstOf answers with n of the documents that are asked for, the last first,
// and names the others as unprocessed, with nothing beside their keys.
func firstOf(n int) func(*dynamodb.BatchGetItemInput) (*dynamodb.BatchGetItemOutput, error) {
	return func(input *dynamodb.BatchGetItemInput) (*dynamodb.BatchGetItemOutput, error) {
		asked := input.RequestItems["latchkey"].Keys
		n := min(n, len(asked))
		var items []map[string]types.AttributeValue
		for _, key := range asked[:n] {
			items = append(items, with(item{revisionAttr: number(1), writeAttr: text("w")}, key))
		}
		slices.Reverse(items)
		output := &dynamodb.BatchGetItemOutput{Responses: map[string][]map[string]types.AttributeValue{"latchkey": items}}
		if n < len(asked) {
			output.UnprocessedKeys = map[string]types.KeysAndAttributes{"latchkey": {Keys: asked[n:]}}
		}
		return output, nil
	}
}

func manyKeys(n int) (keys []store.Key) {
	for i := range n {
		keys = append(keys, store.Key{Collection: things, ID: fmt.Sprint(i)})
	}
	return keys
}

func TestWhatTheServiceLeavesOutIsAskedForAgain(t *testing.T) {
	b := &batches{answers: []func(*dynamodb.BatchGetItemInput) (*dynamodb.BatchGetItemOutput, error){firstOf(4), firstOf(0), firstOf(1), firstOf(100)}}
	keys := manyKeys(10)
	found, err := (&Store{client: b, table: "latchkey", now: time.Now}).GetMany(t.Context(), keys)
	if err != nil {
		t.Fatal(err)
	}
	var got []store.Key
	for _, doc := range found {
		got = append(got, store.Key{Collection: doc.Collection, ID: doc.ID})
	}
	if !slices.Equal(got, keys) {
		t.Errorf("got %v", got)
	}
	var sizes []int
	for _, asked := range b.asked {
		sizes = append(sizes, len(asked.Keys))
		if !aws.ToBool(asked.ConsistentRead) {
			t.Errorf("call %d was not consistent", len(sizes))
		}
	}
	if !slices.Equal(sizes, []int{10, 6, 6, 5}) {
		t.Errorf("the calls asked for %v", sizes)
	}
}

func TestABatchThatIsNeverCompleteEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b := &batches{}
	b.answers = append(b.answers, func(input *dynamodb.BatchGetItemInput) (*dynamodb.BatchGetItemOutput, error) {
		if len(b.asked) == 3 {
			cancel()
		}
		return firstOf(1)(input)
	})
	found, err := (&Store{client: b, table: "latchkey", now: time.Now}).GetMany(ctx, manyKeys(10))
	if wrong := wantClass(err, fault.Transient); wrong != nil || !errors.Is(err, context.Canceled) || found != nil || len(b.asked) != 3 {
		t.Errorf("%d documents after %d calls: %v", len(found), len(b.asked), err)
	}
}

func TestABatchThatFailsLaterGivesNothing(t *testing.T) {
	b := &batches{answers: []func(*dynamodb.BatchGetItemInput) (*dynamodb.BatchGetItemOutput, error){
		firstOf(4),
		func(*dynamodb.BatchGetItemInput) (*dynamodb.BatchGetItemOutput, error) {
			return nil, &types.ProvisionedThroughputExceededException{}
		},
	}}
	found, err := (&Store{client: b, table: "latchkey", now: time.Now}).GetMany(t.Context(), manyKeys(10))
	if wrong := wantClass(err, fault.Transient); wrong != nil || found != nil {
		t.Errorf("%d documents: %v", len(found), err)
	}
}

func TestABatchWithForeignItemsIsLost(t *testing.T) {
	ours := item{revisionAttr: number(1), writeAttr: text("w")}
	for name, strange := range map[string]item{
		"one that was not asked for":  with(ours, mainKey(things, "other")),
		"one of another collection":   with(ours, mainKey("others", "0")),
		"one that is a copy":          with(ours, item{partitionKey: text(parentKey(things, "0")), sortKey: text("0")}),
		"one without a key":           ours,
		"one with a key of its own":   with(ours, item{partitionKey: number(1)}),
		"one that nobody of us wrote": mainKey(things, "0"),
	} {
		b := &batches{answers: []func(*dynamodb.BatchGetItemInput) (*dynamodb.BatchGetItemOutput, error){
			func(*dynamodb.BatchGetItemInput) (*dynamodb.BatchGetItemOutput, error) {
				return &dynamodb.BatchGetItemOutput{Responses: map[string][]map[string]types.AttributeValue{"latchkey": {strange}}}, nil
			},
		}}
		found, err := (&Store{client: b, table: "latchkey", now: time.Now}).GetMany(t.Context(), manyKeys(2))
		if wrong := wantClass(err, fault.Lost); wrong != nil || found != nil {
			t.Errorf("%s: %d documents: %v", name, len(found), wrong)
		}
	}
}

func TestABatchThatIsThrottledIsRepeated(t *testing.T) {
	left := 2
	w := &wire{fail: func(operation string) (int, string) {
		if operation != "BatchGetItem" || left == 0 {
			return 0, ""
		}
		left--
		return http.StatusBadRequest, `{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"m"}`
	}}
	s := created(t, connect(t, emulator(t), w))
	if _, err := s.Put(t.Context(), store.Document{Collection: things, ID: "0"}, store.Absent()); err != nil {
		t.Fatal(err)
	}
	calls := w.during(func() {
		if found, err := s.GetMany(t.Context(), manyKeys(2)); err != nil || len(found) != 1 {
			t.Errorf("%d documents: %v", len(found), err)
		}
	})
	if calls["BatchGetItem"] != 3 {
		t.Errorf("calls %v", calls)
	}
}

func TestMoreThanTheServiceGivesAtOnceIsOneFurtherCall(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 16 MB")
	}
	w := &wire{}
	s := created(t, connect(t, emulator(t), w))
	keys := manyKeys(65)
	for _, k := range keys {
		if _, err := s.Put(t.Context(), store.Document{Collection: k.Collection, ID: k.ID, Body: make([]byte, store.MaxBody)}, store.Absent()); err != nil {
			t.Fatal(err)
		}
	}
	calls := w.during(func() {
		if found, err := s.GetMany(t.Context(), keys); err != nil || len(found) != len(keys) {
			t.Errorf("%d documents: %v", len(found), err)
		}
	})
	if !maps.Equal(calls, map[string]int{"BatchGetItem": 2}) {
		t.Errorf("calls %v", calls)
	}
}

func wantClass(err error, want fault.Class) error {
	if class := fault.Of(err); class != want {
		return fmt.Errorf("class %s, want %s: %w", string(class), string(want), err)
	}
	return nil
}

func TestAWriteWhoseAnswerWasLostIsAcknowledgedOnce(t *testing.T) {
	for _, listed := range []string{"", "p"} {
		operation := "PutItem"
		if listed != "" {
			operation = "TransactWriteItems"
		}
		for name, pre := range map[string]func(revision int64) store.Precondition{
			"create":           nil,
			"any":              func(int64) store.Precondition { return store.Any() },
			"compare and swap": store.AtRevision,
			"before":           func(int64) store.Precondition { return store.Before(time.Now().Add(time.Hour)) },
		} {
			for lost := 1; lost <= 2; lost++ {
				t.Run(fmt.Sprintf("%s, parent %q, %d lost", name, listed, lost), func(t *testing.T) {
					w := &wire{}
					s := created(t, connect(t, emulator(t), w))
					doc := store.Document{Collection: things, ID: "x", Parent: listed, Body: []byte("first")}
					condition := store.Absent()
					before := int64(0)
					if pre != nil {
						revision, err := s.Put(t.Context(), doc, store.Absent())
						if err != nil {
							t.Fatal(err)
						}
						condition, before = pre(revision), revision
						doc.Body = []byte("second")
					}
					w.lose = map[string]int{operation: lost}
					revision, err := s.Put(t.Context(), doc, condition)
					if err != nil {
						t.Fatalf("put: %v", err)
					}
					got, err := s.Get(t.Context(), things, "x")
					if err != nil || got.Revision != revision || revision <= before || !bytes.Equal(got.Body, doc.Body) {
						t.Errorf("stored %q at %d (%v), acknowledged %q at %d", got.Body, got.Revision, err, doc.Body, revision)
					}
					if w.lose[operation] != 0 {
						t.Error("no answer was lost")
					}
				})
			}
		}
	}
}

func TestADeleteWhoseAnswerWasLostIsAcknowledged(t *testing.T) {
	for _, parent := range []string{"", "p"} {
		w := &wire{}
		s := created(t, connect(t, emulator(t), w))
		if _, err := s.Put(t.Context(), store.Document{Collection: things, ID: "x", Parent: parent}, store.Absent()); err != nil {
			t.Fatal(err)
		}
		w.lose = map[string]int{"TransactWriteItems": 1}
		if err := s.Delete(t.Context(), things, "x", store.Any()); err != nil {
			t.Errorf("parent %q: the delete has happened, yet: %v", parent, err)
		}
		if err := wantClass(s.Delete(t.Context(), things, "x", store.Any()), fault.NotFound); err != nil {
			t.Errorf("parent %q: again: %v", parent, err)
		}
	}
}

func TestWhenEveryAnswerIsLostTheErrorIsTransient(t *testing.T) {
	w := &wire{lose: map[string]int{"PutItem": 1000}}
	s := created(t, connect(t, emulator(t), w))
	_, err := s.Put(t.Context(), store.Document{Collection: things, ID: "x"}, store.Absent())
	if err := wantClass(err, fault.Transient); err != nil {
		t.Error(err)
	}
}

func TestSomebodyElsesWriteIsNoAcknowledgement(t *testing.T) {
	endpoint := emulator(t)
	s := created(t, connect(t, endpoint, nil))
	if _, err := s.Put(t.Context(), store.Document{Collection: things, ID: "x", Body: []byte("theirs")}, store.Absent()); err != nil {
		t.Fatal(err)
	}
	_, err := connect(t, endpoint, nil).Put(t.Context(), store.Document{Collection: things, ID: "x", Body: []byte("ours")}, store.Absent())
	if err := wantClass(err, fault.Conflict); err != nil {
		t.Error(err)
	}
}

// at sets the clock of a store.
func at(s *Store, now time.Time) *Store {
	s.now = func() time.Time { return now }
	return s
}

func TestAnExpiredDocumentIsAbsentEverywhere(t *testing.T) {
	endpoint := emulator(t)
	start := time.Unix(2_000_000_000, 0)
	early, late := at(created(t, connect(t, endpoint, nil)), start), at(connect(t, endpoint, nil), start.Add(time.Minute))
	put := func(id, parent string) int64 {
		t.Helper()
		revision, err := early.Put(t.Context(), store.Document{Collection: things, ID: id, Parent: parent, Expires: start.Add(time.Minute)}, store.Absent())
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}
	revision := put("x", "p")
	put("y", "p")
	if _, err := at(early, start.Add(59*time.Second)).Get(t.Context(), things, "x"); err != nil {
		t.Errorf("a second before it expires: %v", err)
	}
	at(early, start)
	many := []store.Key{{Collection: things, ID: "x"}, {Collection: things, ID: "y"}}
	if docs, err := early.GetMany(t.Context(), many); err != nil || len(docs) != 2 {
		t.Errorf("many before they expire: %d, %v", len(docs), err)
	}
	if docs, err := late.GetMany(t.Context(), many); err != nil || len(docs) != 0 {
		t.Errorf("many after they expired: %d, %v", len(docs), err)
	}
	_, getErr := late.Get(t.Context(), things, "x")
	_, swapErr := late.Put(t.Context(), store.Document{Collection: things, ID: "x"}, store.AtRevision(revision))
	for what, err := range map[string]error{
		"get":    wantClass(getErr, fault.NotFound),
		"delete": wantClass(late.Delete(t.Context(), things, "x", store.Any()), fault.NotFound),
		"swap":   wantClass(swapErr, fault.Conflict),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	again, err := late.Put(t.Context(), store.Document{Collection: things, ID: "x", Parent: "q"}, store.Absent())
	if err != nil || again <= revision {
		t.Errorf("made anew at %d after %d: %v", again, revision, err)
	}
	for parent, want := range map[string]int{"p": 0, "q": 1} {
		page, err := late.List(t.Context(), store.Query{Collection: things, Parent: parent, Limit: 10})
		if err != nil || len(page.Documents) != want {
			t.Errorf("parent %s lists %d documents, want %d (%v)", parent, len(page.Documents), want, err)
		}
	}
}

func TestARevisionGrowsOverAClockThatIsBehind(t *testing.T) {
	endpoint := emulator(t)
	now := time.Unix(2_000_000_000, 0)
	ahead, behind := at(created(t, connect(t, endpoint, nil)), now), at(connect(t, endpoint, nil), now.Add(-time.Minute))
	doc := store.Document{Collection: things, ID: "x"}
	last, err := ahead.Put(t.Context(), doc, store.Absent())
	if err != nil {
		t.Fatal(err)
	}
	for _, pre := range []store.Precondition{store.Any(), store.Before(now.Add(time.Hour))} {
		next, err := behind.Put(t.Context(), doc, pre)
		if err != nil || next != last+1 {
			t.Errorf("%s: revision %d after %d: %v", pre, next, last, err)
		}
		last = next
	}
	doc.Expires = now.Add(-time.Hour)
	last, err = ahead.Put(t.Context(), doc, store.Any())
	if err != nil {
		t.Fatal(err)
	}
	if next, err := behind.Put(t.Context(), doc, store.Absent()); err != nil || next != last+1 {
		t.Errorf("over an expired one: revision %d after %d: %v", next, last, err)
	}
}

func TestEveryPartitionBeginsWithItsCollection(t *testing.T) {
	w := &wire{}
	endpoint := emulator(t)
	s := created(t, connect(t, endpoint, w))
	if _, err := s.Put(t.Context(), store.Document{Collection: things, ID: "x", Parent: "p", Lookup: "l", Body: []byte{1}, Expires: time.Now().Add(time.Hour)}, store.Absent()); err != nil {
		t.Fatal(err)
	}
	found, err := s.client.(*dynamodb.Client).Scan(t.Context(), &dynamodb.ScanInput{TableName: aws.String(s.table)})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, stored := range found.Items {
		keys = append(keys, stored[partitionKey].(*types.AttributeValueMemberS).Value+" "+stored[sortKey].(*types.AttributeValueMemberS).Value)
		if _, ok := stored[expiresAttribute]; !ok {
			t.Errorf("the item %s would not be deleted when it expires", keys[len(keys)-1])
		}
	}
	slices.Sort(keys)
	if want := []string{"things#i#x -", "things#l#l x", "things#p#p x"}; !slices.Equal(keys, want) {
		t.Errorf("items %q, want %q", keys, want)
	}
}

func TestErrorsOfTheServiceHaveTheirClass(t *testing.T) {
	type answer struct {
		status int
		body   string
	}
	exception := func(code string) answer {
		return answer{http.StatusBadRequest, fmt.Sprintf(`{"__type":"com.amazonaws.dynamodb.v20120810#%s","message":"as it says"}`, code)}
	}
	cancelled := func(codes ...string) answer {
		var reasons []string
		for _, code := range codes {
			reasons = append(reasons, fmt.Sprintf(`{"Code":%q,"Message":"as it says"}`, code))
		}
		return answer{http.StatusBadRequest, `{"__type":"com.amazonaws.dynamodb.v20120810#TransactionCanceledException","message":"m","CancellationReasons":[` + strings.Join(reasons, ",") + `]}`}
	}
	for _, test := range []struct {
		name   string
		answer answer
		want   fault.Class
		text   string
	}{
		{"a table that is not there", exception("ResourceNotFoundException"), fault.Invalid, "create it"},
		{"rights that are missing", exception("AccessDeniedException"), fault.Denied, "rights"},
		{"credentials nobody knows", exception("UnrecognizedClientException"), fault.Denied, "credentials"},
		{"a wrong secret", exception("InvalidSignatureException"), fault.Denied, "credentials"},
		{"a session that has ended", exception("ExpiredTokenException"), fault.Denied, "credentials"},
		{"throttling", exception("ThrottlingException"), fault.Transient, ""},
		{"too much for the table", exception("ProvisionedThroughputExceededException"), fault.Transient, ""},
		{"a fault inside", answer{http.StatusInternalServerError, `{"__type":"InternalServerError"}`}, fault.Transient, ""},
		{"a page of a proxy", answer{http.StatusBadGateway, `<html>`}, fault.Transient, ""},
		{"input that it refuses", exception("ValidationException"), fault.Invalid, ""},
		{"a transaction that is throttled", cancelled("ThrottlingError", "None"), fault.Transient, ""},
		{"a transaction that it refuses", cancelled("None", "ValidationError"), fault.Invalid, "as it says"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := connect(t, "http://127.0.0.1:1", &wire{fail: func(string) (int, string) { return test.answer.status, test.answer.body }})
			_, get := s.Get(t.Context(), things, "x")
			_, many := s.GetMany(t.Context(), []store.Key{{Collection: things, ID: "x"}})
			_, put := s.Put(t.Context(), store.Document{Collection: things, ID: "x"}, store.Absent())
			_, listed := s.Put(t.Context(), store.Document{Collection: things, ID: "x", Parent: "p"}, store.Absent())
			_, list := s.List(t.Context(), store.Query{Collection: things, Parent: "p", Limit: 1})
			if strings.Contains(test.answer.body, "TransactionCanceled") {
				get, many, put, list = nil, nil, nil, nil
			}
			for what, err := range map[string]error{"get": get, "get many": many, "put": put, "put listed": listed, "list": list} {
				if err == nil && strings.Contains(test.answer.body, "TransactionCanceled") {
					continue
				}
				if wrong := wantClass(err, test.want); wrong != nil || !strings.Contains(err.Error(), test.text) {
					t.Errorf("%s: %v, want class %s and %q", what, err, test.want, test.text)
				}
			}
		})
	}
}

func TestAServiceThatIsNotThereIsTransient(t *testing.T) {
	server, err := minidyn.Start()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = connect(t, server.URL, nil).Get(t.Context(), things, "x")
	if err := wantClass(err, fault.Transient); err != nil {
		t.Error(err)
	}
}

func TestATransactionInConflictIsRepeatedUntilTheContextEnds(t *testing.T) {
	conflict := `{"__type":"com.amazonaws.dynamodb.v20120810#TransactionCanceledException","message":"m","CancellationReasons":[{"Code":"TransactionConflict"},{"Code":"None"}]}`
	endpoint := emulator(t)
	doc := store.Document{Collection: things, ID: "x", Parent: "p"}

	left := 3
	w := &wire{fail: func(operation string) (int, string) {
		if operation != "TransactWriteItems" || left == 0 {
			return 0, ""
		}
		left--
		return http.StatusBadRequest, conflict
	}}
	if _, err := created(t, connect(t, endpoint, w)).Put(t.Context(), doc, store.Absent()); err != nil {
		t.Errorf("after three conflicts: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	attempts := 0
	forever := &wire{fail: func(string) (int, string) {
		if attempts++; attempts == 4 {
			cancel()
		}
		return http.StatusBadRequest, conflict
	}}
	_, err := connect(t, endpoint, forever).Put(ctx, doc, store.Absent())
	if wrong := wantClass(err, fault.Transient); wrong != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("conflicts without end: %v", err)
	}
}

func TestAnItemThatIsNotOursIsLost(t *testing.T) {
	w := &wire{}
	s := created(t, connect(t, emulator(t), w))
	good := func() item {
		return item{revisionAttr: number(1), writeAttr: text("w"), bodyAttr: &types.AttributeValueMemberB{Value: []byte{1}}}
	}
	for name, spoil := range map[string]func(item){
		"no revision":               func(i item) { delete(i, revisionAttr) },
		"a revision of zero":        func(i item) { i[revisionAttr] = number(0) },
		"a revision that is a text": func(i item) { i[revisionAttr] = text("1") },
		"a broken revision":         func(i item) { i[revisionAttr] = &types.AttributeValueMemberN{Value: "1.5"} },
		"no write":                  func(i item) { delete(i, writeAttr) },
		"a body that is a text":     func(i item) { i[bodyAttr] = text("body") },
		"a parent that is a number": func(i item) { i[parentAttr] = number(1) },
		"an expiry that is a text":  func(i item) { i[expiresAttribute] = text("tomorrow") },
	} {
		t.Run(name, func(t *testing.T) {
			spoiled := good()
			spoil(spoiled)
			for _, key := range []item{mainKey(things, "x"), {partitionKey: text(parentKey(things, "p")), sortKey: text("x")}} {
				if _, err := s.client.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String(s.table), Item: with(spoiled, key)}); err != nil {
					t.Fatal(err)
				}
			}
			_, get := s.Get(t.Context(), things, "x")
			_, list := s.List(t.Context(), store.Query{Collection: things, Parent: "p", Limit: 1})
			_, many := s.GetMany(t.Context(), []store.Key{{Collection: things, ID: "none"}, {Collection: things, ID: "x"}})
			results := map[string]error{"get": get, "get many": many, "list": list}
			// minidyn refuses to compare a text with a number, which the service
			// finds unequal.
			if !strings.Contains(name, "that is a text") || strings.Contains(name, "body") {
				_, results["put"] = s.Put(t.Context(), store.Document{Collection: things, ID: "x"}, store.AtRevision(9))
			}
			results["delete"] = s.Delete(t.Context(), things, "x", store.Any())
			for what, err := range results {
				if wrong := wantClass(err, fault.Lost); wrong != nil {
					t.Errorf("%s: %v", what, wrong)
				}
			}
		})
	}
}

func TestCreateTableCanBeRepeatedAndRefusesAnotherTable(t *testing.T) {
	endpoint := emulator(t)
	s := created(t, connect(t, endpoint, nil))
	if _, err := s.Put(t.Context(), store.Document{Collection: things, ID: "x"}, store.Absent()); err != nil {
		t.Fatal(err)
	}
	created(t, connect(t, endpoint, nil))
	if _, err := s.Get(t.Context(), things, "x"); err != nil {
		t.Errorf("after the second creation: %v", err)
	}
	_, err := s.tables.CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName: aws.String("other"), BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("id"), AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("id"), KeyType: types.KeyTypeHash}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.table = "other"
	if err := wantClass(s.CreateTable(t.Context()), fault.Invalid); err != nil {
		t.Error(err)
	}
}

func TestANewTableHasExpiryRecoveryAndProtection(t *testing.T) {
	s := connect(t, moto.Start(t), nil)
	created(t, s)
	created(t, s)
	service := s.tables.(*dynamodb.Client)
	ttl, err := service.DescribeTimeToLive(t.Context(), &dynamodb.DescribeTimeToLiveInput{TableName: aws.String(s.table)})
	if err != nil || ttl.TimeToLiveDescription.TimeToLiveStatus != types.TimeToLiveStatusEnabled || aws.ToString(ttl.TimeToLiveDescription.AttributeName) != expiresAttribute {
		t.Errorf("time to live: %+v %v", ttl, err)
	}
	backups, err := service.DescribeContinuousBackups(t.Context(), &dynamodb.DescribeContinuousBackupsInput{TableName: aws.String(s.table)})
	if err != nil || backups.ContinuousBackupsDescription.PointInTimeRecoveryDescription.PointInTimeRecoveryStatus != types.PointInTimeRecoveryStatusEnabled {
		t.Errorf("point-in-time recovery: %+v %v", backups, err)
	}
	table, err := service.DescribeTable(t.Context(), &dynamodb.DescribeTableInput{TableName: aws.String(s.table)})
	if err != nil || !aws.ToBool(table.Table.DeletionProtectionEnabled) || table.Table.BillingModeSummary.BillingMode != types.BillingModePayPerRequest {
		t.Errorf("table: %+v %v", table, err)
	}
}

// newTables is a service that makes backups available only at the third try.
type newTables struct {
	tables
	tries int
	err   error
}

func (n *newTables) UpdateContinuousBackups(context.Context, *dynamodb.UpdateContinuousBackupsInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateContinuousBackupsOutput, error) {
	if n.tries++; n.tries < 3 {
		return nil, &types.ContinuousBackupsUnavailableException{}
	}
	return &dynamodb.UpdateContinuousBackupsOutput{}, n.err
}

func TestRecoveryIsEnabledOnceTheServiceIsReady(t *testing.T) {
	n := &newTables{}
	if err := (&Store{tables: n}).enableRecovery(t.Context()); err != nil || n.tries != 3 {
		t.Errorf("%d tries: %v", n.tries, err)
	}
	denied := &newTables{err: &smithy.GenericAPIError{Code: "AccessDeniedException"}}
	if err := (&Store{tables: denied}).enableRecovery(t.Context()); err == nil {
		t.Error("a refusal was swallowed")
	}
}
