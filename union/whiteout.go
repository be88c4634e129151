package union

import (
	"sync"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
)

// whiteouts makes them for one upper layer.
type whiteouts struct {
	mu    sync.Mutex
	donor string // a whiteout in the work directory of which others are links
	files bool   // mknod(2) is refused here: write them as empty files
	noted bool   // the upper's root says that there are such files
}

// isWhiteout reports whether the object of attributes st, name in d, says that
// there is nothing of this name.
func (u *Union) isWhiteout(d *layerDir, name string, st *unix.Stat_t) bool {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		return st.Rdev == 0
	case unix.S_IFREG:
		return st.Size == 0 && d.mark(u)&markXWhiteouts != 0 && u.hasWhiteoutAttr(d, name)
	}
	return false
}

func (u *Union) hasWhiteoutAttr(d *layerDir, name string) bool {
	h, err := d.pin(u)
	if err != nil {
		return false
	}
	defer h.unpin()
	path := fdPath(h.fd) + "/" + name
	if _, err := unix.Lgetxattr(path, userPrefix+whiteoutAttr, nil); err == nil {
		return true
	}
	_, err = unix.Lgetxattr(path, trustedPrefix+whiteoutAttr, nil)
	return err == nil
}

// openWork opens the directory "work" below the work directory, as the kernel
// makes it, and empties it of what a crash may have left.
func (u *Union) openWork(parent int) error {
	if err := unix.Mkdirat(parent, "work", 0o700); err != nil && err != unix.EEXIST {
		return errs.Path("work", err)
	}
	fd, err := u.openat(parent, "work", dirFlags, 0)
	if err != nil {
		return errs.Path("work", err)
	}
	h := &handle{fd: fd}
	h.state.Store(1)
	u.work = &layerDir{layer: u.upper}
	u.work.h.Store(h)
	u.locks = append(u.locks, fd)
	if err := u.emptyDir(fd); err != nil {
		return errs.Path("work", err)
	}
	return u.probeMarks(fd)
}

func (u *Union) workFD() int { return u.work.h.Load().fd }

func (u *Union) unlinkWork(name string) { unlinkat(u.workFD(), name, 0) }

// newWhiteout makes a whiteout in the work directory, for the directory d of
// the upper, and returns its name there.
func (u *Union) newWhiteout(d *layerDir) (string, error) {
	u.white.mu.Lock()
	defer u.white.mu.Unlock()
	name := u.tmpName()
	if u.white.donor != "" {
		err := unix.Linkat(u.workFD(), u.white.donor, u.workFD(), name, 0)
		if err == nil {
			return name, nil
		}
		// It has as many links as it may have, or is gone: begin a new one.
		u.unlinkWork(u.white.donor)
		u.white.donor = ""
	}
	if !u.white.files {
		donor := u.tmpName()
		if err := mknodWhiteout(u.workFD(), donor); err == nil {
			if err := unix.Linkat(u.workFD(), donor, u.workFD(), name, 0); err == nil {
				u.white.donor = donor
				return name, nil
			}
			return donor, nil
		} else if !refused(err) {
			return "", err
		}
		u.white.files = true
	}
	if err := u.noteFiles(); err != nil {
		return "", err
	}
	if err := u.markXWhiteouts(d); err != nil {
		return "", err
	}
	fd, err := u.openat(u.workFD(), name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if err := u.writeMark(fdPath(fd), whiteoutAttr, "y"); err != nil {
		u.unlinkWork(name)
		return "", err
	}
	return name, nil
}

// mknodWhiteout makes a device 0:0. Some file systems make a plain file of it
// without a word (fuse-overlayfs issue 476): that counts as refused.
func mknodWhiteout(dir int, name string) error {
	if err := unix.Mknodat(dir, name, unix.S_IFCHR, 0); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		unlinkat(dir, name, 0)
		return unix.EPERM
	}
	return nil
}

// refused reports whether err says that devices can never be made here: by the
// file system (EPERM, EINVAL, EOPNOTSUPP), a security module (EACCES), or a
// seccomp filter, which may answer what it likes. A full disk is not among them.
func refused(err error) bool {
	switch err {
	case unix.EPERM, unix.EACCES, unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP:
		return true
	}
	return false
}

// noteFiles notes for Seal that there are whiteouts that are files. white.mu is
// held.
func (u *Union) noteFiles() error {
	if u.white.noted {
		return nil
	}
	root, err := u.upper.root.pin(u)
	if err != nil {
		return err
	}
	defer root.unpin()
	if err := u.writeHint(fdPath(root.fd), filesAttr, "1"); err != nil {
		return err
	}
	u.white.noted = true
	return nil
}

// linkWhiteout hides name in the directory of the upper with descriptor fd, which
// has nothing there, and reports whether that could be done so: by one more link of
// a whiteout there is, and without a rename.
func (u *Union) linkWhiteout(fd int, name string) bool {
	u.white.mu.Lock()
	donor := u.white.donor
	u.white.mu.Unlock()
	return donor != "" && unix.Linkat(u.workFD(), donor, fd, name, 0) == nil
}

// putWhiteout hides name in d, a pinned directory of the upper with descriptor
// fd, replacing at once whatever non-directory the upper has there.
func (u *Union) putWhiteout(d *layerDir, fd int, name string) error {
	tmp, err := u.newWhiteout(d)
	if err != nil {
		return err
	}
	if err := renameat2(u.workFD(), tmp, fd, name, 0); err != nil {
		u.unlinkWork(tmp)
		return err
	}
	return nil
}

// swapWhiteout replaces the directory name in d by a whiteout and removes the
// directory with the whiteouts that are in it.
func (u *Union) swapWhiteout(d *layerDir, fd int, name string) error {
	tmp, err := u.newWhiteout(d)
	if err != nil {
		return err
	}
	if err := renameat2(u.workFD(), tmp, fd, name, unix.RENAME_EXCHANGE); err != nil {
		u.unlinkWork(tmp)
		return err
	}
	return u.removeTree(u.workFD(), tmp)
}

// discardDir removes the directory name in the directory with descriptor fd,
// and the whiteouts in it, so that it vanishes at once.
func (u *Union) discardDir(fd int, name string) error {
	err := unlinkat(fd, name, unix.AT_REMOVEDIR)
	if err != unix.ENOTEMPTY && err != unix.EEXIST {
		return err
	}
	tmp := u.tmpName()
	if err := renameat2(fd, name, u.workFD(), tmp, 0); err != nil {
		return err
	}
	return u.removeTree(u.workFD(), tmp)
}

// removeTree removes name below dir with all that is in it.
func (u *Union) removeTree(dir int, name string) error {
	err := unlinkat(dir, name, 0)
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	fd, err := u.openat(dir, name, dirFlags, 0)
	if err != nil {
		return err
	}
	err = u.emptyDir(fd)
	unix.Close(fd)
	if err != nil {
		return err
	}
	return unlinkat(dir, name, unix.AT_REMOVEDIR)
}

func (u *Union) emptyDir(fd int) error {
	var names []string
	err := readDirFD(fd, func(e rawDirent) bool {
		names = append(names, e.name)
		return true
	})
	for _, name := range names {
		if err == nil {
			err = u.removeTree(fd, name)
		}
	}
	return err
}
