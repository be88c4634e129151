package fusedev

import (
	"bytes"
	"runtime"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A load tells whether all processors have work without the polling leader. If
// so a round trip is faster when the leader sleeps, and others need the
// processor: no sleeping processor has to be woken, which is what polling saves.
// A statx that asks the server takes 19 µs polling and 13 sleeping beside one
// busy program on two processors, 17 and 24 beside none; beside two, 13 to 60 in
// either way, by where the scheduler puts them. A C build with two jobs takes 1.72
// times as long as in the kernel's overlayfs if the leader polls, 1.53 if it looks
// at the load: means of six and seven runs.
//
// It counts what runs or wants to, every tick, in /proc/loadavg; see proc(5).
// That is about the whole machine: who may only use a few of its processors is
// taken to be on a busy one sooner. Programs of low priority count, too.
type load struct {
	fd      int // of /proc/loadavg; -1: it is not to be had
	ticks   int
	running int // sum of these ticks
	busy    atomic.Bool
}

const (
	// window is for how many ticks the load is averaged.
	window = 32
	// What runs at a tick is the watchdog, and a leader that polls or else one of
	// leader and program; if the watchdog spins, both of these at times. With two
	// processors the average is 2.0 to 3.0 if there is nothing else, either way, 2.8
	// beside two programs that wait for the file system, 3.0 to 3.5 with one other
	// program that computes, or a C build.
	busyFrom, busyTo = 1.25, 0.875 // beside one for each processor
)

// Variables for tests.
var (
	processors       = runtime.NumCPU()
	loadavg          = "/proc/loadavg"
	loadFS     int64 = unix.PROC_SUPER_MAGIC
)

// open opens a file of this file system: one of lxcfs, which is a container's and
// not the machine's, would have to be asked for by requests, too.
func (l *load) open(path string, fileSystem int64) {
	l.fd = -1
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil || int64(st.Type) != fileSystem {
		unix.Close(fd)
		return
	}
	l.fd = fd
}

// free reports whether it is known that not all processors have work.
func (l *load) free() bool { return l.fd >= 0 && !l.busy.Load() }

func (l *load) close() {
	if l.fd >= 0 {
		unix.Close(l.fd)
	}
}

// look takes one more tick into account.
func (l *load) look() {
	if l.fd < 0 {
		return
	}
	n, ok := l.count()
	if !ok {
		return
	}
	l.running += n
	if l.ticks++; l.ticks < window {
		return
	}
	more := float64(l.running)/window - float64(processors)
	l.busy.Store(more >= busyFrom || more >= busyTo && l.busy.Load())
	l.ticks, l.running = 0, 0
}

// reset forgets what was counted.
func (l *load) reset() {
	l.busy.Store(false)
	l.ticks, l.running = 0, 0
}

// count returns how many threads run or want to.
func (l *load) count() (int, bool) {
	var b [64]byte
	n, err := unix.Pread(l.fd, b[:], 0)
	if err != nil {
		return 0, false
	}
	// "0.20 0.18 0.12 1/80 11206": averages, running/existing, last process
	text, _, found := bytes.Cut(b[:n], []byte("/"))
	if !found {
		return 0, false
	}
	count, err := strconv.Atoi(string(text[bytes.LastIndexByte(text, ' ')+1:]))
	return count, err == nil
}
