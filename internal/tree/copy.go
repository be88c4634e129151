package tree

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/fileattr"
)

// Copy makes dst, which must not exist, a copy of the file or directory src:
// owners, modes, times to the nanosecond, extended attributes (ACLs,
// capabilities and overlay marks are some), hard links, holes, devices and
// whiteouts are kept; security.selinux is left to the policy of dst's place.
// After an error what was copied so far is still there.
func Copy(src, dst string) error {
	from, fromName, err := above(src)
	if err != nil {
		return err
	}
	defer from.close()
	to, toName, err := above(dst)
	if err != nil {
		return err
	}
	defer to.close()

	// Hard links are made from one flat directory: a name that was copied
	// earlier may lie deeper than a path can say.
	links, err := os.MkdirTemp(filepath.Dir(dst), "links")
	if err != nil {
		return errs.Path(dst, err)
	}
	defer Remove(links)
	fd, err := openDir(unix.AT_FDCWD, links)
	if err != nil {
		return errs.Path(links, err)
	}
	defer unix.Close(fd)
	c := copier{links: fd, buf: make([]byte, 1<<20)}
	return c.entry(from, fromName, to, toName)
}

type copier struct {
	links int // directory of one name for each file that has several
	buf   []byte
}

// entry copies one file, or a directory with all below it.
func (c *copier) entry(from *dir, fromName string, to *dir, toName string) error {
	// Errors of both sides are told by the source's name: that one the user knows.
	fail := func(err error) error { return errs.Path(from.path(fromName), err) }
	var st unix.Stat_t
	if err := unix.Fstatat(from.fd, fromName, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail(err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := c.directory(from, fromName, to, toName); err != nil {
			return err
		}
		return fail(attributes(from, fromName, to, toName, &st))
	}

	key := fmt.Sprintf("%x-%x", st.Dev, st.Ino)
	if st.Nlink > 1 {
		err := unix.Linkat(c.links, key, to.fd, toName, 0)
		if err == nil {
			return nil
		}
		if err != unix.ENOENT && err != unix.EMLINK {
			return fail(err)
		}
	}
	err := c.content(from, fromName, to, toName, &st)
	if err == nil {
		err = attributes(from, fromName, to, toName, &st)
	}
	if err == nil && st.Nlink > 1 {
		err = unix.Linkat(to.fd, toName, c.links, key, 0)
		if err == unix.EEXIST { // the first copy has all links that it can have
			unix.Unlinkat(c.links, key, 0)
			err = unix.Linkat(to.fd, toName, c.links, key, 0)
		}
	}
	return fail(err)
}

// directory copies a directory without its own attributes.
func (c *copier) directory(from *dir, fromName string, to *dir, toName string) error {
	fail := func(err error) error { return errs.Path(from.path(fromName), err) }
	if err := unix.Mkdirat(to.fd, toName, 0700); err != nil {
		return fail(err)
	}
	below, into := &dir{name: fromName, up: from}, &dir{name: toName, up: to}
	var err error
	if below.fd, err = openBelow(from.fd, fromName); err != nil {
		return fail(err)
	}
	if into.fd, err = openBelow(to.fd, toName); err != nil {
		below.close()
		return fail(err)
	}
	return from.within(below, func() error {
		return to.within(into, func() error {
			names, err := below.names()
			for i := 0; err == nil && i < len(names); i++ {
				err = c.entry(below, names[i], into, names[i])
			}
			return err
		})
	})
}

// content makes the file of st's type, data included.
func (c *copier) content(from *dir, fromName string, to *dir, toName string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return c.data(from, fromName, to, toName, st.Size)
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(from.fd, fromName, target)
		if err != nil {
			return err
		}
		return unix.Symlinkat(string(target[:n]), to.fd, toName)
	}
	return unix.Mknodat(to.fd, toName, st.Mode&unix.S_IFMT|0600, int(st.Rdev))
}

// data copies a regular file, leaving out its holes.
func (c *copier) data(from *dir, fromName string, to *dir, toName string, size int64) error {
	open := func(at int, name string, flags int) (f *os.File, err error) {
		var fd int
		err = fileattr.Retry(func() error {
			fd, err = unix.Openat(at, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0600)
			return err
		})
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), name), nil
	}
	in, err := open(from.fd, fromName, unix.O_RDONLY|unix.O_NOATIME)
	if err == unix.EPERM { // only a file's owner may ask for that
		in, err = open(from.fd, fromName, unix.O_RDONLY)
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := open(to.fd, toName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	defer out.Close()

	for pos := int64(0); pos < size; {
		start, err := in.Seek(pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // nothing but a hole up to the end
		}
		end, err2 := in.Seek(start, unix.SEEK_HOLE)
		if errors.Is(err, unix.EINVAL) { // the file system does not know its holes
			start, end, err, err2 = pos, size, nil, nil
		}
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		for pos = start; pos < end; {
			n, err := in.ReadAt(c.buf[:min(end-pos, int64(len(c.buf)))], pos)
			if n == 0 {
				if err == io.EOF {
					err = unix.EBUSY // it shrinks while we read
				}
				return err
			}
			if _, err := out.WriteAt(c.buf[:n], pos); err != nil {
				return err
			}
			pos += int64(n)
		}
	}
	if err := out.Truncate(size); err != nil {
		return err
	}
	return out.Close()
}

// attributes gives the copy all that is not content.
func attributes(from *dir, fromName string, to *dir, toName string, st *unix.Stat_t) error {
	list, err := xattrs(from.proc(fromName))
	if err != nil {
		return err
	}
	return fileattr.Set(to.fd, toName, -1, st.Mode&unix.S_IFMT == unix.S_IFLNK, &fileattr.Attributes{
		Mode: st.Mode & 07777, UID: int(st.Uid), GID: int(st.Gid), Atime: st.Atim, Mtime: st.Mtim, Xattrs: list,
	}, errs.Path)
}

func xattrs(path string) (list []fileattr.Xattr, err error) {
	names, err := grow(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if err == unix.EOPNOTSUPP {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(string(names), "\x00") {
		if name == "" || name == "security.selinux" {
			continue
		}
		value, err := grow(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
		if err != nil {
			return nil, errs.Path(name, err)
		}
		list = append(list, fileattr.Xattr{Name: name, Value: value})
	}
	return list, nil
}

// grow calls get with a larger buffer until what it gets fits.
func grow(get func([]byte) (int, error)) ([]byte, error) {
	for buf := make([]byte, 1<<10); ; buf = make([]byte, 8*len(buf)) {
		n, err := get(buf)
		if err == unix.ERANGE && len(buf) < 1<<20 {
			continue
		}
		return buf[:max(n, 0)], err
	}
}
