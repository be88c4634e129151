// Package fileattr moves the attributes of a file from one place to another:
// it sets owner, mode, times and extended attributes in the order in which the
// kernel keeps them all, and it knows how tar archives spell extended
// attributes and access control lists.
package fileattr

import (
	"math"
	"path"
	"sort"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"plash/internal/errs"
)

// Attributes are what a file has besides its content and name.
type Attributes struct {
	Mode     uint32 // permission bits with suid, sgid and sticky; a link's are ignored
	UID, GID int
	// Atime and Mtime as utimensat takes them: Nsec may be UTIME_OMIT.
	Atime, Mtime unix.Timespec
	Xattrs       []Xattr
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// The extended attributes that hold access control lists.
const (
	AccessACL  = "system.posix_acl_access"
	DefaultACL = "system.posix_acl_default"
)

// Kinds of attributes, as Set names them to its caller.
const (
	Owner = "owner"
	Mode  = "mode"
	Times = "times"
)

// Set gives the entry name of the directory dirfd (never what a link there
// points to) the attributes a. fd is an open descriptor of the entry, by which
// alone it is reached then, or -1 if there is none, as for links and devices.
// link says that it is a symbolic link.
//
// When something is refused, Set asks refused whether to go on: it is called
// with Owner, Mode, Times or the attribute's name, and the cause; an error it
// returns ends Set.
func Set(dirfd int, name string, fd int, link bool, a *Attributes, refused func(what string, err error) error) error {
	do := func(what string, call func() error) error {
		if err := Retry(call); err != nil {
			return refused(what, err)
		}
		return nil
	}
	// The owner first: a change of owner clears suid, sgid and capabilities.
	err := do(Owner, func() error {
		if a.UID < 0 || a.UID >= math.MaxUint32 || a.GID < 0 || a.GID >= math.MaxUint32 {
			return unix.EINVAL // -1 would mean: leave it as it is
		}
		if fd >= 0 {
			return unix.Fchown(fd, a.UID, a.GID)
		}
		return unix.Fchownat(dirfd, name, a.UID, a.GID, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return err
	}
	// Extended attributes while the file is still writable by its owner,
	// except the lists, which change the mode.
	setxattrs := func(lists bool) error {
		for _, x := range a.Xattrs {
			if lists != (x.Name == AccessACL || x.Name == DefaultACL) {
				continue
			}
			if err := do(x.Name, func() error { return setxattr(dirfd, name, fd, x) }); err != nil {
				return err
			}
		}
		return nil
	}
	if err := setxattrs(false); err != nil {
		return err
	}
	if !link {
		err := do(Mode, func() error {
			if fd >= 0 {
				return unix.Fchmod(fd, a.Mode)
			}
			return unix.Fchmodat(dirfd, name, a.Mode, 0)
		})
		if err != nil {
			return err
		}
	}
	if err := setxattrs(true); err != nil {
		return err
	}
	return do(Times, func() error {
		times := [2]unix.Timespec{a.Atime, a.Mtime}
		if fd >= 0 {
			return futimens(fd, &times)
		}
		return unix.UtimesNanoAt(dirfd, name, times[:], unix.AT_SYMLINK_NOFOLLOW)
	})
}

// futimens is futimens(3): the system call does without a path.
func futimens(fd int, times *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(times)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func setxattr(dirfd int, name string, fd int, x Xattr) error {
	if fd >= 0 {
		return unix.Fsetxattr(fd, x.Name, x.Value, 0)
	}
	// There is no setxattrat before Linux 6.13.
	return unix.Lsetxattr(path.Join("/proc/self/fd", strconv.Itoa(dirfd), name), x.Name, x.Value, 0)
}

// Retry repeats a system call that a signal interrupted: file systems in user
// space and on the network let signals through.
func Retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// Show returns a name from an archive or an image as it can stand in a
// message of one line: quoted if it has anything unprintable in it, and cut off
// where no system would take more.
func Show(name string) string {
	if len(name) > unix.PathMax {
		return Show(name[:unix.PathMax/16]) + "…"
	}
	if q := strconv.Quote(name); q[1:len(q)-1] != name {
		return q
	}
	return name
}

// At returns "NAME: CAUSE" for an entry of an archive or an image.
func At(name string, err error) error { return errs.Path(Show(name), err) }

func sortXattrs(list []Xattr) {
	sort.Slice(list, func(i, j int) bool { return strings.Compare(list[i].Name, list[j].Name) < 0 })
}
