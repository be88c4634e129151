// Package fusedev reads requests from an open /dev/fuse, hands them to a
// Handler, and writes its replies back; see fuse(4). What requests mean is the
// Handler's business.
//
// # Who reads
//
// Mostly one goroutine, the leader, reads the device and answers requests
// itself: most take a few microseconds, less than waking another thread. It
// polls the device for a moment before it sleeps, since most of a round trip
// is the waking of a sleeping processor; see pause, load and together.
//
// A leader that is kept by a request hands the lead over, so that others are
// answered meanwhile: beforehand, if the request says that it may take long, or
// earlier ones did and the next one is already there; else a watchdog takes the
// lead from it. Followers wait for the lead, and as many are started as that
// needs. (To hand it over always after slow requests would wake a thread for each
// of one program's, which come one after the other.)
package fusedev

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Handler answers requests, several at once.
type Handler interface {
	// Handle answers the request in, of which the header is part: it writes the
	// reply to the start of out and returns its length, 0 for none. It must not
	// keep the buffers. If rest is not nil, in ends behind the arguments of a
	// WRITE, and rest has what follows; what Handle leaves in it is dropped.
	Handle(in []byte, rest *Pipe, out []byte) int
	// MayTakeLong reports whether other requests should not wait for this one,
	// or must not, because it waits for them. slow says that earlier ones took
	// long, as on a disk.
	MayTakeLong(in []byte, slow bool) bool
}

const (
	// tick is how often the watchdog looks: it takes the lead from who answers
	// the same request when it looks again.
	tick = time.Millisecond
	// long is a time, to which a nanosecond is added for each byte carried, after
	// which the next requests are expected to wait for a disk, too, and wary how
	// many of them.
	long = 150 * time.Microsecond
	wary = 32
	// spare is how many followers wait for the lead, for a second; others end.
	spare = 2
	// dull is after how many looks without a request the watchdog sleeps.
	dull = 100
)

// headers is half of what the kernel wants a buffer to have at least,
// FUSE_MIN_READ_BUFFER.
const headers = 4096

// A Device is a connection to the kernel.
type Device struct {
	fd      int
	size    int // of a buffer
	handler Handler

	lead    chan struct{} // who receives from it has the lead
	done    chan struct{} // closed when there is nothing more to read
	end     sync.Once
	err     error          // why reading ended
	readers sync.WaitGroup // and the watchdog
	idle    atomic.Int32   // followers that wait
	slow    atomic.Int32   // requests for which the lead is handed over if need be
	doubt   atomic.Int32   // those that are watched for whether they sleep
	pause   pause          // the leader's

	turn   atomic.Uint64 // odd while the leader answers a request itself
	crowd  crowd
	asleep atomic.Bool // the watchdog sleeps
	wake   chan struct{}
}

// New returns the Device of the descriptor fd, which stays the caller's. A
// request or reply carries at most maxData bytes besides its headers.
func New(fd, maxData int, h Handler) *Device {
	return &Device{
		fd: fd, size: maxData + headers, handler: h,
		lead: make(chan struct{}), done: make(chan struct{}), wake: make(chan struct{}, 1),
	}
}

// Serve answers requests until the file system is unmounted everywhere, and
// returns when all are answered. It returns an error if the device fails.
func (d *Device) Serve() error {
	if err := unix.SetNonblock(d.fd, true); err != nil {
		return fmt.Errorf("/dev/fuse: %w", err)
	}
	d.readers.Go(d.watch)
	d.readers.Go(func() { d.read(true) })
	d.readers.Wait()
	return d.err
}

// read is the life of a reader: it waits for the lead and has it until it
// gives it up or loses it.
func (d *Device) read(leads bool) {
	b, err := newBuffers(d.size)
	if err != nil {
		d.finish(fmt.Errorf("memory for requests: %w", err))
		return
	}
	defer b.free()
	for leads || d.follow() {
		leads = false
		d.leadWith(b)
	}
}

// follow waits for the lead, and reports whether it came soon.
func (d *Device) follow() bool {
	// Who counts as waiting must wait: handOver relies on it.
	for {
		n := d.idle.Load()
		if n >= spare {
			return false
		}
		if d.idle.CompareAndSwap(n, n+1) {
			break
		}
	}
	timer := time.NewTimer(rest)
	defer timer.Stop()
	select {
	case <-d.lead:
		return true
	case <-d.done:
		return false
	case <-timer.C:
	}
	if d.unwait() {
		return false
	}
	select { // it is on its way
	case <-d.lead:
		return true
	case <-d.done:
		return false
	}
}

// unwait takes one from the followers that wait, unless all of those have been
// given the lead.
func (d *Device) unwait() bool {
	for n := d.idle.Load(); n > 0; n = d.idle.Load() {
		if d.idle.CompareAndSwap(n, n-1) {
			return true
		}
	}
	return false
}

// handOver gives the lead to a follower.
func (d *Device) handOver() {
	if !d.unwait() {
		d.readers.Go(func() { d.read(true) })
		return
	}
	select {
	case d.lead <- struct{}{}:
	case <-d.done:
	}
}

func (d *Device) finish(err error) {
	d.end.Do(func() {
		d.err = err
		close(d.done)
	})
}

// unreadable ends reading, since that failed so. Both are the end of the mount: the
// second is what the read gets that took a request from the queue just then
// (fuse_dev_do_read in fs/fuse/dev.c).
func (d *Device) unreadable(err error) {
	if err == unix.ENODEV || err == unix.ECONNABORTED {
		d.finish(nil)
		return
	}
	d.finish(fmt.Errorf("/dev/fuse: %w", err))
}

// leadWith reads and answers requests until the lead is another's, or there
// are none any more.
func (d *Device) leadWith(b *buffers) {
	for turn := d.turn.Load(); ; turn += 2 {
		in, rest, err := d.pause.read(d.fd, b)
		if err != nil {
			d.unreadable(err)
			return
		}
		start := time.Now()
		slow := d.slow.Load() > 0
		if long := d.handler.MayTakeLong(in, slow); long || slow && ready(d.fd) {
			if long {
				d.pause.together.halt.Store(true)
			}
			d.handOver()
			write(d.fd, d.handle(in, rest, b.out, start))
			return
		}
		d.pause.queue.note(&d.crowd, in, d.pause.waited)
		d.turn.Store(turn + 1)
		if d.asleep.Load() && d.asleep.CompareAndSwap(true, false) {
			d.wake <- struct{}{}
		}
		reply := d.handle(in, rest, b.out, start)
		// Before the reply is written: who gets it may have the processor next, and
		// the watchdog would take this for a request that takes long.
		leads := d.turn.CompareAndSwap(turn+1, turn+2)
		write(d.fd, reply)
		if !leads {
			return // the watchdog gave the lead to another
		}
	}
}

// handle lets the request be handled, and notes whether it took long. While all
// processors are busy, as they are with a helper, it counts only if it slept, too,
// since others may have had the processor: without that the lead went from thread
// to thread, and eight clients' work took 3.0 s instead of 2.8. To ask whether it
// slept takes half a microsecond, so only some are asked, after a long one.
func (d *Device) handle(in []byte, rest *Pipe, out []byte, start time.Time) (reply []byte) {
	carried := len(in)
	if rest != nil {
		carried += rest.n
		defer rest.drop()
	}
	busy := d.pause.load.busy.Load() || d.crowd.wanted.Load()
	doubt, slept := busy && d.doubt.Load() > 0, int64(0)
	if doubt {
		d.doubt.Add(-1)
		slept = sleeps()
	}
	n := d.handler.Handle(in, rest, out)
	tookLong := time.Since(start) > long+time.Duration(carried+n)
	if tookLong && (!busy || doubt && sleeps() != slept) {
		d.slow.Store(wary)
		return out[:n]
	}
	if tookLong {
		d.doubt.Store(wary)
	}
	if s := d.slow.Load(); s > 0 {
		d.slow.CompareAndSwap(s, s-1)
	}
	return out[:n]
}

// watch takes the lead from a leader that answers one request for too long, and
// looks at the load while there are requests. It may spin between its looks; see
// together.
func (d *Device) watch() {
	d.pause.load.open(loadavg, loadFS)
	defer d.pause.load.close()
	timer := time.NewTimer(tick)
	defer timer.Stop()
	var met uint64
	beside := &d.pause.together
	defer beside.end()
	for quiet := 0; ; quiet++ {
		crowded := false
		if beside.spins.Load() {
			crowded = beside.spin(tick, d.done)
		} else {
			timer.Reset(tick)
			select {
			case <-timer.C:
			case <-d.done:
			}
		}
		select {
		case <-d.done:
			return
		default:
		}
		turn := d.turn.Load()
		requests, helper := d.crowd.look((turn - met) / 2)
		if helper {
			d.readers.Go(d.help)
		}
		if processors == 2 {
			beside.look(requests, blocksRead(), crowded || d.crowd.wanted.Load() || !d.pause.load.free())
		}
		if turn != met || requests > 0 {
			quiet = 0
			if processors > 1 { // else nobody polls
				d.pause.load.look()
			}
		}
		if turn == met && turn%2 == 1 && d.turn.CompareAndSwap(turn, turn+1) {
			beside.halt.Store(true)
			d.handOver()
		}
		met = turn
		if quiet >= dull {
			d.pause.load.reset()
			if !d.sleep(turn) {
				return
			}
		}
	}
}

// sleep waits until the leader answers a request after turn, and reports
// whether that happened before the end.
func (d *Device) sleep(turn uint64) bool {
	d.asleep.Store(true)
	if d.turn.Load() != turn && d.asleep.CompareAndSwap(true, false) {
		return true
	}
	select {
	case <-d.wake:
		return true
	case <-d.done:
		return false
	}
}

// InvalidateInode lets the kernel write dirty pages of the node back and drop
// those that it caches of it. It waits for these writes, which are requests. It
// fails for a node that the kernel does not have.
func (d *Device) InvalidateInode(node uint64) error { return d.invalidate(node, 0) }

// InvalidateAttributes lets the kernel ask for the node's attributes when it
// needs them next. It fails for a node that the kernel does not have.
func (d *Device) InvalidateAttributes(node uint64) error { return d.invalidate(node, -1) }

// invalidate sends a struct fuse_out_header, with FUSE_NOTIFY_INVAL_INODE in
// place of an error and no request's number, and a struct
// fuse_notify_inval_inode_out, in which a length of 0 is the whole file behind
// offset, and a negative offset no data at all.
func (d *Device) invalidate(node uint64, offset int64) error {
	const code, size = 2, 40
	var b [size]byte
	binary.NativeEndian.PutUint32(b[0:], size)
	binary.NativeEndian.PutUint32(b[4:], code)
	binary.NativeEndian.PutUint64(b[16:], node)
	binary.NativeEndian.PutUint64(b[24:], uint64(offset))
	_, err := unix.Write(d.fd, b[:])
	return err
}
