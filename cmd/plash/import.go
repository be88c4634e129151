package main

import (
	"errors"
	"os"
	"strings"

	"plash/importers"
	"plash/launcher"
	"plash/store"
)

var importCommands = []command{
	{name: "pull:host", args: func() any { return new(pullHostCommand) }},
	{name: "pull:lxc", aliases: []string{"import-lxc", "import-lxcimages"}, args: func() any { return new(pullLXCCommand) }},
	{name: "pull:tarfile", aliases: []string{"import-tar"}, args: func() any { return new(pullTarfileCommand) }},
	{name: "pull:url", aliases: []string{"import-url"}, args: func() any { return new(pullURLCommand) }},
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
