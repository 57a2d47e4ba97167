//go:build unix

package main

import (
	"fmt"
	"syscall"
	"time"
)

// cpuTime is what this process has used of the processors, its garbage
// collector included. Unlike the time of day it leaves out what other processes
// of the machine take.
func cpuTime() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}
