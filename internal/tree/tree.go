// Package tree copies and removes directory trees of any depth: it walks by
// descriptors, two per tree at a time, so that neither PATH_MAX nor the limit
// of open files stops it. It never follows a symbolic link and never enters
// another mount.
package tree

import (
	"errors"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/fileattr"
)

const openFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// above opens the directory that holds path, and returns path's name in it.
func above(path string) (*dir, string, error) {
	parent, name := filepath.Dir(path), filepath.Base(path)
	fd, err := openDir(unix.AT_FDCWD, parent)
	return &dir{fd: fd, name: parent}, name, errs.Path(parent, err)
}

// openDir opens a directory by a path whose links may be followed.
func openDir(at int, path string) (fd int, err error) {
	err = fileattr.Retry(func() error {
		fd, err = unix.Openat(at, path, openFlags&^unix.O_NOFOLLOW, 0)
		return err
	})
	return fd, err
}

var errMounted = errors.New("something is mounted there")

// openBelow opens the directory name in the directory at; errMounted if it is
// a mountpoint.
func openBelow(at int, name string) (fd int, err error) {
	err = fileattr.Retry(func() error {
		fd, err = unix.Openat2(at, name, &unix.OpenHow{
			Flags:   openFlags,
			Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
		})
		return err
	})
	if err == unix.EXDEV {
		return -1, errMounted
	}
	if err != unix.ENOSYS && err != unix.EPERM {
		return fd, err
	}
	// Kernels before 5.6 and some seccomp filters have no openat2: there only
	// mounts of another file system are noticed.
	err = fileattr.Retry(func() error {
		fd, err = unix.Openat(at, name, openFlags, 0)
		return err
	})
	if err != nil {
		return -1, err
	}
	var above, here unix.Stat_t
	err = errors.Join(unix.Fstat(at, &above), unix.Fstat(fd, &here))
	if err == nil && above.Dev != here.Dev {
		err = errMounted
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// A dir is a directory of a walk. Its descriptor is closed while the walk is
// further down and opened again, through "..", when it comes back.
type dir struct {
	fd   int
	name string
	up   *dir
}

// path is for messages only: it may be longer than the kernel takes.
func (d *dir) path(name string) string {
	words := []string{name}
	for ; d != nil; d = d.up {
		words = append(words, d.name)
	}
	slices.Reverse(words)
	return filepath.Join(words...)
}

func (d *dir) close() {
	if d.fd >= 0 {
		unix.Close(d.fd)
		d.fd = -1
	}
}

// within runs f, which works in child, a directory inside d, with d closed
// meanwhile, and closes child. When it cannot find its way back, d stays
// closed (fd below 0) and the walk has to end with the error.
func (d *dir) within(child *dir, f func() error) error {
	defer child.close()
	var before, after unix.Stat_t
	if err := unix.Fstat(d.fd, &before); err != nil {
		return errs.Path(d.path(""), err)
	}
	d.close()
	err := f()
	if child.fd < 0 {
		return err
	}
	fd, back := openDir(child.fd, "..")
	if back == nil {
		back = unix.Fstat(fd, &after)
		if back == nil && (before.Dev != after.Dev || before.Ino != after.Ino) {
			back = unix.ESTALE // somebody moved child away under our feet
		}
		if back != nil {
			unix.Close(fd)
		} else {
			d.fd = fd
		}
	}
	if err == nil {
		err = errs.Path(d.path(""), back)
	}
	return err
}

// names lists d without "." and "..".
func (d *dir) names() ([]string, error) {
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := 0, error(nil)
		err = fileattr.Retry(func() error {
			n, err = unix.ReadDirent(d.fd, buf)
			return err
		})
		if err != nil {
			return nil, errs.Path(d.path(""), err)
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// proc names an entry of d for system calls that take nothing but a path.
func (d *dir) proc(name string) string {
	return "/proc/self/fd/" + strconv.Itoa(d.fd) + "/" + name
}
