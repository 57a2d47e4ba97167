package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// process is a running latchkey.
type process struct {
	cmd    *exec.Cmd
	begun  time.Time
	stdout io.Reader
	output *json.Decoder // what it prints: JSON, one document after the other
	stderr bytes.Buffer
	cancel context.CancelFunc
}

// launch starts latchkey with nothing of this process's environment but what a
// program needs.
func launch(ctx context.Context, binary string, settings map[string]string, args ...string) (*process, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &process{cmd: exec.CommandContext(ctx, binary, args...), cancel: cancel}
	p.cmd.Dir = filepath.Dir(binary)
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.cmd.Dir}
	for name, value := range settings {
		p.cmd.Env = append(p.cmd.Env, name+"="+value)
	}
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(os.Interrupt) }
	p.cmd.WaitDelay = 5 * time.Second
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	p.stdout, p.output = stdout, json.NewDecoder(stdout)
	p.begun = time.Now()
	if err := p.cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	return p, nil
}

// until reads documents into value until one is what is waited for.
func (p *process) until(value any, found func() bool) error {
	for {
		if err := p.output.Decode(value); err != nil {
			ended := p.stop() // and with it all that it had to say
			return fmt.Errorf("latchkey %s ended before it was up: %w: %s", p.cmd.Args[1], errors.Join(err, ended), p.stderr.String())
		}
		if found() {
			return nil
		}
	}
}

// drain throws away what comes after, so that the process is not held up.
func (p *process) drain() {
	// It ends with the process, in whatever way.
	go func() { _, _ = io.Copy(io.Discard, io.MultiReader(p.output.Buffered(), p.stdout)) }()
}

// stop asks the process to end, and waits for it.
func (p *process) stop() error {
	p.cancel()
	err := p.cmd.Wait()
	if errors.Is(err, context.Canceled) {
		return nil // as we asked
	}
	return err
}

// answers waits until an address is answered, and gives the time since exec.
func (p *process) answers(ctx context.Context, url string) (time.Duration, error) {
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return 0, err
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			took := time.Since(p.begun)
			_, err := io.Copy(io.Discard, response.Body)
			if err := errors.Join(err, response.Body.Close()); err != nil {
				return 0, err
			}
			if response.StatusCode != http.StatusOK {
				return 0, fmt.Errorf("GET %s: %s", url, response.Status)
			}
			return took, nil
		}
		if ctx.Err() != nil || time.Since(p.begun) > 30*time.Second {
			return 0, err
		}
		time.Sleep(time.Millisecond)
	}
}

// resident is the memory of a process in MB: VmRSS and, of it, what no file
// backs (RssAnon: heap, stacks, globals) and what one does (RssFile: the pages
// of the program that were touched).
type resident struct{ total, anonymous, file float64 }

func (p *process) resident() (resident, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return resident{}, err
	}
	var r resident
	for name, to := range map[string]*float64{"VmRSS": &r.total, "RssAnon": &r.anonymous, "RssFile": &r.file} {
		_, line, found := strings.Cut(string(status), "\n"+name+":")
		fields := strings.Fields(line)
		if !found || len(fields) < 2 || fields[1] != "kB" {
			return resident{}, fmt.Errorf("/proc/%d/status has no %s in kB", p.cmd.Process.Pid, name)
		}
		kB, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			return resident{}, fmt.Errorf("%s of /proc: %w", name, err)
		}
		*to = kB * 1024 / 1e6
	}
	return r, nil
}

func (r resident) String() string {
	return fmt.Sprintf("%.1f MB heap, stacks and globals, %.1f MB pages of the program", r.anonymous, r.file)
}
