package union

import (
	"os"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/layerindex"
)

// A sealed layer may have an index, see package layerindex, so that a name that
// the layer lacks costs no system call, and one that it has only that for its
// attributes. It is a cache: nothing depends on whether it is there. It counts
// for the layer whose root has the inode number and the change time that it
// says. These two stand for the file system as well: no program can set a
// change time, so the copy of a layer has another one, and where both are the
// same, in a clone of the whole file system, the layer is the same too; while
// numbers of devices and of file systems may change when a machine is started.
// What is changed by hand below the root is not noticed, unless a name that the
// index has is not there or another object: then the index is given up.

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
	ly.root.setIndexed(layerindex.Entry{Ino: x.Ino, Type: layerindex.TypeDir, Marks: x.Marks, Block: x.Root})
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
// itself can tell.
func (d *layerDir) indexed(u *Union, name string) (e layerindex.Entry, found, known bool) {
	x := d.useIndex(u)
	if x == nil || len(name) > unix.NAME_MAX { // that is an error of the file system
		return e, false, false
	}
	e, found, err := x.Find(d.block, name)
	if err != nil {
		u.distrust(d.layer)
		return e, false, false
	}
	return e, found, true
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
		h := layerindex.Head{Root: block, Marks: toIndex(ly.root.mark(u))}
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
	white  uint64 // inode number of a whiteout, of which others are links
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
	h, err := d.pin(ix.u)
	if err != nil {
		return nil, err
	}
	defer h.unpin()
	var st unix.Stat_t
	if err := fstat(h.fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&0o005 != 0o005 && int(st.Uid) != ix.u.euid {
		return nil, nil
	}
	entries := []layerindex.Named{}
	var failed error
	err = readDirFD(h.fd, func(e rawDirent) bool {
		n := layerindex.Named{Name: e.name, Entry: layerindex.Entry{Ino: e.ino, Type: uint8(e.typ >> 12)}}
		if e.typ == 0 || e.typ == unix.S_IFCHR || e.typ == unix.S_IFREG && d.mark(ix.u)&markXWhiteouts != 0 {
			failed = ix.ask(d, &n)
		}
		entries = append(entries, n)
		return failed == nil
	})
	if err == unix.EACCES {
		return nil, nil
	}
	if err == nil {
		err = failed
	}
	return entries, err
}

// ask completes an entry that the listing does not tell all about.
func (ix *indexer) ask(d *layerDir, n *layerindex.Named) error {
	if n.Type == unix.DT_CHR && n.Ino == ix.white {
		n.Type = layerindex.TypeWhiteout
		return nil
	}
	var st unix.Stat_t
	if err := d.lstat(ix.u, n.Name, &st); err != nil {
		return err
	}
	n.Type = uint8(st.Mode & unix.S_IFMT >> 12)
	if !ix.u.isWhiteout(d, n.Name, &st) {
		return nil
	}
	if n.Type == unix.DT_CHR {
		ix.white = n.Ino
	} else if ix.u.trusted {
		ix.varies = true // an attribute may have said so that others do not see
	}
	n.Type = layerindex.TypeWhiteout
	return nil
}
