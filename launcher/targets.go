package launcher

import (
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/union"
)

// Nothing made for a bind may become part of a layer. So targets that an image
// lacks are not made in its upper layer: the server lays a further layer, which
// holds just them, over the image's. It lies in memory and is gone with the
// server, however that ends. Directories in it that the image has too look as
// the image's do, because a merged directory looks as its topmost.

// missingTarget is a target that is not in the image; its directories may be.
type missingTarget struct {
	rel   string
	isDir bool
}

// missingTargets returns those of binds that have no target in u.
func missingTargets(u *union.Union, binds []bind) []missingTarget {
	var missing []missingTarget
	for _, b := range binds {
		rel, mode, err := b.target(func(rel string) (mode uint32, link string, err error) {
			err = visit(u, rel, func(n *union.Node, st *unix.Stat_t) error {
				mode = st.Mode
				if mode&unix.S_IFMT == unix.S_IFLNK {
					link, err = u.Readlink(n)
				}
				return err
			})
			return mode, link, err
		})
		// What stands in the way, the container meets again, and tells.
		if err == nil && mode == 0 {
			missing = append(missing, missingTarget{rel, b.IsDir})
		}
	}
	return missing
}

// visit calls f with the node at rel in u, a path without symbolic links.
func visit(u *union.Union, rel string, f func(*union.Node, *unix.Stat_t) error) error {
	n := u.Root()
	for name := range strings.SplitSeq(rel, "/") {
		if name == "" {
			continue
		}
		next, err := u.Lookup(n, name)
		if err != nil {
			return err
		}
		defer u.Forget(next, 1)
		n = next
	}
	var st unix.Stat_t
	if err := u.Getattr(n, &st); err != nil {
		return err
	}
	return f(n, &st)
}

// addTargets lays the layer of missing targets over u. It is made in m's empty
// file system, which addTargets closes.
func (j *job) addTargets(u *union.Union, m mount) error {
	defer m.empty.Close()
	if j.View != Container {
		return nil
	}
	missing := missingTargets(u, j.Binds)
	if len(missing) == 0 {
		return nil
	}
	if m.noEmpty != nil {
		return m.noEmpty
	}
	fd := int(m.empty.Fd())
	if err := fillTargets(u, missing, fd); err != nil {
		return err
	}
	return u.Cover(union.Layer{Path: procFD(fd)})
}

// fillTargets makes the missing targets of u below the directory fd.
func fillTargets(u *union.Union, missing []missingTarget, fd int) error {
	dirs := []string{""}
	for _, m := range missing {
		if err := makeTarget(fd, m.rel, m.isDir); err != nil && err != unix.EEXIST {
			return errs.Path("/"+m.rel, err)
		}
		for dir := path.Dir(m.rel); dir != "."; dir = path.Dir(dir) {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	for _, dir := range slices.Backward(slices.Compact(dirs)) {
		err := visit(u, dir, func(n *union.Node, st *unix.Stat_t) error {
			return copyAttributes(u, n, st, path.Join(procFD(fd), dir))
		})
		if err != nil && err != unix.ENOENT {
			return errs.Path("/"+dir, err)
		}
	}
	return nil
}

// copyAttributes lets the directory at to look like the node n.
func copyAttributes(u *union.Union, n *union.Node, st *unix.Stat_t, to string) error {
	names, err := u.Listxattr(n, -1)
	if err != nil && err != unix.EOPNOTSUPP {
		return err
	}
	// What cannot be copied is of no use here: this is only looked at.
	unix.Lchown(to, int(st.Uid), int(st.Gid))
	value := make([]byte, 1<<16)
	for _, name := range names {
		if size, err := u.Getxattr(n, name, value); err == nil {
			unix.Lsetxattr(to, name, value[:size], 0)
		}
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, 0)
}
