// Package secret is the domain of projects and secrets. Names, keys, values and
// notes are EncStrings under the organisation's key, which nothing here has.
//
// A secret is a head, which lists show, and contents: one document for each
// value that it ever had, written once. The head names the one that is valid, so
// changing a secret is one compare-and-swap of its head, and a list of ten
// thousand secrets reads no value.
package secret

import (
	"log/slog"
	"time"

	"github.com/latchkey-fn/latchkey/shared/audit"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
)

const (
	// maxHistory is how many versions of a secret are kept.
	maxHistory = 50
	// trashLife is how long a secret can be had back from the trash.
	trashLife = 30 * 24 * time.Hour
	// atOnce is how many calls of the store one request makes side by side.
	atOnce = 8
)

// Config is what the domain stands on.
type Config struct {
	Store    *store.Store
	Machines *machine.Machines
	Logger   *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Secrets is the domain. It is safe for concurrent use.
type Secrets struct {
	store      *store.Store
	projects   store.Collection[Project]
	heads      store.Collection[Head]
	contents   store.Collection[Content]
	departures store.Collection[Departure]
	machines   *machine.Machines
	audit      audit.Log
	logger     *slog.Logger
	now        func() time.Time
	sweeps     sweeps
}

// New makes the domain. Nothing is contacted before the first use.
func New(c Config) *Secrets {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Secrets{
		store:      c.Store,
		projects:   store.NewCollection[Project](c.Store, "projects"),
		heads:      store.NewCollection[Head](c.Store, "secrets"),
		contents:   store.NewCollection[Content](c.Store, "secret-contents"),
		departures: store.NewCollection[Departure](c.Store, "secret-departures"),
		machines:   c.Machines,
		audit:      audit.New(c.Logger),
		logger:     c.Logger,
		now:        c.Now,
	}
}

// Project is a project. Its document's parent is the organisation.
type Project struct {
	Name    string         `json:"name"` // an EncString
	Created time.Time      `json:"created"`
	Revised time.Time      `json:"revised"`
	People  machine.People `json:"people,omitzero"`
}

// Head is a secret without its value. Its document's parent is the
// organisation, or, in the trash, trashOf it; its look-up value the project, if
// there is one.
type Head struct {
	Organization string    `json:"organization"`
	Key          string    `json:"key"` // an EncString
	Created      time.Time `json:"created"`
	Revised      time.Time `json:"revised"`
	// Content is the id of the valid content, History those of older ones that
	// can be read as versions, oldest first.
	Content string   `json:"content"`
	History []string `json:"history,omitempty"`
	// Size is what the content's texts measure, in bytes.
	Size    int            `json:"size"`
	People  machine.People `json:"people,omitzero"`
	Trashed *machine.Deed  `json:"trashed,omitempty"`
	// Purging is set before the first content is deleted: what then breaks off
	// is gone on with, and cannot be had back any more.
	Purging bool `json:"purging,omitempty"`
}

// Content is a value and a note that a secret has or had. Its document's parent
// is the secret. It is never changed.
type Content struct {
	Organization string    `json:"organization"`
	Value        string    `json:"value"` // EncStrings
	Note         string    `json:"note"`
	Created      time.Time `json:"created"`
	// Machine or User is who wrote it.
	Machine string `json:"machine,omitempty"`
	User    string `json:"user,omitempty"`
}

// Departure notes that a secret left a project, whose listing no longer shows
// it: sync has to know. Its document's parent is the project. It expires after
// departureLife.
type Departure struct {
	// Until is a time after which the secret was certainly gone.
	Until time.Time `json:"until"`
}

// trashOf is the parent of an organisation's heads that are in its trash.
func trashOf(organization string) string { return organization + "/trash" }
