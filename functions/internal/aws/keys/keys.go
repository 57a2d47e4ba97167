// Package keys opens the KMS keys of a function on AWS Lambda.
package keys

import (
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/latchkey-fn/latchkey/providers/keys/awskms"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
)

// Open opens the KMS key of the settings and the one before it, if there is
// one, and refuses any other provider.
func Open(account aws.Config, current, previous config.Keys) (kms.Unwrapper, []kms.Unwrapper, error) {
	open := func(variable string, k config.Keys) (kms.Unwrapper, error) {
		if k.Kind != config.KeysAWSKMS {
			return nil, fmt.Errorf("%w: %s%s=%s: this binary has %s only", fault.Invalid, config.Prefix, variable, k.Kind, config.KeysAWSKMS)
		}
		return awskms.New(account, awskms.Config{KeyID: k.AWSKMSKeyID, Endpoint: k.AWSKMSEndpoint, Symmetric: k.AWSKMSSymmetric}), nil
	}
	key, err := open("KEYS", current)
	if previous.Kind == "" {
		return key, nil, err
	}
	before, previousErr := open("PREVIOUS_KEYS", previous)
	return key, []kms.Unwrapper{before}, errors.Join(err, previousErr)
}
