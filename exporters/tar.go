package exporters

import (
	"bufio"
	"fmt"
	"io"
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
	t := &tarWriter{out: newSink(w)}
	t.w = bufio.NewWriterSize(t.out, bufferSize)
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

type tarWriter struct {
	out *sink
	w   *bufio.Writer // to out
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
	h := &header{name: tarName(e.path), attr: e.attributes()}
	if e.first != "" {
		h.kind, h.link = typeLink, tarName(e.first)
		return t.write(h)
	}
	if e.kind() == unix.S_IFREG {
		return t.regular(e, h)
	}
	if err := h.xattrs(e, -1); err != nil {
		return err
	}
	switch e.kind() {
	case unix.S_IFDIR:
		h.kind = typeDir
		if e.path != "" {
			h.name += "/"
		}
	case unix.S_IFLNK:
		h.kind = typeSymlink
		target, err := e.u.Readlink(e.node)
		if err != nil {
			return err
		}
		h.link = target
	case unix.S_IFIFO:
		h.kind = typeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.kind = typeChar
		if e.kind() == unix.S_IFBLK {
			h.kind = typeBlock
		}
		h.major, h.minor = unix.Major(e.st.Rdev), unix.Minor(e.st.Rdev)
	}
	return t.write(h)
}

// xattrs puts the extended attributes of e, of which fd is a descriptor or -1,
// into the header.
func (h *header) xattrs(e *entry, fd int) error {
	list, err := e.xattrs(fd)
	for _, x := range list {
		h.record(fileattr.Record(x))
	}
	return err
}

// regular writes a regular file.
func (t *tarWriter) regular(e *entry, h *header) error {
	fd, size, data, err := e.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if t.out.is(&e.st) {
		return nil // the archive itself may be a file of the tree
	}
	if err := h.xattrs(e, fd); err != nil {
		return err
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
		if err := t.copy(fd, x); err != nil {
			return err
		}
	}
	return t.pad(h.size)
}

// copy writes a piece of the file fd.
func (t *tarWriter) copy(fd int, x extent) error {
	if x.size >= leastMoved && t.out.pipe != nil {
		if err := t.w.Flush(); err != nil {
			return err
		}
		moved := t.out.move(fd, x)
		x.off, x.size = x.off+moved, x.size-moved
	}
	for x.size > 0 {
		if t.w.Available() == 0 {
			if err := t.w.Flush(); err != nil {
				return err
			}
		}
		// Read into the writer's own buffer, so that it copies nothing.
		buf := t.w.AvailableBuffer()
		n, err := unix.Pread(fd, buf[:min(x.size, int64(cap(buf)))], x.off)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return errShrank
		}
		if _, err := t.w.Write(buf[:n]); err != nil {
			return err
		}
		x.off, x.size = x.off+int64(n), x.size-int64(n)
	}
	return nil
}

func (t *tarWriter) write(h *header) error {
	_, err := t.w.Write(h.encode(t.w.AvailableBuffer()))
	return err
}

var zeros [blockSize]byte

// pad fills the last block of content of this size.
func (t *tarWriter) pad(size int64) error {
	_, err := t.w.Write(zeros[:padding(size)])
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
	h.record("GNU.sparse.major", "1")
	h.record("GNU.sparse.minor", "0")
	h.record("GNU.sparse.name", h.name)
	h.record("GNU.sparse.realsize", fmt.Sprint(size))
	// Under this name it is unpacked by programs that do not know the format.
	dir, base := path.Split(h.name)
	h.name = dir + "GNUSparseFile.0/" + base
	h.size = int64(len(list))
	for _, x := range data {
		h.size += x.size
	}
}
