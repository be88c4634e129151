package main

import (
	"os"

	"plash/internal/errs"
	"plash/launcher"
	"plash/store"
)

type runCommands struct {
	Run        runCommand        `cmd:"" name:"run" group:"Image Commands" help:"run a program in the image; its changes are thrown away"`
	RunPersist runPersistCommand `cmd:"" name:"run:persist" aliases:"runb" group:"Image Commands" help:"run a program in the image; its changes are kept in DIR"`
	Mounted    mountedCommand    `cmd:"" name:"mounted" aliases:"with-mount" group:"Image Commands" help:"run a program of the host with the image, read-only, as current directory"`
	Chroot     chrootCommand     `cmd:"" name:"chroot" group:"Other Commands" help:"run a program in a directory as if it were an image"`
	Sudo       sudoCommand       `cmd:"" name:"sudo" group:"Other Commands" help:"run a program of the host as userspace root"`
	Data       dataCommand       `cmd:"" name:"data" group:"Other Commands" help:"print the data directory, or run a program inside it as userspace root"`
}

type runCommand struct {
	ID  string   `arg:"" name:"ID"`
	Cmd []string `arg:"" optional:"" name:"CMD"`
}

func (c *runCommand) Run(p *plash) error { return p.run(c.ID, c.Cmd) }

// run runs a program in the image called id, and ends plash as that ends.
func (p *plash) run(id string, command []string) error {
	s, img, err := openImage(id)
	if err != nil {
		return err
	}
	temp, err := s.TempDir()
	if err != nil {
		return err
	}
	config := p.container(img, command)
	config.DataDir, config.Mountpoint = s.Dir(), s.Mountpoint()
	config.Changes, config.Temp = temp.Path, temp
	status, err := launcher.Run(config)
	if err != nil {
		temp.Remove()
		return img.failed(err)
	}
	status.Exit()
	return nil
}

// container is what all ways to run a program in an image have in common. No
// command: the image's entrypoint, if it has one, else a shell.
func (p *plash) container(img image, command []string) launcher.Config {
	return launcher.Config{
		Layers:      img.layers,
		View:        launcher.Container,
		Command:     command,
		Entrypoint:  img.meta.Entrypoint,
		DefaultArgs: img.meta.DefaultArgs,
		Env:         img.meta.Env,
		EnvNames:    img.meta.EnvNames,
		EnvPrefixes: img.meta.EnvPrefixes,
		Verbose:     p.verbose,
	}
}

type runPersistCommand struct {
	ID  string   `arg:"" name:"ID"`
	Dir string   `arg:"" name:"DIR"`
	Cmd []string `arg:"" optional:"" name:"CMD"`
}

func (c *runPersistCommand) Run(p *plash) error {
	s, img, err := openImage(c.ID)
	if err != nil {
		return err
	}
	if err := p.makeChanges(c.Dir); err != nil {
		return err
	}
	config := p.container(img, c.Cmd)
	config.DataDir, config.Mountpoint, config.Changes = s.Dir(), s.Mountpoint(), c.Dir
	return img.failed(runAndExit(config))
}

type mountedCommand struct {
	ID  string   `arg:"" name:"ID"`
	Cmd []string `arg:"" optional:"" name:"CMD"`
}

func (c *mountedCommand) Run(p *plash) error {
	s, img, err := openImage(c.ID)
	if err != nil {
		return err
	}
	return img.failed(runAndExit(launcher.Config{
		Layers:     img.layers,
		View:       launcher.Host,
		Mountpoint: s.Mountpoint(),
		Command:    c.Cmd,
		Verbose:    p.verbose,
	}))
}

type chrootCommand struct {
	Dir string   `arg:"" name:"DIR"`
	Cmd []string `arg:"" optional:"" name:"CMD"`
}

func (c *chrootCommand) Run(p *plash) error {
	config := p.container(image{}, c.Cmd)
	config.Dir = c.Dir
	return runAndExit(config)
}

type sudoCommand struct {
	Cmd []string `arg:"" optional:"" name:"CMD"`
}

func (c *sudoCommand) Run(p *plash) error {
	return runAndExit(launcher.Config{View: launcher.Userspace, Command: c.Cmd, Verbose: p.verbose})
}

type dataCommand struct {
	Cmd []string `arg:"" optional:"" name:"CMD"`
}

// Run prints the data directory's path as it was given, without looking.
func (c *dataCommand) Run(p *plash) error {
	dir, err := store.DefaultDir()
	if err != nil {
		return err
	}
	if len(c.Cmd) == 0 {
		return printLine(dir)
	}
	if err := os.Chdir(dir); err != nil {
		return errs.Path(dir, err)
	}
	return runAndExit(launcher.Config{View: launcher.Userspace, Command: c.Cmd, Verbose: p.verbose})
}

// runAndExit runs a program and ends plash as that ends.
func runAndExit(config launcher.Config) error {
	status, err := launcher.Run(config)
	if err != nil {
		return err
	}
	status.Exit()
	return nil
}
