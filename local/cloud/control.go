package cloud

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// maxControlBody bounds a state that is put.
const maxControlBody = 64 << 20

// ControlHandler serves the control plane, below /__emu: the methods of Cloud as
// JSON over HTTP. Errors are {"error": "…"}.
//
//	POST   /reset
//	GET    /state /mails /events /requests /violations /mail-counts
//	PUT    /state           a State
//	DELETE /requests        forgets requests, mails and events
//	GET    /clock
//	PUT    /clock           {"now", "advance" ("36h"), "frozen"}, each optional
//	GET    /faults
//	PUT    /faults          a list of Fault
//	GET    /settings
//	PUT    /settings        Settings; what is missing stays
//	POST   /redeem /renew   {"offerKey"|"sponsorshipId", "organizationId"?, "until"}
//	POST   /drop /remove /poison
//	POST   /purge
//	POST   /installation    an Installation
//	POST   /installation/{id}/disable /enable /key
//	POST   /org             an Organization
//	GET    /org/{id}
//	PATCH  /org/{id}        members of an Organization
//	POST   /org/{id}/disable /enable /plan /rotate-key
//	GET    /org/{id}/license?installationId=
//	POST   /org/{id}/orphans {"known": [offer keys]}
//	POST   /sponsorship     a Sponsorship
//	POST   /user            a User
//	POST   /user/token      {"email"}
//	POST   /expect          {"mail": a MailKey} or {"installation": id}
//	POST   /settle
func (c *Cloud) ControlHandler() http.Handler {
	mux := http.NewServeMux()
	for pattern, serve := range map[string]func(*http.Request) (any, error){
		"POST /reset":           c.controlReset,
		"GET /state":            func(*http.Request) (any, error) { return c.State(), nil },
		"PUT /state":            c.controlState,
		"GET /mails":            func(*http.Request) (any, error) { return listed(c.Mails()), nil },
		"GET /events":           func(*http.Request) (any, error) { return listed(c.Events()), nil },
		"GET /requests":         func(*http.Request) (any, error) { return listed(c.Requests()), nil },
		"DELETE /requests":      c.controlForget,
		"GET /violations":       func(*http.Request) (any, error) { return listed(c.Violations()), nil },
		"GET /mail-counts":      c.controlMailCounts,
		"GET /clock":            c.controlReadClock,
		"PUT /clock":            c.controlClock,
		"GET /faults":           func(*http.Request) (any, error) { return listed(c.Faults()), nil },
		"PUT /faults":           c.controlFaults,
		"GET /settings":         func(*http.Request) (any, error) { return c.Settings(), nil },
		"PUT /settings":         c.controlSettings,
		"POST /redeem":          c.onRow(func(at rowRequest) error { return c.Redeem(at.Organization, at.row(), at.Until) }),
		"POST /renew":           c.onRow(func(at rowRequest) error { return c.Renew(at.Organization, at.row(), at.Until) }),
		"POST /drop":            c.onRow(func(at rowRequest) error { return c.Drop(at.Organization, at.row()) }),
		"POST /remove":          c.onRow(func(at rowRequest) error { return c.Remove(at.Organization, at.row()) }),
		"POST /poison":          c.onRow(func(at rowRequest) error { return c.Poison(at.Organization, at.row()) }),
		"POST /purge":           func(*http.Request) (any, error) { return map[string]int{"purged": c.Purge()}, nil },
		"POST /settle":          c.controlSettle,
		"POST /installation":    c.controlAddInstallation,
		"POST /org":             c.controlAddOrganization,
		"POST /sponsorship":     c.controlAddSponsorship,
		"POST /user":            c.controlAddUser,
		"POST /user/token":      c.controlUserToken,
		"POST /expect":          c.controlExpect,
		"GET /org/{id}":         func(r *http.Request) (any, error) { return c.Organization(r.PathValue("id")) },
		"PATCH /org/{id}":       c.controlPatch,
		"POST /org/{id}/plan":   c.controlPlan,
		"GET /org/{id}/license": c.controlLicense,

		"POST /org/{id}/disable":          c.controlDisable,
		"POST /org/{id}/enable":           onID(c.EnableOrganization),
		"POST /org/{id}/rotate-key":       c.controlRotate,
		"POST /org/{id}/orphans":          c.controlOrphans,
		"POST /installation/{id}/disable": onID(c.DisableInstallation),
		"POST /installation/{id}/enable":  onID(c.EnableInstallation),
		"POST /installation/{id}/key":     c.controlInstallationKey,
	} {
		mux.Handle(pattern, control(serve))
	}
	return http.StripPrefix("/__emu", mux)
}

// control answers with what a method gives; nothing is 204.
func control(serve func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxControlBody)
		value, err := serve(r)
		if err != nil {
			status, ok := map[fault.Class]int{
				fault.NotFound: http.StatusNotFound, fault.Invalid: http.StatusBadRequest, fault.Conflict: http.StatusConflict,
			}[fault.Of(err)]
			if !ok {
				status = http.StatusInternalServerError
			}
			writeControl(w, status, map[string]string{"error": err.Error()})
			return
		}
		if value == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		writeControl(w, http.StatusOK, value)
	})
}

func writeControl(w http.ResponseWriter, status int, value any) {
	a := jsonAnswer(status, value)
	w.Header().Set("Content-Type", a.header.Get("Content-Type"))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // a client that went away
}

// listed is a list that is not null in JSON.
func listed[T any](list []T) []T { return append([]T{}, list...) }

// body reads a request of the control plane over what into has already; an
// empty one leaves it.
func body(r *http.Request, into any) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %w", fault.Invalid, err)
	}
	return nil
}

func onID(do func(string) error) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) { return nil, do(r.PathValue("id")) }
}

// rowRequest names a sponsorship.
type rowRequest struct {
	Organization string    `json:"organizationId"`
	OfferKey     string    `json:"offerKey"`
	ID           string    `json:"sponsorshipId"`
	Until        time.Time `json:"until"`
}

func (r rowRequest) row() string {
	if r.ID != "" {
		return r.ID
	}
	return r.OfferKey
}

func (c *Cloud) onRow(do func(rowRequest) error) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var at rowRequest
		if err := body(r, &at); err != nil {
			return nil, err
		}
		if at.Organization == "" {
			id, err := c.OrganizationOf(at.row())
			if err != nil {
				return nil, err
			}
			at.Organization = id
		}
		return nil, do(at)
	}
}

func (c *Cloud) controlReset(*http.Request) (any, error) {
	c.Reset()
	return nil, nil
}

func (c *Cloud) controlForget(*http.Request) (any, error) {
	c.Forget()
	return nil, nil
}

func (c *Cloud) controlSettle(*http.Request) (any, error) {
	c.Settle()
	return nil, nil
}

func (c *Cloud) controlState(r *http.Request) (any, error) {
	var s State
	if err := body(r, &s); err != nil {
		return nil, err
	}
	if err := c.SetState(s); err != nil {
		return nil, err
	}
	return c.State(), nil
}

func (c *Cloud) controlMailCounts(*http.Request) (any, error) {
	type count struct {
		MailKey
		Mails int `json:"mails"`
	}
	counts := []count{}
	for key, n := range c.MailCounts() {
		counts = append(counts, count{key, n})
	}
	return counts, nil
}

type clockAnswer struct {
	Now    time.Time `json:"now"`
	Frozen bool      `json:"frozen"`
}

func (c *Cloud) controlReadClock(*http.Request) (any, error) {
	return clockAnswer{c.Now(), c.clock.isFrozen()}, nil
}

func (c *Cloud) controlClock(r *http.Request) (any, error) {
	var change struct {
		Now     *time.Time `json:"now"`
		Advance string     `json:"advance"`
		Frozen  *bool      `json:"frozen"`
	}
	if err := body(r, &change); err != nil {
		return nil, err
	}
	var by time.Duration
	if change.Advance != "" {
		parsed, err := time.ParseDuration(change.Advance)
		if err != nil {
			return nil, fmt.Errorf("%w: advance: %w", fault.Invalid, err)
		}
		by = parsed
	}
	if change.Frozen != nil {
		c.Freeze(*change.Frozen)
	}
	if change.Now != nil {
		c.SetClock(*change.Now)
	}
	c.Advance(by)
	return c.controlReadClock(r)
}

func (c *Cloud) controlFaults(r *http.Request) (any, error) {
	var rules []Fault
	if err := body(r, &rules); err != nil {
		return nil, err
	}
	if err := c.SetFaults(rules...); err != nil {
		return nil, err
	}
	return listed(c.Faults()), nil
}

func (c *Cloud) controlSettings(r *http.Request) (any, error) {
	s := c.Settings()
	if err := body(r, &s); err != nil {
		return nil, err
	}
	if err := c.Apply(s); err != nil {
		return nil, err
	}
	return c.Settings(), nil
}

func (c *Cloud) controlAddInstallation(r *http.Request) (any, error) {
	var i Installation
	if err := body(r, &i); err != nil {
		return nil, err
	}
	return c.AddInstallation(i)
}

func (c *Cloud) controlInstallationKey(r *http.Request) (any, error) {
	var change struct {
		Key string `json:"key"`
	}
	if err := body(r, &change); err != nil {
		return nil, err
	}
	return nil, c.SetInstallationKey(r.PathValue("id"), change.Key)
}

func (c *Cloud) controlAddOrganization(r *http.Request) (any, error) {
	var o Organization
	if err := body(r, &o); err != nil {
		return nil, err
	}
	return c.AddOrganization(o)
}

func (c *Cloud) controlPatch(r *http.Request) (any, error) {
	id := r.PathValue("id")
	patched, err := c.Organization(id)
	if err != nil {
		return nil, err
	}
	if err := body(r, &patched); err != nil {
		return nil, err
	}
	if err := c.ChangeOrganization(id, func(o *Organization) { *o = patched }); err != nil {
		return nil, err
	}
	return c.Organization(id)
}

func (c *Cloud) controlDisable(r *http.Request) (any, error) {
	var change struct {
		Expired time.Time `json:"expirationDate"`
	}
	if err := body(r, &change); err != nil {
		return nil, err
	}
	return nil, c.DisableOrganization(r.PathValue("id"), change.Expired)
}

func (c *Cloud) controlPlan(r *http.Request) (any, error) {
	var change struct {
		PlanType *PlanType `json:"planType"`
	}
	if err := body(r, &change); err != nil {
		return nil, err
	}
	if change.PlanType == nil {
		return nil, fmt.Errorf("%w: no planType", fault.Invalid)
	}
	return nil, c.SetPlan(r.PathValue("id"), *change.PlanType)
}

func (c *Cloud) controlRotate(r *http.Request) (any, error) {
	key, err := c.RotateKey(r.PathValue("id"))
	return map[string]string{"billingSyncKey": key}, err
}

func (c *Cloud) controlLicense(r *http.Request) (any, error) {
	document, err := c.License(r.PathValue("id"), r.URL.Query().Get("installationId"))
	return json.RawMessage(document), err
}

func (c *Cloud) controlOrphans(r *http.Request) (any, error) {
	var asked struct {
		Known []string `json:"known"`
	}
	if err := body(r, &asked); err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, key := range asked.Known {
		known[key] = true
	}
	return listed(c.Orphans(r.PathValue("id"), known)), nil
}

func (c *Cloud) controlAddSponsorship(r *http.Request) (any, error) {
	var s Sponsorship
	if err := body(r, &s); err != nil {
		return nil, err
	}
	return c.AddSponsorship(s)
}

func (c *Cloud) controlAddUser(r *http.Request) (any, error) {
	var u User
	if err := body(r, &u); err != nil {
		return nil, err
	}
	return nil, c.AddUser(u)
}

func (c *Cloud) controlUserToken(r *http.Request) (any, error) {
	var asked struct {
		Email string `json:"email"`
	}
	if err := body(r, &asked); err != nil {
		return nil, err
	}
	token, err := c.UserToken(asked.Email)
	return map[string]string{"token": token}, err
}

func (c *Cloud) controlExpect(r *http.Request) (any, error) {
	var expected struct {
		Mail         *MailKey `json:"mail"`
		Installation string   `json:"installation"`
	}
	if err := body(r, &expected); err != nil {
		return nil, err
	}
	if expected.Mail != nil {
		c.ExpectMail(*expected.Mail)
	}
	if expected.Installation != "" {
		c.ExpectToken(expected.Installation)
	}
	return nil, nil
}
