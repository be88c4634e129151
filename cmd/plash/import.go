package main

import (
	"errors"
	"os"
	"strings"

	"plash/importers"
	"plash/launcher"
	"plash/store"
)

type importCommands struct {
	PullHost    pullHostCommand    `cmd:"" name:"pull:host" group:"Import Image" help:"make the running system's own root an image; nothing is copied"`
	PullLXC     pullLXCCommand     `cmd:"" name:"pull:lxc" aliases:"import-lxc,import-lxcimages" usage:"DISTRO:VERSION [--dry] | --list [PATTERN]" group:"Import Image" help:"import the newest image of the LXC image server, --dry prints its URL instead, --list what there is"`
	PullTarfile pullTarfileCommand `cmd:"" name:"pull:tarfile" aliases:"import-tar" group:"Import Image" help:"import a root filesystem archive, - or nothing is standard input"`
	PullURL     pullURLCommand     `cmd:"" name:"pull:url" aliases:"import-url" group:"Import Image" help:"download and import a root filesystem archive"`
}

type pullHostCommand struct{}

// Run needs no user namespace: the image is an empty directory and a path.
func (c *pullHostCommand) Run() error {
	return importImage(importers.Host)
}

type pullLXCCommand struct {
	Name string `arg:"" optional:"" name:"DISTRO:VERSION"`
	Dry  bool   `name:"dry"`
	List bool   `name:"list"`
}

// Validate is called by the parser.
func (c *pullLXCCommand) Validate() error {
	if c.List && c.Dry || !c.List && c.Name == "" {
		return errors.New("a name and --dry, or --list and a pattern")
	}
	return nil
}

func (c *pullLXCCommand) Run() error {
	server := importers.NewLXC(os.Stderr)
	switch {
	case c.List:
		names, err := server.List(c.Name)
		if err != nil || len(names) == 0 {
			return err
		}
		return printLine(strings.Join(names, "\n"))
	case c.Dry:
		image, err := server.Resolve(c.Name)
		if err != nil {
			return err
		}
		return printLine(image.URL)
	}
	if err := becomeRoot(); err != nil {
		return err
	}
	return importImage(func(s *store.Store) (store.ID, error) { return server.Pull(s, c.Name) })
}

type pullTarfileCommand struct {
	File string `arg:"" optional:"" name:"FILE"`
}

func (c *pullTarfileCommand) Run() error {
	if err := becomeRoot(); err != nil {
		return err
	}
	return importImage(func(s *store.Store) (store.ID, error) {
		return importers.Tarfile(s, c.File, os.Stdin, os.Stderr)
	})
}

type pullURLCommand struct {
	URL string `arg:"" name:"URL"`
}

func (c *pullURLCommand) Run() error {
	if err := becomeRoot(); err != nil {
		return err
	}
	return importImage(func(s *store.Store) (store.ID, error) {
		return importers.URL(s, c.URL, os.Stderr)
	})
}

// importImage makes the data directory if it must, and prints the id of the
// image that get puts there.
func importImage(get func(*store.Store) (store.ID, error)) error {
	s, err := initStore()
	if err != nil {
		return err
	}
	id, err := get(s)
	if err != nil {
		return err
	}
	return printID(id)
}

// becomeRoot makes an ordinary user userspace root, whom files of subordinate
// ids obey: plash starts over in a new user namespace, and this process does
// not come back from here.
func becomeRoot() error {
	if !launcher.Unprivileged() {
		return nil
	}
	return launcher.Reenter()
}
