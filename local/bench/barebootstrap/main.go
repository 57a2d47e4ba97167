// Command barebootstrap is what the start of a Lambda binary is measured
// against: aws-lambda-go with the two SDK clients that Key Connector has, made
// and used as the SDK's own examples do it, and nothing else.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
)

func main() {
	cfg, err := config.LoadDefaultConfig(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "bare bootstrap:", err)
		os.Exit(1)
	}
	documents, keys := dynamodb.NewFromConfig(cfg), kms.NewFromConfig(cfg)
	lambda.Start(func(ctx context.Context, event events.APIGatewayV2HTTPRequest) (events.APIGatewayV2HTTPResponse, error) {
		if event.RawPath == "/user-keys" {
			item, err := documents.GetItem(ctx, &dynamodb.GetItemInput{
				TableName: aws.String("latchkey"),
				Key:       map[string]types.AttributeValue{"pk": &types.AttributeValueMemberS{Value: event.RawQueryString}},
			})
			if err != nil {
				return events.APIGatewayV2HTTPResponse{}, err
			}
			wrapped, _ := item.Item["body"].(*types.AttributeValueMemberB)
			if wrapped == nil {
				return events.APIGatewayV2HTTPResponse{StatusCode: 404}, nil
			}
			if _, err := keys.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: wrapped.Value}); err != nil {
				return events.APIGatewayV2HTTPResponse{}, err
			}
		}
		return events.APIGatewayV2HTTPResponse{StatusCode: 200}, nil
	})
}
