package union

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
)

// The marks of overlayfs, https://docs.kernel.org/filesystems/overlayfs.html:
// a whiteout is a character device 0:0, or, in a directory whose opaque
// attribute is "x", an empty file with the whiteout attribute; an opaque
// directory has the opaque attribute "y"; and a directory that was renamed says
// in its redirect attribute where the layers below have it.
// With "userxattr" the attributes' prefix is "user.overlay.", else
// "trusted.overlay.", which only real root can read and write. We write the
// former, and both where redirects are written, which the kernel follows
// without "userxattr" only. fuse-overlayfs has its own name for opaque.
const (
	userPrefix    = "user.overlay."
	trustedPrefix = "trusted.overlay."
	opaqueAttr    = "opaque"
	whiteoutAttr  = "whiteout"
	redirectAttr  = "redirect"
	kernelOrigin  = "origin"
	metacopyAttr  = "metacopy"
	impureAttr    = "impure"              // of a directory that may hold some with an origin or a redirect
	fuseMarks     = "user.fuseoverlayfs." // what the names of fuse-overlayfs's own begin with
	fuseOpaque    = fuseMarks + "opaque"
)

// Attributes of our own, which the kernel hides as it does all of overlayfs.
// They are hints: an upper without them is as good.
const (
	originAttr = "plash.origin" // see origins
	// originsAttr is of a directory that holds objects with an origin. The
	// kernel's own mark for that, impure, it removes where it finds no origins
	// of its own.
	originsAttr = "plash.origins"
	formatAttr  = "plash.format" // of a layer's root: names with ".wh." in it mean nothing
	filesAttr   = "plash.files"  // of a layer's root: some whiteouts are files, see Seal
)

// What a layerDir's marks say.
const (
	marksKnown = 1 << iota
	markOpaque
	markXWhiteouts // whiteouts in here are empty files with an attribute
	markRedirect
	markOrigins
	markImpure
	markDots     // whiteouts in here are names with ".wh." before them
	marksVary    // who may not do as we may sees others
	marksChecked // the index's names of the directory are whole
)

// initialUserNamespace is the name of the namespace in which root is real,
// PROC_USER_INIT_INO of linux/proc_ns.h.
const initialUserNamespace = "user:[4026531837]"

// realRoot reports whether this process may use attributes that begin with
// "trusted.".
func realRoot() bool {
	ns, err := os.Readlink("/proc/self/ns/user")
	return os.Geteuid() == 0 && err == nil && ns == initialUserNamespace
}

// probeMarks finds out which attributes can be written in the upper layer; dir
// is a directory in its file system.
func (u *Union) probeMarks(dir int) error {
	var first error
	for _, prefix := range []string{userPrefix, trustedPrefix} {
		if prefix == trustedPrefix && (!u.trusted || !u.redirect && first == nil) {
			continue
		}
		err := unix.Setxattr(fdPath(dir), prefix+"plash.probe", nil, 0)
		if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		unix.Removexattr(fdPath(dir), prefix+"plash.probe")
		u.prefixes = append(u.prefixes, prefix)
	}
	if len(u.prefixes) == 0 {
		return errs.Path(u.upper.path+": extended attributes", first)
	}
	return nil
}

// hintPrefix is that of the attributes that are not needed for the truth.
func (u *Union) hintPrefix() string { return u.prefixes[len(u.prefixes)-1] }

// writeHint sets such an attribute on the object at path, which is no symlink.
func (u *Union) writeHint(path, name, value string) error {
	return unix.Setxattr(path, u.hintPrefix()+name, []byte(value), 0)
}

// writeMark sets an attribute of overlayfs on the object at path.
func (u *Union) writeMark(path, name, value string) error {
	for _, prefix := range u.prefixes {
		if err := unix.Setxattr(path, prefix+name, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}

// readMarks asks for the marks of directory d.
func (d *layerDir) readMarks(u *Union) uint32 {
	m := uint32(marksKnown)
	if d.layer.live || d.synthetic() {
		return m
	}
	h, err := d.pin(u)
	if err != nil {
		return 0
	}
	defer h.unpin()
	names, _ := listxattr(ref{fd: h.fd}) // an error means none
	for _, name := range names {
		if strings.HasPrefix(name, trustedPrefix) || name == userPrefix+redirectAttr {
			m |= marksVary
		}
		mark, ok := u.overlayMark(name)
		if !ok {
			continue
		}
		switch mark {
		case opaqueAttr:
			switch v, _ := getxattr(ref{fd: h.fd}, name); string(v) {
			case "y":
				m |= markOpaque
			case "x":
				m |= markXWhiteouts
			}
		case redirectAttr:
			m |= markRedirect
		case originsAttr:
			m |= markOrigins
		case impureAttr:
			m |= markImpure
		}
	}
	if d.layer.dots {
		m |= d.dotMarks(u)
	}
	return m
}

// overlayMark returns which mark the attribute called name is. A redirect that
// any user could have set counts for users only.
func (u *Union) overlayMark(name string) (string, bool) {
	if name == fuseOpaque {
		return opaqueAttr, true
	}
	if mark, ok := strings.CutPrefix(name, trustedPrefix); ok {
		return mark, true
	}
	mark, ok := strings.CutPrefix(name, userPrefix)
	return mark, ok && !(mark == redirectAttr && u.trusted)
}

func (d *layerDir) mark(u *Union) uint32 {
	m := d.marks.Load()
	if m == 0 {
		m = d.readMarks(u)
		d.marks.CompareAndSwap(0, m)
	}
	return m
}

// opaque reports whether d hides the directories of its name in the layers
// below it.
func (d *layerDir) opaque(u *Union) bool { return d.mark(u)&markOpaque != 0 }

// markXWhiteouts makes empty files with the attribute count as whiteouts in d,
// a directory of the upper.
func (u *Union) markXWhiteouts(d *layerDir) error {
	return u.setMark(d, markXWhiteouts, opaqueAttr, "x")
}

// setOpaque makes d, a directory of the upper, hide what lies below. What was
// marked as a whiteout in it says nothing any more.
func (u *Union) setOpaque(d *layerDir) error {
	return u.setMark(d, markOpaque, opaqueAttr, "y")
}

// mayHoldWhiteouts has the kernel look for whiteouts in the directory fd of the
// upper although it merges nothing, should a crash leave some there; else it
// lists them. It does so for a directory that was copied up: an empty value
// stands for an unknown origin (ovl_get_inode in fs/overlayfs/inode.c).
func (u *Union) mayHoldWhiteouts(fd int) error {
	return u.writeMark(fdPath(fd), kernelOrigin, "")
}

// setMark marks d, a directory of the upper.
func (u *Union) setMark(d *layerDir, mark uint32, name, value string) error {
	old := d.mark(u)
	if old&mark != 0 && mark != markRedirect {
		return nil
	}
	h, err := d.pin(u)
	if err != nil {
		return err
	}
	defer h.unpin()
	write := u.writeMark
	if mark == markOrigins {
		write = u.writeHint
	}
	if err := write(fdPath(h.fd), name, value); err != nil {
		return err
	}
	for { // others set other marks
		old = d.marks.Load()
		now := old | marksKnown
		if name == opaqueAttr {
			now &^= markOpaque | markXWhiteouts
		}
		if d.marks.CompareAndSwap(old, now|mark) {
			return nil
		}
	}
}
