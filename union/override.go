package union

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Where owners cannot be stored, fuse-overlayfs and containers/storage keep
// owner, mode and type of files and directories in an attribute,
// "UID:GID:MODE[:TYPE]", MODE in octal; a layer whose root has it uses it
// throughout. See "force_mask" in containers-storage.conf(5) and
// "xattr_permissions" of fuse-overlayfs.
const (
	overrideUser       = "user.containers.override_stat"
	overridePrivileged = "security.fuseoverlayfs.override_stat"
	overrideFormerly   = "user.fuseoverlayfs.override_stat"
)

// overrideAttrs are the attributes by Config.XattrPermissions.
var overrideAttrs = []string{"", overridePrivileged, overrideUser}

// overrideOf returns the attribute that the layer with root fd uses, or "".
func overrideOf(fd int) string {
	for _, name := range []string{overridePrivileged, overrideUser, overrideFormerly} {
		if _, err := unix.Fgetxattr(fd, name, nil); err == nil {
			return name
		}
	}
	return ""
}

// overridden reports whether r's layer keeps owners in attributes.
func (r ref) overridden() bool { return r.d.layer.override != "" }

func isOverride(name string) bool {
	return name == overrideUser || name == overridePrivileged || name == overrideFormerly
}

// override changes st, of the object r in layer l, to what its attribute says, and to
// what is left of the mode without its ACL where ACLs do not count.
func (r ref) override(l *layer, st *unix.Stat_t) {
	if typ := st.Mode & unix.S_IFMT; l.override != "" && (typ == unix.S_IFREG || typ == unix.S_IFDIR) {
		v, err := getxattr(r, l.override)
		// An ACL beside the upper's attribute is not the user's: the file has it
		// from its directory's default.
		if err == nil && parseOverride(string(v), st) && l.id == 0 {
			return
		}
	}
	if l.noACLs {
		st.Mode = r.withoutACL(st.Mode)
	}
}

// parseOverride applies the attribute's text to st; one that makes no sense
// changes nothing. It reports whether it makes sense.
func parseOverride(text string, st *unix.Stat_t) bool {
	f := strings.SplitN(text, ":", 4)
	if len(f) < 3 {
		return false
	}
	uid, err1 := strconv.ParseUint(f[0], 10, 32)
	gid, err2 := strconv.ParseUint(f[1], 10, 32)
	mode, err3 := strconv.ParseUint(f[2], 8, 32)
	if err1 != nil || err2 != nil || err3 != nil {
		return false
	}
	typ, rdev := st.Mode&unix.S_IFMT, st.Rdev
	if len(f) == 4 {
		var ok bool
		if typ, rdev, ok = parseType(f[3]); !ok {
			return false
		}
	}
	st.Uid, st.Gid, st.Mode, st.Rdev = uint32(uid), uint32(gid), typ|uint32(mode)&0o7777, rdev
	return true
}

// withoutACL returns what is left of the object's mode if its ACL does not count. That
// is shown before a copy-up, too, so that neither the copy-up nor a chmod(2) that goes
// by the mode shown brings back what the ACL denies.
func (r ref) withoutACL(mode uint32) uint32 {
	if mode&0o077 == 0 || mode&unix.S_IFMT == unix.S_IFLNK || r.fd < 0 {
		return mode
	}
	acl, err := getxattr(r, aclAccess)
	switch err {
	case nil:
		return modeWithoutACL(acl, mode)
	case unix.ENODATA, unix.ENOTSUP:
		return mode
	}
	return mode &^ 0o077 // it may have one
}

// modeWithoutACL returns the bits of mode by which nobody is permitted more than by
// mode and acl together. With an ACL the group's bits are its mask, not what the group
// has. Without it a user whom it names is in the group or among the others, and one of
// a group that it names among the others, unless he is in the file's own group, too,
// which gives him what it has in either case.
func modeWithoutACL(acl []byte, mode uint32) uint32 {
	// A version in 4 bytes, and entries: tag and permissions in 2 each, an id in 4. See
	// linux/posix_acl_xattr.h.
	const (
		aclUser     = 0x02
		aclGroupObj = 0x04
		aclGroup    = 0x08
		aclMask     = 0x10
		aclOther    = 0x20
	)
	group, other, mask, users, groups := uint32(7), uint32(7), uint32(7), uint32(7), uint32(7)
	named := false
	for e := acl[min(4, len(acl)):]; len(e) >= 8; e = e[8:] {
		perm := uint32(binary.LittleEndian.Uint16(e[2:])) & 7
		switch binary.LittleEndian.Uint16(e) {
		case aclUser:
			users &= perm
			named = true
		case aclGroupObj:
			group = perm
		case aclGroup:
			groups &= perm
			named = true
		case aclMask:
			mask = perm
		case aclOther:
			other = perm
		}
	}
	group &= users & mask
	if named {
		other &= users & groups & mask
	}
	return mode & (^uint32(0o077) | group<<3 | other)
}

// parseType reads a type: dir, file, symlink, pipe, socket, or block or char
// with -MAJOR-MINOR or MAJOR:MINOR behind it.
func parseType(text string) (typ uint32, rdev uint64, ok bool) {
	switch text {
	case "dir":
		return unix.S_IFDIR, 0, true
	case "file":
		return unix.S_IFREG, 0, true
	case "symlink":
		return unix.S_IFLNK, 0, true
	case "pipe":
		return unix.S_IFIFO, 0, true
	case "socket":
		return unix.S_IFSOCK, 0, true
	}
	typ = unix.S_IFBLK
	rest, isBlock := strings.CutPrefix(text, "block")
	if !isBlock {
		if rest, ok = strings.CutPrefix(text, "char"); !ok {
			return 0, 0, false
		}
		typ = unix.S_IFCHR
	}
	var major, minor uint32
	n, _ := fmt.Sscanf(strings.NewReplacer(":", " ", "-", " ").Replace(rest), "%d %d", &major, &minor)
	return typ, unix.Mkdev(major, minor), n == 2
}

// overrides reports whether the upper keeps owners in attributes, of objects
// of this type.
func (u *Union) overrides(mode uint32) bool {
	typ := mode & unix.S_IFMT
	return u.KeepsModes() && (typ == unix.S_IFREG || typ == unix.S_IFDIR)
}

// staysOurs reports whether an object that has no attribute may belong to us, as err is
// that it cannot be given to its owner: better than that it is not made. But it is not
// made in a directory whose mode is sticky, where it counts whose it is: its maker could
// not remove it, and who must not follow strangers' symlinks would follow it.
func (u *Union) staysOurs(err error, dir uint32) bool {
	return u.KeepsModes() && (err == unix.EPERM || err == unix.EINVAL) && dir&unix.S_ISVTX == 0
}

// setOverride stores owner and mode of the object r in the upper layer, whose
// other attributes st has, instead of giving them to it.
func (u *Union) setOverride(r ref, st unix.Stat_t, uid, gid, mode *uint32) error {
	if uid != nil {
		st.Uid = *uid
	}
	if gid != nil {
		st.Gid = *gid
	}
	if mode != nil {
		st.Mode = *mode
	}
	value := fmt.Appendf(nil, "%d:%d:%o", st.Uid, st.Gid, st.Mode&0o7777)
	return r.setxattr(u.upper.override, value, 0)
}
