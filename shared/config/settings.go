package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Store chooses where documents are kept. There is no default: a server that
// starts over an empty store by mistake looks as if every key were lost.
type Store struct {
	// Kind is sqlite, json, dynamodb or memory. Where it is left out, a JSON
	// file's path chooses json, as in the official settings.
	Kind             string `env:"STORE"`
	SQLitePath       string `env:"SQLITE_PATH"`
	JSONPath         string `env:"JSON_PATH"`
	DynamoDBTable    string `env:"DYNAMODB_TABLE"`
	DynamoDBEndpoint string `env:"DYNAMODB_ENDPOINT"`
}

// Kinds of stores.
const (
	StoreSQLite   = "sqlite"
	StoreJSON     = "json"
	StoreDynamoDB = "dynamodb"
	StoreMemory   = "memory"
)

// Validate implements Validator.
func (s *Store) Validate() error {
	if s.Kind == "" && s.JSONPath != "" {
		s.Kind = StoreJSON
	}
	switch s.Kind {
	case StoreSQLite:
		return needs(Prefix+"STORE=sqlite", setting{"SQLITE_PATH", s.SQLitePath})
	case StoreJSON:
		return needs(Prefix+"STORE=json", setting{"JSON_PATH", s.JSONPath})
	case StoreDynamoDB:
		return errors.Join(needs(Prefix+"STORE=dynamodb", setting{"DYNAMODB_TABLE", s.DynamoDBTable}),
			webAddress("DYNAMODB_ENDPOINT", s.DynamoDBEndpoint))
	case StoreMemory:
		return nil
	case "":
		return fmt.Errorf("%sSTORE is not set: choose sqlite, json, dynamodb or memory", Prefix)
	default:
		return fmt.Errorf("%sSTORE=%s: there is no such store; choose sqlite, json, dynamodb or memory", Prefix, s.Kind)
	}
}

// Keys chooses the key that data keys are wrapped under. There is no default
// either.
type Keys struct {
	// Kind is software, certificate, awskms or pkcs11.
	Kind                string `env:"KEYS"`
	SoftwareKeyPath     string `env:"SOFTWARE_KEY_PATH"`
	CertificatePath     string `env:"CERTIFICATE_PATH"`
	CertificatePassword Secret `env:"CERTIFICATE_PASSWORD"`
	AWSKMSKeyID         string `env:"AWSKMS_KEY_ID"`
	AWSKMSEndpoint      string `env:"AWSKMS_ENDPOINT"`
	// AWSKMSSymmetric only confirms what KMS says of the key.
	AWSKMSSymmetric   *bool  `env:"AWSKMS_SYMMETRIC"`
	PKCS11Library     string `env:"PKCS11_LIBRARY"`
	PKCS11TokenSerial string `env:"PKCS11_TOKEN_SERIAL"`
	PKCS11TokenLabel  string `env:"PKCS11_TOKEN_LABEL"`
	PKCS11UserType    string `env:"PKCS11_USER_TYPE" envDefault:"user"`
	PKCS11PIN         Secret `env:"PKCS11_PIN"`
	PKCS11KeyLabel    string `env:"PKCS11_KEY_LABEL"`
	// PKCS11KeyID is CKA_ID in hex.
	PKCS11KeyID    string `env:"PKCS11_KEY_ID"`
	PKCS11OAEPHash string `env:"PKCS11_OAEP_HASH"`
	PKCS11Helper   string `env:"PKCS11_HELPER"`
	// PKCS11InitArgs is the reserved string some libraries want (NSS).
	PKCS11InitArgs string `env:"PKCS11_INIT_ARGS"`
}

// Kinds of keys.
const (
	KeysSoftware    = "software"
	KeysCertificate = "certificate"
	KeysAWSKMS      = "awskms"
	KeysPKCS11      = "pkcs11"
)

// Validate implements Validator.
func (k Keys) Validate() error {
	switch k.Kind {
	case KeysSoftware:
		return needs(Prefix+"KEYS=software", setting{"SOFTWARE_KEY_PATH", k.SoftwareKeyPath})
	case KeysCertificate:
		return needs(Prefix+"KEYS=certificate", setting{"CERTIFICATE_PATH", k.CertificatePath})
	case KeysAWSKMS:
		return errors.Join(needs(Prefix+"KEYS=awskms", setting{"AWSKMS_KEY_ID", k.AWSKMSKeyID}),
			webAddress("AWSKMS_ENDPOINT", k.AWSKMSEndpoint))
	case KeysPKCS11:
		return errors.Join(needs(Prefix+"KEYS=pkcs11", setting{"PKCS11_LIBRARY", k.PKCS11Library},
			setting{"PKCS11_PIN", k.PKCS11PIN.Reveal()}), k.validatePKCS11())
	case "":
		return fmt.Errorf("%sKEYS is not set: choose awskms, pkcs11, certificate or (for development) software", Prefix)
	default:
		return fmt.Errorf("%sKEYS=%s: there is no such key provider; choose awskms, pkcs11, certificate or software", Prefix, k.Kind)
	}
}

func (k Keys) validatePKCS11() error {
	var faults []error
	if (k.PKCS11KeyLabel == "") == (k.PKCS11KeyID == "") {
		faults = append(faults, fmt.Errorf("give one of %[1]sPKCS11_KEY_LABEL and %[1]sPKCS11_KEY_ID, to name the private key", Prefix))
	}
	if k.PKCS11TokenSerial != "" && k.PKCS11TokenLabel != "" {
		faults = append(faults, fmt.Errorf("give one of %[1]sPKCS11_TOKEN_SERIAL and %[1]sPKCS11_TOKEN_LABEL, or none where there is one token", Prefix))
	}
	if !slices.Contains([]string{"user", "so", "context_specific"}, k.PKCS11UserType) {
		faults = append(faults, fmt.Errorf("%sPKCS11_USER_TYPE=%s: choose user, so or context_specific", Prefix, k.PKCS11UserType))
	}
	if !slices.Contains([]string{"", "sha1", "sha256"}, k.PKCS11OAEPHash) {
		faults = append(faults, fmt.Errorf("%sPKCS11_OAEP_HASH=%s: choose sha1 or sha256, or leave it out to have it tried", Prefix, k.PKCS11OAEPHash))
	}
	_, err := k.PKCS11KeyIDBytes()
	return errors.Join(append(faults, err)...)
}

// PKCS11KeyIDBytes reads the CKA_ID, in hex as pkcs11-tool shows it. A leading
// zero may be missing, and colons or 0x may be there.
func (k Keys) PKCS11KeyIDBytes() ([]byte, error) {
	digits := strings.ReplaceAll(strings.TrimPrefix(k.PKCS11KeyID, "0x"), ":", "")
	if len(digits)%2 != 0 {
		digits = "0" + digits
	}
	id, err := hex.DecodeString(digits)
	if err != nil {
		return nil, fmt.Errorf("%sPKCS11_KEY_ID=%s is not hex, such as 01a2", Prefix, k.PKCS11KeyID)
	}
	return id, nil
}

// ValidatePrevious is Validate for the key before, which there need not be.
func (k Keys) ValidatePrevious() error {
	if k.Kind == "" {
		return nil
	}
	if err := k.Validate(); err != nil {
		return fmt.Errorf("the previous key, whose names begin with %sPREVIOUS_: %w", Prefix, err)
	}
	return nil
}

// AWS says how to reach AWS; all empty means the SDK's default chain.
type AWS struct {
	Region          string `env:"AWS_REGION"`
	AccessKeyID     string `env:"AWS_ACCESS_KEY_ID"`
	SecretAccessKey Secret `env:"AWS_SECRET_ACCESS_KEY"`
}

// Validate implements Validator.
func (a AWS) Validate() error {
	if (a.AccessKeyID == "") != (a.SecretAccessKey == "") {
		return fmt.Errorf("%[1]sAWS_ACCESS_KEY_ID and %[1]sAWS_SECRET_ACCESS_KEY go together: give both, or neither for the default credential chain", Prefix)
	}
	return nil
}

// Identity says whose tokens are accepted.
type Identity struct {
	// URL is the base of the identity server; its discovery document is below
	// it.
	URL string `env:"IDENTITY_URL"`
	// Issuer overrides the issuer of the discovery document.
	Issuer string `env:"IDENTITY_ISSUER"`
	// KeysFile holds the public keys in PEM, in place of discovery.
	KeysFile string `env:"IDENTITY_KEYS_FILE"`
	// CAFile holds the certificates that the identity server's is checked
	// against, besides the system's.
	CAFile string `env:"IDENTITY_CA_FILE"`
}

// Validate implements Validator.
func (i Identity) Validate() error {
	switch {
	case i.URL == "" && i.KeysFile == "":
		return fmt.Errorf("%[1]sIDENTITY_URL is not set: the base address of the identity server, such as https://vault.example.org/identity (or %[1]sIDENTITY_KEYS_FILE with %[1]sIDENTITY_ISSUER)", Prefix)
	case i.KeysFile != "" && i.Issuer == "":
		return fmt.Errorf("%[1]sIDENTITY_KEYS_FILE needs %[1]sIDENTITY_ISSUER: a file of keys does not tell whose they are", Prefix)
	}
	return webAddress("IDENTITY_URL", i.URL)
}

// ValidateOptional is Validate where there need be no identity server.
func (i Identity) ValidateOptional() error {
	if i == (Identity{}) {
		return nil
	}
	return i.Validate()
}

type setting struct{ name, value string }

func needs(choice string, settings ...setting) error {
	var faults []error
	for _, s := range settings {
		if s.value == "" {
			faults = append(faults, fmt.Errorf("%s%s is not set, and %s needs it", Prefix, s.name, choice))
		}
	}
	return errors.Join(faults...)
}

func webAddress(name, value string) error {
	if value == "" {
		return nil
	}
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || strings.Contains(u.Host, " ") {
		return fmt.Errorf("%s%s is not a web address such as https://host/path", Prefix, name)
	}
	return nil
}
