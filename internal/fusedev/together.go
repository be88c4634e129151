package fusedev

import (
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// together is the watchdog's and the leader's part in keeping the leader and the
// program that sends requests on one of two processors. A program that waits for
// its reply leaves its processor without work, and to wake it across processors
// takes longer than most replies: of the 17 to 20 µs of a statx that asks the
// server it is 12. On the same one it is a switch from one thread to the other, and
// the statx takes 10 to 12 µs. The scheduler leaves them there if the other
// processor is not free. So while requests come one after the other the watchdog
// does not sleep between its looks but spins, and the leader does not poll: of the
// two processors one stays busy, in either way. Untarring takes 5.9 instead of 8.9
// times as long as in the kernel's overlayfs, to remove a lower tree 4.3 instead of 5.5.
//
// Among more than two processors there is always a free one: there the leader polls.
type together struct {
	spins atomic.Bool // the watchdog does, instead of sleeping
	halt  atomic.Bool // it shall not: another reader needs a processor beside the leader
	level int         // of the flow of requests
	read  int64       // from disks, by the last tick

	apart, far int // the leader's: see woken
}

const (
	// flow is how many requests make a tick one of a flow. Each such raises its
	// level by one. At full the watchdog begins to spin, so not while a program
	// starts: "run ID true" took a quarter longer. Each other tick lowers the level
	// by ebb, and at 0 it ends.
	flow, full, ebb = 10, 16, 2
	// turnOfOthers is how long a program has the processor, before another one has,
	// at least.
	turnOfOthers = 2 * time.Millisecond
	// near is how often in a row the leader sleeps and is woken before it takes itself
	// and the program for being on two processors: together it rarely sleeps. It
	// becomes more, up to farthest, while to move does not help.
	near, farthest = 4, 1024
)

// look decides whether the watchdog spins from now on, by the requests of a tick
// and by how much had been read from disks at its end. busy says that there is
// other work for the processors. Who waits for a disk, or reads ahead, needs them,
// too: reading all files of a cold disk took 6 to 14 % longer beside a watchdog
// that spins.
func (t *together) look(requests uint64, read int64, busy bool) {
	disk := read != t.read
	t.read = read
	was := t.spins.Load()
	switch {
	case busy || disk || runtime.GOMAXPROCS(0) < 2:
		t.level = 0
	case requests >= flow:
		t.level = min(t.level+1, full)
	default:
		t.level = max(t.level-ebb, 0)
	}
	switch {
	case was && t.level == 0:
		t.end()
	case !was && t.level == full:
		// It keeps its thread as long as it spins. If not, untarring took 7.5 instead
		// of 6.8 times as long as in the kernel's overlayfs.
		runtime.LockOSThread()
		t.halt.Store(false)
		t.spins.Store(true)
	}
}

// end lets the watchdog sleep again.
func (t *together) end() {
	if t.spins.CompareAndSwap(true, false) {
		runtime.UnlockOSThread()
	}
}

// spin keeps a processor busy for the time d, or until done is closed. It ends and
// reports true if others want the processor: another reader, or programs that had it
// for a turn. Who was put on this processor has it at once: the leader waited up to
// 2 ms for the watchdog's turn to end, and to untar, to copy up by chmod or append and
// to create files took 1.08 to 1.19 times as long. While many short programs are put
// here, as by a shell script, it may return some 10 ms late, once: it is crowded then.
func (t *together) spin(d time.Duration, done <-chan struct{}) (crowded bool) {
	start := time.Now()
	for last := start; ; {
		now := time.Now()
		if t.halt.Load() || now.Sub(last) > turnOfOthers {
			return true
		}
		if now.Sub(start) >= d {
			return false
		}
		last = now
		yield()
		select {
		case <-done:
			return false
		default:
		}
	}
}

// woken notes that the leader slept before a request, for a short time or not,
// and brings it to the program's processor if it mostly does. The more often that
// did not help, the longer it takes.
func (t *together) woken(short bool) {
	if !short || !t.spins.Load() {
		t.apart, t.far = 0, max(t.far-1, near)
		return
	}
	if t.apart++; t.apart >= t.far {
		t.apart, t.far = 0, min(2*t.far, farthest)
		changeProcessor()
	}
}

// changeProcessor moves the caller to the other one of two processors. It may be
// moved again, but from then on only between these two, if there should be more.
// It is a variable for tests.
var changeProcessor = func() {
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
