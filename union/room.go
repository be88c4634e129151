package union

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// room is how many descriptors the process has a table for, or soon will. If one
// more does not fit, the kernel makes a table of twice the size, and who opens the
// file waits until no processor uses the old one, some 10 ms: seven times on the way
// to 10,000 files. So the table is made larger before it is full, by a thread that
// has nothing else to do: to create 5,000 files takes 0.80 times as long, to untar
// 10,000 and to copy them up 0.88 to 0.93.
var room atomic.Int64

const (
	firstRoom  = 64 // NR_OPEN_DEFAULT in linux/fdtable.h
	roomFactor = 16 // times more room at once
)

func init() { room.Store(firstRoom) }

// MakeRoom is for who serves a union: many files will be opened. Whoever ends at once
// should not call it, since a process ends when the kernel has made the table, which
// takes as long as ever.
func MakeRoom() { makeRoom(firstRoom / 2) }

// makeRoom is told of each descriptor that was opened, or of -1. At half of the table
// there is time enough to make the next one, if the first has been made early.
func makeRoom(fd int) {
	now := room.Load()
	if int64(fd) >= now/2 && room.CompareAndSwap(now, now*roomFactor) {
		go widen(int(now * roomFactor))
	}
}

// widen lets the kernel make room for n descriptors, or as many as there may be.
func widen(n int) {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil {
		n = int(min(uint64(n), lim.Cur))
	}
	fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if last, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, n-1); err == nil {
		unix.Close(last)
	}
}
