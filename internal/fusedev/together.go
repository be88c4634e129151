package fusedev

import (
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// together keeps the leader and the program that sends requests on one of two
// processors. A program that waits for its reply leaves its processor without
// work, and to wake it across processors takes longer than most replies: of the
// 17 to 20 µs of a statx that asks the server it is 12. On the same one it is a
// switch from one thread to the other, and the statx takes 10 to 12 µs. The
// scheduler leaves them there if the other processor is not free. So while
// requests come one after the other the watchdog does not sleep between its looks
// but spins, and the leader does not poll: one processor does not sleep, as when
// it does. Untarring takes 6.0 instead of 8.9 times as long as in the kernel's
// overlayfs, to remove a lower tree 4.1 instead of 5.5.
//
// Among more than two processors there is always a free one: there the leader polls.
type together struct {
	spins atomic.Bool // the watchdog does, instead of sleeping
	apart int         // how often in turn the leader was woken meanwhile
	level int         // of the flow of requests
	read  int64       // from disks, by the last tick
}

const (
	// flow is how many requests make a tick one of a flow. Each such raises its
	// level by one. At full the watchdog begins to spin, so not while a program
	// starts: "run ID true" took a quarter longer. Each other tick lowers the level
	// by ebb, and at 0 it ends.
	flow, full, ebb = 10, 16, 2
	// far is how often in turn the leader sleeps and is woken before it takes itself
	// and the program for being on two processors: together it rarely sleeps.
	far = 4
)

// look decides whether the watchdog spins from now on, by the requests of a tick
// and by how much had been read from disks at its end. busy says that there is
// other work for the processors. Who waits for a disk, or reads ahead, needs them,
// too: reading all files of a cold disk took 6 to 14 % longer beside a watchdog
// that spins.
func (t *together) look(requests uint64, read int64, busy bool) {
	disk := read != t.read
	t.read = read
	switch {
	case busy || disk || processors != 2 || runtime.GOMAXPROCS(0) < 2:
		t.level = 0
	case requests >= flow:
		t.level = min(t.level+1, full)
	default:
		t.level = max(t.level-ebb, 0)
	}
	was := t.spins.Load()
	if spins := t.level == full || was && t.level > 0; spins != was {
		t.spins.Store(spins)
		// As long as it spins it keeps its thread: the scheduler knows by the
		// thread's past that its processor is not free.
		if spins {
			runtime.LockOSThread()
		} else {
			runtime.UnlockOSThread()
		}
	}
}

// spin keeps a processor busy for the time d, or until done is closed.
func spin(d time.Duration, done <-chan struct{}) {
	for start := time.Now(); time.Since(start) < d; {
		select {
		case <-done:
			return
		default:
		}
	}
}

// woken notes that the leader slept before a request, for a short time or not,
// and brings it to the program's processor if it mostly does.
func (t *together) woken(short bool) {
	if !short || !t.spins.Load() {
		t.apart = 0
		return
	}
	if t.apart++; t.apart >= far {
		t.apart = 0
		changeProcessor()
	}
}

// changeProcessor moves the caller to the other one of two processors, from which
// it may be moved again.
func changeProcessor() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var both unix.CPUSet
	if unix.SchedGetaffinity(0, &both) != nil || both.Count() != 2 {
		return
	}
	other := both
	other.Clear(processor())
	unix.SchedSetaffinity(0, &other)
	unix.SchedSetaffinity(0, &both)
}
