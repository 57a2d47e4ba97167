// Package buildinfo tells which version runs.
package buildinfo

// Version is set by the linker (see the Makefile); a plain `go build` leaves
// it at this.
var Version = "0.0.0-dev"
