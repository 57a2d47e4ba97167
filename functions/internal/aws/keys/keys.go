// Package keys opens what a function with a KMS key needs of AWS.
package keys

import (
	"errors"
	"fmt"

	sdk "github.com/aws/aws-sdk-go-v2/aws"

	"github.com/latchkey-fn/latchkey/functions/internal/aws"
	"github.com/latchkey-fn/latchkey/providers/keys/awskms"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// Parts are the outside systems of such a function.
type Parts struct {
	Account  sdk.Config
	Store    store.Driver
	Key      kms.Unwrapper
	Previous []kms.Unwrapper
}

// Open opens the DynamoDB table, the KMS key of the settings and the one before
// it, if there is one, and refuses any other store and provider.
func Open(c config.AWS, s config.Store, w config.Wrapping) (Parts, error) {
	account, documents, storeErr := aws.Open(c, s)
	open := func(variable string, k config.Keys) (kms.Unwrapper, error) {
		if k.Kind != config.KeysAWSKMS {
			return nil, fmt.Errorf("%w: %s%s=%s: this binary has %s only", fault.Invalid, config.Prefix, variable, k.Kind, config.KeysAWSKMS)
		}
		return awskms.New(account, awskms.Config{KeyID: k.AWSKMSKeyID, Endpoint: k.AWSKMSEndpoint, Symmetric: k.AWSKMSSymmetric}), nil
	}
	parts := Parts{Account: account, Store: documents}
	var keyErr, previousErr error
	parts.Key, keyErr = open("KEYS", w.Keys)
	if w.HasPrevious() {
		parts.Previous = make([]kms.Unwrapper, 1)
		parts.Previous[0], previousErr = open("PREVIOUS_KEYS", w.Previous)
	}
	return parts, errors.Join(storeErr, keyErr, previousErr)
}
