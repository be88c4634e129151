package union

import (
	"strings"

	"golang.org/x/sys/unix"
)

// A lower file with several names stays one file when it is copied up under one
// of them: the node is found by the lower object's key as well, and gets each
// other name in the upper when that is looked up. If the layer has an index,
// which tells the other names, they are all linked at once. Then it is one file
// for good, in a later mount and for the kernel too. If not, the copy has a number
// of its own in later mounts: programs that archive would take it and what the other
// names still stand for to be one file.

// linkNames gives n, which was just copied up, all names that it has in the
// merged tree. Its copy lock is held. What cannot be linked stays to be linked at
// its lookup.
func (u *Union) linkNames(n *Node) {
	n.loc.Lock()
	low, l := n.has().low, n.ldir.layer
	n.loc.Unlock()
	x := l.index.Load()
	if low == (key{}) || x == nil {
		return
	}
	paths, err := x.Links(low.ino)
	if err != nil {
		u.distrust(l)
	}
	for _, path := range paths {
		c, err := u.lookupPath(path) // which links it, see named
		switch err {
		case nil:
			u.Forget(c, 1)
		case unix.ENOENT, unix.ENOTDIR: // hidden
		default:
			return
		}
	}
	if len(paths) == 0 {
		return
	}
	n.loc.Lock()
	e := n.needs()
	e.links = 0
	if e.parked != "" {
		e.links--
	}
	n.loc.Unlock()
	u.Forget(n, 1) // that of become: no name leads to the lower object any more
	// Now for good, see copyUpFile.
	if r, err := u.attrRef(n); err == nil {
		var st unix.Stat_t
		if r.stat(&st) == nil {
			u.setOrigin(n, r, st.Ino, l.device, low.ino)
		}
		r.done()
	}
}

// lookupPath is Lookup of a path from the root.
func (u *Union) lookupPath(path string) (*Node, error) {
	n := u.root
	for name := range strings.SplitSeq(path, "/") {
		c, err := u.Lookup(n, name)
		u.Forget(n, 1)
		if err != nil {
			return nil, err
		}
		n = c
	}
	return n, nil
}

// linkUpper gives n, which was copied up under another of its lower names, the
// name that it was found by in the upper, too.
func (u *Union) linkUpper(n *Node, dir *Node, name string) error {
	if err := u.copyUp(dir, -1); err != nil {
		return err
	}
	up := dir.dir().upper.Load()
	n.loc.Lock()
	defer n.loc.Unlock()
	r, err := u.refLocked(n)
	if err != nil {
		return err
	}
	defer r.done()
	err = u.keepTimes(up, func(fd int) error { return r.link(fd, name) })
	if err == unix.EEXIST {
		return nil // another lookup was faster, or it has just been removed
	}
	if err != nil {
		return err
	}
	u.moved(up, n)
	n.needs().links--
	u.unpark(n)
	u.putAt(n, dir, name)
	return nil
}

// unpark removes n's name in the work directory, if it has one. The caller holds
// n.loc.
func (u *Union) unpark(n *Node) {
	x := n.has()
	if x.parked == "" {
		return
	}
	u.unlinkWork(x.parked)
	x.parked = ""
	x.links++
}

// hasName reports whether name in dir is n, an object of the upper, there.
func (u *Union) hasName(n *Node, dir *Node, name string) bool {
	var st unix.Stat_t
	return u.upperHas(dir, name, &st) && u.keyOf(u.upper, &st) == n.key
}

// upperHas reports whether the upper has something as name in dir, a whiteout
// perhaps, and fills st.
func (u *Union) upperHas(dir *Node, name string, st *unix.Stat_t) bool {
	up := dir.dir().upper.Load()
	return up != nil && up.lstat(u, name, st) == nil
}

// link makes name in the directory dir a hard link of the object.
func (r ref) link(dir int, name string) error {
	if r.name == "" {
		return unix.Linkat(unix.AT_FDCWD, fdPath(r.fd), dir, name, unix.AT_SYMLINK_FOLLOW)
	}
	return unix.Linkat(r.fd, r.name, dir, name, 0)
}
