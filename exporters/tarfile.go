package exporters

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/union"
)

// Tarfile writes the merged tree as a tar archive to the file path, or to
// stdout if path is "" or "-". A file that is there is replaced once the
// archive is complete, and left alone if it cannot be completed.
func Tarfile(u *union.Union, path string, stdout io.Writer) error {
	if path == "" || path == "-" {
		return writeTar(u, stdout, "standard output")
	}
	info, err := os.Stat(path)
	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return errs.Path(path, err)
	case err == nil && info.IsDir():
		return errs.Path(path, unix.EISDIR)
	case err == nil && !info.Mode().IsRegular(): // a pipe, /dev/null
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return errs.Path(path, err)
		}
		defer f.Close()
		return writeTar(u, f, path)
	}
	n, err := newFile(path)
	if err != nil {
		return errs.Path(path, err)
	}
	defer n.discard()
	if info != nil {
		if err := n.f.Chmod(info.Mode().Perm()); err != nil {
			return errs.Path(path, err)
		}
	}
	if err := writeTar(u, n.f, path); err != nil {
		return err
	}
	return errs.Path(path, n.publish())
}

// writeTar is Tar with the name of w in its errors.
func writeTar(u *union.Union, w io.Writer, name string) error {
	err := Tar(u, w)
	var target targetError
	if errors.As(err, &target) {
		return errs.Path(name, target.error)
	}
	return err
}

// pending is a file that gets its name when it is complete.
type pending struct {
	f    *os.File
	path string
	temp string // its name till then, or the one to be given just before
	has  bool   // it has that name
}

// newFile makes a file that is to become path. It has no name at first, so
// that nothing is left of it however this process ends; where the file system
// cannot do that it has another one in the same directory.
func newFile(path string) (*pending, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // a link stays, and what it points to is replaced
	}
	dir := filepath.Dir(path)
	p := &pending{path: path, temp: filepath.Join(dir, ".plash-push-"+rand.Text())}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o666)
	if err == nil {
		p.f = os.NewFile(uintptr(fd), path)
		return p, nil
	}
	if err != unix.EOPNOTSUPP && err != unix.EISDIR {
		return nil, err
	}
	p.has = true
	p.f, err = os.OpenFile(p.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	return p, err
}

// publish gives the file its name, in place of one that has it.
func (p *pending) publish() error {
	if !p.has {
		// The way that needs no privilege, as open(2) describes it.
		self := fmt.Sprintf("/proc/self/fd/%d", p.f.Fd())
		if err := unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, p.temp, unix.AT_SYMLINK_FOLLOW); err != nil {
			return err
		}
		p.has = true
	}
	// Network file systems say only here that the disk is full.
	if err := p.f.Close(); err != nil {
		return err
	}
	if err := os.Rename(p.temp, p.path); err != nil {
		return err
	}
	p.has = false
	return nil
}

// discard removes what has not been published.
func (p *pending) discard() {
	p.f.Close()
	if p.has {
		os.Remove(p.temp)
	}
}
