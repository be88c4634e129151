package union

import "golang.org/x/sys/unix"

// Creating takes for granted that Lookup has just answered ENOENT for the
// name, and that nobody else makes it at the same time: the kernel's directory
// locks see to that.

// Owner and permissions of an object to be created. Umask does not count in a
// directory that has a default ACL.
type Creation struct {
	Mode     uint32 // permission bits; of Mknod the type, too
	Umask    uint32
	UID, GID uint32 // noID for one that cannot be stored: EOVERFLOW
}

// noID is what stands for an id that a mapping does not have.
const noID = ^uint32(0)

// make makes the object name in directory dir by calling put with a directory
// descriptor and a name, gives it its owner, and returns its node and
// attributes.
func (u *Union) make(dir *Node, name string, c Creation, put func(fd int, name string, mode uint32) error, isDir bool) (*Node, *unix.Stat_t, error) {
	if c.UID == noID || c.GID == noID {
		return nil, nil, unix.EOVERFLOW
	}
	if err := u.copyUp(dir, -1); err != nil {
		return nil, nil, err
	}
	d := dir.dir()
	d.mu.Lock()
	defer d.mu.Unlock()
	up := d.upper.Load()
	h, err := up.pin(u)
	if err != nil {
		return nil, nil, err
	}
	defer h.unpin()
	mode := c.Mode
	if !u.hasDefaultACL(d, h.fd) {
		mode &^= c.Umask
	}
	m := maker{u: u, up: up, fd: h.fd, c: c, put: put, mode: mode, isDir: isDir}
	if typ := mode & unix.S_IFMT; typ == 0 || typ == unix.S_IFREG {
		m.override = u.KeepsModes()
	}
	if err := m.run(name); err != nil {
		return nil, nil, err
	}
	return u.made(dir, up, h.fd, name)
}

// A maker puts one new object into a directory of the upper.
type maker struct {
	u     *Union
	up    *layerDir
	fd    int
	c     Creation
	put   func(fd int, name string, mode uint32) error
	mode  uint32
	isDir bool
	// override: owner and mode go into an attribute.
	override bool
}

func (m *maker) run(name string) error {
	err := error(unix.EXDEV)
	if m.inSteps() {
		err = m.prepare(name, false)
	}
	if err == unix.EXDEV { // some directories take nothing from others
		err = m.direct(name)
	}
	if err == unix.EEXIST {
		return m.overWhiteout(name)
	}
	return err
}

// inSteps reports whether the object gets its owner after it was made, and a
// crash must not show it before.
func (m *maker) inSteps() bool {
	return !m.u.volatile && (m.override || int(m.c.UID) != m.u.euid || int(m.c.GID) != m.u.egid)
}

func (m *maker) direct(name string) error {
	if err := m.create(m.fd, name); err != nil {
		return err
	}
	if err := m.own(m.fd, name); err != nil {
		m.u.removeTree(m.fd, name)
		return err
	}
	return nil
}

// create makes the object. If owner and mode go into an attribute, only we ourselves
// may use it then: neither are its contents others', nor does it run as us.
func (m *maker) create(fd int, name string) error {
	mode := m.mode
	if m.override {
		mode = mode&unix.S_IFMT | 0o600
		if m.isDir {
			mode |= 0o100
		}
	}
	return m.put(fd, name, mode)
}

// own gives the new object its owner. The group comes from a directory with
// sgid, which the file system has seen to; chown drops suid and sgid of files.
func (m *maker) own(fd int, name string) error {
	if m.override {
		return m.ownByAttr(fd, name)
	}
	ours := int(m.c.UID) == m.u.euid
	if ours && int(m.c.GID) == m.u.egid && !m.u.KeepsModes() {
		return nil
	}
	var st unix.Stat_t
	if err := fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	gid, _, err := m.u.inherited(m.fd, m.c.GID)
	if err != nil {
		return err
	}
	if st.Uid == m.c.UID && st.Gid == gid {
		return nil
	}
	err = unix.Fchownat(fd, name, int(m.c.UID), int(gid), unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		var dir unix.Stat_t
		if m.u.KeepsModes() && !ours {
			dir, _ = m.u.statUpper(m.fd)
		}
		if m.u.staysOurs(err, dir.Mode) {
			return nil
		}
		return err
	}
	if st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 && !m.isDir {
		return ref{fd: fd, name: name}.chmod(st.Mode & 0o7777)
	}
	return nil
}

func (m *maker) ownByAttr(fd int, name string) error {
	var st unix.Stat_t
	if err := fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	gid, sgid, err := m.u.inherited(m.fd, m.c.GID)
	if err != nil {
		return err
	}
	mode := m.mode & 0o7777
	if m.isDir {
		mode |= sgid
	}
	return m.u.setOverride(ref{fd: fd, name: name}, st, &m.c.UID, &gid, &mode)
}

// inherited returns the group of what is made in dir by one whose group is gid, and
// sgid if it is dir's because dir has that bit.
func (u *Union) inherited(dir int, gid uint32) (group, sgid uint32, err error) {
	st, err := u.statUpper(dir)
	if err != nil {
		return 0, 0, err
	}
	if st.Mode&unix.S_ISGID == 0 {
		return gid, 0, nil
	}
	return st.Gid, unix.S_ISGID, nil
}

// statUpper returns the attributes of the upper's open directory fd.
func (u *Union) statUpper(fd int) (st unix.Stat_t, err error) {
	if err = fstat(fd, &st); err == nil {
		ref{fd: fd}.override(u.upper, &st)
	}
	return st, err
}

// overWhiteout makes the object where the upper has a whiteout.
func (m *maker) overWhiteout(name string) error {
	var st unix.Stat_t
	if err := fstatat(m.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if !m.u.isWhiteout(m.up, name, &st) {
		return unix.EEXIST
	}
	return m.prepare(name, true)
}

// prepare makes the object in the work directory, so that at no time a part of
// it can be seen, nor what a whiteout hides.
func (m *maker) prepare(name string, white bool) error {
	u := m.u
	stage, err := m.stage()
	if err != nil {
		return err
	}
	defer stage.close(u)
	tmp := u.tmpName()
	if err := m.create(stage.fd, tmp); err != nil {
		return err
	}
	err = m.own(stage.fd, tmp)
	if err == nil && white && m.isDir {
		err = u.writeMark(fdPath(stage.fd)+"/"+tmp, opaqueAttr, "y")
	}
	switch {
	case err != nil:
	case white:
		err = m.swapIn(stage.fd, tmp, name)
	default:
		err = renameat2(stage.fd, tmp, m.fd, name, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		u.removeTree(stage.fd, tmp)
	}
	return err
}

func (m *maker) swapIn(stage int, tmp, name string) error {
	if !m.isDir {
		return renameat2(stage, tmp, m.fd, name, 0)
	}
	if err := renameat2(stage, tmp, m.fd, name, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	return unlinkat(stage, tmp, 0)
}

// A stage is a directory in which objects get the same group and ACL as in the
// one that they are for: the work directory itself, or one made below it. Where owners
// are kept in attributes that is seen to, and we may not be in that group.
type stage struct {
	fd   int
	name string
}

func (m *maker) stage() (stage, error) {
	u := m.u
	if u.KeepsModes() {
		return stage{fd: u.workFD()}, nil
	}
	var st unix.Stat_t
	if err := fstat(m.fd, &st); err != nil {
		return stage{}, err
	}
	acl, err := getxattr(ref{fd: m.fd}, aclDefault)
	if err != nil && err != unix.ENODATA && err != unix.ENOTSUP {
		return stage{}, err
	}
	if st.Mode&unix.S_ISGID == 0 && len(acl) == 0 {
		return stage{fd: u.workFD()}, nil
	}
	s := stage{name: u.tmpName()}
	if err := unix.Mkdirat(u.workFD(), s.name, 0o700); err != nil {
		return s, err
	}
	s.fd, err = u.openat(u.workFD(), s.name, dirFlags, 0)
	if err == nil {
		err = unix.Fchown(s.fd, -1, int(st.Gid))
	}
	if err == nil {
		err = unix.Fchmod(s.fd, 0o700|st.Mode&unix.S_ISGID)
	}
	if err == nil && len(acl) > 0 {
		err = unix.Fsetxattr(s.fd, aclDefault, acl, 0)
	}
	if err != nil {
		s.close(u)
	}
	return s, err
}

func (s stage) close(u *Union) {
	if s.name == "" {
		return
	}
	if s.fd > 0 {
		unix.Close(s.fd)
	}
	unlinkat(u.workFD(), s.name, unix.AT_REMOVEDIR)
}

// made returns the node of an object that has just appeared as name in up.
func (u *Union) made(dir *Node, up *layerDir, fd int, name string) (*Node, *unix.Stat_t, error) {
	h := hit{in: up, made: true}
	if err := fstatat(fd, name, &h.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, nil, err
	}
	ref{fd: fd, name: name}.override(u.upper, &h.st)
	if h.st.Mode&unix.S_IFMT == unix.S_IFDIR {
		h.dirs = []*layerDir{up.child(name)}
	}
	u.origins.drop(h.st.Ino) // of an earlier object with this inode
	n, err := u.intern(dir, name, &h, nil)
	if err != nil {
		return nil, nil, err
	}
	dir.dir().listed(name, n)
	u.show(n, u.upper, &h.st)
	return n, &h.st, nil
}

// Mkdir makes a directory. The node returned counts one lookup, as with all
// that follow.
func (u *Union) Mkdir(dir *Node, name string, c Creation) (*Node, *unix.Stat_t, error) {
	return u.make(dir, name, c, func(fd int, name string, mode uint32) error {
		return unix.Mkdirat(fd, name, mode&0o7777)
	}, true)
}

// Mknod makes a regular file, device, FIFO or socket. A device 0:0 is refused
// (EPERM): it would be a whiteout.
func (u *Union) Mknod(dir *Node, name string, c Creation, rdev uint32) (*Node, *unix.Stat_t, error) {
	if c.Mode&unix.S_IFMT == unix.S_IFCHR && rdev == 0 {
		return nil, nil, unix.EPERM
	}
	return u.make(dir, name, c, func(fd int, name string, mode uint32) error {
		return unix.Mknodat(fd, name, mode, int(rdev))
	}, false)
}

// Symlink makes a symlink to target.
func (u *Union) Symlink(dir *Node, name, target string, c Creation) (*Node, *unix.Stat_t, error) {
	c.Mode |= unix.S_IFLNK
	return u.make(dir, name, c, func(fd int, name string, _ uint32) error {
		return unix.Symlinkat(target, fd, name)
	}, false)
}

// Create makes a regular file and keeps it open for what will be written.
func (u *Union) Create(dir *Node, name string, c Creation) (*Node, *unix.Stat_t, error) {
	var made *handle
	n, st, err := u.make(dir, name, c, func(fd int, name string, mode uint32) error {
		f, err := u.openat(fd, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_NOFOLLOW, mode&0o7777)
		if err == nil {
			if made != nil { // of an attempt that met a whiteout
				made.unpin()
				made.retire()
			}
			made = u.fds.add(f, true, nil)
		}
		return err
	}, false)
	if made == nil {
		return n, st, err
	}
	if err == nil {
		made.in = &n.data
	}
	if err != nil || !n.data.CompareAndSwap(nil, made) {
		made.retire()
	}
	made.unpin()
	return n, st, err
}

// Tmpfile makes a regular file without a name in dir's file system, see
// O_TMPFILE in open(2). Link can give it one.
func (u *Union) Tmpfile(dir *Node, c Creation) (*Node, *unix.Stat_t, error) {
	if c.UID == noID || c.GID == noID {
		return nil, nil, unix.EOVERFLOW
	}
	if err := u.copyUp(dir, -1); err != nil {
		return nil, nil, err
	}
	h, err := dir.dir().upper.Load().pin(u)
	if err != nil {
		return nil, nil, err
	}
	defer h.unpin()
	mode := c.Mode & 0o7777
	if !u.hasDefaultACL(dir.dir(), h.fd) {
		mode &^= c.Umask
	}
	access := mode
	if u.KeepsModes() {
		access = 0o600
	}
	if c.GID, _, err = u.inherited(h.fd, c.GID); err != nil {
		return nil, nil, err
	}
	fd, err := u.openat(h.fd, ".", unix.O_TMPFILE|unix.O_RDWR, access)
	if err != nil {
		return nil, nil, err
	}
	var st unix.Stat_t
	if u.KeepsModes() {
		if err = unix.Fstat(fd, &st); err == nil {
			err = u.setOverride(ref{fd: fd}, st, &c.UID, &c.GID, &mode)
			ref{fd: fd}.override(u.upper, &st)
		}
	} else {
		err = ownOpen(fd, c, &st)
	}
	if err != nil {
		unix.Close(fd)
		return nil, nil, err
	}
	u.origins.drop(st.Ino)
	dir.refs.Add(1)
	n := &Node{typ: typeOf(unix.S_IFREG), key: u.keyOf(u.upper, &st), parent: dir, gone: true}
	n.needs().held = fd
	n.ino = inode(n.key.device(), st.Ino)
	n.refs.Store(1)
	u.nHeld.Add(1)
	u.table.ids.add(n)
	u.table.add(n, nil)
	return n, &st, nil
}

// ownOpen gives the open new file its owner, and fills st.
func ownOpen(fd int, c Creation, st *unix.Stat_t) error {
	if err := unix.Fstat(fd, st); err != nil {
		return err
	}
	if st.Uid == c.UID && st.Gid == c.GID {
		return nil
	}
	if err := unix.Fchown(fd, int(c.UID), int(c.GID)); err != nil {
		return err
	}
	if st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
			return err
		}
	}
	return unix.Fstat(fd, st)
}

// Link gives n another name, in dir. It counts one lookup of n more.
func (u *Union) Link(n, dir *Node, name string) (*unix.Stat_t, error) {
	if n.dir() != nil {
		return nil, unix.EPERM
	}
	if err := u.copyUp(n, -1); err != nil {
		return nil, err
	}
	if err := u.copyUp(dir, -1); err != nil {
		return nil, err
	}
	if err := u.link(n, dir, name); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := u.Getattr(n, &st); err != nil {
		return nil, err
	}
	n.hold()
	return &st, nil
}

func (u *Union) link(n, dir *Node, name string) error {
	d := dir.dir()
	d.mu.Lock()
	defer d.mu.Unlock()
	up := d.upper.Load()
	h, err := up.pin(u)
	if err != nil {
		return err
	}
	defer h.unpin()
	n.loc.Lock()
	defer n.loc.Unlock()
	r, err := u.refLocked(n)
	if err != nil {
		return err
	}
	defer r.done()
	err = r.link(h.fd, name)
	if err == unix.EEXIST {
		err = u.linkOverWhiteout(r, up, h.fd, name)
	}
	if err != nil {
		return err
	}
	u.moved(up, n)
	u.putAt(n, dir, name)
	u.letGo(n)
	u.unpark(n)
	d.listed(name, n)
	return nil
}

func (u *Union) linkOverWhiteout(r ref, up *layerDir, fd int, name string) error {
	var st unix.Stat_t
	if err := fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if !u.isWhiteout(up, name, &st) {
		return unix.EEXIST
	}
	tmp := u.tmpName()
	if err := r.link(u.workFD(), tmp); err != nil {
		return err
	}
	if err := renameat2(u.workFD(), tmp, fd, name, 0); err != nil {
		u.unlinkWork(tmp)
		return err
	}
	return nil
}
