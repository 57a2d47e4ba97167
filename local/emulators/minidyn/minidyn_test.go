package minidyn

import (
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
)

// table gives a client of a new server that has one table.
func table(t *testing.T) *dynamodb.Client {
	t.Helper()
	server, err := Start()
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

func TestAnOperationItDoesNotHaveIsUnknown(t *testing.T) {
	_, err := table(t).DescribeTimeToLive(t.Context(), &dynamodb.DescribeTimeToLiveInput{TableName: aws.String("t")})
	if api, ok := errors.AsType[smithy.APIError](err); !ok || api.ErrorCode() != "UnknownOperationException" {
		t.Errorf("%v", err)
	}
}
