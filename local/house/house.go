// Package house puts functions together with whichever providers the settings
// choose. It links all of them, so it is for the latchkey command and the
// tests; a function's own main links what its cloud needs.
package house

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/latchkey-fn/latchkey/functions/keyconnector"
	"github.com/latchkey-fn/latchkey/providers/awsconfig"
	"github.com/latchkey-fn/latchkey/providers/awsconfig/chain"
	"github.com/latchkey-fn/latchkey/providers/keys/awskms"
	"github.com/latchkey-fn/latchkey/providers/keys/certificate"
	"github.com/latchkey-fn/latchkey/providers/keys/pkcs11"
	"github.com/latchkey-fn/latchkey/providers/keys/software"
	"github.com/latchkey-fn/latchkey/providers/stores/dynamodb"
	"github.com/latchkey-fn/latchkey/providers/stores/jsonfile"
	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/providers/stores/sqlite"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/kms"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// OpenStore opens the store that the settings choose.
func OpenStore(ctx context.Context, c config.Store, a config.AWS) (store.Driver, error) {
	switch c.Kind {
	case config.StoreSQLite:
		return sqlite.Open(ctx, c.SQLitePath)
	case config.StoreJSON:
		return jsonfile.Open(c.JSONPath)
	case config.StoreMemory:
		return memory.New(), nil
	case config.StoreDynamoDB:
		cfg, err := loadAWS(ctx, a)
		if err != nil {
			return nil, err
		}
		return dynamodb.New(cfg, dynamodb.Config{Table: c.DynamoDBTable, Endpoint: c.DynamoDBEndpoint}), nil
	default:
		return nil, fmt.Errorf("%w: no store %q", fault.Invalid, c.Kind)
	}
}

// OpenKey opens the key that the settings choose. What an HSM's library prints
// goes to the logger.
func OpenKey(ctx context.Context, c config.Keys, a config.AWS, logger *slog.Logger) (kms.Unwrapper, error) {
	switch c.Kind {
	case config.KeysSoftware:
		key, err := software.Open(c.SoftwareKeyPath)
		if err != nil {
			return nil, err
		}
		logger.WarnContext(ctx, key.Warning())
		return key, nil
	case config.KeysCertificate:
		return certificate.Open(certificate.Config{Path: c.CertificatePath, Password: c.CertificatePassword.Reveal()})
	case config.KeysAWSKMS:
		cfg, err := loadAWS(ctx, a)
		if err != nil {
			return nil, err
		}
		return awskms.New(cfg, awskms.Config{KeyID: c.AWSKMSKeyID, Endpoint: c.AWSKMSEndpoint, Symmetric: c.AWSKMSSymmetric}), nil
	case config.KeysPKCS11:
		return openPKCS11(c, logger)
	default:
		return nil, fmt.Errorf("%w: no key provider %q", fault.Invalid, c.Kind)
	}
}

func openPKCS11(c config.Keys, logger *slog.Logger) (kms.Unwrapper, error) {
	id, err := c.PKCS11KeyIDBytes()
	if err != nil {
		return nil, err
	}
	var public *rsa.PublicKey
	if c.CertificatePath != "" {
		public, err = certificate.PublicKey(certificate.Config{Path: c.CertificatePath, Password: c.CertificatePassword.Reveal()})
		if err != nil {
			return nil, err
		}
	}
	return pkcs11.Open(pkcs11.Config{
		Helper: c.PKCS11Helper, Library: c.PKCS11Library, InitArgs: c.PKCS11InitArgs,
		TokenSerial: c.PKCS11TokenSerial, TokenLabel: c.PKCS11TokenLabel,
		UserType: c.PKCS11UserType, PIN: pkcs11.PIN(c.PKCS11PIN.Reveal()),
		KeyLabel: c.PKCS11KeyLabel, KeyID: id, Public: public, OAEP: c.PKCS11OAEPHash,
		Log: logger,
	})
}

func loadAWS(ctx context.Context, a config.AWS) (aws.Config, error) {
	return chain.Load(ctx, awsconfig.Config{
		Region: a.Region, AccessKeyID: a.AccessKeyID, SecretAccessKey: a.SecretAccessKey.Reveal(),
	})
}

// Settings choose the outside systems.
type Settings struct {
	Store config.Store
	AWS   config.AWS
	// Keys and Previous may be of no kind: then there is none.
	Keys     config.Keys
	Previous config.Keys
}

// LoadPart reads some of the functions' settings, for a command that runs in
// their environment and needs no more of it: what only others read is not warned
// of. The aliases are further names of the settings.
func LoadPart(into any, environment map[string]string, aliases []config.Alias) error {
	_, err := config.Load(into, config.Source{Environment: environment, Aliases: aliases})
	return err
}

// Parts are the outside systems, open. Several functions can stand on them.
type Parts struct {
	Closers
	Store    store.Driver
	Key      kms.Unwrapper
	Previous []kms.Unwrapper
}

// Open opens the store, and the keys where the settings have any.
func Open(ctx context.Context, s Settings, logger *slog.Logger) (_ *Parts, err error) {
	p := &Parts{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if p.Store, err = OpenStore(ctx, s.Store, s.AWS); err != nil {
		return nil, err
	}
	p.Add(p.Store)
	if s.Keys.Kind != "" {
		if p.Key, err = OpenKey(ctx, s.Keys, s.AWS, logger); err != nil {
			return nil, err
		}
		p.Add(p.Key)
	}
	if s.Previous.Kind != "" {
		previous, err := OpenKey(ctx, s.Previous, s.AWS, logger)
		if err != nil {
			return nil, err
		}
		p.Add(previous)
		p.Previous = []kms.Unwrapper{previous}
	}
	return p, nil
}

// KeyConnector is the function with what it stands on.
type KeyConnector struct {
	*keyconnector.Function
	*Parts
}

// OpenKeyConnector opens store and keys and puts the function on them.
func OpenKeyConnector(ctx context.Context, c keyconnector.Config, logger *slog.Logger) (*KeyConnector, error) {
	parts, err := Open(ctx, Settings{Store: c.Store, AWS: c.AWS, Keys: c.Keys, Previous: c.Previous}, logger)
	if err != nil {
		return nil, err
	}
	function, err := keyconnector.New(c, keyconnector.Parts{Store: parts.Store, Key: parts.Key, Previous: parts.Previous, Logger: logger})
	if err != nil {
		return nil, errors.Join(err, parts.Close())
	}
	return &KeyConnector{function, parts}, nil
}
