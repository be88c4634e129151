package fusedev

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// crowd tells whether several programs send requests at once, and how many
// helpers answer them beside the leader: readers that never lead. A leader alone is
// one processor's work, and to hand a request to another reader costs the waking
// of it; a helper has none to wait for while there is something to read. Four clients
// on two processors take 0.92 times as long with a helper. One alone takes 1.1
// times as long, so its requests, one after the other, are no crowd.
type crowd struct {
	met    atomic.Uint64 // requests that already waited, of another thread than the one before
	helped atomic.Uint64 // requests that helpers answered
	wanted atomic.Int32  // helpers
	alive  atomic.Int32
	level  int
}

// As with together, ticks of a flow raise the level if half of the requests are a
// crowd's, and lower it if less than a quarter are: without a helper it is 0.63 of
// two clients' and 0.83 of four's, with one 0.41 and 0.72. At full a helper begins,
// at 0 one ends.
const (
	// mostHelpers is how many there may be, and one less than there are processors.
	// More than one have not been measured.
	mostHelpers = 3
	// pidAt is where a struct fuse_in_header has the thread that sent the request, 0
	// for the kernel itself, and for one that our process namespace does not have.
	pidAt = 32
)

// look takes a tick into account in which the leader answered so many requests. It
// returns how many were answered, and whether one more helper shall begin.
func (c *crowd) look(led uint64) (requests uint64, begin bool) {
	requests, met := led+c.helped.Swap(0), c.met.Swap(0)
	switch {
	case requests < flow || met*4 < requests:
		c.level = max(c.level-ebb, 0)
	case met*2 >= requests:
		c.level = min(c.level+1, full)
	}
	wanted := c.wanted.Load()
	switch {
	case c.level == full && int(wanted) < min(mostHelpers, processors-1):
		c.level /= 2
		c.wanted.Store(wanted + 1)
		// One that has not noticed yet that it was not wanted any more may go on.
		if c.alive.Load() <= wanted {
			c.alive.Add(1)
			return requests, true
		}
	case c.level == 0 && wanted > 0:
		c.wanted.Store(wanted - 1)
	}
	return requests, false
}

// ends reports whether a helper shall end, which it must then do.
func (c *crowd) ends() bool {
	for n := c.alive.Load(); n > c.wanted.Load(); n = c.alive.Load() {
		if c.alive.CompareAndSwap(n, n-1) {
			return true
		}
	}
	return false
}

// A queue is what a reader has seen of those who wait.
type queue struct {
	sender uint32 // of the last request
}

// note tells c of a request, and whether it had been waiting.
func (q *queue) note(c *crowd, in []byte, waited bool) {
	if len(in) < pidAt+4 {
		return
	}
	sender := binary.NativeEndian.Uint32(in[pidAt:])
	if sender == 0 {
		return
	}
	if waited && sender != q.sender {
		c.met.Add(1)
	}
	q.sender = sender
}

// help is the life of a helper: it answers requests until it is not needed any
// more, or there are none.
func (d *Device) help() {
	b, err := newBuffers(d.size)
	if err != nil {
		d.crowd.alive.Add(-1)
		return // the leader says so if it matters
	}
	defer b.free()
	var q queue
	for waited := false; !d.crowd.ends(); {
		n, err := tryRead(d.fd, b.in)
		switch err {
		case nil:
			start := time.Now()
			q.note(&d.crowd, b.in[:n], waited)
			d.crowd.helped.Add(1)
			write(d.fd, d.handle(b.in[:n], nil, b.out, start))
			waited = true
		case unix.EAGAIN:
			waited = false
			unix.Poll([]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}, int(rest/time.Millisecond))
		default: // the end, or an error that the leader sees, too
			return
		}
	}
}
