package exporters

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"plash/internal/fileattr"
	"plash/union"
)

// Tar writes the merged tree to w as a tar archive: names begin with "./" and
// come in their order, so that the same tree gives the same bytes; times,
// extended attributes and what else the old format has no room for are in PAX
// headers; holes are kept as GNU tar's sparse files. Sockets are left out, as
// tar does. What cannot be read is an error that begins with the path in the
// image; an error of w is without one.
func Tar(u *union.Union, w io.Writer) error {
	t := &tarWriter{out: &sink{w: w}}
	t.w = bufio.NewWriterSize(t.out, 256<<10)
	if f, ok := w.(*os.File); ok {
		var st unix.Stat_t
		if unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			t.self = &st
		}
	}
	err := walk(u, t)
	if err == nil {
		// Two blocks of zeros end an archive.
		_, err = t.w.Write(make([]byte, 2*blockSize))
	}
	if err == nil {
		err = t.w.Flush()
	}
	if t.out.err != nil {
		return targetError{t.out.err}
	}
	return err
}

// sink remembers how writing failed.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

type tarWriter struct {
	out  *sink
	w    *bufio.Writer
	self *unix.Stat_t // of the archive, which may be a file of the tree; nil
}

func (t *tarWriter) leave(*entry) error           { return nil }
func (t *tarWriter) isTarget([]union.Dirent) bool { return false }

// tarName is the name of a member.
func tarName(path string) string {
	if path == "" {
		return "./"
	}
	return "./" + path
}

func (t *tarWriter) visit(e *entry) error {
	if e.kind() == unix.S_IFSOCK {
		return nil
	}
	attr, err := e.attributes()
	if err != nil {
		return err
	}
	h := &header{name: tarName(e.path), attr: attr, records: map[string]string{}}
	if e.first != "" {
		h.kind, h.link = typeLink, tarName(e.first)
		return t.write(h)
	}
	for _, x := range attr.Xattrs {
		key, value := fileattr.Record(x)
		h.records[key] = value
	}
	switch e.kind() {
	case unix.S_IFDIR:
		h.kind = typeDir
		if e.path != "" {
			h.name += "/"
		}
	case unix.S_IFLNK:
		h.kind = typeSymlink
		if h.link, err = e.u.Readlink(e.node); err != nil {
			return err
		}
	case unix.S_IFIFO:
		h.kind = typeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.kind = typeChar
		if e.kind() == unix.S_IFBLK {
			h.kind = typeBlock
		}
		h.major, h.minor = unix.Major(e.st.Rdev), unix.Minor(e.st.Rdev)
	default:
		return t.regular(e, h)
	}
	return t.write(h)
}

// regular writes a regular file.
func (t *tarWriter) regular(e *entry, h *header) error {
	f, size, data, err := e.open()
	if err != nil {
		return err
	}
	defer f.Close()
	if t.self != nil && e.st.Dev == t.self.Dev && e.st.Ino == t.self.Ino {
		return nil
	}
	h.kind, h.size = typeReg, size
	list := sparseMap(data, size)
	if len(list) > maxSparseMap {
		data, list = whole(size), nil
	}
	if len(list) > 0 {
		h.sparse(list, data, size)
	}
	if err := t.write(h); err != nil {
		return err
	}
	if _, err := t.w.Write(list); err != nil {
		return err
	}
	for _, x := range data {
		if _, err := f.Seek(x.off, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(t.w, f, x.size); err == io.EOF {
			return errShrank
		} else if err != nil {
			return err
		}
	}
	return t.pad(h.size)
}

func (t *tarWriter) write(h *header) error {
	_, err := t.w.Write(h.encode())
	return err
}

// pad fills the last block of content of this size.
func (t *tarWriter) pad(size int64) error {
	_, err := t.w.Write(make([]byte, padding(size)))
	return err
}

// maxSparseMap is the longest list of extents that Go's reader, which is ours,
// takes. Files with more are written with their zeros, which become holes
// again when we unpack them.
const maxSparseMap = 1 << 20

// sparseMap returns where in a file of this size there is data, as it stands
// before the data in GNU tar's sparse format 1.0: decimal numbers, each on its
// line, their number first, filled up to a block; nothing if there is no hole.
func sparseMap(data []extent, size int64) []byte {
	if size == 0 || len(data) == 1 && data[0].size == size {
		return nil
	}
	if n := len(data); n == 0 || data[n-1].off+data[n-1].size < size {
		data = append(data[:n:n], extent{size, 0}) // says where the last hole ends
	}
	list := fmt.Appendf(nil, "%d\n", len(data))
	for _, x := range data {
		list = fmt.Appendf(list, "%d\n%d\n", x.off, x.size)
	}
	return append(list, make([]byte, padding(int64(len(list))))...)
}

// sparse makes h the header of a sparse file of this size.
func (h *header) sparse(list []byte, data []extent, size int64) {
	h.records["GNU.sparse.major"] = "1"
	h.records["GNU.sparse.minor"] = "0"
	h.records["GNU.sparse.name"] = h.name
	h.records["GNU.sparse.realsize"] = fmt.Sprint(size)
	// Under this name it is unpacked by programs that do not know the format.
	dir, base := path.Split(h.name)
	h.name = dir + "GNUSparseFile.0/" + base
	h.size = int64(len(list))
	for _, x := range data {
		h.size += x.size
	}
}
