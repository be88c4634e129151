package fs_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls of the server that a test refuses, or watches one by one, by a
// seccomp filter: seccomp(2), seccomp_unotify(2). A debugger would count the
// calls of each thread by itself, and in which one Go makes a call is chance.

// A callRule is for calls of number nr whose argument arg has, under mask, the
// value.
type callRule struct {
	nr, arg, mask, value uint32
}

// filterCalls has the kernel answer action to what the rules are for, in all
// threads of this process.
func filterCalls(rules []callRule, action uint32, flags uintptr) (uintptr, error) {
	arch := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if arch == 0 {
		return 0, fmt.Errorf("no filter is written for %s", runtime.GOARCH)
	}
	// Offsets in struct seccomp_data.
	const nr, archAt, args = 0, 4, 16
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	equal := func(k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	allow := answer(unix.SECCOMP_RET_ALLOW)
	prog := []unix.SockFilter{load(archAt), equal(arch, 1, 0), allow}
	for _, r := range rules {
		prog = append(prog, load(nr), equal(r.nr, 0, 4),
			load(args+8*r.arg), unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: r.mask},
			equal(r.value, 0, 1), answer(action))
	}
	prog = append(prog, allow)
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC|flags, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return 0, fmt.Errorf("seccomp: %w", errno)
	}
	return fd, nil
}

// refuseMknod makes all attempts of this process to make a character device
// fail with errno.
func refuseMknod(errno syscall.Errno) error {
	rules := []callRule{{unix.SYS_MKNODAT, 2, unix.S_IFMT, unix.S_IFCHR}}
	if runtime.GOARCH == "amd64" {
		const mknod = 133 // which arm64 does not have
		rules = append(rules, callRule{mknod, 1, unix.S_IFMT, unix.S_IFCHR})
	}
	_, err := filterCalls(rules, unix.SECCOMP_RET_ERRNO|uint32(errno), 0)
	return err
}

// watchedCalls are all by which a union changes its upper layer or makes it
// durable.
var watchedCalls = func() []callRule {
	rules := []callRule{
		{unix.SYS_OPENAT, 2, unix.O_CREAT, unix.O_CREAT},
		{unix.SYS_OPENAT, 2, unix.O_TMPFILE &^ unix.O_DIRECTORY, unix.O_TMPFILE &^ unix.O_DIRECTORY},
		{unix.SYS_IOCTL, 1, ^uint32(0), unix.FICLONE},
	}
	for _, nr := range []uint32{
		unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT, unix.SYS_SYMLINKAT, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT, unix.SYS_MKNODAT,
		unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_FSETXATTR, unix.SYS_REMOVEXATTR, unix.SYS_LREMOVEXATTR, unix.SYS_FREMOVEXATTR,
		unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT, unix.SYS_UTIMENSAT,
		unix.SYS_FTRUNCATE, unix.SYS_TRUNCATE, unix.SYS_FALLOCATE, unix.SYS_PWRITE64, unix.SYS_COPY_FILE_RANGE,
		unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS,
	} {
		rules = append(rules, callRule{nr: nr})
	}
	return rules
}()

// A watchedCall waits for the watcher before it is made; the layout is struct
// seccomp_notif.
type watchedCall struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// path returns the file of the descriptor that is the call's first argument.
func (c *watchedCall) path() string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", c.pid, int32(c.args[0])))
	return path
}

// name returns the file named by two arguments, a directory's descriptor and
// the address of a name.
func (c *watchedCall) name(dir, name int) string {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", c.pid))
	if err != nil {
		return err.Error()
	}
	defer mem.Close()
	buf := make([]byte, 256)
	n, _ := mem.ReadAt(buf, int64(c.args[name]))
	at, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", c.pid, int32(c.args[dir])))
	return filepath.Join(at, unix.ByteSliceToString(buf[:n]))
}

// letWatch makes this process's calls wait for whoever has the descriptor
// returned.
func letWatch() (int, error) {
	fd, err := filterCalls(watchedCalls, unix.SECCOMP_RET_USER_NOTIF, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH)
	return int(fd), err
}

// watch calls f before each call of process pid, whose descriptor listener is
// for that, until f returns false (the call is then not made) or all are gone.
func watch(pid, listener int, f func(c *watchedCall) bool) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, listener, 0)
	if err != nil {
		return fmt.Errorf("pidfd_getfd: %w", err)
	}
	go func() {
		defer unix.Close(fd)
		for {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			if _, err := unix.Poll(poll, -1); err == unix.EINTR {
				continue
			} else if err != nil || poll[0].Revents&unix.POLLIN == 0 {
				return
			}
			var c watchedCall
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&c))); errno != 0 {
				continue // it was interrupted
			}
			if !f(&c) {
				return
			}
			// id, value, error, flags
			var reply [24]byte
			binary.NativeEndian.PutUint64(reply[:], c.id)
			binary.NativeEndian.PutUint32(reply[20:], unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE)
			unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&reply)))
		}
	}()
	return nil
}
