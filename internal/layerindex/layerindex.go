// Package layerindex reads and writes the index of a layer: what names there
// are in each of its directories, with their attributes, and the names of its
// files that have several.
// It is used as it is, and of a large one, mapped into memory, only what is
// asked for is touched. What a layer is and what the marks mean, package union knows.
//
// # Format
//
// All numbers are little-endian. The file begins with a header of 64 bytes:
//
//	 0  8  "plashidx"
//	 8  4  2, the version of the format
//	12  4  CRC-32C of the bytes 16 to 63
//	16  8  the file's size
//	24  8  inode number of the layer's root
//	32  8  its change time, seconds …
//	40  4  … and nanoseconds
//	44  4  block of the root directory
//	48  4  block of the links
//	52  1  marks of the root directory
//	53  1  flags, whose meaning is the user's
//	54  2  0
//	56  8  whose view of owners the attributes show, which the user decides
//
// Blocks follow, each at the multiple of 8 bytes that is its number, and each
// used once its sum has been checked. There is one for each directory that is
// indexed, its entries ascending by name, and one for the links, its entries
// ascending by inode number:
//
//	 0  4  CRC-32C of all that follows up to the attributes
//	 4  4  the block's own number
//	 8  4  number n of entries
//	12  4  length m of the names
//	16 16n entries
//	   m  names
//	   84n attributes, in the same order; not in the block of the links
//
// An entry:
//
//	 0  8  inode number
//	 8  4  where its name ends in the names; it begins where the one before ends
//	12  4  block of the directory of this name, 0 if it has none
//
// Attributes are those of stat(2); mode 0 says that they are not known:
//
//	 0  4  mode
//	 4  4  number of links
//	 8  4  owner
//	12  4  group
//	16  8  device that it stands for
//	24  8  size
//	32  8  blocks of 512 bytes
//	40 24  seconds of access, modification and change
//	64 12  and their nanoseconds
//	76  4  size for efficient reading
//	80  4  CRC-32C of these, so that one file's can be used without those of all
//
// The first byte of a name is its kind: the type as in d_type of readdir(3) in
// the lower half, the marks of a directory in the upper. In the links it is 0,
// and the rest is a path from the layer's root, without a slash before it.
//
// A damaged index is noticed. A forged one can hide names, as the layer's owner
// can anyway, and give them any attributes, so who uses these must trust its owner;
// but it cannot name what is outside of the layer.
package layerindex

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrDamaged says that an index, or the part asked for, cannot be used.
var ErrDamaged = errors.New("damaged index")

// Types of entries, d_type of readdir(3).
const (
	TypeDir      = unix.DT_DIR
	TypeWhiteout = unix.DT_WHT // whatever a whiteout is on the disk
)

// An Entry is what the index knows of a name.
type Entry struct {
	Ino   uint64
	Type  uint8  // d_type
	Marks uint8  // of a directory: four bits, whose meaning is the user's
	Block uint32 // of a directory: where its own names are; 0: they are not known
}

// A Head is what an index says of the whole layer.
type Head struct {
	// Ino, Sec and Nsec are the inode number and change time of the layer's
	// root when the index was tied to it: both zero before that.
	Ino   uint64
	Sec   int64
	Nsec  uint32
	Root  uint32 // the root directory's block
	Marks uint8  // and marks
	Flags uint8
	View  uint64 // of owners, that the attributes show
	links uint32
	size  uint64
}

const (
	magic      = "plashidx"
	version    = 2
	headerSize = 64
	unit       = 8 // blocks lie at multiples of it
	blockHead  = 16
	entrySize  = 16
	attrSize   = 84
)

var sums = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

var le = binary.LittleEndian

func (h *Head) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	le.PutUint32(b[8:], version)
	le.PutUint64(b[16:], h.size)
	le.PutUint64(b[24:], h.Ino)
	le.PutUint64(b[32:], uint64(h.Sec))
	le.PutUint32(b[40:], h.Nsec)
	le.PutUint32(b[44:], h.Root)
	le.PutUint32(b[48:], h.links)
	b[52], b[53] = h.Marks, h.Flags
	le.PutUint64(b[56:], h.View)
	le.PutUint32(b[12:], crc32.Checksum(b[16:], sums()))
	return b
}

func decodeHead(b []byte) (Head, error) {
	if len(b) < headerSize || string(b[:8]) != magic || le.Uint32(b[8:]) != version ||
		le.Uint32(b[12:]) != crc32.Checksum(b[16:headerSize], sums()) {
		return Head{}, ErrDamaged
	}
	return Head{
		size: le.Uint64(b[16:]), Ino: le.Uint64(b[24:]),
		Sec: int64(le.Uint64(b[32:])), Nsec: le.Uint32(b[40:]),
		Root: le.Uint32(b[44:]), links: le.Uint32(b[48:]),
		Marks: b[52], Flags: b[53], View: le.Uint64(b[56:]),
	}, nil
}

// An Index is an open one. Its methods may be called concurrently.
type Index struct {
	Head
	// Owner is the owner of the file, who alone can write to it unless Shared.
	Owner   uint32
	Shared  bool
	data    []byte
	mapped  bool
	touched atomic.Int64 // bytes, since the mapping was last let go of
}

// small is up to which size an index is read instead of mapped. For a process
// with several threads that is much cheaper: 500 indexes take 1 ms, not 15.
const small = 16 << 10

var buffers = sync.Pool{New: func() any { return new([small]byte) }}

// Open opens the index file name in directory dir: it reads a small one, and
// maps others into memory. Only the header is checked. The caller must Close it.
func Open(dir int, name string) (*Index, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size < headerSize || st.Size > unit<<32 {
		return nil, ErrDamaged
	}
	var x *Index
	if st.Size < small {
		x, err = openSmall(fd)
	} else {
		x, err = openLarge(fd, int(st.Size))
	}
	if err == nil {
		x.Owner, x.Shared = st.Uid, st.Mode&0o022 != 0
	}
	return x, err
}

func openSmall(fd int) (*Index, error) {
	buf := buffers.Get().(*[small]byte)
	defer buffers.Put(buf)
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return nil, err
	}
	return parse(slices.Clone(buf[:n]))
}

func openLarge(fd, size int) (*Index, error) {
	data, err := unix.Mmap(fd, 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	x, err := parse(data)
	if err != nil {
		unix.Munmap(data)
		return nil, err
	}
	x.mapped = true
	return x, nil
}

// parse returns the index that data holds.
func parse(data []byte) (x *Index, err error) {
	defer caught(debug.SetPanicOnFault(true), &err)
	h, err := decodeHead(data)
	if err == nil && h.size != uint64(len(data)) {
		err = ErrDamaged
	}
	if err != nil {
		return nil, err
	}
	return &Index{Head: h, data: data}, nil
}

// Close unmaps the index; no other method may be running or be called
// afterwards.
func (x *Index) Close() {
	if x.mapped {
		unix.Munmap(x.data)
	}
	x.data = nil
}

// caught turns the fault that a file causes which became shorter after it was
// mapped, or whose disk fails, into ErrDamaged. It is to be deferred.
func caught(was bool, err *error) {
	debug.SetPanicOnFault(was)
	if r := recover(); r != nil {
		if _, fault := r.(interface{ Addr() uintptr }); !fault {
			panic(r)
		}
		*err = ErrDamaged
	}
}

// touch lets go of a mapping of which much has been used. It stays in the kernel's
// cache, so that costs little, and a process that has seen a million files is not
// 100 MB larger for them.
func (x *Index) touch(bytes int) {
	const much = 4 << 20
	if x.mapped && x.touched.Add(int64(bytes)) > much {
		x.touched.Store(0)
		unix.Madvise(x.data, unix.MADV_DONTNEED)
	}
}

// A block is a checked one.
type block struct {
	n       int
	entries []byte
	names   []byte
	attrs   []byte // empty in that of the links; not checked
}

// block returns the block of this number, that of the links without attributes;
// check says whether its sum is to be compared.
func (x *Index) block(number uint32, withAttrs, check bool) (b block, err error) {
	start, size := uint64(number)*unit, uint64(len(x.data))
	if start < headerSize || start > size || size-start < blockHead {
		return b, ErrDamaged
	}
	data := x.data[start:]
	n, m := uint64(le.Uint32(data[8:])), uint64(le.Uint32(data[12:]))
	names := blockHead + entrySize*n
	summed := names + m
	length := summed
	if withAttrs {
		length += attrSize * n
	}
	if length > uint64(len(data)) || le.Uint32(data[4:]) != number {
		return b, ErrDamaged
	}
	data = data[:length]
	if check {
		x.touch(int(summed))
		if crc32.Checksum(data[4:summed], sums()) != le.Uint32(data) {
			return b, ErrDamaged
		}
	}
	return block{int(n), data[blockHead:names], data[names:summed], data[summed:]}, nil
}

// directory returns the block of a directory.
func (x *Index) directory(number uint32, check bool) (block, error) {
	return x.block(number, true, check)
}

// entry returns an entry, and its name with the kind before it.
func (b *block) entry(i int) (ino uint64, child uint32, name []byte, err error) {
	e := b.entries[entrySize*i:]
	from, to := uint32(0), le.Uint32(e[8:])
	if i > 0 {
		from = le.Uint32(b.entries[entrySize*(i-1)+8:])
	}
	if from >= to || uint64(to) > uint64(len(b.names)) {
		return 0, 0, nil, ErrDamaged
	}
	return le.Uint64(e), le.Uint32(e[12:]), b.names[from:to], nil
}

func entryOf(ino uint64, child uint32, kind byte) Entry {
	return Entry{Ino: ino, Type: kind & 15, Marks: kind >> 4, Block: child}
}

// Check reports whether the block of a directory is whole. The other methods
// take that for granted: a block that is not gives them wrong results.
func (x *Index) Check(dir uint32) (err error) {
	defer caught(debug.SetPanicOnFault(true), &err)
	_, err = x.directory(dir, true)
	return err
}

// Find searches name in the directory with block dir. If st is not nil it gets the
// attributes, all but the device, or if they are not known stays as it is.
func (x *Index) Find(dir uint32, name string, st *unix.Stat_t) (e Entry, found bool, err error) {
	defer caught(debug.SetPanicOnFault(true), &err)
	b, err := x.directory(dir, false)
	if err != nil {
		return e, false, err
	}
	for lo, hi := 0, b.n; lo < hi; {
		i := int(uint(lo+hi) >> 1)
		ino, child, have, err := b.entry(i)
		if err != nil {
			return e, false, err
		}
		switch {
		case string(have[1:]) == name:
			if st != nil {
				x.touch(entrySize + attrSize + len(have))
				if !getAttr(b.attrs[attrSize*i:], ino, st) {
					return e, false, ErrDamaged
				}
			}
			return entryOf(ino, child, have[0]), true, nil
		case string(have[1:]) < name:
			lo = i + 1
		default:
			hi = i
		}
	}
	return e, false, nil
}

// Len returns the number of names in the directory with block dir.
func (x *Index) Len(dir uint32) (n int, err error) {
	defer caught(debug.SetPanicOnFault(true), &err)
	b, err := x.directory(dir, false)
	return b.n, err
}

// All calls f for each name in the directory with block dir, ascending. The
// name, which is that of an entry of a directory in any case, is lent for the
// call.
func (x *Index) All(dir uint32, f func(name []byte, e Entry)) (err error) {
	defer caught(debug.SetPanicOnFault(true), &err)
	b, err := x.directory(dir, false)
	if err != nil {
		return err
	}
	for i := range b.n {
		ino, child, name, err := b.entry(i)
		if err != nil || !isName(name[1:]) {
			return ErrDamaged
		}
		f(name[1:], entryOf(ino, child, name[0]))
	}
	return nil
}

// isName reports whether a directory may have an entry of this name.
func isName(name []byte) bool {
	switch string(name) {
	case "", ".", "..":
		return false
	}
	for _, c := range name {
		if c == '/' || c == 0 {
			return false
		}
	}
	return len(name) <= unix.NAME_MAX
}

// Links returns the paths in the layer of the file with this inode number, if
// it has several.
func (x *Index) Links(ino uint64) (paths []string, err error) {
	defer caught(debug.SetPanicOnFault(true), &err)
	b, err := x.block(x.links, false, true)
	if err != nil {
		return nil, err
	}
	lo, hi := 0, b.n
	for lo < hi {
		i := int(uint(lo+hi) >> 1)
		if le.Uint64(b.entries[entrySize*i:]) < ino {
			lo = i + 1
		} else {
			hi = i
		}
	}
	for i := lo; i < b.n; i++ {
		have, _, path, err := b.entry(i)
		if err != nil {
			return nil, err
		}
		if have != ino {
			break
		}
		for name := range strings.SplitSeq(string(path[1:]), "/") {
			if !isName([]byte(name)) {
				return nil, ErrDamaged
			}
		}
		paths = append(paths, string(path[1:]))
	}
	return paths, nil
}

// Tie makes the index file name one of the layer whose root has this inode
// number and change time.
func Tie(name string, ino uint64, sec int64, nsec uint32) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, headerSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		return err
	}
	h, err := decodeHead(b)
	if err != nil {
		return err
	}
	h.Ino, h.Sec, h.Nsec = ino, sec, nsec
	_, err = f.WriteAt(h.encode(), 0)
	return err
}
