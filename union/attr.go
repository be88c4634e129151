package union

import (
	"golang.org/x/sys/unix"
)

// Getattr fills st with n's attributes as a user of the merged tree sees them.
func (u *Union) Getattr(n *Node, st *unix.Stat_t) error {
	if n.indexed(u, st) {
		return nil
	}
	r, err := u.attrRef(n)
	if err != nil {
		return err
	}
	l := r.d.layer
	if err = r.stat(st); err == nil {
		r.override(l, st)
	}
	r.done()
	if err != nil {
		return u.lost(r.d, err)
	}
	u.show(n, l, st)
	return nil
}

// unreadableOwner is shown as owner of a lower file that this process may not
// read: the kernel then refuses to open it. Otherwise the open would succeed,
// reads fail, and access through a mapping end in SIGBUS.
const unreadableOwner = noID

// show changes st, n's object as it is in layer l, to what users see: the
// node's inode number, its link count, and owners without a mapping as root.
func (u *Union) show(n *Node, l *layer, st *unix.Stat_t) {
	st.Ino = n.ino
	if n.dir() != nil {
		if n.dir().merged() {
			st.Nlink = 1 // unknown, as overlayfs and others say it
		}
	} else if links := n.linksNow(); links != 0 {
		addLinks(&st.Nlink, int64(links))
	}
	if !l.foreign {
		return
	}
	foreign := st.Uid == overflowID
	if st.Gid == overflowID {
		st.Gid = 0
	}
	if !foreign {
		return
	}
	st.Uid = 0
	// An empty file holds nothing that could be read: lock files of package
	// managers (0640 and root's) can be used then.
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o004 == 0 && st.Size > 0 && !u.readable(n) {
		st.Uid = unreadableOwner
	}
}

// addLinks adds to st_nlink, whose type depends on the architecture.
func addLinks[T uint32 | uint64](nlink *T, links int64) {
	*nlink = T(max(int64(*nlink)+links, 0))
}

func (n *Node) linksNow() int32 {
	n.loc.Lock()
	defer n.loc.Unlock()
	return n.has().links
}

// readable reports whether this process may read a file whose owner is not
// mapped. (A group of the caller's may permit it, which the mode cannot tell.)
func (u *Union) readable(n *Node) bool {
	r, err := u.ref(n)
	if err != nil {
		return false
	}
	defer r.done()
	return unix.Faccessat(unix.AT_FDCWD, r.path(), unix.R_OK, 0) == nil
}

// SetAttr says what to change; nil pointers are left alone.
type SetAttr struct {
	Mode     *uint32
	UID, GID *uint32
	Size     *int64
	Atime    *unix.Timespec // Nsec may be UTIME_NOW
	Mtime    *unix.Timespec
	// KillPriv: the size is changed by one who may not keep suid and sgid; or,
	// if nothing else is set, chown(2) to -1 and -1, which drops them, too.
	KillPriv bool
}

// Setattr changes n's attributes, copying it up first, in this order: size,
// owner, mode, times.
func (u *Union) Setattr(n *Node, a SetAttr) error {
	if u.onlySameTime(n, a) {
		return nil
	}
	if err := u.copyUpFor(n, a); err != nil {
		return err
	}
	if a.Size != nil {
		if err := u.truncate(n, *a.Size, a.KillPriv); err != nil {
			return err
		}
	}
	r, err := u.attrRef(n)
	if err != nil {
		return err
	}
	defer r.done()
	if err := u.setOwnerMode(n, r, a); err != nil {
		return err
	}
	if a.Atime != nil || a.Mtime != nil {
		ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
		if a.Atime != nil {
			ts[0] = *a.Atime
		}
		if a.Mtime != nil {
			ts[1] = *a.Mtime
		}
		if err := r.utimes(&ts); err != nil {
			return err
		}
	}
	return nil
}

func (u *Union) setOwnerMode(n *Node, r ref, a SetAttr) error {
	chown := a.UID != nil || a.GID != nil || a == SetAttr{KillPriv: true}
	if !chown && a.Mode == nil {
		return nil
	}
	if u.overrides(n.Type()) {
		var st unix.Stat_t
		if err := r.stat(&st); err != nil {
			return err
		}
		r.override(u.upper, &st)
		if n.Type() == unix.S_IFREG && a.Mode == nil { // as chown(2) does
			st.Mode = WithoutPriv(st.Mode)
		}
		return u.setOverride(r, st, a.UID, a.GID, a.Mode)
	}
	if chown {
		uid, gid := -1, -1
		if a.UID != nil {
			uid = int(*a.UID)
		}
		if a.GID != nil {
			gid = int(*a.GID)
		}
		if err := unix.Fchownat(r.fd, r.name, uid, gid, r.atFlags()); err != nil {
			return err
		}
	}
	if a.Mode != nil {
		return r.chmod(*a.Mode & 0o7777)
	}
	return nil
}

// onlySameTime reports whether a only gives a lower file the modification time
// that it has. The kernel, which keeps times itself, writes them back after an
// unlink or a rename has changed st_ctime: without this the files of a lower
// tree were copied up as "rm -r" removed them, 30 times slower.
func (u *Union) onlySameTime(n *Node, a SetAttr) bool {
	if a.Mtime == nil || a.Atime != nil || a.Mode != nil || a.UID != nil || a.GID != nil || a.Size != nil || n.inUpper() {
		return false
	}
	var st unix.Stat_t
	return u.Getattr(n, &st) == nil && st.Mtim == *a.Mtime
}

// copyUpFor copies n up for a change of a. Data that a truncation drops is not
// copied, and a directory of a live layer that we cannot read is replaced by an
// empty one of ours when its owner or mode is changed: package managers do
// that with directories they then only write to.
func (u *Union) copyUpFor(n *Node, a SetAttr) error {
	if n.dir() != nil && n.dir().upper.Load() == nil && (a.Mode != nil || a.UID != nil || a.GID != nil) && u.unreadableDir(n.dir()) {
		return u.copyUpEmpty(n)
	}
	size := int64(-1)
	if a.Size != nil {
		size = *a.Size
	}
	return u.copyUp(n, size)
}

func (u *Union) unreadableDir(d *dirState) bool {
	top := d.top()
	if !top.layer.live || top.synthetic() {
		return false
	}
	h, err := top.pin(u)
	if err != nil {
		return err == unix.EACCES
	}
	defer h.unpin()
	return unix.Faccessat(unix.AT_FDCWD, fdPath(h.fd), unix.R_OK|unix.X_OK, 0) == unix.EACCES
}

func (r ref) atFlags() int {
	if r.name == "" {
		return unix.AT_EMPTY_PATH
	}
	return unix.AT_SYMLINK_NOFOLLOW
}

// chmod sets the mode of an object that is no symlink.
func (r ref) chmod(mode uint32) error {
	if r.name != "" {
		return fchmodat(r.fd, r.name, mode)
	}
	err := unix.Fchmod(r.fd, mode)
	if err == unix.EBADF { // O_PATH
		err = fchmodat(unix.AT_FDCWD, fdPath(r.fd), mode)
	}
	return err
}

func (r ref) utimes(ts *[2]unix.Timespec) error {
	err := utimensat(r.fd, r.name, ts, r.atFlags())
	if r.name == "" && err == unix.EINVAL { // before Linux 5.8
		err = utimensat(unix.AT_FDCWD, fdPath(r.fd), ts, 0)
	}
	return err
}

// Readlink returns the target of a symlink.
func (u *Union) Readlink(n *Node) (string, error) {
	r, err := u.ref(n)
	if err != nil {
		return "", err
	}
	defer r.done()
	buf := make([]byte, unix.PathMax)
	k, err := unix.Readlinkat(r.fd, r.name, buf)
	if err == unix.EINVAL && r.overridden() { // a file that stands for a symlink
		var fd int
		if fd, err = r.openRead(u); err != nil {
			return "", err
		}
		defer unix.Close(fd)
		k, err = pread(fd, buf, 0)
	}
	if err != nil {
		return "", u.lost(r.d, err)
	}
	return string(buf[:k]), nil
}

// Statfs fills st with the numbers of the file system that takes the changes,
// or of the topmost layer's.
func (u *Union) Statfs(st *unix.Statfs_t) error {
	h, err := u.root.dir().top().pin(u)
	if err != nil {
		return err
	}
	defer h.unpin()
	return unix.Fstatfs(h.fd, st)
}
