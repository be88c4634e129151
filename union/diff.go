package union

import (
	"path/filepath"
	"slices"
	"sort"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
)

// A Change is what a layer does to a name of the layers below.
type Change byte

const (
	Added   Change = 'A'
	Changed Change = 'C'
	Deleted Change = 'D'
)

// Diff calls f for each name that the topmost of layers adds, changes or
// deletes, in the order of names, a directory before what is in it. A file that
// the layer holds is changed, whatever its content; a directory only if its
// owner or mode is. Of a directory that is deleted only the directory itself is
// told.
func Diff(layers []Layer, f func(c Change, path string) error) error {
	d := differ{f: f}
	var err error
	if d.u, err = New(Config{Lowers: layers}); err != nil {
		return err
	}
	defer d.u.Close()
	if len(layers) == 1 {
		return d.dir(d.u.Root(), nil, "")
	}
	rest := slices.Clone(layers[1:])
	if rest[0].Beside {
		rest[0].Path, rest[0].Beside = filepath.Join(layers[0].Path, rest[0].Path), false
	}
	if d.below, err = New(Config{Lowers: rest}); err != nil {
		return err
	}
	defer d.below.Close()
	return d.compare("", d.u.Root(), d.below.Root())
}

type differ struct {
	u, below *Union // with the layer, and without
	f        func(c Change, path string) error
}

// dir tells what is different in n, a directory of the layer, from old, what
// the layers below have there: a directory or nothing.
func (d *differ) dir(n, old *Node, path string) error {
	names := map[string]bool{}
	err := addNames(names, d.u, n)
	if err == nil && old != nil {
		err = addNames(names, d.below, old)
	}
	if err != nil {
		return errs.Path(path+"/", err)
	}
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	sort.Strings(sorted)
	for _, name := range sorted {
		if err := d.name(n, old, name, path+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

func addNames(names map[string]bool, u *Union, n *Node) error {
	list, err := u.ReadDir(n)
	for _, e := range list {
		names[e.Name] = true
	}
	return err
}

// name tells what is different at one name, which is path.
func (d *differ) name(dir, oldDir *Node, name, path string) error {
	n, err := lookupAny(d.u, dir, name)
	if err != nil {
		return errs.Path(path, err)
	}
	if n != nil {
		defer d.u.Forget(n, 1)
	}
	var old *Node
	if oldDir != nil {
		if old, err = lookupAny(d.below, oldDir, name); err != nil {
			return errs.Path(path, err)
		}
	}
	if old != nil {
		defer d.below.Forget(old, 1)
	}
	return d.compare(path, n, old)
}

// lookupAny is Lookup with nil for what is not there.
func lookupAny(u *Union, dir *Node, name string) (*Node, error) {
	n, err := u.Lookup(dir, name)
	if err == unix.ENOENT {
		return nil, nil
	}
	return n, err
}

// compare tells the difference between n and old at path; either may be nil.
func (d *differ) compare(path string, n, old *Node) error {
	c := Added
	switch {
	case n == nil && old == nil: // a live layer: it has just been removed
		return nil
	case n == nil:
		return d.f(Deleted, path)
	case old != nil:
		if !n.liesIn(d.u.layers[0]) {
			return nil
		}
		c = Changed
	}
	told := true
	if n.IsDir() && old != nil && old.IsDir() {
		same, err := d.sameAttributes(n, old)
		if err != nil {
			return errs.Path(path+"/", err)
		}
		told = !same
	} else {
		old = nil
	}
	if told {
		shown := path
		if shown == "" {
			shown = "/"
		}
		if err := d.f(c, shown); err != nil {
			return err
		}
	}
	if !n.IsDir() {
		return nil
	}
	return d.dir(n, old, path)
}

// sameAttributes reports whether two directories have the same owner and mode.
func (d *differ) sameAttributes(n, old *Node) (bool, error) {
	var now, before unix.Stat_t
	err := d.u.Getattr(n, &now)
	if err == nil {
		err = d.below.Getattr(old, &before)
	}
	return now.Mode == before.Mode && now.Uid == before.Uid && now.Gid == before.Gid, err
}
