package union

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"plash/internal/layerindex"
)

// A hit is what a name stands for in a merged directory.
type hit struct {
	st   unix.Stat_t // of the topmost object
	in   *layerDir   // the layer directory that holds it
	dirs []*layerDir // of a directory: what merges, topmost first
	// redirect is that of a directory in the upper layer.
	redirect string
	made     bool // just now, so there is nothing noted at it
}

// drop closes what has been opened of directories that are no node's.
func (h *hit) drop() {
	for _, d := range h.dirs {
		d.drop()
	}
}

// manyLayers is how many directories are merged without memory being allocated
// for a search.
const manyLayers = 16

// find searches name in the layers of directory d, as overlayfs does: the
// topmost object counts, a whiteout ends the search, and directories merge
// down to the first opaque one or the first object of another type. A redirect
// says by which name, or path from the root, the search goes on.
func (u *Union) find(d *dirState, name string) (hit, error) {
	var h hit
	var few [1 + manyLayers]*layerDir
	stack := u.candidates(few[:1], d, name)
	if stack[0] = d.upper.Load(); stack[0] == nil { // after the lowers, see separate
		stack = stack[1:]
	}
	for len(stack) > 0 {
		ld := stack[0]
		stack = stack[1:]
		next, last, err := u.findIn(ld, name, &h)
		if err != nil && err != unix.ENOENT {
			h.drop()
			return h, err
		}
		if last {
			break
		}
		if next == name {
			continue
		}
		if next[0] == '/' && name[0] != '/' {
			stack = below(u.root.dir(), ld.layer)
		} else if next[0] != '/' {
			stack = below(d, ld.layer)
		}
		name = next
	}
	if h.in == nil {
		return h, unix.ENOENT
	}
	return h, nil
}

// findIn searches name in one layer: in the directory ld, or if it is a path
// below that layer's root. It adds to h what it finds, and returns what to
// search for in the next layer, unless this was the last.
func (u *Union) findIn(ld *layerDir, name string, h *hit) (next string, last bool, err error) {
	next = name
	base := name
	if name[0] == '/' {
		base = name[strings.LastIndexByte(name, '/')+1:]
		if ld, next, last, err = u.walk(ld, name); err != nil {
			return next, last, err
		}
		for d := ld; d != nil; d = d.parent { // found for this search alone
			defer d.drop()
		}
	}
	if ld.layer.dots {
		if ld.dotName(u, base) {
			return next, last, unix.ENOENT
		}
		last = last || ld.dotHidden(u, base)
	}
	var st unix.Stat_t
	e, white, known, err := u.ask(ld, base, h.in == nil, &st)
	if err != nil {
		return next, last, err
	}
	if white {
		return next, true, unix.ENOENT
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if h.in != nil {
			return next, true, nil
		}
		h.in, h.st = ld, st
		return next, true, u.checkData(ld, base, &st)
	}
	child := ld.child(base)
	if known {
		child.setIndexed(e)
	}
	h.dirs = append(h.dirs, child)
	if r := child.redirect(u); r != "" {
		next = redirected(next, r)
		if h.in == nil && ld.layer == u.upper {
			h.redirect = r
		}
	}
	if h.in == nil {
		h.in, h.st = ld, st
	}
	return next, last || child.opaque(u), nil
}

// ask finds out what name in ld is, from the layer's index if that is known to
// tell: then e is what it says, and but for the type st is filled in only if all
// is set.
func (u *Union) ask(ld *layerDir, name string, all bool, st *unix.Stat_t) (e layerindex.Entry, white, known bool, err error) {
	var attrs *unix.Stat_t
	if all {
		attrs = st
	}
	e, found, known := ld.indexed(u, name, attrs)
	switch {
	case !known:
	case !found:
		return e, false, true, unix.ENOENT
	case e.Type == layerindex.TypeWhiteout:
		return e, true, true, nil
	case !all:
		st.Mode = entryType(e)
		return e, false, true, nil
	case st.Mode != 0:
		return e, false, true, nil
	}
	err = ld.lstat(u, name, st)
	if known && (err == unix.ENOENT || err == nil && !agrees(e, st)) {
		u.distrust(ld.layer)
		known = false
	}
	return e, err == nil && !known && u.isWhiteout(ld, name, st), known, err
}

// checkData refuses, as overlayfs does, a file whose data the kernel left in a
// lower layer ("metacopy=on"): it would be read as zeroes.
func (u *Union) checkData(ld *layerDir, name string, st *unix.Stat_t) error {
	if st.Blocks*512 >= st.Size || st.Mode&unix.S_IFMT != unix.S_IFREG || ld.layer.live {
		return nil
	}
	h, err := ld.pin(u)
	if err != nil {
		return err
	}
	defer h.unpin()
	if hasMark(fdPath(h.fd)+"/"+name, metacopyAttr) {
		return unix.EPERM
	}
	return nil
}

// hasBelow reports whether name in d, for which find found h, if anything, shows,
// or would show if the upper had nothing of that name, an object of a lower layer.
func (u *Union) hasBelow(d *dirState, name string, h *hit) (bool, error) {
	if h.in != nil && h.in.layer != u.upper {
		return true, nil
	}
	var few [manyLayers]*layerDir
	for _, ld := range u.candidates(few[:0], d, name) {
		var st unix.Stat_t
		_, white, _, err := u.ask(ld, name, false, &st)
		if err == nil && !ld.dotName(u, name) {
			return !white, nil
		}
		if err != nil && err != unix.ENOENT {
			return false, err
		}
		if ld.layer.dots && ld.dotHidden(u, name) {
			return false, nil
		}
	}
	return false, nil
}

// Lookup finds name in the directory dir. The node returned counts one lookup
// more, which Forget gives back. Errors are those of a path walk: ENOENT,
// ENAMETOOLONG, EACCES, EIO and so on.
func (u *Union) Lookup(dir *Node, name string) (*Node, error) {
	var st unix.Stat_t
	return u.LookupStat(dir, name, &st)
}

// LookupStat is Lookup and Getattr, which fills st, in one: it saves the second
// system call.
func (u *Union) LookupStat(dir *Node, name string, st *unix.Stat_t) (*Node, error) {
	if dir.dir() == nil {
		return nil, unix.ENOTDIR
	}
	n, h, err := u.findNode(dir, name)
	if err != nil {
		return nil, err
	}
	if n.inUpper() != (h.in.layer == u.upper) {
		// Copied up under another name, or meanwhile.
		if err := u.Getattr(n, st); err != nil {
			u.Forget(n, 1)
			return nil, err
		}
		return n, nil
	}
	*st = h.st
	u.show(n, h.in.layer, st)
	return n, nil
}

// findNode is find, and returns the node for what was found as well, held.
func (u *Union) findNode(dir *Node, name string) (*Node, hit, error) {
	for {
		copied := dir.dir().copied.Load()
		h, err := u.find(dir.dir(), name)
		if err != nil {
			return nil, h, err
		}
		// Whoever takes a key from a node counts before.
		stale := func() bool { return dir.dir().copied.Load() != copied }
		if n, err := u.intern(dir, name, &h, stale); err != errCopied {
			return n, h, err
		}
	}
}

// errCopied says that what was found may have been copied up since then: it has
// a node, but under another key.
var errCopied = errors.New("copied up meanwhile")

// intern returns the node for what was found, an existing one if there is. What
// is in h.dirs is the node's then, or dropped. If there is none and stale, which
// may be nil, says so, it returns errCopied.
func (u *Union) intern(dir *Node, name string, h *hit, stale func() bool) (*Node, error) {
	k := u.keyOf(h.in.layer, &h.st)
	n := u.table.get(k)
	if n == nil {
		n = u.newNode(dir, name, k, h)
		u.table.ids.add(n) // before others can find it
		switch other := u.table.add(n, stale); other {
		case n:
			h.dirs = nil // n's
			return n, nil
		default:
			u.table.ids.remove(n)
			u.Forget(dir, 1) // n's
			if other == nil {
				h.drop()
				return nil, errCopied
			}
			n = other
		}
	}
	h.drop()
	if err := u.named(n, dir, name, h); err != nil {
		u.Forget(n, 1)
		return nil, err
	}
	return n, nil
}

func (u *Union) newNode(dir *Node, name string, k key, h *hit) *Node {
	var n *Node
	if h.dirs != nil {
		n = &Node{}
	} else {
		n = u.nodes.make()
	}
	n.typ, n.key, n.parent = typeOf(h.st.Mode), k, dir
	n.setName(dir.dir().ownName(name))
	n.ino = u.shownIno(h, name)
	n.refs.Store(1)
	dir.refs.Add(1)
	if h.dirs != nil {
		d := newDirState(h.dirs)
		d.redirect = h.redirect
		n.setDir(d)
		return n
	}
	if h.made {
		n.Set(noCaps)
	}
	if k.upper() {
		return n
	}
	n.ldir = h.in
	if h.st.Nlink > 1 {
		if links, ok := u.unlinked.Load(k); ok {
			n.needs().links = links.(int32)
		}
	}
	return n
}

// named records that n was just found as name in dir: its latest name is the
// one by which an upper object is reached. A lower object that was copied up
// under another of its names gets this one in the upper, too. ENOENT says that
// the name has just been taken from it: for its own lookups the kernel keeps
// others from that, but not for those of linkNames, nor for those that it makes
// because a timeout has passed.
func (u *Union) named(n *Node, dir *Node, name string, h *hit) error {
	n.loc.Lock()
	if n.parent == dir && n.name() == name && !n.gone {
		n.loc.Unlock()
		return nil
	}
	if n.dir() == nil && n.key.upper() && h.in.layer != u.upper {
		n.loc.Unlock()
		return u.linkUpper(n, dir, name)
	}
	defer n.loc.Unlock()
	var st unix.Stat_t
	if n.key.upper() && !u.hasName(n, dir, name) || n.gone && !n.key.upper() && u.upperHas(dir, name, &st) {
		return unix.ENOENT
	}
	u.putAt(n, dir, name)
	if n.dir() == nil && n.lowerLive() { // its other name may have vanished
		n.ldir = h.in
		if x := n.has(); x.lname != "" {
			x.lname = ""
		}
	}
	u.letGo(n)
	return nil
}

// shownIno is the inode number shown for what was found as name: of a directory
// that of its topmost lower, which stays when the directory is copied up.
func (u *Union) shownIno(h *hit, name string) uint64 {
	if len(h.dirs) > 1 && h.dirs[0].layer == u.upper {
		var st unix.Stat_t
		if d := h.dirs[1]; d.ino != 0 {
			return inode(d.layer.dev, d.ino)
		} else if d.stat(u, &st) == nil {
			return inode(u.devs.index(st.Dev), st.Ino)
		}
	}
	dev := u.devs.index(h.st.Dev)
	if h.made {
		return inode(dev, h.st.Ino)
	}
	return u.ownIno(h.in, name, dev, h.st.Ino)
}

// ownIno is the number shown for the object ino on dev, as name in ld, which has
// no node.
func (u *Union) ownIno(ld *layerDir, name string, dev uint32, ino uint64) uint64 {
	if ld.layer == u.upper {
		if shown, ok := u.origins.get(ino); ok {
			return shown
		}
		if shown, ok := u.storedOrigin(ld, name, ino); ok {
			return shown
		}
	}
	return inode(dev, ino)
}
