package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Billing are the settings of what speaks with the vendor's cloud: the sync of
// sponsorships and that of licences. Validate fills in the region and both
// addresses.
type Billing struct {
	// CloudCommunication is the master switch: without it no byte leaves.
	CloudCommunication bool `env:"CLOUD_COMMUNICATION"`
	// Region is US, EU or GOV and gives both addresses. Left out, it is that of
	// the addresses, and US where those are not given either.
	Region string `env:"CLOUD_REGION"`
	// InstallationID and InstallationKey are what the cloud knows this
	// installation by.
	InstallationID  string `env:"INSTALLATION_ID"`
	InstallationKey Secret `env:"INSTALLATION_KEY"`
	// IdentityURL and APIURL override the region's addresses.
	IdentityURL string `env:"CLOUD_IDENTITY_URL"`
	APIURL      string `env:"CLOUD_API_URL"`
	// ForceURLs accepts addresses that contradict each other or the region.
	ForceURLs bool `env:"CLOUD_FORCE_URLS"`
	// CAFile holds certificates in PEM that the cloud's is checked against,
	// besides the system's: those of a proxy that looks inside.
	CAFile string `env:"CLOUD_CA_FILE"`
	// SyncBatch is how many offers one request holds.
	SyncBatch int `env:"SYNC_BATCH" envDefault:"250"`
	// SyncProbe sends an empty batch where there is nothing to send, which tells
	// whether installation, organisation and key are still good.
	SyncProbe bool `env:"SYNC_PROBE" envDefault:"true"`
	// SyncParallel is how many organisations are synced at once.
	SyncParallel int `env:"SYNC_PARALLEL" envDefault:"4"`
	// RequestTimeout bounds one request to the cloud, with its answer.
	RequestTimeout time.Duration `env:"SYNC_REQUEST_TIMEOUT" envDefault:"60s"`
	// OfferKeys says what the cloud knows the offers of administrators by:
	// OfferKeysMember or OfferKeysPerOffer.
	OfferKeys string `env:"OFFER_KEYS" envDefault:"member"`
	// LicenseCheck is what the schedule does with licences: LicenseCheckOff,
	// LicenseCheckReport or LicenseCheckApply.
	LicenseCheck string `env:"LICENSE_CHECK" envDefault:"off"`
	// LicenseCertificateFile is the vendor's certificate that licences are
	// verified with, in PEM or DER. Its thumbprint is pinned.
	LicenseCertificateFile string `env:"LICENSE_CERTIFICATE_FILE"`
	// LicenseTestCertificateFile takes its place where the cloud is an emulator
	// on this machine, and is refused otherwise.
	LicenseTestCertificateFile string `env:"LICENSE_TEST_CERTIFICATE_FILE"`
	// LicenseDirectory is where an official server keeps its licences, for
	// taking one over.
	LicenseDirectory string `env:"LICENSE_DIRECTORY"`
}

// Values of OfferKeys.
const (
	// OfferKeysMember: the id of the member, as the official server has it. An
	// administrator can make one offer.
	OfferKeysMember = "member"
	// OfferKeysPerOffer: an id for each offer of an administrator.
	OfferKeysPerOffer = "per-offer"
)

// Values of LicenseCheck.
const (
	LicenseCheckOff = "off"
	// LicenseCheckReport fetches, verifies and reports what would change.
	LicenseCheckReport = "report"
	// LicenseCheckApply installs what it fetched, too.
	LicenseCheckApply = "apply"
)

// MaxSyncBatch is the greatest number of offers in a request of the official
// client.
const MaxSyncBatch = 1000

const (
	maxSyncParallel   = 64
	minRequestTimeout = time.Second
	maxRequestTimeout = 10 * time.Minute
)

// region is one of the vendor's clouds.
type region struct{ name, identity, api string }

var regions = []region{
	{"US", "https://identity.bitwarden.com", "https://api.bitwarden.com"},
	{"EU", "https://identity.bitwarden.eu", "https://api.bitwarden.eu"},
	{"GOV", "https://identity.bitwarden-gov.com", "https://api.bitwarden-gov.com"},
}

// BillingAliases are the official names of these settings. The official server
// has many more settings that are none of ours, so there is no prefix to warn
// of.
func BillingAliases() []Alias {
	const prefix = "globalSettings__"
	return []Alias{
		{Name: prefix + "enableCloudCommunication", To: "CLOUD_COMMUNICATION"},
		{Name: prefix + "installation__id", To: "INSTALLATION_ID"},
		{Name: prefix + "installation__key", To: "INSTALLATION_KEY"},
		{Name: prefix + "installation__identityUri", To: "CLOUD_IDENTITY_URL"},
		{Name: prefix + "installation__apiUri", To: "CLOUD_API_URL"},
		{Name: prefix + "baseServiceUri__cloudRegion", To: "CLOUD_REGION"},
		{Name: prefix + "licenseDirectory", To: "LICENSE_DIRECTORY"},
	}
}

// Validate implements Validator.
func (b *Billing) Validate() error {
	addresses := b.settleAddresses()
	faults := []error{addresses, b.checkInstallation(), b.checkLicenses(addresses == nil)}
	if b.SyncBatch < 1 || b.SyncBatch > MaxSyncBatch {
		faults = append(faults, fmt.Errorf("%sSYNC_BATCH=%d: choose from 1 to %d offers", Prefix, b.SyncBatch, MaxSyncBatch))
	}
	if b.SyncParallel < 1 || b.SyncParallel > maxSyncParallel {
		faults = append(faults, fmt.Errorf("%sSYNC_PARALLEL=%d: choose from 1 to %d organisations", Prefix, b.SyncParallel, maxSyncParallel))
	}
	if b.RequestTimeout < minRequestTimeout || b.RequestTimeout > maxRequestTimeout {
		faults = append(faults, fmt.Errorf("%sSYNC_REQUEST_TIMEOUT=%s: choose from %s to %s", Prefix, b.RequestTimeout, minRequestTimeout, maxRequestTimeout))
	}
	return errors.Join(append(faults,
		oneOf("OFFER_KEYS", &b.OfferKeys, OfferKeysMember, OfferKeysPerOffer),
		oneOf("LICENSE_CHECK", &b.LicenseCheck, LicenseCheckOff, LicenseCheckReport, LicenseCheckApply))...)
}

func oneOf(name string, value *string, choices ...string) error {
	*value = strings.ToLower(*value)
	if !slices.Contains(choices, *value) {
		return fmt.Errorf("%s%s=%s: choose %s", Prefix, name, *value, strings.Join(choices, " or "))
	}
	return nil
}

func (b *Billing) checkInstallation() error {
	var faults []error
	if b.CloudCommunication {
		const choice = Prefix + "CLOUD_COMMUNICATION=true"
		faults = append(faults, needs(choice, setting{"INSTALLATION_ID", b.InstallationID}, setting{"INSTALLATION_KEY", b.InstallationKey.Reveal()}))
	}
	if b.InstallationID != "" {
		id, err := uuid.Parse(strings.TrimSpace(b.InstallationID))
		if err != nil || id == uuid.Nil {
			// It is not repeated: the key may stand there.
			faults = append(faults, fmt.Errorf("%sINSTALLATION_ID is not an installation's id, such as 3f2c2b1f-95b1-4ad5-9a5e-8d7c5f0a7f10", Prefix))
		} else {
			b.InstallationID = id.String()
		}
	}
	if key := b.InstallationKey.Reveal(); key != strings.TrimSpace(key) {
		faults = append(faults, fmt.Errorf("%sINSTALLATION_KEY has blanks around it", Prefix))
	}
	return errors.Join(faults...)
}

func (b *Billing) checkLicenses(addressesAreGood bool) error {
	if b.LicenseTestCertificateFile == "" {
		return nil
	}
	if b.LicenseCertificateFile != "" {
		return fmt.Errorf("%[1]sLICENSE_CERTIFICATE_FILE and %[1]sLICENSE_TEST_CERTIFICATE_FILE are both set: give one of them", Prefix)
	}
	if addressesAreGood && (!isLoopback(b.IdentityURL) || !isLoopback(b.APIURL)) {
		return fmt.Errorf("%[1]sLICENSE_TEST_CERTIFICATE_FILE is for an emulator of the cloud on this machine, and %[1]sCLOUD_IDENTITY_URL and %[1]sCLOUD_API_URL are elsewhere; use %[1]sLICENSE_CERTIFICATE_FILE", Prefix)
	}
	return nil
}

// settleAddresses finds the region and both addresses, and refuses what cannot
// work together: an installation, its organisations and both hosts have to be
// of one region.
func (b *Billing) settleAddresses() error {
	identityErr := tidyAddress("CLOUD_IDENTITY_URL", &b.IdentityURL)
	apiErr := tidyAddress("CLOUD_API_URL", &b.APIURL)
	b.Region = strings.ToUpper(strings.TrimSpace(b.Region))
	chosen, known := findRegion(func(r region) bool { return r.name == b.Region })
	var regionErr error
	if b.Region != "" && !known {
		regionErr = fmt.Errorf("%sCLOUD_REGION=%s: choose US, EU or GOV", Prefix, b.Region)
	}
	if err := errors.Join(identityErr, apiErr, regionErr); err != nil {
		return err
	}
	ofIdentity, identityKnown := findRegion(func(r region) bool { return sameHost(r.identity, b.IdentityURL) })
	ofAPI, apiKnown := findRegion(func(r region) bool { return sameHost(r.api, b.APIURL) })
	if !b.ForceURLs {
		if err := b.checkSwapped(); err != nil {
			return err
		}
		if identityKnown && apiKnown && ofIdentity != ofAPI {
			return fmt.Errorf("%[1]sCLOUD_IDENTITY_URL is of region %[2]s and %[1]sCLOUD_API_URL of %[3]s: a token of one region is refused in the other; leave both out and set %[1]sCLOUD_REGION (or set %[1]sCLOUD_FORCE_URLS=true if it has to be so)", Prefix, ofIdentity.name, ofAPI.name)
		}
	}
	if !known {
		switch {
		case identityKnown:
			chosen = ofIdentity
		case apiKnown:
			chosen = ofAPI
		default:
			chosen = regions[0]
		}
	}
	b.Region = chosen.name
	if !b.ForceURLs {
		var faults []error
		contradiction := func(name string, of region, isKnown bool) {
			if isKnown && of != chosen {
				faults = append(faults, fmt.Errorf("%[1]s%[2]s is of region %[3]s and %[1]sCLOUD_REGION is %[4]s: leave the address out, or correct the region (or set %[1]sCLOUD_FORCE_URLS=true if it has to be so)", Prefix, name, of.name, chosen.name))
			}
		}
		contradiction("CLOUD_IDENTITY_URL", ofIdentity, identityKnown)
		contradiction("CLOUD_API_URL", ofAPI, apiKnown)
		// A host of somebody's own beside one of the vendor's is most often an
		// address that was forgotten.
		ownIdentity, ownAPI := b.IdentityURL != "" && !identityKnown, b.APIURL != "" && !apiKnown
		if ownIdentity != ownAPI {
			faults = append(faults, fmt.Errorf("of %[1]sCLOUD_IDENTITY_URL and %[1]sCLOUD_API_URL one is not the vendor's: give both or none (or set %[1]sCLOUD_FORCE_URLS=true if it has to be so)", Prefix))
		}
		if err := errors.Join(faults...); err != nil {
			return err
		}
	}
	if b.IdentityURL == "" {
		b.IdentityURL = chosen.identity
	}
	if b.APIURL == "" {
		b.APIURL = chosen.api
	}
	return nil
}

func (b *Billing) checkSwapped() error {
	_, identityIsAPI := findRegion(func(r region) bool { return sameHost(r.api, b.IdentityURL) })
	_, apiIsIdentity := findRegion(func(r region) bool { return sameHost(r.identity, b.APIURL) })
	if identityIsAPI || apiIsIdentity {
		return fmt.Errorf("%[1]sCLOUD_IDENTITY_URL and %[1]sCLOUD_API_URL stand in each other's place: leave both out and set %[1]sCLOUD_REGION", Prefix)
	}
	return nil
}

func findRegion(is func(region) bool) (region, bool) {
	if i := slices.IndexFunc(regions, is); i >= 0 {
		return regions[i], true
	}
	return region{}, false
}

func sameHost(ours, given string) bool {
	u, err := url.Parse(given)
	return err == nil && strings.TrimPrefix(ours, "https://") == u.Hostname()
}

// tidyAddress brings an address into one form: no slash at its end, its host in
// small letters.
func tidyAddress(name string, value *string) error {
	*value = strings.TrimSpace(*value)
	if *value == "" {
		return nil
	}
	u, err := url.Parse(*value)
	switch {
	case err != nil, u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "", strings.ContainsAny(u.Host, " ,"),
		u.User != nil, u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		// It is not repeated: it could hold a password.
		return fmt.Errorf("%s%s is not an address such as https://identity.bitwarden.eu: scheme, host and perhaps a port and a path", Prefix, name)
	case u.Scheme == "http" && !isLoopback(*value):
		return fmt.Errorf("%s%s is plain http, which is for this machine only (127.0.0.1, ::1, localhost): installation key and billing sync key would be readable on the way", Prefix, name)
	}
	u.Host = strings.ToLower(u.Host)
	*value = strings.TrimRight(u.String(), "/")
	return nil
}

func isLoopback(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	host := strings.ToLower(u.Hostname())
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}
