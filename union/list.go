package union

import (
	"encoding/binary"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"plash/internal/layerindex"
)

// A Dirent is one name of a merged directory.
type Dirent struct {
	Name string
	Ino  uint64 // as Getattr shows it
	Type uint32 // S_IFMT bits
}

// A listing gives each name of a directory a cookie that it keeps while the
// node lives: its position, two being left for "." and "..". A removed name
// leaves a gap, a new one goes to the end; so a scan that removes or creates
// names on its way meets every other name exactly once.
type listing struct {
	ents  []Dirent       // Name is empty in a gap
	index map[string]int // made at the first change
}

const firstCookie = 2

func (l *listing) position(name string) (int, bool) {
	if l.index == nil {
		l.index = make(map[string]int, len(l.ents))
		for i, e := range l.ents {
			if e.Name != "" {
				l.index[e.Name] = i
			}
		}
	}
	i, ok := l.index[name]
	return i, ok
}

// listed tells a listing that has been built that name now stands for n.
func (d *dirState) listed(name string, n *Node) {
	d.listMu.Lock()
	defer d.listMu.Unlock()
	l := d.list.Load()
	if l == nil {
		return
	}
	e := Dirent{name, n.ino, n.typ}
	if i, ok := l.position(name); ok {
		l.ents[i] = e
		return
	}
	l.index[name] = len(l.ents)
	l.ents = append(l.ents, e)
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
		l.ents[i] = Dirent{}
		delete(l.index, name)
	}
}

// ReadDirAt calls add for the names of directory n behind the one with cookie
// from (0: from the start, beginning with "." and ".."), until it returns
// false. Each name comes with its own cookie, from which to go on behind it.
func (u *Union) ReadDirAt(n *Node, from uint64, add func(e Dirent, cookie uint64) bool) error {
	if n.dir == nil {
		return unix.ENOTDIR
	}
	n.dir.listMu.Lock()
	defer n.dir.listMu.Unlock()
	l, err := u.listingOf(n, from == 0)
	if err != nil {
		return err
	}
	if from == 0 && !add(Dirent{".", n.ino, unix.S_IFDIR}, 1) {
		return nil
	}
	if from <= 1 && !add(Dirent{"..", n.parentIno(), unix.S_IFDIR}, 2) {
		return nil
	}
	for i := max(from, firstCookie) - firstCookie; i < uint64(len(l.ents)); i++ {
		if l.ents[i].Name != "" && !add(l.ents[i], i+firstCookie+1) {
			return nil
		}
	}
	return nil
}

// ReadDir returns all names of directory n but "." and "..", in no order.
func (u *Union) ReadDir(n *Node) ([]Dirent, error) {
	if n.dir == nil {
		return nil, unix.ENOTDIR
	}
	n.dir.listMu.Lock()
	defer n.dir.listMu.Unlock()
	l, err := u.listingOf(n, true)
	if err != nil {
		return nil, err
	}
	ents := make([]Dirent, 0, len(l.ents))
	for _, e := range l.ents {
		if e.Name != "" {
			ents = append(ents, e)
		}
	}
	return ents, nil
}

func (n *Node) parentIno() uint64 {
	n.loc.RLock()
	defer n.loc.RUnlock()
	if n.parent == nil {
		return n.ino
	}
	return n.parent.ino
}

// listingOf returns n's listing, built if need be; that of a directory that
// merges a live layer is brought up to date at each new scan.
func (u *Union) listingOf(n *Node, start bool) (*listing, error) {
	l := n.dir.list.Load()
	if l != nil && !(start && n.Live()) {
		return l, nil
	}
	ents, err := u.merge(n.dir)
	if err != nil {
		return nil, err
	}
	if l == nil {
		l = &listing{ents: ents}
		n.dir.list.Store(l)
		return l, nil
	}
	l.update(ents)
	return l, nil
}

// update makes ents the names of l, keeping the cookies of those that stay.
func (l *listing) update(ents []Dirent) {
	now := make(map[string]bool, len(ents))
	for _, e := range ents {
		now[e.Name] = true
		if i, ok := l.position(e.Name); ok {
			l.ents[i] = e
			continue
		}
		l.index[e.Name] = len(l.ents)
		l.ents = append(l.ents, e)
	}
	for name, i := range l.index {
		if !now[name] {
			l.ents[i] = Dirent{}
			delete(l.index, name)
		}
	}
}

// merge lists the names of all layers of d: the topmost of a name counts, and
// a whiteout hides those below it.
func (u *Union) merge(d *dirState) ([]Dirent, error) {
	stack := d.stack()
	m := merger{u: u, d: d, single: len(stack) == 1}
	if !m.single {
		m.seen = map[string]int{}
	}
	for _, ld := range stack {
		err := m.add(ld)
		if err == layerindex.ErrDamaged {
			u.distrust(ld.layer)
			return u.merge(d) // without it
		}
		if err != nil {
			return nil, err
		}
		if ld.layer == u.upper {
			m.fromUpper = len(m.ents)
		}
	}
	return m.ents, nil
}

type merger struct {
	u      *Union
	d      *dirState
	single bool
	ents   []Dirent
	seen   map[string]int // position in ents; hidden for whiteouts, merged for directories settled
	// fromUpper are so many of ents.
	fromUpper int
}

const (
	hidden = -1
	merged = -2
)

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
		return true
	})
	for _, name := range hide {
		if !m.single {
			if _, ok := m.seen[name]; !ok {
				m.seen[name] = hidden
			}
		}
	}
	return err
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
	if !m.single {
		if at, ok := m.seen[e.name]; ok {
			m.again(at, e.typ)
			return
		}
	}
	ino, shown := m.resolve(ld, dev, e)
	m.enter(e.name, ino, e.typ, shown)
}

// indexed is name for one of the layer's index.
func (m *merger) indexed(ld *layerDir, name []byte, e layerindex.Entry) {
	if !m.single {
		if at, ok := m.seen[string(name)]; ok {
			m.again(at, entryType(e))
			return
		}
	}
	m.enter(string(name), inode(ld.layer.dev, e.Ino), entryType(e), e.Type != layerindex.TypeWhiteout)
}

// enter enters a name that no layer above has.
func (m *merger) enter(name string, ino uint64, typ uint32, shown bool) {
	if !shown {
		if !m.single {
			m.seen[name] = hidden
		}
		return
	}
	if !m.single {
		m.seen[name] = len(m.ents)
	}
	m.ents = append(m.ents, Dirent{name, ino, typ})
}

// again is told that a layer has an object of this type under a name that is
// at this position already. A lower directory keeps its number when it is
// copied up, so the upper's may not be the one to show.
func (m *merger) again(at int, typ uint32) {
	if at >= 0 && at < m.fromUpper && typ == unix.S_IFDIR && m.ents[at].Type == unix.S_IFDIR {
		m.settle(at)
	}
}

// settle gives a directory that lies in the upper and in other layers the
// number that Lookup shows for it.
func (m *merger) settle(at int) {
	e := &m.ents[at]
	m.seen[e.Name] = merged
	if h, err := m.u.find(m.d, e.Name); err == nil && h.dirs != nil {
		e.Ino = m.u.dirIno(h.dirs, &h.st)
	}
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
		if shown, ok := m.u.origins.get(e.ino); ok {
			return shown, true
		}
		if shown, ok := m.u.storedOrigin(ld, e.name, e.ino); ok {
			return shown, true
		}
	}
	return inode(dev, e.ino), true
}

type rawDirent struct {
	name string
	ino  uint64
	typ  uint32 // S_IFMT bits, 0 if the file system does not say
}

var direntBufs = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// readDirFD calls f for each name but "." and ".." of an open directory, from
// its start, until f returns false. Format: getdents64(2).
func readDirFD(fd int, f func(rawDirent) bool) error {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		if err == unix.EBADF { // an O_PATH descriptor: reading is not permitted
			return unix.EACCES
		}
		return err
	}
	bp := direntBufs.Get().(*[]byte)
	defer direntBufs.Put(bp)
	for {
		n, err := unix.Getdents(fd, *bp)
		if err == unix.EINTR {
			continue
		}
		if err == unix.ENOENT { // a directory that was removed
			return nil
		}
		if n <= 0 || err != nil {
			return err
		}
		for b := (*bp)[:n]; len(b) > 0; {
			length := binary.NativeEndian.Uint16(b[16:])
			name := string(b[19:length])
			name, _, _ = strings.Cut(name, "\x00")
			e := rawDirent{name, binary.NativeEndian.Uint64(b), uint32(b[18]) << 12}
			b = b[length:]
			if name != "." && name != ".." && !f(e) {
				return nil
			}
		}
	}
}
