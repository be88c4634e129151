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

type otherCommands struct {
	Clean      cleanCommand      `cmd:"" name:"clean" group:"Other Commands" help:"remove what nothing uses: dangling links, temporary directories of processes that are gone"`
	Help       helpCommand       `cmd:"" name:"help" group:"Other Commands" help:"list the commands, or say what one does"`
	HelpMacros helpMacrosCommand `cmd:"" name:"help-macros" group:"Other Commands" help:"list the macros"`
	Init       initCommand       `cmd:"" name:"init" group:"Other Commands" help:"make the data directory"`
	Mkdtemp    mkdtempCommand    `cmd:"" name:"mkdtemp" group:"Other Commands" help:"make a temporary directory in the data directory, in use while the calling process lives"`
	Purge      purgeCommand      `cmd:"" name:"purge" group:"Other Commands" help:"delete all data"`
	Union      unionCommand      `cmd:"" name:"union" group:"Other Commands" usage:"[-f] [-d] -o lowerdir=DIR[:DIR…][,upperdir=DIR,workdir=DIR][,OPTION…] MOUNTPOINT" help:"mount a union of directories, as fuse-overlayfs does"`
	Version    versionCommand    `cmd:"" name:"version" group:"Other Commands" help:"print the version"`
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
	Index bool `name:"clean-index" help:"links in index/ only"`
	Keys  bool `name:"clean-cache-keys" help:"links in map/ only"`
	Tmp   bool `name:"clean-tmp" help:"temporary directories only"`
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
	Yes bool `name:"yes" help:"do not ask"`
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
		if answer = strings.TrimSpace(answer); answer != "y" && answer != "yes" {
			return errors.New("purge: not confirmed")
		}
	}
	return s.Purge()
}
