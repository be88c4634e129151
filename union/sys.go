package union

import (
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls that most requests make. Those of x/sys/unix copy each name
// into memory of its own, half of all garbage; here it is copied to the stack.

// A cString has room for most names, and for the paths of such names below a
// descriptor (fdPath).
type cString [320]byte

// of returns s with a NUL behind it; EINVAL if there is one in it.
func (c *cString) of(s string) (*byte, error) {
	if len(s) >= len(c) {
		return unix.BytePtrFromString(s)
	}
	if strings.IndexByte(s, 0) >= 0 {
		return nil, unix.EINVAL
	}
	c[copy(c[:], s)] = 0
	return &c[0], nil
}

// errno returns e as an error.
func errno(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// at is a system call of a descriptor, a name and numbers.
func at(trap uintptr, fd int, name string, a, b int) (int, error) {
	var c cString
	p, err := c.of(name)
	if err != nil {
		return -1, err
	}
	r, _, e := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(p)), uintptr(a), uintptr(b), 0, 0)
	return int(r), errno(e)
}

// dataAt is one of a descriptor, a name, data and numbers.
func dataAt(trap uintptr, fd int, name string, data unsafe.Pointer, a, b int) error {
	var c cString
	p, err := c.of(name)
	if err != nil {
		return err
	}
	_, _, e := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(p)), uintptr(data), uintptr(a), uintptr(b), 0)
	return errno(e)
}

// fstatat waits out signals, as some FUSE file systems are interrupted.
func fstatat(fd int, name string, st *unix.Stat_t, flags int) error {
	for {
		if err := dataAt(sysFstatat, fd, name, unsafe.Pointer(st), flags, 0); err != unix.EINTR {
			return err
		}
	}
}

// openat is open(2) of name below dir.
func openat(dir int, name string, flags int, mode uint32) (int, error) {
	return at(unix.SYS_OPENAT, dir, name, flags|unix.O_LARGEFILE, int(mode))
}

func fchmodat(dir int, name string, mode uint32) error {
	_, err := at(unix.SYS_FCHMODAT, dir, name, int(mode), 0)
	return err
}

func unlinkat(dir int, name string, flags int) error {
	_, err := at(unix.SYS_UNLINKAT, dir, name, flags, 0)
	return err
}

func utimensat(dir int, name string, ts *[2]unix.Timespec, flags int) error {
	return dataAt(unix.SYS_UTIMENSAT, dir, name, unsafe.Pointer(ts), flags, 0)
}

func fsetxattr(fd int, name string, value []byte, flags int) error {
	return dataAt(unix.SYS_FSETXATTR, fd, name, unsafe.Pointer(unsafe.SliceData(value)), len(value), flags)
}

func renameat2(from int, name string, to int, newName string, flags uint) error {
	var c, d cString
	p, err := c.of(name)
	if err != nil {
		return err
	}
	q, err := d.of(newName)
	if err != nil {
		return err
	}
	_, _, e := unix.Syscall6(unix.SYS_RENAMEAT2, uintptr(from), uintptr(unsafe.Pointer(p)), uintptr(to), uintptr(unsafe.Pointer(q)), uintptr(flags), 0)
	return errno(e)
}

// llistxattr is llistxattr(2) of name below the descriptor dir.
func llistxattr(dir int, name string, buf []byte) (int, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return 0, unix.EINVAL
	}
	var c cString
	path := append(strconv.AppendInt(append(c[:0], fdDir...), int64(dir), 10), '/')
	path = append(append(path, name...), 0) // elsewhere if it has grown
	n, _, e := unix.Syscall(unix.SYS_LLISTXATTR, uintptr(unsafe.Pointer(&path[0])), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// fdDir is where descriptors have paths.
const fdDir = "/proc/self/fd/"

func fdPath(fd int) string { return fdDir + strconv.Itoa(fd) }
