package fusedev

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// crowd tells whether several programs send requests at once, and whether a helper
// answers them beside the leader: a reader that never leads. A leader alone is one
// processor's work, and to hand a request over it must wake another reader; a
// helper is awake while there is something to read. Four clients on two processors
// take 0.92 times as long with it. One alone takes 1.1 times as long, so its
// requests, one after the other, are no crowd.
type crowd struct {
	met    atomic.Uint64 // requests that already waited, of another thread than the one before
	helped atomic.Uint64 // requests that the helper answered
	wanted atomic.Bool   // a helper is
	alive  atomic.Bool   // there is one
	level  int
}

// pidAt is where a struct fuse_in_header has the thread that sent the request, 0
// for the kernel itself, and for one that our process namespace does not have.
const pidAt = 32

// look takes a tick into account in which the leader answered so many requests. It
// returns how many were answered, and whether a helper shall begin. As with
// together, ticks of a flow raise the level if half of the requests are a crowd's,
// and lower it if less than a quarter are: without a helper it is 0.63 of two
// clients' and 0.83 of four's, with one 0.41 and 0.72.
func (c *crowd) look(led uint64) (requests uint64, begin bool) {
	requests, met := led+c.helped.Swap(0), c.met.Swap(0)
	switch {
	case requests < flow || met*4 < requests:
		c.level = max(c.level-ebb, 0)
	case met*2 >= requests:
		c.level = min(c.level+1, full)
	}
	switch {
	case c.level == full && processors > 1:
		c.wanted.Store(true)
	case c.level == 0:
		c.wanted.Store(false)
	}
	return requests, c.wanted.Load() && c.alive.CompareAndSwap(false, true)
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
	defer d.crowd.alive.Store(false)
	b, err := newBuffers(d.size)
	if err != nil {
		return // it goes without
	}
	defer b.free()
	var q queue
	for waited := false; d.crowd.wanted.Load(); {
		select {
		case <-d.done:
			return
		default:
		}
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
		default:
			d.unreadable(err)
			return
		}
	}
}
