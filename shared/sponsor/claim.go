package sponsor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// licenceClaim says which organisation here was the last to want a license key:
// two that have one would sync one organisation of the cloud. Its id is the key's
// digest.
//
// Who installs a licence writes the claim, looks for the licence at others,
// writes the licence, and reads the claim. Of two who do so at once not both get
// through: the claim that was written first is gone when its writer reads it, or
// the licence was there before the other claim, whose writer finds it. A claim
// without a licence, of one who was stopped, keeps nobody out.
type licenceClaim struct {
	Organization string `json:"organization"`
}

// licenceDigest is what a license key is known by.
func licenceDigest(licenseKey string) string {
	digest := sha256.Sum256([]byte("license key " + licenseKey))
	return hex.EncodeToString(digest[:])
}

func inUse() error {
	return &Failure{Code: CodeLicenceInUse, Message: licenceInUse, Class: fault.Invalid}
}

// claimLicence makes a license key an organisation's, or refuses.
func (s *Sync) claimLicence(ctx context.Context, digest, organization string) error {
	// Before, too, so that the claim of one who has the licence stays.
	if err := s.checkUnused(ctx, digest, organization); err != nil {
		return err
	}
	claim := store.Record[licenceClaim]{ID: digest, Value: licenceClaim{organization}}
	if _, err := s.licenceKeys.Put(ctx, claim, store.Any()); err != nil {
		return fmt.Errorf("claim a license key: %w", err)
	}
	return s.checkUnused(ctx, digest, organization)
}

// checkUnused refuses a license key that another organisation has installed.
func (s *Sync) checkUnused(ctx context.Context, digest, organization string) error {
	for other, err := range s.licences.ByLookup(ctx, digest) {
		if err != nil {
			return err
		}
		if other.ID != organization {
			return inUse()
		}
	}
	return nil
}

// ownsLicence refuses a license key that somebody else has claimed since.
func (s *Sync) ownsLicence(ctx context.Context, digest, organization string) error {
	r, err := s.licenceKeys.Get(ctx, digest)
	switch {
	case fault.Of(err) == fault.NotFound:
		return nil // nor has anybody
	case err == nil && r.Value.Organization != organization:
		return inUse()
	}
	return err
}
