// Package events holds whole API Gateway events (HTTP API, payload format 2.0),
// one for each kind of request that clients make, and those of the scheduled
// function: a tick of EventBridge Scheduler, and an invocation for what somebody
// wants at once. `sam local invoke -e` takes them as they are; tests replay them
// through the real handlers, so that they stay true. Requests that need a token
// have TOKEN in its place.
package events

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
)

//go:embed *.json
var files embed.FS

// Names lists the events, without ".json".
func Names() ([]string, error) {
	names, err := fs.Glob(files, "*.json")
	if err != nil {
		return nil, fmt.Errorf("list the events: %w", err)
	}
	for i, name := range names {
		names[i] = name[:len(name)-len(".json")]
	}
	return names, nil
}

// Load gives one event, for example "keyconnector-get", with token as its
// bearer token where it has one. A token is letters, digits and "-._~+/=", so
// it needs no escape.
func Load(name, token string) ([]byte, error) {
	event, err := files.ReadFile(name + ".json")
	if err != nil {
		return nil, fmt.Errorf("load the event %s: %w", name, err)
	}
	return bytes.ReplaceAll(event, []byte("Bearer TOKEN"), []byte("Bearer "+token)), nil
}
