package minidyn

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
)

// table gives a client of a new server that has one table.
func table(t *testing.T) *dynamodb.Client { return tableOf(t, maxBatchBytes) }

func tableOf(t *testing.T, batchBytes int) *dynamodb.Client {
	t.Helper()
	server, err := start(batchBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	if !strings.HasPrefix(server.URL, "http://127.0.0.1:") {
		t.Errorf("it listens on %s, not on loopback alone", server.URL)
	}
	client := dynamodb.NewFromConfig(aws.Config{
		Region:      "eu-central-1",
		Credentials: credentials.NewStaticCredentialsProvider("AKID", "secret", ""),
	}, func(o *dynamodb.Options) { o.BaseEndpoint = aws.String(server.URL) })
	made, err := client.CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName: aws.String("t"), BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("id"), AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("id"), KeyType: types.KeyTypeHash}},
	})
	if err != nil || made.TableDescription.TableStatus != types.TableStatusActive {
		t.Fatalf("%+v %v", made, err)
	}
	return client
}

func item(value string) map[string]types.AttributeValue {
	return map[string]types.AttributeValue{"id": &types.AttributeValueMemberS{Value: "x"}, "v": &types.AttributeValueMemberS{Value: value}}
}

func put(value, condition string) *types.Put {
	p := &types.Put{TableName: aws.String("t"), Item: item(value), ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld}
	if condition != "" {
		p.ConditionExpression = aws.String(condition)
	}
	return p
}

func value(item map[string]types.AttributeValue) string {
	v, _ := item["v"].(*types.AttributeValueMemberS)
	if v == nil {
		return ""
	}
	return v.Value
}

func TestAFailedConditionShowsWhatIsStored(t *testing.T) {
	client := table(t)
	if _, err := client.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String("t"), Item: item("first")}); err != nil {
		t.Fatal(err)
	}
	for _, wanted := range []types.ReturnValuesOnConditionCheckFailure{types.ReturnValuesOnConditionCheckFailureAllOld, types.ReturnValuesOnConditionCheckFailureNone} {
		want := ""
		if wanted == types.ReturnValuesOnConditionCheckFailureAllOld {
			want = "first"
		}
		_, err := client.PutItem(t.Context(), &dynamodb.PutItemInput{
			TableName: aws.String("t"), Item: item("second"), ConditionExpression: aws.String("attribute_not_exists(id)"),
			ReturnValuesOnConditionCheckFailure: wanted,
		})
		failed, ok := errors.AsType[*types.ConditionalCheckFailedException](err)
		if !ok || value(failed.Item) != want {
			t.Errorf("put wanting %s: %v, want the item %q", wanted, err, want)
		}
	}
	_, err := client.DeleteItem(t.Context(), &dynamodb.DeleteItemInput{
		TableName: aws.String("t"), Key: map[string]types.AttributeValue{"id": item("")["id"]}, ConditionExpression: aws.String("attribute_not_exists(id)"),
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	})
	if failed, ok := errors.AsType[*types.ConditionalCheckFailedException](err); !ok || value(failed.Item) != "first" {
		t.Errorf("delete: %v", err)
	}
	_, err = client.TransactWriteItems(t.Context(), &dynamodb.TransactWriteItemsInput{
		TransactItems: []types.TransactWriteItem{{Put: put("second", "attribute_not_exists(id)")}},
	})
	if cancelled, ok := errors.AsType[*types.TransactionCanceledException](err); !ok || value(cancelled.CancellationReasons[0].Item) != "first" {
		t.Errorf("transaction: %v", err)
	}
}

func TestATransactionIsKnownByItsToken(t *testing.T) {
	client := table(t)
	once := &dynamodb.TransactWriteItemsInput{
		ClientRequestToken: aws.String("token"),
		TransactItems:      []types.TransactWriteItem{{Put: put("first", "attribute_not_exists(id)")}},
	}
	for i := range 2 {
		if _, err := client.TransactWriteItems(t.Context(), once); err != nil {
			t.Errorf("time %d: %v", i+1, err)
		}
	}
	_, err := client.TransactWriteItems(t.Context(), &dynamodb.TransactWriteItemsInput{
		ClientRequestToken: aws.String("token"), TransactItems: []types.TransactWriteItem{{Put: put("second", "")}},
	})
	if _, ok := errors.AsType[*types.IdempotentParameterMismatchException](err); !ok {
		t.Errorf("another request with the token: %v", err)
	}
	again := *once
	again.ClientRequestToken = aws.String("another")
	if _, err := client.TransactWriteItems(t.Context(), &again); err == nil {
		t.Error("the request with another token was not done anew")
	}
}

func idKey(id string) map[string]types.AttributeValue {
	return map[string]types.AttributeValue{"id": &types.AttributeValueMemberS{Value: id}}
}

func TestABatchIsWhatFitsOfItInNoOrder(t *testing.T) {
	const limit, large = 1 << 20, 100 << 10
	client := tableOf(t, limit)
	var keys []map[string]types.AttributeValue
	for i := range 15 { // of which 10 fit
		key := idKey(fmt.Sprint(i))
		keys = append(keys, key)
		stored := maps.Clone(key)
		stored["b"] = &types.AttributeValueMemberB{Value: make([]byte, large)}
		if _, err := client.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String("t"), Item: stored}); err != nil {
			t.Fatal(err)
		}
	}
	keys = slices.Insert(keys, 1, idKey("missing"))
	found, err := client.BatchGetItem(t.Context(), &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{
		"t": {Keys: keys, ConsistentRead: aws.Bool(true)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got, left := found.Responses["t"], found.UnprocessedKeys["t"]
	if len(got) != 10 || len(left.Keys) != 5 || !aws.ToBool(left.ConsistentRead) {
		t.Fatalf("%d items and %d that are left, consistently: %v", len(got), len(left.Keys), aws.ToBool(left.ConsistentRead))
	}
	if first := got[0]["id"].(*types.AttributeValueMemberS).Value; first == "0" || len(got[0]["b"].(*types.AttributeValueMemberB).Value) != large {
		t.Errorf("the first is %q", first)
	}
	rest, err := client.BatchGetItem(t.Context(), &dynamodb.BatchGetItemInput{RequestItems: found.UnprocessedKeys})
	if err != nil || len(rest.Responses["t"]) != len(left.Keys) || len(rest.UnprocessedKeys) != 0 {
		t.Errorf("the rest: %d items, %v", len(rest.Responses["t"]), err)
	}
}

func TestABatchThatTheServiceWouldRefuseIsRefused(t *testing.T) {
	client := table(t)
	many := make([]map[string]types.AttributeValue, maxBatch+1)
	for i := range many {
		many[i] = idKey(fmt.Sprint(i))
	}
	for name, c := range map[string]struct {
		table string
		keys  []map[string]types.AttributeValue
		code  string
	}{
		"too many":            {"t", many, "ValidationException"},
		"none":                {"t", []map[string]types.AttributeValue{}, "ValidationException"},
		"one twice":           {"t", []map[string]types.AttributeValue{idKey("1"), idKey("2"), idKey("1")}, "ValidationException"},
		"another key":         {"t", []map[string]types.AttributeValue{{"other": idKey("1")["id"]}}, "ValidationException"},
		"a table that is not": {"u", many[:1], "ResourceNotFoundException"},
	} {
		_, err := client.BatchGetItem(t.Context(), &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{c.table: {Keys: c.keys}}})
		if api, ok := errors.AsType[smithy.APIError](err); !ok || api.ErrorCode() != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := client.BatchGetItem(t.Context(), &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{"t": {Keys: many[:maxBatch]}}}); err != nil {
		t.Errorf("the most: %v", err)
	}
}

func TestAnOperationItDoesNotHaveIsUnknown(t *testing.T) {
	_, err := table(t).DescribeTimeToLive(t.Context(), &dynamodb.DescribeTimeToLiveInput{TableName: aws.String("t")})
	if api, ok := errors.AsType[smithy.APIError](err); !ok || api.ErrorCode() != "UnknownOperationException" {
		t.Errorf("%v", err)
	}
}
