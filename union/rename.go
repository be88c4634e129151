package union

import (
	"golang.org/x/sys/unix"
)

// Rename moves oldName in oldDir to newName in newDir. flags are those of
// renameat2(2), RENAME_NOREPLACE and RENAME_EXCHANGE. A directory that is not
// the upper's alone is copied up with all that is in it first.
func (u *Union) Rename(oldDir *Node, oldName string, newDir *Node, newName string, flags uint) error {
	if u.upper == nil {
		return unix.EROFS
	}
	if flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return unix.EINVAL
	}
	defer u.lockDirs(oldDir, newDir)()
	m := move{u: u, from: side{dir: oldDir, name: oldName}, to: side{dir: newDir, name: newName}, exchange: flags&unix.RENAME_EXCHANGE != 0}
	defer m.close()
	if err := m.find(flags); err != nil || m.same() {
		return err
	}
	if err := m.copyUp(); err != nil {
		return err
	}
	return m.run()
}

// lockDirs locks two directories against changes, ancestors first, and returns
// what unlocks them.
func (u *Union) lockDirs(a, b *Node) func() {
	if a == b && !u.redirect {
		a.dir().mu.Lock()
		return a.dir().mu.Unlock
	}
	u.renameMu.Lock()
	if a == b {
		a.dir().mu.Lock()
		return func() {
			a.dir().mu.Unlock()
			u.renameMu.Unlock()
		}
	}
	if b.isAncestor(a) || !a.isAncestor(b) && b.id < a.id {
		a, b = b, a
	}
	a.dir().mu.Lock()
	b.dir().mu.Lock()
	return func() {
		b.dir().mu.Unlock()
		a.dir().mu.Unlock()
		u.renameMu.Unlock()
	}
}

// isAncestor reports whether n is above m. The caller holds renameMu.
func (n *Node) isAncestor(m *Node) bool {
	for m != nil {
		if m == n {
			return true
		}
		m.loc.Lock()
		p := m.parent
		m.loc.Unlock()
		m = p
	}
	return false
}

// A side is one end of a move.
type side struct {
	dir   *Node
	name  string
	hit   hit
	node  *Node // nil if there is nothing
	below bool  // a lower layer shows the name, unless something covers it
	up    *layerDir
	pin   *handle
}

type move struct {
	u        *Union
	from, to side
	exchange bool
}

func (m *move) close() {
	for _, s := range []*side{&m.from, &m.to} {
		if s.node != nil {
			m.u.Forget(s.node, 1)
		}
		s.hit.drop()
		if s.pin != nil {
			s.pin.unpin()
		}
	}
}

// find looks both names up and checks what rename(2) demands.
func (m *move) find(flags uint) error {
	for _, s := range []*side{&m.from, &m.to} {
		var err error
		s.node, s.hit, err = m.u.findNode(s.dir, s.name)
		if err != nil && (err != unix.ENOENT || s == &m.from || m.exchange) {
			return err
		}
		if s.below, err = m.u.hasBelow(s.dir.dir(), s.name, &s.hit); err != nil {
			return err
		}
	}
	if m.to.node == nil || m.exchange {
		return nil
	}
	switch src, dst := m.from.node.dir() != nil, m.to.node.dir() != nil; {
	case flags&unix.RENAME_NOREPLACE != 0:
		return unix.EEXIST
	case src && !dst:
		return unix.ENOTDIR
	case dst && !src:
		return unix.EISDIR
	case dst && !m.same():
		return m.u.checkEmpty(m.to.node.dir())
	}
	return nil
}

// same reports whether both names are of one file: then rename does nothing.
func (m *move) same() bool { return m.from.node == m.to.node }

func (m *move) copyUp() error {
	u := m.u
	moving := []*Node{m.from.node}
	if m.exchange {
		moving = append(moving, m.to.node)
	}
	for _, n := range moving {
		var err error
		if n.dir() != nil {
			err = m.prepareDir(n)
		} else {
			err = u.copyUp(n, -1)
		}
		if err != nil {
			return err
		}
	}
	for _, s := range []*side{&m.from, &m.to} {
		if err := u.copyUp(s.dir, -1); err != nil {
			return err
		}
		s.up = s.dir.dir().upper.Load()
		var err error
		if s.pin, err = s.up.pin(u); err != nil {
			return err
		}
	}
	if err := m.clear(); err != nil {
		return err
	}
	return m.cover()
}

// clear makes a directory that is to be replaced an empty, opaque one of the
// upper, so that one rename can do it.
func (m *move) clear() error {
	n := m.to.node
	if n == nil || n.dir() == nil || m.exchange {
		return nil
	}
	if err := m.u.copyUp(n, -1); err != nil {
		return err
	}
	n.dir().mu.Lock()
	defer n.dir().mu.Unlock()
	return m.u.separate(n)
}

// prepareDir makes it possible to rename directory n.
func (m *move) prepareDir(n *Node) error {
	if m.u.redirect && len(*n.dir().lowers.Load()) > 0 {
		err := m.u.setRedirect(n, m.from.dir == m.to.dir)
		if err != unix.ENAMETOOLONG {
			return err
		}
	}
	return m.u.copyUpTree(n)
}

// cover makes a directory opaque before it is moved to a name that a lower
// layer has, too.
func (m *move) cover() error {
	if m.to.below {
		if err := m.u.coverDir(m.from.node); err != nil {
			return err
		}
	}
	if m.exchange && m.from.below {
		return m.u.coverDir(m.to.node)
	}
	return nil
}

func (u *Union) coverDir(n *Node) error {
	if n.dir() == nil || len(*n.dir().lowers.Load()) > 0 { // it has a redirect
		return nil
	}
	return u.setOpaque(n.dir().upper.Load())
}

func (m *move) run() error {
	u := m.u
	act := m.replace
	switch {
	case m.exchange:
		return m.both()
	case m.from.node.dir() != nil:
		act = m.replaceByDir
	}
	relocate := func() error { return m.relocate(&m.from, &m.to, act) }
	var err error
	if m.to.node == nil {
		err = relocate()
	} else {
		// The copy-up may have moved what was found before.
		if m.to.hit, err = u.find(m.to.dir.dir(), m.to.name); err == nil {
			err = u.unname(&m.to.hit, m.to.dir, m.to.name, relocate)
		}
	}
	if err != nil {
		return err
	}
	m.from.dir.dir().unlisted(m.from.name)
	m.to.dir.dir().listed(m.to.name, m.from.node)
	return nil
}

// relocate calls act, which moves a's node to where b is, and notes its new
// place; meanwhile nobody looks for it.
func (m *move) relocate(a, b *side, act func() error) error {
	n := a.node
	n.loc.Lock()
	defer n.loc.Unlock()
	if n.dir() != nil {
		up := n.dir().upper.Load()
		up.mu.Lock()
		defer up.mu.Unlock()
		if err := act(); err != nil {
			return err
		}
		up.parent, up.name = b.up, b.name
	} else if err := act(); err != nil {
		return err
	}
	u := m.u
	u.putAt(n, b.dir, b.name)
	if a.dir != b.dir && n.key.upper() {
		u.moved(b.up, n)
	}
	return nil
}

// both exchanges the two sides.
func (m *move) both() error {
	err := m.relocate(&m.from, &m.to, func() error {
		return m.relocate(&m.to, &m.from, func() error {
			return renameat2(m.from.pin.fd, m.from.name, m.to.pin.fd, m.to.name, unix.RENAME_EXCHANGE)
		})
	})
	if err != nil {
		return err
	}
	m.from.dir.dir().listed(m.from.name, m.to.node)
	m.to.dir.dir().listed(m.to.name, m.from.node)
	return nil
}

// replace renames a non-directory over whatever non-directory the upper has
// under the new name, and leaves a whiteout if a lower layer has the old one.
func (m *move) replace() error {
	return m.renameAway(m.from.name, m.to.name)
}

// renameAway renames in the upper and leaves a whiteout where it is needed: in
// one step where the file system can.
func (m *move) renameAway(from, to string) error {
	if !m.from.below {
		return renameat2(m.from.pin.fd, from, m.to.pin.fd, to, 0)
	}
	if !m.whiteoutFiles() {
		err := renameat2(m.from.pin.fd, from, m.to.pin.fd, to, unix.RENAME_WHITEOUT)
		if !refused(err) {
			return err
		}
	}
	white, err := m.u.newWhiteout(m.from.up)
	if err != nil {
		return err
	}
	if m.from.node.dir() != nil {
		err = m.dirAway(from, to, white)
	} else {
		err = m.fileAway(from, to, white)
	}
	if err != nil {
		m.u.unlinkWork(white)
	}
	return err
}

// fileAway is renameAway of a file where that takes more than one step:
// meanwhile it has both names, so that a crash does not show the lower one.
func (m *move) fileAway(from, to, white string) error {
	work, tmp := m.u.workFD(), m.u.tmpName()
	if unix.Linkat(m.from.pin.fd, from, work, tmp, 0) != nil { // it may have no more links
		if err := renameat2(m.from.pin.fd, from, m.to.pin.fd, to, 0); err != nil {
			return err
		}
	} else if err := renameat2(work, tmp, m.to.pin.fd, to, 0); err != nil {
		m.u.unlinkWork(tmp)
		return err
	}
	return renameat2(work, white, m.from.pin.fd, from, 0)
}

// dirAway is the same for a directory: meanwhile an empty one has either name.
func (m *move) dirAway(from, to, white string) error {
	if m.to.node == nil {
		if err := m.putEmptyDir(to); err != nil {
			return err
		}
	}
	if err := renameat2(m.from.pin.fd, from, m.to.pin.fd, to, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	work := m.u.workFD()
	if err := renameat2(work, white, m.from.pin.fd, from, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	return unlinkat(work, white, unix.AT_REMOVEDIR)
}

// putEmptyDir makes an opaque directory of the new name, unless that has a
// whiteout.
func (m *move) putEmptyDir(to string) error {
	work, tmp := m.u.workFD(), m.u.tmpName()
	err := unix.Mkdirat(work, tmp, 0o700)
	if err == nil {
		err = m.u.writeMark(fdPath(work)+"/"+tmp, opaqueAttr, "y")
	}
	if err == nil {
		err = renameat2(work, tmp, m.to.pin.fd, to, 0)
	}
	if err != nil {
		unlinkat(work, tmp, unix.AT_REMOVEDIR)
	}
	return err
}

func (m *move) whiteoutFiles() bool {
	m.u.white.mu.Lock()
	defer m.u.white.mu.Unlock()
	return m.u.white.files
}

// replaceByDir renames a directory to where the upper may have nothing, a
// whiteout, or an empty directory.
func (m *move) replaceByDir() error {
	oldFD, newFD := m.from.pin.fd, m.to.pin.fd
	err := m.renameAway(m.from.name, m.to.name)
	if err != unix.ENOTDIR {
		return err
	}
	var st unix.Stat_t
	if err := fstatat(newFD, m.to.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	// The whiteout comes to where the directory was.
	if m.from.below {
		err = m.u.markIfFile(m.from.up, &st)
	} else {
		err = m.u.mayHoldWhiteouts(oldFD)
	}
	if err != nil {
		return err
	}
	if err := renameat2(oldFD, m.from.name, newFD, m.to.name, unix.RENAME_EXCHANGE); err != nil || m.from.below {
		return err
	}
	return unlinkat(oldFD, m.from.name, 0)
}

// markIfFile makes sure that a whiteout that came into d from another
// directory counts there.
func (u *Union) markIfFile(d *layerDir, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	return u.markXWhiteouts(d)
}
