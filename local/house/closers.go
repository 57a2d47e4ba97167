package house

import (
	"errors"
	"io"
)

// Closers are what was opened, to be closed in the reverse order.
type Closers []io.Closer

// Add appends something that was opened.
func (c *Closers) Add(part io.Closer) { *c = append(*c, part) }

// Close closes all, whatever fails.
func (c *Closers) Close() error {
	var faults []error
	for i := len(*c) - 1; i >= 0; i-- {
		faults = append(faults, (*c)[i].Close())
	}
	*c = nil
	return errors.Join(faults...)
}
