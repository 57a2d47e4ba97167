package main

import (
	"context"
	"crypto/sha1"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/sponsor/cloud"
)

// examineBilling looks at what Billing sync needs besides a store and keys: the
// certificate of licences and the vendor's cloud.
func examineBilling(ctx context.Context, r *report, b config.Billing) {
	examineCertificate(ctx, r, b)
	if b.InstallationID == "" {
		r.add("installation", outcomeWarning, config.Prefix+"INSTALLATION_ID is not set: licences are bound to an installation, and none can be installed")
	}
	c := cloud.FromSettings(b)
	c.RequestTimeout = min(c.RequestTimeout, doctorTimeout)
	var client *cloud.Client
	r.ask(ctx, "cloud", func(context.Context) (string, error) {
		var err error
		client, err = cloud.New(c)
		return fmt.Sprintf("region %s, %s and %s", b.Region, b.IdentityURL, b.APIURL), err
	})
	switch {
	case !b.CloudCommunication:
		r.add("cloud", outcomeWarning, config.Prefix+"CLOUD_COMMUNICATION is not true: no byte leaves for the cloud, and nothing is synced; nothing was sent to it now")
	case client != nil:
		askCloud(ctx, r, client)
	}
}

// examineCertificate looks at what licences are verified with.
func examineCertificate(ctx context.Context, r *report, b config.Billing) {
	name, path := "LICENSE_CERTIFICATE_FILE", b.LicenseCertificateFile
	if b.LicenseTestCertificateFile != "" {
		name, path = "LICENSE_TEST_CERTIFICATE_FILE", b.LicenseTestCertificateFile
		r.add("licences", outcomeWarning, config.Prefix+name+" is set: whoever has that certificate's key can make licences; for an emulator of the cloud only")
	}
	if path == "" {
		r.add("licences", outcomeWarning, config.Prefix+name+" is not set: no licence can be installed, and without one no organisation can be connected; take licensing.cer as the vendor publishes it with its server")
		return
	}
	var certificate *x509.Certificate
	r.ask(ctx, "licences", func(context.Context) (string, error) {
		_, err := sponsor.LoadTrust(b)
		if err == nil {
			certificate, err = readCertificate(path)
		}
		if err != nil {
			return "", fmt.Errorf("%s%s: %w", config.Prefix, name, err)
		}
		return fmt.Sprintf("the certificate has the thumbprint %X and is valid until %s",
			sha1.Sum(certificate.Raw), certificate.NotAfter.UTC().Format(time.DateOnly)), nil
	})
	if now := time.Now(); certificate != nil && (now.Before(certificate.NotBefore) || now.After(certificate.NotAfter)) {
		r.add("licences", outcomeWarning, "by this machine's clock the certificate is not valid now. It is pinned, so that licences are verified with it all the same; is the clock right?")
	}
}

// readCertificate reads one in PEM or DER.
func readCertificate(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fault.Invalid, err)
	}
	if block, _ := pem.Decode(data); block != nil {
		data = block.Bytes
	}
	certificate, err := x509.ParseCertificate(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fault.Invalid, err)
	}
	return certificate, nil
}

// askCloud gets a token, and asks the API with it about an organisation that
// there is none of: that goes the way of a sync and tells the cloud nothing.
func askCloud(ctx context.Context, r *report, client *cloud.Client) {
	const installation, api = "installation", "cloud API"
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	_, err := client.Sync(ctx, cloud.SyncRequest{BillingSyncKey: "none", CloudOrganizationID: uuid.NewString()})
	e, refused := errors.AsType[*cloud.Error](err)
	if refused && e.Stage == cloud.StageToken {
		r.add(installation, outcomeFailed, explain(e))
		r.add(api, outcomeWarning, "not checked, because the cloud's identity server gave no token")
	} else {
		r.add(installation, outcomeOK, "the cloud's identity server gave it a token")
		switch {
		case refused && (e.Code == cloud.OrgUnknown || e.Code == cloud.KeyInvalid):
			r.add(api, outcomeOK, "it takes the token, and knows no organisation of a random id, as it should be")
		case refused:
			r.add(api, outcomeFailed, explain(e))
		case err != nil:
			r.add(api, outcomeFailed, err.Error()+advice(err))
		default:
			r.add(api, outcomeFailed, "it knows an organisation of a random id: what answers is not the vendor's cloud; check the addresses and what is in between")
		}
	}
	skew, known := client.Skew()
	switch {
	case !known:
	case skew.Abs() > tolerableSkew:
		r.add("clock", outcomeWarning, fmt.Sprintf("this machine's and the cloud's are %s apart: tokens and licences may be refused as not yet valid; set this one", skew.Abs()))
	default:
		r.add("clock", outcomeOK, fmt.Sprintf("this machine's and the cloud's are %s apart", skew.Abs()))
	}
}

// meanings say what is behind a code, and which setting it is about, where the
// error itself does not.
var meanings = map[cloud.Code]string{
	cloud.IdentityInvalidClient: "The cloud says invalid_client to an id that it does not know, to another key, to a disabled installation, and in another region than the installation's.\n" +
		"Compare {}INSTALLATION_ID, {}INSTALLATION_KEY and {}CLOUD_REGION with what the vendor gave you for this installation. What is changed there can take 5 minutes to be seen.",
	cloud.IdentityInvalidScope: "The cloud knows the installation, and does not let it sync: ask the vendor.",
	cloud.TokenRejected:        "Leave {}CLOUD_IDENTITY_URL and {}CLOUD_API_URL out and set {}CLOUD_REGION.",
	cloud.RateLimited:          "The cloud allows an address 10 tokens and 60 requests a minute, for all that is behind it: wait a minute, and look for what else asks.",
	cloud.CloudError:           "The cloud itself, or what is before it, fails: try again later. If that lasts, check the addresses.",
	cloud.NetworkPre:           "Check {}CLOUD_REGION or the addresses, DNS, firewall and proxy; where a proxy looks inside TLS, its certificate belongs into {}CLOUD_CA_FILE.",
	cloud.NetworkMid:           "The connection was made and broke off: look at the firewall or proxy in between, and try again.",
	cloud.Timeout:              "The connection was made and nothing came back in time: look at the firewall or proxy in between, and try again.",
	cloud.RequestInvalid:       "What answers does not understand the vendor's protocol: check the addresses.",
}

func explain(e *cloud.Error) string {
	if meaning, ok := meanings[e.Code]; ok {
		return e.Error() + "\n" + strings.ReplaceAll(meaning, "{}", config.Prefix)
	}
	return e.Error()
}
