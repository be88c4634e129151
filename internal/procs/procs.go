// Package procs does to processes what Go's library cannot: it lets this one
// stop or die of a signal as a C program would, finds children that other
// processes left to it, and looks after descriptors and limits across exec.
package procs

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Raise does to this process what the signal does by default, at once: it dies
// of it, without a core dump, or stops until it is continued. It returns if it
// was stopped, and if the signal has no effect, as on process 1. Go's runtime
// has handlers of its own for most signals, which os/signal does not take away;
// here they are put back. The caller's goroutine must be locked to its thread.
func Raise(s syscall.Signal) {
	switch s {
	case unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
	default:
		unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	}
	// The kernel's struct sigaction; all zero it is SIG_DFL. A signal set has
	// 8 bytes.
	var byDefault, before [8]uint64
	var set uint64 = 1 << (s - 1)
	const unblock = 1
	syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&byDefault)), uintptr(unsafe.Pointer(&before)), 8, 0, 0)
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unblock, uintptr(unsafe.Pointer(&set)), 0, 8, 0, 0)
	// To this thread, so that it takes effect before the call returns.
	unix.Tgkill(os.Getpid(), unix.Gettid(), s)
	syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&before)), 0, 8, 0, 0)
}

// Children returns the ids of this process's children, dead ones included; none if
// /proc does not show them. It may be that of a process namespace around this one,
// which has other numbers for them.
func Children() []int {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return nil
	}
	depth := len(namespaceIDs(self)) - 1 // of our namespace below that of /proc
	if depth < 0 && self != strconv.Itoa(os.Getpid()) {
		return nil
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var pids []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if f, err := stat(pid); err != nil || f[1] != self {
			continue
		}
		if depth > 0 {
			ids := namespaceIDs(name)
			if len(ids) <= depth {
				continue
			}
			pid, _ = strconv.Atoi(ids[depth])
		}
		pids = append(pids, pid)
	}
	return pids
}

// namespaceIDs returns the numbers that a process of /proc has, from the namespace of
// /proc to its own, see proc_pid_status(5).
func namespaceIDs(pid string) []string {
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return strings.Fields(ids)
		}
	}
	return nil
}

// stat returns the fields of /proc/PID/stat behind the program's name, the
// state being the first.
func stat(pid int) ([]string, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil, err
	}
	// PID (NAME) STATE PPID …; the name may hold brackets and blanks.
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(f) < 20 {
		return nil, syscall.EINVAL
	}
	return f, nil
}

// Started returns when the process pid began, in hundredths of a second since
// the machine did, and whether it is dead, and only not waited for yet.
func Started(pid int) (ticks int64, dead bool, err error) {
	f, err := stat(pid)
	if err != nil {
		return 0, false, err
	}
	ticks, err = strconv.ParseInt(f[19], 10, 64)
	return ticks, f[0] == "Z" || f[0] == "X", err
}

// Inherit sets whether fd stays open in programs that this process executes.
func Inherit(fd int, yes bool) {
	flag := unix.FD_CLOEXEC
	if yes {
		flag = 0
	}
	unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag)
}

// CloseInherited closes all descriptors above standard error that this program
// was given when it was executed, but those in keep, which from now on are not
// inherited further.
func CloseInherited(keep ...int) {
	for _, fd := range keep {
		Inherit(fd, false)
	}
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd <= 2 {
			continue
		}
		// What this program opened itself has the flag: Go sets it always.
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
}

// RaiseLimits lifts the limits that would hinder a file server as far as it
// may: it serves others, and a caller's limits are meant for the caller.
func RaiseLimits() {
	for _, what := range []int{unix.RLIMIT_NOFILE, unix.RLIMIT_FSIZE, unix.RLIMIT_CPU, unix.RLIMIT_AS, unix.RLIMIT_DATA} {
		var limit unix.Rlimit
		if unix.Getrlimit(what, &limit) != nil {
			continue
		}
		limit.Cur = limit.Max
		unix.Setrlimit(what, &limit)
	}
	const many = 1 << 20 // what fs.nr_open is unless it was changed
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil && limit.Max < many {
		unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: many, Max: many})
	}
}

// LastCapability returns the highest capability the kernel knows.
func LastCapability() uintptr {
	last := uintptr(0)
	for {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, last+1, 0, 0, 0); err != nil {
			return last
		}
		last++
	}
}

// HasSysAdmin reports whether this process has CAP_SYS_ADMIN in its user
// namespace.
func HasSysAdmin() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// DropInheritable clears this thread's ambient and inheritable capabilities, so
// that the programs it executes have what their user has, and no more.
func DropInheritable() error {
	unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	return unix.Capset(&header, &data[0])
}
