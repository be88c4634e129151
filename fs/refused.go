package fs

import (
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"plash/union"
)

// When the disk refuses what the kernel had collected of a program's writes, the next
// write(2) to that file must fail: the kernel goes on collecting, and a program that
// writes until the disk is full would never end. Of a write(2) the server hears only if
// the kernel asks for attributes before, as it does once it has been told to forget
// them. It then says that it has the file open, as it does for reading past the end and
// for lseek(2), too, but for these only when the time that they may be cached for is
// over. So a request that comes earlier is for writing, and fails. (Before Linux 5.16,
// protocol 7.35, it asks for these, too: there it is not told to forget.)

const (
	// refusedFor is how long after a refusal a write fails for it. Who writes without
	// end meets others; who does not may have made room since then.
	refusedFor = time.Second
	// forgetDelay lets the kernel have the reply that it is to forget.
	forgetDelay = time.Millisecond
)

// tellWriter lets the next write(2) to n fail, as one that the kernel had collected
// was refused.
func (f *fileSystem) tellWriter(n *union.Node, st fuse.Status) {
	if f.minor < 35 {
		return
	}
	f.refused.add(n, refusal{status: st, free: f.free()})
	f.askAgain(n)
}

// told notes that the kernel is being told attributes of n. It must forget them again
// before the next write, if that is to fail.
func (f *fileSystem) told(n *union.Node) {
	if f.refused.told(n) {
		id, _ := n.ID()
		f.forget.add(id)
	}
}

// refusal returns what a request for n's attributes by who has it open must fail for,
// if anything, and forgets it. A disk on which there is more room now is full no more.
func (f *fileSystem) refusal(n *union.Node) fuse.Status {
	r := f.refused.take(n, f.cacheTime(n))
	full := r.status == fuse.Status(unix.ENOSPC) || r.status == fuse.Status(unix.EDQUOT)
	if full && f.free() > r.free {
		return fuse.OK
	}
	return r.status
}

// free returns how many blocks of the upper's file system are free, whoever may use
// them: it says nothing of quotas but what others than the file's owner free, too.
func (f *fileSystem) free() uint64 {
	var fs unix.Statfs_t
	if f.u.Statfs(&fs) != nil {
		return math.MaxUint64
	}
	return fs.Bfree
}

// refusals are the nodes to which a write was refused lately, but for those whose
// writers have been told.
type refusals struct {
	some atomic.Bool // there are any

	mu    sync.Mutex // guards what follows
	nodes map[nodeID]refusal
}

// A nodeID tells nodes that have the same number after each other apart.
type nodeID struct{ id, generation uint64 }

type refusal struct {
	status fuse.Status
	free   uint64    // see fileSystem.free, after it
	at     time.Time // when it was
	told   time.Time // when the kernel was last told attributes, since then
}

func (r *refusals) add(n *union.Node, x refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.nodes == nil {
		r.nodes = map[nodeID]refusal{}
	}
	x.at = time.Now()
	r.nodes[idOf(n)] = x
	r.forgetOld()
}

func idOf(n *union.Node) nodeID {
	id, generation := n.ID()
	return nodeID{id, generation}
}

// forgetOld keeps those that still count. mu is held.
func (r *refusals) forgetOld() {
	maps.DeleteFunc(r.nodes, func(_ nodeID, x refusal) bool { return time.Since(x.at) >= refusedFor })
	r.some.Store(len(r.nodes) > 0)
}

// told notes when the kernel was told attributes of n, and reports whether there is a
// refusal of it.
func (r *refusals) told(n *union.Node) bool {
	if !r.some.Load() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgetOld()
	x, is := r.nodes[idOf(n)]
	if is {
		x.told = time.Now()
		r.nodes[idOf(n)] = x
	}
	return is
}

// take removes that of n and returns it. There is none, whose status is OK, for who may
// be reading: attributes may be cached for the time cached, and it is not known that
// they have not been for longer.
func (r *refusals) take(n *union.Node, cached time.Duration) (none refusal) {
	if !r.some.Load() {
		return none
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgetOld()
	x, is := r.nodes[idOf(n)]
	if !is || cached < forever && time.Since(x.told) > cached/2 {
		return none
	}
	delete(r.nodes, idOf(n))
	r.forgetOld()
	return x
}
