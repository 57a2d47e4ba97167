package cloud

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Kind is a kind of violation.
type Kind string

// Kinds of violations: what no good client brings about.
const (
	// RepeatedMail: an offer was mailed to an address for the second time.
	RepeatedMail Kind = "repeatedMail"
	// MailOnDelete: a revoked offer was mailed, because a delete made a new row.
	MailOnDelete Kind = "mailOnDelete"
	// DuplicateKey: two rows, or two items of a batch, have one offer key.
	DuplicateKey Kind = "duplicateKey"
	// Overlap: a sync began while the cloud worked on another of the organisation.
	Overlap Kind = "overlap"
	// TokenRate: more than ten token requests of an address within a minute.
	TokenRate Kind = "tokenRate"
	// BreakerOpen: credentials were sent again within 24 hours of invalid_client.
	BreakerOpen Kind = "breakerOpen"
	// LastSyncDateOnDelete: a delete carried a lastSyncDate, so that repeating it
	// would make the offer again.
	LastSyncDateOnDelete Kind = "lastSyncDateOnDelete"
	// LargeBatch: more than 1000 items in a request.
	LargeBatch Kind = "largeBatch"
)

// Violation is something that no good client brings about.
type Violation struct {
	Kind Kind      `json:"kind"`
	At   time.Time `json:"at"`
	// Request is the Number of the request.
	Request      int    `json:"request"`
	Organization string `json:"organizationId,omitempty"`
	// Subject is an offer key, a client id or an address, as the kind wants.
	Subject string `json:"subject,omitempty"`
}

func (v Violation) String() string {
	return fmt.Sprintf("%s of %s %s in request %d", v.Kind, v.Organization, v.Subject, v.Request)
}

const (
	officialBatch  = 1000
	tokensAMinute  = 10
	breakerStaysOn = 24 * time.Hour
)

// checks is what the emulator remembers to tell good clients from others.
type checks struct {
	violations []Violation
	arrived    int
	mailed     map[MailKey]int
	allowed    map[MailKey]int
	working    map[string]int // sync requests in work, by organisation
	tokens     map[string][]time.Time
	refused    map[string]refusedClient
}

// MailKey is whom an offer was mailed to. The address is in lower case.
type MailKey struct {
	Organization string `json:"organizationId"`
	OfferKey     string `json:"offerKey"`
	Address      string `json:"address"`
}

type refusedClient struct {
	secret [sha256.Size]byte
	until  time.Time
}

func newChecks() checks {
	return checks{
		mailed: map[MailKey]int{}, allowed: map[MailKey]int{}, working: map[string]int{},
		tokens: map[string][]time.Time{}, refused: map[string]refusedClient{},
	}
}

// Violations are those so far, in order. They stay until Reset.
func (c *Cloud) Violations() []Violation {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.checks.violations)
}

// ViolationsOf are those of one kind.
func (c *Cloud) ViolationsOf(kind Kind) []Violation {
	return slices.DeleteFunc(c.Violations(), func(v Violation) bool { return v.Kind != kind })
}

// MailCounts tells how often each offer was mailed to each address.
func (c *Cloud) MailCounts() map[MailKey]int {
	c.settle()
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.checks.mailed)
}

// Orphans are rows of an organisation that are live, and whose offer key is not
// among those that the self-hosted server still knows.
func (c *Cloud) Orphans(organizationID string, known map[string]bool) []Sponsorship {
	return slices.DeleteFunc(c.Sponsorships(organizationID), func(s Sponsorship) bool { return s.ToDelete || known[s.OfferKey] })
}

// ExpectMail allows one more mail of an offer to an address, as after a member
// asked for it again.
func (c *Cloud) ExpectMail(k MailKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checks.allowed[k.normal()]++
}

func (k MailKey) normal() MailKey {
	return MailKey{strings.ToLower(k.Organization), strings.ToLower(k.OfferKey), strings.ToLower(k.Address)}
}

// ExpectToken allows the credentials of an installation to be sent again after
// invalid_client, as after somebody asked for a sync.
func (c *Cloud) ExpectToken(installationID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.checks.refused, installationPrefix+strings.ToLower(installationID))
}

// violate notes a violation, under the lock.
func (c *Cloud) violate(v Violation) {
	v.At = c.Now()
	c.checks.violations = append(c.checks.violations, v)
}

// checkArrival looks at a request as it was sent, under the lock.
func (c *Cloud) checkArrival(j *job) {
	if j.route == nil {
		return
	}
	switch j.route.name {
	case RouteToken:
		c.checkTokenRate(j.record)
	case RouteSync:
		c.checkSync(j)
	}
}

func (c *Cloud) checkTokenRate(r *Request) {
	recent := slices.DeleteFunc(c.checks.tokens[r.Address], func(t time.Time) bool { return r.At.Sub(t) >= time.Minute })
	recent = append(recent, r.At)
	c.checks.tokens[r.Address] = recent
	if len(recent) > tokensAMinute {
		c.violate(Violation{Kind: TokenRate, Request: r.Number, Subject: r.Address})
	}
}

func (c *Cloud) checkSync(j *job) {
	r := j.record
	violate := func(kind Kind, subject string) {
		c.violate(Violation{Kind: kind, Request: r.Number, Organization: r.Organization, Subject: subject})
	}
	if c.checks.working[r.Organization] > 0 {
		violate(Overlap, "")
	}
	c.checks.working[r.Organization]++
	if len(r.Keys) > officialBatch {
		violate(LargeBatch, "")
	}
	seen := make(map[guid]bool, len(r.Keys))
	for _, item := range j.batch.Batch {
		if item == nil {
			continue
		}
		if seen[item.OfferKey] {
			violate(DuplicateKey, string(item.OfferKey))
		}
		seen[item.OfferKey] = true
		if item.ToDelete && item.LastSyncDate != nil {
			violate(LastSyncDateOnDelete, string(item.OfferKey))
		}
	}
}

// checkDeparture: see checkArrival.
func (c *Cloud) checkDeparture(j *job) {
	// There may have been a Reset since it arrived.
	if j.route != nil && j.route.name == RouteSync && c.checks.working[j.record.Organization] > 0 {
		c.checks.working[j.record.Organization]--
	}
}

// noteMail counts a mail, under the lock.
func (c *Cloud) noteMail(m Mail, byDelete bool) {
	key := MailKey{m.Organization, m.OfferKey, m.To}.normal()
	c.checks.mailed[key]++
	if byDelete {
		c.violate(Violation{Kind: MailOnDelete, Request: m.Request, Organization: m.Organization, Subject: m.OfferKey})
	}
	if c.checks.mailed[key] > 1+c.checks.allowed[key] {
		c.violate(Violation{Kind: RepeatedMail, Request: m.Request, Organization: m.Organization, Subject: m.OfferKey})
	}
}

// noteCredentials remembers credentials that were refused, as a client with a
// breaker does.
func (j *job) noteCredentials(form url.Values, accepted bool) {
	c := j.cloud
	now := c.Now()
	client, secret := strings.ToLower(form.Get("client_id")), sha256.Sum256([]byte(form.Get("client_secret")))
	c.mu.Lock()
	defer c.mu.Unlock()
	before, known := c.checks.refused[client]
	if known && before.secret == secret && now.Before(before.until) {
		c.violate(Violation{Kind: BreakerOpen, Request: j.record.Number, Subject: client})
	}
	if accepted {
		delete(c.checks.refused, client)
		return
	}
	c.checks.refused[client] = refusedClient{secret, now.Add(breakerStaysOn)}
}
