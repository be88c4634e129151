package union

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Attributes of overlayfs itself are not shown, and those that a user of the
// merged tree sets under such names are stored escaped, with "overlay." once
// more behind the prefix, as the kernel does: so unions can be nested.

// storedXattr returns the name under which a user's attribute is stored.
func storedXattr(name string) string {
	for _, prefix := range []string{userPrefix, trustedPrefix} {
		if strings.HasPrefix(name, prefix) {
			return prefix + "overlay." + name[len(prefix):]
		}
	}
	return name
}

// shownXattr returns the name under which a stored attribute is shown, if it is.
func shownXattr(name string) (string, bool) {
	for _, prefix := range []string{userPrefix, trustedPrefix} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			escaped, ok := strings.CutPrefix(rest, "overlay.")
			return prefix + escaped, ok
		}
	}
	return name, !strings.HasPrefix(name, fuseMarks)
}

// reserved reports whether n's attribute name, where n lies in layer l, is not for
// users: a mark, or what says who owns n and what its mode is, or, of the root, that
// all such attributes of a layer do. Who owns a file could else give it to root, and
// have it run as root. Nor are ACLs where they do not count.
func (u *Union) reserved(n *Node, name string, l *layer) bool {
	if l.noACLs && strings.HasPrefix(name, aclPrefix) {
		return true
	}
	return strings.HasPrefix(name, fuseMarks) || isOverride(name) && (l.override != "" || n == u.root)
}

// Capability is the attribute that the kernel asks for before it executes a file,
// changes its owner, and writes to it first: twice for each file of an archive.
const Capability = "security.capability"

// Getxattr is getxattr(2): it fills buf and returns the value's length, which
// it also does for an empty buf; ERANGE if buf is too small.
func (u *Union) Getxattr(n *Node, name string, buf []byte) (int, error) {
	if name == Capability && n.Is(noCaps) {
		return 0, unix.ENODATA
	}
	r, err := u.ref(n)
	if err != nil {
		return 0, err
	}
	defer r.done()
	if r.fd < 0 || u.reserved(n, name, r.d.layer) {
		return 0, unix.ENODATA
	}
	k, err := r.getxattr(storedXattr(name), buf)
	if err == unix.ENODATA && name == Capability && r.n != nil && !n.lowerLive() {
		n.Set(noCaps)
	}
	return k, err
}

// Listxattr returns the names of n's attributes. fd is a descriptor from Open,
// by which it is done faster, or -1.
func (u *Union) Listxattr(n *Node, fd int) ([]string, error) {
	r, err := u.ref(n)
	if err != nil {
		return nil, err
	}
	defer r.done()
	if fd >= 0 {
		r.fd, r.name = fd, ""
	}
	if r.fd < 0 {
		return nil, nil
	}
	stored, err := listxattr(r)
	if err != nil {
		return nil, err
	}
	shown := stored[:0]
	for _, name := range stored {
		if s, ok := shownXattr(name); ok && !u.reserved(n, name, r.d.layer) {
			shown = append(shown, s)
		}
	}
	return shown, nil
}

const (
	aclPrefix  = "system.posix_acl_"
	aclAccess  = aclPrefix + "access"
	aclDefault = aclPrefix + "default"
)

// Setxattr is setxattr(2), after n's copy-up.
func (u *Union) Setxattr(n *Node, name string, value []byte, flags int) error {
	return u.changeXattr(n, name, func(r ref, stored string) error {
		return r.setxattr(stored, value, flags)
	})
}

// Removexattr is removexattr(2), after n's copy-up if it has the attribute.
func (u *Union) Removexattr(n *Node, name string) error {
	if !n.inUpper() {
		if _, err := u.Getxattr(n, name, nil); err != nil {
			return err
		}
	}
	return u.changeXattr(n, name, func(r ref, stored string) error {
		if r.name == "" {
			return unix.Removexattr(r.path(), stored)
		}
		return unix.Lremovexattr(r.path(), stored)
	})
}

func (u *Union) changeXattr(n *Node, name string, change func(r ref, stored string) error) error {
	switch {
	case u.upper == nil: // EROFS, below
	case strings.HasPrefix(name, fuseMarks), u.KeepsModes() && strings.HasPrefix(name, aclPrefix):
		// A fuse-overlayfs in here does without its marks.
		return unix.EOPNOTSUPP
	case u.reserved(n, name, u.upper):
		return unix.EPERM
	}
	if err := u.copyUp(n, -1); err != nil {
		return err
	}
	r, err := u.ref(n)
	if err != nil {
		return err
	}
	defer r.done()
	if n.dir() != nil && name == aclDefault {
		defer n.dir().acl.Store(aclUnknown)
	}
	if r.n != nil && name == Capability {
		n.Clear(noCaps)
	}
	return change(r, storedXattr(name))
}

const (
	aclUnknown = iota
	aclNone
	aclSet
)

// hasDefaultACL reports whether d, a directory of the upper with descriptor
// fd, has a default ACL: what is made in it then ignores the umask.
func (u *Union) hasDefaultACL(d *dirState, fd int) bool {
	if u.aclOff || u.KeepsModes() {
		return false
	}
	switch d.acl.Load() {
	case aclNone:
		return false
	case aclSet:
		return true
	}
	n, err := unix.Getxattr(fdPath(fd), aclDefault, nil)
	if err == nil && n > 0 {
		d.acl.Store(aclSet)
		return true
	}
	d.acl.Store(aclNone)
	return false
}

// The system calls for a ref without a name take its descriptor, or, as it may
// be an O_PATH one, which they refuse with EBADF, the path of that.

func (r ref) getxattr(name string, buf []byte) (int, error) {
	if r.name != "" {
		return unix.Lgetxattr(r.path(), name, buf)
	}
	n, err := unix.Fgetxattr(r.fd, name, buf)
	if err == unix.EBADF {
		n, err = unix.Getxattr(r.path(), name, buf)
	}
	return n, err
}

func (r ref) listxattr(buf []byte) (int, error) {
	if r.name != "" {
		return llistxattr(r.fd, r.name, buf)
	}
	n, err := unix.Flistxattr(r.fd, buf)
	if err == unix.EBADF {
		n, err = unix.Listxattr(r.path(), buf)
	}
	return n, err
}

func (r ref) setxattr(name string, value []byte, flags int) error {
	if r.name != "" {
		return unix.Lsetxattr(r.path(), name, value, flags)
	}
	err := fsetxattr(r.fd, name, value, flags)
	if err == unix.EBADF {
		err = unix.Setxattr(r.path(), name, value, flags)
	}
	return err
}
