package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"plash/store"
)

var otherCommands = []command{
	{name: "clean", args: func() any { return new(cleanCommand) }},
	{name: "completion", args: func() any { return new(completionCommand) }},
	{name: "doctor", args: func() any { return new(doctorCommand) }},
	{name: "help", args: func() any { return new(helpCommand) }},
	{name: "help-macros", args: func() any { return new(helpMacrosCommand) }},
	{name: "init", args: func() any { return new(initCommand) }},
	{name: "mkdtemp", args: func() any { return new(mkdtempCommand) }},
	{name: "purge", args: func() any { return new(purgeCommand) }},
	{name: "union", args: func() any { return new(unionCommand) }},
	{name: "version", args: func() any { return new(versionCommand) }},
}

// version is set by the linker.
var version = "unreleased"

type versionCommand struct{}

func (c *versionCommand) Run() error { return printLine(version) }

type initCommand struct{}

func (c *initCommand) Run() error {
	_, err := initStore()
	return err
}

type mkdtempCommand struct{}

// Run makes the directory for the process that called plash: a script's shell.
func (c *mkdtempCommand) Run() error {
	s, err := initStore()
	if err != nil {
		return err
	}
	sid, err := unix.Getsid(0)
	if err != nil {
		return err
	}
	path, err := s.MkTemp(sid, os.Getppid())
	if err != nil {
		return err
	}
	return printLine(path)
}

type cleanCommand struct {
	Index bool `name:"clean-index"`
	Keys  bool `name:"clean-cache-keys"`
	Tmp   bool `name:"clean-tmp"`
}

func (c *cleanCommand) Run() error {
	if err := becomeRoot(); err != nil {
		return err
	}
	s, err := openStore()
	if err != nil {
		return err
	}
	var what store.What
	if c.Index {
		what |= store.CleanIndex
	}
	if c.Keys {
		what |= store.CleanKeys
	}
	if c.Tmp {
		what |= store.CleanTmp
	}
	if what == 0 {
		what = store.CleanAll
	}
	removed, err := s.Clean(what)
	for _, path := range removed {
		fmt.Fprintln(os.Stderr, "removed", path)
	}
	return err
}

type purgeCommand struct {
	Yes bool `name:"yes"`
}

func (c *purgeCommand) Run() error {
	if err := becomeRoot(); err != nil {
		return err
	}
	s, err := openStore()
	if err != nil {
		return err
	}
	if !c.Yes {
		fmt.Fprintf(os.Stderr, "Delete all data in %s? [y/N] ", s.Dir())
		// No answer at all is an answer too.
		answer, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err != nil {
			fmt.Fprintln(os.Stderr) // nobody has typed a line break
		}
		if answer = strings.TrimSpace(answer); answer != "y" && answer != "yes" {
			return errors.New("purge: not confirmed")
		}
	}
	return s.Purge()
}
