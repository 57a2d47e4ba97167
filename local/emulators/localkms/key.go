package localkms

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// EnsureKey gives the ARN of the key behind an alias, and makes both where they
// are not there: an RSA-2048 key that encrypts, as the template's is in kind.
func (s *Server) EnsureKey(ctx context.Context, alias string) (arn string, err error) {
	client := kms.New(kms.Options{
		Region: Region, BaseEndpoint: aws.String(s.URL),
		Credentials: credentials.NewStaticCredentialsProvider("local", "local", ""),
	})
	found, err := client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(alias)})
	if err == nil {
		return aws.ToString(found.KeyMetadata.Arn), nil
	}
	if missing := (*types.NotFoundException)(nil); !errors.As(err, &missing) {
		return "", fmt.Errorf("describe %s: %w", alias, err)
	}
	made, err := client.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt})
	if err != nil {
		return "", fmt.Errorf("create a key: %w", err)
	}
	_, err = client.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String(alias), TargetKeyId: made.KeyMetadata.KeyId})
	if err != nil {
		return "", fmt.Errorf("create %s: %w", alias, err)
	}
	return aws.ToString(made.KeyMetadata.Arn), nil
}
