package layerindex

import (
	"bufio"
	"cmp"
	"hash/crc32"
	"math"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Named is an entry with its name and attributes, nil if these are not known.
type Named struct {
	Name string
	Entry
	Stat *unix.Stat_t
}

// A Writer writes an index. A directory is written after those in it.
type Writer struct {
	file  *os.File
	out   *bufio.Writer
	block uint32 // the next block's
	dirs  []writtenDir
	files []writtenFile
	buf   []byte
}

type writtenDir struct {
	parent int
	name   string
	block  uint32
}

// A writtenFile is a name of what is no directory.
type writtenFile struct {
	ino   uint64
	dir   int32
	entry uint32
}

// NewWriter returns a Writer that writes to file, which is empty and stays the
// caller's.
func NewWriter(file *os.File) *Writer {
	w := &Writer{file: file, out: bufio.NewWriterSize(file, 64<<10), block: headerSize / unit}
	w.out.Write(make([]byte, headerSize))
	return w
}

// NewDir announces the directory name in an announced one, -1 for the root,
// and returns its number.
func (w *Writer) NewDir(parent int, name string) int {
	w.dirs = append(w.dirs, writtenDir{parent: parent, name: name})
	return len(w.dirs) - 1
}

// WriteDir writes an announced directory and returns its block. It puts the
// entries in order.
func (w *Writer) WriteDir(dir int, entries []Named) (uint32, error) {
	slices.SortFunc(entries, func(a, b Named) int { return strings.Compare(a.Name, b.Name) })
	for i, e := range entries {
		if e.Type != TypeDir && e.Type != TypeWhiteout {
			w.files = append(w.files, writtenFile{e.Ino, int32(dir), uint32(i)})
		}
	}
	block, err := w.write(entries, true)
	w.dirs[dir].block = block
	return block, err
}

// write writes a block, one without attributes for the links.
func (w *Writer) write(entries []Named, withAttrs bool) (uint32, error) {
	names := 0
	for _, e := range entries {
		names += 1 + len(e.Name)
	}
	start := blockHead + entrySize*len(entries)
	summed := start + names
	length := summed
	if withAttrs {
		length += attrSize * len(entries)
	}
	padded := (length + unit - 1) / unit * unit
	if uint64(w.block)+uint64(padded)/unit > math.MaxUint32 || uint64(names) > math.MaxUint32 {
		return 0, unix.EFBIG
	}
	b := slices.Grow(w.buf[:0], padded)[:padded]
	clear(b)
	w.buf = b
	le.PutUint32(b[4:], w.block)
	le.PutUint32(b[8:], uint32(len(entries)))
	le.PutUint32(b[12:], uint32(names))
	area, end := b[start:], 0
	for i, e := range entries {
		area[end] = e.Type&15 | e.Marks<<4
		end += 1 + copy(area[end+1:], e.Name)
		at := b[blockHead+entrySize*i:]
		le.PutUint64(at, e.Ino)
		le.PutUint32(at[8:], uint32(end))
		le.PutUint32(at[12:], e.Block)
		if withAttrs {
			putAttr(b[summed+attrSize*i:], e.Stat)
		}
	}
	le.PutUint32(b, crc32.Checksum(b[4:summed], sums()))
	block := w.block
	w.block += uint32(padded / unit)
	_, err := w.out.Write(b)
	return block, err
}

// Finish writes the rest: the links, and the header, of which h has what only
// the caller knows. After an error the file is of no use.
func (w *Writer) Finish(h Head) error {
	if err := w.out.Flush(); err != nil {
		return err
	}
	links, err := w.links()
	if err != nil {
		return err
	}
	if h.links, err = w.write(links, false); err != nil {
		return err
	}
	if err := w.out.Flush(); err != nil {
		return err
	}
	h.size = uint64(w.block) * unit
	_, err = w.file.WriteAt(h.encode(), 0)
	return err
}

// links returns the names of the files that have several, by their inodes; the
// names are their paths.
func (w *Writer) links() ([]Named, error) {
	slices.SortFunc(w.files, func(a, b writtenFile) int { return cmp.Compare(a.ino, b.ino) })
	var links []Named
	for i, f := range w.files {
		if (i == 0 || w.files[i-1].ino != f.ino) && (i == len(w.files)-1 || w.files[i+1].ino != f.ino) {
			continue
		}
		name, err := w.nameOf(f)
		if err != nil {
			return nil, err
		}
		links = append(links, Named{Name: w.path(int(f.dir), name), Entry: Entry{Ino: f.ino}})
	}
	slices.SortFunc(links, func(a, b Named) int {
		return cmp.Or(cmp.Compare(a.Ino, b.Ino), strings.Compare(a.Name, b.Name))
	})
	return links, nil
}

// nameOf reads the name of a file from its directory's block.
func (w *Writer) nameOf(f writtenFile) (string, error) {
	start := int64(w.dirs[f.dir].block) * unit
	var head [blockHead]byte
	if _, err := w.file.ReadAt(head[:], start); err != nil {
		return "", err
	}
	names := start + blockHead + entrySize*int64(le.Uint32(head[8:]))
	var ends [2]uint32
	for k := range ends {
		if i := int64(f.entry) + int64(k) - 1; i >= 0 {
			var e [entrySize]byte
			if _, err := w.file.ReadAt(e[:], start+blockHead+entrySize*i); err != nil {
				return "", err
			}
			ends[k] = le.Uint32(e[8:])
		}
	}
	name := make([]byte, ends[1]-ends[0])
	_, err := w.file.ReadAt(name, names+int64(ends[0]))
	return string(name[1:]), err
}

func (w *Writer) path(dir int, name string) string {
	for ; w.dirs[dir].parent >= 0; dir = w.dirs[dir].parent {
		name = w.dirs[dir].name + "/" + name
	}
	return name
}
