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
	if p.chatty {
		words = append([]string{"-v"}, words...)
	}
	r, stdout, err := os.Pipe()
	if err != nil {
		return launcher.Status{}, fmt.Errorf("pipe: %s", errs.Text(err))
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, r)
		copied <- err
	}()
	status, err := launcher.Again(words, stdout)
	stdout.Close()
	if err2 := <-copied; err == nil && err2 != nil {
		err = errs.Path("standard output", err2)
	}
	return status, err
}
