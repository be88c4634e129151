package union

import (
	"bytes"
	"strings"

	"golang.org/x/sys/unix"
)

// copyUp makes n an object of the upper layer, with all its parents: a copy is
// prepared in the work directory and renamed into place, so a crash leaves
// nothing half done to be seen. Of a file longer than size only size bytes are
// copied; -1 means all.
func (u *Union) copyUp(n *Node, size int64) error {
	if u.upper == nil {
		return unix.EROFS
	}
	if n.inUpper() {
		return nil
	}
	mu := &n.needs().copyMu
	mu.Lock()
	defer mu.Unlock()
	if n.inUpper() {
		return nil
	}
	if n.dir != nil {
		return u.copyUpDir(n, false)
	}
	return u.copyUpFile(n, size)
}

// CopyUpSmall copies the regular file n up if it has at most size bytes.
func (u *Union) CopyUpSmall(n *Node, size int64) error {
	if n.typ != unix.S_IFREG || n.inUpper() {
		return nil
	}
	var st unix.Stat_t
	if err := u.Getattr(n, &st); err != nil || st.Size > size {
		return err
	}
	return u.copyUp(n, -1)
}

func (n *Node) inUpper() bool {
	if n.dir != nil {
		return n.dir.upper.Load() != nil
	}
	n.loc.Lock()
	defer n.loc.Unlock()
	return n.key.upper()
}

// copyUpEmpty replaces a directory that cannot be read by an empty one.
func (u *Union) copyUpEmpty(n *Node) error {
	if u.upper == nil {
		return unix.EROFS
	}
	mu := &n.needs().copyMu
	mu.Lock()
	defer mu.Unlock()
	if n.inUpper() {
		return nil
	}
	return u.copyUpDir(n, true)
}

// copyUpDir is copyUp of a directory whose copyMu is held; empty makes it
// opaque.
func (u *Union) copyUpDir(n *Node, empty bool) error {
	var st unix.Stat_t
	if err := u.Getattr(n, &st); err != nil {
		return err
	}
	tmp := u.tmpName()
	if err := unix.Mkdirat(u.workFD(), tmp, 0o700); err != nil {
		return err
	}
	err := u.copyDirAttrs(n, tmp, &st, empty)
	if err == nil && !u.volatile {
		err = u.syncDir(u.workFD(), tmp)
	}
	var up *layerDir
	if err == nil {
		up, err = u.publishDir(n, tmp, &st)
	}
	if err != nil {
		unix.Unlinkat(u.workFD(), tmp, unix.AT_REMOVEDIR)
		return err
	}
	n.dir.upper.Store(up)
	if empty {
		up.marks.Store(marksKnown | markOpaque)
		n.dir.lowers.Store(&[]*layerDir{})
	}
	if u.CopiedUp != nil {
		u.CopiedUp(n)
	}
	return nil
}

// syncDir makes directory name in dir durable, so that after a loss of power it
// is not found without its owner and mode.
func (u *Union) syncDir(dir int, name string) error {
	fd, err := u.openat(dir, name, dirFlags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fsync(fd); err != unix.EINVAL { // some know it for files only
		return err
	}
	return nil
}

func (u *Union) copyDirAttrs(n *Node, tmp string, st *unix.Stat_t, empty bool) error {
	dst := ref{fd: u.workFD(), name: tmp}
	if !empty {
		return u.copyMeta(n, dst, st)
	}
	if err := u.writeMark(dst.path(), opaqueAttr, "y"); err != nil {
		return err
	}
	if err := u.copyOwner(dst, st); err != nil {
		return err
	}
	return u.copyModeTimes(dst, st)
}

// publishDir moves the directory tmp of the work directory to where n is.
func (u *Union) publishDir(n *Node, tmp string, st *unix.Stat_t) (*layerDir, error) {
	var up *layerDir
	var now, was unix.Stat_t
	dst := ref{fd: u.workFD(), name: tmp}
	if err := dst.stat(&now); err != nil {
		return nil, err
	}
	low := (*n.dir.lowers.Load())[0]
	err := low.stat(u, &was)
	if err != nil {
		return nil, err
	}
	saved := u.saveOrigin(dst, n.Type(), now.Ino, was.Dev, key{ino: was.Ino})
	err = u.publish(n, func(parent *layerDir, fd int, name string) error {
		if err := unix.Renameat2(u.workFD(), tmp, fd, name, unix.RENAME_NOREPLACE); err != nil {
			return err
		}
		up = &layerDir{layer: u.upper, parent: parent, name: name}
		if parent != nil {
			u.noteOrigin(parent)
		}
		u.origins.set(now.Ino, n.ino, saved)
		u.rekey(n, u.keyOf(u.upper, &now), false)
		return nil
	})
	return up, err
}

// publish copies n's parent up and calls move with the parent's directory in
// the upper and n's name there, under n.loc. The parent's times stay: for a
// user nothing has happened in it.
func (u *Union) publish(n *Node, move func(parent *layerDir, fd int, name string) error) error {
	for {
		n.loc.Lock()
		parent, gone := n.parent, n.gone
		n.loc.Unlock()
		if gone {
			return u.publishNameless(n, move)
		}
		if err := u.copyUp(parent, -1); err != nil {
			return err
		}
		n.loc.Lock()
		if n.parent != parent || n.gone {
			n.loc.Unlock()
			continue
		}
		err := u.keepTimes(parent.dir.upper.Load(), func(fd int) error {
			return move(parent.dir.upper.Load(), fd, n.name)
		})
		n.loc.Unlock()
		return err
	}
}

// publishNameless is publish for a node without a name, whose copy has none
// either.
func (u *Union) publishNameless(n *Node, move func(*layerDir, int, string) error) error {
	n.loc.Lock()
	defer n.loc.Unlock()
	return move(nil, -1, "")
}

// keepTimes calls f with d's descriptor and then sets d's times to what they
// were before, as overlayfs does at copy-up.
func (u *Union) keepTimes(d *layerDir, f func(fd int) error) error {
	h, err := d.pin(u)
	if err != nil {
		return err
	}
	defer h.unpin()
	var st unix.Stat_t
	if err := fstat(h.fd, &st); err != nil {
		return err
	}
	if err := f(h.fd); err != nil {
		return err
	}
	ts := [2]unix.Timespec{st.Atim, st.Mtim}
	return ref{fd: h.fd}.utimes(&ts)
}

// rekey makes n the node of the upper object k. If keep is set it stays the
// node of the lower one as well, for good. The caller holds n.loc.
func (u *Union) rekey(n *Node, k key, keep bool) {
	if keep {
		n.needs().low = n.key
		n.refs.Add(1)
	}
	u.table.rekey(n, k, keep)
}

// copyUpFile is copyUp of anything but a directory; n.copyMu is held.
func (u *Union) copyUpFile(n *Node, size int64) error {
	var st unix.Stat_t
	if err := u.Getattr(n, &st); err != nil {
		return err
	}
	if st.Uid == unreadableOwner {
		return unix.EACCES
	}
	tmp := u.tmpName()
	if err := u.copyObject(n, tmp, &st, size); err != nil {
		u.unlinkWork(tmp)
		return err
	}
	var now unix.Stat_t
	if err := fstatat(u.workFD(), tmp, &now, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	// Before it can be found, or a listing would show it with another number.
	saved := u.saveOrigin(ref{fd: u.workFD(), name: tmp}, n.Type(), now.Ino, st.Dev, n.key)
	u.origins.set(now.Ino, n.ino, saved)
	err := u.publish(n, func(parent *layerDir, fd int, name string) error {
		others := u.namesBelow(n)
		if fd >= 0 {
			others--
		}
		if err := u.place(n, tmp, fd, name, others > 0); err != nil {
			return err
		}
		if parent != nil {
			u.noteOrigin(parent)
		}
		u.unlinked.Delete(n.key)
		u.rekey(n, u.keyOf(u.upper, &now), others > 0)
		x := n.needs()
		x.links = others
		if x.parked != "" {
			x.links--
		}
		x.close()
		return nil
	})
	if err != nil {
		u.origins.drop(now.Ino)
		u.unlinkWork(tmp)
		return err
	}
	u.linkNames(n)
	return nil
}

// namesBelow returns how many names of the lower object n are left. The caller
// holds n.loc.
func (u *Union) namesBelow(n *Node) int32 {
	r, err := u.refLocked(n)
	if err != nil {
		return 0
	}
	defer r.done()
	var st unix.Stat_t
	if err := r.stat(&st); err != nil {
		return 0
	}
	return int32(st.Nlink) + n.has().links
}

// place moves the copy tmp to where n is. If n has no name it is held open
// without one, or, if it may still be found by another name and then needs a
// link, parked in the work directory.
func (u *Union) place(n *Node, tmp string, fd int, name string, others bool) error {
	if fd >= 0 {
		return unix.Renameat2(u.workFD(), tmp, fd, name, unix.RENAME_NOREPLACE)
	}
	if others {
		n.needs().parked = tmp
		return nil
	}
	held, err := u.openat(u.workFD(), tmp, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	n.needs().held = held
	u.nHeld.Add(1)
	u.unlinkWork(tmp)
	return nil
}

// copyObject makes a copy of n, whose attributes are st, as tmp in the work
// directory.
func (u *Union) copyObject(n *Node, tmp string, st *unix.Stat_t, size int64) error {
	var err error
	switch n.typ {
	case unix.S_IFREG:
		return u.copyRegular(n, tmp, st, size)
	case unix.S_IFLNK:
		var target string
		if target, err = u.Readlink(n); err == nil {
			err = unix.Symlinkat(target, u.workFD(), tmp)
		}
	default:
		err = unix.Mknodat(u.workFD(), tmp, n.Type()|0o600, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	return u.copyMeta(n, ref{fd: u.workFD(), name: tmp}, st)
}

// copyMeta gives dst what else n has, whose attributes are st, in the order in
// which nothing is undone: chown(2) drops set-id bits and capabilities.
func (u *Union) copyMeta(n *Node, dst ref, st *unix.Stat_t) error {
	src, err := u.ref(n)
	if err != nil {
		return err
	}
	defer src.done()
	if err := u.copyOwner(dst, st); err != nil {
		return err
	}
	if src.fd >= 0 {
		if err := copyXattrs(src, dst); err != nil {
			return err
		}
	}
	return u.copyModeTimes(dst, st)
}

func (u *Union) copyRegular(n *Node, tmp string, st *unix.Stat_t, size int64) error {
	fd, err := u.openat(u.workFD(), tmp, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	length := st.Size
	if size >= 0 {
		length = min(length, size)
	}
	if length > 0 {
		h, err := u.pinData(n, false)
		if err != nil {
			return err
		}
		err = copyData(fd, h.fd, length, st.Size)
		h.unpin()
		if err != nil {
			return err
		}
	}
	if err := u.copyMeta(n, ref{fd: u.workFD(), name: tmp}, st); err != nil {
		return err
	}
	if u.volatile {
		return nil
	}
	return unix.Fsync(fd)
}

// copyData copies the first length bytes of src, which has size bytes, to the
// empty file dst, sharing blocks where the file system can and keeping holes.
func copyData(dst, src int, length, size int64) error {
	if length == size && unix.IoctlFileClone(dst, src) == nil {
		return nil
	}
	for off := int64(0); off < length; {
		data, err := unix.Seek(src, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil { // not a file system that knows holes
			data = off
		}
		end, err := unix.Seek(src, data, unix.SEEK_HOLE)
		if err != nil {
			end = length
		}
		end = min(end, length)
		if data >= end {
			break
		}
		if err := copyRange(dst, src, data, end); err != nil {
			return err
		}
		off = end
	}
	return unix.Ftruncate(dst, length)
}

func copyRange(dst, src int, off, end int64) error {
	for off < end {
		in, out := off, off
		n, err := unix.CopyFileRange(src, &in, dst, &out, int(min(end-off, 1<<30)), 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return copyByHand(dst, src, off, end)
		}
		off += int64(n)
	}
	return nil
}

func copyByHand(dst, src int, off, end int64) error {
	buf := make([]byte, min(end-off, 1<<20))
	for off < end {
		n, err := pread(src, buf[:min(end-off, int64(len(buf)))], off)
		if err != nil {
			return err
		}
		if n == 0 { // shorter than it was
			return nil
		}
		if err := pwrite(dst, buf[:n], off); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

func (u *Union) copyOwner(dst ref, st *unix.Stat_t) error {
	if u.overrides(st.Mode) {
		return nil // kept with the mode
	}
	return unix.Fchownat(dst.fd, dst.name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
}

func (u *Union) copyModeTimes(dst ref, st *unix.Stat_t) error {
	var err error
	switch {
	case u.overrides(st.Mode):
		err = u.setOverride(dst, *st, nil, nil, nil)
	case st.Mode&unix.S_IFMT != unix.S_IFLNK:
		err = dst.chmod(st.Mode & 0o7777)
	}
	if err != nil {
		return err
	}
	return dst.utimes(&[2]unix.Timespec{st.Atim, st.Mtim})
}

// copyXattrs copies the extended attributes of src but those of the union
// itself. Security labels and the like that may not be set here are left out,
// as overlayfs does; ACLs and capabilities must not be lost.
func copyXattrs(src, dst ref) error {
	names, err := listxattr(src)
	if err == unix.ENOTSUP || len(names) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, visible := shownXattr(name); !visible || isOverride(name) && src.overridden() {
			continue
		}
		value, err := getxattr(src, name)
		if err == unix.ENODATA {
			continue
		}
		if err == nil {
			err = unix.Lsetxattr(dst.path(), name, value, 0)
		}
		if err != nil && (err != unix.ENOTSUP && err != unix.EPERM && err != unix.EACCES || strings.HasPrefix(name, "system.posix_acl_")) {
			return err
		}
	}
	return nil
}

// listxattr returns the names of the object's attributes as they are stored.
func listxattr(r ref) ([]string, error) {
	buf := make([]byte, 1024)
	for {
		n, err := r.listxattr(buf)
		if err == unix.ERANGE {
			buf = make([]byte, 64<<10)
			continue
		}
		if err != nil || n == 0 {
			return nil, err
		}
		var names []string
		for _, b := range bytes.Split(bytes.TrimSuffix(buf[:n], []byte{0}), []byte{0}) {
			names = append(names, string(b))
		}
		return names, nil
	}
}

func (r ref) listxattr(buf []byte) (int, error) {
	if r.name != "" {
		return unix.Llistxattr(r.path(), buf)
	}
	n, err := unix.Flistxattr(r.fd, buf)
	if err == unix.EBADF { // one with O_PATH
		return unix.Listxattr(r.path(), buf)
	}
	return n, err
}

func getxattr(r ref, name string) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := r.getxattr(name, buf)
		if err == unix.ERANGE && len(buf) < 64<<10 {
			buf = make([]byte, 64<<10)
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

func (r ref) getxattr(name string, buf []byte) (int, error) {
	if r.name == "" {
		return unix.Getxattr(r.path(), name, buf)
	}
	return unix.Lgetxattr(r.path(), name, buf)
}

// copyUpTree makes directory n, with all that is visible in it, lie in the
// upper alone and opaque, so that it can be renamed. The caller holds the mu
// of n's parent. What a failure leaves behind is the same merged tree.
func (u *Union) copyUpTree(n *Node) error {
	if err := u.copyUp(n, -1); err != nil {
		return err
	}
	n.dir.mu.Lock()
	defer n.dir.mu.Unlock()
	if len(*n.dir.lowers.Load()) == 0 {
		return nil
	}
	ents, err := u.ReadDir(n)
	if err != nil {
		return err
	}
	for _, e := range ents {
		c, err := u.Lookup(n, e.Name)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return err
		}
		if c.dir != nil {
			err = u.copyUpTree(c)
		} else {
			err = u.copyUp(c, -1)
		}
		u.Forget(c, 1)
		if err != nil {
			return err
		}
	}
	return u.separate(n)
}

// separate makes a directory opaque all of whose visible content lies in the
// upper, and removes the whiteouts that it then needs no more. The caller holds
// n.dir.mu.
func (u *Union) separate(n *Node) error {
	up := n.dir.upper.Load()
	h, err := up.pin(u)
	if err != nil {
		return err
	}
	defer h.unpin()
	err = u.keepTimes(up, func(int) error { return u.dropWhiteouts(up, h.fd) })
	if err != nil {
		return err
	}
	lowers := *n.dir.lowers.Load()
	if len(lowers) == 0 {
		return nil
	}
	var st, was unix.Stat_t
	if err := fstat(h.fd, &st); err != nil {
		return err
	}
	saved := false
	if lowers[0].stat(u, &was) == nil {
		saved = u.saveOrigin(ref{fd: h.fd}, n.Type(), st.Ino, was.Dev, key{ino: was.Ino})
		up.mu.Lock()
		parent := up.parent
		up.mu.Unlock()
		u.noteOrigin(parent)
	}
	u.origins.set(st.Ino, n.ino, saved)
	n.dir.lowers.Store(&[]*layerDir{})
	return nil
}

// dropWhiteouts makes d opaque and removes the whiteouts in it.
func (u *Union) dropWhiteouts(d *layerDir, fd int) error {
	whites, err := u.whiteoutsIn(d, fd)
	if err == nil && len(whites) > 0 {
		err = u.mayHoldWhiteouts(fd)
	}
	if err == nil {
		err = u.setOpaque(d)
	}
	for _, name := range whites {
		if err == nil {
			err = unix.Unlinkat(fd, name, 0)
		}
	}
	return err
}

func (u *Union) whiteoutsIn(d *layerDir, dir int) ([]string, error) {
	fd, err := u.openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var whites []string
	err = readDirFD(fd, func(e rawDirent) bool {
		var st unix.Stat_t
		if e.typ != unix.S_IFDIR && d.lstat(u, e.name, &st) == nil && u.isWhiteout(d, e.name, &st) {
			whites = append(whites, e.name)
		}
		return true
	})
	return whites, err
}
