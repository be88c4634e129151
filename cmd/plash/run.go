package main

import (
	"os"

	"golang.org/x/sys/unix"
	"plash/internal/errs"
	"plash/launcher"
	"plash/store"
)

var runCommands = []command{
	{name: "run", args: func() any { return new(runCommand) }},
	{name: "run:persist", aliases: []string{"runb"}, args: func() any { return new(runPersistCommand) }},
	{name: "mounted", aliases: []string{"with-mount"}, args: func() any { return new(mountedCommand) }},
	{name: "chroot", args: func() any { return new(chrootCommand) }},
	{name: "sudo", args: func() any { return new(sudoCommand) }},
	{name: "data", args: func() any { return new(dataCommand) }},
	{name: "runopts", args: func() any { return new(runoptsCommand) }},
}

type runCommand struct {
	runOptions
	ID  string   `arg:"" name:"ID"`
	Cmd []string `arg:"" optional:"" name:"CMD"`
}

func (c *runCommand) Run(p *plash) error { return p.run(c.ID, c.Cmd, &c.runOptions) }

// options are those of one of the commands that run a program.
type options interface {
	apply(*launcher.Config) error
}

// run runs a program in the image called id, and ends plash as that ends.
func (p *plash) run(id string, command []string, o options) error {
	s, img, err := openImage(id)
	if err != nil {
		return err
	}
	config, err := p.container(img, command, o)
	if err != nil {
		return err
	}
	launcher.HoldSignals()
	temp, err := s.TempDir()
	if err != nil {
		return err
	}
	config.DataDir, config.Mountpoint = s.Dir(), s.Mountpoint()
	config.Changes, config.Temp = temp.Path, temp
	err = launcher.Become(config)
	temp.Remove()
	return img.failed(err)
}

// container is what all ways to run a program in an image have in common. No
// command: the image's entrypoint, if it has one, else a shell.
func (p *plash) container(img image, command []string, o options) (launcher.Config, error) {
	config := launcher.Config{
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
	for _, text := range img.meta.Mounts {
		bind, err := parseBind(text)
		if err != nil {
			return config, err
		}
		config.Binds = append(config.Binds, bind)
	}
	return config, o.apply(&config)
}

type runPersistCommand struct {
	runOptions
	ID  string   `arg:"" name:"ID"`
	Dir string   `arg:"" name:"DIR"`
	Cmd []string `arg:"" optional:"" name:"CMD"`
}

func (c *runPersistCommand) Run(p *plash) error {
	return p.runPersist(c.ID, c.Dir, c.Cmd, &c.runOptions)
}

// runPersist runs a program in the image called id, keeps the changes in dir,
// and ends plash as the program ends.
func (p *plash) runPersist(id, dir string, command []string, o options) error {
	s, img, err := openImage(id)
	if err != nil {
		return err
	}
	config, err := p.container(img, command, o)
	if err != nil {
		return err
	}
	if err := p.makeChanges(dir); err != nil {
		return err
	}
	config.DataDir, config.Mountpoint, config.Changes = s.Dir(), s.Mountpoint(), dir
	return img.failed(launcher.Become(config))
}

type runoptsCommand struct {
	Bind           []string `name:"bind" short:"b" sep:"none"`
	NoDefaultBinds bool     `name:"no-default-binds" short:"n"`
	Changes        *string  `name:"changes" short:"c"`
	ID             string   `arg:"" name:"ID"`
	Cmd            []string `arg:"" optional:"" name:"CMD"`
}

func (c *runoptsCommand) Run(p *plash) error {
	o := &placeOptions{Bind: c.Bind, NoDefaultBinds: c.NoDefaultBinds}
	if c.Changes == nil {
		return p.run(c.ID, c.Cmd, o)
	}
	if *c.Changes == "" {
		return errs.Path("''", unix.ENOENT)
	}
	return p.runPersist(c.ID, *c.Changes, c.Cmd, o)
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
	return img.failed(launcher.Become(launcher.Config{
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
	config, err := p.container(image{}, c.Cmd, &placeOptions{})
	if err != nil {
		return err
	}
	config.Dir = c.Dir
	return launcher.Become(config)
}

type sudoCommand struct {
	Cmd []string `arg:"" optional:"" name:"CMD"`
}

func (c *sudoCommand) Run(p *plash) error {
	return launcher.Become(launcher.Config{View: launcher.Userspace, Command: c.Cmd, Verbose: p.verbose})
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
	return launcher.Become(launcher.Config{View: launcher.Userspace, Command: c.Cmd, Verbose: p.verbose})
}
