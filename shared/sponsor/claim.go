package sponsor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// licenceClaim says which organisation here a license key is of: two of them
// would sync one organisation of the cloud. Its id is the key's digest. It comes
// before the licence, so that of two who install one licence at once the store
// lets one through.
type licenceClaim struct {
	Organization string    `json:"organization"`
	At           time.Time `json:"at"`
}

// claimTime is how long a claim lasts whose holder has no such licence: it was
// stopped before it installed one.
const claimTime = 15 * time.Minute

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
	err := store.Retry(ctx, func() error {
		r, err := s.licenceKeys.Get(ctx, digest)
		pre := store.AtRevision(r.Revision)
		switch {
		case fault.Of(err) == fault.NotFound:
			r, pre = store.Record[licenceClaim]{ID: digest}, store.Absent()
		case err != nil:
			return err
		case r.Value.Organization == organization:
		case s.now().Sub(r.Value.At) < claimTime:
			return inUse()
		}
		// An older claim of another's is as good as its licence.
		if err := s.checkUnused(ctx, digest, organization); err != nil {
			return err
		}
		r.Value = licenceClaim{organization, s.now().UTC()}
		_, err = s.licenceKeys.Put(ctx, r, pre)
		return err
	})
	if err != nil {
		return fmt.Errorf("claim a license key: %w", err)
	}
	// Again: one who was slow may have installed it between.
	if err := s.checkUnused(ctx, digest, organization); err != nil {
		s.releaseLicence(ctx, digest, organization)
		return err
	}
	return nil
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

// ownsLicence refuses what somebody else has claimed meanwhile. That nobody has is
// no harm once the licence is installed, which speaks for itself.
func (s *Sync) ownsLicence(ctx context.Context, digest, organization string) error {
	r, err := s.licenceKeys.Get(ctx, digest)
	switch {
	case fault.Of(err) == fault.NotFound:
		return nil
	case err == nil && r.Value.Organization != organization:
		return inUse()
	}
	return err
}

// releaseLicence lets a license key be anybody's. Where it fails, the claim runs
// out.
func (s *Sync) releaseLicence(ctx context.Context, digest, organization string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	r, err := s.licenceKeys.Get(ctx, digest)
	if err == nil && r.Value.Organization == organization {
		err = s.licenceKeys.Delete(ctx, digest, store.AtRevision(r.Revision))
	}
	if err != nil && fault.Of(err) != fault.NotFound {
		s.logger.WarnContext(ctx, "the claim of a license key could not be given back, and runs out by itself",
			slog.String("organization", organization), slog.String("error", err.Error()))
	}
}
