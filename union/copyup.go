package union

import (
	"strings"
	"sync"

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
	defer u.copies.lock(n).unlock()
	if n.inUpper() {
		return nil
	}
	if n.dir() != nil {
		return u.copyUpDir(n, false)
	}
	return u.copyUpFile(n, size)
}

// CopyUpSmall copies the regular file n up if it has at most size bytes.
func (u *Union) CopyUpSmall(n *Node, size int64) error {
	if n.Type() != unix.S_IFREG || n.inUpper() {
		return nil
	}
	var st unix.Stat_t
	if err := u.Getattr(n, &st); err != nil || st.Size > size {
		return err
	}
	return u.copyUp(n, -1)
}

func (n *Node) inUpper() bool {
	if n.dir() != nil {
		return n.dir().upper.Load() != nil
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
	defer u.copies.lock(n).unlock()
	if n.inUpper() {
		return nil
	}
	return u.copyUpDir(n, true)
}

// copyUpDir is copyUp of a directory whose copy lock is held; empty makes it
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
		unlinkat(u.workFD(), tmp, unix.AT_REMOVEDIR)
		return err
	}
	n.dir().upper.Store(up)
	if empty {
		up.marks.Store(marksKnown | markOpaque)
		n.dir().lowers.Store(&[]*layerDir{})
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
	if err := u.copyOwner(n, dst, st); err != nil {
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
	low := (*n.dir().lowers.Load())[0]
	err := low.stat(u, &was)
	if err != nil {
		return nil, err
	}
	// Before it can be found, or a listing would show it with another number.
	u.setOrigin(n, dst, now.Ino, was.Dev, was.Ino)
	k := u.keyOf(u.upper, &now)
	err = u.publish(n, func(parent *layerDir, fd int, name string) error {
		err := u.become(n, k, false, func() error {
			return renameat2(u.workFD(), tmp, fd, name, unix.RENAME_NOREPLACE)
		})
		if err != nil {
			return err
		}
		up = &layerDir{layer: u.upper, parent: parent, name: name}
		if parent != nil {
			u.noteOrigin(parent)
		}
		return nil
	})
	if err != nil {
		u.origins.drop(now.Ino)
	}
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
		err := u.keepTimes(parent.dir().upper.Load(), func(fd int) error {
			return move(parent.dir().upper.Load(), fd, n.name())
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
	ref{fd: h.fd}.utimes(&ts) // what f did is done, even if this fails
	return nil
}

// become makes n the node of the upper object k, which put puts where it can be
// found. Meanwhile n is the node of both objects, so that nobody who finds one
// of them makes another node of it. If keep is set it stays that of the lower
// one as well, for good. Otherwise a search that has just found the lower one
// must be told to search again, by its directory's count. The caller holds
// n.loc.
func (u *Union) become(n *Node, k key, keep bool, put func() error) error {
	low := n.key
	u.table.rekey(n, k)
	if err := put(); err != nil {
		u.table.rekey(n, low)
		u.table.removeLow(k, n)
		u.table.removeLow(low, n)
		return err
	}
	if keep {
		n.needs().low = low
		n.refs.Add(1)
		return nil
	}
	n.parent.dir().copied.Add(1)
	u.table.removeLow(low, n)
	return nil
}

// copyUpFile is copyUp of anything but a directory; n's copy lock is held.
func (u *Union) copyUpFile(n *Node, size int64) error {
	var low, st unix.Stat_t // as it lies in its layer, and as users see it
	d, err := u.statBoth(n, &low, &st)
	if err != nil {
		return err
	}
	if st.Uid == unreadableOwner {
		return unix.EACCES
	}
	tmp := u.tmpName()
	c, err := u.copyObject(n, d, tmp, &st, size)
	if err != nil {
		u.unlinkWork(tmp)
		return err
	}
	// Before it can be found, or a listing would show it with another number.
	if low.Nlink == 1 {
		u.setOrigin(n, c.ref, c.st.Ino, low.Dev, low.Ino)
	} else { // not for good while other names may stay the lower object, see linkNames
		u.origins.set(c.st.Ino, n.ino)
	}
	err = u.publish(n, func(parent *layerDir, fd int, name string) error {
		was := n.key
		others := int32(low.Nlink) + n.has().links // names of the lower object that are left
		if fd >= 0 {
			others--
		}
		err := u.become(n, u.keyOf(u.upper, &c.st), others > 0, func() error {
			return u.place(n, tmp, fd, name, others > 0)
		})
		if err != nil {
			return err
		}
		if parent != nil {
			u.noteOrigin(parent)
		}
		u.unlinked.Delete(was)
		if n.has().parked != "" {
			others--
		}
		if n.has().links != others {
			n.needs().links = others
		}
		if h := n.data.Swap(c.data); h != nil {
			h.retire()
		}
		return nil
	})
	if c.data != nil {
		c.data.unpin()
	}
	if err != nil {
		if c.data != nil {
			c.data.retire()
		}
		u.origins.drop(c.st.Ino)
		u.unlinkWork(tmp)
		return err
	}
	u.linkNames(n)
	return nil
}

// statBoth fills low with the attributes of n's object, which is in a lower
// layer, and st with what users see of them. It returns where the object lies.
func (u *Union) statBoth(n *Node, low, st *unix.Stat_t) (*layerDir, error) {
	r, err := u.ref(n)
	if err != nil {
		return nil, err
	}
	if err = r.stat(low); err == nil {
		*st = *low
		r.override(r.d.layer, st)
	}
	r.done()
	if err != nil {
		return nil, err
	}
	u.show(n, r.d.layer, st)
	return r.d, nil
}

// place moves the copy tmp to where n is. If n has no name it is held open
// without one, or, if it may still be found by another name and then needs a
// link, parked in the work directory.
func (u *Union) place(n *Node, tmp string, fd int, name string, others bool) error {
	if fd >= 0 {
		return renameat2(u.workFD(), tmp, fd, name, unix.RENAME_NOREPLACE)
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

// What was copied lies in the work directory until it is published.
type copied struct {
	ref  ref
	st   unix.Stat_t // its number and device, at least
	data *handle     // of a regular file, pinned: mostly it is written to next
}

// copyObject makes a copy of n, which lies in d and whose attributes are st, as
// tmp in the work directory.
func (u *Union) copyObject(n *Node, d *layerDir, tmp string, st *unix.Stat_t, size int64) (copied, error) {
	if n.Type() == unix.S_IFREG {
		return u.copyRegular(n, d, tmp, st, size)
	}
	c := copied{ref: ref{fd: u.workFD(), name: tmp}}
	var err error
	if n.Type() == unix.S_IFLNK {
		var target string
		if target, err = u.Readlink(n); err == nil {
			err = unix.Symlinkat(target, u.workFD(), tmp)
		}
	} else {
		err = unix.Mknodat(u.workFD(), tmp, n.Type()|0o600, int(st.Rdev))
	}
	if err == nil {
		err = u.copyMeta(n, c.ref, st)
	}
	if err == nil {
		err = c.ref.stat(&c.st)
	}
	return c, err
}

// copyMeta gives dst what else n has, whose attributes are st, in the order in
// which nothing is undone: chown(2) drops set-id bits and capabilities.
func (u *Union) copyMeta(n *Node, dst ref, st *unix.Stat_t) error {
	if err := u.copyOwner(n, dst, st); err != nil {
		return err
	}
	src, err := u.ref(n)
	if err != nil {
		return err
	}
	defer src.done()
	if src.fd >= 0 {
		if err := u.copyXattrs(src, dst); err != nil {
			return err
		}
	}
	return u.copyModeTimes(dst, st)
}

// copyRegular is copyObject of a regular file. It is made with the mode that it
// gets, so that most need no further call for that nor for the owner: a copy-up
// is a dozen system calls, and each is felt.
func (u *Union) copyRegular(n *Node, d *layerDir, tmp string, st *unix.Stat_t, size int64) (c copied, err error) {
	mode := uint32(0o600)
	if !u.overrides(st.Mode) {
		mode |= st.Mode & 0o777
	}
	fd, err := u.openat(u.workFD(), tmp, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, mode)
	if err != nil {
		return c, err
	}
	c = copied{ref: ref{fd: fd}, data: u.fds.add(fd, true, &n.data)}
	if err = unix.Fstat(fd, &c.st); err == nil {
		err = u.fillRegular(n, d, &c, st, size)
	}
	if err == nil && !u.volatile {
		err = unix.Fsync(fd)
	}
	if err != nil {
		c.data.unpin()
		c.data.retire()
	}
	return c, err
}

// fillRegular copies data and attributes to the empty file c.
func (u *Union) fillRegular(n *Node, d *layerDir, c *copied, st *unix.Stat_t, size int64) error {
	length := st.Size
	if size >= 0 {
		length = min(length, size)
	}
	if length == 0 { // it need not be readable
		return u.copyMeta(n, c.ref, st)
	}
	src, err := u.pinData(n, false)
	if err != nil {
		return err
	}
	defer src.unpin()
	if err := copyData(c.ref.fd, src.fd, length, st, d.layer); err != nil {
		return err
	}
	if u.overrides(st.Mode) {
		return u.copyMeta(n, c.ref, st)
	}
	if c.st.Uid != st.Uid || c.st.Gid != st.Gid {
		if err := unix.Fchown(c.ref.fd, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if err := u.copyXattrs(ref{fd: src.fd, d: d}, c.ref); err != nil {
		return err
	}
	if c.st.Mode != st.Mode {
		if err := c.ref.chmod(st.Mode & 0o7777); err != nil {
			return err
		}
	}
	return c.ref.utimes(&[2]unix.Timespec{st.Atim, st.Mtim})
}

// copyData copies the first length bytes of src, which has attributes st and
// lies in layer l, to the empty file dst, sharing blocks where the file system
// can and keeping holes.
func copyData(dst, src int, length int64, st *unix.Stat_t, l *layer) error {
	if length == st.Size && !l.noClone.Load() {
		err := unix.IoctlFileClone(dst, src)
		if err == nil {
			return nil
		}
		l.noClone.Store(unable(err) && !l.live)
	}
	if st.Blocks*512 >= st.Size { // no holes
		return copyRange(dst, src, 0, length, l)
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
		if err := copyRange(dst, src, data, end, l); err != nil {
			return err
		}
		off = end
	}
	return unix.Ftruncate(dst, length)
}

// unable reports whether a call that failed so between two file systems will
// always do: it is another one, or it does not know the call.
func unable(err error) bool {
	return err == unix.EXDEV || err == unix.EOPNOTSUPP || err == unix.ENOTTY || err == unix.ENOSYS
}

func copyRange(dst, src int, off, end int64, l *layer) error {
	for off < end && !l.noCopyRange.Load() {
		in, out := off, off
		n, err := unix.CopyFileRange(src, &in, dst, &out, int(min(end-off, 1<<30)), 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			l.noCopyRange.Store(unable(err) && !l.live)
			break
		}
		off += int64(n)
	}
	if end-off >= large && sendfile(dst, src, &off, end) {
		return nil
	}
	return copyByHand(dst, src, off, end)
}

// large is from how many bytes on it is worth having the kernel copy between two
// file systems, which saves one copy of two.
const large = 256 << 10

// sendfile copies what lies from off to end, and reports whether all of it; if not, off
// is where it stopped, and who copies the rest finds the error.
func sendfile(dst, src int, off *int64, end int64) bool {
	if _, err := unix.Seek(dst, *off, unix.SEEK_SET); err != nil {
		return false
	}
	for *off < end {
		n, err := unix.Sendfile(dst, src, off, int(min(end-*off, 1<<30)))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return false
		}
	}
	return true
}

// copyBuffers are reused: most files are small, and many are copied in a row.
var copyBuffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

func copyByHand(dst, src int, off, end int64) error {
	if off >= end {
		return nil
	}
	buf := copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(buf)
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

// copyOwner gives dst, a copy of n, the owner in st. n.loc must not be held.
func (u *Union) copyOwner(n *Node, dst ref, st *unix.Stat_t) error {
	if u.overrides(st.Mode) {
		return nil // kept with the mode
	}
	err := unix.Fchownat(dst.fd, dst.name, int(st.Uid), int(st.Gid), dst.atFlags())
	if err == nil || !u.KeepsModes() {
		return err
	}
	id, _ := n.Dir()
	dir := u.ByID(id) // nil if n has just been found elsewhere, and this is forgotten
	var in unix.Stat_t
	if dir != nil && u.Getattr(dir, &in) == nil && u.staysOurs(err, in.Mode) {
		return nil
	}
	return err
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
func (u *Union) copyXattrs(src, dst ref) error {
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
		if u.KeepsModes() && strings.HasPrefix(name, aclPrefix) {
			continue // see withoutACL
		}
		value, err := getxattr(src, name)
		if err == unix.ENODATA {
			continue
		}
		if err == nil {
			err = dst.setxattr(name, value, 0)
		}
		if err != nil && (err != unix.ENOTSUP && err != unix.EPERM && err != unix.EACCES || strings.HasPrefix(name, aclPrefix)) {
			return err
		}
	}
	return nil
}

// listxattr returns the names of the object's attributes as they are stored.
func listxattr(r ref) ([]string, error) {
	var few [1024]byte
	buf := few[:]
	for {
		n, err := r.listxattr(buf)
		if err == unix.ERANGE {
			buf = make([]byte, 64<<10)
			continue
		}
		if err != nil || n == 0 {
			return nil, err
		}
		// No slice of few: that would have it allocated each time.
		return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00"), nil
	}
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

// copyUpTree makes directory n, with all that is visible in it, lie in the
// upper alone and opaque, so that it can be renamed. The caller holds the mu
// of n's parent. What a failure leaves behind is the same merged tree.
func (u *Union) copyUpTree(n *Node) error {
	if err := u.copyUp(n, -1); err != nil {
		return err
	}
	n.dir().mu.Lock()
	defer n.dir().mu.Unlock()
	if len(*n.dir().lowers.Load()) == 0 {
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
		if c.dir() != nil {
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
	up := n.dir().upper.Load()
	h, err := up.pin(u)
	if err != nil {
		return err
	}
	defer h.unpin()
	err = u.keepTimes(up, func(int) error { return u.dropWhiteouts(up, h.fd) })
	if err != nil {
		return err
	}
	if len(*n.dir().lowers.Load()) == 0 {
		return nil
	}
	if err := u.keepNumber(n, up, h.fd); err != nil {
		return err
	}
	n.dir().lowers.Store(&[]*layerDir{})
	return nil
}

// keepNumber remembers which number is shown for the directory n, which lies in up,
// with descriptor fd, and lower layers.
func (u *Union) keepNumber(n *Node, up *layerDir, fd int) error {
	var st, was unix.Stat_t
	if err := fstat(fd, &st); err != nil {
		return err
	}
	if (*n.dir().lowers.Load())[0].stat(u, &was) != nil {
		u.origins.set(st.Ino, n.ino)
		return nil
	}
	u.setOrigin(n, ref{fd: fd}, st.Ino, was.Dev, was.Ino)
	up.mu.Lock()
	parent := up.parent
	up.mu.Unlock()
	u.noteOrigin(parent)
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
			err = unlinkat(fd, name, 0)
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
