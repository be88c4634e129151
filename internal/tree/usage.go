package tree

import (
	"golang.org/x/sys/unix"

	"plash/internal/errs"
	"plash/internal/fileattr"
)

// Usage returns how much space path and all below it take on the disk, in
// bytes. A file with several names counts once. What vanishes meanwhile, and
// what is mounted there, does not count.
func Usage(path string) (int64, error) {
	d, name, err := above(path)
	if err != nil {
		return 0, err
	}
	defer d.close()
	m := meter{seen: map[file]bool{}}
	err = m.add(d, name)
	return m.total, err
}

type meter struct {
	total int64
	seen  map[file]bool // those with several names
}

type file struct{ dev, ino uint64 }

func (m *meter) add(d *dir, name string) error {
	var st unix.Stat_t
	err := fileattr.Retry(func() error { return unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return errs.Path(d.path(name), err)
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if !isDir && st.Nlink > 1 {
		f := file{uint64(st.Dev), st.Ino}
		if m.seen[f] {
			return nil
		}
		m.seen[f] = true
	}
	m.total += st.Blocks * 512
	if !isDir {
		return nil
	}
	child := &dir{name: name, up: d}
	child.fd, err = openBelow(d.fd, name)
	if err == unix.ENOENT || err == errMounted {
		return nil
	}
	if err != nil {
		return errs.Path(d.path(name), err)
	}
	return d.within(child, func() error {
		names, err := child.names()
		for _, name := range names {
			if err == nil {
				err = m.add(child, name)
			}
		}
		return err
	})
}
