package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// tables is what CreateTable needs of the service.
type tables interface {
	CreateTable(context.Context, *dynamodb.CreateTableInput, ...func(*dynamodb.Options)) (*dynamodb.CreateTableOutput, error)
	DescribeTable(context.Context, *dynamodb.DescribeTableInput, ...func(*dynamodb.Options)) (*dynamodb.DescribeTableOutput, error)
	DescribeTimeToLive(context.Context, *dynamodb.DescribeTimeToLiveInput, ...func(*dynamodb.Options)) (*dynamodb.DescribeTimeToLiveOutput, error)
	UpdateTimeToLive(context.Context, *dynamodb.UpdateTimeToLiveInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateTimeToLiveOutput, error)
	UpdateContinuousBackups(context.Context, *dynamodb.UpdateContinuousBackupsInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateContinuousBackupsOutput, error)
}

// activeWithin bounds how long a new table takes to become usable: seconds.
const activeWithin = 2 * time.Minute

// CreateTable makes the table unless it exists: billed per request, protected
// from deletion, with time to live and point-in-time recovery where the
// service has them (emulators do not). It is for emulators and first trials;
// infra/aws has the template of a production table. Safe to repeat.
func (s *Store) CreateTable(ctx context.Context) error {
	_, err := s.tables.CreateTable(ctx, &dynamodb.CreateTableInput{
		TableName:                 aws.String(s.table),
		BillingMode:               types.BillingModePayPerRequest,
		DeletionProtectionEnabled: aws.Bool(true),
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: aws.String(partitionKey), AttributeType: types.ScalarAttributeTypeS},
			{AttributeName: aws.String(sortKey), AttributeType: types.ScalarAttributeTypeS},
		},
		KeySchema: keySchema(),
	})
	if _, exists := errors.AsType[*types.ResourceInUseException](err); err != nil && !exists {
		return s.explain("create", err)
	}
	if err := s.waitUntilActive(ctx); err != nil {
		return err
	}
	if err := s.enableTimeToLive(ctx); err != nil {
		return s.explain("enable time to live", err)
	}
	if err := s.enableRecovery(ctx); err != nil {
		return s.explain("enable point-in-time recovery", err)
	}
	return nil
}

func keySchema() []types.KeySchemaElement {
	return []types.KeySchemaElement{
		{AttributeName: aws.String(partitionKey), KeyType: types.KeyTypeHash},
		{AttributeName: aws.String(sortKey), KeyType: types.KeyTypeRange},
	}
}

func (s *Store) waitUntilActive(ctx context.Context) error {
	waiter := dynamodb.NewTableExistsWaiter(s.tables, func(o *dynamodb.TableExistsWaiterOptions) {
		o.MinDelay, o.MaxDelay = 250*time.Millisecond, 5*time.Second
	})
	found, err := waiter.WaitForOutput(ctx, &dynamodb.DescribeTableInput{TableName: aws.String(s.table)}, activeWithin)
	if err != nil {
		return s.explain("wait for the creation", err)
	}
	want := keySchema()
	got := found.Table.KeySchema
	for i := range want {
		if len(got) != len(want) || aws.ToString(got[i].AttributeName) != aws.ToString(want[i].AttributeName) || got[i].KeyType != want[i].KeyType {
			return fmt.Errorf("%w: DynamoDB table %s exists with other keys than %s and %s: choose another name", fault.Invalid, s.table, partitionKey, sortKey)
		}
	}
	return nil
}

func (s *Store) enableTimeToLive(ctx context.Context) error {
	found, err := s.tables.DescribeTimeToLive(ctx, &dynamodb.DescribeTimeToLiveInput{TableName: aws.String(s.table)})
	if err != nil {
		return ignoreUnknown(err)
	}
	if d := found.TimeToLiveDescription; d != nil && aws.ToString(d.AttributeName) == expiresAttribute &&
		(d.TimeToLiveStatus == types.TimeToLiveStatusEnabled || d.TimeToLiveStatus == types.TimeToLiveStatusEnabling) {
		return nil
	}
	_, err = s.tables.UpdateTimeToLive(ctx, &dynamodb.UpdateTimeToLiveInput{
		TableName:               aws.String(s.table),
		TimeToLiveSpecification: &types.TimeToLiveSpecification{AttributeName: aws.String(expiresAttribute), Enabled: aws.Bool(true)},
	})
	return ignoreUnknown(err)
}

// enableRecovery repeats itself while the service is still making the table's
// backups available.
func (s *Store) enableRecovery(ctx context.Context) error {
	for wait := newWait(); ; {
		_, err := s.tables.UpdateContinuousBackups(ctx, &dynamodb.UpdateContinuousBackupsInput{
			TableName:                        aws.String(s.table),
			PointInTimeRecoverySpecification: &types.PointInTimeRecoverySpecification{PointInTimeRecoveryEnabled: aws.Bool(true)},
		})
		if _, unavailable := errors.AsType[*types.ContinuousBackupsUnavailableException](err); !unavailable {
			return ignoreUnknown(err)
		}
		if ended := wait.next(ctx, "the table is still being made"); ended != nil {
			return errors.Join(err, ended)
		}
	}
}

// ignoreUnknown forgives an emulator an operation that it does not have.
func ignoreUnknown(err error) error {
	if api, ok := errors.AsType[smithy.APIError](err); ok && api.ErrorCode() == "UnknownOperationException" {
		return nil
	}
	return err
}
