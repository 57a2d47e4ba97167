package cloud

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/latchkey-fn/latchkey/local/privatefile"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Save writes the State to a file that only its owner can read, in place of one
// that is there. What was recorded is not part of it: mails, events, requests,
// violations; nor are faults, settings and the clock.
func (c *Cloud) Save(path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("save the emulated cloud: %w", err)
		}
	}()
	content, err := json.MarshalIndent(c.State(), "", "  ")
	if err != nil {
		return err
	}
	return privatefile.Replace(path, append(content, '\n'))
}

// Load replaces the data by what was saved. It leaves them where nothing was.
func (c *Cloud) Load(path string) error {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load the emulated cloud: %w", err)
	}
	var s State
	if err := json.Unmarshal(content, &s); err != nil {
		return fmt.Errorf("%w: load the emulated cloud: %s: %w", fault.Invalid, path, err)
	}
	if err := c.SetState(s); err != nil {
		return fmt.Errorf("load the emulated cloud: %s: %w", path, err)
	}
	return nil
}
