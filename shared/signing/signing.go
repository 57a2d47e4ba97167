// Package signing keeps the keys that sign the sessions of machines: made here,
// stored sealed, rotated on a schedule, and the same in every instance.
package signing
