package main

import (
	"fmt"
	"io"
	"os"

	"plash/internal/errs"
	"plash/launcher"
)

// again runs a plash of its own with words, writes to w what it prints, and
// returns how it ended.
func (p *plash) again(words []string, w io.Writer) (launcher.Status, error) {
	return capture(w, func(stdout *os.File) (launcher.Status, error) {
		return launcher.Again(p.withOptions(words), stdout)
	})
}

// againAsRoot is again as userspace root, and with another standard input.
func (p *plash) againAsRoot(words []string, stdin *os.File, w io.Writer) (launcher.Status, error) {
	return capture(w, func(stdout *os.File) (launcher.Status, error) {
		return launcher.AgainAsRoot(p.withOptions(words), stdin, stdout)
	})
}

// withOptions returns words with the options of plash itself before them.
func (p *plash) withOptions(words []string) []string {
	if p.chatty {
		return append([]string{"-v"}, words...)
	}
	return words
}

// capture writes to w what run prints.
func capture(w io.Writer, run func(stdout *os.File) (launcher.Status, error)) (launcher.Status, error) {
	r, stdout, err := os.Pipe()
	if err != nil {
		return launcher.Status{}, fmt.Errorf("pipe: %s", errs.Text(err))
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, r)
		copied <- err
	}()
	status, err := run(stdout)
	stdout.Close()
	if err2 := <-copied; err == nil && err2 != nil {
		err = errs.Path("standard output", err2)
	}
	return status, err
}
