package main

import (
	"bytes"
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
	"plash/launcher"
	"plash/macros"
	"plash/store"
)

var buildCommands = []command{
	{name: "build", macros: true, aliases: []string{"create"}, args: func() any { return new(buildCommand) }},
	{name: "b", args: func() any { return new(bCommand) }},
	{name: "eval", args: func() any { return new(evalCommand) }},
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
		return p.buildMacros(append([]string{c.ID}, c.Cmd...), &c.placeOptions)
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
	return err
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
	config, err := p.container(parent, command, o)
	if err != nil {
		return 0, err
	}
	release, err := s.Hold(parent.id)
	if err != nil {
		return 0, err
	}
	defer release()
	temp, err := s.TempDir()
	if err != nil {
		return 0, err
	}
	defer temp.Remove()
	config.Entrypoint = nil // no command is a shell here
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

// buildMacros builds from macros, with options for the steps, and prints the
// id.
func (p *plash) buildMacros(words []string, o options) error {
	id, err := lookup(words)
	if err == nil {
		return printID(id)
	}
	if !errors.Is(err, macros.ErrImport) && !errors.Is(err, macros.ErrUncached) {
		return err
	}
	if err := becomeRoot(); err != nil {
		return err
	}
	stdout, err := divertOutput()
	if err != nil {
		return err
	}
	if err := closeInput(); err != nil {
		return err
	}
	s, program, err := evaluate(words, false)
	if err != nil {
		return err
	}
	id, err = program.Build(s, func(parent store.ID, code string, command []string) (store.ID, error) {
		img, err := loadImage(s, parent)
		if err != nil {
			return 0, err
		}
		return p.step(s, img, command, o, code)
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, id)
	return err
}

// closeInput makes /dev/null standard input.
func closeInput() error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	return unix.Dup3(int(null.Fd()), 0, 0)
}

// lookup returns the image that macros build if all of it was built before:
// for that nobody needs to be root. Else the error is macros.ErrImport or
// macros.ErrUncached.
func lookup(words []string) (store.ID, error) {
	s, program, err := evaluate(words, true)
	if err != nil {
		return 0, err
	}
	return program.Build(s, nil)
}

// evaluate evaluates macros; lookupOnly imports nothing. Macros without a base
// image need no store and get nil.
func evaluate(words []string, lookupOnly bool) (s *store.Store, program *macros.Program, err error) {
	if len(words) == 0 {
		return nil, nil, errors.New("no build arguments")
	}
	open := func() (*store.Store, error) {
		if s == nil {
			s, err = initStore()
		}
		return s, err
	}
	program, err = macros.Eval(words, macros.Options{Store: open, LookupOnly: lookupOnly, Progress: os.Stderr})
	return s, program, err
}

// built returns the image that macros build. What is not there yet is built by
// a plash of its own, so that this one stays what it is, with its standard
// input and output and its user, for the program that comes after.
func (p *plash) built(words []string) (store.ID, error) {
	id, err := lookup(words)
	if !errors.Is(err, macros.ErrImport) && !errors.Is(err, macros.ErrUncached) {
		return id, err
	}
	var printed bytes.Buffer
	status, err := p.again(append([]string{"build"}, words...), &printed)
	if err != nil {
		return 0, err
	}
	if status != (launcher.Status{}) {
		status.Exit() // it has said why
	}
	return store.ParseID(strings.TrimSpace(printed.String()))
}

// buildAndRun is plash --MACRO… [-- CMD…], a command without a name.
var buildAndRun = command{name: "--MACRO…", args: func() any { return new(buildAndRunCommand) }}

type buildAndRunCommand struct {
	placeOptions
	Words []string `arg:"" optional:"" name:"MACROS"`
}

func (c *buildAndRunCommand) Run(p *plash) error {
	words, command := cut(c.Words)
	id, err := p.built(words)
	if err != nil {
		return err
	}
	return p.run(fmt.Sprint(id), command, &c.placeOptions)
}

// cut splits words at the first --.
func cut(words []string) (before, after []string) {
	if i := slices.Index(words, "--"); i >= 0 {
		return words[:i], words[i+1:]
	}
	return words, nil
}

type bCommand struct {
	Words []string `arg:"" optional:"" name:"COMMAND"`
}

func (c *bCommand) Run(p *plash) error {
	words, after := cut(c.Words)
	if len(words) == 0 || !slices.ContainsFunc(words, macros.IsMacro) {
		return errors.New("no build arguments")
	}
	if macros.IsMacro(words[0]) {
		return find("b").usage("b")
	}
	command := find(words[0])
	if command == nil {
		return noSuchCommand(words[0])
	}
	// Its options look like macros.
	options, rest := command.ownOptions(words[1:])
	n := slices.IndexFunc(rest, macros.IsMacro)
	if n < 0 {
		return errors.New("no build arguments")
	}
	id, err := p.built(rest[n:])
	if err != nil {
		return err
	}
	return p.dispatch(slices.Concat(words[:1], options, []string{id.String()}, rest[:n], after))
}

type evalCommand struct {
	Words []string `arg:"" optional:"" name:"MACROS"`
}

func (c *evalCommand) Run() error {
	_, program, err := evaluate(c.Words, true)
	if errors.Is(err, macros.ErrImport) {
		if err := becomeRoot(); err != nil {
			return err
		}
		_, program, err = evaluate(c.Words, false)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Print(program.Script())
	return err
}
