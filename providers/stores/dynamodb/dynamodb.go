// Package dynamodb is a store in one Amazon DynamoDB table.
//
// A document is the item with the keys
//
//	pk = <collection>#i#<id>   sk = -
//
// and, where it has a parent or a look-up value, is kept a second and third
// time, whole, as what a listing reads:
//
//	pk = <collection>#p#<parent>   sk = <id>
//	pk = <collection>#l#<lookup>   sk = <id>
//
// All items of a document are written by one transaction whose condition is on
// the first. So Get is one strongly consistent GetItem and a page of List one
// strongly consistent Query (a secondary index would be eventually consistent),
// and as each partition key begins with the collection, a role can be fenced
// to collections by dynamodb:LeadingKeys.
//
// Attributes, next to pk and sk:
//
//	rev      number   the revision
//	parent   string   absent when empty
//	lookup   string   absent when empty
//	expires  number   Unix seconds; the table's TTL attribute; absent: never
//	body     binary   absent when empty
//	write    string   random, different for every write
//
// The service deletes expired items hours late, so expiry is checked here as
// well, in every read and every condition.
//
// Answers get lost: the SDK repeats a call whose answer did not come, and the
// repeated write would meet its own result and take it for somebody else's. A
// write that finds its own write attribute has therefore happened, and a
// transaction carries a token by which the service knows it again for ten
// minutes. That, too, is why a delete is always a transaction.
package dynamodb

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
	"github.com/cenkalti/backoff/v5"

	"github.com/latchkey-fn/latchkey/providers/awsfault"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Config names the table.
type Config struct {
	Table string
	// Endpoint is the URL of another service than the region's; empty: none.
	Endpoint string
}

// Store keeps documents in a table. It is safe for concurrent use, and so is
// the table by any number of processes.
type Store struct {
	client client
	tables tables
	table  string
	now    func() time.Time
}

var _ store.Driver = (*Store)(nil)

// client is what documents need of the service.
type client interface {
	GetItem(context.Context, *dynamodb.GetItemInput, ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error)
	BatchGetItem(context.Context, *dynamodb.BatchGetItemInput, ...func(*dynamodb.Options)) (*dynamodb.BatchGetItemOutput, error)
	PutItem(context.Context, *dynamodb.PutItemInput, ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error)
	TransactWriteItems(context.Context, *dynamodb.TransactWriteItemsInput, ...func(*dynamodb.Options)) (*dynamodb.TransactWriteItemsOutput, error)
	Query(context.Context, *dynamodb.QueryInput, ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error)
}

// New makes a store of a table. Nothing is contacted before the first call.
func New(cfg aws.Config, c Config) *Store {
	service := dynamodb.NewFromConfig(cfg, func(o *dynamodb.Options) {
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
		}
	})
	return &Store{client: service, tables: service, table: c.Table, now: time.Now}
}

// Close does nothing: connections end by themselves.
func (s *Store) Close() error { return nil }

// Get is one GetItem.
func (s *Store) Get(ctx context.Context, collection, id string) (store.Document, error) {
	found, err := s.read(ctx, collection, id)
	if err != nil {
		return store.Document{}, err
	}
	if found.liveRevision(s.now()) == 0 {
		return store.Document{}, fmt.Errorf("%w: no such document", fault.NotFound)
	}
	return found.doc, nil
}

// GetMany is one BatchGetItem, and a further one for what the service left out:
// it answers with 16 MB at the most, with 1 MB of a partition, and with less when
// it is busy. Of what it says about those only the keys are taken, so that they
// are read again as they were asked for at first: consistently.
func (s *Store) GetMany(ctx context.Context, keys []store.Key) ([]store.Document, error) {
	wanted := types.KeysAndAttributes{ConsistentRead: aws.Bool(true)}
	position := make(map[string]int, len(keys)) // by partition key
	for i, k := range keys {
		key := mainKey(k.Collection, k.ID)
		wanted.Keys = append(wanted.Keys, key)
		position[key[partitionKey].(*types.AttributeValueMemberS).Value] = i
	}
	docs := make([]*store.Document, len(keys))
	for wait := newWait(); ; {
		answer, err := s.client.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{
			RequestItems: map[string]types.KeysAndAttributes{s.table: wanted},
		})
		if err != nil {
			return nil, s.explain("batch get item", err)
		}
		for _, item := range answer.Responses[s.table] {
			pk, ok := item[partitionKey].(*types.AttributeValueMemberS)
			if !ok {
				return nil, fmt.Errorf("%w: an item has no %s", fault.Lost, partitionKey)
			}
			i, asked := position[pk.Value]
			if !asked {
				return nil, fmt.Errorf("%w: DynamoDB answered with an item that was not asked for", fault.Lost)
			}
			found, err := decode(keys[i].Collection, keys[i].ID, item)
			if err != nil {
				return nil, err
			}
			if found.liveRevision(s.now()) != 0 {
				docs[i] = &found.doc
			}
		}
		left, more := answer.UnprocessedKeys[s.table]
		if !more || len(left.Keys) == 0 {
			break
		}
		wanted.Keys = left.Keys
		if err := wait.next(ctx, "DynamoDB left out a part of what was asked for"); err != nil {
			return nil, err
		}
	}
	var found []store.Document
	for _, doc := range docs {
		if doc != nil {
			found = append(found, *doc)
		}
	}
	return found, nil
}

// Put is one PutItem or, for a document with a parent or a look-up value, one
// TransactWriteItems, and a second one only for a write that has to move a
// document's copies.
func (s *Store) Put(ctx context.Context, doc store.Document, pre store.Precondition) (int64, error) {
	write := rand.Text()
	condition := ifPermitted(doc, pre, s.now())
	for wait := newWait(); ; {
		doc.Revision = store.NextRevision(condition.over.revision(), s.now())
		failed, found, err := s.commit(ctx, doc, putItems(s.table, doc, write, condition))
		switch {
		case err != nil:
			return 0, err
		case !failed:
			return doc.Revision, nil
		case found != nil && found.write == write:
			return found.doc.Revision, nil // it had happened; the answer was lost
		case !pre.Holds(found.liveRevision(s.now())):
			return 0, conflict(found, s.now())
		}
		condition = ifUnchanged(found)
		if err := wait.next(ctx, othersWrite); err != nil {
			return 0, err
		}
	}
}

// Delete reads the document, to know its copies, and removes them all by one
// transaction.
func (s *Store) Delete(ctx context.Context, collection, id string, pre store.Precondition) error {
	found, err := s.read(ctx, collection, id)
	if err != nil {
		return err
	}
	for wait := newWait(); ; {
		revision := found.liveRevision(s.now())
		if revision == 0 {
			return fmt.Errorf("%w: no such document", fault.NotFound)
		}
		if !pre.Holds(revision) {
			return conflict(found, s.now())
		}
		failed, other, err := s.commit(ctx, found.doc, deleteItems(s.table, found))
		if err != nil || !failed {
			return err
		}
		found = other
		if err := wait.next(ctx, othersWrite); err != nil {
			return err
		}
	}
}

func conflict(found *stored, now time.Time) error {
	revision := found.liveRevision(now)
	if revision == 0 {
		return fmt.Errorf("%w: there is no document", fault.Conflict)
	}
	return fmt.Errorf("%w: the document is at revision %d", fault.Conflict, revision)
}

// maxPageBytes ends a page of large bodies early, so that a listing's memory is
// bounded.
const maxPageBytes = 4 << 20

// List is one Query, and a further one for every megabyte that the page holds
// and where so many documents have expired that the page is not full.
func (s *Store) List(ctx context.Context, q store.Query) (store.Page, error) {
	partition := parentKey(q.Collection, q.Parent)
	if q.Parent == "" {
		partition = lookupKey(q.Collection, q.Lookup)
	}
	var page store.Page
	for after, size := q.After, 0; ; {
		// One more than the page holds tells whether there is another page.
		found, err := s.client.Query(ctx, queryInput(s.table, partition, after, q.Limit+1-len(page.Documents)))
		if err != nil {
			return store.Page{}, s.explain("query", err)
		}
		for _, item := range found.Items {
			id, ok := item[sortKey].(*types.AttributeValueMemberS)
			if !ok {
				return store.Page{}, fmt.Errorf("%w: an item in partition %q has no %s", fault.Lost, partition, sortKey)
			}
			copied, err := decode(q.Collection, id.Value, item)
			if err != nil {
				return store.Page{}, err
			}
			if copied.liveRevision(s.now()) == 0 {
				continue
			}
			size += len(copied.doc.Body)
			if n := len(page.Documents); n == q.Limit || n > 0 && size > maxPageBytes {
				page.Next = page.Documents[n-1].ID
				return page, nil
			}
			page.Documents = append(page.Documents, copied.doc)
		}
		last, more := found.LastEvaluatedKey[sortKey].(*types.AttributeValueMemberS)
		if !more {
			return page, nil
		}
		after = last.Value
	}
}

// read gives what is stored under an id, expired or not; nil: nothing.
func (s *Store) read(ctx context.Context, collection, id string) (*stored, error) {
	found, err := s.client.GetItem(ctx, &dynamodb.GetItemInput{
		TableName:      aws.String(s.table),
		Key:            mainKey(collection, id),
		ConsistentRead: aws.Bool(true),
	})
	if err != nil {
		return nil, s.explain("get item", err)
	}
	if len(found.Item) == 0 {
		return nil, nil
	}
	return decode(collection, id, found.Item)
}

// commit writes all items or none. Where the first item's condition does not
// hold, failed is true and found what is stored instead.
func (s *Store) commit(ctx context.Context, doc store.Document, items []types.TransactWriteItem) (failed bool, found *stored, err error) {
	token := rand.Text()
	for wait := newWait(); ; {
		if put := items[0].Put; put != nil && len(items) == 1 {
			_, err = s.client.PutItem(ctx, &dynamodb.PutItemInput{
				TableName: put.TableName, Item: put.Item, ConditionExpression: put.ConditionExpression,
				ExpressionAttributeNames:            put.ExpressionAttributeNames,
				ExpressionAttributeValues:           put.ExpressionAttributeValues,
				ReturnValuesOnConditionCheckFailure: put.ReturnValuesOnConditionCheckFailure,
			})
		} else {
			_, err = s.client.TransactWriteItems(ctx, &dynamodb.TransactWriteItemsInput{
				TransactItems: items, ClientRequestToken: aws.String(token),
			})
		}
		if err == nil {
			return false, nil, nil
		}
		if other, failed := failedCondition(err); failed {
			if len(other) == 0 {
				return true, nil, nil
			}
			found, err = decode(doc.Collection, doc.ID, other)
			return true, found, err
		}
		if !inConflict(err) {
			return false, nil, s.explain("write", err)
		}
		if err := wait.next(ctx, othersWrite); err != nil {
			return false, nil, err
		}
	}
}

// failedCondition tells whether the condition on the first item did not hold,
// and gives the item that is stored.
func failedCondition(err error) (map[string]types.AttributeValue, bool) {
	if put, ok := errors.AsType[*types.ConditionalCheckFailedException](err); ok {
		return put.Item, true
	}
	if cancelled, ok := errors.AsType[*types.TransactionCanceledException](err); ok && len(cancelled.CancellationReasons) > 0 {
		first := cancelled.CancellationReasons[0]
		return first.Item, aws.ToString(first.Code) == "ConditionalCheckFailed"
	}
	return nil, false
}

// inConflict tells whether another transaction held one of the items, and
// nothing else was wrong.
func inConflict(err error) bool {
	if _, ok := errors.AsType[*types.TransactionConflictException](err); ok {
		return true
	}
	cancelled, ok := errors.AsType[*types.TransactionCanceledException](err)
	if !ok {
		return false
	}
	conflicts := false
	for _, reason := range cancelled.CancellationReasons {
		switch aws.ToString(reason.Code) {
		case "", "None":
		case "TransactionConflict":
			conflicts = true
		default:
			return false
		}
	}
	return conflicts
}

// waiter spaces attempts.
type waiter struct{ *backoff.ExponentialBackOff }

func newWait() waiter {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = 10 * time.Millisecond
	b.MaxInterval = 500 * time.Millisecond
	return waiter{b}
}

// othersWrite is why a write is tried again.
const othersWrite = "others were writing the document all the time"

func (w waiter) next(ctx context.Context, reason string) error {
	timer := time.NewTimer(w.NextBackOff())
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %s: %w", fault.Transient, reason, ctx.Err())
	}
}

// explain gives an error of the service its class.
func (s *Store) explain(doing string, err error) error {
	if cancelled, ok := errors.AsType[*types.TransactionCanceledException](err); ok {
		for _, reason := range cancelled.CancellationReasons {
			switch aws.ToString(reason.Code) {
			case "ValidationError", "ItemCollectionSizeLimitExceeded":
				return fmt.Errorf("%w: %s in DynamoDB table %s: %s", fault.Invalid, doing, s.table, aws.ToString(reason.Message))
			}
		}
	}
	class, hint := fault.Transient, ""
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		switch code := api.ErrorCode(); code {
		case "ResourceNotFoundException":
			class, hint = fault.Invalid, " (the table does not exist: check its name and the region, or create it)"
		case "AccessDeniedException":
			class, hint = fault.Denied, " (check the role's rights on the table, and on its KMS key)"
		case "ValidationException", "SerializationException", "UnknownOperationException":
			class = fault.Invalid
		default:
			if awsfault.Credentials(code) {
				class, hint = fault.Denied, " (check the credentials)"
			}
		}
	}
	return fmt.Errorf("%w: %s in DynamoDB table %s%s: %w", class, doing, s.table, hint, err)
}

// stored is the item of a document as it was read; nil stands for none.
type stored struct {
	doc   store.Document
	write string
}

func (s *stored) revision() int64 {
	if s == nil {
		return 0
	}
	return s.doc.Revision
}

// liveRevision is 0 where there is no document or it has expired.
func (s *stored) liveRevision(now time.Time) int64 {
	if s == nil || !s.doc.Expires.IsZero() && s.doc.Expires.Unix() <= now.Unix() {
		return 0
	}
	return s.doc.Revision
}

func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }
