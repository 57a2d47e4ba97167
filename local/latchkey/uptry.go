package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/uuid"
)

// printUp tells where everything is, and what to try: commands that a shell
// takes as they stand, one after another.
func printUp(t *terminal, f upFlags, base string, s upSettings, cloud *emulatedCloud) error {
	address := base + upPrefix
	if t.json {
		return t.printJSON(map[string]string{
			"keyConnector": address, "secretsManager": base, "billingSync": base, "identity": base + identityPrefix,
			"cloudIdentity": cloud.IdentityURL, "cloudAPI": cloud.APIURL, "cloudControl": cloud.control(),
			"data": f.data, "store": f.store, "keys": f.keys,
		})
	}
	how := "one process"
	if f.lambda {
		how = "the Lambda binaries"
	}
	fmt.Fprintf(t.out, `%s (%s, store %s, keys %s). %s

  Key Connector    %s
  Secrets Manager  %s (the API below /api, the exchange of tokens below /identity)
  Billing sync     %s (the API below /api)
  identity         %s%s
  emulated cloud   %s (identity), %s (API), %s (control)
                   remembers its customers and their offers, and forgets mails and faults when it ends
  data             %s

Try, in another terminal:
`, bold("Latchkey is up"), how, f.store, f.keys, note("For development only: anybody who reaches it gets a token for any user."),
		address, base, base, base, identityPrefix, cloud.IdentityURL, cloud.APIURL, cloud.control(), f.data)
	if err := tryKeyConnector(t.out, base+identityPrefix, address, s.environment["LATCHKEY_SQLITE_PATH"]); err != nil {
		return err
	}
	trySecretsManager(t.out, base, f.data)
	tryBillingSync(t.out, base, f.data, cloud)
	fmt.Fprintf(t.out, "\nCtrl-C ends it.\n")
	return nil
}

// tokenOf is a shell's word for a token of the development identity server.
func tokenOf(identity, form string) string {
	return fmt.Sprintf(`$(curl -s %s %s/connect/token | sed 's/.*"access_token":"\([^"]*\)".*/\1/')`, form, identity)
}

func tryKeyConnector(out io.Writer, identity, address, sqlitePath string) error {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	fmt.Fprintf(out, `
  # Key Connector: a token for a new user
  TOKEN=%[1]s

  # store the user's key, once: the second time is a 400
  curl -i -w '\n' -H "Authorization: Bearer $TOKEN" -d '{"key":"%[2]s"}' %[3]s/user-keys

  # read it
  curl -i -w '\n' -H "Authorization: Bearer $TOKEN" %[3]s/user-keys

  # is everything well?
  curl -s -w '\n' %[3]s/health
`, tokenOf(identity, "-d user="+uuid.NewString()), base64.StdEncoding.EncodeToString(key), address)
	if sqlitePath != "" {
		fmt.Fprintf(out, "\n  # who has a key?\n  LATCHKEY_STORE=sqlite LATCHKEY_SQLITE_PATH='%s' %s keys list\n", sqlitePath, os.Args[0])
	}
	return nil
}

func trySecretsManager(out io.Writer, base, data string) {
	organization := uuid.NewString()
	fmt.Fprintf(out, `
  # Secrets Manager: an operator of a new organization, whose key is made here
  unset LATCHKEY_ACCESS_TOKEN; export LATCHKEY_SERVER=%[1]s LATCHKEY_PASSPHRASE=development LATCHKEY_KEY_FILE='%[2]s'
  export LATCHKEY_OPERATOR_TOKEN=%[3]s
  %[4]s org create --id %[5]s
  %[4]s project create demo
  echo -n hunter2 | %[4]s secret set DB_PASSWORD --project demo

  # a machine that may reach the project, and its access token
  %[4]s machine create robot --project demo
  ROBOT=$(%[4]s token create --machine robot --name first)

  # what it does there: a command with its secrets as environment variables
  unset LATCHKEY_OPERATOR_TOKEN LATCHKEY_KEY_FILE; export LATCHKEY_ACCESS_TOKEN=$ROBOT
  %[4]s run -- sh -c 'echo "the password is $DB_PASSWORD"'
`, base, filepath.Join(data, organization+".age"), tokenOf(base+identityPrefix, "-d user="+uuid.NewString()+" -d orgowner="+organization),
		os.Args[0], organization)
}

func tryBillingSync(out io.Writer, base, data string, cloud *emulatedCloud) {
	member := uuid.NewString()
	customer := cloud.control() + "/org/" + developmentCustomer
	fmt.Fprintf(out, `
  # Billing sync: an owner of the organization uploads its license
  unset LATCHKEY_ACCESS_TOKEN; export LATCHKEY_SERVER=%[1]s
  export LATCHKEY_OPERATOR_TOKEN=%[2]s
  curl -s -o '%[3]s' '%[4]s/license?installationId=%[5]s'
  %[6]s sync licence upload '%[3]s'

  # connect with the billing sync key that the cloud shows
  curl -s %[4]s | sed 's/.*"billingSyncKey":"\([^"]*\)".*/\1/' | %[6]s sync connect

  # offer somebody a free Families organization: it awaits the first sync
  %[6]s sync offers create %[7]s
  %[6]s sync offers

  # sync: the cloud mails the offer
  %[6]s sync now --wait
  %[6]s sync offers
  curl -s -w '\n' %[8]s/mails

  # somebody accepts it in the cloud; the next sync learns that
  curl -s -d '{"offerKey":"%[9]s"}' %[8]s/redeem
  %[6]s sync now --wait
  %[6]s sync offers

  # revoke it: it lasts as long as it was accepted for
  %[6]s sync offers revoke --yes $(%[6]s sync offers | awk '/%[7]s/ {print $1}')
  %[6]s sync now --wait
  %[6]s sync offers
`, base, tokenOf(base+identityPrefix, "-d user="+member+" -d orgowner="+developmentOrganization), filepath.Join(data, "cloud", "license.json"),
		customer, developmentInstallation, os.Args[0], "family-"+member[:8]+"@example.org", cloud.control(), member)
}
