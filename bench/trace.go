package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"
)

// A tracer counts the requests that the kernel sends to one FUSE server, by the
// trace event fuse_request_send (Linux 6.10), in a trace instance of its own.
// Where there is none it counts nothing.
type tracer struct {
	dir  string
	pipe int // trace_pipe, which takes what it gives
}

const (
	tracefs = "/sys/kernel/tracing"
	event   = "/events/fuse/fuse_request_send"
)

func (t *tracer) set(name, value string) error {
	return os.WriteFile(filepath.Join(t.dir, name), []byte(value), 0)
}

// open makes the instance, if this kernel has the event.
func (t *tracer) open() error {
	if _, err := os.Stat(tracefs + "/events"); err != nil {
		if err := unix.Mount("tracefs", tracefs, "tracefs", 0, ""); err != nil {
			return fmt.Errorf("tracefs: %w", err)
		}
	}
	if _, err := os.Stat(tracefs + event); err != nil {
		return nil
	}
	dir := filepath.Join(tracefs, "instances", "plash-bench-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	t.dir = dir
	var err error
	if t.pipe, err = unix.Open(dir+"/trace_pipe", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	return t.set("buffer_size_kb", "65536") // for each CPU: about a million requests
}

// begin begins to count the requests of the device with that minor number,
// which is the connection's number.
func (t *tracer) begin(minor uint32) error {
	if t.dir == "" {
		if err := t.open(); err != nil || t.dir == "" {
			return err
		}
	}
	return errors.Join(t.set(event+"/filter", fmt.Sprintf("connection == %d", minor)), t.set(event+"/enable", "1"))
}

var opcode = regexp.MustCompile(`\(FUSE_(\w+)\)|LOST (\d+) EVENTS`)

// count returns the requests since begin, by opcode.
func (t *tracer) count() (map[string]int, error) {
	if t.dir == "" {
		return nil, nil
	}
	if err := t.set(event+"/enable", "0"); err != nil {
		return nil, err
	}
	requests := map[string]int{}
	buf := make([]byte, 1<<20)
	var rest []byte
	for {
		n, err := unix.Read(t.pipe, buf)
		if n <= 0 || err != nil {
			return requests, nil // EAGAIN: that was all
		}
		rest = append(rest, buf[:n]...)
		end := bytes.LastIndexByte(rest, '\n') + 1
		for _, m := range opcode.FindAllSubmatch(rest[:end], -1) {
			if len(m[1]) > 0 {
				requests[string(m[1])]++
			} else {
				lost, _ := strconv.Atoi(string(m[2]))
				requests["lost"] += lost
			}
		}
		rest = append(rest[:0], rest[end:]...)
	}
}

func (t *tracer) close() {
	if t.dir != "" {
		unix.Close(t.pipe)
		os.Remove(t.dir)
	}
}
