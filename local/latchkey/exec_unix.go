//go:build unix

package main

import "syscall"

// replaceProcess makes this process the command: what is sent to it and how it
// ends is then the command's own. It returns only if that failed.
func replaceProcess(path string, args, environment []string) error {
	return syscall.Exec(path, args, environment)
}
