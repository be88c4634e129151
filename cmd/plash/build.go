package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"golang.org/x/sys/unix"
	"plash/internal/errs"
	"plash/launcher"
	"plash/macros"
	"plash/store"
)

var buildCommands = []command{
	{name: "build", macros: true, aliases: []string{"create"}, args: func() any { return new(buildCommand) }},
}

type buildCommand struct {
	runOptions
	ID  string   `arg:"" name:"ID"`
	Cmd []string `arg:"" optional:"" name:"CMD"`
}

func (c *buildCommand) Run(p *plash) error {
	if macros.IsMacro(c.ID) {
		if len(c.Env) > 0 {
			return errors.New("--env: with macros it is one itself, and stands behind the base image")
		}
		return p.buildAndPrint(append([]string{c.ID}, c.Cmd...), &c.placeOptions)
	}
	if err := becomeRoot(); err != nil {
		return err
	}
	stdout, err := divertOutput()
	if err != nil {
		return err
	}
	s, img, err := openImage(c.ID)
	if err != nil {
		return err
	}
	command := c.Cmd
	if len(command) == 1 && strings.ContainsAny(command[0], " \t\n") {
		command = []string{"sh", "-ec", command[0]}
	}
	id, err := p.step(s, img, command, &c.runOptions, "build "+shellWords(c.Cmd))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, id)
	return errs.Path("standard output", err)
}

// shellWords joins words as a shell would have to be given them.
func shellWords(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		if word == "" || strings.ContainsFunc(word, needsQuotes) {
			word = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
		quoted[i] = word
	}
	return strings.Join(quoted, " ")
}

func needsQuotes(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./:=,+@%", r)
}

// divertOutput lets all that writes to standard output, this process and those
// it starts, write to standard error, and returns the real standard output:
// only the id belongs there.
func divertOutput() (io.Writer, error) {
	fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = unix.Dup3(2, 1, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("standard output: %w", err)
	}
	return os.NewFile(uintptr(fd), "standard output"), nil
}

// step runs command on top of an image and makes an image of what it changed;
// made is kept beside the layer as what made it. A command that fails makes
// none.
func (p *plash) step(s *store.Store, parent image, command []string, o options, made string) (store.ID, error) {
	// No command is a shell here. What an image takes from the host counts for
	// runs only, or the same code would not build the same.
	plain := parent
	plain.meta.Entrypoint, plain.meta.EnvNames, plain.meta.EnvPrefixes, plain.meta.Mounts = nil, nil, nil, nil
	config, err := p.container(plain, command, o)
	if err != nil {
		return 0, err
	}
	release, err := s.Hold(parent.id)
	if err != nil {
		return 0, err
	}
	defer release()
	launcher.HoldSignals()
	temp, err := s.TempDir()
	if err != nil {
		return 0, err
	}
	defer temp.Remove()
	config.DataDir, config.Mountpoint = s.Dir(), s.Mountpoint()
	config.Changes, config.Temp, config.Keep, config.Build = temp.Path, temp, true, true
	status, err := launcher.Run(config)
	if err != nil {
		return 0, err
	}
	switch {
	case slices.Contains([]syscall.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGTERM}, status.Signal):
		// Someone ended the build; whoever called plash wants to know that.
		temp.Remove()
		status.Exit()
	case status.Signal != 0:
		return 0, fmt.Errorf("build: the command was killed by signal %d (%s)", status.Signal, status.Signal)
	case status.Code == 126 || status.Code == 127:
		// Not executable or not there, which the launcher or a shell has said.
		return 0, errSaid
	case status.Code != 0:
		return 0, fmt.Errorf("build: the command failed with exit code %d", status.Code)
	}
	meta := parent.meta
	meta.Made = made
	return s.StackMeta(parent.id, filepath.Join(temp.Path, "data"), meta)
}
