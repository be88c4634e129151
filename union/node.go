package union

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Node is an object of the merged tree: one for all names of a file, the
// same before and after its copy-up.
//
// There may be millions, so what most of them do not need is kept apart, and
// the order of the fields leaves no room between them.
type Node struct {
	id, gen uint32
	refs    atomic.Int64  // lookups not given back, see table
	flags   atomic.Uint32 // see Flag
	nameLen uint16        // under loc, as is gone
	typ     uint8         // S_IFMT bits, shifted
	gone    bool          // has no name (that we know of) any more
	ino     uint64        // the number shown
	extra   atomic.Pointer[extra]
	data    atomic.Pointer[handle] // opened under loc

	loc    sync.Mutex // guards what follows
	key    key
	parent *Node // where it is in the merged tree, see putAt …
	nameAt *byte // … and lies in the upper, if it is an upper object: see name
	// ldir is where a lower object lies, by its name or extra.lname: it stays
	// there whatever happens to its names.
	ldir *layerDir
}

// A Flag says something of a node.
type Flag uint32

const (
	// Told, Asked, Synced and Written are for who serves the union. The kernel knows the
	// attributes as they are;
	Told Flag = 1 << iota
	// it has asked for the capability, as it does before it lets a file be written;
	Asked
	// it was to ask for the attributes when the file was synced, a moment ago.
	Synced
	// it has written to the file, and not set the modification time since.
	Written
	// noCaps: it is no directory and is known to have no capability. Changed under
	// loc.
	noCaps
)

// Set, Clear and Is give n the flag, take it away, and say whether n has it. Clear
// reports whether n had it.
func (n *Node) Set(f Flag)        { n.flags.Or(uint32(f)) }
func (n *Node) Clear(f Flag) bool { return Flag(n.flags.And(^uint32(f)))&f != 0 }
func (n *Node) Is(f Flag) bool    { return Flag(n.flags.Load())&f != 0 }

// An extra is what few nodes have. It is made when it is needed and stays.
type extra struct {
	dir *dirState // of a directory, which has an extra from the start

	// What follows is of other nodes, under their loc.

	low    key    // key of the lower object it was copied up from, if any
	lname  string // name in ldir, if that is not the node's
	held   int    // descriptor of an upper object without a name, or -1
	parked string // name in the work directory of an upper object without another
	links  int32  // names in the merged tree minus links of the object itself
}

// none is what a node without an extra has in its place, to be read only.
var none = &extra{held: -1}

// has returns n's extra, for reading.
func (n *Node) has() *extra {
	if x := n.extra.Load(); x != nil {
		return x
	}
	return none
}

// needs returns n's extra, for changing it.
func (n *Node) needs() *extra {
	if x := n.extra.Load(); x != nil {
		return x
	}
	n.extra.CompareAndSwap(nil, &extra{held: -1})
	return n.extra.Load()
}

// dir returns what only a directory has, else nil.
func (n *Node) dir() *dirState { return n.has().dir }

// setDir makes n, a new node, a directory.
func (n *Node) setDir(d *dirState) { n.extra.Store(&extra{held: -1, dir: d}) }

// name returns the name by which n was found last; n.loc is held. Its length,
// beside the other small things, saves a node a word.
func (n *Node) name() string { return unsafe.String(n.nameAt, n.nameLen) }

// setName sets the name. The caller holds n.loc, or n is new.
func (n *Node) setName(name string) {
	n.nameAt, n.nameLen = unsafe.StringData(name), uint16(len(name))
}

// nodeMaker makes nodes of what is no directory, many in one piece of memory: the
// Go runtime keeps 160 bytes for ever for each 8 kB that were once in use by
// small objects, and for each larger one. A piece lives as long as one of its
// nodes, so directories, which the kernel forgets last, have none.
type nodeMaker struct {
	mu    sync.Mutex
	piece []Node
}

// pieceNodes fill 128 kB.
const pieceNodes = 128 << 10 / unsafe.Sizeof(Node{})

func (m *nodeMaker) make() *Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.piece) == 0 {
		m.piece = make([]Node, pieceNodes)
	}
	n := &m.piece[0]
	m.piece = m.piece[1:]
	return n
}

// A dirState is what only directories have.
type dirState struct {
	mu     sync.Mutex // serialises changes of the directory
	upper  atomic.Pointer[layerDir]
	lowers atomic.Pointer[[]*layerDir] // topmost first; replaced by a shorter one, never changed
	list   atomic.Pointer[listing]
	listMu sync.Mutex
	acl    atomic.Uint32 // whether it has a default ACL: aclUnknown …
	copied atomic.Uint32 // how many objects in it were copied up, see become
	live   bool          // a live layer merges into it
	// See candidates.
	searched atomic.Uint32
	filter   atomic.Pointer[filter]
	// redirect is by which name the lower layers have it, if not by its own;
	// under renameMu.
	redirect string
	pinned   *handle // of a removed upper directory, under the node's loc
	listing  atomic.Uint32
	ahead    ahead
}

func newDirState(stack []*layerDir) *dirState {
	d := &dirState{}
	if len(stack) > 0 && stack[0].layer.id == 0 {
		d.upper.Store(stack[0])
		stack = stack[1:]
	}
	d.lowers.Store(&stack)
	d.live = slices.ContainsFunc(stack, func(l *layerDir) bool { return l.layer.live })
	return d
}

// stack returns the layer directories that merge into this one, topmost first.
func (d *dirState) stack() []*layerDir {
	lowers := *d.lowers.Load()
	if up := d.upper.Load(); up != nil {
		return append([]*layerDir{up}, lowers...)
	}
	return lowers
}

// top returns the layer directory whose attributes are the merged one's.
func (d *dirState) top() *layerDir {
	if up := d.upper.Load(); up != nil {
		return up
	}
	return (*d.lowers.Load())[0]
}

func (d *dirState) merged() bool {
	n := len(*d.lowers.Load())
	return n > 1 || n == 1 && d.upper.Load() != nil
}

// ID returns the number by which ByID finds the node until it is forgotten,
// and a generation that tells users of the same number apart.
func (n *Node) ID() (id, generation uint64) { return uint64(n.id), uint64(n.gen) }

// typeOf returns the type in mode as a node has it.
func typeOf(mode uint32) uint8 { return uint8(mode & unix.S_IFMT >> typeShift) }

// Type returns the node's type, S_IFMT bits of st_mode.
func (n *Node) Type() uint32 { return uint32(n.typ) << typeShift }

// Ino returns the inode number shown for the node.
func (n *Node) Ino() uint64 { return n.ino }

// Listing is for who serves the union, to note what it knows of a directory's
// listing. It is 0 at first.
func (n *Node) Listing() *atomic.Uint32 { return &n.dir().listing }

// Dir returns the number of the directory in which n, which is not the root,
// was found last, and that directory's Listing.
func (n *Node) Dir() (id uint64, listing *atomic.Uint32) {
	n.loc.Lock()
	defer n.loc.Unlock()
	return uint64(n.parent.id), &n.parent.dir().listing
}

// IsDir reports whether the node is a directory.
func (n *Node) IsDir() bool { return n.Type() == unix.S_IFDIR }

// Live reports whether what the node shows may change without our doing,
// because it lies in a live layer (or, a directory, merges one).
func (n *Node) Live() bool {
	if n.dir() != nil {
		return n.dir().live && len(*n.dir().lowers.Load()) > 0
	}
	n.loc.Lock()
	defer n.loc.Unlock()
	return n.lowerLive()
}

// lowerLive is Live of a non-directory; n.loc is held.
func (n *Node) lowerLive() bool { return !n.key.upper() && n.ldir.layer.live }

// liesIn reports whether n, a directory its topmost one, lies in l.
func (n *Node) liesIn(l *layer) bool {
	n.loc.Lock()
	defer n.loc.Unlock()
	return n.key.layer == uint16(l.id)
}

// letGo closes the descriptor held of an object without a name. The caller
// holds n.loc.
func (u *Union) letGo(n *Node) {
	x := n.has()
	if x.held < 0 {
		return
	}
	unix.Close(x.held)
	x.held = -1
	u.nHeld.Add(-1)
}

// A key identifies an object among all layers. It is layer and inode, never
// device and inode: hard links between layers that share files must not become
// one file. A live layer's file is a new one when it has changed.
type key struct {
	layer, dev uint16
	ver        uint32
	ino        uint64
}

// upper reports whether the object lies in the upper layer.
func (k key) upper() bool { return k.layer == 0 }

// device returns the index of the device that an upper object lies on.
func (k key) device() uint32 { return uint32(k.dev) | k.ver<<16 }

func keyAt(l *layer, dev uint32, ino uint64) key {
	return key{layer: uint16(l.id), dev: uint16(dev), ver: dev >> 16, ino: ino}
}

func (u *Union) keyOf(l *layer, st *unix.Stat_t) key {
	k := keyAt(l, u.devs.index(st.Dev), st.Ino)
	if l.live && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		k.ver += uint32((uint64(st.Ctim.Nano())*odd^uint64(st.Size))*odd>>32) + 1
	}
	return k
}

// ByID returns the node with this number, or nil.
func (u *Union) ByID(id uint64) *Node { return u.table.ids.get(id) }

const forgotten = -1 << 40

// hold counts one more lookup of n, unless it is forgotten.
func (n *Node) hold() bool {
	for {
		r := n.refs.Load()
		if r < 0 {
			return false
		}
		if n.refs.CompareAndSwap(r, r+1) {
			return true
		}
	}
}

// Forget gives count lookups of n back. When the last one is given back, the
// node is gone, and with it an object that has no name any more.
func (u *Union) Forget(n *Node, count uint64) {
	if n == u.root {
		return
	}
	if n.refs.Add(-int64(count)) != 0 || !n.refs.CompareAndSwap(0, forgotten) {
		return
	}
	n.loc.Lock()
	k, low := n.key, n.has().low
	n.loc.Unlock()
	u.table.remove(n, k, low)
	u.release(n)
	if u.table.ids.remove(n) {
		// The kernel forgets directories, and with them their listings, last.
		time.AfterFunc(time.Second, u.tidy)
	}
	u.Forget(n.parent, 1)
}

// putAt notes that n is found as name in dir. The caller holds n.loc and has a
// lookup of dir. A node keeps a lookup of its directory: that of a file with
// several names may otherwise be forgotten first, come back as another node, and
// be moved or emptied without this one hearing of it.
func (u *Union) putAt(n, dir *Node, name string) {
	if old := n.parent; old != dir {
		dir.refs.Add(1)
		n.parent = dir
		u.Forget(old, 1)
	}
	if n.dir() == nil && !n.key.upper() && n.name() != name && n.has().lname == "" {
		n.needs().lname = n.name()
	}
	n.setName(name)
	n.gone = false
}

// tidy lets go of memory after most nodes have been forgotten.
func (u *Union) tidy() {
	u.fds.tidy()
	if u.Shrunk != nil {
		u.Shrunk()
	}
}

// release frees the descriptors of a node that nobody can reach any more, and
// the object itself if it has no name.
func (u *Union) release(n *Node) {
	n.loc.Lock()
	defer n.loc.Unlock()
	if h := n.data.Swap(nil); h != nil {
		h.retire()
	}
	x := n.has()
	if x.held >= 0 {
		var st unix.Stat_t
		if fstat(x.held, &st) == nil && st.Nlink == 0 {
			u.origins.drop(st.Ino)
		}
		u.letGo(n)
	}
	if x.parked != "" {
		u.origins.drop(n.key.ino)
		u.unlinkWork(x.parked)
	}
	d := n.dir()
	if d == nil {
		n.extra.Store(nil) // others in the same piece of memory may live on
		return
	}
	if d.pinned != nil {
		d.pinned.unpin()
	}
	for _, l := range d.stack() {
		l.drop()
	}
	d.list.Store(nil) // such nodes may lead to it
}

// A ref is how to reach a node's object by system calls for as long as the ref
// is not done: name below fd, or fd itself if name is empty.
type ref struct {
	fd   int
	name string
	pin  *handle
	n    *Node     // its loc is locked, nil if not
	d    *layerDir // where it lies, the upper's root if that is not known; nil while it is made
}

// ref finds the node's object. The caller must call done.
func (u *Union) ref(n *Node) (ref, error) {
	if n.dir() != nil {
		d := n.dir().top()
		if d.synthetic() {
			return ref{fd: -1, d: d}, nil
		}
		h, err := d.pin(u)
		if err != nil {
			return ref{}, u.lost(d, err)
		}
		return ref{fd: h.fd, pin: h, d: d}, nil
	}
	n.loc.Lock()
	r, err := u.refLocked(n)
	if err != nil {
		n.loc.Unlock()
		return r, err
	}
	r.n = n
	return r, nil
}

// attrRef is ref for attributes: an object of the upper whose data is open is reached
// by that descriptor. Not to look for its name saves 3 to 12 % of untarring, and 7 to
// 13 of copy-up by chmod.
func (u *Union) attrRef(n *Node) (ref, error) {
	if n.dir() == nil && n.data.Load() != nil {
		n.loc.Lock()
		if n.key.upper() {
			if h := n.openData(false); h != nil {
				return ref{fd: h.fd, pin: h, n: n, d: u.upper.root}, nil
			}
		}
		n.loc.Unlock()
	}
	return u.ref(n)
}

// refLocked is ref of a non-directory for a caller that holds n.loc.
func (u *Union) refLocked(n *Node) (ref, error) {
	x := n.has()
	if x.held >= 0 {
		return ref{fd: x.held, d: u.upper.root}, nil
	}
	d, name := n.ldir, n.name()
	switch {
	case !n.key.upper() && x.lname != "":
		name = x.lname
	case !n.key.upper():
	case x.parked != "":
		d, name = u.work, x.parked
	default:
		d = n.parent.dir().upper.Load()
	}
	h, err := d.pin(u)
	if err != nil {
		return ref{}, u.lost(d, err)
	}
	return ref{fd: h.fd, name: name, pin: h, d: d}, nil
}

func (r ref) done() {
	if r.pin != nil {
		r.pin.unpin()
	}
	if r.n != nil {
		r.n.loc.Unlock()
	}
}

func (r ref) stat(st *unix.Stat_t) error {
	if r.fd < 0 {
		r.d.mount.stat(st)
		return nil
	}
	return fstatat(r.fd, r.name, st, r.atFlags())
}

// path returns a path for system calls that know no descriptors. If the object
// may be a symlink, the call must not follow it, except for a ref without a
// name, whose path is itself a link to be followed.
func (r ref) path() string {
	if r.name == "" {
		return fdPath(r.fd)
	}
	return fdPath(r.fd) + "/" + r.name
}

// open opens the object; it must be a regular file.
func (r ref) open(u *Union, flags int) (int, error) {
	if r.name == "" {
		return u.openat(unix.AT_FDCWD, fdPath(r.fd), flags, 0)
	}
	flags |= unix.O_NOFOLLOW | unix.O_NONBLOCK
	if r.d.layer.live && r.d.mount.child(r.name) == nil {
		return openBeneathMount(r.fd, r.name, flags)
	}
	return u.openat(r.fd, r.name, flags, 0)
}
