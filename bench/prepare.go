package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// prepare copies the programs to where an ordinary user may run them too, and
// makes the directories that are his.
func prepare(c *config) error {
	if err := os.MkdirAll(filepath.Join(c.Dir, "bin"), 0o755); err != nil {
		return err
	}
	if err := os.Chmod(c.Dir, 0o755); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for name, path := range map[string]*string{"plash": &c.Plash, "fuse-overlayfs2": &c.Fuse2, "bench": &self} {
		if *path == "" {
			continue
		}
		copied := filepath.Join(c.Dir, "bin", name)
		if err := run("", "cp", "--remove-destination", "--", *path, copied); err != nil {
			return err
		}
		*path = copied
	}
	uid, gid := 0, 0
	if c.User != "" {
		if uid, gid, err = lookUser(c.User); err != nil {
			return err
		}
	}
	for _, name := range []string{c.own(), filepath.Join(c.Dir, "home")} {
		if err := os.MkdirAll(name, 0o755); err != nil {
			return err
		}
		if err := os.Chown(name, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// prepareArchives makes the archives that wanted rows need, unless they are there.
func (c config) prepareArchives() error {
	debian, devel := false, false
	for _, cmd := range commands {
		debian = debian || c.wants(commandGroup(cmd), row{name: cmd.name})
	}
	for _, g := range groups {
		devel = devel || g.set == "distro" && slices.ContainsFunc(g.rows, func(r row) bool { return c.wants(g, r) })
	}
	if debian || devel {
		if err := once(c.debian(), makeDebian); err != nil {
			return fmt.Errorf("%s: %w", c.debian(), err)
		}
	}
	if devel {
		if err := once(c.devel(), makeDevel(c.debian())); err != nil {
			return fmt.Errorf("%s: %w", c.devel(), err)
		}
	}
	return nil
}

// own is the directory for the layers of this kind of user: they own them.
func (c config) own() string {
	if c.User != "" {
		return filepath.Join(c.Dir, "user")
	}
	return filepath.Join(c.Dir, "root")
}
