package union

import (
	"bytes"
	"encoding/binary"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"plash/internal/layerindex"
)

// listed tells a listing that has been built that name now stands for n.
func (d *dirState) listed(name string, n *Node) {
	d.listMu.Lock()
	defer d.listMu.Unlock()
	if l := d.list.Load(); l != nil {
		l.set(Dirent{name, n.ino, n.Type()})
	}
}

// ownName returns name with the memory that a listing has for it, if that is
// easily found.
func (d *dirState) ownName(name string) string {
	if !d.listMu.TryLock() { // it is just being listed, by ReadDirAt: name is its
		return name
	}
	defer d.listMu.Unlock()
	if l := d.list.Load(); l != nil {
		return l.ownName(name)
	}
	return name
}

// LookedUp is told that the names of directory n up to the one with this cookie
// have just been looked up: what follows will be looked up next.
func (n *Node) LookedUp(cookie uint64) {
	d := n.dir()
	d.listMu.Lock()
	defer d.listMu.Unlock()
	if l := d.list.Load(); l != nil && cookie >= firstCookie {
		l.next = int(min(cookie-firstCookie, uint64(l.size)))
	}
}

// unlisted tells a listing that has been built that name is gone.
func (d *dirState) unlisted(name string) {
	d.listMu.Lock()
	defer d.listMu.Unlock()
	l := d.list.Load()
	if l == nil {
		return
	}
	if i, ok := l.position(name); ok {
		l.remove(i)
	}
}

// ReadDirAt calls add for the names of directory n behind the one with cookie
// from (0: from the start, beginning with "." and ".."), until it returns
// false. Each name comes with its own cookie, from which to go on behind it.
func (u *Union) ReadDirAt(n *Node, from uint64, add func(e Dirent, cookie uint64) bool) error {
	if n.dir() == nil {
		return unix.ENOTDIR
	}
	n.dir().listMu.Lock()
	defer n.dir().listMu.Unlock()
	l, err := u.listingOf(n, from == 0)
	if err != nil {
		return err
	}
	l.settle()
	if from == 0 || l.end == 0 {
		l.end = l.size
	}
	if from == 0 && !add(Dirent{".", n.ino, unix.S_IFDIR}, 1) {
		return nil
	}
	if from <= 1 && !add(Dirent{"..", n.parentIno(), unix.S_IFDIR}, 2) {
		return nil
	}
	for i := max(from, firstCookie) - firstCookie; i < uint64(l.end); i++ {
		if e := l.at(int(i)); e.Name != "" && !add(e, i+firstCookie+1) {
			return nil
		}
	}
	return nil
}

// ReadDir returns all names of directory n but "." and "..", in no order.
func (u *Union) ReadDir(n *Node) ([]Dirent, error) {
	if n.dir() == nil {
		return nil, unix.ENOTDIR
	}
	l, err := u.merge(n.dir(), false)
	if err != nil {
		return nil, err
	}
	return l.all(), nil
}

func (n *Node) parentIno() uint64 {
	n.loc.Lock()
	defer n.loc.Unlock()
	if n.parent == nil {
		return n.ino
	}
	return n.parent.ino
}

// listingOf returns n's listing, built if need be; that of a directory that
// merges a live layer is brought up to date at each new scan.
func (u *Union) listingOf(n *Node, start bool) (*listing, error) {
	l := n.dir().list.Load()
	if l != nil && !(start && n.Live()) {
		return l, nil
	}
	now, err := u.merge(n.dir(), false)
	if err != nil {
		return nil, err
	}
	if l == nil {
		n.dir().list.Store(now)
		return now, nil
	}
	l.update(now)
	return l, nil
}

// merge lists the names of all layers of d: the topmost of a name counts, and
// a whiteout hides those below it. If any is set, one name is enough.
func (u *Union) merge(d *dirState, any bool) (*listing, error) {
	stack := d.stack()
	m := merger{u: u, d: d, l: &listing{}, single: len(stack) == 1, any: any}
	for _, ld := range stack {
		err := m.add(ld)
		if err == layerindex.ErrDamaged {
			u.distrust(ld.layer)
			return u.merge(d, any) // without it
		}
		if err != nil {
			return nil, err
		}
		if ld.layer == u.upper {
			m.fromUpper = m.l.size
		}
		if m.enough() {
			break
		}
	}
	for _, at := range m.hidden {
		m.l.remove(at)
	}
	m.l.clip()
	return m.l, nil
}

// A merger makes a listing. Meanwhile names that are hidden are in it, too, as
// entries without a type.
type merger struct {
	u      *Union
	d      *dirState
	l      *listing
	single bool // there is one layer only
	any    bool
	hidden []int
	// fromUpper are so many of the entries; those in settled have got the number
	// that Lookup shows.
	fromUpper int
	settled   map[int]bool
}

// enough reports whether there is a name and no more are wanted.
func (m *merger) enough() bool { return m.any && m.l.count > len(m.hidden) }

func (m *merger) add(ld *layerDir) error {
	if ld.synthetic() {
		return nil
	}
	if x := ld.useIndex(m.u); x != nil {
		return x.All(ld.block, func(name []byte, e layerindex.Entry) { m.indexed(ld, name, e) })
	}
	fd, err := ld.openList(m.u)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := fstat(fd, &st); err != nil {
		return err
	}
	dev := m.u.devs.index(st.Dev)
	var hide []string // what whiteouts with other names hide in the layers below
	err = readDirFD(fd, func(e rawDirent) bool {
		if ld.dotName(m.u, e.name) {
			if name, ok := dotHides(e.name); ok {
				hide = append(hide, name)
			}
			return true
		}
		m.name(ld, dev, &e)
		return !m.enough()
	})
	for _, name := range hide {
		if _, ok := m.position(name); !ok {
			m.enter(name, 0, 0, false)
		}
	}
	return err
}

// position returns where an entry of this name is, if there can be one.
func (m *merger) position(name string) (int, bool) {
	if m.single {
		return 0, false
	}
	return m.l.position(name)
}

// openList returns a descriptor for listing d, which the caller closes. A
// lower's access time is not touched where we may prevent it.
func (d *layerDir) openList(u *Union) (int, error) {
	h, err := d.pin(u)
	if err != nil {
		return -1, err
	}
	defer h.unpin()
	const flags = unix.O_RDONLY | unix.O_DIRECTORY
	if d.layer == u.upper {
		return u.openat(h.fd, ".", flags, 0)
	}
	fd, err := u.openat(h.fd, ".", flags|unix.O_NOATIME, 0)
	if err == unix.EPERM {
		fd, err = u.openat(h.fd, ".", flags, 0)
	}
	return fd, err
}

// name enters one name of layer directory ld, which lies on file system dev.
func (m *merger) name(ld *layerDir, dev uint32, e *rawDirent) {
	if at, ok := m.position(e.name); ok {
		m.again(at, e.typ)
		return
	}
	ino, shown := m.resolve(ld, dev, e)
	m.enter(e.name, ino, e.typ, shown)
}

// indexed is name for one of the layer's index.
func (m *merger) indexed(ld *layerDir, name []byte, e layerindex.Entry) {
	if at, ok := m.position(string(name)); ok {
		m.again(at, entryType(e))
		return
	}
	m.enter(string(name), inode(ld.layer.dev, e.Ino), entryType(e), e.Type != layerindex.TypeWhiteout)
}

// enter enters a name that no layer above has.
func (m *merger) enter(name string, ino uint64, typ uint32, shown bool) {
	if shown {
		m.l.add(Dirent{name, ino, typ})
	} else if !m.single {
		m.hidden = append(m.hidden, m.l.size)
		m.l.add(Dirent{Name: name})
	}
}

// again is told that a layer has an object of this type under a name that is
// at this position already. A lower directory keeps its number when it is
// copied up, so the upper's may not be the one to show.
func (m *merger) again(at int, typ uint32) {
	if at < m.fromUpper && typ == unix.S_IFDIR && m.l.at(at).Type == unix.S_IFDIR && !m.settled[at] {
		m.settle(at)
	}
}

// settle gives a directory that lies in the upper and in other layers the
// number that Lookup shows for it.
func (m *merger) settle(at int) {
	if m.settled == nil {
		m.settled = map[int]bool{}
	}
	m.settled[at] = true
	if ino, ok := m.found(m.l.at(at).Name); ok {
		m.l.entry(at).ino = ino
	}
}

// found returns the number that Lookup shows for a directory.
func (m *merger) found(name string) (ino uint64, ok bool) {
	h, err := m.u.find(m.d, name)
	if err != nil || h.dirs == nil {
		return 0, false
	}
	defer h.drop()
	if ino, ok := m.u.table.ino(m.u.keyOf(h.in.layer, &h.st)); ok {
		return ino, true
	}
	return m.u.shownIno(&h, name), true
}

// resolve returns the number to show for e and whether it is shown at all. It
// asks for attributes only where type or number do not tell.
func (m *merger) resolve(ld *layerDir, dev uint32, e *rawDirent) (ino uint64, shown bool) {
	unsure := e.typ == 0 || e.typ == unix.S_IFCHR || ld.mount.child(e.name) != nil ||
		e.typ == unix.S_IFREG && (ld.layer.override != "" || ld.mark(m.u)&markXWhiteouts != 0)
	if unsure {
		var st unix.Stat_t
		if err := ld.lstat(m.u, e.name, &st); err != nil || m.u.isWhiteout(ld, e.name, &st) {
			return 0, false
		}
		e.typ, e.ino = st.Mode&unix.S_IFMT, st.Ino
		dev = m.u.devs.index(st.Dev)
	}
	if ld.layer == m.u.upper {
		if shown, ok := m.u.table.ino(keyAt(ld.layer, dev, e.ino)); ok {
			return shown, true
		}
		if e.typ == unix.S_IFDIR && ld.mark(m.u)&markImpure != 0 {
			if shown, ok := m.found(e.name); ok {
				return shown, true
			}
		}
	}
	return m.u.ownIno(ld, e.name, dev, e.ino), true
}

type rawDirent struct {
	name string
	ino  uint64
	typ  uint32 // S_IFMT bits, 0 if the file system does not say
}

type direntBuf struct{ raw, names []byte }

var direntBufs = sync.Pool{New: func() any { return &direntBuf{make([]byte, 64<<10), make([]byte, 64<<10)} }}

// readDirFD calls f for each name but "." and ".." of an open directory, from
// its start, until f returns false. Format: getdents64(2).
func readDirFD(fd int, f func(rawDirent) bool) error {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		if err == unix.EBADF { // an O_PATH descriptor: reading is not permitted
			return unix.EACCES
		}
		return err
	}
	b := direntBufs.Get().(*direntBuf)
	defer direntBufs.Put(b)
	for {
		n, err := unix.Getdents(fd, b.raw)
		if err == unix.EINTR {
			continue
		}
		if err == unix.ENOENT { // a directory that was removed
			return nil
		}
		if n <= 0 || err != nil {
			return err
		}
		// One string for all names takes less than one for each.
		names := namesOf(b.raw[:n], b.names)
		for raw := b.raw[:n]; len(raw) > 0; raw = raw[binary.NativeEndian.Uint16(raw[16:]):] {
			var name string
			name, names, _ = strings.Cut(names, "\x00")
			e := rawDirent{name, binary.NativeEndian.Uint64(raw), uint32(raw[18]) << 12}
			if name != "." && name != ".." && !f(e) {
				return nil
			}
		}
	}
}

// namesOf returns the names in what getdents64(2) returned, each with a NUL
// behind it. It needs a buffer of the same size.
func namesOf(raw, buf []byte) string {
	buf = buf[:0]
	for len(raw) > 0 {
		length := binary.NativeEndian.Uint16(raw[16:])
		name := raw[19:length]
		buf = append(buf, name[:bytes.IndexByte(name, 0)+1]...)
		raw = raw[length:]
	}
	var names strings.Builder
	names.Grow(powerOfTwo(len(buf)))
	names.Write(buf)
	return names.String()
}
