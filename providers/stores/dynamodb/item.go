package dynamodb

import (
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// The attributes of an item. Expressions name them as #attribute, because some
// are reserved words.
const (
	partitionKey     = "pk"
	sortKey          = "sk"
	revisionAttr     = "rev"
	parentAttr       = "parent"
	lookupAttr       = "lookup"
	expiresAttribute = "expires"
	bodyAttr         = "body"
	writeAttr        = "write"
)

type item = map[string]types.AttributeValue

func mainKey(collection, id string) item {
	return item{partitionKey: text(collection + "#i#" + id), sortKey: text("-")}
}

func parentKey(collection, parent string) string { return collection + "#p#" + parent }
func lookupKey(collection, lookup string) string { return collection + "#l#" + lookup }

// copyKeys gives the keys of a document's copies, by partition.
func copyKeys(doc store.Document) map[string]item {
	keys := map[string]item{}
	for partition, listed := range map[string]bool{
		parentKey(doc.Collection, doc.Parent): doc.Parent != "",
		lookupKey(doc.Collection, doc.Lookup): doc.Lookup != "",
	} {
		if listed {
			keys[partition] = item{partitionKey: text(partition), sortKey: text(doc.ID)}
		}
	}
	return keys
}

// condition is what has to be true of the item with mainKey.
type condition struct {
	expression string
	values     item
	// over is the item that will be replaced, where it is known.
	over *stored
}

// ifPermitted holds where the precondition does, and replacing what is there
// leaves no copies behind and is an increase of the revision.
func ifPermitted(doc store.Document, pre store.Precondition, now time.Time) condition {
	c := condition{values: item{":now": number(now.Unix())}}
	var alternatives []string
	least, most, absent := pre.Bounds()
	if absent {
		alternatives = append(alternatives, "attribute_not_exists(#pk)", "(#expires <= :now AND #rev < :rev)")
	}
	if least <= most {
		c.values[":least"], c.values[":most"] = number(least), number(most)
		present := []string{"#rev BETWEEN :least AND :most", "#rev < :rev", "(attribute_not_exists(#expires) OR #expires > :now)"}
		for name, value := range map[string]string{parentAttr: doc.Parent, lookupAttr: doc.Lookup} {
			if value == "" {
				present = append(present, "attribute_not_exists(#"+name+")")
				continue
			}
			present = append(present, "#"+name+" = :"+name)
			c.values[":"+name] = text(value)
		}
		alternatives = append(alternatives, "("+strings.Join(present, " AND ")+")")
	}
	c.expression = strings.Join(alternatives, " OR ")
	return c
}

// ifUnchanged holds where the item that was read is still there.
func ifUnchanged(found *stored) condition {
	if found == nil {
		return condition{expression: "attribute_not_exists(#pk)", values: item{}}
	}
	return condition{expression: "#write = :found", values: item{":found": text(found.write)}, over: found}
}

// names gives the attributes that the expression uses; the service refuses
// others.
func (c condition) names() map[string]string {
	used := map[string]string{}
	for _, name := range []string{partitionKey, revisionAttr, parentAttr, lookupAttr, expiresAttribute, writeAttr} {
		if strings.Contains(c.expression, "#"+name) {
			used["#"+name] = name
		}
	}
	return used
}

// putItems are the writes that make doc the document under its id. The first
// has the condition.
func putItems(table string, doc store.Document, write string, c condition) []types.TransactWriteItem {
	values := maps.Clone(c.values)
	if strings.Contains(c.expression, ":rev") {
		values[":rev"] = number(doc.Revision)
	}
	attributes := encode(doc, write)
	items := []types.TransactWriteItem{{Put: &types.Put{
		TableName:                           aws.String(table),
		Item:                                with(attributes, mainKey(doc.Collection, doc.ID)),
		ConditionExpression:                 aws.String(c.expression),
		ExpressionAttributeNames:            c.names(),
		ExpressionAttributeValues:           noneIfEmpty(values),
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}}}
	copies := copyKeys(doc)
	for _, key := range copies {
		items = append(items, types.TransactWriteItem{Put: &types.Put{TableName: aws.String(table), Item: with(attributes, key)}})
	}
	if c.over != nil {
		for partition, key := range copyKeys(c.over.doc) {
			if _, stays := copies[partition]; !stays {
				items = append(items, types.TransactWriteItem{Delete: &types.Delete{TableName: aws.String(table), Key: key}})
			}
		}
	}
	return items
}

// deleteItems are the writes that remove a document that was read, as long as
// it is unchanged.
func deleteItems(table string, found *stored) []types.TransactWriteItem {
	c := ifUnchanged(found)
	items := []types.TransactWriteItem{{Delete: &types.Delete{
		TableName:                           aws.String(table),
		Key:                                 mainKey(found.doc.Collection, found.doc.ID),
		ConditionExpression:                 aws.String(c.expression),
		ExpressionAttributeNames:            c.names(),
		ExpressionAttributeValues:           c.values,
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}}}
	for _, key := range copyKeys(found.doc) {
		items = append(items, types.TransactWriteItem{Delete: &types.Delete{TableName: aws.String(table), Key: key}})
	}
	return items
}

func queryInput(table, partition, after string, limit int) *dynamodb.QueryInput {
	input := &dynamodb.QueryInput{
		TableName:                 aws.String(table),
		ConsistentRead:            aws.Bool(true),
		KeyConditionExpression:    aws.String("#pk = :pk"),
		ExpressionAttributeNames:  map[string]string{"#pk": partitionKey},
		ExpressionAttributeValues: item{":pk": text(partition)},
		Limit:                     aws.Int32(int32(min(limit, math.MaxInt32))),
	}
	if after != "" {
		input.KeyConditionExpression = aws.String("#pk = :pk AND #sk > :after")
		input.ExpressionAttributeNames["#sk"] = sortKey
		input.ExpressionAttributeValues[":after"] = text(after)
	}
	return input
}

// encode gives the attributes that all items of a document share.
func encode(doc store.Document, write string) item {
	attributes := item{revisionAttr: number(doc.Revision), writeAttr: text(write)}
	for name, value := range map[string]string{parentAttr: doc.Parent, lookupAttr: doc.Lookup} {
		if value != "" {
			attributes[name] = text(value)
		}
	}
	if !doc.Expires.IsZero() {
		attributes[expiresAttribute] = number(doc.Expires.Unix())
	}
	if len(doc.Body) > 0 {
		attributes[bodyAttr] = &types.AttributeValueMemberB{Value: doc.Body}
	}
	return attributes
}

// decode understands an item, or says that it is lost.
func decode(collection, id string, from item) (*stored, error) {
	found := &stored{doc: store.Document{Collection: collection, ID: id}}
	for name, into := range map[string]*string{parentAttr: &found.doc.Parent, lookupAttr: &found.doc.Lookup, writeAttr: &found.write} {
		switch value := from[name].(type) {
		case nil:
		case *types.AttributeValueMemberS:
			*into = value.Value
		default:
			return nil, notOurs(collection, name)
		}
	}
	if found.write == "" {
		return nil, notOurs(collection, writeAttr)
	}
	revision, ok := integer(from[revisionAttr])
	if !ok || revision <= 0 {
		return nil, notOurs(collection, revisionAttr)
	}
	found.doc.Revision = revision
	if expires, given := from[expiresAttribute]; given {
		seconds, ok := integer(expires)
		if !ok {
			return nil, notOurs(collection, expiresAttribute)
		}
		found.doc.Expires = time.Unix(seconds, 0).UTC()
	}
	switch body := from[bodyAttr].(type) {
	case nil:
	case *types.AttributeValueMemberB:
		found.doc.Body = body.Value
	default:
		return nil, notOurs(collection, bodyAttr)
	}
	return found, nil
}

func notOurs(collection, attribute string) error {
	return fmt.Errorf("%w: an item of collection %s has no usable attribute %q: it was not written by this store, or was changed", fault.Lost, collection, attribute)
}

func integer(value types.AttributeValue) (int64, bool) {
	n, ok := value.(*types.AttributeValueMemberN)
	if !ok {
		return 0, false
	}
	parsed, err := strconv.ParseInt(n.Value, 10, 64)
	return parsed, err == nil
}

func with(attributes, key item) item {
	whole := maps.Clone(attributes)
	maps.Copy(whole, key)
	return whole
}

// noneIfEmpty is for the service, which refuses an empty list of values.
func noneIfEmpty(values item) item {
	if len(values) == 0 {
		return nil
	}
	return values
}
