package keyconnector

import (
	"fmt"
	"slices"
	"strings"

	"github.com/latchkey-fn/latchkey/shared/config"
)

// officialPrefix begins the names of the official Key Connector's settings.
const officialPrefix = "keyConnectorSettings__"

// officialNames are those settings, so that an existing
// key-connector.override.env works as it is. What cannot work says so instead
// of being passed over.
var officialNames = []config.Alias{
	official("webVaultUri", "WEB_VAULT_ORIGINS"),
	official("identityServerUri", "IDENTITY_URL"),

	translated("database__provider", "STORE", databaseProvider),
	official("database__jsonFilePath", "JSON_PATH"),
	translated("database__sqliteConnectionString", "SQLITE_PATH", sqlitePath),
	unavailable("database__sqlServerConnectionString", "SQL Server"),
	unavailable("database__postgreSqlConnectionString", "PostgreSQL"),
	unavailable("database__mySqlConnectionString", "MySQL"),
	unavailable("database__mongoConnectionString", "MongoDB"),
	unavailable("database__mongoDatabaseName", "MongoDB"),

	translated("rsaKey__provider", "KEYS", rsaKeyProvider),
	official("rsaKey__awsAccessKeyId", "AWS_ACCESS_KEY_ID"),
	official("rsaKey__awsAccessKeySecret", "AWS_SECRET_ACCESS_KEY"),
	official("rsaKey__awsRegion", "AWS_REGION"),
	official("rsaKey__awsKeyId", "AWSKMS_KEY_ID"),
	official("rsaKey__awsUseSymmetricEncryption", "AWSKMS_SYMMETRIC"),
	official("rsaKey__pkcs11Provider", "PKCS11_LIBRARY"),
	official("rsaKey__pkcs11LibraryPath", "PKCS11_LIBRARY"),
	official("rsaKey__pkcs11SlotTokenSerialNumber", "PKCS11_TOKEN_SERIAL"),
	translated("rsaKey__pkcs11LoginUserType", "PKCS11_USER_TYPE", lowerCase),
	official("rsaKey__pkcs11LoginPin", "PKCS11_PIN"),
	official("rsaKey__pkcs11PrivateKeyLabel", "PKCS11_KEY_LABEL"),
	official("rsaKey__pkcs11PrivateKeyId", "PKCS11_KEY_ID"),

	translated("certificate__provider", "", certificateProvider),
	official("certificate__filesystemPath", "CERTIFICATE_PATH"),
	official("certificate__filesystemPassword", "CERTIFICATE_PASSWORD"),
}

// OfficialNames are those of the official Key Connector's settings that have a
// meaning here.
func OfficialNames() []config.Alias { return slices.Clone(officialNames) }

func official(name, to string) config.Alias {
	return config.Alias{Name: officialPrefix + name, To: to}
}

func translated(name, to string, value func(string) (string, error)) config.Alias {
	return config.Alias{Name: officialPrefix + name, To: to, Value: value}
}

func unavailable(name, what string) config.Alias {
	return translated(name, "", func(string) (string, error) {
		return "", fmt.Errorf("this build has no store for %s; use sqlite, json or dynamodb", what)
	})
}

func lowerCase(value string) (string, error) { return strings.ToLower(value), nil }

func databaseProvider(value string) (string, error) {
	switch provider := strings.ToLower(value); provider {
	case config.StoreJSON, config.StoreSQLite:
		return provider, nil
	default:
		return "", fmt.Errorf("this build has no store for %q; use sqlite, json or dynamodb", value)
	}
}

func rsaKeyProvider(value string) (string, error) {
	switch provider := strings.ToLower(value); provider {
	case config.KeysCertificate, config.KeysAWSKMS, config.KeysPKCS11:
		return provider, nil
	default:
		return "", fmt.Errorf("this build has no key provider %q; use certificate, awskms or pkcs11", value)
	}
}

func certificateProvider(value string) (string, error) {
	if strings.EqualFold(value, "filesystem") {
		return "", nil
	}
	return "", fmt.Errorf("certificates are read from the file system only, not from %q; use filesystem", value)
}

// sqlitePath takes the path out of an ADO.NET connection string.
func sqlitePath(value string) (string, error) {
	for part := range strings.SplitSeq(value, ";") {
		name, path, found := strings.Cut(part, "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "data source", "datasource", "filename":
			if path = strings.TrimSpace(path); found && path != "" {
				return path, nil
			}
		}
	}
	if strings.Contains(value, "=") {
		return "", fmt.Errorf("it names no file: write it as Data Source=/path/of/file.db")
	}
	return value, nil
}
