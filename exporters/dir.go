package exporters

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/fileattr"
	"plash/internal/tree"
	"plash/union"
)

// Dir copies the merged tree into dir, which must not exist or be empty, with
// owners, modes, times, links, devices, extended attributes and holes. What
// cannot be read or written is an error, and then dir is as it was before.
func Dir(u *union.Union, dir string) (err error) {
	made := true
	if err := os.Mkdir(dir, 0o700); err != nil {
		if !errors.Is(err, os.ErrExist) {
			return errs.Path(dir, err)
		}
		made = false
	}
	f, err := os.Open(dir)
	if err != nil {
		return errs.Path(dir, err)
	}
	defer f.Close()
	if !made {
		switch _, err := f.Readdirnames(1); err {
		case io.EOF:
		case nil:
			return errs.Path(dir, unix.ENOTEMPTY)
		default:
			return errs.Path(dir, err)
		}
	}
	defer func() {
		if err == nil {
			return
		}
		if made {
			tree.Remove(dir)
		} else if names, e := os.ReadDir(dir); e == nil {
			for _, n := range names {
				tree.Remove(filepath.Join(dir, n.Name()))
			}
		}
	}()

	d := &dirWriter{root: int(f.Fd()), dir: dir}
	if d.at, err = openDir(d.root, "."); err != nil {
		return errs.Path(dir, err)
	}
	defer func() { unix.Close(d.at) }()
	if u.Root().Live() {
		d.marker = fmt.Sprintf(".plash-push-%d", os.Getpid())
		fd, err := openFile(d.root, d.marker)
		if err != nil {
			return errs.Path(dir, err)
		}
		unix.Close(fd)
	}
	return walk(u, d)
}

// dirWriter writes the tree. It holds two directories open, however deep the
// tree is.
type dirWriter struct {
	root int // of the target
	at   int // the directory being filled
	dir  string
	// marker is a name in the target by which it is known again, should it be
	// part of the tree: it would be copied into itself without end.
	marker string
}

func (d *dirWriter) isTarget(names []union.Dirent) bool {
	for _, n := range names {
		if n.Name == d.marker {
			return true
		}
	}
	return false
}

func (d *dirWriter) visit(e *entry) error {
	if e.path == "" {
		return nil
	}
	if e.kind() == unix.S_IFDIR {
		if err := unix.Mkdirat(d.at, e.name, 0o700); err != nil {
			return d.error(e, err)
		}
		fd, err := openDir(d.at, e.name)
		if err != nil {
			return d.error(e, err)
		}
		unix.Close(d.at)
		d.at = fd
		return nil
	}
	if e.first != "" {
		return d.error(e, fileattr.Retry(func() error { return unix.Linkat(d.root, e.first, d.at, e.name, 0) }))
	}
	fd := -1
	switch e.kind() {
	case unix.S_IFREG:
		out, err := d.copy(e)
		if err != nil {
			return err
		}
		defer out.Close()
		fd = int(out.Fd())
	case unix.S_IFLNK:
		target, err := e.u.Readlink(e.node)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(target, d.at, e.name); err != nil {
			return d.error(e, err)
		}
	default:
		if err := unix.Mknodat(d.at, e.name, e.kind()|0o600, int(e.st.Rdev)); err != nil {
			return d.error(e, err)
		}
	}
	return d.set(d.at, e, fd)
}

func (d *dirWriter) leave(e *entry) error {
	if e.path == "" {
		if d.marker != "" {
			if err := unix.Unlinkat(d.root, d.marker, 0); err != nil {
				return d.error(e, err)
			}
		}
		return d.set(d.root, e, d.root)
	}
	parent, err := openDir(d.at, "..")
	if err != nil {
		return d.error(e, err)
	}
	err = d.set(parent, e, d.at)
	unix.Close(d.at)
	d.at = parent
	return err
}

// copy makes a copy of e's content.
func (d *dirWriter) copy(e *entry) (*os.File, error) {
	from, size, data, err := e.open()
	if err != nil {
		return nil, err
	}
	in := os.NewFile(uintptr(from), e.name)
	defer in.Close()
	fd, err := openFile(d.at, e.name)
	if err != nil {
		return nil, d.error(e, err)
	}
	out := os.NewFile(uintptr(fd), e.name)
	for _, x := range data {
		_, err = in.Seek(x.off, io.SeekStart)
		if err == nil {
			_, err = out.Seek(x.off, io.SeekStart)
		}
		if err == nil {
			// By copy_file_range, which shares the blocks where that is possible.
			_, err = io.CopyN(out, in, x.size)
		}
		if err == io.EOF {
			out.Close()
			return nil, errShrank
		}
		if err != nil {
			break
		}
	}
	if err == nil && (len(data) == 0 || data[len(data)-1].off+data[len(data)-1].size < size) {
		err = out.Truncate(size)
	}
	if err != nil {
		out.Close()
		return nil, d.error(e, err)
	}
	return out, nil
}

// set gives what has been made of e, name e.name in dirfd or the descriptor fd,
// its attributes.
func (d *dirWriter) set(dirfd int, e *entry, fd int) (err error) {
	attr := e.attributes()
	if attr.Xattrs, err = e.xattrs(-1); err != nil {
		return err
	}
	return fileattr.Set(dirfd, e.name, fd, e.kind() == unix.S_IFLNK, attr, func(what string, err error) error {
		return d.error(e, fileattr.At(what, err))
	})
}

// error says that err happened to the copy of e.
func (d *dirWriter) error(e *entry, err error) error {
	if err == nil {
		return nil
	}
	return targetError{fileattr.At(path.Join(d.dir, e.path), err)}
}

func openDir(at int, name string) (fd int, err error) {
	err = fileattr.Retry(func() error {
		fd, err = unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}

func openFile(at int, name string) (fd int, err error) {
	err = fileattr.Retry(func() error {
		fd, err = unix.Openat(at, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	return fd, err
}
