package union

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/layerindex"
)

// A sealed layer may have an index, see package layerindex, so that neither a name
// that the layer lacks nor one that it has costs a system call, or a read from
// the disk: "find" over 10,000 files that are not cached takes 0.6 times as long
// as in the kernel's overlayfs, and 1.1 to 1.5 times if the layer has to be asked
// for attributes. It is a cache: but for access times nothing depends on whether
// it is there. It counts for the layer whose root has the inode number and the
// change time that it says. These two stand for the file system as well: no
// program can set a change time, so the copy of a layer has another one, and
// where both are the same, in a clone of the whole file system, the layer is the
// same too; while numbers of devices and of file systems may change when a
// machine is started.
//
// What is changed by hand below the root is not noticed, unless something is
// opened that is not there any more, or is another file than the index says: see
// verify.

// Flags of an index.
const (
	// indexTrusted: its maker could see attributes that begin with "trusted.".
	indexTrusted = 1 << iota
	// indexVaries: some marks count for those who see them only, or for others
	// only.
	indexVaries
)

// indexMarks are the marks that those of an index, from the lowest bit on, stand
// for.
var indexMarks = [...]uint32{markOpaque, markXWhiteouts, markRedirect}

func toIndex(marks uint32) (m uint8) {
	for bit, mark := range indexMarks {
		if marks&mark != 0 {
			m |= 1 << bit
		}
	}
	return m
}

func fromIndex(m uint8) uint32 {
	marks := uint32(marksKnown)
	for bit, mark := range indexMarks {
		if m>>bit&1 != 0 {
			marks |= mark
		}
	}
	return marks
}

// openIndex opens the layer's index, relative to its root fd, if there is one
// for this layer as this process sees it. st are the root's attributes.
func (u *Union) openIndex(ly *layer, fd int, path string, st *unix.Stat_t) {
	x, err := layerindex.Open(fd, path)
	if err != nil {
		return
	}
	sees := x.Flags&indexTrusted != 0 == u.trusted || !u.trusted && x.Flags&indexVaries == 0
	if !sees || x.Ino != st.Ino || x.Sec != int64(st.Ctim.Sec) || int64(x.Nsec) != int64(st.Ctim.Nsec) {
		x.Close()
		return
	}
	u.indexes = append(u.indexes, x)
	ly.index.Store(x)
	ly.indexName = path
	// One whom we do not trust could claim that his program is root's and suid.
	ours := int(x.Owner) == u.euid && !x.Shared && !(u.overflow && x.Owner == overflowID)
	if ours && x.View != 0 && x.View == viewOf(st) {
		ly.attrs = x
	}
	ly.root.setIndexed(layerindex.Entry{Ino: x.Ino, Type: layerindex.TypeDir, Marks: x.Marks, Block: x.Root})
}

// idMaps returns how this process sees owners and groups, see user_namespaces(7);
// what cannot be read is empty.
var idMaps = sync.OnceValue(func() (maps struct{ uid, gid []byte }) {
	maps.uid, _ = os.ReadFile("/proc/self/uid_map")
	maps.gid, _ = os.ReadFile("/proc/self/gid_map")
	return maps
})

// viewOf tells apart how processes see owners: by the numbers that their user
// namespace gives them and, since these may be relative to another one's, by the
// owner st of a layer's root. It is 0 if that is not known.
func viewOf(st *unix.Stat_t) uint64 {
	maps := idMaps()
	if len(maps.uid) == 0 || len(maps.gid) == 0 {
		return 0
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s\x00%d %d", maps.uid, maps.gid, st.Uid, st.Gid)
	return h.Sum64()
}

// setIndexed notes what the index says of the new directory d.
func (d *layerDir) setIndexed(e layerindex.Entry) {
	d.ino, d.block = e.Ino, e.Block
	d.marks.Store(fromIndex(e.Marks))
}

// distrust gives up the layer's index.
func (u *Union) distrust(l *layer) {
	if l.index.Swap(nil) != nil {
		u.distrusted.Add(1)
	}
}

// useIndex returns the index if it has d's names.
func (d *layerDir) useIndex(u *Union) *layerindex.Index {
	if d.block == 0 {
		return nil
	}
	x := d.layer.index.Load()
	if x == nil || d.marks.Load()&marksChecked != 0 {
		return x
	}
	if x.Check(d.block) != nil {
		u.distrust(d.layer)
		return nil
	}
	d.marks.Or(marksChecked)
	return x
}

// indexed looks name up in the index. Unless known is true, only the layer
// itself can tell. If st is not nil it gets the attributes, or the mode 0 if the
// index has none that fit.
func (d *layerDir) indexed(u *Union, name string, st *unix.Stat_t) (e layerindex.Entry, found, known bool) {
	if st != nil {
		st.Mode = 0
	}
	x := d.useIndex(u)
	if x == nil || len(name) > unix.NAME_MAX { // that is an error of the file system
		return e, false, false
	}
	if x != d.layer.attrs {
		st = nil
	}
	e, found, err := x.Find(d.block, name, st)
	if err != nil {
		u.distrust(d.layer)
		return e, false, false
	}
	if st != nil {
		st.Dev = d.layer.device
		if st.Mode&unix.S_IFMT != entryType(e) {
			st.Mode = 0
		}
	}
	return e, found, true
}

// indexed reports whether an index has n's attributes, as whoever looked n up was
// told, and fills st with them.
func (n *Node) indexed(u *Union, st *unix.Stat_t) bool {
	if n.dir() != nil {
		return false
	}
	n.loc.Lock()
	if n.key.upper() || n.ldir.layer.override != "" {
		n.loc.Unlock()
		return false
	}
	d, name := n.ldir, cmp.Or(n.has().lname, n.name())
	_, found, known := d.indexed(u, name, st)
	n.loc.Unlock()
	if !known || !found || st.Mode == 0 {
		return false
	}
	u.show(n, d.layer, st)
	return true
}

// verify returns ESTALE if the file fd, just opened, is not the one that the index
// says, or err, which opening it returned, says that it is gone: the kernel has
// been told of the former one, and would show as much of this one as that was long.
// The change time may be another one: a backup by hard links changes it.
func (r ref) verify(u *Union, fd int, err error) error {
	if err != nil {
		return u.lost(r.d, err)
	}
	if r.d.layer.attrs == nil || r.d.marks.Load()&marksChecked == 0 || r.name == "" {
		return nil
	}
	var want, have unix.Stat_t
	_, _, err = r.d.layer.attrs.Find(r.d.block, r.name, &want)
	if err != nil || want.Mode == 0 {
		return nil
	}
	if err := fstat(fd, &have); err != nil {
		return err
	}
	if have.Ino != want.Ino || have.Size != want.Size || have.Mtim != want.Mtim ||
		have.Mode != want.Mode || have.Uid != want.Uid || have.Gid != want.Gid {
		return u.stale(r.d.layer)
	}
	return nil
}

// lost is told that something in d cannot be reached, and returns ESTALE instead of
// err if an index said that it is there.
func (u *Union) lost(d *layerDir, err error) error {
	if d.layer.attrs == nil || err != unix.ENOENT && err != unix.ENOTDIR && err != unix.ELOOP {
		return err
	}
	return u.stale(d.layer)
}

// stale gives up the layer's index, for those who come after us, too, and returns
// ESTALE. What the kernel has been told of the layer stays wrong until then.
func (u *Union) stale(l *layer) error {
	u.distrust(l)
	unix.Unlinkat(l.root.h.Load().fd, l.indexName, 0)
	return unix.ESTALE
}

// entryType returns the type, S_IFMT bits.
func entryType(e layerindex.Entry) uint32 { return uint32(e.Type) << 12 }

// agrees reports whether the object of attributes st is the one that e means.
func agrees(e layerindex.Entry, st *unix.Stat_t) bool {
	return e.Ino == st.Ino && entryType(e) == st.Mode&unix.S_IFMT
}

// WriteIndex writes an index of the layer at path, which nobody changes
// meanwhile, to the new file name. It counts once TieIndex has been called.
func WriteIndex(path, name string) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	u := &Union{trusted: realRoot(), euid: os.Geteuid()}
	u.fds.init()
	defer u.Close()
	ly, err := u.openLayer(Layer{Path: path}, nil)
	if err != nil {
		return err
	}
	ix := indexer{u: u, w: layerindex.NewWriter(f)}
	block, err := ix.dir(ly.root, ix.w.NewDir(-1, ""))
	if err == nil {
		var st unix.Stat_t
		if err := ly.root.stat(u, &st); err != nil {
			return err
		}
		h := layerindex.Head{Root: block, Marks: toIndex(ly.root.mark(u)), View: viewOf(&st)}
		if u.trusted {
			h.Flags |= indexTrusted
		}
		if ix.varies {
			h.Flags |= indexVaries
		}
		err = ix.w.Finish(h)
	}
	return errs.Path(name, err)
}

// TieIndex lets the index that lies in the file name count for the layer at
// path. Whatever changes the change time of the layer's root, as a rename of
// it, must be done before.
func TieIndex(name, path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return errs.Path(path, err)
	}
	return errs.Path(name, layerindex.Tie(name, st.Ino, int64(st.Ctim.Sec), uint32(st.Ctim.Nsec)))
}

// An indexer writes the index of a layer.
type indexer struct {
	u      *Union
	w      *layerindex.Writer
	varies bool
}

// dir writes directory d, of this number, with all below it and returns its
// block; 0 if it is left out.
func (ix *indexer) dir(d *layerDir, number int) (uint32, error) {
	marks := d.mark(ix.u)
	ix.varies = ix.varies || marks&marksVary != 0
	entries, err := ix.read(d)
	if err != nil || entries == nil {
		return 0, err
	}
	for i := range entries {
		e := &entries[i]
		if e.Type != layerindex.TypeDir {
			continue
		}
		child := d.child(e.Name)
		e.Block, err = ix.dir(child, ix.w.NewDir(number, e.Name))
		child.drop()
		if err != nil {
			return 0, err
		}
		e.Marks = toIndex(child.mark(ix.u))
	}
	return ix.w.WriteDir(number, entries)
}

// read lists directory d. It returns nil for one that not all users may read
// and that is not this process's own: who uses the index may be one of those
// who must be refused.
func (ix *indexer) read(d *layerDir) ([]layerindex.Named, error) {
	fd, err := d.openList(ix.u)
	if err == unix.EACCES {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&0o005 != 0o005 && int(st.Uid) != ix.u.euid {
		return nil, nil
	}
	entries := []layerindex.Named{}
	var failed error
	err = readDirFD(fd, func(e rawDirent) bool {
		entries = append(entries, layerindex.Named{Name: e.name})
		failed = ix.ask(d, &entries[len(entries)-1])
		return failed == nil
	})
	if err == nil {
		err = failed
	}
	return entries, err
}

// ask completes an entry that has its name.
func (ix *indexer) ask(d *layerDir, n *layerindex.Named) error {
	var st unix.Stat_t
	if err := d.lstat(ix.u, n.Name, &st); err != nil {
		return err
	}
	n.Ino, n.Type = st.Ino, uint8(st.Mode&unix.S_IFMT>>12)
	// Some file systems know the blocks of a file only when they have been written.
	unwritten := n.Type == unix.DT_REG && st.Blocks*512 < st.Size
	if st.Dev == d.layer.device && !unwritten {
		n.Stat = &st
	}
	if !ix.u.isWhiteout(d, n.Name, &st) {
		return nil
	}
	if n.Type == unix.DT_REG && ix.u.trusted {
		ix.varies = true // an attribute may have said so that others do not see
	}
	n.Type = layerindex.TypeWhiteout
	return nil
}
