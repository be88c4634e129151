package union

import (
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

// override changes st, of the object r in layer l, to what its attribute says.
func (r ref) override(l *layer, st *unix.Stat_t) {
	if l.override == "" || st.Mode&unix.S_IFMT != unix.S_IFREG && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return
	}
	v, err := getxattr(r, l.override)
	if err == nil {
		parseOverride(string(v), st)
	}
}

// parseOverride applies the attribute's text to st; one that makes no sense
// changes nothing.
func parseOverride(text string, st *unix.Stat_t) {
	f := strings.SplitN(text, ":", 4)
	if len(f) < 3 {
		return
	}
	uid, err1 := strconv.ParseUint(f[0], 10, 32)
	gid, err2 := strconv.ParseUint(f[1], 10, 32)
	mode, err3 := strconv.ParseUint(f[2], 8, 32)
	if err1 != nil || err2 != nil || err3 != nil {
		return
	}
	typ, rdev := st.Mode&unix.S_IFMT, st.Rdev
	if len(f) == 4 {
		var ok bool
		if typ, rdev, ok = parseType(f[3]); !ok {
			return
		}
	}
	st.Uid, st.Gid, st.Mode, st.Rdev = uint32(uid), uint32(gid), typ|uint32(mode)&0o7777, rdev
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
