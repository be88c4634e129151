package tree

import (
	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/fileattr"
)

// Remove removes path and all below it, also beyond PATH_MAX and in
// directories whose mode keeps their own owner out. A path that does not exist
// is no error. It removes as much as it can and returns the first error. What
// is mounted below path is not touched: its mountpoint stays, and is the error.
func Remove(path string) error {
	d, name, err := above(path)
	if err != nil {
		return err
	}
	defer d.close()
	return d.remove(name)
}

func (d *dir) remove(name string) error {
	err := fileattr.Retry(func() error { return unix.Unlinkat(d.fd, name, 0) })
	if err == nil || err == unix.ENOENT {
		return nil
	}
	rmdir := func() error { return unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR) }
	switch again := fileattr.Retry(rmdir); again {
	case nil:
		return nil
	case unix.ENOTEMPTY, unix.EEXIST:
	case unix.ENOTDIR:
		return errs.Path(d.path(name), err)
	default:
		return errs.Path(d.path(name), again)
	}

	child := &dir{name: name, up: d}
	child.fd, err = openBelow(d.fd, name)
	if err == unix.EACCES && unix.Fchmodat(d.fd, name, 0700, 0) == nil {
		child.fd, err = openBelow(d.fd, name)
	}
	if err != nil {
		return errs.Path(d.path(name), err)
	}
	if err := d.within(child, child.empty); err != nil {
		return err
	}
	return errs.Path(d.path(name), fileattr.Retry(rmdir))
}

// empty removes all that is in d.
func (d *dir) empty() error {
	var st unix.Stat_t
	if unix.Fstat(d.fd, &st) == nil && st.Mode&0700 != 0700 {
		// Where this is refused the directory is not ours, and removing says so.
		unix.Fchmod(d.fd, 0700)
	}
	names, first := d.names()
	for _, name := range names {
		if err := d.remove(name); first == nil {
			first = err
		}
		if d.fd < 0 {
			break
		}
	}
	return first
}
