package importers

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"plash/internal/fileattr"
)

// Names by which layers in archives say what they remove from those below
// (image-spec, layer.md): `.wh.NAME` removes NAME, `.wh..wh..opq` all that the
// directory has below. Other names with `.wh..wh.` are the bookkeeping of aufs.
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..opq"
	aufsPrefix     = ".wh."
)

// The forms in which the union, and the kernel's overlay, have them on disk:
// a character device 0:0, or where that cannot be made an empty file with the
// attribute xattrWhiteout in a directory with opaqueMixed.
const (
	xattrOpaque   = "user.overlay.opaque"
	xattrWhiteout = "user.overlay.whiteout"
	opaqueAll     = "y"
	opaqueMixed   = "x"
)

// whiteout does what the name `.wh.`+name in dir asks for. It concerns layers
// below only: what the archive itself has under the name stays.
func (u *unpacker) whiteout(dir *dirHandle, name string) error {
	switch {
	case name == opaqueName:
		return u.markOpaque(dir.fd, ".", dir.name)
	case strings.HasPrefix(name, aufsPrefix):
		return nil
	case name == "" || name == "." || name == "..":
		return errors.New("a whiteout of no name")
	case u.opaque[dir.name]:
		return nil // nothing below shows anyway
	}
	var st unix.Stat_t
	err := fstatat(dir.fd, name, &st)
	if err == nil {
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return u.markOpaque(dir.fd, name, path.Join(dir.name, name))
		}
		return nil
	}
	if err != unix.ENOENT {
		return err
	}
	err = unix.Mknodat(dir.fd, name, unix.S_IFCHR, 0)
	if err == nil {
		// Some virtual file systems make a plain file without a word.
		if err = fstatat(dir.fd, name, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFCHR {
			err = unix.EPERM
		}
	}
	if err == unix.EPERM {
		err = u.xattrWhiteout(dir, name)
	}
	if err != nil {
		return err
	}
	if u.whiteouts[dir.name] == nil {
		u.whiteouts[dir.name] = map[string]bool{}
	}
	u.whiteouts[dir.name][name] = true
	return nil
}

func (u *unpacker) xattrWhiteout(dir *dirHandle, name string) error {
	fd, err := openat(dir.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fsetxattr(fd, xattrWhiteout, []byte(opaqueAll), 0); err != nil {
		return fileattr.At(xattrWhiteout, err)
	}
	return fileattr.At(xattrOpaque, unix.Fsetxattr(dir.fd, xattrOpaque, []byte(opaqueMixed), 0))
}

// markOpaque hides what layers below have in the directory name in the
// directory fd, which is called resolved in the tree.
func (u *unpacker) markOpaque(fd int, name, resolved string) error {
	d, err := openat(fd, name, openDirFlags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(d)
	if err := unix.Fsetxattr(d, xattrOpaque, []byte(opaqueAll), 0); err != nil {
		return fileattr.At(xattrOpaque, err)
	}
	u.opaque[resolved] = true
	// Whiteouts have no meaning in there, and some of their forms would show.
	for hidden := range u.whiteouts[resolved] {
		if err := unix.Unlinkat(d, hidden, 0); err != nil {
			return err
		}
	}
	delete(u.whiteouts, resolved)
	return nil
}
