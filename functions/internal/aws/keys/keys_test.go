package keys_test

import (
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/functions/internal/aws/keys"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

var (
	account = config.AWS{Region: "eu-central-1", AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "secret"}
	table   = config.Store{Kind: config.StoreDynamoDB, DynamoDBTable: "latchkey"}
	key     = config.Keys{Kind: config.KeysAWSKMS, AWSKMSKeyID: "alias/latchkey"}
)

func TestAPreviousKeyIsOpenedWhereThereIsOne(t *testing.T) {
	for kind, want := range map[string]int{"": 0, config.KeysAWSKMS: 1} {
		previous := config.Keys{Kind: kind, AWSKMSKeyID: "alias/former"}
		p, err := keys.Open(account, table, config.Wrapping{Keys: key, Previous: previous})
		if err != nil || p.Store == nil || p.Key == nil || len(p.Previous) != want || p.Account.Region != account.Region {
			t.Errorf("%q: %+v, %v", kind, p, err)
		}
	}
}

func TestEverythingThatThisBinaryHasNotIsRefusedAtOnce(t *testing.T) {
	file := config.Keys{Kind: config.KeysSoftware, SoftwareKeyPath: "key.pem"}
	_, err := keys.Open(account, config.Store{Kind: config.StoreSQLite}, config.Wrapping{Keys: file, Previous: file})
	if fault.Of(err) != fault.Invalid {
		t.Fatal(err)
	}
	for _, part := range []string{"LATCHKEY_STORE=sqlite", "LATCHKEY_KEYS=software", "LATCHKEY_PREVIOUS_KEYS=software"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not name %s", err, part)
		}
	}
}
