package chain_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/providers/awsconfig"
	"github.com/latchkey-fn/latchkey/providers/awsconfig/chain"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

const secret = "the-secret-access-key"

// alone keeps the machine's own AWS settings out of a test.
func alone(t *testing.T) {
	for _, name := range []string{
		"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
		"AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS", "AWS_CA_BUNDLE", "AWS_NEW_RETRIES_2026",
		"AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
	} {
		t.Setenv(name, "")
	}
	nowhere := t.TempDir()
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(nowhere, "config"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(nowhere, "credentials"))
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

func TestCredentialsAreTheGivenOnesOrThoseOfTheDefaultChain(t *testing.T) {
	for _, test := range []struct {
		name       string
		config     awsconfig.Config
		env        map[string]string
		region, id string
	}{
		{"both are given", awsconfig.Config{Region: "eu-west-1", AccessKeyID: "AKID", SecretAccessKey: secret},
			map[string]string{"AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other"}, "eu-west-1", "AKID"},
		{"the environment has them", awsconfig.Config{Region: "eu-west-1"},
			map[string]string{"AWS_ACCESS_KEY_ID": "from-env", "AWS_SECRET_ACCESS_KEY": secret}, "eu-west-1", "from-env"},
		{"the environment has the region too", awsconfig.Config{},
			map[string]string{"AWS_REGION": "ap-south-1", "AWS_ACCESS_KEY_ID": "from-env", "AWS_SECRET_ACCESS_KEY": secret}, "ap-south-1", "from-env"},
	} {
		t.Run(test.name, func(t *testing.T) {
			alone(t)
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			loaded, err := chain.Load(t.Context(), test.config)
			if err != nil {
				t.Fatal(err)
			}
			credentials, err := loaded.Credentials.Retrieve(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if loaded.Region != test.region || credentials.AccessKeyID != test.id {
				t.Errorf("region %q and key %q, want %q and %q", loaded.Region, credentials.AccessKeyID, test.region, test.id)
			}
		})
	}
}

func TestAFaultyConfigurationIsInvalidAndNamesWhatToDo(t *testing.T) {
	for _, test := range []struct {
		name   string
		config awsconfig.Config
		env    map[string]string
		want   string
	}{
		{"an id without its secret", awsconfig.Config{Region: "eu-west-1", AccessKeyID: "AKID"}, nil, "set both, or neither"},
		{"a secret without its id", awsconfig.Config{Region: "eu-west-1", SecretAccessKey: secret}, nil, "set both, or neither"},
		{"no region", awsconfig.Config{}, nil, "AWS_REGION"},
		{"a profile that is not there", awsconfig.Config{Region: "eu-west-1"}, map[string]string{"AWS_PROFILE": "no-such"}, "no-such"},
	} {
		t.Run(test.name, func(t *testing.T) {
			alone(t)
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			_, err := chain.Load(t.Context(), test.config)
			if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v: want class invalid and %q", err, test.want)
			}
			if strings.Contains(fmt.Sprint(err), secret) {
				t.Error("the error tells the secret")
			}
		})
	}
}
