package cloud

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// When is a point of the server's work on a request.
type When string

// Points, in order. What a fault ends at a point does not go on: after the
// commit there are rows but no event and no mail, after the mails everything is
// done and only the answer is lost. Routes other than sync have the first and
// the last; the others are taken for the nearer of these.
const (
	Before       When = "before"
	BeforeCommit When = "beforeCommit" // rows were read, and not yet written
	AfterCommit  When = "afterCommit"
	AfterMail    When = "afterMail"
)

// Action is what goes wrong.
type Action string

// Actions that end the request at their point.
const (
	Status Action = "status" // answers Status, Body, Headers
	HTML   Action = "html"   // answers Status (502) with a page
	Close  Action = "close"  // closes the connection without an answer
)

// Actions that let time pass at their point: Milliseconds of it.
const (
	// Hang is stuck, goes on with the work, and never answers. With no
	// Milliseconds it is stuck until the client leaves, and does not go on.
	Hang Action = "hang"
	// Delay is slow, goes on, and answers.
	Delay Action = "delay"
)

// Actions on the answer, at AfterMail unless it says otherwise; at AfterCommit
// no mail is sent, and the answer is as if. DropItems may stand at Before: then
// the cloud does not see the items. Keys says which, or else Count how many (1).
const (
	Truncate  Action = "truncate" // sends Bytes of the body, and closes
	BadJSON   Action = "badJson"
	DropItems Action = "dropItems"
	DupItems  Action = "dupItems"
	ExtraItem Action = "extraItem" // adds Count items that nobody sent
	Reorder   Action = "reorder"
)

// Actions on tokens. At the token endpoint they issue one that expired
// Milliseconds ago, or is valid in that time (10 minutes if 0). At other routes
// TokenExpired refuses the token; NotYetValid does too, but for a licence: it
// gives one whose token is not valid yet.
const (
	TokenExpired Action = "tokenExpired"
	NotYetValid  Action = "notYetValid"
)

// Match says which requests a fault hits. All that is said has to hold.
type Match struct {
	// Route is empty for all.
	Route Route `json:"route,omitempty"`
	// Nth is the number, from 1, of the request among those that match otherwise.
	Nth int `json:"nth,omitempty"`
	// From and To are such numbers too, both included; To 0 is without end.
	From int `json:"from,omitempty"`
	To   int `json:"to,omitempty"`
	// Batch is about the items of a sync.
	Batch *BatchMatch `json:"batch,omitempty"`
	// Func is any other condition. It sees the request as it arrives, and must not
	// call the Cloud.
	Func func(Request) bool `json:"-"`
}

// BatchMatch is a condition on the items of a sync request.
type BatchMatch struct {
	// Key is an offer key that has to be among them.
	Key string `json:"key,omitempty"`
	// Min and Max bound how many there are; Max nil is without bound.
	Min int  `json:"min,omitempty"`
	Max *int `json:"max,omitempty"`
	// Deletes: at least one (true) or no (false) item is a delete.
	Deletes *bool `json:"deletes,omitempty"`
	// Organization is the cloud's id of the organisation.
	Organization string `json:"organizationId,omitempty"`
}

// Fault is a rule that makes requests fail. Of several that match a request the
// first is used, and all count it.
type Fault struct {
	Match  Match  `json:"match"`
	When   When   `json:"when,omitempty"`
	Action Action `json:"action"`

	Status       int               `json:"status,omitempty"`
	Body         string            `json:"body,omitempty"`
	Headers      map[string]string `json:"headers,omitempty"`
	Milliseconds int               `json:"ms,omitempty"`
	Bytes        int               `json:"bytes,omitempty"`
	Count        int               `json:"count,omitempty"`
	Keys         []string          `json:"keys,omitempty"`

	// Times is how often at most; 0 is without bound.
	Times int `json:"times,omitempty"`
}

// For is Milliseconds.
func (f *Fault) For() time.Duration { return time.Duration(f.Milliseconds) * time.Millisecond }

// armed is a fault with what it has counted.
type armed struct {
	Fault
	seen, used int
}

func (f Fault) onAnswer() bool {
	switch f.Action {
	case Truncate, BadJSON, DropItems, DupItems, ExtraItem, Reorder:
		return true
	}
	return false
}

// complete fills in the point, and refuses what makes no sense.
func (f *Fault) complete() error {
	switch f.Action {
	case Status:
		if f.Status < 200 || f.Status > 599 {
			return fmt.Errorf("%w: fault: status %d", fault.Invalid, f.Status)
		}
	case HTML, Close, Hang, Delay, Truncate, BadJSON, DropItems, DupItems, ExtraItem, Reorder:
	case TokenExpired, NotYetValid:
		if f.When != "" && f.When != Before {
			return fmt.Errorf("%w: fault: %s is about tokens, and has no point", fault.Invalid, f.Action)
		}
	default:
		return fmt.Errorf("%w: fault: no action %q", fault.Invalid, f.Action)
	}
	if f.Milliseconds < 0 || f.Bytes < 0 || f.Count < 0 || f.Times < 0 {
		return fmt.Errorf("%w: fault: a negative number", fault.Invalid)
	}
	if f.When == "" {
		f.When = Before
		if f.onAnswer() {
			f.When = AfterMail
		}
	}
	switch f.When {
	case AfterCommit, AfterMail:
	case Before, BeforeCommit:
		if f.onAnswer() && (f.Action != DropItems || f.When != Before) {
			return fmt.Errorf("%w: fault: there is no answer for %s %s", fault.Invalid, f.Action, f.When)
		}
	default:
		return fmt.Errorf("%w: fault: no point %q", fault.Invalid, f.When)
	}
	return nil
}

// SetFaults replaces the rules, and their counts begin anew.
func (c *Cloud) SetFaults(rules ...Fault) error {
	faults := make([]*armed, len(rules))
	for i, rule := range rules {
		if err := rule.complete(); err != nil {
			return err
		}
		faults[i] = &armed{Fault: rule}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = faults
	return nil
}

// Faults are the rules as they stand.
func (c *Cloud) Faults() []Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	rules := make([]Fault, len(c.faults))
	for i, f := range c.faults {
		rules[i] = f.Fault
	}
	return rules
}

// suffer gives the fault of a request, under the lock.
func (c *Cloud) suffer(r *Request) *Fault {
	var first *armed
	for _, f := range c.faults {
		if !f.Match.fits(r) {
			continue
		}
		f.seen++
		if first == nil && f.Match.counts(f.seen) && (f.Times == 0 || f.used < f.Times) {
			first = f
		}
	}
	if first == nil {
		return nil
	}
	first.used++
	used := first.Fault
	if r.Route != RouteSync {
		used.When = map[When]When{BeforeCommit: Before, AfterCommit: AfterMail}[used.When]
		if used.When == "" {
			used.When = first.When
		}
	}
	return &used
}

func (m Match) fits(r *Request) bool {
	return (m.Route == "" || m.Route == r.Route) && (m.Batch == nil || m.Batch.fits(r)) && (m.Func == nil || m.Func(*r))
}

func (m Match) counts(n int) bool {
	return (m.Nth == 0 || n == m.Nth) && n >= m.From && (m.To == 0 || n <= m.To)
}

func (m BatchMatch) fits(r *Request) bool {
	if r.Route != RouteSync {
		return false
	}
	key, _ := parseGUID(m.Key)
	organization, _ := parseGUID(m.Organization)
	return (m.Key == "" || slices.Contains(r.Keys, key)) &&
		len(r.Keys) >= m.Min && (m.Max == nil || len(r.Keys) <= *m.Max) &&
		(m.Deletes == nil || *m.Deletes == (r.Deletes > 0)) &&
		(m.Organization == "" || organization == r.Organization)
}

// reach does what the fault wants at a point of the work. It tells whether the
// request ends here, and with which answer.
func (j *job) reach(at When) (answer, bool) {
	f := j.fault
	if f == nil || f.When != at {
		return answer{}, false
	}
	switch f.Action {
	case Status:
		a := emptyAnswer(f.Status)
		a.body = []byte(f.Body)
		if f.Body == "" && f.Status >= http.StatusInternalServerError {
			a = serverError()
			a.status = f.Status
		}
		for name, value := range f.Headers {
			a.header.Set(name, value)
		}
		return a, true
	case HTML:
		a := emptyAnswer(f.Status)
		if f.Status == 0 {
			a.status = http.StatusBadGateway
		}
		a.header.Set("Content-Type", "text/html; charset=UTF-8")
		a.body = []byte("<!DOCTYPE html>\n<html><head><title>Bad gateway</title></head><body><h1>Something went wrong</h1></body></html>\n")
		return a, true
	case Close:
		return closedConnection(), true
	case Hang:
		j.mute = true
		if f.Milliseconds == 0 {
			_ = j.wait(forever) // it ends when the emulator closes
			return closedConnection(), true
		}
		return closedConnection(), j.wait(f.For()) != nil
	case Delay:
		return closedConnection(), j.wait(f.For()) != nil
	case TokenExpired, NotYetValid:
		if j.route == nil || j.route.name == RouteToken || j.route.name == RouteLicense && f.Action == NotYetValid {
			return answer{}, false
		}
		return unauthorized(true), true
	case DropItems:
		if at == Before && j.batch != nil {
			picked := f.picker()
			j.batch.Batch = slices.DeleteFunc(j.batch.Batch, func(i *syncItem) bool { return i != nil && picked(i.OfferKey) })
			return answer{}, false
		}
	}
	j.stopped = at == AfterCommit
	return answer{}, false
}

// forever is longer than anybody waits.
const forever = 100 * 365 * 24 * time.Hour

// picker tells, one by one, which items are meant: those of Keys, or the first.
func (f *Fault) picker() func(guid) bool {
	left := max(f.Count, 1)
	return func(key guid) bool {
		if len(f.Keys) > 0 {
			return slices.ContainsFunc(f.Keys, func(k string) bool {
				id, ok := parseGUID(k)
				return ok && guid(id) == key
			})
		}
		left--
		return left >= 0
	}
}

// shape does to an answer what the fault wants.
func (j *job) shape(a answer) answer {
	f := j.fault
	if f == nil || !f.onAnswer() || f.When == Before {
		return a
	}
	switch f.Action {
	case Truncate:
		a.cut = min(f.Bytes, len(a.body))
		return a
	case BadJSON:
		a.body = append([]byte(`{"sponsorshipsBatch":[{]`), a.body[:len(a.body)/2]...)
		return a
	}
	if a.items == nil {
		return a
	}
	return itemsAnswer(j.shapeItems(a.items))
}

func (j *job) shapeItems(items []syncResult) []syncResult {
	f := j.fault
	picked := f.picker()
	shaped := make([]syncResult, 0, len(items)+max(f.Count, 1))
	switch f.Action {
	case DropItems:
		for _, item := range items {
			if !picked(item.OfferKey) {
				shaped = append(shaped, item)
			}
		}
	case DupItems:
		for _, item := range items {
			shaped = append(shaped, item)
			if picked(item.OfferKey) {
				shaped = append(shaped, item)
			}
		}
	case ExtraItem:
		shaped = append(shaped, items...)
		now := j.cloud.Now()
		j.cloud.mu.Lock()
		defer j.cloud.mu.Unlock()
		for range max(f.Count, 1) {
			shaped = append(shaped, syncResult{OfferKey: guid(j.cloud.newID()), LastSyncDate: &date{now}})
		}
	case Reorder:
		shaped = append(shaped, items...)
		j.cloud.mu.Lock()
		defer j.cloud.mu.Unlock()
		j.cloud.random.Shuffle(len(shaped), func(a, b int) { shaped[a], shaped[b] = shaped[b], shaped[a] })
	}
	return shaped
}
