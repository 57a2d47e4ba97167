//go:build !unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
)

// replaceProcess runs the command and ends with its exit code, where a process
// cannot become another one. It returns only if the command could not be
// started.
func replaceProcess(path string, args, environment []string) error {
	signal.Ignore(os.Interrupt) // it reaches the command too, which decides
	command := exec.Command(path)
	command.Args, command.Env = args, environment
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	os.Exit(command.ProcessState.ExitCode())
	return nil
}
