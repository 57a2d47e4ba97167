package awskms

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
)

// describe finds out what the key is. GetPublicKey is asked first, unless the
// key is said to be symmetric. It is refused to a symmetric key, or, to a role
// that was given only the rights that a symmetric key needs, in general.
func (k *Key) describe(ctx context.Context) (kms.Description, error) {
	if k.name.configured == "" {
		return kms.Description{}, fmt.Errorf("%w: no AWS KMS key is configured: give its id, ARN or alias", fault.Invalid)
	}
	if aws.ToBool(k.symmetric) {
		return k.describeSymmetric(ctx)
	}
	answer, err := k.client.GetPublicKey(ctx, &sdk.GetPublicKeyInput{KeyId: aws.String(k.name.configured)})
	if err == nil {
		return k.describeRSA(answer)
	}
	explained := k.explain("kms:GetPublicKey", err)
	api, _ := errors.AsType[smithy.APIError](err)
	switch {
	case api == nil:
		return kms.Description{}, explained
	case api.ErrorCode() == "UnsupportedOperationException":
		if k.symmetric != nil {
			return kms.Description{}, fmt.Errorf("%w: %s has no public half, but the configuration says that it is not symmetric: correct the setting or the key", fault.Invalid, k.name)
		}
		return k.describeSymmetric(ctx)
	case api.ErrorCode() == "AccessDeniedException" && k.symmetric == nil:
		// Of an RSA key we cannot go on without its public half.
		d, err := k.describeSymmetric(ctx)
		if err == nil {
			return d, nil
		}
		explained = fmt.Errorf("%w; and: %w", explained, err)
	}
	return kms.Description{}, explained
}

func (k *Key) describeRSA(answer *sdk.GetPublicKeyOutput) (kms.Description, error) {
	if err := k.usable(answer.KeySpec, answer.KeyUsage); err != nil {
		return kms.Description{}, err
	}
	if offered := answer.EncryptionAlgorithms; len(offered) > 0 && !slices.Contains(offered, types.EncryptionAlgorithmSpecRsaesOaepSha256) {
		return kms.Description{}, fmt.Errorf("%w: %s does not offer %s", fault.Unsupported, k.name, types.EncryptionAlgorithmSpecRsaesOaepSha256)
	}
	parsed, err := x509.ParsePKIXPublicKey(answer.PublicKey)
	if err != nil {
		return kms.Description{}, fmt.Errorf("%w: the public half of %s: %w", fault.Invalid, k.name, err)
	}
	public, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return kms.Description{}, fmt.Errorf("%w: the public half of %s is not of an RSA key", fault.Invalid, k.name)
	}
	if err := kms.CheckRSA(public); err != nil {
		return kms.Description{}, fmt.Errorf("%s: %w", k.name, err)
	}
	version, err := kms.PublicVersion(public)
	if err != nil {
		return kms.Description{}, err
	}
	return k.description(answer.KeyId, version, public, kms.RSAOAEP256)
}

func (k *Key) describeSymmetric(ctx context.Context) (kms.Description, error) {
	answer, err := k.client.DescribeKey(ctx, &sdk.DescribeKeyInput{KeyId: aws.String(k.name.configured)})
	if err != nil {
		return kms.Description{}, k.explain("kms:DescribeKey", err)
	}
	key := answer.KeyMetadata
	if key == nil {
		return kms.Description{}, fmt.Errorf("%w: AWS KMS described %s with an empty answer", fault.Transient, k.name)
	}
	if k.symmetric != nil && key.KeySpec != types.KeySpecSymmetricDefault {
		return kms.Description{}, fmt.Errorf("%w: %s is %s, but the configuration says that it is symmetric: correct the setting or the key", fault.Invalid, k.name, key.KeySpec)
	}
	if err := k.usable(key.KeySpec, key.KeyUsage); err != nil {
		return kms.Description{}, err
	}
	if key.KeySpec != types.KeySpecSymmetricDefault {
		return kms.Description{}, fmt.Errorf("%w: %s is %s and its public half was not given", fault.Invalid, k.name, key.KeySpec)
	}
	switch key.KeyState {
	case types.KeyStateEnabled:
	case types.KeyStateCreating, types.KeyStateUpdating, types.KeyStateUnavailable:
		return kms.Description{}, fmt.Errorf("%w: %s is in state %s", fault.Transient, k.name, key.KeyState)
	default:
		return kms.Description{}, fmt.Errorf("%w: %s is in state %s: enable it, or cancel its deletion", fault.Invalid, k.name, key.KeyState)
	}
	return k.description(key.Arn, "", nil, kms.Symmetric)
}

// usable refuses a key that was made for something else.
func (k *Key) usable(spec types.KeySpec, usage types.KeyUsageType) error {
	usable := []types.KeySpec{types.KeySpecRsa2048, types.KeySpecRsa3072, types.KeySpecRsa4096, types.KeySpecSymmetricDefault}
	if usage != types.KeyUsageTypeEncryptDecrypt || !slices.Contains(usable, spec) {
		return fmt.Errorf("%w: %s is %s for %s; use an RSA or symmetric key for %s", fault.Invalid, k.name, spec, usage, types.KeyUsageTypeEncryptDecrypt)
	}
	return nil
}

// description takes the ARN as KMS tells it. One that would not be taken for
// ours when something has to be unwrapped is refused now.
func (k *Key) description(arn *string, version string, public *rsa.PublicKey, wrap kms.Algorithm) (kms.Description, error) {
	id, ours := k.name.matches(aws.ToString(arn))
	if !ours || id != aws.ToString(arn) {
		return kms.Description{}, fmt.Errorf("%w: AWS KMS was asked in region %s for %s and answers with %q", fault.Invalid, k.name.region, k.name, aws.ToString(arn))
	}
	return kms.Description{Ref: kms.Ref{Provider: provider, ID: id, Version: version}, Public: public, Wrap: wrap}, nil
}
