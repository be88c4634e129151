package union

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
)

// Layers that fuse-overlayfs or an OCI image's unpacker wrote may hold
// whiteouts that are plain files, ".wh.NAME" for NAME and ".wh..wh..opq" for
// an opaque directory; https://github.com/opencontainers/image-spec/blob/main/layer.md.
// They count in lower layers that do not say that we wrote them. In an upper
// layer they are replaced by the kernel's form when it is opened.
const (
	dotPrefix = ".wh."
	dotOpaque = ".wh..wh..opq"
)

// dotHides returns what the whiteout called dot hides in the layers below.
// ".wh..wh.NAME" is the bookkeeping of aufs and hides nothing, as for
// containers/storage, and no more does one of no name.
func dotHides(dot string) (name string, ok bool) {
	name = strings.TrimPrefix(dot, dotPrefix)
	return name, name != "" && name != "." && name != ".." && !strings.HasPrefix(name, dotPrefix)
}

// dotMarks looks for such names in d.
func (d *layerDir) dotMarks(u *Union) uint32 {
	fd, err := d.openList(u)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	m := uint32(0)
	readDirFD(fd, func(e rawDirent) bool {
		if strings.HasPrefix(e.name, dotPrefix) {
			m |= markDots
			if e.name == dotOpaque {
				m |= markOpaque
			}
		}
		return true
	})
	return m
}

// dotHidden reports whether directory d has a whiteout of this form for name.
func (d *layerDir) dotHidden(u *Union, name string) bool {
	if _, ok := dotHides(dotPrefix + name); !ok || d.mark(u)&markDots == 0 {
		return false
	}
	var st unix.Stat_t
	return d.lstat(u, dotPrefix+name, &st) == nil
}

// dotName reports whether name in d is such a whiteout itself.
func (d *layerDir) dotName(u *Union, name string) bool {
	return d.layer.dots && strings.HasPrefix(name, dotPrefix) && d.mark(u)&markDots != 0
}

// adoptUpper makes an upper layer that others wrote one of ours: whiteouts that
// are plain files become the kernel's. An upper that is marked as ours is left
// alone, since there such names are the users' own files. found says that there
// is something in it.
func (u *Union) adoptUpper(found bool) error {
	root, err := u.upper.root.pin(u)
	if err != nil {
		return err
	}
	defer root.unpin()
	if hasMark(fdPath(root.fd), formatAttr) {
		return nil
	}
	if found {
		if err := u.adoptDir(u.upper.root); err != nil {
			return errs.Path(u.upper.path+": whiteouts", err)
		}
	}
	return errs.Path(u.upper.path, u.writeHint(fdPath(root.fd), formatAttr, "1"))
}

func hasMark(path, name string) bool {
	for _, prefix := range []string{userPrefix, trustedPrefix} {
		if _, err := unix.Getxattr(path, prefix+name, nil); err == nil {
			return true
		}
	}
	return false
}

func (u *Union) adoptDir(d *layerDir) error {
	h, err := d.pin(u)
	if err != nil {
		return err
	}
	defer h.unpin()
	defer d.drop()
	var dirs, dots []string
	err = readDirFD(h.fd, func(e rawDirent) bool {
		switch {
		case e.typ == unix.S_IFDIR:
			dirs = append(dirs, e.name)
		case e.typ == unix.S_IFREG && strings.HasPrefix(e.name, dotPrefix):
			dots = append(dots, e.name)
		}
		return true
	})
	// An opaque directory needs no others.
	if i := slices.Index(dots, dotOpaque); i > 0 {
		dots[0], dots[i] = dots[i], dots[0]
	}
	for _, name := range dots {
		if err == nil {
			err = u.adoptWhiteout(d, h.fd, name)
		}
	}
	for _, name := range dirs {
		if err == nil {
			err = u.adoptDir(d.child(name))
		}
	}
	return err
}

// adoptWhiteout replaces one whiteout; an interruption leaves it to the next
// time. A file that is not empty is no whiteout.
func (u *Union) adoptWhiteout(d *layerDir, fd int, dot string) error {
	var st unix.Stat_t
	if err := fstatat(fd, dot, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Size > 0 {
		return err
	}
	name, ok := dotHides(dot)
	err := fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case dot == dotOpaque:
		err = u.setOpaque(d)
	case !ok:
		err = nil
	case err == unix.ENOENT && d.opaque(u):
		err = nil
	case err == unix.ENOENT:
		err = u.putWhiteout(d, fd, name)
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		err = u.setOpaque(d.child(name))
	}
	if err != nil {
		return err
	}
	return unlinkat(fd, dot, 0)
}
