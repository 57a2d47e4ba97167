package sponsorships

import (
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/latchkey-fn/latchkey/shared/httpx"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/sponsor/licence"
)

// invalidLicence is the original's text for an upload that cannot be read.
const invalidLicence = "Invalid license"

func (h *handler) syncLicence(r smapi.Request) (string, any, error) {
	organization, err := h.owner(r, r.PathValue("id"))
	if err != nil {
		return "", nil, err
	}
	if _, err := h.sync.Connection(r.Context(), organization); err != nil {
		return "", nil, err
	}
	l, err := h.sync.SyncLicence(r.Context(), organization)
	noteUnchecked(r, l)
	return organization, nil, err
}

func (h *handler) uploadLicence(r smapi.Request) (string, any, error) {
	organization, err := h.owner(r, r.PathValue("id"))
	if err != nil {
		return "", nil, err
	}
	document, err := readUpload(r.Request)
	if err != nil {
		return "", nil, err
	}
	l, err := h.sync.UploadLicence(r.Context(), sponsor.Upload{
		Organization: organization, Document: document, Force: r.URL.Query().Get("force") == "true",
	})
	noteUnchecked(r, l)
	return organization, nil, err
}

const unchecked = "What the organization uses was never told: it was not checked that the license allows it."

// noteUnchecked tells of an installed licence what it was not checked against.
func noteUnchecked(r smapi.Request, l sponsor.Licence) {
	if l.Values != nil && l.Used == nil {
		r.Answer.Set(httpx.NoticeHeader, unchecked)
	}
}

// readUpload gives the file License of a form. Whatever is wrong with it is told
// in the original's one text.
func readUpload(r *http.Request) ([]byte, error) {
	form, err := r.MultipartReader()
	if err != nil {
		return nil, machine.Invalid(invalidLicence)
	}
	for {
		part, err := form.NextPart()
		if err != nil {
			return nil, machine.Invalid(invalidLicence)
		}
		if !strings.EqualFold(part.FormName(), "License") {
			continue
		}
		document, err := io.ReadAll(part) // the whole body is bounded
		if err != nil || len(document) == 0 {
			return nil, machine.Invalid(invalidLicence)
		}
		return document, nil
	}
}

// licenceAnswer is an installed licence, which may have expired.
type licenceAnswer struct {
	Object         string `json:"object"`
	OrganizationID string `json:"organizationId"`
	// License has the names of a licence file, without its key and its proofs.
	License *shownLicence `json:"license"`
	// UsableUntil is null for one that never expires.
	UsableUntil *time.Time `json:"usableUntil"`
	// Problem is why it cannot be used now; null if it can.
	Problem              *problemAnswer `json:"problem"`
	Source               string         `json:"source"`
	Installed            time.Time      `json:"installedDate"`
	LastLicenseSync      *time.Time     `json:"lastLicenseSync"`
	LastLicenseSyncLabel string         `json:"lastLicenseSyncLabel"`
	HasPrevious          bool           `json:"hasPrevious"`
	Check                *checkAnswer   `json:"lastCheck"`
	// Usage is what licences are checked against; null where it was never told.
	Usage *sponsor.Usage `json:"usage"`
}

// shownLicence hides members of a licence behind those of its own that are left
// out.
type shownLicence struct {
	*licence.Licence
	LicenseKey, Hash, Signature, Token *struct{} `json:",omitempty"`
}

type problemAnswer struct {
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Hint    *string `json:"hint"`
}

func (h *handler) getLicence(r smapi.Request) (any, error) {
	organization, err := h.admin(r)
	if err != nil {
		return nil, err
	}
	l, err := h.sync.Licence(r.Context(), organization)
	if err != nil {
		return nil, err
	}
	answer := licenceAnswer{
		Object: "installedLicense", OrganizationID: organization, Source: l.Source, Installed: l.Installed,
		LastLicenseSync: l.LastSync, LastLicenseSyncLabel: sponsor.When(l.LastSync), HasPrevious: l.HasPrevious, Usage: l.Used,
	}
	if l.Values != nil {
		answer.License = &shownLicence{Licence: l.Values}
	}
	if !l.UsableUntil.IsZero() {
		answer.UsableUntil = &l.UsableUntil
	}
	if l.Check != nil {
		answer.Check = answerCheck(*l.Check)
	}
	if p := l.Problem; p != nil {
		answer.Problem = &problemAnswer{p.Code, p.Message, optional(p.Hint)}
	}
	return answer, nil
}

type checkRequest struct {
	Apply bool `json:"apply"`
}

// checkAnswer is a comparison with the cloud's licence.
type checkAnswer struct {
	Object string    `json:"object"`
	Date   time.Time `json:"date"`
	// Changed are the names of what differs.
	Changed []string `json:"changed"`
	// Code is null unless the check failed.
	Code    *string `json:"code"`
	Applied bool    `json:"applied"`
}

func answerCheck(c sponsor.LicenceCheck) *checkAnswer {
	return &checkAnswer{"licenseCheck", c.At, append([]string{}, c.Changed...), optional(c.Code), c.Applied}
}

func (h *handler) checkLicence(r smapi.Request) (string, any, error) {
	organization, err := h.owner(r, r.PathValue("org"))
	if err != nil {
		return "", nil, err
	}
	var body checkRequest
	if err := readOptional(r, &body); err != nil {
		return "", nil, err
	}
	if _, err := h.sync.Connection(r.Context(), organization); err != nil {
		return "", nil, err
	}
	check, err := h.sync.CheckLicence(r.Context(), organization, body.Apply)
	return organization, answerCheck(check), err
}
