// Package exporters copies the merged tree of an image to elsewhere: into a
// directory or a tar archive. It walks the union itself; nothing is mounted.
package exporters

import (
	"errors"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"plash/internal/fileattr"
	"plash/union"
)

// entry is a file of the merged tree.
type entry struct {
	u    *union.Union
	node *union.Node
	path string // relative to the root; "" is the root
	name string
	st   unix.Stat_t
	// first is the path at which the walk has met this file before, under
	// another name; "" if it has not.
	first string
}

// visitor is told what the walk meets, directories before what is in them.
type visitor interface {
	visit(e *entry) error
	leave(e *entry) error // a directory, after all that is in it
	// isTarget reports whether a directory with these names, which belongs to
	// a tree that changes while it is read, is the one being written to.
	isTarget(names []union.Dirent) bool
}

// walk visits the whole tree in the order of names. Its errors begin with the
// path in the image.
func walk(u *union.Union, v visitor) error {
	w := &walker{u, v, map[uint64]string{}}
	root := &entry{u: u, node: u.Root(), name: "."}
	if err := u.Getattr(root.node, &root.st); err != nil {
		return root.error(err)
	}
	return w.walk(root)
}

type walker struct {
	u     *union.Union
	v     visitor
	links map[uint64]string // paths of files with several links, by inode
}

func (w *walker) walk(e *entry) error {
	if e.kind() != unix.S_IFDIR {
		if e.st.Nlink > 1 {
			if e.first = w.links[e.st.Ino]; e.first == "" {
				w.links[e.st.Ino] = e.path
			}
		}
		return e.error(w.v.visit(e))
	}
	names, err := w.u.ReadDir(e.node)
	if err == nil {
		err = w.v.visit(e)
	}
	if err != nil {
		return e.error(err)
	}
	if e.node.Live() && w.v.isTarget(names) {
		names = nil
	}
	sort.Slice(names, func(i, j int) bool { return names[i].Name < names[j].Name })
	for _, d := range names {
		var st unix.Stat_t
		child, err := w.u.LookupStat(e.node, d.Name, &st)
		path := strings.TrimPrefix(e.path+"/"+d.Name, "/")
		if err == unix.ENOENT {
			continue // a live layer: it has just been removed
		}
		if err != nil {
			return (&entry{path: path}).error(err)
		}
		err = w.walk(&entry{u: w.u, node: child, path: path, name: d.Name, st: st})
		w.u.Forget(child, 1)
		if err != nil {
			return err
		}
	}
	return e.error(w.v.leave(e))
}

func (e *entry) kind() uint32 { return e.st.Mode & unix.S_IFMT }

// error says that err concerns e; the target's own errors are left alone.
func (e *entry) error(err error) error {
	var target targetError
	if err == nil || errors.As(err, &target) {
		return err
	}
	return fileattr.At("/"+e.path, err)
}

// targetError is an error of writing.
type targetError struct{ error }

func (t targetError) Unwrap() error { return t.error }

// attributes returns what e has besides content, name and extended attributes.
func (e *entry) attributes() *fileattr.Attributes {
	return &fileattr.Attributes{
		Mode: e.st.Mode & 0o7777, UID: int(e.st.Uid), GID: int(e.st.Gid),
		Atime: e.st.Atim, Mtime: e.st.Mtim,
	}
}

// xattrs returns e's extended attributes; fd is a descriptor of it, or -1. The
// labels of this host's security policy are no part of the image.
func (e *entry) xattrs(fd int) (list []fileattr.Xattr, err error) {
	names, err := e.u.Listxattr(e.node, fd)
	if err != nil && err != unix.EOPNOTSUPP {
		return nil, err
	}
	sort.Strings(names)
	for _, name := range names {
		if name == "security.selinux" {
			continue
		}
		size, err := e.u.Getxattr(e.node, name, nil)
		value := make([]byte, size)
		if err == nil && size > 0 {
			size, err = e.u.Getxattr(e.node, name, value)
		}
		if err != nil {
			return nil, fileattr.At(name, err)
		}
		list = append(list, fileattr.Xattr{Name: name, Value: value[:size]})
	}
	return list, nil
}

// extent is a piece of a file that holds data.
type extent struct{ off, size int64 }

var errShrank = errors.New("became shorter while it was read")

// open opens the regular file e, which the caller closes, and returns its size
// and where in it there is data; between the extents are holes.
func (e *entry) open() (fd int, size int64, data []extent, err error) {
	if fd, err = e.u.Open(e.node); err != nil {
		return -1, 0, nil, err
	}
	var st unix.Stat_t
	if err = fileattr.Retry(func() error { return unix.Fstat(fd, &st) }); err != nil {
		unix.Close(fd)
		return -1, 0, nil, err
	}
	e.st.Dev, e.st.Ino = st.Dev, st.Ino
	if st.Blocks*512 >= st.Size {
		return fd, st.Size, whole(st.Size), nil
	}
	return fd, st.Size, extents(fd, st.Size), nil
}

// extents returns where in the file fd of this size there is data.
func extents(fd int, size int64) (data []extent) {
	for off := int64(0); off < size; {
		from, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break // a hole to the end
		}
		to := int64(0)
		if err == nil {
			to, err = unix.Seek(fd, from, unix.SEEK_HOLE)
		}
		if err != nil { // this file system does not know holes
			return whole(size)
		}
		// A file of a live layer may have grown.
		if to = min(to, size); from < to {
			data = append(data, extent{from, to - from})
		}
		off = max(to, from)
	}
	return data
}

func whole(size int64) []extent {
	if size == 0 {
		return nil
	}
	return []extent{{0, size}}
}
