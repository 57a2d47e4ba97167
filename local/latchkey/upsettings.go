package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/latchkey-fn/latchkey/functions/keyconnector"
	"github.com/latchkey-fn/latchkey/local/emulators/localkms"
	"github.com/latchkey-fn/latchkey/local/emulators/minidyn"
	"github.com/latchkey-fn/latchkey/local/emulators/softhsm"
	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/providers/stores/dynamodb"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// upSettings are the settings of all functions of `latchkey up`, read and as the
// environment that the Lambda binaries read them from.
type upSettings struct {
	environment map[string]string
	// billing is the environment with what only Billing sync is told.
	billing map[string]string

	keyConnector   keyconnector.Config
	secretsManager house.SecretsManager
	billingSync    house.BillingSync
}

func loadUp(environment map[string]string, cloud *emulatedCloud) (upSettings, error) {
	s := upSettings{environment: environment, billing: maps.Clone(environment)}
	maps.Copy(s.billing, cloud.settings())
	var faults [3]error
	s.keyConnector, _, faults[0] = keyconnector.LoadConfig(s.environment)
	s.secretsManager, _, faults[1] = house.LoadSecretsManager(s.environment)
	s.billingSync, _, faults[2] = house.LoadBillingSync(s.billing)
	return s, house.JoinOnce(faults[:]...)
}

// environment makes the settings that the functions are started with: the same
// names as on a server.
func (f upFlags) environment(ctx context.Context, parts *house.Closers, base string) (map[string]string, error) {
	e := map[string]string{
		"LATCHKEY_STORE":             f.store,
		"LATCHKEY_KEYS":              f.keys,
		"LATCHKEY_IDENTITY_URL":      base + identityPrefix,
		"LATCHKEY_WEB_VAULT_ORIGINS": base,
		"LATCHKEY_PATH_PREFIX":       upPrefix,
		"LATCHKEY_PUBLIC_URL":        base,
		// Nothing outside of this machine is called; the emulators take any
		// credentials.
		"LATCHKEY_AWS_REGION":            localkms.Region,
		"LATCHKEY_AWS_ACCESS_KEY_ID":     "local",
		"LATCHKEY_AWS_SECRET_ACCESS_KEY": "local",
	}
	switch f.store {
	case config.StoreSQLite:
		e["LATCHKEY_SQLITE_PATH"] = filepath.Join(f.data, "latchkey.db")
	case config.StoreJSON:
		e["LATCHKEY_JSON_PATH"] = filepath.Join(f.data, "latchkey.json")
	case config.StoreDynamoDB:
		server, err := minidyn.Start()
		if err != nil {
			return nil, fmt.Errorf("start the DynamoDB emulator: %w", err)
		}
		parts.Add(server)
		e["LATCHKEY_DYNAMODB_TABLE"], e["LATCHKEY_DYNAMODB_ENDPOINT"] = "latchkey", server.URL
		if err := createTable(ctx, e); err != nil {
			return nil, err
		}
	case config.StoreMemory:
	default:
		return nil, fmt.Errorf("%w: --store %s: choose sqlite, json, dynamodb or memory", errUsage, f.store)
	}
	switch f.keys {
	case config.KeysSoftware:
		e["LATCHKEY_SOFTWARE_KEY_PATH"] = filepath.Join(f.data, "software-key.pem")
	case config.KeysAWSKMS:
		server, err := localkms.Start(filepath.Join(f.data, "kms"))
		if err != nil {
			return nil, fmt.Errorf("start the KMS emulator: %w", err)
		}
		parts.Add(server)
		key, err := server.EnsureKey(ctx, "alias/latchkey")
		if err != nil {
			return nil, fmt.Errorf("make a key in the KMS emulator: %w", err)
		}
		e["LATCHKEY_AWSKMS_KEY_ID"], e["LATCHKEY_AWSKMS_ENDPOINT"] = key, server.URL
	case keysSoftHSM:
		token, err := softhsm.Create(ctx, filepath.Join(f.data, "softhsm"))
		if err != nil {
			return nil, err
		}
		e["LATCHKEY_KEYS"] = config.KeysPKCS11
		e["LATCHKEY_PKCS11_LIBRARY"], e["LATCHKEY_PKCS11_TOKEN_LABEL"] = token.Library, token.Label
		e["LATCHKEY_PKCS11_PIN"], e["LATCHKEY_PKCS11_KEY_LABEL"] = token.PIN, token.KeyLabel
		for _, variable := range token.Env {
			name, value, _ := strings.Cut(variable, "=")
			if err := os.Setenv(name, value); err != nil { // the helper inherits it
				return nil, err
			}
		}
	default:
		return nil, fmt.Errorf("%w: --keys %s: choose software, softhsm or awskms", errUsage, f.keys)
	}
	return e, nil
}

func createTable(ctx context.Context, environment map[string]string) error {
	var s storeSettings
	if err := house.LoadPart(&s, environment, nil); err != nil {
		return err
	}
	driver, err := house.OpenStore(ctx, s.Store, s.AWS)
	if err != nil {
		return err
	}
	table, ok := driver.(*dynamodb.Store)
	if !ok {
		return fmt.Errorf("%w: the store is a %T, not DynamoDB", fault.Unsupported, driver)
	}
	return errors.Join(table.CreateTable(ctx), table.Close())
}
